"""Rows of a log that cannot be used: counted, kept with source, line, tag, text and reason, written beside the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError

Int64 = npt.NDArray[np.int64]

# Rows kept with their text for each source and reason, and of all together; all are counted.
LISTED, MOST = 100_000, 200_000
RECORDED = 1_000_000  # cells of one part
_PAGE = 1 << 16  # rows of a source whose marks lie together


@dataclass(frozen=True)
class Quarantined:
    """One row: `row` is its record in source number `source`, counted from 0; `tag` where one cell of it is meant."""

    source: int
    row: int
    tag: str
    text: str
    reason: str


class Quarantine:
    """What could not be used of all sources.

    A log may be rubbish from end to end: of the cells only the first are kept with their text, at least one of each
    reason and source, and one of each reason and tag. That a row lies here takes one bit.
    """

    def __init__(self) -> None:
        self._listed: list[Quarantined] = []
        self._count: Counter[tuple[int, str]] = Counter()
        self._of_tag: Counter[tuple[str, str]] = Counter()
        self._marks: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        self._rows = 0

    def add(
        self, source: int, reason: str, rows: Sequence[int] | Int64, texts: Sequence[str], tags: Sequence[str]
    ) -> None:
        """Takes cells (K,) of one source.

        Args:
            source: its number.
            reason: why they cannot be used.
            rows: their records; a record may come again with another tag or reason.
            texts: what stands in them; of many, that of the first `LISTED` is enough.
            tags: which tag each belongs to; empty where that is unknown.
        """
        if not len(rows):
            return
        before = self._count[source, reason]
        self._count[source, reason] += len(rows)
        self._rows += self._mark(source, np.asarray(rows, dtype=np.int64))
        room = max(0, min(LISTED - before, MOST - len(self._listed), len(texts)))
        kept = set(range(room)) | ({0} if not before else set())
        for tag, number in Counter(tags).items():
            if not self._of_tag[reason, tag]:
                kept.add(tags.index(tag))
            self._of_tag[reason, tag] += number
        for i in sorted(kept):
            if i < len(texts):
                self._listed.append(Quarantined(source, int(rows[i]), tags[i], texts[i], reason))

    def __len__(self) -> int:
        return sum(self._count.values())

    @property
    def rows(self) -> int:
        """How many rows these cells lie in."""
        return self._rows

    @property
    def listed(self) -> tuple[Quarantined, ...]:
        """The cells that are kept, in order of source and row."""
        return tuple(sorted(self._listed, key=lambda entry: (entry.source, entry.row, entry.tag)))

    def counts(self, tag: str | None = None) -> dict[str, int]:
        """Reason -> cells, of all or of one tag."""
        if tag is not None:
            return {reason: count for (reason, name), count in self._of_tag.items() if name == tag and count}
        total: Counter[str] = Counter()
        for (_, reason), count in self._count.items():
            total[reason] += count
        return dict(total)

    def _mark(self, source: int, rows: Int64) -> int:
        """Marks rows, and says how many of them were not marked before."""
        rising = bool((rows[1:] > rows[:-1]).all())  # as they mostly are
        row, fresh = rows if rising else np.unique(rows), 0
        page, inside_page = row // _PAGE, row % _PAGE
        first = np.append(0, np.flatnonzero(page[1:] != page[:-1]) + 1)
        for number, inside in zip(page[first].tolist(), np.split(inside_page, first[1:]), strict=True):
            bits = self._marks.get((source, number), np.zeros(_PAGE // 8, dtype=np.uint8))
            marked = np.unpackbits(bits)
            fresh += int((marked[inside] == 0).sum())
            marked[inside] = 1
            self._marks[source, number] = np.packbits(marked)
        return fresh


class Recorded(Quarantine):
    """What a worker could not use of its part of a log: remembered, to be given to the quarantine of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[tuple[int, str, Int64, list[str], list[str]]] = []
        self._cells = 0

    def add(
        self, source: int, reason: str, rows: Sequence[int] | Int64, texts: Sequence[str], tags: Sequence[str]
    ) -> None:
        """Takes cells (K,) of one source, see `Quarantine.add`.

        Raises:
            DataError: there are so many that the memory would not do for them.
        """
        self._cells += len(rows)
        if self._cells > RECORDED:
            raise DataError(f"more than {RECORDED} cells of a part of the log cannot be used")
        self._given.append((source, reason, np.asarray(rows, dtype=np.int64), list(texts), list(tags)))

    def give(self, other: Quarantine) -> None:
        """Gives the same cells to another quarantine, in the same order."""
        for cells in self._given:
            other.add(*cells)
