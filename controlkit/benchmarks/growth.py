"""How the cost of ingest and training grows with rows and tags, and which resource each stage is bound by.

Every point runs in a process of its own (`growth_point.py`). Processor seconds are the figure that other work on the
machine disturbs least; a stage that waits shows it by a small share of the processor, one that is bound by the disk by
its bytes per second.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlkit.artifacts import commit
from controlkit.benchmarks.results import Record, machine
from controlkit.errors import ControlkitError
from controlkit.files import read_json, write_json
from controlkit.progress import Progress

SUITE = "scaling"
ROWS = (100_000, 1_000_000, 10_000_000)
TAGS = (10, 50, 250)
# task -> its points: what is measured, rows, tags (0: the task's own), workers
Point = tuple[str, int, int, int]
TASKS: Mapping[str, tuple[Point, ...]] = {
    "growth-quick": tuple((kind, rows, 0, 1) for kind in ("ingest", "train") for rows in ROWS[:2]),
    "growth": tuple((kind, rows, 0, 1) for kind in ("ingest", "train") for rows in ROWS),
    "growth-tags": tuple(("ingest", 2_000_000, tags, 1) for tags in TAGS),
    "workers": tuple(("ingest", ROWS[2], 0, workers) for workers in (1, 2)),
}


def measure_growth(out: Path, tasks: Sequence[str], progress: Progress) -> list[Record]:
    """Measures the points of tasks; those that are measured already are read again.

    Args:
        out: folder; single points lie in `growth/`.
        tasks: of `TASKS`.
        progress: is told of each point.

    Raises:
        ControlkitError: a point failed.
    """
    if not tasks:
        return []
    points = list(dict.fromkeys(point for task in tasks for point in TASKS[task]))
    records: list[Record] = []
    progress.start("growth", len(points))
    for point in points:
        part = out / "growth" / f"{_name(point).replace(' ', '-')}.json"
        if not part.is_file():
            began = time.monotonic()
            found = _run(point, out / "growth" / "work")
            stamp = {"wall": time.monotonic() - began, "commit": commit(), "machine": machine()}
            write_json(part, found | stamp)
        records += records_of(point, read_json(part))
        progress.advance(note=_name(point))
    shutil.rmtree(out / "growth" / "work", ignore_errors=True)
    return records


def records_of(point: Point, found: Mapping[str, Any]) -> list[Record]:
    """The figures of a point: per stage and unit of work, the share of a processor, and the peak of memory."""
    figures: list[tuple[str, str, float]] = [("all", "peak_mb", found["peak_mb"])]
    every = [*found["stages"].items(), ("all", _sum(found["stages"].values()))]
    for stage, used in every:
        units = found["units"].get(stage, point[1])
        what = "update" if point[0] == "train" and stage == "policy" else "row"
        seconds = max(used["seconds"], 1e-9)
        figures += [
            (stage, f"cpu_us_per_{what}", 1e6 * used["cpu_s"] / units),
            (stage, f"us_per_{what}", 1e6 * used["seconds"] / units),
            (stage, "processors", used["cpu_s"] / seconds),
            (stage, f"bytes_per_{what}", used["bytes"] / units),
            (stage, "disk_mb_per_s", used["disk_bytes"] / seconds / 1e6),
        ]
    return [
        Record(
            suite=SUITE, task=_name(point), method=stage, metric=metric, value=value, stderr=0.0, seeds=1, episodes=1,
            seconds=found["wall"], commit=found["commit"], data_sha256="", machine=found["machine"],
        )
        for stage, metric, value in figures
    ]  # fmt: skip


def _name(point: Point) -> str:
    kind, rows, tags, workers = point
    more = f" tags={tags}" * bool(tags) + f" workers={workers}" * (workers > 1)
    return f"{kind} rows={rows}{more}"


def _sum(stages: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for used in stages:
        for name, value in used.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _run(point: Point, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    kind, rows, tags, workers = point
    found: dict[str, Any] = {}
    for _ in range(2):  # the first process may do no more than make the data
        command = [sys.executable, "-m", "controlkit.benchmarks.growth_point", kind]
        command += [str(rows), str(tags), str(workers), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
            raise ControlkitError(f"failed: {reason}", where=_name(point), cure="Is there memory and disk enough?")
        found = json.loads(done.stdout.splitlines()[-1])
        if found:
            break
    return found
