"""Fitted Q evaluation (Le, Voloshin, Yue 2019, arXiv 1903.08738) of what recorded steps say against the model.

    value = V_model + C,   C(s, a) = E[d(s, a, s') + gamma C(s', pi(s'))]
    d = (1 - gamma) r + gamma V(s') - E_model[(1 - gamma) r + gamma V(s')]

with V the model's own value of the policy (`model_values`) and V_model its rollouts'. By the simulation lemma (Kearns
and Singh 2002) C is what the model's value lacks to the true one, if V is the model's value exactly, and but for a
product of two small errors where it is not. Where the model is right d is noise without a mean, whatever V is, and C is
small; plain fitted Q evaluation (V = 0) has to find the whole value in its features, and what these cannot express it
gets wrong far along a policy's way: docs/evaluation.md has the figures. It is a doubly robust estimate in the sense of
Jiang and Li 2016 (arXiv 1511.03722), with regressions in place of importance weights, and starts from the rollouts: it
is a witness of the model's errors on recorded steps, not one by itself. `in_sample.py` has one that sees no model.

C is linear in known features of (s, a) (`value_features`), its regressions are solved, not descended
(`linear_values`); where a policy's step lies beyond what the log holds, C of the last known place on the way there is
taken, which is no knowledge: the support check is for that. Every member of the ensemble sees its own block bootstrap
sample of the log, so that the members' spread is the sampling error. Where that is too large to tell a model's error
from noise, the regression of d is shrunk (`shrinkage`), for the policy and for the one that it is held against alike.

Limits are judged alike, without a baseline: a column for each holds the (1 - gamma) discounted sum of the indicator
that a sample lies outside, the share of samples outside, near ones counting more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.errors import TrainingError
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.limits import Limit, recorded_outside
from controlkit.evaluation.linear_values import RIDGES, LinearRegression, Resamples, with_one
from controlkit.evaluation.model_values import ModelValues
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.evaluation.shrinkage import choose_shrinkage
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
        values: (P, M, N) value from each start state, per policy and member, plant units per period. Less the first
            policy's it is the gain, shrunk where it was too noisy.
        plain: (P, M, N) the same, never shrunk.
        outside: (P, M, N, L) the same of each limit's indicator: the discounted share of samples outside.
        ridges: (P,) of `RIDGES` by which a gain was shrunk, 0 where it was not.
        bellman: (P,) what remains of the Bellman error, root mean square, in spreads of the reward.
        rows: (R,) recorded steps, evenly over the log; errors: (P, R) their temporal-difference errors
            d + gamma C(s', pi(s')) - C(s, a) of the plain ones, plant units per period, by the members that were not
            fitted on them; NaN where all were.
    """

    values: Tensor
    plain: Tensor
    outside: Tensor
    ridges: Tensor
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
    exact: float = math.inf,
) -> FittedValues:
    """Evaluates all policies.

    Args:
        policies: P of them; gains are over the first one.
        log: the evaluation log.
        starts: (N,) start rows, among the log's usable ones.
        estimand: gives discount and horizon.
        features: of states and commands; their limits are applied to every next command.
        baseline: the model's values of the same policies; `None`: 0, which is plain fitted Q evaluation.
        members: M per policy.
        generator: bootstrap, a stochastic policy's draws.
        progress: one unit per policy.
        limits: L of them.
        exact: standard error from which on a gain is shrunk, plant units per period.

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
    values, plain, shares, ridges, bellman, errors = [], [], [], [], [], []
    first: Tensor | None = None  # of the first policy, by each ridge
    progress.start("FQE", len(policies))
    for number, policy in enumerate(policies):
        step = _Step(policy, number, log, features, baseline, generator)
        base, ahead, after = step.recorded(rows)
        left = (1.0 - gamma) * reward + gamma * ahead * ~over - base  # (T,)
        after = regression.within(after) * (~over).unsqueeze(1)
        begin = regression.first_shrunk(torch.cat([left.unsqueeze(1), outside], dim=1))
        found = regression.carry(begin, after, estimand.horizon)  # (M, F + 1, 1 + L + K)
        found = found / estimand.weight  # the sum is cut where rollouts are, and weighted as theirs
        _, seen = step.following(starts)  # (N, F + 1)
        beyond = regression.within(seen) @ found  # (M, N, 1 + L + K)
        if not bool(torch.isfinite(beyond).all()):
            raise TrainingError(
                "fitted Q evaluation ends in values that are not numbers",
                where=f"policy {policy.name}",
                cure="Look for extreme rewards or values in the evaluation part of the data.",
            )
        by_ridge = torch.cat([beyond[..., :1], beyond[..., 1 + len(limits) :]], dim=2).movedim(-1, 0)  # (1 + K, M, N)
        if baseline is not None:
            by_ridge = by_ridge + baseline.start_value(number)
        first = by_ridge if first is None else first
        gains = by_ridge - first  # under equal ridges, so that what the policies share cancels
        chosen = choose_shrinkage(gains.mean(dim=2), exact)
        gaps = _gaps(left, after, regression.now, found[..., 0], kept, gamma)  # (M, R)
        values.append(first[0] + gains[chosen])
        plain.append(by_ridge[0])
        shares.append(beyond[..., 1 : 1 + len(limits)])
        ridges.append((0.0, *RIDGES)[chosen])
        bellman.append(float(gaps.mean(dim=0).square().mean().sqrt()) / scale)
        errors.append(torch.where(unseen, gaps, torch.nan).nanmean(dim=0))
        progress.advance()
    return FittedValues(
        torch.stack(values),
        torch.stack(plain),
        torch.stack(shares),
        torch.tensor(ridges),
        torch.tensor(bellman),
        rows[kept],
        torch.stack(errors),
    )


class _Step:
    """One policy's next commands at recorded states, and the model's values there."""

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
        """Of the recorded steps (T,): what the model expects of them, V of the states after them, features (T, F + 1)
        of the policy's steps from there."""
        base = torch.zeros(len(rows), dtype=torch.float64)
        ahead, after = torch.zeros_like(base), torch.zeros(len(rows), self.features.size + 1, dtype=torch.float64)
        for first in range(0, len(rows), 8192):
            part = slice(first, first + 8192)
            if self.baseline is not None:
                base[part] = self.baseline.expected(self.number, rows[part]).double()
            ahead[part], after[part] = self.following(rows[part] + 1)
        return base, ahead, after

    def following(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """V (B,) of recorded states and features (B, F + 1) of the policy's steps from them."""
        observation = self.log.observe(at)
        value = torch.zeros(len(at), dtype=torch.float64)
        found = torch.zeros(len(at), self.features.size + 1, dtype=torch.float64)
        previous: Tensor | None = None
        for drawn in range(DRAWS):
            noise = torch.empty(len(at), len(self.log.layout.action_tags)).normal_(generator=self.generator)
            action = command(self.policy, observation, noise, self.features.limits)
            if previous is not None and torch.equal(action, previous):  # a deterministic policy: all draws are one
                return value * (DRAWS / drawn), found * (DRAWS / drawn)
            previous, seen = action, self.features(observation, action)
            found += with_one(seen) / DRAWS
            if self.baseline is not None:
                value += self.baseline.state_value(self.number, seen).double() / DRAWS
        return value, found


def _in_parts(rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([of(part) for part in rows.split(8192)])


def _gaps(left: Tensor, after: Tensor, now: Tensor, found: Tensor, at: Tensor, gamma: float) -> Tensor:
    """(M, R) temporal-difference errors of each member's Q at some rows (R,); found: (M, F + 1)."""
    onward = gamma * after[at] - now[at]  # (R, F + 1)
    return left[at] + found @ onward.T
