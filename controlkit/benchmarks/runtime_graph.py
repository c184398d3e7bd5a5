"""The controller's graph at the size of a real plant: its bundle, and how long one step takes on one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.artifacts import RunFolder
from controlkit.benchmarks.runtime_plant import LinearEnv, LinearOperator, linear_spec
from controlkit.config import RunConfig
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.files import read_json, write_json
from controlkit.morec.train import train
from controlkit.progress import Progress, Silent
from deploy.bundle import Bundle, load_bundle
from deploy.export.exporter import export_bundle
from deploy.runtime.session import ControllerSession

OVERRIDE = "benchmark of the runtime on a simulated linear plant: not evaluated"
GATE_INPUTS = 1000
WARM_UP_STEPS = 200
# Networks of the size that a plant needs, trained for a short while: what they know makes no step faster.
SETTINGS: dict[str, dict[str, Any]] = {
    "dynamics": {"members": 5, "elites": 5, "linear_members": 0, "max_epochs": 8},
    "reward": {
        "networks": 2, "updates": 150, "behaviour_updates": 150, "snapshots": 2, "distil_updates": 300,
    },
    "rollout": {"length": 10, "starts": 100, "every": 100},
    "policy": {"hidden": [256, 256], "updates": 100, "warm_start": 1500, "actor_learning_rate": 1e-3},
    "split": {"training": 0.6, "calibration": 0.3, "evaluation": 0.1},
}  # fmt: skip


def linear_log(period_s: float, rows: int, seed: int = 0) -> TransitionDataset:
    """A log of the linear plant under its restless operator, one episode."""
    spec, env = linear_spec(period_s), LinearEnv()
    operator = LinearOperator(0.15, np.random.default_rng([seed, 1]))
    frame, _ = env.reset(seed=seed)
    frames, actions = [frame], []
    for _ in range(rows):
        actions.append(operator.act(frame[None].astype(np.float64))[0])
        frame, *_ = env.step(actions[-1])
        frames.append(frame)
    return TransitionDataset.from_frames(
        spec,
        frames=np.array(frames[:-1], dtype=np.float32),
        actions=np.array(actions, dtype=np.float32),
        episode=np.zeros(rows, dtype=np.int64),
        time_ns=np.arange(rows, dtype=np.int64) * round(period_s * 1e9),
        sources={"linear": f"{seed:064d}"},
    )


def linear_bundle(
    folder: Path,
    period_s: float,
    layers: int,
    *,
    rows: int = 6000,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Trains and exports a controller of the linear plant, or reads what an earlier call left in the folder.

    Args:
        folder: of data, run and bundle.
        period_s: of the plant.
        layers: of 200 each of the ensemble's members.
        rows: of the log.
        settings: fields of the run configuration by section, on top of `SETTINGS`.
        progress: is told of training and export.
    """  # fmt: skip
    if not (folder / "bundle" / "manifest.json").is_file():
        progress = progress or Silent()
        data = linear_log(period_s, rows)
        data.save(folder / "data")
        given: dict[str, Any] = {name: dict(section) for name, section in SETTINGS.items()}
        given["dynamics"]["hidden"] = [200] * layers
        for name, section in (settings or {}).items():
            given[name] |= section
        config = RunConfig.from_dict(given | {"threads": 1})
        run = RunFolder.create(folder / "run", config, data, read_json(folder / "data" / RECORD), replace=True)
        train(run, data, progress)
        write_json(run.path / "report.json", {"schema": 1, "verdict": "NO VERDICT"})
        export_bundle(
            run, folder / "bundle", override=OVERRIDE, progress=progress, parity_inputs=GATE_INPUTS,
            fuzz_inputs=GATE_INPUTS,
        )  # fmt: skip
    return load_bundle(folder / "bundle")


def step_ms(bundle: Bundle, steps: int) -> npt.NDArray[np.float64]:
    """(steps,) milliseconds of each step on fresh samples of the plant, one after the other as in a loop."""
    session, env = ControllerSession(bundle), LinearEnv()
    frame, _ = env.reset(seed=1)
    command: Any = session.safe
    taken = np.empty(steps)
    for index in range(-WARM_UP_STEPS, steps):
        began = time.perf_counter_ns()
        result = session.step(frame, act_prev=command)
        if index >= 0:
            taken[index] = (time.perf_counter_ns() - began) / 1e6
        command = result.action
        frame, *_ = env.step(command)
    return taken


def bundle_bytes(bundle: Bundle) -> int:
    """Size of a bundle's folder."""
    return sum(path.stat().st_size for path in bundle.path.iterdir())
