"""The study *history*: what stacking earlier samples gains on a partially observed plant.

The refrigerator's sensor is noisy, and its door is seen or hidden. For every length of history a world model is fitted
to a log of the operator, judged on closed loops whose true temperatures are known, and a policy is trained in it that
is scored on the true plant. Methods:

- `window`: a perceptron over the window as world model; the policy sees the window.
- `observer`: an observer along the window as world model; the policy sees the window.
- `belief`: the same world model; the policy sees the current samples and the model's belief (no history, no belief).

Rollouts follow the elites' mean and add recorded residuals, without filter and threshold, so that nothing but the
window changes. Budgets are small and the same everywhere: a run of `configs/runs/refrigerator.yaml` is better.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlkit.artifacts import build_models, commit
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.benchmarks.results import Record, machine, write_results
from controlkit.config import RunConfig
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_json, write_text
from controlkit.morec.dynamics import fit_dynamics
from controlkit.morec.streams import stage_generator
from controlkit.objective import CommandLimits
from controlkit.progress import Progress, Silent
from controlkit.replay import LoggedTransitions
from controlkit.studies.history_plant import DOORS, WARM_UP, judge_model, judging_log, record, windowed_spec
from controlkit.studies.history_references import reference_controllers
from controlkit.studies.history_report import plot_history, results_csv, table_of
from controlkit.studies.small_policy import train_small_policy
from envs.closed_loop import run_closed_loop
from envs.refrigerator import Door, VectorRefrigerator
from envs.simulation import Controller, spawned_seeds

SUITE = "history"
HISTORIES = (0, 1, 2, 5, 10, WARM_UP)
# World model -> what policies in it see: method -> `policy.inputs`.
METHODS: Mapping[str, Mapping[str, str]] = {
    "window": {"window": "all"},
    "observer": {"observer": "all", "belief": "belief"},
}
# Whose closed loops world models are judged on: the logged one, and two that no log shows.
CONTROLLERS = ("operator", "p", "pid")
# What the figures of a model are called in the records.
METRICS = {"one_step": "one_step_rmse", "one_step_open": "one_step_rmse_open", "rollout": "rollout_mae"}
# Episodes that nothing else uses.
SCORE_SEED = 900_000
SETTINGS: Mapping[str, Any] = {
    "threads": 1,
    "dynamics": {
        "members": 5,
        "elites": 3,
        "hidden": [64, 64],
        "learning_rate": 2e-3,
        "max_epochs": 60,
        # A hidden door is in few rows: long is nothing gained, and then much.
        "patience": 15,
    },
    "reward": {"networks": 1, "snapshots": 1, "behaviour_updates": 500, "distil": False},
    "filter": {"enabled": False, "samples": 0, "member_means": False, "ensemble_mean": True},
    "rollout": {
        "length": 20,
        "starts": 200,
        "every": 200,
        "keep": 15,
        "residual_noise": True,
        "event_starts": 0.3,
        "penalty_coefficient": 0.1,
    },
    "policy": {
        "hidden": [64, 64],
        "gamma": 0.9,
        "actor_learning_rate": 5e-4,
        "critic_learning_rate": 1e-3,
        "updates": 4000,
        "initial_alpha": 0.05,
        "target_entropy": -5,
        "average": 0.2,
        "warm_start": 300,
    },
}


@dataclass(frozen=True)
class Budget:
    """What a run may cost.

    Attributes:
        rows: of a training log.
        judged: closed loops that a model is judged on, each of `judged_steps` steps.
        rollout, every: steps of an open-loop rollout, and steps between the beginnings of two.
        episodes, steps: that a policy is scored on.
        settings: further fields of the configuration, by section.
    """

    rows: int = 20_000
    judged: int = 20
    judged_steps: int = 500
    rollout: int = 50
    every: int = 25
    episodes: int = 50
    steps: int = 2000
    settings: Mapping[str, Mapping[str, Any]] | None = None

    def config(self, architecture: str, seed: int, inputs: str = "all") -> RunConfig:
        """The configuration of a run."""
        content: dict[str, Any] = {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in SETTINGS.items()
        }
        for section, fields in (self.settings or {}).items():
            content[section] |= fields
        content["dynamics"] |= {"architecture": architecture} | ({"hidden": []} if architecture == "observer" else {})
        content["policy"] |= {"inputs": inputs}
        return RunConfig.from_dict(content | {"seed": seed})


@dataclass(frozen=True)
class Job:
    """One world model and the policies in it; `part` is the file for its figures, `commit` that of the code."""

    door: Door
    history: int
    architecture: str
    seed: int
    budget: Budget
    part: Path
    commit: str = ""

    @property
    def key(self) -> dict[str, Any]:
        """What its figures depend on."""
        return {
            "door": self.door,
            "history": self.history,
            "architecture": self.architecture,
            "seed": self.seed,
            "budget": asdict(self.budget),
            "config": self.budget.config(self.architecture, self.seed).to_dict(),
            "commit": self.commit,
        }


def run_study(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    workers: int | None = None,
    histories: Sequence[int] = HISTORIES,
    budget: Budget | None = None,
) -> str:
    """Runs the study.

    Args:
        out: folder for `results.csv`, `results.json`, `table.md`, plots and the single runs' figures.
        seeds: logs, each with a training seed of its own.
        progress: is told of each run.
        tasks: `seen`, `hidden` (the door); both where none is named.
        methods: world models, `window` and `observer`; both where none is named.
        workers: processes; as many as there are processors where not given. One is this process.
        histories: how many earlier samples, `WARM_UP` at most.
        budget: what a run may cost.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task or method, or a history that is too long.
    """
    for names, known, option in ((tasks, DOORS, "tasks"), (methods, METHODS, "methods")):
        for name in names:
            if name not in known:
                raise ControlkitError(f"unknown '{name}'", where=f"study {SUITE} --{option}", cure=nearest(name, known))
    if not all(0 <= history <= WARM_UP for history in histories):
        raise ControlkitError(f"a history beyond 0 .. {WARM_UP}", where=f"study {SUITE}", cure="Ask for less.")
    began, budget, code = time.monotonic(), budget or Budget(), commit()
    jobs = [
        Job(door, history, architecture, seed, budget, part_of(out, door, architecture, history, seed), code)
        for history in sorted(histories, reverse=True)  # the longest runs first, so that none is left alone at the end
        for door in DOORS
        if not tasks or door in tasks
        for architecture in methods or METHODS
        for seed in range(seeds)
    ]
    progress.start("runs", len(jobs))
    parts: list[dict[str, Any]] = []
    count = min(workers or os.cpu_count() or 1, len(jobs))
    with ExitStack() as stack:
        found: Iterable[dict[str, Any]] = map(run_job, jobs)  # one worker is this process
        if count > 1:
            pool = stack.enter_context(ProcessPoolExecutor(count, mp_context=get_context("spawn")))
            found = pool.map(run_job, jobs)
        for job, part in zip(jobs, found, strict=True):
            parts.append(part)
            progress.advance(note=f"door {job.door}, {job.architecture}, history {job.history}")
    parts.sort(key=lambda part: (DOORS.index(part["door"]), part["architecture"], part["history"], part["seed"]))
    seconds = round(time.monotonic() - began, 1)
    records = [*_records(parts, seconds), *_references(tasks or DOORS, budget)]
    write_results(out, records)
    write_text(out / "results.csv", results_csv(parts))
    plot_history(out, records)
    table = table_of(records, budget.rollout) + f"\n{machine()}; commit {commit()}.\n"
    write_text(out / "table.md", table)
    return table


def part_of(out: Path, door: str, architecture: str, history: int, seed: int) -> Path:
    """The file for a run's figures."""
    return out / "parts" / f"{door}-{architecture}-{history}-{seed}.json"


