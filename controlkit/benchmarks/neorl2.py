"""The NeoRL-2 suite (arXiv 2503.19267): policies trained on the released data, scored on the true plant.

A method is run twice: with the reward's formula, which a plant's owner knows, and with the rewards in the data alone,
which is all that the published methods have. One configuration for the suite, the last weights, every seed counts;
nothing is chosen by looking at the simulator. A run's figures are kept in `parts/`, so that an interrupted benchmark
goes on where it was.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import RunFolder, commit
from controlkit.baselines.settings import as_overrides
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_json, write_text
from controlkit.ingest import ingest
from controlkit.morec.train import train
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec
from envs.closed_loop import run_closed_loop, score
from envs.simulation import spawned_seeds
from envs.tasks import get_task

SUITE = "neorl2"
TASKS = {"DMSD": "dmsd"}
# Every one a row with the formula and a row without.
METHODS = ("mopo", "mean", "medoid", "irl", "irl-gail", "noise", "mixed")
REWARDS = {"formula": "formula", "rewards": "rewards only"}
EPISODES = 100
# Episodes that nothing else uses.
SCORE_SEED = 900_000
# Where the released files lie, in the folder `neorl2`.
DATA_VARIABLE, DATA_FOLDER = "CONTROLKIT_DATA", Path("../shared/data")
# Scores in table 4 of the paper; none of these methods knows the formula or which columns are exogenous.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "DMSD": {
        "data": 56.6, "BC": 65.1, "CQL": 70.2, "EDAC": 78.7, "MCQ": 77.8, "TD3+BC": 60.0, "MOPO": 68.2, "COMBO": 68.3,
        "RAMBO": 76.2, "MOBILE": 64.4,
    }
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One training run: the task's name in the paper, the method, `formula` or `rewards`, the seed, the folder of the
    ingested data, and the file for its figures."""

    task: str
    method: str
    rewards: str
    seed: int
    data: Path
    part: Path
    settings: tuple[str, ...] = ()


