"""Limits and actuators: how often rollouts leave a limit, and what they ask of the actuators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlkit.evaluation.bootstrap import Estimate, jackknife, moving_block, t_interval
from controlkit.evaluation.model_rollouts import RolledOut
from controlkit.evaluation.verdict import LimitEvidence
from controlkit.objective import CommandLimits, Objective
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec


@dataclass(frozen=True)
class Limit:
    """A bound on a state tag, with the tolerated share of samples outside; `tag` is empty for a trip of the plant."""

    name: str
    tag: str
    low: float
    high: float
    allowed: float


@dataclass(frozen=True)
class ActuatorUse:
    """What is asked of one actuator.

    Attributes:
        tag, unit: the action.
        low, high: the middle 90 % of the commands.
        travel: mean |change| per period; fastest: largest change in a period.
        reversals: share of periods in which the command turns round.
        saturated: share of periods at an absolute limit.
    """

    tag: str
    unit: str
    low: float
    high: float
    travel: float
    fastest: float
    reversals: float
    saturated: float


def limits_of(spec: PlantSpec) -> tuple[Limit, ...]:
    """Constraints with their tolerated shares, hard limits of state tags, and trips."""
    found = []
    for constraint in spec.constraints:
        low = -np.inf if constraint.low is None else constraint.low
        high = np.inf if constraint.high is None else constraint.high
        text = _bounds(constraint.low, constraint.high, spec.tags[constraint.tag].unit)
        found.append(Limit(f"Constraint {constraint.tag} {text}", constraint.tag, low, high, constraint.share))
    for tag in spec.state_tags:
        bounds = spec.tags[tag].limits
        if bounds is not None:
            text = _bounds(*bounds, spec.tags[tag].unit)
            found.append(Limit(f"Limit of {tag} {text}", tag, bounds[0], bounds[1], 0.0))
    if spec.episodes.terminated:
        found.append(Limit("No trip of the plant", "", -np.inf, np.inf, 0.0))
    return tuple(found)


def recorded_outside(limits: Sequence[Limit], log: LoggedTransitions) -> Tensor:
    """(T, L) whether the sample after each usable row of the log lies outside each limit; trips are no samples: 0."""
    found = torch.zeros(len(log.rows), len(limits))
    for column, limit in enumerate(limits):
        if limit.tag:
            value = log.frames[log.rows + 1, log.layout.frame_tags.index(limit.tag)]
            found[:, column] = ((value < limit.low) | (value > limit.high)).float()
    return found


def judge_limit(
    limit: Limit,
    objective: Objective,
    policy: list[RolledOut],
    operator: list[RolledOut],
    block: int,
    level: float,
    rng: np.random.Generator,
    among: Tensor | None = None,
) -> LimitEvidence:
    """The share of simulated samples outside a limit, by the policy and by the operator from the same starts: from all
    of them, or from those `among` them (N',)."""
    mine, theirs = (_outside(limit, objective, rolled) for rolled in (policy, operator))  # (K, N) each
    if among is not None:
        mine, theirs = mine[:, among], theirs[:, among]
    share = _share(mine, block, level, rng)
    worse = _share(mine - theirs, block, level, rng)
    return LimitEvidence(
        limit.name, limit.allowed, share.value, max(0.0, share.low), share.high, float(theirs.mean()), worse.low
    )


def actuator_use(spec: PlantSpec, limits: CommandLimits, actions: Tensor, alive: Tensor) -> tuple[ActuatorUse, ...]:
    """Statistics of commands along time: (H, B, m), with (H, B) whether each counts."""
    found = []
    for column, tag in enumerate(spec.action_tags):
        used = actions[..., column].double()
        values = used[alive]
        low, high = float(limits.low[column]), float(limits.high[column])
        slack = 1e-6 * (high - low)
        change, both = used[1:] - used[:-1], alive[1:] & alive[:-1]
        turned = (change[1:] * change[:-1] < 0) & both[1:] & both[:-1]
        thin = values[:: max(1, len(values) // 100_000)]
        ends = torch.quantile(thin, torch.tensor([0.05, 0.95], dtype=torch.float64))
        found.append(
            ActuatorUse(
                tag,
                spec.tags[tag].unit,
                float(ends[0]),
                float(ends[1]),
                _mean(change.abs()[both]),
                float(change.abs()[both].max()) if bool(both.any()) else 0.0,
                _mean(turned[both[1:] & both[:-1]].double()),
                _mean(((values <= low + slack) | (values >= high - slack)).double()),
            )
        )
    return tuple(found)


def _outside(limit: Limit, objective: Objective, rolled: Sequence[RolledOut]) -> Tensor:
    """(K, N) share of samples outside, per fold and start; of a trip: whether it happens."""
    found = []
    for r in rolled:
        frames = r.frames[1:]  # what the policy led to; the start state is not its doing
        if limit.tag:
            value = frames[..., objective.layout.frame_tags.index(limit.tag)]
            out = ((value < limit.low) | (value > limit.high)) & r.alive
            share = out.double().sum(dim=0) / r.alive.double().sum(dim=0).clamp(min=1.0)
        else:
            share = (objective.terminated(r.frames[:-1], r.actions, frames) & r.alive).any(dim=0).double()
        found.append(share.reshape(r.members, r.starts).mean(dim=0))
    return torch.stack(found)


def _share(values: Tensor, block: int, level: float, rng: np.random.Generator) -> Estimate:
    per_start, per_fold = values.mean(dim=0).numpy(), values.mean(dim=1).numpy()
    return t_interval(float(values.mean()), [moving_block(per_start, block, rng), jackknife(per_fold)], level)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0


def _bounds(low: float | None, high: float | None, unit: str) -> str:
    if low is None:
        return f"at most {high:g} {unit}"
    if high is None:
        return f"at least {low:g} {unit}"
    return f"within {low:g} .. {high:g} {unit}"
