"""Fitted Q evaluation (Le, Voloshin, Yue 2019, arXiv 1903.08738) of the recorded steps, with the model's value as the
baseline: what recorded transitions say against the model, carried on to the policy's value.

    Q = Q_model + C,   C(s, a) = E[d(s, a, s') + gamma C(s', pi(s'))]
    d = (1 - gamma) r + gamma Q_model(s', pi(s')) - Q_model(s, a)

holds for any Q_model, so that C takes away what the model gets wrong wherever the log has seen it. Where the model is
right d is noise without a mean, and C is small; plain fitted Q evaluation (Q_model = 0) has to find the whole value in
its features, and what these cannot express it gets wrong far along a policy's way: docs/evaluation.md has the figures.
It is a doubly robust estimate in the sense of Jiang and Li 2016 (arXiv 1511.03722), with regressions in place of
importance weights, and shares its baseline with the model rollouts: it is a witness of the model's errors, not of its
own. `in_sample.py` has one that sees no model.

C is linear in known features of (s, a) (`value_features`), its regressions are solved, not descended
(`linear_values`), and every member of the ensemble sees its own block bootstrap sample of the log, so that the members'
spread is the sampling error.

Limits are judged alike, without a baseline: a column for each holds the (1 - gamma) discounted sum of the indicator
that a sample lies outside, the share of samples outside, near ones counting more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.errors import TrainingError
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.limits import Limit, recorded_outside
from controlkit.evaluation.linear_values import LinearRegression, Resamples, with_one
from controlkit.evaluation.model_values import DRAWS as OUTCOMES
from controlkit.evaluation.model_values import START_DRAWS, ModelValues
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.morec.log_support import thin
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

# Draws of a stochastic policy's next command that are averaged per transition.
DRAWS = 2
# Recorded steps whose temporal-difference errors are kept.
MAX_ERRORS = 8192


@dataclass(frozen=True)
class FittedValues:
    """What FQE found.

    Attributes:
        values: (P, M, N) value from each start state, per policy and member, plant units per period.
        outside: (P, M, N, L) the same of each limit's indicator: the discounted share of samples outside.
        bellman: (P,) what remains of the Bellman error, root mean square, in spreads of the reward.
        rows: (R,) recorded steps, evenly over the log; errors: (P, R) their temporal-difference errors
            (1 - gamma) r + gamma Q(s', pi(s')) - Q(s, a), plant units per period, by the members that were not fitted
            on them; NaN where all were.
    """

    values: Tensor
    outside: Tensor
    bellman: Tensor
    rows: Tensor
    errors: Tensor


@torch.no_grad()
def fit_values(
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    starts: Tensor,
    estimand: Estimand,
    features: ValueFeatures,
    baseline: ModelValues | None,
    members: int,
    generator: torch.Generator,
    progress: Progress,
    limits: Sequence[Limit] = (),
) -> FittedValues:
    """Evaluates all policies.

    Args:
        policies: P of them.
        log: the evaluation log.
        starts: (N,) start rows, among the log's usable ones.
        estimand: gives discount and horizon.
        features: of states and commands; their limits are applied to every next command.
        baseline: the model's value of the same policies; `None`: 0, which is plain fitted Q evaluation.
        members: M per policy.
        generator: bootstrap, a stochastic policy's draws.
        progress: one unit per policy.
        limits: L of them.

    Raises:
        TrainingError: a value is no number.
    """
    rows, gamma = log.rows, estimand.gamma
    over = log.terminated[rows]
    now = _in_parts(rows, lambda part: features(log.observe(part), log.actions[part]))  # (T, F)
    resamples = Resamples.draw(len(rows), estimand.block, members, generator)
    regression = LinearRegression(now, resamples, gamma)
    reward = log.rewards[rows].double()
    outside = (1.0 - gamma) * recorded_outside(limits, log).double()  # (T, L)
    kept = thin(torch.arange(len(rows)), MAX_ERRORS)
    unseen = resamples.unseen(kept)  # (M, R)
    scale = float(reward.std()) or 1.0
    values, shares, bellman, errors = [], [], [], []
    progress.start("FQE", len(policies))
    for number, policy in enumerate(policies):
        step = _Step(policy, number, log, features, baseline, generator)
        base, ahead, after = step.recorded(rows)
        left = (1.0 - gamma) * reward + gamma * ahead * ~over - base  # (T,)
        after = after * (~over).unsqueeze(1)
        found = regression.iterate(torch.cat([left.unsqueeze(1), outside], dim=1), after, estimand.horizon)
        found = found / estimand.weight  # the sum is cut where rollouts are, and weighted as theirs
        first, seen = step.starting(starts)  # (N,), (N, F + 1)
        beyond = seen @ found  # (M, N, 1 + L)
        value = first + beyond[..., 0]
        if not bool(torch.isfinite(beyond).all()):
            raise TrainingError(
                "fitted Q evaluation ends in values that are not numbers",
                where=f"policy {policy.name}",
                cure="Look for extreme rewards or values in the evaluation part of the data.",
            )
        gaps = _gaps(left, after, regression.now, found[..., 0], kept, gamma)  # (M, R)
        values.append(value)
        shares.append(beyond[..., 1:])
        bellman.append(float(gaps.mean(dim=0).square().mean().sqrt()) / scale)
        errors.append(torch.where(unseen, gaps, torch.nan).nanmean(dim=0))
        progress.advance()
    return FittedValues(
        torch.stack(values), torch.stack(shares), torch.tensor(bellman), rows[kept], torch.stack(errors)
    )


class _Step:
    """One policy's next commands at recorded states, and the baseline there."""

    def __init__(
        self,
        policy: EvaluatedPolicy,
        number: int,
        log: LoggedTransitions,
        features: ValueFeatures,
        baseline: ModelValues | None,
        generator: torch.Generator,
    ) -> None:
        self.policy, self.number, self.log, self.features = policy, number, log, features
        self.baseline, self.generator = baseline, generator

    def recorded(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Baseline of the recorded steps (T,), of the policy's steps after them (T,), features of these (T, F + 1)."""
        base = torch.zeros(len(rows), dtype=torch.float64)
        ahead, after = torch.zeros_like(base), torch.zeros(len(rows), self.features.size + 1, dtype=torch.float64)
        for first in range(0, len(rows), 8192):
            part = slice(first, first + 8192)
            at = rows[part]
            if self.baseline is not None:
                seen = self.log.observe(at)
                base[part] = self.baseline.action_value(self.number, seen, self.log.actions[at], at, at).double()
            ahead[part], after[part] = self._next(at + 1, at, DRAWS, OUTCOMES)
        return base, ahead, after

    def starting(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Baseline (N,) and features (N, F + 1) of the policy's steps at recorded states."""
        return self._next(rows, rows, DRAWS, START_DRAWS)

    def _next(self, at: Tensor, known: Tensor, draws: int, outcomes: int) -> tuple[Tensor, Tensor]:
        observation = self.log.observe(at)
        base = torch.zeros(len(at), dtype=torch.float64)
        found = torch.zeros(len(at), self.features.size + 1, dtype=torch.float64)
        previous: Tensor | None = None
        for number in range(draws):
            noise = torch.empty(len(at), len(self.log.layout.action_tags)).normal_(generator=self.generator)
            action = command(self.policy, observation, noise, self.features.limits)
            if previous is not None and torch.equal(action, previous):  # a deterministic policy: all draws are one
                return base * (draws / number), found * (draws / number)
            previous = action
            found += with_one(self.features(observation, action)) / draws
            if self.baseline is not None:
                own = self.baseline.action_value(self.number, observation, action, at, known, outcomes)
                base += own.double() / draws
        return base, found


def _in_parts(rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([of(part) for part in rows.split(8192)])


def _gaps(left: Tensor, after: Tensor, now: Tensor, found: Tensor, at: Tensor, gamma: float) -> Tensor:
    """(M, R) temporal-difference errors of each member's Q at some rows (R,); found: (M, F + 1)."""
    onward = gamma * after[at] - now[at]  # (R, F + 1)
    return left[at] + found @ onward.T