def run_suite(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    workers: int | None = None,
    settings: Sequence[str] = (),
) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md` and the single runs' figures.
        seeds: runs per row.
        progress: is told of each run.
        tasks, methods: which; all where none is named. `mean:rewards` is one of a method's two rows.
        workers: processes; as many as there are processors where not given.
        settings: overrides `section.field=value` of the tasks' run configurations, for every row.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task or method, or released files that are not there.
    """
    chosen = [_known(task, TASKS, "--tasks") for task in tasks or TASKS]
    rows = [row for method in methods or METHODS for row in _rows(method)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ingested = {task: _ingested(task, Path(folder)) for task in chosen}
        jobs = [
            Job(task, method, rewards, seed, ingested[task] / rewards,
                out / "parts" / f"{task}-{method}-{rewards}-{seed}.json", tuple(settings))
            for task in chosen
            for method, rewards in rows
            for seed in range(seeds)
        ]  # fmt: skip
        progress.start("runs", len(jobs))
        parts: dict[tuple[str, str, str, int], dict[str, Any]] = {}
        processes = min(workers or os.cpu_count() or 1, len(jobs))
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for job, part in zip(jobs, pool.map(run_job, jobs), strict=True):
                parts[job.task, job.method, job.rewards, job.seed] = part
                progress.advance(note=f"{job.method} {job.rewards} seed {job.seed}: {part['score']:.1f}")
    records = []
    for task in chosen:
        for method, rewards in rows:
            mine = [parts[task, method, rewards, seed] for seed in range(seeds)]
            records += _records(task, f"{method}, {REWARDS[rewards]}", mine, time.monotonic() - began)
        records += _references(task)
    write_results(out, records)
    table = _table(records, chosen)
    write_text(out / "table.md", table)
    return table


def run_job(job: Job) -> dict[str, Any]:
    """One training run in a temporary folder, scored on fresh episodes; its figures are kept in the job's file."""
    overrides = [*as_overrides(job.method), *job.settings, f"seed={job.seed}", "threads=1"]
    config = RunConfig.load(config_path("runs", TASKS[job.task]), overrides)
    record = read_json(job.data / RECORD)
    key = {"config": config.to_dict(), "commit": commit(), "data_sha256": record["data_sha256"]}
    if job.part.is_file():
        part: dict[str, Any] = read_json(job.part)
        if all(part.get(name) == value for name, value in key.items()):
            return part
    began, silent = time.monotonic(), Silent()
    data = TransitionDataset.load(job.data)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", config, data, record)
        actor = train(run, data, silent).actor
    trained = time.monotonic() - began
    returns = episode_returns(job.task, PolicyController(actor, data.spec))
    part = key | {
        "score": get_task(TASKS[job.task]).benchmark_score(float(returns.mean())),
        "return": float(returns.mean()),
        "episode_stderr": float(returns.std(ddof=1) / np.sqrt(len(returns))),
        "train_seconds": round(trained, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(job.part, part)
    return part


def episode_returns(task_name: str, controller: PolicyController, episodes: int = EPISODES) -> np.ndarray:
    """(episodes,) undiscounted returns of a policy on fresh episodes of the true plant."""
    task = get_task(TASKS[task_name])
    plant_seed, _ = spawned_seeds(SCORE_SEED, 2)
    simulator = task.simulator(episodes, np.random.default_rng(plant_seed))
    closed_loop = run_closed_loop(controller, simulator, task.spec(), task.steps)
    return np.asarray(-closed_loop.cost * closed_loop.steps)


def recorded_reward(spec: PlantSpec) -> PlantSpec:
    """The same plant without the formula of its reward."""
    return PlantSpec.from_dict(spec.to_dict() | {"objective": [{"kind": "recorded"}]})


def _ingested(task: str, folder: Path) -> Path:
    """Both data sets of a task, `formula` and `rewards`, from its released training file."""
    source = data_file(f"neorl2/{task}-train.npz")
    spec = get_task(TASKS[task]).spec()
    ingest(spec, [source], folder / task / "formula")
    ingest(recorded_reward(spec), [source], folder / task / "rewards")
    return folder / task


def data_file(name: str) -> Path:
    """A released file in the data folder.

    Raises:
        ControlkitError: it is not there.
    """
    path = Path(os.environ.get(DATA_VARIABLE, DATA_FOLDER)) / name
    if not path.is_file():
        raise ControlkitError(
            "the released data file is not there",
            where=str(path),
            cure=f"Put it there, or name the folder that holds {name} in {DATA_VARIABLE}.",
        )
    return path


def _known(name: str, known: Mapping[str, str], option: str) -> str:
    found = {entry.lower(): entry for entry in known}.get(name.lower())
    if found is None:
        raise ControlkitError(f"unknown '{name}'", where=f"benchmark {SUITE} {option}", cure=nearest(name, known))
    return found


def _rows(method: str) -> list[tuple[str, str]]:
    """`mean` is both rows of a method, `mean:rewards` one of them."""
    name, _, rewards = method.partition(":")
    where = f"benchmark {SUITE} --methods"
    as_overrides(name)  # raises where there is no such method
    if rewards and rewards not in REWARDS:
        raise ControlkitError(f"unknown '{method}'", where=where, cure=nearest(rewards, REWARDS))
    return [(name, kind) for kind in ([rewards] if rewards else REWARDS)]


def _records(task: str, method: str, parts: list[dict[str, Any]], seconds: float) -> list[Record]:
    def one(metric: str) -> Record:
        values = [part[metric] for part in parts]
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        episodes = 0 if metric.endswith("seconds") else EPISODES * len(parts)
        return Record(
            SUITE, task, method, metric, float(np.mean(values)), error, len(values), episodes, round(seconds, 1),
            commit(), parts[0]["data_sha256"], machine(),
        )  # fmt: skip

    return [one(metric) for metric in ("score", "return", "train_seconds")]


def _references(task: str) -> list[Record]:
    """The hand-made controllers, which know the plant's constants."""
    records = []
    chosen = get_task(TASKS[task])
    for name in chosen.references:
        loop = score(name, chosen, SCORE_SEED, EPISODES)
        low, high = chosen.benchmark_score(0.0), chosen.benchmark_score(1.0)
        value, error = chosen.benchmark_score(-loop.mean * loop.steps), loop.stderr * loop.steps * (high - low)
        records.append(
            Record(SUITE, task, f"hand-made, {name}", "score", value, error, 1, EPISODES, 0.0, commit(), "", machine())
        )
    return records


def _table(records: list[Record], tasks: Sequence[str]) -> str:
    lines = []
    for task in tasks:
        mine = [r for r in records if r.task == task and r.metric == "score"]
        seconds = {r.method: f"{r.value:.0f}" for r in records if r.task == task and r.metric == "train_seconds"}
        rows = [
            (r.method, f"{r.value:.1f}", f"{r.stderr:.1f}", str(r.seeds), str(r.episodes), seconds.get(r.method, ""))
            for r in mine
        ]
        rows += [(f"published: {name}", f"{value:.1f}", "", "", "", "") for name, value in PUBLISHED[task].items()]
        lines.append(
            f"{task}: 100 (R - low) / (high - low), as published.\n\n"
            + markdown_table(("method", "score", "std. error", "seeds", "episodes", "training, s"), rows)
        )
    note = (
        "\nThe published methods (arXiv 2503.19267) know neither the reward's formula nor which columns are exogenous; "
        f"the hand-made controllers know the plant's constants.\n{machine()}; commit {commit()}.\n"
    )
    return "\n".join(lines) + note
