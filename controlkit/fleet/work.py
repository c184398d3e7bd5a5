"""One plant of a fleet: ingest, train, evaluate, export, by the functions that the verbs of these names call.

A module-level function of plain values, so that a process of a cluster can call it. Everything is written below the
plant's own folder; what is there already and still right is not made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlkit.artifacts import RunFolder
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.dataset.transitions import TABLE
from controlkit.errors import ControlkitError
from controlkit.files import read_json, sha256_of
from controlkit.fleet.sources import content_of
from controlkit.fleet.stages import Stage, Stages
from controlkit.progress import Silent
from controlkit.runs.reported import WEIGHTS, read_reported
from controlkit.spec import PlantSpec

MAX_WARNINGS = 20
GO = "GO TO SHADOW"


@dataclass(frozen=True)
class Order:
    """What is to be done with a plant; plain values that survive the way to another machine.

    Attributes:
        name: of the plant.
        folder: where everything goes, absolute.
        plant, run: files, absolute, or names of shipped ones.
        sources: as ingest takes them, with absolute paths.
        overrides: of the run configuration: `section.field=value`.
        quick, seed, gamma: of the evaluation.
        key: file of the private key that signs; read where the work is done, never sent.
        track: address of an MLflow store.
    """

    name: str
    folder: str
    plant: str
    run: str
    sources: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    quick: bool = False
    seed: int = 0
    gamma: float | None = None
    key: str | None = None
    track: str | None = None


@dataclass
class _Plant:
    """A plant on its way, and what is known of it by now."""

    order: Order
    folder: Path
    stages: Stages
    progress: Silent = field(default_factory=Silent)
    found: dict[str, Any] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def stage(self, name: Stage, inputs: Mapping[str, Any] | None, work: Callable[[], list[Path]]) -> None:
        """Runs a stage unless it was done with the same inputs (`None`: they cannot be told).

        `work` does it and returns its chief files.
        """
        if inputs is not None and self.stages.is_done(name, inputs):
            return
        self.stages.begin(name)
        if name != "ingest":
            _discard(self.folder / "bundle")  # it would outlive the run that it was made from
        outputs = work()
        self.stages.finish(name, inputs or {}, outputs)
        self.done.append(name)


def run_plant(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Brings a plant up to date.

    Args:
        payload: the fields of `Order`.

    Returns:
        Plain values: the fields of `PlantRecord` but name, links and seconds. A stage that fails for a reason that a
        user can mend is told in them, with what there was before it.
    """
    order = Order(**payload)
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    plant = _Plant(order, folder, Stages(folder))
    stage: Stage = "check"
    try:
        plant.stages.begin(stage)
        spec = PlantSpec.load(found_file("plants", order.plant))
        config = RunConfig.load(found_file("runs", order.run), order.overrides)
        plant.found["plant"] = spec.name
        stage = "ingest"
        _ingest(plant, spec)
        stage = "train"
        run = _train(plant, config)
        stage = "evaluate"
        _evaluate(plant, run)
        stage = "export"
        _export(plant, run)
    except ControlkitError as problem:
        return _told(plant) | {"state": "failed", "stage": stage, "message": str(problem)}
    except OSError as problem:
        place = f"{problem.filename}: " if problem.filename else ""
        return _told(plant) | {"state": "failed", "stage": stage, "message": f"{place}{problem.strerror or problem}"}
    plant.stages.finish("check", {}, [])
    return _told(plant) | {"state": "done"}


def found_file(kind: str, place: str) -> Path:
    """A file by its absolute path, or a shipped preset by its name: never a file of the folder one happens to be in."""
    return Path(place) if Path(place).is_absolute() else config_path(kind, place)


def _ingest(plant: _Plant, spec: PlantSpec) -> None:
    from controlkit.ingest import ingest

    order, data = plant.order, plant.folder / "data"
    contents = [content_of(source) for source in order.sources]
    # A source whose content cannot be told is read again; the same data then repeat nothing after it.
    # A source whose content cannot be told is read again; where it gives the same data, nothing after it is repeated.
    inputs = None if None in contents else {"spec": spec.sha256(), "contents": contents}

    def work() -> list[Path]:
        ingest(spec, list(order.sources), data, progress=plant.progress)
        return [data / RECORD, data / TABLE]

    plant.stage("ingest", inputs, work)
    plant.found["data_sha256"] = read_json(data / RECORD)["data_sha256"]


