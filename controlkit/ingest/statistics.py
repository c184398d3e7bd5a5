"""Statistics of a log on the grid, gathered block by block: what the data-quality report draws.

The memory does not grow with the log: per tag a histogram over its range, a strip of at most `BUCKETS` stretches of
time, and a few moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.align import NS, AlignedLog
from controlkit.spec import PlantSpec

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

BUCKETS = 1200
# A histogram is gathered in this many bins over the tag's range and shown over the part of it that is used.
_FINE = 2048


@dataclass(frozen=True)
class Figures:
    """One tag over the rows that are kept and in which it is usable; None where there is no such row.

    Attributes:
        rows: how many.
        low, mean, high, std: in the tag's unit.
        held_share: share of them whose value is a period old or older; of a command: which repeat the row before.
        changed_share: of a command, share of them inside which it changes.
    """

    rows: int
    low: float | None
    mean: float | None
    high: float | None
    std: float | None
    held_share: float | None
    changed_share: float | None


@dataclass(frozen=True)
class Strip:
    """One tag over the whole log, kept or not, in B buckets of time.

    Attributes:
        low, mean, high: (B,) of the usable values, in the tag's unit; NaN where there is none.
        usable: (B,) share of the bucket's rows in which the tag is usable; NaN where the bucket has no row.
    """

    low: Float64
    mean: Float64
    high: Float64
    usable: Float64


class LogStatistics:
    """Figures of every measured tag and command of a plant.

    Args:
        spec: the plant.
        first_ns, last_ns: the ends of the log.

    Attributes:
        start_ns: (B,) where each bucket of time begins.
        width_ns: how long a bucket is: a whole number of sample periods.
    """

    def __init__(self, spec: PlantSpec, first_ns: int, last_ns: int) -> None:
        period = round(spec.period_s * NS)
        # The grid is at multiples of the period, so that a bucket which begins at one holds as many rows as another.
        origin = first_ns // period * period
        rows = (last_ns - origin) // period + 1
        self.width_ns = -(-rows // BUCKETS) * period
        buckets = -(-(last_ns + 1 - origin) // self.width_ns)
        self.start_ns: Int64 = origin + self.width_ns * np.arange(buckets, dtype=np.int64)
        self._period = period
        self._tags = (*spec.frame_tags, *spec.action_tags)
        self._frames = len(spec.frame_tags)
        self._range = [spec.limits(t) if spec.tags[t].role == "action" else spec.tags[t].range for t in self._tags]
        shape = (len(self._tags), buckets)
        self._low, self._high = np.full(shape, np.inf), np.full(shape, -np.inf)
        self._sum, self._usable = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        self._rows, self._kept = np.zeros(buckets, dtype=np.int64), np.zeros(buckets, dtype=np.int64)
        self._bins = np.zeros((len(self._tags), _FINE), dtype=np.int64)
        self._moments = [_Moments() for _ in self._tags]
        self._held, self._changed = (np.zeros(len(self._tags), dtype=np.int64) for _ in range(2))
        self._before: tuple[int, npt.NDArray[np.float32]] | None = None  # the last row, if it was kept

    def add(self, block: AlignedLog, kept: Bool) -> None:
        """Takes the next rows of the grid, in order of time, and which of them are kept: (T,)."""
        if not len(block.time_ns):
            return
        bucket = np.clip((block.time_ns - self.start_ns[0]) // self.width_ns, 0, len(self.start_ns) - 1)
        starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        places = bucket[starts]
        self._rows[places] += np.diff(np.append(starts, len(bucket)))
        self._kept[places] += np.add.reduceat(kept.astype(np.int64), starts)
        held = self._repeats(block, kept)  # (T, m)
        for i in range(len(self._tags)):
            column = i - self._frames
            if column < 0:
                value, ok = block.frames[:, i], block.mask[:, i]
                old, changed = block.age_s[:, i] * NS >= self._period, None
            else:
                value, ok = block.actions[:, column], block.action_mask[:, column]
                old, changed = held[:, column], block.changed[:, column]
            exact = value.astype(np.float64)
            self._strip(i, exact, ok, starts, places)
            used = ok & kept
            self._spread(i, exact[used])
            self._held[i] += int((old & used).sum())
            self._changed[i] += 0 if changed is None else int((changed & used).sum())

    def rows(self) -> tuple[Int64, Int64]:
        """(B,), (B,): rows of the log in each bucket of time, and how many of them are kept."""
        return self._rows.copy(), self._kept.copy()

    def trend(self, tag: str) -> Strip:
        """A tag over time."""
        i = self._tags.index(tag)
        count, rows = self._usable[i], self._rows
        none = count == 0
        mean = np.where(none, np.nan, self._sum[i] / np.maximum(count, 1))
        share = np.where(rows == 0, np.nan, count / np.maximum(rows, 1))
        return Strip(np.where(none, np.nan, self._low[i]), mean, np.where(none, np.nan, self._high[i]), share)

    def figures(self, tag: str) -> Figures:
        """A tag's figures."""
        i = self._tags.index(tag)
        found = self._moments[i]
        if not found.count:
            return Figures(0, None, None, None, None, None, None)
        changed = self._changed[i] / found.count if i >= self._frames else None
        std = float(np.sqrt(found.squares / found.count))
        return Figures(found.count, found.low, found.mean, found.high, std, self._held[i] / found.count, changed)

    def histogram(self, tag: str, bins: int = 60) -> tuple[Float64, Int64]:
        """Edges (K + 1,) and kept rows (K,) of at most `bins` bins over the part of the tag's range that is used."""
        i = self._tags.index(tag)
        used = np.flatnonzero(self._bins[i])
        low, high = self._range[i]
        if not used.size:
            return np.array([low, high]), np.zeros(1, dtype=np.int64)
        first, last = int(used[0]), int(used[-1]) + 1
        step = -(-(last - first) // bins)
        starts = np.arange(first, last, step)
        counts = np.add.reduceat(self._bins[i, first:last], starts - first)
        edges = low + (high - low) / _FINE * np.append(starts, min(starts[-1] + step, _FINE))
        return edges, counts

    def _strip(self, i: int, value: Float64, ok: Bool, starts: Int64, places: Int64) -> None:
        low = np.minimum.reduceat(np.where(ok, value, np.inf), starts)
        high = np.maximum.reduceat(np.where(ok, value, -np.inf), starts)
        self._low[i, places] = np.minimum(self._low[i, places], low)
        self._high[i, places] = np.maximum(self._high[i, places], high)
        self._sum[i, places] += np.add.reduceat(np.where(ok, value, 0.0), starts)
        self._usable[i, places] += np.add.reduceat(ok.astype(np.int64), starts)

    def _spread(self, i: int, value: Float64) -> None:
        if not value.size:
            return
        low, high = self._range[i]
        place = ((value - low) * (_FINE / (high - low))).astype(np.int64)
        self._bins[i] += np.bincount(np.clip(place, 0, _FINE - 1), minlength=_FINE)
        self._moments[i].add(value)

    def _repeats(self, block: AlignedLog, kept: Bool) -> Bool:
        """(T, m) whether a command is the same as in the row one period before, both kept."""
        joined = np.append(False, (np.diff(block.time_ns) == self._period) & kept[1:] & kept[:-1])
        same = np.zeros(block.actions.shape, dtype=np.bool_)
        same[1:] = block.actions[1:] == block.actions[:-1]
        if self._before is not None and kept[0] and block.time_ns[0] - self._before[0] == self._period:
            joined[0], same[0] = True, block.actions[0] == self._before[1]
        self._before = (int(block.time_ns[-1]), block.actions[-1].copy()) if kept[-1] else None
        return np.asarray(same & joined[:, None])


class _Moments:
    """Count, extremes, mean and sum of squared deviations, merged as Chan, Golub and LeVeque (1983) do."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, value: Float64) -> None:
        count, mean = len(value), float(value.mean())
        total, shift = self.count + count, mean - self.mean
        self.squares += float(((value - mean) ** 2).sum()) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))
