"""What every source of a log is to the staging: columns of known meaning, and records in Arrow batches.

A file or a query of a database. The staging (`controlkit.ingest.sources.staging`) turns the batches into samples: time
stamps into UTC, text into numbers, quality codes into `Code`, units into the plant file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from controlkit.ingest.columns import Columns

if TYPE_CHECKING:
    import pyarrow as pa

# Records of a batch, about: some 100 MB with everything that is derived from them.
BATCH = 1 << 19
# Records from which the forms of time stamps and numbers are found out.
HEAD = 1 << 14


@dataclass(frozen=True)
class Rejected:
    """A record that the source could not take apart, such as a line with too many cells; it is in no batch.

    Attributes:
        row: its number.
        text: of it, cut where it is long.
        reason: for the quarantine.
    """

    row: int
    text: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Some records of a source.

    Attributes:
        records: K records with the columns of `Opened.columns.names` in that order, of any Arrow type; their names do
            not matter. Time stamps are timestamps (with or without a zone), dates, text or numbers; values are
            numbers, bools or text; null is an empty cell. What `columns` gives no meaning to is left alone.
        row: (K,) rising numbers, by which `Opened.place` finds a record again: for a table 0, 1, 2 ..., for a file of
            lines the line. A number may be left out, such as a blank line's.
        rejected: what came before, between or after these records and could not be taken apart.
    """

    records: pa.RecordBatch
    row: npt.NDArray[np.int64]
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of a source whose batches are those of the whole, so that parts may be read apart from each other.

    Attributes:
        start, stop: what of the source: blocks of a text file, row groups of a Parquet file.
        row: number of the first record or line.
        offset: where the first line begins, in bytes; of a text file.
        weight: bytes, about.
    """

    start: int
    stop: int
    row: int
    offset: int
    weight: int


@runtime_checkable
class Parted(Protocol):
    """A source that may be read in parts."""

    def split(self) -> Sequence[Part]:
        """Parts that follow each other and are all of the source; a single one where it cannot be taken apart."""
        ...

    def batches_of(self, part: Part) -> Iterator[Batch]:
        """The batches of a part: put after each other, those of all parts are those of `Opened.batches`."""
        ...


class Opened(Protocol):
    """A source whose header has been read.

    Attributes:
        name: short, for tables: a file's name.
        location: path, or address without its password; what a message begins with.
        columns: what its columns mean, by position.
        sha256: hash of what is read: of a file's bytes. Of a query, of its records, and then known once they are read.
    """

    @property
    def name(self) -> str: ...

    @property
    def location(self) -> str: ...

    @property
    def columns(self) -> Columns: ...

    @property
    def sha256(self) -> str: ...

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All records in their order, about `size` at a time; when asked again, it starts anew.

        The first `HEAD` records are asked for once before the rest, and the iterator closed after them.

        Raises:
            DataError: it cannot be read, or its columns change on the way.
        """
        ...

    def place(self, row: int) -> str:
        """Where a record lies, for messages: `log.csv, line 7`."""
        ...
