"""Rows of a log that cannot be used: counted, kept with source, line, tag, text and reason, written beside the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Rows kept with their text for each source and reason; all are counted.
LISTED = 100_000


@dataclass(frozen=True)
class Quarantined:
    """One row: `row` is its record in source number `source`, counted from 0; `tag` where one cell of it is meant."""

    source: int
    row: int
    tag: str
    text: str
    reason: str


class Quarantine:
    """What could not be used of all sources."""

    def __init__(self) -> None:
        self._listed: list[Quarantined] = []
        self._count: Counter[tuple[int, str]] = Counter()

    def add(
        self, source: int, reason: str, rows: Sequence[int], texts: Sequence[str], tags: Sequence[str], count: int = -1
    ) -> None:
        """Takes rows of one source; `count` where there are more of them than are listed here."""
        before = self._count[source, reason]
        self._count[source, reason] += len(rows) if count < 0 else count
        room = max(0, LISTED - before)
        for row, text, tag in list(zip(rows, texts, tags, strict=True))[:room]:
            self._listed.append(Quarantined(source, int(row), tag, text, reason))

    def __len__(self) -> int:
        return sum(self._count.values())

    @property
    def listed(self) -> tuple[Quarantined, ...]:
        """The rows that are kept, in order of source and row."""
        return tuple(sorted(self._listed, key=lambda entry: (entry.source, entry.row, entry.tag)))

    def counts(self) -> dict[str, int]:
        """Reason -> rows."""
        total: Counter[str] = Counter()
        for (_, reason), count in self._count.items():
            total[reason] += count
        return dict(total)
