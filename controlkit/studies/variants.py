"""Variants of one configuration on the refrigerator whose truth is known: what each picks, predicts and controls.

The plant, the log of 2000 rows and the points are those of `benchmarks/known_truth.py`; the rows that follow in the
same log calibrate the threshold. For each variant:

- `argmax_error_in`, `argmax_error_out`: error of the temperature that the filter moves to, as a ratio to the ensemble
  mean's, at the states and commands of another log, and far outside any log.
- `rank_in`, `rank_out`: rank correlation of what the filter chooses by with minus the candidates' error.
- `rollout_mae_p`, `rollout_mae_pid`: mean error over 100 steps of two controllers that no log holds, kelvin, without
  regard to the threshold; `accepted_mae_*` and `ended_*`: the error of what it lets through, and the share of the
  rollouts that it ends.
- `closed_loop_mae`: mean |T + 2| of a small policy on the true plant; `ended_training`: the share of the rollouts which
  that policy was trained on that the threshold ended.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlkit.artifacts import Models
from controlkit.benchmarks.filter import CONTROLLERS
from controlkit.benchmarks.filter_methods import DYNAMICS
from controlkit.benchmarks.known_truth import ROLLOUT_SEED, TASK, Points, operator_log, plain_spec
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.config import RunConfig
from controlkit.models.actor import Actor
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.ranks import spearman
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from controlkit.studies.jobs import Found, Job
from controlkit.studies.learned import fit_regressor, learn_models, threshold_of, train_policy
from envs.closed_loop import run_closed_loop
from envs.refrigerator import Noise, VectorRefrigerator
from envs.simulation import Controller, spawned_seeds
from envs.tasks import get_task

NOISE: Noise = "process"
ROWS, CALIBRATION = 2000, 1000
SCORE_SEED, COPIES, STEPS = 940_000, 50, 500
ROLLOUT_COPIES, ROLLOUT_STEPS = 50, 100
# A small policy that trains within seconds; the dynamics are those that the filter benchmark chose.
BASE: Mapping[str, Any] = {
    "threads": 1,
    "dynamics": dict(DYNAMICS),
    "reward": {"distil": False},
    "rollout": {"length": 20, "starts": 64, "every": 250, "keep": 12},
    "policy": {
        "hidden": [64, 64],
        "gamma": 0.9,
        "actor_learning_rate": 5e-4,
        "critic_learning_rate": 1e-3,
        "batch_size": 128,
        "updates": 2500,
        "initial_alpha": 0.05,
        "target_entropy": -4.0,
        "average": 0.2,
    },
}
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
        name: of the row.
        overrides: dotted field of the configuration -> value; nothing else differs from the base.
        structure: off, the door is a state tag: predicted and judged, no longer known.
        threshold_quantile: in place of `filter.threshold`, the dynamics reward that this share of what argmax picks
            falls below, over the points in data and far outside together: near 1, it rejects nearly all.
    """

    name: str
    overrides: Overrides
    structure: bool = True
    threshold_quantile: float | None = None

    def config(self, seed: int, shared: Overrides) -> RunConfig:
        """The configuration, complete; `shared` overrides hold for all variants of a study."""
        content = json.loads(json.dumps(BASE)) | {"seed": seed}
        for name, value in {**shared, **self.overrides}.items():
            section, field = name.split(".")
            content.setdefault(section, {})[field] = value
        return RunConfig.from_dict(content)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a job."""
        return {
            "name": self.name,
            "overrides": dict(self.overrides),
            "structure": self.structure,
            "threshold_quantile": self.threshold_quantile,
        }


def variant_jobs(
    study: str, variants: Sequence[Variant], shared: Overrides, logs: int, seeds: int, chunk: int
) -> list[Job]:
    """Jobs of at most `chunk` variants each that learn the same models, for every log and training seed."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        config = variant.config(0, shared).to_dict()
        groups.setdefault(json.dumps([config["dynamics"], config["reward"], variant.structure]), []).append(variant)
    chunks = [group[i : i + chunk] for group in groups.values() for i in range(0, len(group), chunk)]
    return [
        Job(
            f"{study}-{number}-{log}-{seed}",
            log,
            seed,
            {"variants": [variant.to_dict() for variant in some], "shared": dict(shared)},
        )
        for number, some in enumerate(chunks)
        for log in range(logs)
        for seed in range(seeds)
    ]


def run_variants(job: Job) -> Found:
    """All figures of a job's variants, which share their models."""
    variants = [Variant(**content) for content in job.settings["variants"]]
    shared = job.settings["shared"]
    spec = plain_spec() if variants[0].structure else without_structure(plain_spec())
    whole = operator_log(NOISE, job.log, ROWS + CALIBRATION)
    recorded = replace(whole, spec=spec)
    log, held_out = (LoggedTransitions(recorded.slice(*cut)) for cut in ((0, ROWS + 1), (ROWS + 1, len(recorded))))
    began = time.monotonic()
    models = learn_models(spec, log, variants[0].config(job.seed, shared))
    learned = time.monotonic() - began
    regressor = functools.cache(lambda: fit_regressor(spec, log, variants[0].config(job.seed, shared)))
    found: Found = []
    for variant in variants:
        began, config = time.monotonic(), variant.config(job.seed, shared)
        if variant.threshold_quantile is None:
            threshold = threshold_of(models, held_out, config)
        else:
            threshold = float(torch.quantile(_picked_scores(models, config), variant.threshold_quantile))
        other = regressor() if config.filter.choose == "regressor" else None
        chooser = TransitionFilter(models.dynamics.lean(), models.judge, config.filter, threshold, other)
        figures = _picks(chooser, models, job.seed) | _rollouts(chooser, spec, job.seed)
        actor, ended = train_policy(models, chooser, spec, log, config)
        figures |= {"closed_loop_mae": closed_loop_mae(actor, spec), "ended_training": ended, "threshold": threshold}
        figures["seconds"] = learned / len(variants) + time.monotonic() - began
        found += [(f"noise={NOISE}", variant.name, metric, value) for metric, value in figures.items()]
    return found


