"""What the staging keeps count of, and small things it makes of a batch's columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from controlkit.ingest.sources.opened import Batch
from controlkit.ingest.sources.values import Values, plain
from controlkit.ingest.stage import SAMPLE, Code

if TYPE_CHECKING:
    import pyarrow as pa

Int64 = npt.NDArray[np.int64]

SHOWN = 200  # signs of a text in quarantine


@dataclass
class Tally:
    """What has been read of a source."""

    rows: int = 0
    samples: int = 0
    ignored: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    seen: set[str] = field(default_factory=set)

    def span(self, time_ns: Int64) -> None:
        """Takes note of the stamps of staged samples."""
        if len(time_ns):
            first, last = int(time_ns.min()), int(time_ns.max())
            self.first_ns = first if self.first_ns is None else min(self.first_ns, first)
            self.last_ns = last if self.last_ns is None else max(self.last_ns, last)

    def add(self, other: Tally) -> None:
        """Takes what was read of another part of the source."""
        self.rows, self.samples, self.ignored = (
            self.rows + other.rows, self.samples + other.samples, self.ignored + other.ignored,
        )  # fmt: skip
        self.seen |= other.seen
        for stamp in (other.first_ns, other.last_ns):
            if stamp is not None:
                self.span(np.array([stamp], dtype=np.int64))


def combined(cells: Values, quality: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`Code` of each cell: of the cell where it holds no value, else of the record's quality."""
    return np.where(cells.code == Code.GOOD, quality, cells.code)


def samples(
    time_ns: Int64, value: npt.NDArray[np.float64], code: npt.NDArray[np.uint8], row: Int64, source: int
) -> npt.NDArray[np.void]:
    """Samples (K,) of kind `SAMPLE` of one source."""
    sample = np.zeros(len(time_ns), dtype=SAMPLE)
    sample["time_ns"], sample["value"], sample["row"], sample["code"] = time_ns, value, row, code
    sample["source"] = source
    return sample


def index_of(coded: pa.DictionaryArray, null: int) -> Int64:
    """Place of each cell's text (K,) in the dictionary; `null` where there is none."""
    indices = coded.indices.fill_null(null) if coded.null_count else coded.indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def texts_of(column: pa.Array, rows: Int64) -> list[str]:
    """The text in some cells (R,), cut where it is long."""
    import pyarrow as pa

    cells = plain(column).take(pa.array(rows)).to_pylist()
    return ["" if cell is None else str(cell)[:SHOWN] for cell in cells]


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; the next one is read while the last one is worked on."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
