"""The study *cost*: what a policy for DMSD (NeoRL-2) costs and scores, beside TD3+BC and CQL of d3rlpy.

All contenders are given the same number of gradient steps, 20 000, on the released data, and one thread. First their
speed is measured: short blocks of gradient steps (with the model rollouts, where there are some), one contender after
the other, round by round, so that whatever else the machine does falls on all. Then each is trained whole, in a process
of its own, and scored on 100 fresh episodes of the true plant. A contender whose steps would take more than 20 minutes
gets as many as 20 minutes allow; the table says how many.

d3rlpy lives in a virtual environment of its own (see `benchmarks/peer.py`). It knows neither the reward's formula nor
which columns are exogenous; `morec, rewards only` has no formula either.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import commit
from controlkit.benchmarks.neorl2 import EPISODES, PUBLISHED
from controlkit.benchmarks.peer import D3RLPY, peer_python
from controlkit.benchmarks.results import Record, machine, write_results
from controlkit.benchmarks.suite_data import data_file, recorded_reward
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_json, write_text
from controlkit.ingest import ingest
from controlkit.progress import Progress
from controlkit.studies.cost_report import cost_table, plot_cost, results_csv
from controlkit.studies.cost_runs import (
    FILE,
    OURS,
    PEER_BATCH,
    PEERS,
    TASK,
    CostJob,
    contenders,
    kept_figures,
    open_peer,
    run_cost_job,
)
from controlkit.studies.cost_speed import BLOCKS, OurUpdates
from envs.tasks import get_task

SUITE, TASK_NAME = "cost", "DMSD"
UPDATES = 20_000
LONGEST_S = 1200.0
ROUNDS = 5


@dataclass(frozen=True)
class Effort:
    """How much is done: gradient steps of a training, seconds that they may take, timed rounds, workers that train side
    by side, and overrides of the run configuration."""

    updates: int = UPDATES
    longest_s: float = LONGEST_S
    rounds: int = ROUNDS
    settings: tuple[str, ...] = ()


def run_study(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    methods: Sequence[str] = (),
    workers: int | None = None,
    effort: Effort | None = None,
) -> str:
    """Runs the study.

    Args:
        out: folder for `results.csv`, `results.json`, `table.md`, a plot, the single runs' figures, and the peer's
            virtual environment unless CONTROLKIT_PEER_PYTHON names one.
        seeds: trainings per contender.
        progress: is told of each round and training.
        methods: contenders; all where none is named.
        workers: trainings side by side; as many as there are processors where not given.
        effort: how much is done.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown contender, the released data is not there, or the peer cannot be had.
    """
    known = (*OURS, *PEERS)
    for name in methods:
        if name not in known:
            raise ControlkitError(f"unknown '{name}'", where=f"study {SUITE}", cure=nearest(name, known))
    began, effort, chosen = time.monotonic(), effort or Effort(), contenders(methods)
    data_file(FILE)  # what is missing is said at once
    python = peer_python((out / "peer").resolve()) if any(name in PEERS for name in chosen) else Path()
    speed = _speed(out, chosen, python, effort, progress)
    count = min(workers or os.cpu_count() or 1, len(chosen) * seeds)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            CostJob(
                name,
                seed,
                affordable(effort.updates, statistics.median(speed["steps_per_s"][name]), effort.longest_s),
                folder,
                str(python),
                str(out / "parts" / f"{_file_name(name)}-{seed}.json"),
                commit(),
                effort.settings,
            )
            for name in reversed(chosen)  # the slow ones first
            for seed in range(seeds)
        ]
        parts = _train(jobs, Path(folder), count, progress)
    parts.sort(key=lambda part: (chosen.index(part["method"]), part["seed"]))
    records = _records(chosen, parts, speed, round(time.monotonic() - began, 1))
    write_results(out, records)
    write_text(out / "results.csv", results_csv(parts, speed))
    plot_cost(out / "cost.png", records, chosen)
    table = cost_table(records, chosen) + _note(parts, speed, count)
    write_text(out / "table.md", table)
    return table


def _train(jobs: Sequence[CostJob], folder: Path, count: int, progress: Progress) -> list[dict[str, Any]]:
    """The figures of all jobs; what is there already is not done again."""
    found = [kept_figures(job) for job in jobs]
    progress.start("trainings", len(jobs))
    progress.advance(sum(part is not None for part in found))
    missing = [job for job, part in zip(jobs, found, strict=True) if part is None]
    if any(job.method in OURS for job in missing):
        _ingest_both(folder)
    made: list[dict[str, Any]] = []
    if missing:
        # A fresh process each, whose memory is its own.
        with ProcessPoolExecutor(count, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            for part in pool.map(run_cost_job, missing):
                made.append(part)
                progress.advance(note=f"{part['method']} seed {part['seed']}: {part['score']:.1f}")
    return [part for part in found if part is not None] + made


def affordable(updates: int, steps_per_s: float, longest_s: float) -> int:
    """Gradient steps that fit into the time, in whole hundreds; all of them where they do."""
    if updates <= steps_per_s * longest_s:
        return updates
    return max(100, int(steps_per_s * longest_s) // 100 * 100)


def _speed(out: Path, chosen: Sequence[str], python: Path, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Gradient steps per second of every contender, a list over the rounds; kept in `parts/speed.json`."""
    kept = out / "parts" / "speed.json"
    key = {"commit": commit(), "rounds": effort.rounds, "settings": list(effort.settings), "contenders": list(chosen)}
    if kept.is_file():
        found: dict[str, Any] = read_json(kept)
        if all(found.get(name) == value for name, value in key.items()):
            return found
    load, rates = os.getloadavg()[0], {name: list[float]() for name in chosen}
    progress.start("rounds of timing", effort.rounds + 1)
    with ExitStack() as stack:
        peers = {name: stack.enter_context(open_peer(name, python, 0)) for name in chosen if name in PEERS}
        mine = {name: OurUpdates(name, effort.settings) for name in chosen if name in OURS}
        for number in range(effort.rounds + 1):
            for name in chosen:
                if name in PEERS:
                    seconds = float(peers[name].ask({"updates": BLOCKS[name]})["seconds"])
                    rate = BLOCKS[name] / seconds
                else:
                    rate = mine[name].steps_per_s()
                if number:  # the first round only warms up
                    rates[name].append(rate)
            progress.advance()
    found = key | {"steps_per_s": rates, "machine": machine()}
    found |= {"load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2)}
    write_json(kept, found)
    return found


def _ingest_both(folder: Path) -> None:
    """The released data with the formula of its reward, and with its recorded rewards alone."""
    spec = get_task(TASK).spec()
    ingest(spec, [data_file(FILE)], folder / "formula")
    ingest(recorded_reward(spec), [data_file(FILE)], folder / "rewards")


def _records(
    chosen: Sequence[str], parts: Sequence[Mapping[str, Any]], speed: Mapping[str, Any], seconds: float
) -> list[Record]:
    """Means over seeds; of the speed the median over rounds."""
    records = []

    def add(method: str, metric: str, values: Sequence[float], value: float, episodes: int, data: str) -> None:
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        records.append(
            Record(
                SUITE, TASK_NAME, method, metric, value, error, len(values), episodes, seconds, commit(), data,
                machine(),
            )
        )  # fmt: skip

    for name in chosen:
        mine = [part for part in parts if part["method"] == name]
        for metric in ("updates", "train_seconds", "peak_mib", "score"):
            values = [float(part[metric]) for part in mine]
            episodes = EPISODES * len(mine) if metric == "score" else 0
            add(name, metric, values, float(np.mean(values)), episodes, mine[0]["data_sha256"])
        rates = speed["steps_per_s"][name]
        add(name, "steps_per_s", rates, statistics.median(rates), 0, "")
    return records


def _note(parts: Sequence[Mapping[str, Any]], speed: Mapping[str, Any], count: int) -> str:
    published, own = PUBLISHED[TASK_NAME], RunConfig.load(config_path("runs", TASK)).policy
    loads = [part[name] for part in parts for name in ("load_before", "load_after")]
    return (
        f"\nd3rlpy {D3RLPY} with the settings it comes with (two layers of 256, batch {PEER_BATCH}) and standardised "
        f"observations; ours as in configs/runs/{TASK}.yaml (layers of {own.hidden}, batch {own.batch_size}). "
        f"One thread each; {count} trainings side by side. Load average while timing: {speed['load_before']:.1f} to "
        f"{speed['load_after']:.1f}; while training: {min(loads):.1f} to {max(loads):.1f}. A whole training includes "
        "reading the data and, for ours, the world model and the dynamics reward (of td3_bc and bc too: evaluation and "
        "export need them). Published on this data (arXiv 2503.19267, number of gradient steps and settings of its "
        f"own): TD3+BC {published['TD3+BC']}, CQL {published['CQL']}.\n"
        f"{machine()}; commit {commit()}.\n"
    )


def _file_name(method: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in method.lower().replace("+", ""))
