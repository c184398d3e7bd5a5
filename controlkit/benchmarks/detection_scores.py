"""Figures of the suite `detection`: false trips with an upper bound, the tail beyond what was seen, delays.

A trip is a flag that cuts trust to nothing; a refusal is a flag that a sample was not taken (trust follows once the
last good sample is too old). Both find a fault. A flag counts where it is not raised at the same period of the paired
run, which has the same seeds and no fault.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.benchmarks.detection_loop import Trace
from deploy.bundle.safety import SafetyConfig, Thresholds
from envs.simulation import Floats

Bools = npt.NDArray[np.bool_]
SCORE_RULES = ("score_observed_low", "ewma_high", "cusum_high")
TRIPS = (*SCORE_RULES, "input_frozen", "input_unusable", "reference_invalid", "model_invalid", "predicted_limit")
REFUSALS = ("input_bad_quality", "input_bad_range", "input_bad_age")
SCALES = ("spread_high", "score_predicted_low")
# What the table calls a rule, in the order in which rules that act in the same period are named.
RULES = {
    "input_bad_quality": "quality",
    "input_bad_range": "range",
    "input_bad_age": "age",
    "input_frozen": "frozen",
    "input_unusable": "unusable",
    "reference_invalid": "echo",
    "model_invalid": "model",
    "score_observed_low": "one step",
    "ewma_high": "average",
    "cusum_high": "sum",
    "predicted_limit": "limit",
}
LEVEL = 0.95
BLOCK, TAIL_SHARE, RESAMPLES = 100, 0.1, 400
PER = 10_000
# Of a recalibration: quartile distances from the median at which a shortfall counts as an upset's, and the bounds.
EDGE, MOST_SHIFT, MOST_STRETCH = 4.0, 3.0, 3.0


def clopper_pearson_upper(hits: int, trials: int, level: float = LEVEL) -> float:
    """One-sided upper bound of a probability (Clopper and Pearson 1934): the p at which so few hits, or fewer, have the
    chance 1 - level; 1 where there is no trial."""
    if hits >= trials:
        return 1.0
    return _bisect(lambda p: _at_most(hits, trials, p) > 1.0 - level)


def clopper_pearson_lower(hits: int, trials: int, level: float = LEVEL) -> float:
    """The lower bound to `clopper_pearson_upper`; 0 where there is no trial."""
    return 1.0 - clopper_pearson_upper(trials - hits, trials, level)


@dataclass(frozen=True)
class FalseTrips:
    """Trips of healthy trajectories.

    Attributes:
        trips: how often a flag went up that was down the period before.
        steps: periods with full history.
        hit, trajectories: trajectories with a trip, and in all.
        rate: trips per 10 000 steps.
        upper: 95 % upper bound of that rate, from the share of trajectories with a trip, since steps of one trajectory
            are not independent: as if first trips came at a constant rate, or that share times the trips of a
            trajectory that has some, whichever is more; `None` where all have some.
    """

    trips: int
    steps: int
    hit: int
    trajectories: int
    rate: float
    upper: float | None

    @classmethod
    def of(cls, trips: int, steps: int, hit: int, trajectories: int) -> FalseTrips:
        """From counts."""
        chance = clopper_pearson_upper(hit, trajectories)
        bounded = chance < 1.0 and steps > 0
        each = max(-math.log1p(-chance), chance * trips / max(hit, 1)) if bounded else 0.0
        upper = each * trajectories / steps * PER if bounded else None
        return cls(trips, steps, hit, trajectories, trips / max(steps, 1) * PER, upper)


def false_trips(up: Bools, full: Bools) -> FalseTrips:
    """Counts trips.

    Args:
        up: (T, B) whether a flag is raised.
        full: (T, B) periods that count.
    """
    up = up & full
    begun = up & ~np.vstack([np.zeros((1, up.shape[1]), dtype=np.bool_), up[:-1]])
    return FalseTrips.of(int(begun.sum()), int(full.sum()), int(up.any(axis=0).sum()), up.shape[1])


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto tail of block maxima (Pickands 1975), fitted by probability-weighted moments (Hosking and
    Wallis 1987).

    Attributes:
        rate: blocks beyond the limit per 10 000 steps, by the fit.
        upper: its 95 % bound, by a bootstrap over trajectories.
        shape, scale: of the fit; a shape below 0 (a tail that ends) is taken as 0, which gives more trips.
        highest: the largest maximum as a share of the limit.
        excesses: maxima that the fit rests on.
    """

    rate: float
    upper: float
    shape: float
    scale: float
    highest: float
    excesses: int