def run_job(job: Job) -> dict[str, Any]:
    """One world model and its policies; figures that are there already are kept."""
    torch.set_num_threads(1)
    if job.part.is_file():
        part: dict[str, Any] = read_json(job.part)
        if all(part.get(name) == value for name, value in job.key.items()):
            return part
    budget, began = job.budget, time.monotonic()
    data = record("operator", job.seed, steps=budget.rows).dataset(job.history, job.door)
    log, spec = LoggedTransitions(data), data.spec
    config = budget.config(job.architecture, job.seed)
    models = build_models(config, spec, stage_generator(config, "weights"))
    generator = stage_generator(config, "dynamics")
    fit = fit_dynamics(models.dynamics, log, config.dynamics, config.scaling, CommandLimits(spec), generator, Silent())
    world: dict[str, float] = {
        "holdout_rmse": float(fit.holdout_rmse.mean()),
        "model_seconds": time.monotonic() - began,
    }
    for controller in CONTROLLERS:
        logged = judging_log(controller, budget.judged, budget.judged_steps)
        found = judge_model(models.dynamics, job.history, job.door, logged, budget.rollout, budget.every)
        world |= {f"{name}_{controller}": value for name, value in asdict(found).items()}
    figures: dict[str, dict[str, float]] = {}
    for method, inputs in METHODS[job.architecture].items():
        if inputs == "belief" and not job.history:
            continue  # a belief starts from the last command
        began = time.monotonic()
        config = budget.config(job.architecture, job.seed, inputs)
        fresh = build_models(config, spec, stage_generator(config, "weights"))
        fitted = replace(fresh, dynamics=models.dynamics, residuals=fit.residuals)
        actor = train_small_policy(fitted, log, spec, config)
        spent = time.monotonic() - began
        cost = closed_loop_mae(PolicyController(actor, spec), job.door, budget)
        figures[method] = world | {"closed_loop_mae": cost, "policy_seconds": spent}
    part = job.key | {"figures": figures}
    write_json(job.part, part)
    return part


