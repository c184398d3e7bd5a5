"""Stretches of a tag's samples that something is to be said about: not good, out of range, frozen, a spike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

# Stretches kept for each reason; beyond that those with the shortest way between them become one.
MOST = 1000


@dataclass(frozen=True)
class Flagged:
    """A stretch from its first to its last flagged sample, both included, and how many of its samples are flagged."""

    reason: str
    from_ns: int
    to_ns: int
    samples: int


class Flags:
    """Gathers stretches from samples that come in order of time, in blocks of any size."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._found: dict[str, _Stretches] = {}

    def add(self, reason: str, time_ns: Int64, flagged: Bool) -> None:
        """Takes the next samples: stamps (K,), and which of them (K,) are flagged."""
        self._found.setdefault(reason, _Stretches()).add(time_ns, flagged, self._most)

    def result(self) -> tuple[Flagged, ...]:
        """All stretches, reason by reason, in order of time."""
        return tuple(
            Flagged(reason, int(begin), int(end), int(count))
            for reason, found in self._found.items()
            for begin, end, count in zip(found.begin, found.end, found.count, strict=True)
        )


class _Stretches:
    def __init__(self) -> None:
        self.begin, self.end, self.count = (np.empty(0, dtype=np.int64) for _ in range(3))
        self._goes_on = False  # the last sample was flagged: the next one's stretch is the same

    def add(self, time_ns: Int64, flagged: Bool, most: int) -> None:
        if not flagged.any():
            self._goes_on = self._goes_on and not len(flagged)
            return
        edges = np.diff(np.concatenate(([False], flagged, [False])).astype(np.int8))
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        begin, end, count = time_ns[starts], time_ns[stops - 1], stops - starts
        if self._goes_on and flagged[0]:
            self.end[-1], self.count[-1] = end[0], self.count[-1] + count[0]
            begin, end, count = begin[1:], end[1:], count[1:]
        self._goes_on = bool(flagged[-1])
        self.begin, self.end = np.append(self.begin, begin), np.append(self.end, end)
        self.count = np.append(self.count, count)
        if len(self.begin) > most:
            self._coarsen(most)

    def _coarsen(self, most: int) -> None:
        # The widest gaps stay, of equal ones the earliest: what is kept does not depend on where the blocks end.
        gaps = self.begin[1:] - self.end[:-1]
        kept = np.sort(np.argsort(-gaps, kind="stable")[: most - 1])
        starts, ends = np.append(0, kept + 1), np.append(kept, len(gaps))
        self.count = np.add.reduceat(self.count, starts)
        self.begin, self.end = self.begin[starts], self.end[ends]