def tail_beyond(values: Floats, limit: float, rng: np.random.Generator, block: int = BLOCK) -> Tail:
    """How often a healthy value may pass a limit that it was not seen to pass, or seldom.

    Args:
        values: (T, B); NaN where there is none.
        limit: of the value.
        rng: draws the resamples.
        block: periods whose maximum counts once, so that neighbours do not.
    """
    count = len(values) // block
    blocks = np.where(np.isnan(values), -np.inf, values)[: count * block].reshape(count, block, -1)
    maxima = blocks.max(axis=1)  # (count, B)
    rate, shape, scale, used = _tail_rate(maxima.ravel(), limit)
    draws = rng.integers(0, maxima.shape[1], (RESAMPLES, maxima.shape[1]))
    rates = [_tail_rate(maxima[:, draw].ravel(), limit)[0] for draw in draws]
    per = PER / block
    return Tail(rate * per, float(np.quantile(rates, LEVEL)) * per, shape, scale, float(maxima.max() / limit), used)


@dataclass(frozen=True)
class Found:
    """How a fault was found in N copies.

    Attributes:
        delay: (N,) periods from the fault's start to the first flag; -1 where there was none within the horizon.
        rule: (N,) the first flag, empty where none.
        scored: (N,) whether one of the score's own rules came up within the horizon, first or later.
    """

    delay: npt.NDArray[np.int64]
    rule: tuple[str, ...]
    scored: Bools

    def share(self, within: int) -> float:
        """Share found within so many periods."""
        return float(((self.delay >= 0) & (self.delay <= within)).mean())


def find(faulty: Trace, healthy: Trace, start: npt.NDArray[np.int64], horizon: int) -> Found:
    """Looks for the first flag that the fault raised.

    Args:
        faulty, healthy: paired runs of B copies.
        start: (B,) of the fault.
        horizon: periods to look at.
    """
    names = tuple(RULES)
    index = [faulty.names.index(name) for name in names]
    raised = faulty.flags[..., index] & ~healthy.flags[..., index]  # (T, B, R)
    delay, rule, scored = [], [], []
    of_score = [names.index(name) for name in SCORE_RULES]
    for copy, first in enumerate(start.tolist()):
        seen = raised[first : first + horizon + 1, copy]  # (H + 1, R)
        periods = np.flatnonzero(seen.any(axis=1))
        delay.append(int(periods[0]) if len(periods) else -1)
        rule.append(names[int(seen[periods[0]].argmax())] if len(periods) else "")
        scored.append(bool(seen[:, of_score].any()))
    return Found(np.array(delay), tuple(rule), np.array(scored, dtype=np.bool_))


def running_sums(shortfall: Floats, summed: Bools, safety: SafetyConfig, limit: float) -> tuple[Floats, Floats]:
    """Moving average and cumulative sum as the graph keeps them: (T, B) each.

    Args:
        shortfall: (T, B) standardised; NaN where it was not scored.
        summed: (T, B) whether the step entered the sums (scored, on familiar ground).
        safety: weight, slack and cap.
        limit: of the cumulative sum, which stops at twice it.
    """
    capped = np.clip(np.nan_to_num(shortfall), -safety.shortfall_cap, safety.shortfall_cap)
    ewma, cusum = np.zeros_like(capped), np.zeros_like(capped)
    average, total = np.zeros(capped.shape[1]), np.zeros(capped.shape[1])
    for t, (value, counts) in enumerate(zip(capped, summed, strict=True)):
        average = np.where(counts, (1.0 - safety.ewma_weight) * average + safety.ewma_weight * value, average)
        total = np.where(counts, np.clip(total + value - safety.cusum_slack, 0.0, 2.0 * limit), total)
        ewma[t], cusum[t] = average, total
    return ewma, cusum


