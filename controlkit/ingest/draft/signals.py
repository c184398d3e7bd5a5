"""What a tag's samples look like by themselves, and all tags together on one grid of sample times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.align import NS
from controlkit.ingest.draft.sample import TagSample

Float64 = npt.NDArray[np.float64]

# Sample periods that people choose, in seconds.
PERIODS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
# Fewer samples say nothing about a tag.
FEWEST = 20


@dataclass(frozen=True)
class Signal:
    """Figures of one tag's good samples.

    Attributes:
        time_ns, value: (K,) good samples in order of time, one for each stamp (the last).
        interval_s: median of the intervals; inf with fewer than two samples.
        long_interval_s: the longest interval, breaks of the whole log and outages of the tag left out.
        irregular: whether the intervals differ by more than a jitter.
        levels: number of distinct values, counted up to 1000.
        repeats: share of samples that equal the one before.
        at_ends: share of samples at the very smallest or largest value.
        constant: whether it never changes in the whole log.
    """

    time_ns: npt.NDArray[np.int64]
    value: Float64
    interval_s: float
    long_interval_s: float
    irregular: bool
    levels: int
    repeats: float
    at_ends: float
    constant: bool

    @property
    def usable(self) -> bool:
        """Whether there is enough of it, moving, to say something about it."""
        return not self.constant and len(self.value) >= FEWEST

    @property
    def roughness(self) -> float:
        """Share of its variance that lies between two samples: 0 of a slow drift, 1 of white noise."""
        variance = float(np.var(self.value))
        return float(np.mean(np.square(np.diff(self.value)))) / (2 * variance) if variance > 0 else 0.0

    def quantile(self, *shares: float) -> list[float]:
        """Quantiles of the values."""
        return [float(q) for q in np.quantile(self.value, shares)]


def signal_of(tag: TagSample, breaks: npt.NDArray[np.int64]) -> Signal:
    """Figures of a tag.

    Args:
        tag: its samples.
        breaks: (B, 2) from and to, nanoseconds, of stretches in which the whole log is silent.
    """
    good = np.isfinite(tag.value)
    time_ns, value = tag.time_ns[good], tag.value[good]
    last = np.append(time_ns[1:] != time_ns[:-1], True)[: len(time_ns)]
    time_ns, value = time_ns[last], value[last]
    step_s = np.diff(time_ns) / NS
    # An interval that spans a break of the whole log says nothing about the tag.
    across = np.searchsorted(breaks[:, 0], time_ns[1:], "left") > np.searchsorted(breaks[:, 0], time_ns[:-1], "left")
    inside = step_s[~across] if len(step_s) else step_s
    median = float(np.median(inside)) if len(inside) else float("inf")
    ends = (value == value.min()) | (value == value.max()) if len(value) else np.zeros(0, dtype=np.bool_)
    return Signal(
        time_ns=time_ns,
        value=value,
        interval_s=median,
        long_interval_s=_longest(inside),
        irregular=bool(len(inside)) and float((np.abs(inside - median) > 0.1 * median).mean()) > 0.1,
        levels=min(1000, len(np.unique(value))),
        repeats=float((np.diff(value) == 0).mean()) if len(value) > 1 else 1.0,
        at_ends=float(ends.mean()) if len(value) else 1.0,
        constant=not tag.low < tag.high,
    )


def _longest(step_s: Float64) -> float:
    """The longest interval, or where it is an outage, one that 1 of 1000 exceeds."""
    if not len(step_s):
        return float("inf")
    longest, usual = float(step_s.max()), float(np.quantile(step_s, 0.999))
    return longest if longest <= 3 * usual else usual


def breaks_of(tags: Mapping[str, TagSample]) -> npt.NDArray[np.int64]:
    """Stretches (B, 2), nanoseconds, in which no tag has a sample for 20 times as long as is usual."""
    stamps = np.unique(np.concatenate([tag.time_ns for tag in tags.values()]))
    if len(stamps) < 3:
        return np.empty((0, 2), dtype=np.int64)
    step = np.diff(stamps)
    # Of a log by exception most intervals are short, and quiet times no break: hence a high quantile.
    usual = np.quantile(step, 0.95)
    at = np.flatnonzero(step > 20 * usual)
    return np.stack([stamps[at], stamps[at + 1]], axis=1)


def native_period_s(signals: Mapping[str, Signal]) -> float:
    """The period at which the log itself is sampled: the fastest regular tag's, or a round one for an irregular log."""
    usable = [signal for signal in signals.values() if signal.usable]
    regular = [signal.interval_s for signal in usable if not signal.irregular]
    if regular:
        fastest = min(regular)
        near = [period for period in PERIODS if abs(period - fastest) <= 0.05 * period]
        return near[0] if near else float(f"{fastest:.3g}")
    fastest = min(float(np.quantile(np.diff(signal.time_ns), 0.25)) / NS for signal in usable)
    return max((period for period in PERIODS if period <= 1.05 * fastest), default=PERIODS[0])


@dataclass(frozen=True)
class Grid:
    """Tags on one grid, each stretch between breaks for itself.

    Attributes:
        period_s: of the grid.
        names: of the n tags.
        stretches: arrays (T_s, n); NaN before a tag's first sample.
    """

    period_s: float
    names: tuple[str, ...]
    stretches: tuple[Float64, ...]

    @property
    def rows(self) -> int:
        """Sample times in all."""
        return sum(len(stretch) for stretch in self.stretches)


def grid_of(
    signals: Mapping[str, Signal], names: tuple[str, ...], breaks: npt.NDArray[np.int64], period_s: float, most: int
) -> Grid:
    """The last value of each tag at each sample time; of a log longer than `most` rows, stretches spread over it."""
    first = min(int(signals[name].time_ns[0]) for name in names)
    last = max(int(signals[name].time_ns[-1]) for name in names)
    period = round(period_s * NS)
    starts, ends = np.append(first, breaks[:, 1]), np.append(breaks[:, 0], last)
    times = [
        np.arange(-(-a // period) * period, b + 1, period, dtype=np.int64) for a, b in zip(starts, ends, strict=True)
    ]
    times = [grid for grid in times if len(grid) > 2]
    total = sum(len(grid) for grid in times)
    if total > most:
        times = _thinned(times, most / total)
    return Grid(period_s, names, tuple(_held(signals, names, grid) for grid in times))


def _thinned(times: list[npt.NDArray[np.int64]], share: float) -> list[npt.NDArray[np.int64]]:
    """Of many stretches every so many whole, of few the first part of each eighth."""
    if len(times) >= 16:
        kept = np.floor(np.arange(len(times)) * share).astype(int)
        return [grid for i, grid in enumerate(times) if i == 0 or kept[i] > kept[i - 1]]
    parts = [part for grid in times for part in np.array_split(grid, 8)]
    return [part[: max(3, int(len(part) * share))] for part in parts if len(part) > 2]


def _held(signals: Mapping[str, Signal], names: tuple[str, ...], grid: npt.NDArray[np.int64]) -> Float64:
    held = np.full((len(grid), len(names)), np.nan)
    for i, name in enumerate(names):
        signal = signals[name]
        at = np.searchsorted(signal.time_ns, grid, side="right") - 1
        # What was said before the stretch began says nothing about it.
        known = (at >= 0) & (signal.time_ns[np.maximum(at, 0)] >= grid[0] - (grid[1] - grid[0]))
        held[known, i] = signal.value[at[known]]
    return held
