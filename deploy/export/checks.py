"""The checks of what was computed: was what happened likely, is what comes next familiar and inside the limits, and was
a command cut?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.spec import PlantSpec
from deploy.bundle.manifest import SHIFT, STRETCH
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.slots import MAX_SHORTFALL
from deploy.export.stages import CommandStage, Notes, every, limited, within

# Share of a span by which a wish must be cut before a flag says so: a policy that is content with full power is not
# cut.
CUT = 1e-4


class Observed(NamedTuple):
    """What the observed transitions say.

    Attributes:
        likely: (B, 3) whether this one, their average and their sum are as likely as healthy ones.
        shortfall: (B, 1) this one's; the log's, standardised as calibrated, before shift and stretch; 0 where it was
            not scored.
        sums: (B, 2) average and sum, carried on.
    """

    likely: Tensor
    shortfall: Tensor
    sums: Tensor


class ObservedCheck(nn.Module):
    """Sensor faults and plant drift: the shortfall of the observed transition, in one step, on average and in sum.

    EWMA after Roberts (1959), one-sided CUSUM after Page (1954), both of the standardised and capped shortfall. The
    standardisation is the calibration part's, moved by what the edge found healthy on its own plant:
    ((expected - found) - mean - shift std) / (std (1 + stretch)).
    """

    decay: Tensor
    gain: Tensor
    slack: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, thresholds: Thresholds, safety: SafetyConfig) -> None:
        super().__init__()
        self.thresholds, self.safety = thresholds, safety
        weight = safety.ewma_weight
        self.register_buffer("decay", torch.tensor([1.0 - weight, 1.0]))
        self.register_buffer("gain", torch.tensor([weight, 1.0]))
        self.register_buffer("slack", torch.tensor([0.0, safety.cusum_slack]))
        self.register_buffer("lowest", torch.tensor([-MAX_SHORTFALL, 0.0]))
        # A sum far beyond its limit would take long to come down once the plant is healthy again: it stops at twice it.
        self.register_buffer("highest", torch.tensor([MAX_SHORTFALL, 2.0 * thresholds.cusum_limit]))

    def forward(
        self,
        expected: Tensor,
        found: Tensor,
        doubt: Tensor,
        scorable: Tensor,
        part: dict[str, Tensor],
        size: Tensor,
        notes: Notes,
    ) -> Observed:
        """One step.

        Args:
            expected, found: (B, 1) evidence of the expected and of the observed change.
            doubt: (B, 1) spread of the expectation.
            scorable: (B, 1) whether the transition could be scored at all.
            part: the state by groups; `sums` (average and sum), `shortfall_shift` and `shortfall_stretch` are read.
            size: (B, 1) magnitude of what the spread is computed from, in its units; at least 1.
            notes: flags go here.
        """
        t, s = self.thresholds, self.safety
        # Where the elites disagree, a steady shortfall is as likely the model's error as the plant's drift: it must not
        # add up to an alarm. One step that no elite could explain still is one.
        familiar = doubt <= t.spread_drift
        shift, scale = part[SHIFT], 1.0 + part[STRETCH]
        as_logged = (expected - found - t.shortfall_mean) / t.shortfall_std
        shortfall = torch.where(scorable, (as_logged - shift) / scale, 0.0)
        capped = limited(shortfall, -s.shortfall_cap, s.shortfall_cap)
        before = part["sums"]  # (B, 2)
        added = self.decay * before + (self.gain * capped - self.slack)
        sums = torch.where(scorable & familiar, limited(added, self.lowest, self.highest), before)
        limits = torch.tensor((t.shortfall_limit, t.ewma_limit, t.cusum_limit))
        likely = torch.cat([shortfall, sums], dim=-1) <= limits
        notes.ok["observed_unfamiliar"] = torch.where(scorable, doubt, 0.0) <= t.spread_drift
        notes.ok["observed_unscored"] = scorable
        names = ("score_observed_low", "ewma_high", "cusum_high")
        notes.ok |= dict(zip(names, likely.split(1, dim=-1), strict=True))
        evidence = (torch.maximum(expected.abs(), found.abs()) / t.shortfall_std + shift.abs()) / scale
        notes.margin(doubt, t.spread_drift, size)
        notes.margin(shortfall, t.shortfall_limit, evidence)
        notes.margin(sums[:, :1], t.ewma_limit, s.ewma_weight * evidence)
        notes.margin(sums[:, 1:], t.cusum_limit, evidence)
        reported = torch.where(scorable, limited(as_logged, -MAX_SHORTFALL, MAX_SHORTFALL), 0.0)
        return Observed(likely, reported, sums)


class Predicted(NamedTuple):
    """What the predicted transition says.

    Attributes:
        checks: (B, S + 2) whether each state tag keeps its hard limits; whether the spread is low, the score high.
        ceiling: (B, 1) how much trust familiar ground allows, 0 .. 1.
    """

    checks: Tensor
    ceiling: Tensor


class PredictedCheck(nn.Module):
    """Hard limits of the predicted state tags; spread and dynamics reward of the predicted transition."""

    low: Tensor
    high: Tensor
    stop: Tensor
    fall: Tensor

    def __init__(self, spec: PlantSpec, thresholds: Thresholds) -> None:
        super().__init__()
        bounds = torch.tensor([spec.limits(tag) for tag in spec.state_tags], dtype=torch.float32)
        self.thresholds, self.states = thresholds, len(bounds)
        low = torch.tensor([-math.inf, thresholds.score_soft])
        high = torch.tensor([thresholds.spread_soft, math.inf])
        self.register_buffer("low", torch.cat([bounds[:, 0], low]))
        self.register_buffer("high", torch.cat([bounds[:, 1], high]))
        stops = (thresholds.spread_stop, thresholds.score_stop)
        softs = (thresholds.spread_soft, thresholds.score_soft)
        self.register_buffer("stop", torch.tensor(stops))
        # Subtracted before it is rounded: in float32 a narrow one could be nothing.
        self.register_buffer("fall", torch.tensor([stop - soft for stop, soft in zip(stops, softs, strict=True)]))

    def forward(self, predicted: Tensor, spread: Tensor, score: Tensor, size: Tensor, notes: Notes) -> Predicted:
        """One step.

        Args:
            predicted: (B, S) state tags.
            spread, score: (B, 1) of the prediction.
            size: (B, 1) magnitude of what the spread is computed from, in its units; at least 1.
            notes: margins go here.
        """
        t, count = self.thresholds, self.states
        familiarity = torch.cat([spread, score], dim=-1)
        checks = within(torch.cat([predicted, familiarity], dim=-1), self.low, self.high)
        # 1 up to (for the score: from) the soft end, 0 at the stop end and beyond, a line between; NaN gives 0.
        room = limited((self.stop - familiarity) / self.fall, 0.0, 1.0)
        for threshold in (t.spread_soft, t.spread_stop):
            notes.margin(spread, threshold, size)
        for threshold in (t.score_soft, t.score_stop):
            notes.margin(score, threshold, 1.0)  # -log of a probability that is near 1 where the score is small
        low, high = self.low[:count], self.high[:count]
        notes.margins += [(predicted - end).abs() / (high - low) for end in (low, high)]
        return Predicted(checks, room.amin(dim=-1, keepdim=True))


def note_cuts(
    commands: CommandStage,
    wishes: tuple[Tensor, Tensor],
    action: Tensor,
    trust: Tensor,
    window: tuple[Tensor, Tensor],
    notes: Notes,
) -> None:
    """Flags wishes that had a part in the action: beyond the absolute limits, or inside these but out of reach.

    Args:
        commands: with the absolute limits.
        wishes: (B, m) of the policy and of the fallback.
        action: (B, m) what became of them.
        trust: (B, 1) the policy's part.
        window: (B, m) lowest and highest command in reach.
        notes: flags go here.
    """
    c, slack, (low, high) = commands, CUT * commands.span, window
    counting = (torch.where(trust > 0.0, wishes[0], action), torch.where(trust < 1.0, wishes[1], action))
    # Both wishes side by side: half the operators.
    part = torch.cat(counting, dim=-1)  # (B, 2m)
    reached = limited(part, _twice(c.low), _twice(c.high))
    notes.ok["clamped"] = every(within(part, _twice(c.low - slack), _twice(c.high + slack)))
    notes.ok["rate_limited"] = every(within(reached, _twice(low - slack), _twice(high + slack)))
    for value in wishes:
        for wanted, ends in ((value, (c.low, c.high)), (c.clamp(value), (low, high))):
            bounds = (ends[0] - slack, ends[1] + slack)
            notes.margins += [(wanted - bound).abs() / c.span for bound in bounds]


def _twice(x: Tensor) -> Tensor:
    """(..., m) -> (..., 2m)."""
    return torch.cat([x, x], dim=-1)
