"""Intervals: moving-block bootstrap of a mean, delete-a-block jackknife over refits, and t intervals.

Values that follow one another in time depend on one another: whole blocks are drawn again, not single values
(Kuensch 1989, The jackknife and the bootstrap for general stationary observations). Errors of independent origin are
added in squares, and their degrees of freedom pooled (Satterthwaite 1946); t intervals are used because few blocks
and few refits stand behind a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 1000
# Beyond this a t distribution cannot be told from a normal one.
MAX_FREEDOM = 1000.0


@dataclass(frozen=True)
class StandardError:
    """A standard error and the degrees of freedom behind it."""

    value: float
    freedom: float


@dataclass(frozen=True)
class Estimate:
    """A number and what may be said about it.

    Attributes:
        value: the estimate.
        low, high: ends of the interval.
        stderr: standard error; NaN where the interval was not made from one.
        level: the interval's nominal coverage.
    """

    value: float
    low: float
    high: float
    stderr: float
    level: float

    def minus(self, constant: float) -> Estimate:
        """The same, with a known constant taken away."""
        return Estimate(self.value - constant, self.low - constant, self.high - constant, self.stderr, self.level)


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution; `freedom` may be a fraction, at least 1.

    With t = sqrt(n) tan(x) the density is cos(x)^(n - 1), which is summed up and inverted numerically.
    """
    freedom = min(max(freedom, 1.0), MAX_FREEDOM)
    angle = np.linspace(0.0, np.pi / 2, 40_001)
    density = np.cos(angle) ** (freedom - 1.0)
    share = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    found = float(np.interp(abs(probability - 0.5) * 2.0, share / share[-1], angle))
    return math.copysign(math.sqrt(freedom) * math.tan(found), probability - 0.5)


def moving_block(
    values: Floats, block: int, rng: np.random.Generator, resamples: int = RESAMPLES, weights: Floats | None = None
) -> StandardError:
    """Standard error of the mean of values in order of time.

    Args:
        values: (N,) in order of time.
        block: values in a block; a block that is too short gives too small an error.
        rng: draws the blocks.
        resamples: how often.
        weights: (N,) of a weighted mean (a share is one, with the counts as weights); all 1 where not given.
    """
    count = len(values)
    block = min(max(1, block), max(1, count // 2))
    if count < 2:
        return StandardError(math.inf, 1.0)
    heavy = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    blocks = count // block
    sums = _running(values * heavy, block)  # (N - block + 1,)
    masses = _running(heavy, block)
    drawn = rng.integers(0, len(sums), size=(resamples, blocks))
    mass = masses[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1) / np.where(mass > 0, mass, 1.0)
    # A mean of drawn blocks varies as one of `blocks` independent values: n / (n - 1) makes its variance unbiased.
    spread = float(means.std(ddof=1)) * math.sqrt(blocks / max(1, blocks - 1))
    return StandardError(spread, max(1.0, blocks - 1.0))


def jackknife(estimates: Floats) -> StandardError:
    """Standard error of the mean of K estimates, each made without one of K blocks of the data: (K,)."""
    count = len(estimates)
    if count < 2:
        return StandardError(math.inf, 1.0)
    variance = (count - 1) / count * float(np.square(estimates - estimates.mean()).sum())
    return StandardError(math.sqrt(variance), count - 1.0)


def refits(estimates: Floats) -> StandardError:
    """Standard error of an estimate that was made again on M bootstrap samples of the data: (M,)."""
    if len(estimates) < 2:
        return StandardError(math.inf, 1.0)
    return StandardError(float(estimates.std(ddof=1)), len(estimates) - 1.0)


def t_interval(value: float, errors: Sequence[StandardError], level: float = LEVEL) -> Estimate:
    """A t interval from independent sources of error."""
    variance = sum(error.value**2 for error in errors)
    if variance == 0.0:
        return Estimate(value, value, value, 0.0, level)
    if not math.isfinite(variance):
        return Estimate(value, -math.inf, math.inf, math.inf, level)
    freedom = variance**2 / sum(error.value**4 / error.freedom for error in errors)
    half = t_quantile(0.5 + level / 2, freedom) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, math.sqrt(variance), level)


def union(one: Estimate, other: Estimate) -> Estimate:
    """The first estimate with an interval that holds both intervals: neither is believed against the other."""
    return Estimate(
        one.value, min(one.low, other.low), max(one.high, other.high), math.nan, min(one.level, other.level)
    )


def _running(values: Floats, block: int) -> Floats:
    total = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray(total[block:] - total[:-block], dtype=np.float64)
