"""The training runs of a suite: which can share a world model, in what order they go, and what is kept of each.

Methods that differ in the policy alone learn one and the same world from the same data and seed. It is learned once, by
the first of them, and taken over by the others, with the same numbers as if each had learned it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import RunFolder, commit
from controlkit.baselines.settings import as_overrides
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ConfigError
from controlkit.files import read_json, write_json
from controlkit.morec.shared_world import world_settings
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from envs.closed_loop import ClosedLoop, run_closed_loop
from envs.simulation import Controller, spawned_seeds
from envs.tasks import get_task

# Episodes that nothing else uses.
SCORE_SEED = 900_000

Part = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        name: the task's published name; task: its name in `envs.tasks`.
        run: the run configuration, by the name of the shipped file.
        row: what the table calls the method; method: what it is.
        rewards: `formula` or `rewards`.
        seed: of the run.
        data: the folder of the ingested data.
        part: the file for its figures.
        worlds: the folder that keeps world models for other runs.
        episodes: that it is scored on.
        settings: overrides of the configuration.
        commit: of the code when the suite began; a checkout that moves on meanwhile changes nothing.
    """

    name: str
    task: str
    run: str
    row: str
    method: str
    rewards: str
    seed: int
    data: Path
    part: Path
    worlds: Path
    episodes: int
    settings: tuple[str, ...] = ()
    commit: str = field(default_factory=commit)

    @property
    def config(self) -> RunConfig:
        """The complete configuration."""
        overrides = [*as_overrides(self.method), *self.settings, f"seed={self.seed}", "threads=1"]
        return RunConfig.load(config_path("runs", self.run), overrides)

    @property
    def world(self) -> Path:
        """Where its world model is kept: one folder for all runs whose worlds are the same to the last bit."""
        config, record = self.config, read_json(self.data / RECORD)
        content = {
            "settings": world_settings(config),
            "seed": config.seed,
            "actor": [config.policy.hidden, config.policy.inputs],  # first weights are drawn in one sequence
            "data": [record["data_sha256"], record["spec_sha256"]],
            "commit": self.commit,
        }
        return self.worlds / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def kept_part(self) -> Part | None:
        """The figures of an earlier run with the same configuration, data and episodes, whichever commit made them."""
        if not self.part.is_file():
            return None
        part: Part = read_json(self.part)
        try:  # what an older file does not name had today's default
            config = RunConfig.from_dict(part["config"])
        except (ConfigError, KeyError):
            return None
        record = read_json(self.data / RECORD)
        same = (config, part["data_sha256"], part["episodes"]) == (self.config, record["data_sha256"], self.episodes)
        return part if same else None


def run_jobs(jobs: Sequence[Job], workers: int | None) -> Iterator[tuple[Job, Part]]:
    """Runs what has not been run yet, one process per core; yields each job with its figures as it is done.

    Args:
        jobs: in the order of their importance.
        workers: processes; as many as there are processors where it is `None`.
    """
    left = []
    for job in jobs:
        part = job.kept_part()
        if part is None:
            left.append(job)
        else:
            yield job, part
    if not left:
        return
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(left)), mp_context=get_context("spawn")) as pool:
        for wave in waves(left):
            futures = {pool.submit(run_job, job): job for job in wave}
            for future in as_completed(futures):
                yield futures[future], future.result()


def waves(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Those that must go first, one for each world model that is not kept yet, and the others."""
    first: dict[Path, Job] = {}
    for job in jobs:
        if not job.world.is_dir():
            first.setdefault(job.world, job)
    return list(first.values()), [job for job in jobs if first.get(job.world) is not job]


def run_job(job: Job) -> Part:
    """One training run in a temporary folder, scored on fresh episodes; its figures are kept in the job's file, and its
    world model for the others, if it learned one."""
    silent, config, record = Silent(), job.config, read_json(job.data / RECORD)
    data, kept = TransitionDataset.load(job.data), job.world
    job.worlds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.worlds, prefix=".run-") as folder:
        run = RunFolder.create(Path(folder) / "run", config, data, record)
        world = RunFolder.open(kept) if kept.is_dir() else None
        actor = train(run, data, silent, world).actor
        state = run.state
        if world is None and not kept.is_dir():
            shutil.move(run.path, kept)
    # By the task's own plant: a policy that knows no structure is shown the same columns in the same order.
    controller = PolicyController(actor, get_task(job.task).spec())
    returns, lengths = episode_returns(job.task, controller, job.episodes)
    ended = ended_share(job.task, controller, job.episodes)
    part = {
        "config": config.to_dict(),
        "commit": job.commit,
        "data_sha256": record["data_sha256"],
        "episodes": job.episodes,
        "score": score_of(job.task, float(returns.mean())),
        "return": float(returns.mean()),
        "episode_stderr": float(returns.std(ddof=1) / np.sqrt(len(returns))),
        "episode_steps": float(lengths.mean()),
        **({} if ended is None else {"ended_share": ended}),
        # What the run would have taken alone.
        "train_seconds": round(state["world_seconds"] + state["policy_seconds"], 1),
        "policy_seconds": state["policy_seconds"],
    }
    write_json(job.part, part)
    return part


def episode_returns(task_name: str, controller: Controller, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """(episodes,) undiscounted returns of a policy on fresh episodes of the true plant, and how long they lasted."""
    loop = scored_loop(task_name, controller, episodes, get_task(task_name).published_spec())
    return loop.returns, loop.lengths


def ended_share(task_name: str, controller: Controller, episodes: int) -> float | None:
    """Share of the scored episodes that the plant file's rules end before their time; `None` where the published
    evaluation ends them by the same rules, so that their length tells."""
    task = get_task(task_name)
    spec = task.spec()
    if spec == task.published_spec():
        return None
    return float((scored_loop(task_name, controller, episodes, spec).lengths < task.steps).mean())


def scored_loop(task_name: str, controller: Controller, episodes: int, spec: PlantSpec) -> ClosedLoop:
    """The episodes that everything is scored on, by the objective and the ends of `spec`."""
    task = get_task(task_name)
    plant_seed, _ = spawned_seeds(SCORE_SEED, 2)
    simulator = task.simulator(episodes, np.random.default_rng(plant_seed))
    return run_closed_loop(controller, simulator, spec, task.steps)


def score_of(task_name: str, episode_return: float) -> float:
    """The score of a return: on the benchmark's scale where one is published, the return itself elsewhere."""
    task = get_task(task_name)
    return episode_return if task.return_bounds is None else task.benchmark_score(episode_return)
