"""Many runs of one study over processes; each run's figures are kept, so that an interrupted study goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from controlkit.files import write_json
from controlkit.progress import Progress


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        name: of its file, unique in the study.
        log, seed: seed of the log, and of everything that is trained on it.
        settings: whatever else it depends on, plain values; figures of other settings are not taken for its own.
    """

    name: str
    log: int
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One number that a run found."""

    task: str
    method: str
    metric: str
    log: int
    seed: int
    value: float


# A run's figures: (task, method, metric, value) each; numbers that are none are left out.
Found = list[tuple[str, str, str, float]]
Work = Callable[[Job], Found]


def run_jobs(
    work: Work, jobs: Sequence[Job], out: Path, progress: Progress, workers: int | None = None
) -> list[Figure]:
    """Runs all jobs, one torch thread each.

    Args:
        work: a function of a module (it is sent to other processes).
        jobs: longest first, if they differ: what comes last is waited for.
        out: folder of the study; `parts/NAME.json` keeps each job's figures.
        progress: is told of each job.
        workers: processes; as many as there are cores where none is given. One works in this process.

    Returns:
        All figures, in the order of the jobs.
    """
    one = partial(_run_one, work, out / "parts")
    count = min(workers or os.cpu_count() or 1, len(jobs))
    progress.start("runs", len(jobs))
    found: dict[str, Found] = {}
    if count <= 1:
        for job in jobs:
            found[job.name] = one(job)
            progress.advance(note=job.name)
    else:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            pending = {pool.submit(one, job): job.name for job in jobs}
            try:
                for done in as_completed(pending):
                    found[pending[done]] = done.result()
                    progress.advance(note=pending[done])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [Figure(task, method, metric, job.log, job.seed, value) for job in jobs
            for task, method, metric, value in found[job.name]]  # fmt: skip


def _run_one(work: Work, folder: Path, job: Job) -> Found:
    import torch

    from controlkit.artifacts import commit

    torch.set_num_threads(1)
    kept = folder / f"{job.name}.json"
    key = {"log": job.log, "seed": job.seed, "settings": json.loads(json.dumps(job.settings)), "commit": commit()}
    if kept.is_file():
        part: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if all(part.get(name) == value for name, value in key.items()):
            return [(task, method, metric, value) for task, method, metric, value in part["figures"]]
    figures = [figure for figure in work(job) if abs(figure[3]) < float("inf")]  # neither NaN nor infinite
    write_json(kept, key | {"figures": figures})
    return figures
