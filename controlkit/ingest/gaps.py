"""Where a log has no measurement at all: the gaps that cut it, and the stretches of the grid between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.align import NS
from controlkit.ingest.stage import Stage
from controlkit.spec import PlantSpec

Int64 = npt.NDArray[np.int64]
# (G, 2) times between which no sample lies, in order and apart.
Intervals = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Gap:
    """A stretch without any measurement, in nanoseconds UTC."""

    from_ns: int
    to_ns: int


def find_gaps(spec: PlantSpec, usable: Stage) -> tuple[tuple[tuple[int, int], ...], tuple[Gap, ...]]:
    """First and last measurement of every stretch between gaps, and the gaps: longer than `max_gap_s` without any.

    Args:
        spec: the plant.
        usable: samples of every measured tag, of kind `USABLE`; at least one.
    """
    tags = sorted((tag for tag in spec.frame_tags if usable.count(tag)), key=usable.count, reverse=True)
    first = min(int(usable.read(tag, 0, 1)["time_ns"][0]) for tag in tags)
    last = max(int(usable.read(tag, usable.count(tag) - 1)["time_ns"][0]) for tag in tags)
    longest = spec.max_gap_s * NS
    free: Intervals = np.array([[first, last]], dtype=np.int64)
    # What is free of all tags' samples is what is free of each one's; the tag with most samples leaves least of it.
    for tag in tags:
        free = _common(free, _without(usable, tag, first, last, longest), longest)
        if not len(free):
            break
    begins, ends = np.append(first, free[:, 1]), np.append(free[:, 0], last)
    stretches = tuple((int(a), int(b)) for a, b in zip(begins, ends, strict=True))
    return stretches, tuple(Gap(int(a), int(b)) for a, b in free)


def _without(usable: Stage, tag: str, first: int, last: int, longest: float) -> Intervals:
    """The intervals longer than `longest` ns of [first, last] in which a tag has no sample."""
    found = []
    before = first
    for block in usable.blocks(tag):
        times = np.concatenate(([before], block["time_ns"]))
        at = np.flatnonzero(np.diff(times) > longest)
        found.append(np.stack([times[at], times[at + 1]], axis=1))
        before = int(times[-1])
    if last - before > longest:
        found.append(np.array([[before, last]], dtype=np.int64))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def _common(one: Intervals, other: Intervals, longest: float) -> Intervals:
    """The parts longer than `longest` that lie in both."""
    begin = np.searchsorted(other[:, 1], one[:, 0], side="right")
    end = np.searchsorted(other[:, 0], one[:, 1], side="left")
    count = np.maximum(end - begin, 0)
    mine = np.repeat(np.arange(len(one)), count)
    yours = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begin, count)
    both = np.stack([np.maximum(one[mine, 0], other[yours, 0]), np.minimum(one[mine, 1], other[yours, 1])], axis=1)
    long: Intervals = both[both[:, 1] - both[:, 0] > longest]
    return long
