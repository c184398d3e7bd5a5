"""The checks of transitions: was what happened likely, and is what comes next familiar and inside the limits?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.spec import PlantSpec
from deploy.bundle.manifest import SHIFT, STRETCH
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.slots import MAX_SHORTFALL
from deploy.export.stages import Notes, every, limited, within


class Observed(NamedTuple):
    """Whether the observed transitions are likely, this one's shortfall, and the sums carried on: all (B, 1).

    The shortfall is the log's: standardised as calibrated, before shift and stretch; 0 where it was not scored.
    """

    likely: Tensor
    shortfall: Tensor
    ewma: Tensor
    cusum: Tensor


class ObservedCheck(nn.Module):
    """Sensor faults and plant drift: the shortfall of the observed transition, in one step, on average and in sum.

    EWMA after Roberts (1959), one-sided CUSUM after Page (1954), both of the standardised and capped shortfall. The
    standardisation is the calibration part's, moved by what the edge found healthy on its own plant:
    ((expected - found) - mean - shift std) / (std (1 + stretch)).
    """

    def __init__(self, thresholds: Thresholds, safety: SafetyConfig) -> None:
        super().__init__()
        self.thresholds, self.safety = thresholds, safety

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
            part: the state by groups; `ewma`, `cusum`, `shortfall_shift` and `shortfall_stretch` are read.
            size: (B, 1) magnitude of the expectation in the spread's units.
            notes: flags go here.
        """
        t, s = self.thresholds, self.safety
        # Where the elites disagree, a steady shortfall is as likely the model's error as the plant's drift: it must not
        # add up to an alarm. One step that no elite could explain still is one.
        familiar = doubt <= t.spread_drift
        summed = scorable & familiar
        shift, scale = part[SHIFT], 1.0 + part[STRETCH]
        as_logged = (expected - found - t.shortfall_mean) / t.shortfall_std
        shortfall = torch.where(scorable, (as_logged - shift) / scale, 0.0)
        capped = limited(shortfall, -s.shortfall_cap, s.shortfall_cap)
        average = (1.0 - s.ewma_weight) * part["ewma"] + s.ewma_weight * capped
        ewma = torch.where(summed, limited(average, -MAX_SHORTFALL, MAX_SHORTFALL), part["ewma"])
        # A sum far beyond its limit would take long to come down once the plant is healthy again: it stops at twice it.
        added = part["cusum"] + capped - s.cusum_slack
        cusum = torch.where(summed, limited(added, 0.0, 2.0 * t.cusum_limit), part["cusum"])
        notes.ok["observed_unfamiliar"] = torch.where(scorable, doubt, 0.0) <= t.spread_drift
        notes.ok["observed_unscored"] = scorable
        notes.ok["score_observed_low"] = shortfall <= t.shortfall_limit
        notes.ok["ewma_high"] = ewma <= t.ewma_limit
        notes.ok["cusum_high"] = cusum <= t.cusum_limit
        evidence = (torch.maximum(expected.abs(), found.abs()) / t.shortfall_std + shift.abs()) / scale
        notes.margin(doubt, t.spread_drift, size)
        notes.margin(shortfall, t.shortfall_limit, evidence)
        notes.margin(ewma, t.ewma_limit, s.ewma_weight * evidence)
        notes.margin(cusum, t.cusum_limit, evidence)
        likely = notes.ok["score_observed_low"] & notes.ok["ewma_high"] & notes.ok["cusum_high"]
        reported = torch.where(scorable, limited(as_logged, -MAX_SHORTFALL, MAX_SHORTFALL), 0.0)
        return Observed(likely, reported, ewma, cusum)


class Predicted(NamedTuple):
    """Whether the predicted state keeps its hard limits, and how much trust familiar ground allows, 0 .. 1: (B, 1)."""

    inside: Tensor
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
        self.thresholds = thresholds
        self.register_buffer("low", bounds[:, 0].contiguous())
        self.register_buffer("high", bounds[:, 1].contiguous())
        stops = (thresholds.spread_stop, thresholds.score_stop)
        softs = (thresholds.spread_soft, thresholds.score_soft)
        self.register_buffer("stop", torch.tensor(stops))
        # Subtracted before it is rounded: in float32 a narrow one could be nothing.
        self.register_buffer("fall", torch.tensor([stop - soft for stop, soft in zip(stops, softs, strict=True)]))

    def forward(
        self, predicted: Tensor, spread: Tensor, score: Tensor, filling: Tensor, size: Tensor, notes: Notes
    ) -> Predicted:
        """One step.

        Args:
            predicted: (B, S) state tags.
            spread, score: (B, 1) of the prediction.
            filling: (B, 1) whether history is still filling.
            size: (B, 1) magnitude of the predictions in the spread's units.
            notes: flags go here.
        """
        t = self.thresholds
        inside = filling | every(within(predicted, self.low, self.high))
        # 1 up to (for the score: from) the soft end, 0 at the stop end and beyond, a line between; NaN gives 0.
        room = limited((self.stop - torch.cat([spread, score], dim=-1)) / self.fall, 0.0, 1.0)
        notes.ok["predicted_limit"] = inside
        notes.ok["spread_high"] = filling | (spread <= t.spread_soft)
        notes.ok["score_predicted_low"] = filling | (score >= t.score_soft)
        for threshold in (t.spread_soft, t.spread_stop):
            notes.margin(spread, threshold, size)
        for threshold in (t.score_soft, t.score_stop):
            notes.margin(score, threshold, 1.0)  # -log of a probability that is near 1 where the score is small
        notes.margins += [(predicted - end).abs() / (self.high - self.low) for end in (self.low, self.high)]
        return Predicted(inside, room.amin(dim=-1, keepdim=True))
