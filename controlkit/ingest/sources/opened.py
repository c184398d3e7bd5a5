"""What every source of a log is to the staging: columns of known meaning, and records in Arrow batches.

A file, a folder of files, or a query of a database. The staging (`controlkit.ingest.sources.staging`) turns the batches
into samples: time stamps into UTC, text into numbers, quality codes into `Code`, units into the plant file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from controlkit.ingest.columns import Columns

if TYPE_CHECKING:
    import pyarrow as pa

# Records of a batch, about: some 100 MB with everything that is derived from them.
BATCH = 1 << 20


@dataclass(frozen=True)
class Rejected:
    """A record that the source could not take apart, such as a line with too many cells; it is in no batch.

    Attributes:
        before: records in the batches before it.
        place: where it stands: `log.csv, line 7`.
        text: of it, cut where it is long.
        reason: for the quarantine.
    """

    before: int
    place: str
    text: str
    reason: str


class Opened(Protocol):
    """A source whose header has been read.

    Attributes:
        name: short, for tables: a file's name.
        location: path, or address without its password; what a message begins with.
        columns: what its columns mean, by position.
    """

    @property
    def name(self) -> str: ...

    @property
    def location(self) -> str: ...

    @property
    def columns(self) -> Columns: ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All records in their order, about `BATCH` at a time; may be asked for again, and then starts anew.

        A batch has the columns of `columns.names` in that order (names in the batch do not matter), of any Arrow type:
        time stamps as timestamp (with or without a zone), date, text or number; values as number, bool or text; null
        is an empty cell. Columns that `columns` gives no meaning to are left alone.

        Raises:
            DataError: it cannot be read, or its columns change on the way.
        """
        ...

    def rejected(self) -> Sequence[Rejected]:
        """Records that are in no batch; known once the batches have been read."""
        ...

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where records lie, for messages: `log.csv, line 7`. `rows` count the batches' records from 0."""
        ...

    def sha256(self) -> str:
        """Hash of what was read: of a file's bytes, or of the staged content where there is no file."""
        ...


def place(source: Opened, row: int) -> str:
    """Where one record lies."""
    return source.places([row])[0]
