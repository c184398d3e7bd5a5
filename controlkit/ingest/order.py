"""The samples of one tag in order of time, whatever the order of its sources: block by block, never all in memory.

Inside a source time stamps rise, or a rule of the plant file says what becomes of those that go back. Sources are
merged by time, as they may overlap; of equal stamps the earlier source comes first, and inside it the earlier record.
A source that has to be sorted is sorted a block at a time onto the disk, and its blocks are merged like sources.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.ingest.stage import BLOCK, Stage

Samples = npt.NDArray[np.void]  # of kind SAMPLE
Reject = Callable[[Samples], None]


@dataclass(frozen=True)
class _Run:
    """Samples [start, stop) of a tag in a stage: of one source, the first of them at `first_ns`."""

    stage: Stage
    start: int
    stop: int
    first_ns: int


def in_order(
    stage: Stage, tag: str, *, sort: bool, rejected: Reject, one_source: bool = False, size: int = BLOCK
) -> Iterator[Samples]:
    """Samples of a tag, blocks of about `size`; equal stamps are never split between two blocks.

    Args:
        stage: samples of kind `SAMPLE`; those of one source follow each other.
        tag: its name.
        sort: whether a source may be sorted. If not, a stamp before its predecessor's goes to `rejected` instead.
        rejected: takes what was rejected, in blocks, in order of the source.
        one_source: there is only one, so that nobody has to look where it ends.
        size: samples that are worked on at a time. A longer stretch of equal stamps is held in memory as a whole.
    """
    total = stage.count(tag)
    if one_source and not sort and total:
        runs = [_Run(stage, 0, total, int(stage.read(tag, 0, 1)["time_ns"][0]))]
    else:
        runs = _runs(stage, tag, size)
    sorted_runs = Stage(stage.folder / "sorted", (tag,)) if sort else None
    if sorted_runs is not None:
        runs = [part for run in runs for part in _sorted(run, tag, sorted_runs, size)]
    try:
        readers = [_Reader(tag, run, i, rejected) for i, run in enumerate(runs)]
        yield from _gathered(_merged(readers, size), size)
    finally:
        if sorted_runs is not None:
            sorted_runs.remove(tag)


def _runs(stage: Stage, tag: str, size: int) -> list[_Run]:
    """One run for each source, in the order of the sources' numbers."""
    begins: list[tuple[int, int, int]] = []  # source, start, first stamp
    at, before = 0, -1
    for block in stage.blocks(tag, size):
        source = block["source"]
        for i in np.flatnonzero(np.diff(source, prepend=np.int16(before))):
            begins.append((int(source[i]), at + int(i), int(block["time_ns"][i])))
        at, before = at + len(block), int(source[-1])
    edges = [start for _, start, _ in begins] + [at]
    runs = [(source, _Run(stage, start, edges[i + 1], first)) for i, (source, start, first) in enumerate(begins)]
    return [run for _, run in sorted(runs, key=lambda entry: entry[0])]


def _sorted(run: _Run, tag: str, into: Stage, size: int) -> Iterator[_Run]:
    """The run's blocks, each sorted; the run itself where it rises already."""
    highest, rises = run.first_ns, True
    for start in range(run.start, run.stop, size):
        time_ns = run.stage.read(tag, start, min(start + size, run.stop))["time_ns"]
        rises = bool(time_ns[0] >= highest and (time_ns[1:] >= time_ns[:-1]).all())
        if not rises:
            break
        highest = int(time_ns[-1])
    if rises:
        yield run
        return
    for start in range(run.start, run.stop, size):
        block = run.stage.read(tag, start, min(start + size, run.stop))
        block = block[np.argsort(block["time_ns"], kind="stable")]
        begin = into.count(tag)
        into.append_tag(tag, block)
        yield _Run(into, begin, begin + len(block), int(block["time_ns"][0]))


class _Reader:
    """Walks through a run; `buffer` holds what was read and not yet taken, in order of time."""

    def __init__(self, tag: str, run: _Run, rank: int, rejected: Reject) -> None:
        self.run, self.rank, self.buffer = run, rank, run.stage.read(tag, 0, 0)
        self._tag, self._at, self._highest, self._rejected = tag, run.start, run.first_ns, rejected

    @property
    def done(self) -> bool:
        """Whether all of the run is read."""
        return self._at >= self.run.stop

    @property
    def last_ns(self) -> int:
        return int(self.buffer["time_ns"][-1])

    def more(self, size: int) -> None:
        """Reads on until the buffer has grown, or the run has ended."""
        had = len(self.buffer)
        while not self.done and len(self.buffer) == had:
            block = self.run.stage.read(self._tag, self._at, min(self._at + size, self.run.stop))
            self._at += len(block)
            time_ns = np.ascontiguousarray(block["time_ns"])
            if time_ns[0] < self._highest or (time_ns[1:] < time_ns[:-1]).any():
                back = time_ns < np.maximum(np.maximum.accumulate(time_ns), self._highest)
                self._rejected(block[back])
                block, time_ns = block[~back], time_ns[~back]
            if len(block):
                self._highest = int(time_ns[-1])
                self.buffer = np.concatenate([self.buffer, block]) if had else block

    def take(self, limit_ns: int | None) -> Samples:
        """Takes what is stamped before a limit out of the buffer; everything where there is none."""
        end = len(self.buffer) if limit_ns is None else int(np.searchsorted(self.buffer["time_ns"], limit_ns))
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken


def _merged(readers: Iterable[_Reader], size: int) -> Iterator[Samples]:
    """All runs by time. What may still be read is stamped at or after a limit: everything before it can go."""
    waiting = deque(sorted(readers, key=lambda reader: reader.run.first_ns))
    active: list[_Reader] = []
    while waiting or active:
        if not active:
            active.append(waiting.popleft())
        for reader in active:
            if not len(reader.buffer):
                reader.more(max(1, size // len(active)))
        active = [reader for reader in active if len(reader.buffer)]
        bounds = [reader.last_ns for reader in active if not reader.done]
        bounds += [waiting[0].run.first_ns] if waiting else []
        limit = min(bounds, default=None)
        parts = [part for reader in active if len(part := reader.take(limit))]
        if parts:
            together = np.concatenate(parts) if len(parts) > 1 else parts[0]
            yield together[np.argsort(together["time_ns"], kind="stable")] if len(parts) > 1 else together
        elif waiting and waiting[0].run.first_ns == limit:
            active = sorted([*active, waiting.popleft()], key=lambda reader: reader.rank)
        else:  # a buffer full of one stamp: there may be more of it
            for reader in active:
                if not reader.done and reader.last_ns == limit:
                    reader.more(max(1, size // len(active)))


def _gathered(parts: Iterable[Samples], size: int) -> Iterator[Samples]:
    """Many small blocks as few of about `size`."""
    held: list[Samples] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if 2 * count >= size:
            yield held[0] if len(held) == 1 else np.concatenate(held)
            held, count = [], 0
    if held:
        yield held[0] if len(held) == 1 else np.concatenate(held)
