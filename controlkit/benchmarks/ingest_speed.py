"""How fast the ingest is and how much memory it takes, beside pandas and bare joins; and how fast the edge's form is.

Each method runs in a process of its own. `csv` is timed up to the usable samples (parsing and quality), `parquet` up to
the data set on disk. Where both controlkit and pandas have run, their results must be the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.benchmarks.ingest_log import Form, plant, write_log
from controlkit.errors import ControlkitError
from controlkit.online import OnlineAligner, OnlineCommands
from controlkit.progress import Progress
from controlkit.spec import PlantSpec

METHODS = ("controlkit", "pandas", "duckdb_asof")
# task -> rows of each form of the log
SIZES: dict[str, dict[Form, int]] = {
    "ingest-csv": {"csv": 10_000_000},
    "ingest-grid": {"parquet": 50_000_000},
    "ingest-200m": {"parquet": 200_000_000},
    "ingest-quick": {"csv": 500_000, "parquet": 500_000},
}
METRIC: dict[Form, str] = {"csv": "ingest_csv_rows_per_s", "parquet": "ingest_grid_rows_per_s"}
ONLINE_TAGS, ONLINE_SAMPLES = 100, 500


def measure_ingest(folder: Path, task: str, method: str, rounds: int, progress: Progress) -> dict[str, list[float]]:
    """Ingests a task's logs by one method.

    Args:
        folder: for the logs, which are made where they are missing, and for what the methods make of them.
        task: one of `SIZES`.
        method: one of `METHODS`.
        rounds: how often.
        progress: is told of each round.

    Returns:
        Metric -> figure of each round.

    Raises:
        ControlkitError: the method failed, or its result is not that of the other one.
    """
    found: dict[str, list[float]] = {}
    progress.start(f"{task}, {method}", rounds * len(SIZES[task]))
    for form, rows in SIZES[task].items():
        log = write_log(folder, rows, form)
        made = {name: folder / f"{log.path.name}-{name}" for name in METHODS}
        for _ in range(rounds):
            _remove(made[method])
            took = _run(method, log.path, made[method])
            seconds = took["judged_s"] if form == "csv" else took["seconds"]
            found.setdefault(METRIC[form], []).append(log.rows / seconds)
            found.setdefault("ingest_peak_mb", []).append(took["peak_mb"])
            progress.advance(note=f"{log.rows / seconds:,.0f} rows/s, {took['peak_mb']:,.0f} MB")
        _remove(made["duckdb_asof"])
        if made["controlkit"].exists() and made["pandas"].exists():
            require_same(made["controlkit"], made["pandas"])
    return found


def require_same(dataset: Path, frame: Path) -> None:
    """That a data set holds what pandas makes of the same log.

    All but the commands is the same to the last bit; their means are summed up in another order.

    Raises:
        ControlkitError: it does not.
    """
    import pandas as pd

    from controlkit.dataset import TransitionDataset

    data, table = TransitionDataset.load(dataset), pd.read_parquet(frame)
    tags, actions = list(data.spec.frame_tags), list(data.spec.action_tags)
    pairs: dict[str, tuple[Any, Any]] = {
        "time_ns": (data.time_ns, table["t"]),
        "episode": (data.episode, table["episode"]),
        "frames": (data.frames, table[tags]),
        "age_s": (data.age_s, table[[f"{tag}.age" for tag in tags]].astype("float32")),
        "changed": (data.changed, table[[f"{tag}.changed" for tag in actions]]),
        "actions": (data.actions, table[actions]),
        "rewards": (data.rewards, table["reward"]),
    }
    for name, (mine, other) in pairs.items():
        theirs, close = other.to_numpy(), name in ("actions", "rewards")
        same = mine.shape == theirs.shape and (
            np.allclose(mine, theirs, rtol=1e-6, atol=1e-5, equal_nan=True) if close else np.array_equal(mine, theirs)
        )
        # Whether a command changed in an episode's last row says nothing: there is no step after it.
        if name == "changed" and mine.shape == theirs.shape:
            same = np.array_equal(mine[np.isfinite(data.rewards)], theirs[np.isfinite(data.rewards)])
        if not same:
            raise ControlkitError(
                f"controlkit and pandas differ in '{name}': {mine.shape} and {theirs.shape}",
                where=f"{dataset} and {frame}",
                cure="One of them is wrong: their speeds cannot be compared.",
            )


def measure_online(tags: int = ONLINE_TAGS, samples: int = ONLINE_SAMPLES, rounds: int = 3) -> list[float]:
    """Microseconds that a sample of all tags, a tenth of them commands, takes from arrival to frame: (rounds,)."""
    rng = np.random.default_rng(0)
    measured, commands = tags - tags // 10, tags // 10
    spec = _wide_plant(measured, commands)
    period = round(spec.period_s * 1e9)
    value = rng.normal(size=(samples, measured))
    good = rng.random((samples, measured)) >= 0.01
    late = rng.integers(0, period // 2, (samples, measured))
    names = spec.action_tags
    found = []
    for _ in range(rounds):
        aligner, orders = OnlineAligner(spec), OnlineCommands(spec)
        began = time.perf_counter()
        for k in range(samples):
            now = k * period
            aligner.push_many(now - late[k], value[k], good[k])
            for i, name in enumerate(names):
                orders.push(name, now - period, float(value[k, i]))
            aligner.frame(now)
            orders.over_period(now)
        found.append((time.perf_counter() - began) / samples * 1e6)
    return found


def _wide_plant(measured: int, commands: int) -> PlantSpec:
    base = plant().to_dict()
    state = {"role": "state", "unit": "degC", "range": [-100, 200], "frozen": {"after_s": 30}}
    action = {"role": "action", "unit": "%", "range": [-100, 100], "safe": 0, "fallback": {"kind": "hold"}}
    kinds = [state | {"interpolation": "linear" if i % 5 == 1 else "step"} for i in range(measured)]
    tags = {f"t{i:02}": kind for i, kind in enumerate(kinds)} | {f"u{i}": action for i in range(commands)}
    return PlantSpec.from_dict(base | {"tags": tags})


def _run(method: str, log: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "controlkit.benchmarks.ingest_methods", method, str(log), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
        raise ControlkitError(f"{method} failed: {reason}", where=str(log), cure="Is there memory and disk enough?")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