def closed_loop_mae(controller: Controller, door: Door, budget: Budget) -> float:
    """Mean |T + 2| of the true temperature over fresh episodes, kelvin."""
    plant, _ = spawned_seeds(SCORE_SEED, 2)
    simulator = VectorRefrigerator(budget.episodes, np.random.default_rng(plant), noise="measurement", door=door)
    return run_closed_loop(controller, simulator, windowed_spec(0, "seen"), budget.steps).mean


def _records(parts: Sequence[Mapping[str, Any]], seconds: float) -> list[Record]:
    """Means over the logs, and their standard errors."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for part in parts:
        for method, figures in part["figures"].items():
            for name, value in figures.items():
                metric, _, controller = name.rpartition("_") if name.endswith(CONTROLLERS) else (name, "", "")
                task = f"door={part['door']},history={part['history']}"
                task += f",controller={controller}" if controller else ""
                cells.setdefault((task, method, METRICS.get(metric, metric)), []).append(value)
    return [
        Record(
            SUITE, task, method, metric, float(np.mean(values)), _stderr(values), len(values), len(values), seconds,
            commit(), "", machine(),
        )
        for (task, method, metric), values in cells.items()
    ]  # fmt: skip


def _references(doors: Sequence[str], budget: Budget) -> list[Record]:
    """Controllers that know the plant's constants, on the same episodes."""
    records = []
    for door in DOORS:
        if door not in doors:
            continue
        for name, controller in reference_controllers(door).items():
            cost = closed_loop_mae(controller, door, budget)
            records.append(
                Record(
                    SUITE, f"door={door}", f"reference, {name}", "closed_loop_mae", cost, 0.0, 1, budget.episodes, 0.0,
                    commit(), "", machine(),
                )
            )  # fmt: skip
    return records


def _stderr(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
