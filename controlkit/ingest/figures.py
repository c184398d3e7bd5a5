"""Figures of a tag's samples that come in blocks, in order of time: what the report shows and the warnings rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from controlkit.ingest.stage import BLOCK, Stage

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Differences that a median is taken of: evenly spread over the log, however long it is.
SAMPLED = 1_000_000
# Robust standard deviations of a normal distribution: 1.4826 MAD; 1.2533 mean absolute deviations where the MAD is 0
# (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
_MAD, _MEAN_DEVIATION = 1.4826, 1.253314


class Figures:
    """Number, extremes, mean, standard deviation (of the population), and moves up and down of the used values."""

    def __init__(self) -> None:
        self.count, self.low, self.high, self.mean = 0, np.inf, -np.inf, 0.0
        self.rises, self.falls, self.smallest_fall = 0, 0, np.inf
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self._squares, self._last = 0.0, np.nan

    def add(self, time_ns: Int64, value: Float64) -> None:
        """Takes the next used samples (K,)."""
        if not len(value):
            return
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))
        mean = float(value.mean())
        apart, count = mean - self.mean, self.count + len(value)
        self._squares += float(np.square(value - mean).sum()) + apart**2 * self.count * len(value) / count
        self.mean += apart * len(value) / count
        step = np.diff(value, prepend=value[0] if np.isnan(self._last) else self._last)
        falls = step[step < 0]
        self.rises, self.falls = self.rises + int((step > 0).sum()), self.falls + len(falls)
        self.smallest_fall = min(self.smallest_fall, float(-falls.max(initial=-np.inf)))
        self.count, self._last = count, float(value[-1])
        self.first_ns = int(time_ns[0]) if self.first_ns is None else self.first_ns
        self.last_ns = int(time_ns[-1])

    @property
    def std(self) -> float:
        return float(np.sqrt(self._squares / self.count)) if self.count else 0.0

    def wraps(self) -> bool:
        """Whether the tag is a counter that wraps: it rises and rises, and falls back by most of its span at once."""
        span = self.high - self.low
        return 0 < 20 * self.falls <= self.rises and self.smallest_fall > 0.5 * span


class Spread:
    """Every so many of a sequence that comes in blocks, at most `SAMPLED` of `total`."""

    def __init__(self, total: int) -> None:
        self._stride, self._seen = -(-max(total, 1) // SAMPLED), 0
        self._parts: list[npt.NDArray[np.generic]] = []

    def add(self, values: npt.NDArray[np.generic]) -> None:
        """Takes the next values (K,)."""
        self._parts.append(values[-self._seen % self._stride :: self._stride].copy())
        self._seen += len(values)

    def values(self) -> Float64:
        """What was kept, (S,)."""
        return np.concatenate([np.empty(0), *self._parts]).astype(np.float64)


def missing_share(interval_ns: Float64) -> tuple[float, float] | None:
    """The share of samples that do not come though a tag is sampled regularly, and the seconds between its samples.

    Args:
        interval_ns: (S,) between samples that follow each other, evenly spread over the log. One longer than ten usual
            ones is a gap, and not counted.

    Returns:
        None where the tag is not sampled regularly: fewer than four fifths of the intervals are the usual one.
    """
    if len(interval_ns) < 10:
        return None
    usual = float(np.median(interval_ns))
    short = interval_ns[interval_ns <= 10.5 * usual]
    if usual <= 0 or (np.abs(short - usual) <= 0.05 * usual).mean() < 0.8:
        return None
    lost = float(np.maximum(np.rint(short / usual) - 1, 0).sum())
    return lost / (lost + len(short)), usual / 1e9


def spikes(usable: Stage, tag: str, z: float, size: int = BLOCK) -> tuple[Int64, Int64]:
    """Stamps of a tag's known samples that stick out, (S,), and the number of each in the order of the samples, (S,).

    A sample sticks out where its difference from the one before lies more than `z` robust standard deviations from the
    median of the tag's differences, and the next difference as far on the other side.
    """
    if usable.count(tag) < 3:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    usual, scale = _usual_difference(usable, tag, size)
    found: list[tuple[Int64, Int64]] = []
    before = usable.read(tag, 0, 0)
    at = 0
    for block in _known(usable, tag, size):
        part = np.concatenate([before, block])
        away = np.diff(part["value"]) - usual
        up, down = away > z * scale, away < -z * scale
        hits = np.flatnonzero((up[:-1] & down[1:]) | (down[:-1] & up[1:])) + 1
        found.append((part["time_ns"][hits], hits + at))
        before = part[-2:]
        at += len(part) - len(before)
    return np.concatenate([times for times, _ in found]), np.concatenate([numbers for _, numbers in found])


def _known(usable: Stage, tag: str, size: int) -> Iterator[npt.NDArray[np.void]]:
    """A tag's samples without those that are unknown."""
    for block in usable.blocks(tag, size):
        yield block[~np.isnan(block["value"])]


def _usual_difference(usable: Stage, tag: str, size: int) -> tuple[float, float]:
    """Median and robust standard deviation of a tag's differences."""
    sampled = Spread(usable.count(tag) - 1)
    last: Sequence[float] | Float64 = ()
    for block in _known(usable, tag, size):
        value = np.ascontiguousarray(block["value"])
        sampled.add(np.diff(np.concatenate([last, value])))
        last = value[-1:]
    difference = sampled.values()
    usual = float(np.median(difference))
    away = np.abs(difference - usual)
    return usual, _MAD * float(np.median(away)) or _MEAN_DEVIATION * float(away.mean())
