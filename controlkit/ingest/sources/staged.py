"""What is known of a log once it has been read: its samples on disk, its sources, and what could not be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.stage import Stage


@dataclass(frozen=True)
class StagedSource:
    """One source of a log.

    Attributes:
        name: short, for tables.
        location: path, or address without its password.
        sha256: of the file, or of the content of a query.
        form: `long` has one record per sample, `wide` one per time stamp, `flat` one per transition.
        rows: records.
        samples: cells that hold or should hold a value of a tag: staged + quarantined + ignored.
        ignored: those of tags with role `ignore`.
        first_ns, last_ns: earliest and latest stamp of the staged samples; None without any.
        unknown_codes: words in the quality column that nobody here knows; their samples count as bad.
        warnings: sentences on what was found out and may be wrong.
    """

    name: str
    location: str
    sha256: str
    form: Literal["long", "wide", "flat"]
    rows: int
    samples: int
    ignored: int
    first_ns: int | None
    last_ns: int | None
    unknown_codes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StagedLog:
    """A log that has been read.

    Attributes:
        stage: samples of every tag but those with role `ignore`; those of one source follow each other.
        sources: in order of their first time stamp; the number of a source is its place here.
        quarantine: what could not be used.
    """

    stage: Stage
    sources: tuple[StagedSource, ...]
    quarantine: Quarantine
    _places: tuple[Callable[[int], str], ...] = field(default=(), repr=False)

    def place(self, source: int, row: int) -> str:
        """Where a record lies: `log.csv, line 7`."""
        return self._places[source](row)
