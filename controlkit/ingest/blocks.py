"""The alignment of a log of any length: block after block of the grid, each from the usable samples that it needs.

A row of the grid follows from the last two usable samples at or before it, and a command from those of the period after
it besides. So a block of rows needs no more than a short stretch of each tag's samples, and comes out as it would from
the whole log, to the last bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from controlkit.align import NS, AlignedLog, Bool, Int64, Samples, align_log, sample_times
from controlkit.ingest.stage import Stage
from controlkit.spec import PlantSpec

# Samples of one tag that are worked on at a time: 32 MB, and some 150 MB with what is derived from them.
SAMPLES = 1 << 21


def aligned_blocks(
    spec: PlantSpec, usable: Stage, grid: Sequence[tuple[int, int]], rows: int = 1 << 17
) -> Iterator[tuple[int, AlignedLog]]:
    """Aligns a log in order of time.

    Args:
        spec: the plant.
        usable: samples of every frame tag and action, of kind `USABLE`.
        grid: first and last time stamp of each stretch between gaps, rising.
        rows: sample times in a block, at most; fewer where a tag has many samples in a row.

    Yields:
        Number of the stretch, and the next of its blocks; a stretch without any sample time has none.
    """
    for number, grid_ns in batches(spec, grid, rows):
        yield from _aligned(spec, usable, number, grid_ns)


def batches(spec: PlantSpec, grid: Sequence[tuple[int, int]], rows: int) -> Iterator[tuple[Int64, Int64]]:
    """The grid in blocks: number of the stretch and sample time of up to `rows` rows, as short stretches share a block.

    A grid that is cut where one of them begins has the same ones from there on.
    """
    numbers: list[Int64] = []
    times: list[Int64] = []
    room = rows
    for number, (first, last) in enumerate(grid):
        while first <= last:
            part = sample_times(first, min(last, first + room * _period(spec) - 1), spec.period_s)
            first += room * _period(spec)
            numbers.append(np.full(len(part), number))
            times.append(part)
            room -= len(part)
            if not room:
                yield np.concatenate(numbers), np.concatenate(times)
                numbers, times, room = [], [], rows
    if room < rows:
        yield np.concatenate(numbers), np.concatenate(times)


def modes(spec: PlantSpec, usable: Stage, block: AlignedLog) -> tuple[Bool, Bool]:
    """Whether all modes are accepted at each sample time of a block, and throughout the period after it: (T,), (T,).

    Args:
        spec: the plant.
        usable: samples of every mode tag, of kind `USABLE`. One that is not good has the value NaN: no reason to trust
            the one before it, as the plant may be in any mode.
        block: sample times, at least one.
    """
    grid = block.time_ns
    needed = _Needed(spec, usable, grid, spec.names("mode"))
    now, after = np.ones(len(grid), dtype=np.bool_), np.ones(len(grid), dtype=np.bool_)
    for tag, mode in needed.items():
        if not mode.time_ns.size:
            now[:] = False
            continue
        accepted = np.isin(mode.value, spec.tags[tag].accept)
        last = np.searchsorted(mode.time_ns, grid, side="right") - 1
        end = np.searchsorted(mode.time_ns, grid + _period(spec), side="right")
        refused = np.concatenate(([0], np.cumsum(~accepted)))
        age_s = (grid - mode.time_ns[np.maximum(last, 0)]) / NS
        now &= (last >= 0) & accepted[np.maximum(last, 0)] & (age_s <= spec.max_age_s(tag))
        after &= refused[end] == refused[last + 1]
    return now, after


def _aligned(spec: PlantSpec, usable: Stage, number: Int64, grid_ns: Int64) -> Iterator[tuple[int, AlignedLog]]:
    needed = _Needed(spec, usable, grid_ns, (*spec.frame_tags, *spec.action_tags))
    if needed.most > SAMPLES and len(grid_ns) > 1:
        half = len(grid_ns) // 2
        yield from _aligned(spec, usable, number[:half], grid_ns[:half])
        yield from _aligned(spec, usable, number[half:], grid_ns[half:])
        return
    log = align_log(spec, needed, grid_ns)
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=-1))
    for start, stop in pairwise(edges.tolist()):
        yield int(number[start]), _rows(log, start, stop)


class _Needed(Mapping[str, Samples]):
    """The samples of some tags that a block of the grid needs, read when they are asked for and not kept.

    They are the last two at or before its first sample time, and all after it up to one period beyond its last.
    """

    def __init__(self, spec: PlantSpec, usable: Stage, grid_ns: Int64, tags: Sequence[str]) -> None:
        self._usable = usable
        first, last = int(grid_ns[0]), int(grid_ns[-1]) + _period(spec)
        self._span = {tag: (max(0, _until(usable, tag, first) - 2), _until(usable, tag, last)) for tag in tags}
        self.most = max((stop - start for start, stop in self._span.values()), default=0)

    def __getitem__(self, tag: str) -> Samples:
        samples = self._usable.read(tag, *self._span[tag])
        time_ns, value = (np.ascontiguousarray(samples[name]) for name in ("time_ns", "value"))
        return Samples(time_ns, value, np.ones(len(samples), dtype=np.bool_))

    def __iter__(self) -> Iterator[str]:
        return iter(self._span)

    def __len__(self) -> int:
        return len(self._span)


def _until(usable: Stage, tag: str, time_ns: int) -> int:
    """How many samples of a tag are stamped at or before a time."""
    return bisect_right(range(usable.count(tag)), time_ns, key=lambda i: int(usable.read(tag, i, i + 1)["time_ns"][0]))


def _period(spec: PlantSpec) -> int:
    return round(spec.period_s * NS)


def _rows(log: AlignedLog, start: int, stop: int) -> AlignedLog:
    return AlignedLog(
        log.time_ns[start:stop], log.frames[start:stop], log.mask[start:stop], log.age_s[start:stop],
        log.actions[start:stop], log.changed[start:stop], log.action_mask[start:stop],
    )  # fmt: skip
