"""In-sample fitted Q evaluation with a kernel (KMIFQE; Lee, Guntara, Lee, Noh, Kim 2024, arXiv 2405.18792): the value
of a deterministic policy from recorded commands alone, without a model and without asking Q about others on the way.

A recorded step (s, a, r, s', a') teaches as much as its next command a' is the policy's own,

    w = K_h(a' - pi(s')) / mu(a' | s'),   sum over steps of w (r + gamma Q(s', a') - Q(s, a)) x(s, a) = 0,

with K_h a Gaussian of bandwidth h and mu the operator's density, cloned without the step's block of time. A wide kernel
is biased, since commands beside the policy's count as its own, a narrow one rests on few steps. The paper's bandwidth
makes the mean squared error of the update smallest:

    h = (D V / (4 T B))^(1 / (D + 4)),   B = |E[gamma / 2 tr(H) x]|^2,   V = R(K) E[e^2 |x|^2 / mu(pi(s') | s')]

for D commands, T steps, the Hessian H of Q in the command, the temporal-difference error e and R(K) the integral of
K^2. Q, H and e come from a fit with a pilot bandwidth. Deviations from the paper: Q is linear in known features and
solved for in place of a network and resampled batches; commands are measured in the operator's own spread at the step,
and the kernel is round there, instead of a metric learned from H; and since the value is biased in proportion to h^2
(a policy with an unsteady hand), it is extrapolated to h = 0 from two bandwidths, h and h / sqrt(2): 2 V(h / sqrt(2)) -
V(h) (Schucany and Sommers 1977).

The operator's value, from which the gain is counted, is the same with w = 1: its next commands are its own. Only the
value of a start state asks Q about the policy's command, once, and nothing is built on that. Where fewer steps are
left, by (sum w)^2 / sum w^2 (Kish 1965), than `ROWS_PER_FEATURE` for each feature, or where a member's value lies
beyond all recorded rewards, of which a value is a mean, nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.evaluation.bootstrap import Estimate
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import Fold
from controlkit.evaluation.linear_values import LinearRegression, Resamples, with_one
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.models.actor import BehaviourClone
from controlkit.replay import LoggedTransitions

ROWS_PER_FEATURE = 10.0
# In spreads of the operator's hand; beyond the wide end nothing is local.
NARROWEST, WIDEST = 0.05, 1.0
# A single step counts at most this many times the mean.
LARGEST = 50.0
# Density of the operator's hand, per spread, below which a command counts as never given.
RARE = 1e-4
# Step of the differences that the Hessian is made of, in spreads of the operator's hand.
DIFFERENCE = 0.2


@dataclass(frozen=True)
class InSampleValues:
    """What it found for one policy.

    Attributes:
        values, gains: (M, N) value from each start state by each member, and over the operator; empty (0, N) where it
            abstains.
        effective: steps that the weights leave; needed: how many it asks for.
        bandwidth: of the wider kernel, in spreads of the operator's hand; NaN for a policy that draws its commands.
        reason: why it abstains, in words; empty where it does not.
    """

    values: Tensor
    gains: Tensor
    effective: float
    needed: float
    bandwidth: float
    reason: str = ""


@dataclass(frozen=True)
class InSampleFound:
    """The same with intervals, for the report: `value` and `gain` are `None` where it abstains."""

    value: Estimate | None
    gain: Estimate | None
    effective: float
    needed: float
    bandwidth: float
    reason: str = ""


class InSample:
    """The recorded steps whose next command is known too, and the operator's own value.

    Args:
        log: the evaluation log.
        folds: blocks of time; clones: of the operator, each fitted without its fold's block.
        starts: (N,) start rows.
        estimand: discount and horizon.
        features: of states and commands.
        members: M bootstrap samples.
        generator: draws them.
    """

    def __init__(
        self,
        log: LoggedTransitions,
        folds: Sequence[Fold],
        clones: Sequence[BehaviourClone],
        starts: Tensor,
        estimand: Estimand,
        features: ValueFeatures,
        members: int,
        generator: torch.Generator,
    ) -> None:
        self._log, self._estimand, self._features, self._starts = log, estimand, features, starts
        usable = torch.zeros(len(log.frames) + 1, dtype=torch.bool)
        usable[log.rows] = True
        ended = log.terminated[log.rows]
        self.rows = log.rows[usable[log.rows + 1] | ended]  # (T,)
        self._over = log.terminated[self.rows]
        # After a trip nothing follows; its own row stands where a next one is looked up.
        self._next = torch.where(self._over, self.rows, self.rows + 1)
        self._now = self._seen(self.rows, log.actions[self.rows])
        self._after = with_one(self._seen(self._next, log.actions[self._next])) * (~self._over).unsqueeze(1)
        self._reward = (1.0 - estimand.gamma) * log.rewards[self.rows].double().unsqueeze(1)
        self._resamples = Resamples.draw(len(self.rows), estimand.block, members, generator)
        self._mean, self._spread = self._hand(folds, clones)
        at_starts = with_one(self._seen(starts, log.actions[starts]))
        self._operator = self._values(self._fit(None), at_starts)  # (M, N)

    @torch.no_grad()
    def of(self, policy: EvaluatedPolicy) -> InSampleValues:
        """The value of one policy."""
        nothing = torch.zeros(0, len(self._starts), dtype=torch.float64)
        needed = ROWS_PER_FEATURE * (self._features.size + 1)
        own, other = self._commands(policy, 0.0), self._commands(policy, 1.0)
        if not torch.equal(own, other):
            reason = "the policy draws its commands: a kernel stands for a single one"
            return InSampleValues(nothing, nothing, math.nan, needed, math.nan, reason)
        bandwidth = self._bandwidth(own)
        wide, weight = (self._weights(own, each) for each in (bandwidth, bandwidth / math.sqrt(2.0)))
        effective = float(weight.sum() ** 2 / weight.square().sum().clamp(min=1e-300))
        if not effective >= needed:
            reason = f"only {effective:.0f} recorded steps speak of the policy, {needed:.0f} are needed"
            return InSampleValues(nothing, nothing, effective, needed, bandwidth, reason)
        observation = self._log.observe(self._starts)
        noise = torch.zeros(len(self._starts), own.shape[1])
        first = self._features(observation, command(policy, observation, noise, self._features.limits))
        values = self._values(2.0 * self._fit(weight) - self._fit(wide), with_one(first))
        each = values.mean(dim=1)
        worst, best = float(self._log.rewards[self.rows].min()), float(self._log.rewards[self.rows].max())
        if not bool(((each >= worst) & (each <= best)).all()):
            reason = f"its values lie beyond all recorded rewards, {worst:.4g} to {best:.4g}: they do not settle"
            return InSampleValues(nothing, nothing, effective, needed, bandwidth, reason)
        return InSampleValues(values, values - self._operator, effective, needed, bandwidth)

    def _fit(self, weight: Tensor | None) -> Tensor:
        """(M, F + 1) coefficients of Q."""
        regression = LinearRegression(self._now, self._resamples, self._estimand.gamma, weight)
        found = regression.iterate(self._reward, self._after, self._estimand.horizon) / self._estimand.weight
        return found[..., 0]

    def _values(self, found: Tensor, seen: Tensor) -> Tensor:
        """(M, N) of start states whose features are (N, F + 1)."""
        return found @ seen.T

    def _weights(self, own: Tensor, bandwidth: float) -> Tensor:
        """(T,) mean 1, and 1 after a trip, where no command follows; own: (T, m) the policy's next commands."""
        recorded = self._log.actions[self._next]
        far = ((recorded - own) / self._spread).double()
        odd = ((recorded - self._mean) / self._spread).double()
        log_weight = 0.5 * odd.square().sum(dim=1) - 0.5 * far.square().sum(dim=1) / bandwidth**2
        weight = (log_weight - log_weight[~self._over].max()).exp()  # a constant factor is lost in the mean
        weight = weight / weight[~self._over].mean().clamp(min=1e-300)
        weight = torch.where(self._over, 1.0, weight).clamp(max=LARGEST)
        return weight / weight.mean().clamp(min=1e-300)

    def _bandwidth(self, own: Tensor) -> float:
        """The paper's, from a pilot fit of about Silverman's bandwidth (1986), in spreads of the operator's hand."""
        count, commands = own.shape
        pilot = min(WIDEST, max(NARROWEST, count ** (-1.0 / (commands + 4.0))))
        weight = self._weights(own, pilot)
        q = self._fit(weight).mean(dim=0)  # (F + 1,)
        now = with_one(self._now)
        error = self._reward[:, 0] + self._estimand.gamma * self._after @ q - now @ q
        odd = ((own - self._mean) / self._spread).double()
        density = (-0.5 * odd.square().sum(dim=1)).exp() / (2.0 * math.pi) ** (commands / 2.0)
        rough = (2.0 * math.sqrt(math.pi)) ** -commands
        # Where the operator's hand never comes no kernel finds a command, whatever its bandwidth.
        known = (density > RARE) & ~self._over
        if not bool(known.any()):
            return WIDEST
        curvature = torch.where(known, self._laplacian(own, q), 0.0)
        bias = (0.5 * self._estimand.gamma * curvature) @ now / known.sum()
        variance = rough * float((error.square() * now.square().sum(dim=1) / density)[known].mean())
        squared = 4.0 * float(known.sum()) * float(bias.square().sum())
        best = (commands * variance / (squared + 1e-300)) ** (1.0 / (commands + 4.0))
        return min(WIDEST, max(NARROWEST, best)) if math.isfinite(best) else WIDEST

    def _laplacian(self, own: Tensor, q: Tensor) -> Tensor:
        """(T,) trace of the Hessian of Q in the command, per squared spread of the hand, at the policy's commands."""
        middle = with_one(self._seen(self._next, own)) @ q
        total = torch.zeros_like(middle)
        for column in range(own.shape[1]):
            aside = torch.zeros_like(own)
            aside[:, column] = DIFFERENCE * self._spread[:, column]
            up, down = (with_one(self._seen(self._next, own + side)) @ q for side in (aside, -aside))
            total += (up - 2.0 * middle + down) / DIFFERENCE**2
        return total

    def _commands(self, policy: EvaluatedPolicy, noise: float) -> Tensor:
        """(T, m) the policy's commands at the next states."""
        found = []
        for part in self._next.split(8192):
            drawn = torch.full((len(part), self._mean.shape[1]), noise)
            found.append(command(policy, self._log.observe(part), drawn, self._features.limits))
        return torch.cat(found)

    def _seen(self, rows: Tensor, actions: Tensor) -> Tensor:
        """(T, F) features."""
        parts = zip(rows.split(8192), actions.split(8192), strict=True)
        return torch.cat([self._features(self._log.observe(part), given) for part, given in parts])

    @torch.no_grad()
    def _hand(self, folds: Sequence[Fold], clones: Sequence[BehaviourClone]) -> tuple[Tensor, Tensor]:
        """Mean and spread of the operator's command at the next states, (T, m) each, engineering units."""
        mean = torch.zeros(len(self.rows), len(self._log.layout.action_tags))
        spread = torch.ones_like(mean)
        for fold, clone in zip(folds, clones, strict=True):
            mine = ((self.rows >= fold.left_out[0]) & (self.rows <= fold.left_out[-1])).nonzero().squeeze(1)
            for part in mine.split(8192):
                observation = self._log.observe(self._next[part])
                _, log_std = clone.distribution(observation)
                mean[part] = clone(observation)
                spread[part] = log_std.exp() * clone.action_scaler.spread
        return mean, spread