@dataclass(frozen=True)
class Recalibrated:
    """The score's rules after a recalibration of every trajectory in SHADOW.

    Attributes:
        up: (T, B) whether a rule of the score trips.
        counted: (T, B) periods after the recalibration, of trajectories that it accepted.
        accepted: (B,) whether shift and stretch keep the bundle's bounds; the others may not be armed.
    """

    up: Bools
    counted: Bools
    accepted: Bools


def recalibrated(trace: Trace, steps: int, thresholds: Thresholds, safety: SafetyConfig) -> Recalibrated:
    """Shifts and stretches every trajectory's shortfalls by the mean and standard deviation of its own first `steps`
    scored ones, as the runtime does: what lies far from their middle half counts as its edge, and they are never
    narrowed. The sums start anew. The runtime also refuses where those steps would still trip; that is not asked here.
    """
    z = trace.shortfall.astype(np.float64)
    summed = ~trace.up("observed_unfamiliar")
    up, counted, accepted = np.zeros(z.shape, np.bool_), np.zeros(z.shape, np.bool_), np.zeros(z.shape[1], np.bool_)
    for copy in range(z.shape[1]):
        scored = np.flatnonzero(~np.isnan(z[:, copy]))
        if len(scored) <= steps:
            continue
        low, middle, high = np.quantile(mine := z[scored[:steps], copy], (0.25, 0.5, 0.75))
        near = np.clip(mine, middle - EDGE * max(high - low, 1e-3), middle + EDGE * max(high - low, 1e-3))
        shift, stretch = float(near.mean()), max(float(near.std()), 1.0)
        accepted[copy] = abs(shift) <= MOST_SHIFT and stretch <= MOST_STRETCH
        counted[scored[steps] :, copy] = accepted[copy]
        z[: scored[steps], copy] = np.nan
        z[:, copy] = (z[:, copy] - shift) / stretch
    ewma, cusum = running_sums(z, counted & ~np.isnan(z) & summed, safety, thresholds.cusum_limit)
    up = (z > thresholds.shortfall_limit) | (ewma > thresholds.ewma_limit) | (cusum > thresholds.cusum_limit)
    return Recalibrated(up & counted, counted, accepted)


def _at_most(hits: int, trials: int, p: float) -> float:
    """P(X <= hits) of a binomial X."""
    if p <= 0.0:
        return 1.0
    if p >= 1.0:
        return float(hits >= trials)
    k = np.arange(hits + 1)
    log = np.array([math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in k.tolist()])
    return float(np.exp(log + k * math.log(p) + (trials - k) * math.log1p(-p)).sum())


def _bisect(holds: Callable[[float], bool]) -> float:
    """The largest p in 0 .. 1 at which something that holds at 0 still does."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def _tail_rate(maxima: Floats, limit: float) -> tuple[float, float, float, int]:
    """Share of blocks beyond the limit, shape, scale, number of excesses."""
    threshold = float(np.quantile(maxima, 1.0 - TAIL_SHARE))
    if not math.isfinite(threshold):
        return 0.0, 0.0, 0.0, 0
    excess = np.sort(maxima[maxima > threshold] - threshold)
    if len(excess) < 2 or threshold >= limit:
        return float((maxima > limit).mean()), 0.0, 0.0, len(excess)
    rank = (np.arange(1, len(excess) + 1) - 0.35) / len(excess)
    mean, weighted = float(excess.mean()), float(((1.0 - rank) * excess).mean())
    shape = 2.0 - mean / (mean - 2.0 * weighted)
    scale = 2.0 * mean * weighted / (mean - 2.0 * weighted)
    if shape <= 0.0:  # exponential, with the mean that was seen
        shape, scale = 0.0, mean
    reach = limit - threshold
    beyond = math.exp(-reach / scale) if shape == 0.0 else (1.0 + shape * reach / scale) ** (-1.0 / shape)
    return len(excess) / len(maxima) * beyond, shape, scale, len(excess)
