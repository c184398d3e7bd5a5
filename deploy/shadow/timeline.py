"""Two weeks in bounded memory: values summed up in equal stretches of time, whose width doubles as the log grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRETCHES = 2048


@dataclass(frozen=True)
class Stretches:
    """K columns in N equal stretches of time, in order; a stretch without a value is NaN.

    Attributes:
        start_ns, width_ns: begin of the first stretch, and how long each is.
        count, mean, low, high: (N, K) known values in a stretch, their mean, the smallest and the largest.
    """

    start_ns: int
    width_ns: int
    count: Ints
    mean: Floats
    low: Floats
    high: Floats

    @property
    def middle_ns(self) -> Ints:
        """(N,) the middle of each stretch."""
        return self.start_ns + self.width_ns * np.arange(len(self.count), dtype=np.int64) + self.width_ns // 2

    def coarse(self, most: int) -> Stretches:
        """The same in at most `most` stretches; extremes are kept."""
        parts = max(1, -(-len(self.count) // most))
        rest = -len(self.count) % parts
        columns = self.count.shape[1]

        def grouped(values: npt.NDArray[np.generic], fill: float) -> Floats:
            padded = np.concatenate([values.astype(np.float64), np.full((rest, columns), fill)])
            return padded.reshape(-1, parts, columns)

        count = grouped(self.count, 0.0).sum(axis=1)
        total = np.nansum(grouped(self.mean, np.nan) * grouped(self.count, 0.0), axis=1)
        low = np.where(np.isnan(self.low), np.inf, self.low)
        high = np.where(np.isnan(self.high), -np.inf, self.high)
        return Stretches(
            self.start_ns,
            self.width_ns * parts,
            count.astype(np.int64),
            *_finished(count, total, grouped(low, np.inf).min(axis=1), grouped(high, -np.inf).max(axis=1)),
        )


class Timeline:
    """Sums up columns of values over time.

    Args:
        start_ns: where the first stretch begins; earlier values (a clock that was set back) are put into it.
        period_ns: the narrowest stretch.
        columns: K.
        most: stretches kept, even; the memory is this many times K.
    """

    def __init__(self, start_ns: int, period_ns: int, columns: int, most: int = STRETCHES) -> None:
        self.start_ns, self.width_ns, self._most, self._used = start_ns, period_ns, most, 0
        self._count = np.zeros((most, columns), dtype=np.int64)
        self._sum = np.zeros((most, columns))
        self._low, self._high = np.full((most, columns), np.inf), np.full((most, columns), -np.inf)

    def add(self, time_ns: Ints, values: Floats) -> None:
        """Takes values (B, K) at times (B,), in any order; NaN is no value."""
        if not len(time_ns):
            return
        while (int(time_ns.max()) - self.start_ns) // self.width_ns >= self._most:
            self._double()
        place = np.maximum((time_ns - self.start_ns) // self.width_ns, 0)
        if np.any(np.diff(place) < 0):
            order = np.argsort(place, kind="stable")
            place, values = place[order], values[order]
        at, first = np.unique(place, return_index=True)
        known = np.isfinite(values)
        self._count[at] += np.add.reduceat(known.astype(np.int64), first, axis=0)
        self._sum[at] += np.add.reduceat(np.where(known, values, 0.0), first, axis=0)
        self._low[at] = np.minimum(self._low[at], np.minimum.reduceat(np.where(known, values, np.inf), first, axis=0))
        self._high[at] = np.maximum(
            self._high[at], np.maximum.reduceat(np.where(known, values, -np.inf), first, axis=0)
        )
        self._used = max(self._used, int(at[-1]) + 1)

    def stretches(self) -> Stretches:
        """What was summed up so far."""
        count, total = self._count[: self._used], self._sum[: self._used]
        mean, low, high = _finished(count, total, self._low[: self._used], self._high[: self._used])
        return Stretches(self.start_ns, self.width_ns, count.copy(), mean, low, high)

    def _double(self) -> None:
        half = self._most // 2
        for values, fold, empty in (
            (self._count, np.add, 0),
            (self._sum, np.add, 0.0),
            (self._low, np.minimum, np.inf),
            (self._high, np.maximum, -np.inf),
        ):
            values[:half] = fold(values[0::2], values[1::2])
            values[half:] = empty
        self.width_ns *= 2
        self._used = -(-self._used // 2)


@dataclass(frozen=True)
class Peak:
    """The largest of a stretch: its size, time and what belongs to it."""

    size: float
    time_ns: int
    values: tuple[float, ...]


class Peaks:
    """Keeps the largest value of each stretch of time, with its moment, so that the largest of all lie apart.

    Args:
        start_ns, period_ns, most: as of a `Timeline`.
    """

    def __init__(self, start_ns: int, period_ns: int, most: int = STRETCHES) -> None:
        self._start_ns, self._width_ns, self._most = start_ns, period_ns, most
        self._kept: dict[int, Peak] = {}

    def add(self, time_ns: Ints, size: Floats, values: Floats) -> None:
        """Takes sizes (B,) with their values (B, V) at times (B,); NaN is none."""
        known = np.flatnonzero(np.isfinite(size))
        if not known.size:
            return
        while (int(time_ns.max()) - self._start_ns) // self._width_ns >= self._most:
            self._width_ns *= 2
            kept, self._kept = self._kept, {}
            for place, peak in kept.items():
                self._offer(place // 2, peak)
        places = np.maximum((time_ns[known] - self._start_ns) // self._width_ns, 0)
        # The largest of each place comes first.
        order = np.lexsort((-size[known], places))
        for at, first in zip(*np.unique(places[order], return_index=True), strict=True):
            row = known[order[first]]
            self._offer(int(at), Peak(float(size[row]), int(time_ns[row]), tuple(values[row].tolist())))

    def largest(self, count: int, apart_ns: int) -> list[Peak]:
        """The `count` largest, each at least `apart_ns` from every larger one, largest first."""
        chosen: list[Peak] = []
        for peak in sorted(self._kept.values(), key=lambda peak: (-peak.size, peak.time_ns)):
            if all(abs(peak.time_ns - other.time_ns) >= apart_ns for other in chosen):
                chosen.append(peak)
            if len(chosen) == count:
                break
        return chosen

    def _offer(self, place: int, peak: Peak) -> None:
        if place not in self._kept or peak.size > self._kept[place].size:
            self._kept[place] = peak


def _finished(
    count: npt.NDArray[np.generic], total: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats, Floats]:
    known = count.astype(np.float64) > 0
    mean = np.where(known, total / np.maximum(count.astype(np.float64), 1.0), np.nan)
    return mean, np.where(known, low, np.nan), np.where(known, high, np.nan)