def without_structure(spec: PlantSpec) -> PlantSpec:
    """The same plant with every exogenous tag called a state: predicted and judged."""
    content = spec.to_dict()
    for tag in content["tags"].values():
        tag["role"] = "state" if tag["role"] == "exogenous" else tag["role"]
    return PlantSpec.from_dict(content)


def closed_loop_mae(actor: Actor, spec: PlantSpec) -> float:
    """Mean |T + 2| of a policy on fresh episodes of the true plant, kelvin; every policy meets the same doors."""
    return _true_cost(PolicyController(actor, spec), spec)


def reference_costs(names: Sequence[str]) -> dict[str, float]:
    """The same of the task's own controllers."""
    task, (_, hand) = get_task(TASK), spawned_seeds(SCORE_SEED, 2)
    return {
        name: _true_cost(task.controller(name, np.random.default_rng(hand), noise=NOISE), plain_spec())
        for name in names
    }


def _true_cost(controller: Controller, spec: PlantSpec) -> float:
    plant, _ = spawned_seeds(SCORE_SEED, 2)
    simulator = VectorRefrigerator(COPIES, np.random.default_rng(plant), noise=NOISE)
    return run_closed_loop(controller, simulator, spec, STEPS).mean


def _picked_scores(models: Models, config: RunConfig) -> Tensor:
    """(T,) dynamics reward of what argmax picks, in data and far outside."""
    settings = config.filter.model_copy(update={"choose": "argmax"})
    chooser = TransitionFilter(models.dynamics.lean(), models.judge, settings, float("-inf"))
    generator = torch.Generator().manual_seed(config.seed)
    asked = (Points.inside(NOISE), Points.outside())
    return torch.cat([chooser(points.observation, points.action, generator).score for points in asked])


@torch.no_grad()
def _picks(chooser: TransitionFilter, models: Models, seed: int) -> dict[str, float]:
    """Errors of the temperature that is moved to, and ranks of the candidates."""
    figures = {}
    for where, points in {"in": Points.inside(NOISE), "out": Points.outside()}.items():
        at = (points.observation, points.action)
        means, stds = chooser.ensemble(*at)
        mean_error = (means.mean(dim=0)[:, :1] - points.truth).abs().mean()
        picked = chooser(*at, torch.Generator().manual_seed(seed)).state[:, :1]  # the temperature comes first
        figures[f"argmax_error_{where}"] = float((picked - points.truth).abs().mean() / mean_error)
        # Drawn again, with the same numbers: the candidates among which it picked.
        offered = chooser.candidates(means, stds, torch.Generator().manual_seed(seed))  # (C, B, S)
        error = (offered[..., :1] - points.truth).abs().squeeze(-1)  # (C, B)
        if chooser.config.enabled and len(offered) > 1:
            scores = _scores(chooser, models, *at, offered)
            figures[f"rank_{where}"] = float(spearman(scores.T, -error.T).mean())
    return figures


def _scores(chooser: TransitionFilter, models: Models, observation: Tensor, action: Tensor, offered: Tensor) -> Tensor:
    if chooser.config.choose in ("medoid", "regressor"):
        return -chooser.without_reward(observation, action, offered)
    return models.judge.log_odds(observation, action, offered)


@torch.no_grad()
def _rollouts(chooser: TransitionFilter, spec: PlantSpec, seed: int) -> dict[str, float]:
    """Rollouts of the unseen controllers in the model, beside the plant's own."""
    figures: dict[str, float] = {}
    for name in CONTROLLERS:
        error, alive = model_rollouts(chooser, spec, name, seed)
        figures[f"rollout_mae_{name}"] = float(error.mean())
        figures[f"accepted_mae_{name}"] = float(error[alive].mean()) if alive.any() else float("nan")
        figures[f"ended_{name}"] = float(1.0 - alive[-1].mean())
    return figures


@torch.no_grad()
def model_rollouts(
    chooser: TransitionFilter, spec: PlantSpec, controller: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A controller in the model and, apart from it, on the plant without noise, doors alike.

    Where the door is no exogenous tag, the model follows its own prediction of it.

    Returns:
        (steps, B) error of the temperature in kelvin; (steps, B) whether the threshold has accepted all steps so far.
    """
    task, world = get_task(TASK), WorldModel(chooser.ensemble, spec)
    simulator = VectorRefrigerator(ROLLOUT_COPIES, np.random.default_rng(ROLLOUT_SEED), noise="none")
    law = task.controller(controller, np.random.default_rng(ROLLOUT_SEED))
    law.reset(ROLLOUT_COPIES)
    frames = [simulator.reset().copy()]
    for _ in range(ROLLOUT_STEPS):
        frames.append(simulator.step(law.act(frames[-1])).copy())
    law.reset(ROLLOUT_COPIES)
    generator = torch.Generator().manual_seed(seed)
    frame = torch.tensor(frames[0], dtype=torch.float32)
    errors, accepted = [], []
    for true in frames[1:]:
        command = torch.tensor(law.act(frame.double().numpy()), dtype=torch.float32)
        chosen = chooser(frame, world.limits.apply(command, frame), generator)
        frame = world.next_frame(chosen.state, torch.tensor(true, dtype=torch.float32))
        errors.append(np.abs(frame[:, 0].double().numpy() - true[:, 0]))
        accepted.append(chosen.accepted.numpy())
    return np.array(errors), np.logical_and.accumulate(np.array(accepted), axis=0)