def _train(plant: _Plant, config: RunConfig) -> RunFolder:
    from controlkit.morec.train import train

    data, path = plant.folder / "data", plant.folder / "run"
    record = read_json(data / RECORD)
    inputs = {"config": config.to_dict(), "data": record["data_sha256"], "spec": record["spec_sha256"]}

    def work() -> list[Path]:
        dataset = TransitionDataset.load(data)
        folder, fresh = _begun(path, config, record), False
        if folder is None:
            folder, fresh = RunFolder.create(path, config, dataset, record, replace=True), True
        with _tracking(plant, path, fresh):
            train(folder, dataset, plant.progress)
        return [path / WEIGHTS, path / "run.json"]

    plant.stage("train", inputs, work)
    return RunFolder.open(path)


def _evaluate(plant: _Plant, run: RunFolder) -> None:
    import torch

    from controlkit.evaluation import evaluate, write_report
    from controlkit.evaluation.candidates import of_run

    order = plant.order
    inputs = {
        "models": sha256_of(run.path / WEIGHTS),
        "data": plant.found["data_sha256"],
        "evaluate": [order.quick, order.seed, order.gamma],
    }

    def work() -> list[Path]:
        torch.set_num_threads(run.config.threads)
        dataset = TransitionDataset.load(plant.folder / "data")
        report = evaluate(
            [of_run(run)], dataset, quick=order.quick, progress=plant.progress, seed=order.seed, gamma=order.gamma
        )
        write_report(report, run.path)
        _record(plant, run.path)
        return [run.path / "report.json", run.path / "report.html"]

    plant.stage("evaluate", inputs, work)
    reported = read_reported(run.path)
    assert reported is not None
    plant.found |= {"verdict": reported.verdict, "gain": reported.gain}


def _export(plant: _Plant, run: RunFolder) -> None:
    from deploy.bundle.signing import load_private_key
    from deploy.export.exporter import export_bundle

    verdict, bundle = plant.found["verdict"], plant.folder / "bundle"
    if verdict != GO:
        plant.found["message"] = f"not exported: {verdict}"
        _discard(bundle)
        return
    key = None if plant.order.key is None else Path(plant.order.key)
    signer = None if key is None else load_private_key(key).public_key().public_bytes_raw().hex()
    inputs = {"models": sha256_of(run.path / WEIGHTS), "report": sha256_of(run.path / "report.json"), "signer": signer}

    def work() -> list[Path]:
        export_bundle(run, bundle, key=key, progress=plant.progress)
        _record(plant, run.path, bundle)
        signature = [bundle / "manifest.sig"] if signer else []
        return [bundle / "controller.onnx", bundle / "manifest.json", *signature]

    plant.stage("export", inputs, work)
    plant.found["bundle"] = True


def _begun(path: Path, config: RunConfig, record: Mapping[str, Any]) -> RunFolder | None:
    """A run with these settings and data that was begun and not ended, to go on with."""
    if not (path / "run.json").is_file():
        return None
    try:
        folder = RunFolder.open(path)
        folder.require_data(record, str(path))
        folder.require_config(config)
    except ControlkitError:
        return None
    return None if folder.trained else folder


def _tracking(plant: _Plant, run: Path, fresh: bool) -> Any:
    from controlkit.tracking import open_tracker, tracked

    tracker = None if plant.order.track is None else open_tracker(plant.order.track, run)
    return tracked(tracker, run, plant.progress, fresh=fresh)


def _record(plant: _Plant, run: Path, bundle: Path | None = None) -> None:
    if plant.order.track is None:
        return
    from controlkit.tracking import open_tracker, record_runs

    try:
        record_runs(open_tracker(plant.order.track, run), [run], plant.progress, bundle=bundle)
    except ControlkitError as problem:  # the work is done, and stays done
        plant.progress.message(f"Warning: not tracked: {problem}")


def _told(plant: _Plant) -> dict[str, Any]:
    return plant.found | {"done": tuple(plant.done), "warnings": tuple(plant.progress.messages[:MAX_WARNINGS])}


def _discard(bundle: Path) -> None:
    """Removes a bundle that no longer belongs to its run; anything else is left alone."""
    if (bundle / "manifest.json").is_file():
        shutil.rmtree(bundle)
