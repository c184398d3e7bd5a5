"""What the controller graph's checks are set to: chosen (`SafetyConfig`) and calibrated (`Thresholds`).

Which checks cut trust to zero at once, and which only scale it:

- Cut: an input that is not usable, a broken rhythm, an unknown command in force, history that is not full, `enable`
  off, a network output that is not a number, an observed transition that the dynamics reward calls false (one step far
  off, or EWMA or CUSUM over many), a predicted violation of a hard limit. In each of these the controller does not
  know what the plant does, or knows that it will do harm.
- Scale: the elites' spread, and the dynamics reward of the predicted transition. A policy that improves on the log acts
  outside the logged actions by design, so unfamiliar ground is no failure by itself: trust is whole up to the soft end,
  falls along a line, and is nothing from the stop end on.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
# Standard deviations beyond which a recalibrated check would check nothing.
MAX_RECALIBRATION = 10.0


class Record(BaseModel):
    """Base of everything in a manifest: no unknown field, no conversion of types, no NaN, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SafetyConfig(Record):
    """The choices behind the checks.

    Attributes:
        recovery_periods: periods that trust takes from 0 back to 1 once every check passes.
        dt_tolerance: share of the period by which a step may come early or late; beyond it history starts anew.
        blind_ramp_periods: periods that an actuator takes across its whole span on its way to the safe value, where its
            PI fallback has no usable measurement.
        frozen_min_repeats, frozen_factor, frozen_max_repeat_share: a state tag counts as frozen after
            max(min_repeats, factor x the calibration part's longest run) exact repeats; the rule is off for a tag that
            repeats itself in more than that share of the calibration part (coarse or noise-free signals).
        ewma_weight: weight of the newest step in the moving average of the observed shortfall.
        cusum_slack: standard deviations that the CUSUM forgives per step.
        shortfall_cap: standard deviations at which one step's shortfall is capped before it enters EWMA and CUSUM, so
            that a single spike is left to the one-step rule.
        tail: share of healthy steps beyond a calibrated quantile.
        observed_margin, spread_margin, score_margin: factors between what healthy steps reach and where a check acts.
        stop_factor: distance of the stop end of the scaling checks, as a multiple of the soft end.
        closed_loop_allowance: how many times what the log reaches an observed threshold may be raised for the policy's
            own closed loop.
        familiarity_allowance: the same for spread and predicted score. Whether the policy's ground is acceptable is the
            evaluation's business; here it is what is healthy, and leaving it is what the scaling checks are for.
        closed_loop_copies, closed_loop_steps: size of the simulated closed loop that the thresholds are also fitted to.
        recalibration_shift, recalibration_stretch: how far an edge may move the observed checks to its own plant's
            healthy shortfall (a historian's compression skews the log's): the mean by at most `shift` of the log's
            standard deviations either way, the standard deviation to at most 1 + `stretch` times the log's, and never
            below it. Whatever an edge has learned, a step beyond shift + (1 + stretch) x its limit still trips.
        recalibration_steps: scored steps that an edge must have seen before it may be armed with what it learned. Steps
            in a row are alike: if one in five brings news, 500 give the mean to a tenth of a standard deviation.
    """

    recovery_periods: Annotated[int, Field(ge=1)] = 10
    dt_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.5
    blind_ramp_periods: Annotated[int, Field(ge=1)] = 60
    frozen_min_repeats: Annotated[int, Field(ge=2)] = 10
    frozen_factor: Annotated[float, Field(ge=1)] = 3.0
    frozen_max_repeat_share: Share = 0.05
    ewma_weight: Annotated[float, Field(gt=0, le=1)] = 0.05
    cusum_slack: NotNegative = 0.5
    shortfall_cap: Positive = 6.0
    tail: Share = 0.001
    observed_margin: Annotated[float, Field(ge=1)] = 1.5
    spread_margin: Annotated[float, Field(ge=1)] = 2.0
    score_margin: Annotated[float, Field(ge=1)] = 2.0
    stop_factor: Annotated[float, Field(gt=1)] = 2.0
    closed_loop_allowance: Annotated[float, Field(ge=1)] = 5.0
    familiarity_allowance: Annotated[float, Field(ge=1)] = 25.0
    closed_loop_copies: Annotated[int, Field(ge=1, le=4096)] = 32
    closed_loop_steps: Annotated[int, Field(ge=1, le=100_000)] = 200
    recalibration_shift: Annotated[float, Field(ge=0, le=MAX_RECALIBRATION)] = 3.0
    recalibration_stretch: Annotated[float, Field(ge=0, le=MAX_RECALIBRATION)] = 2.0
    recalibration_steps: Annotated[int, Field(ge=1)] = 500


class Recalibration(Record):
    """How an edge may fit the observed checks to its own plant, in SHADOW; `None` in a manifest: not at all.

    Attributes:
        shift: the state slot `shortfall_shift` lies within -shift .. shift, standard deviations of the log's shortfall.
        stretch: the state slot `shortfall_stretch` lies within 0 .. stretch, share of that standard deviation.
        steps: scored steps needed.
    """

    shift: NotNegative
    stretch: NotNegative
    steps: Annotated[int, Field(ge=1)]

    @classmethod
    def of(cls, safety: SafetyConfig) -> Recalibration:
        """What the choices behind the checks allow."""
        return cls(
            shift=safety.recalibration_shift, stretch=safety.recalibration_stretch, steps=safety.recalibration_steps
        )


class Thresholds(Record):
    """Where the checks act, calibrated on the calibration part of the split.

    Attributes:
        frozen_repeats: per state tag, exact repeats from which it counts as frozen; `None` where the rule is off.
        shortfall_mean, shortfall_std: of the healthy observed shortfall: the evidence (log odds behind the dynamics
            reward) of what the elites expected minus that of what was observed, at the same observation and command.
        shortfall_limit: standardised shortfall of one step beyond which trust is cut.
        ewma_limit, cusum_limit: the same for the moving average and the cumulative sum.
        score_soft, score_stop: predicted dynamics reward below which trust falls, and is nothing.
        spread_soft, spread_stop: spread above which trust falls, and is nothing.
        spread_drift: spread of the expectation above which moving average and sum rest: where the elites disagree, an
            error of the model cannot be told from drift of the plant.
    """

    frozen_repeats: dict[str, int | None]
    shortfall_mean: float
    shortfall_std: Positive
    shortfall_limit: Positive
    ewma_limit: Positive
    cusum_limit: Positive
    score_soft: float
    score_stop: float
    spread_soft: Positive
    spread_stop: Positive
    spread_drift: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.score_stop >= self.score_soft or self.spread_soft >= self.spread_stop:
            raise ValueError("a stop end must lie beyond its soft end")
        return self


class CalibrationRecord(Record):
    """What the thresholds were fitted to.

    Attributes:
        rows: usable steps of the calibration part.
        closed_loop_steps: healthy steps of the policy in the learned model (with recorded residuals).
        logged, closed_loop: largest or extreme values reached there, by the name of the check.
    """

    rows: int
    closed_loop_steps: int
    logged: dict[str, float]
    closed_loop: dict[str, float]
