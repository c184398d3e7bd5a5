"""Which of the two times a stamp means that the clock shows twice, told by the order of the rows.

Rows that are in order of time go back once inside such an hour, where the clock is put back: what comes before is its
first time, what comes after its second. In a log with one sample per row the rows as a whole tell, if they are in order
of time and the tags take turns; else each tag's own rows do. Sources follow each other in order of time, so what came
before in one tells about the next. A row that nothing comes before, or something from after that hour, tells nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Bool = npt.NDArray[np.bool_]

UNKNOWN, FIRST, SECOND = 0, 1, 2


@dataclass(frozen=True)
class _Last:
    """The last row of a chain: what the clock showed, the change whose hour it lies in or 0, which time it is."""

    local_ns: int
    change: int
    time: int


class FoldOrder:
    """Follows the rows of all sources in their order."""

    def __init__(self) -> None:
        self._of_tag: dict[Hashable, _Last] = {}
        self._of_all: _Last | None = None
        self._seen: set[int] = set()  # tags of the source
        self._before: set[int] = set()  # tags of the sources before, where their rows as a whole could tell
        self._tag = -1
        self._wide: Hashable = None
        self._ordered, self._in_turns = True, False

    def begin(self, wide: Hashable) -> None:
        """Starts the next source; `wide` names its columns where a row holds all tags, None where it holds one."""
        self._before = self._seen if self._ordered and self._in_turns else set()
        self._wide, self._seen, self._tag = wide, set(), -1
        self._ordered, self._in_turns = True, False

    def times(self, local_ns: Int64, change: Int64, tag: Int64 | None) -> Int8:
        """Which time of the hour each row (K,) is: `FIRST`, `SECOND` or `UNKNOWN`; rows outside such hours: 0.

        Args:
            local_ns: (K,) what the clock showed, in the order of the source.
            change: (K,) the change of the clock in whose doubled hour the row lies, 0 elsewhere.
            tag: (K,) numbers of tags; None in a wide log.
        """
        if not len(local_ns):
            return np.zeros(0, dtype=np.int8)
        if tag is None:
            last = self._of_tag.get(self._wide)
            time, self._of_tag[self._wide] = _along(local_ns, change, last)
            return time
        if not self._seen and int(tag[0]) not in self._before:
            self._of_all = None  # the source before told of other tags: they may run side by side
        whole = self._whole(local_ns, change, tag)
        time, self._of_all = _along(local_ns, change, self._of_all)
        return np.where(whole, time, self._tag_by_tag(local_ns, change, tag))

    def _tag_by_tag(self, local_ns: Int64, change: Int64, tag: Int64) -> Int8:
        time = np.zeros(len(tag), dtype=np.int8)
        order = np.argsort(tag, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(tag[order])) + 1):
            name = int(tag[rows[0]])
            time[rows], self._of_tag[name] = _along(local_ns[rows], change[rows], self._of_tag.get(name))
        return time

    def _whole(self, local_ns: Int64, change: Int64, tag: Int64) -> Bool:
        """From which rows (K,) on the source is known to be in order of time, its tags in turns."""
        back = np.zeros(len(tag), dtype=np.bool_)
        back[1:] = (np.diff(local_ns) < 0) & ((change[1:] != change[:-1]) | (change[1:] == 0))
        if self._seen and self._of_all is not None:
            last = self._of_all
            back[0] = local_ns[0] < last.local_ns and (change[0] != last.change or not last.change)
        ordered = self._ordered & ~np.logical_or.accumulate(back)
        starts = np.flatnonzero(np.diff(tag, prepend=self._tag if self._seen else tag[0] - 1))
        tags, first = np.unique(tag[starts], return_index=True)
        again = np.ones(len(starts), dtype=np.bool_)
        again[first] = [int(one) in self._seen for one in tags]
        turns = np.zeros(len(tag), dtype=np.bool_)
        turns[starts] = again
        turns = self._in_turns | np.logical_or.accumulate(turns)
        self._ordered, self._in_turns = bool(ordered[-1]), bool(turns[-1])
        self._seen |= {int(one) for one in tags}
        self._tag = int(tag[-1])
        return ordered & turns


def _along(local_ns: Int64, change: Int64, last: _Last | None) -> tuple[Int8, _Last]:
    """The times (K,) of rows that follow each other, and the last row."""
    time = np.zeros(len(local_ns), dtype=np.int8)
    inside = np.flatnonzero(change)
    for i, now, when in zip(inside.tolist(), local_ns[inside].tolist(), change[inside].tolist(), strict=True):
        if i:
            last = _Last(int(local_ns[i - 1]), int(change[i - 1]), int(time[i - 1]))
        if last is None:
            continue
        if last.change != when:
            time[i] = FIRST if last.local_ns < now else UNKNOWN
        else:
            time[i] = SECOND if now < last.local_ns else last.time
    return time, _Last(int(local_ns[-1]), int(change[-1]), int(time[-1]))
