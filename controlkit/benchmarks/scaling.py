"""The suite `scaling`: what more than one worker brings.

Tasks:
- `sweep`: a sweep of 8 short runs (training and quick evaluation on a log of the refrigerator) with one Ray worker and
  with two, one thread each. `speedup` is the ratio of the times from the first run's submission to the last one's end;
  what the final report takes, which one process makes, is told apart. `task_overhead_s` is what a run costs beyond its
  own work: the time of the sweep on one worker less the seconds that the runs measured, per run; with it comes what the
  first run waits for its process.

- `growth`, `growth-quick`, `growth-tags`, `workers`: how ingest and training grow with the data, see `growth.py`; they
  are measured where they are named.

Ray's own start is a figure of its own. Timings mean something only on a machine that does nothing else.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import commit
from controlkit.benchmarks.growth import TASKS as GROWTH
from controlkit.benchmarks.growth import measure_growth
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.cluster import connect
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_text
from controlkit.ingest import ingest
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec
from controlkit.sweeps.ledger import Ledger
from controlkit.sweeps.plan import make_plan
from controlkit.sweeps.running import run_plan
from controlkit.sweeps.settings import parse_grid
from controlkit.sweeps.table import RunTable
from envs.collect import collect

SUITE, PLANT = "scaling", "refrigerator"
TASKS = ("sweep",)
# metric -> (goal, whether more is better); the others have none
GOALS = {"speedup": (1.7, True), "task_overhead_s": (3.0, False)}


@dataclass(frozen=True)
class Sizes:
    """How large the sweep is.

    Attributes:
        grid: its settings. seeds: of each. workers: of the second sweep; the first has one.
        episodes: of the log. settings: of every run, beside the shipped preset's.
    """

    grid: tuple[str, ...] = ("policy.behaviour_anchor=0,0.2,0.5,1",)
    seeds: int = 2
    workers: int = 2
    episodes: int = 1
    settings: tuple[str, ...] = (
        "dynamics.architecture=window",
        "dynamics.hidden=[32]",
        "dynamics.max_epochs=3",
        "reward.method=noise",
        "reward.coordinates=change",
        "reward.networks=1",
        "reward.snapshots=1",
        "reward.hidden=[32]",
        "reward.updates=200",
        "reward.behaviour_updates=100",
        "reward.distil=false",
        "rollout.starts=50",
        "policy.inputs=all",
        "policy.updates=400",
    )


SIZES = Sizes()


def run_suite(out: Path, seeds: int, progress: Progress, *, tasks: Sequence[str] = (), sizes: Sizes = SIZES) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json` and `table.md`.
        seeds: how often each sweep is timed.
        progress: is told of each sweep.
        tasks: which; those of `TASKS` where none is named.
        sizes: of the sweep.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task, a machine of too few cores, or a run that failed.
    """
    for name in tasks:
        if name not in (known := (*TASKS, *GROWTH)):
            raise ControlkitError(f"unknown '{name}'", where="benchmark scaling --tasks", cure=nearest(name, known))
    grown = measure_growth(out, [name for name in tasks if name in GROWTH], progress)
    if tasks and "sweep" not in tasks:
        return _written(out, grown)
    if (os.cpu_count() or 1) < sizes.workers:
        raise ControlkitError(
            f"{sizes.workers} workers need as many cores", where="benchmark scaling", cure="Take a larger machine."
        )
    with tempfile.TemporaryDirectory(prefix="controlkit-scaling-") as folder:
        data = _data(Path(folder), sizes)
        sha256 = str(read_json(data / RECORD)["data_sha256"])
        progress.start("sweeps", 2 * seeds)
        began, timed = time.monotonic(), []
        for number in range(seeds):
            pair = []
            for workers in (1, sizes.workers):
                pair.append(_timed(Path(folder) / f"{number}-{workers}", data, workers, sizes))
                progress.advance(note=f"{workers} worker{'s' if workers > 1 else ''}: {pair[-1].seconds:.1f} s")
            timed.append(pair)
    seconds = time.monotonic() - began
    records = [
        Record(SUITE, "sweep", method, metric, value, error, seeds, 0, seconds, commit(), sha256, machine())
        for method, metric, value, error in _figures(timed, sizes)
    ]
    return _written(out, [*records, *grown])


def _written(out: Path, records: Sequence[Record]) -> str:
    write_results(out, records)
    table = _table(records)
    write_text(out / "table.md", table)
    return table


@dataclass(frozen=True)
class Timed:
    """A sweep's times in seconds: all runs, each run by its own clock, Ray's start, until the first run began."""

    seconds: float
    runs: tuple[float, ...]
    start: float
    first: float


class _Clocked(RunTable):
    """A table that keeps when the first run began."""

    first: float | None = None

    def tell(self, event: Any, record: Any = None) -> str:
        if self.first is None:
            self.first = time.monotonic()
        return super().tell(event, record)


def _timed(folder: Path, data: Path, workers: int, sizes: Sizes) -> Timed:
    config = RunConfig.load(config_path("runs", PLANT), sizes.settings)
    plan = make_plan(config, parse_grid(sizes.grid), read_json(data / RECORD), seeds=sizes.seeds)
    ledger, table = Ledger(folder, plan), _Clocked(plan.total)
    start = time.monotonic()
    with connect(cores=workers) as cluster:
        began = time.monotonic()
        records = run_plan(ledger, data, lambda: nullcontext(cluster), table, lambda line: None, retries=0)
        ended = time.monotonic()
    for record in records:
        if record.state != "done":
            raise ControlkitError(f"{record.state}: {record.message}", where=f"benchmark scaling, run {record.name}")
    seconds = tuple(record.seconds for record in records)
    return Timed(ended - began, seconds, began - start, (table.first or ended) - began)


def _data(folder: Path, sizes: Sizes) -> Path:
    log = collect(PLANT, folder / "log.csv", episodes=sizes.episodes, seed=0, progress=Silent())
    ingest(PlantSpec.load(config_path("plants", PLANT)), [log.path], folder / "data", progress=Silent())
    return folder / "data"


def _figures(timed: Sequence[Sequence[Timed]], sizes: Sizes) -> list[tuple[str, str, float, float]]:
    """(method, metric, mean, standard error) over the repetitions."""
    found = []

    def add(method: str, metric: str, values: Sequence[float]) -> None:
        spread = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        found.append((method, metric, float(np.mean(values)), spread))

    many = f"{sizes.workers} workers"
    add(many, "speedup", [one.seconds / other.seconds for one, other in timed])
    add("1 worker", "task_overhead_s", [(one.seconds - sum(one.runs)) / len(one.runs) for one, _ in timed])
    for method, column in (("1 worker", 0), (many, 1)):
        add(method, "sweep_s", [pair[column].seconds for pair in timed])
        add(method, "run_s", [float(np.mean(pair[column].runs)) for pair in timed])
        add(method, "first_run_after_s", [pair[column].first for pair in timed])
        add(method, "ray_start_s", [pair[column].start for pair in timed])
    return found


def _table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        goal, more = GOALS.get(record.metric, (None, True))
        verdict = "" if goal is None else f"{'at least' if more else 'at most'} {goal:g}"
        rows.append(
            (
                record.metric,
                f"{record.method}{'' if record.task == 'sweep' else f', {record.task}'}",
                f"{record.value:.3g} ± {record.stderr:.2g}",
                verdict,
            )
        )
    return markdown_table(("metric", "method", "value", "goal"), rows)
