"""The plants of the suite `detection`: how each is trained and exported, and what it is watched on afterwards.

A run is trained by its task's shipped configuration on a log of its own, exported, and kept: the checks of the exported
graph are the subject, not the policy, so that the run is not evaluated (the bundle says so) and the export gates look
at fewer inputs than they do by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controlkit.artifacts import RunFolder
from controlkit.benchmarks.suite_data import data_file
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_json
from controlkit.ingest import ingest
from controlkit.morec.train import train
from controlkit.progress import Progress, Silent
from deploy.bundle import Bundle, load_bundle
from deploy.export.exporter import export_bundle
from deploy.export.graph import ControllerGraph
from envs.collect import collect
from envs.simulation import Floats
from envs.tasks import get_task

OVERRIDE = "benchmark of the checks on a simulator: not evaluated"
GATE_INPUTS = 2000
NOISE_SEED = 940_000


@dataclass(frozen=True)
class DetectionPlant:
    """A plant of the suite.

    Attributes:
        task: name in `envs.tasks`; run: of the shipped run configuration.
        warm_up, starts: periods before a fault may begin, and within which it does.
        horizon: periods that it is watched for.
        healthy_steps: of a healthy trajectory.
        healthy, faulty, streams: trajectories of each kind and seed; streams of a historian, at each deadband.
        seeds: at most; training them costs minutes.
        episodes: of the log that is collected, where there is no released one.
        released, held_out: the released file to train on, and the one that stands for the operator's log in SHADOW.
        recalibration: scored steps of a recalibration in SHADOW; 0 where trajectories are too short for one.
        noise: standard deviation that is added to every state tag, in the log and on the plant: that of sensors, where
            the benchmark's are exact (engineering units).
        changed: the constant that can be changed, see `detection_sources.CHANGES`; empty where there is none.
        settings: overrides of the run configuration.
    """

    task: str
    run: str
    warm_up: int
    starts: int
    horizon: int
    healthy_steps: int
    healthy: int = 100
    faulty: int = 50
    streams: int = 50
    seeds: int = 1
    episodes: int = 10
    released: str = ""
    held_out: str = ""
    recalibration: int = 500
    noise: float = 0.0
    changed: str = ""
    settings: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Of a trajectory with a fault."""
        return self.warm_up + self.starts + self.horizon

    def require_data(self) -> None:
        """Checks that its released files are there.

        Raises:
            ControlkitError: one is not.
        """
        for name in (self.released, self.held_out):
            if name:
                data_file(name)


@dataclass(frozen=True)
class Prepared:
    """A trained and exported controller.

    Attributes:
        bundle: as an edge box loads it.
        graph: the same graph in torch, for batches.
        sigma: (n,) noise of the frame tags: robust standard deviation (1.4826 MAD) of the one-step residuals of the
            elites' mean on hold-out rows; NaN for tags that the model does not predict.
        config: of the run, complete.
        data_sha256: of the data it was trained on.
        seconds: of training.
    """

    bundle: Bundle
    graph: ControllerGraph
    sigma: Floats
    config: RunConfig
    data_sha256: str
    seconds: float


def get_plant(name: str) -> DetectionPlant:
    """A plant by its name.

    Raises:
        ControlkitError: there is none; names the nearest.
    """
    if name not in PLANTS:
        raise ControlkitError(f"unknown '{name}'", where="benchmark detection --tasks", cure=nearest(name, PLANTS))
    return PLANTS[name]


def prepare(plant: DetectionPlant, seed: int, folder: Path, progress: Progress | None = None) -> Prepared:
    """Trains and exports, or reads what an earlier call left in the folder.

    Raises:
        ControlkitError: the released data are not there, or a step of the pipeline fails.
    """
    progress = progress or Silent()
    config = RunConfig.load(config_path("runs", plant.run), (*plant.settings, f"seed={seed}", "threads=1"))
    if not _is_kept(folder, config):
        data = _data(plant, seed, folder)
        run = RunFolder.create(folder / "run", config, data, read_json(folder / "data" / RECORD), replace=True)
        train(run, data, progress)
        write_json(run.path / "report.json", {"schema": 1, "verdict": "NO VERDICT"})
        export_bundle(
            run, folder / "bundle", override=OVERRIDE, progress=progress, parity_inputs=GATE_INPUTS,
            fuzz_inputs=GATE_INPUTS,
        )  # fmt: skip
    return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """Reads the folders `run` and `bundle` that training and export left."""
    run, bundle = RunFolder.open(folder / "run"), load_bundle(folder / "bundle")
    models, manifest = run.load_models(), bundle.manifest
    graph = ControllerGraph(bundle.spec, models, manifest.thresholds, manifest.safety)
    residuals = models.residuals.double().numpy()  # (R, S)
    centred = np.abs(residuals - np.median(residuals, axis=0))
    sigma = np.full(len(bundle.layout.frame_tags), np.nan)
    sigma[bundle.layout.state_columns] = 1.4826 * np.median(centred, axis=0)
    return Prepared(bundle, graph, sigma, run.config, run.data["data_sha256"], float(run.state["seconds"]))


def _is_kept(folder: Path, config: RunConfig) -> bool:
    manifest = folder / "bundle" / "manifest.json"
    return manifest.is_file() and RunFolder.open(folder / "run").config.to_dict() == config.to_dict()


def _data(plant: DetectionPlant, seed: int, folder: Path) -> TransitionDataset:
    task, target = get_task(plant.task), folder / "data"
    if plant.released:
        source = data_file(plant.released)
    else:
        source = collect(task, folder / "log.csv", episodes=plant.episodes, seed=seed).path
    data = ingest(task.spec(), [source], target).dataset
    if not plant.noise:
        return data
    states = np.isin(np.arange(len(data.layout.frame_tags)), data.layout.state_columns)  # (n,)
    drawn = np.random.default_rng([NOISE_SEED, seed]).standard_normal(data.frames.shape)
    frames = data.frames + np.where(states, plant.noise, 0.0) * drawn
    data = TransitionDataset.from_frames(
        data.spec,
        frames=frames.astype(np.float32),
        actions=np.array(data.actions),
        episode=np.array(data.episode),
        time_ns=np.array(data.time_ns),
        sources=data.sources,
    )
    data.save(target)
    return data


# DMSD's sensors are exact: without any there is no noise to take multiples of, and export's gates refuse the graph.
PLANTS = {
    "refrigerator": DetectionPlant(
        task="refrigerator",
        run="refrigerator",
        warm_up=100,
        starts=200,
        horizon=200,
        healthy_steps=2000,
        seeds=3,
        changed="leak",
    ),
    "dmsd": DetectionPlant(
        task="dmsd",
        run="dmsd",
        warm_up=10,
        starts=30,
        horizon=60,
        healthy_steps=100,
        healthy=500,
        faulty=100,
        recalibration=0,
        noise=0.01,
        released="neorl2/DMSD-train.npz",
        held_out="neorl2/DMSD-val.npz",
        changed="damping",
    ),
}
