"""Which tag moves which, and after what delay: cross-correlation of prewhitened signals.

Each tag is reduced to what its own past does not tell (its innovations, from an autoregression), so that a slow drift
that two tags share is no effect (Box and Jenkins, Time Series Analysis, ch. 11; Haugh 1976). An innovation of tag i
that correlates with one of tag j so many sample times later is an effect of i on j with that delay, or of a third tag
on both: hence these are leads for a proposal, not findings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.ingest.draft.signals import Float64, Grid

# Order of the autoregression: pulses of a fixed length, such as a door's, are told by their own past up to here.
ORDER = 30
LAGS = 120
# An effect explains at least this share of the other tag's innovations, whatever the number of samples.
LEAST = 0.05**2
# Multiplications that a comparison of all pairs may cost.
_BUDGET = 4e10


@dataclass(frozen=True)
class Relations:
    """Correlations of the innovations of n tags.

    Attributes:
        names: of the tags.
        period_s: of one lag.
        correlation: (L + 1, n, n) of the innovation of tag i with that of tag j so many lags later.
        bound: what a correlation by chance hardly exceeds in any pair and lag.
    """

    names: tuple[str, ...]
    period_s: float
    correlation: Float64
    bound: float

    def strength(self) -> Float64:
        """(n, n) the largest correlation of i with a later j, at a lag of 1 or more; 0 below the bound."""
        peak = np.abs(self.correlation[1:]).max(axis=0)
        np.fill_diagonal(peak, 0.0)
        return np.asarray(np.where(peak > self.bound, peak, 0.0))

    def together(self) -> Float64:
        """(n, n) the correlation at the same sample time; 0 below the bound."""
        same = np.abs(self.correlation[0]).copy()
        np.fill_diagonal(same, 0.0)
        return np.asarray(np.where(same > self.bound, same, 0.0))

    def delay(self, cause: str, effect: str) -> int | None:
        """Lags until the effect is seen first, 1 at least; None without an effect."""
        i, j = self.names.index(cause), self.names.index(effect)
        course = np.abs(self.correlation[1:, i, j])
        if course.max() <= self.bound:
            return None
        # Half of the peak: an effect spreads over some samples, and its beginning is the delay.
        return int(np.flatnonzero(course >= max(self.bound, 0.5 * course.max()))[0]) + 1

    def direction(self, cause: str, effect: str) -> int:
        """The sign of the strongest effect."""
        course = self.correlation[1:, self.names.index(cause), self.names.index(effect)]
        return 1 if course[np.abs(course).argmax()] > 0 else -1


def rows_for(tags: int) -> int:
    """Sample times that so many tags may be compared on."""
    return int(min(200_000, max(5_000, _BUDGET / (LAGS * max(1, tags) ** 2))))


def relate(grid: Grid) -> Relations:
    """Compares all pairs of tags on a grid."""
    n = len(grid.names)
    lags = max(2, min(LAGS, max(len(stretch) for stretch in grid.stretches) // 3))
    innovations = _innovations(grid)
    # Zeros between the stretches, so that no lag reaches from one into the next.
    apart = np.zeros((lags, n))
    joined = np.concatenate([part for stretch in innovations for part in (stretch, apart)])
    size = np.sqrt(np.square(joined).sum(axis=0))
    joined /= np.where(size > 0, size, 1.0)
    joined = joined.astype(np.float32)
    correlation = np.stack([joined[: len(joined) - k].T @ joined[k:] for k in range(lags + 1)]).astype(np.float64)
    samples = max(1, sum(len(stretch) for stretch in innovations))
    chance = (np.sqrt(2 * np.log(max(2, n * n * lags))) + 1) / np.sqrt(samples)
    return Relations(grid.names, grid.period_s, correlation, max(float(chance), float(np.sqrt(LEAST))))


def _innovations(grid: Grid) -> list[Float64]:
    """What each tag's own past does not tell, stretch by stretch (T_s - order, n); 0 where it is unknown."""
    typical = int(np.median([len(stretch) for stretch in grid.stretches]))
    order = max(2, min(ORDER, typical // 5))
    stretches = [stretch for stretch in grid.stretches if len(stretch) > 2 * order]
    parts = [np.zeros((len(stretch) - order, len(grid.names))) for stretch in stretches]
    for i in range(len(grid.names)):
        past = [np.lib.stride_tricks.sliding_window_view(stretch[:, i], order + 1) for stretch in stretches]
        rows = [window[np.isfinite(window).all(axis=1)] for window in past]
        every = np.concatenate(rows) if rows else np.empty((0, order + 1))
        if len(every) < 10 * order:
            continue
        centre, scale = every.mean(), every.std()
        weights = _autoregression((every - centre) / (scale or 1.0))
        for window, part in zip(past, parts, strict=True):
            scaled = (window - centre) / (scale or 1.0)
            error = scaled[:, -1] - scaled[:, :-1] @ weights
            # Single jumps, such as a changed setpoint, count, but do not drown everything else.
            part[:, i] = np.where(np.isfinite(error), error, 0.0)
        spread = np.sqrt(np.mean(np.square(np.concatenate([part[:, i] for part in parts]))))
        for part in parts:
            np.clip(part[:, i], -8 * spread, 8 * spread, out=part[:, i])
    return parts


def _autoregression(windows: Float64) -> npt.NDArray[np.float64]:
    """Weights (p,) of the past of each window (W, p + 1) for its last value; a trace of ridge against ties."""
    past, last = windows[:, :-1], windows[:, -1]
    gram = past.T @ past
    gram[np.diag_indices(past.shape[1])] += 1e-6 * len(windows)
    return np.asarray(np.linalg.solve(gram, past.T @ last))
