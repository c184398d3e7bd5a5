"""Parquet and Arrow files as sources: read in batches, a file that is larger than the memory too.

A file of a partitioned folder has further columns in its path, such as `tag=TT-101/part-0.parquet` (Hive's way).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np

from controlkit.errors import DataError
from controlkit.files import sha256_of
from controlkit.ingest.columns import recognise
from controlkit.ingest.sources.opened import BATCH, Batch, Part
from controlkit.ingest.sources.presets import find_roles
from controlkit.ingest.sources.values import is_number, is_text
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq", ".parq")
ARROW = (".arrow", ".feather", ".ipc", ".arrows")
_BATCHES = 2  # full ones that a part of a file has, at least
_NULL = "__HIVE_DEFAULT_PARTITION__"


class TableFile:
    """One Parquet or Arrow file, see `Opened`.

    Args:
        path: the file.
        spec: the plant.
        folder: the partitioned folder that holds it, if one does.

    Attributes:
        decimal: mark of numbers that are text.
        parts: columns that are in its path, with their values.

    Raises:
        DataError: it cannot be read, is empty, or has columns that the plant file does not explain.
    """

    def __init__(self, path: Path, spec: PlantSpec, folder: Path | None = None) -> None:
        self._path, self.location = path, str(path)
        self.name = path.name if folder is None else str(path.relative_to(folder.parent))
        self.decimal = spec.log.decimal or "."
        with _readable(path):
            self.sha256 = sha256_of(path)
            schema, empty = _schema(path)
        found = partitions(path, folder) if folder is not None else {}
        parts = {name: value for name, value in found.items() if name not in schema.names}
        # What else is in the path, such as year=2024, says again what the stamps say.
        roles = set(find_roles([*schema.names, *parts], spec.log).values())
        self.parts = {name: value for name, value in parts.items() if name in roles}
        names = [*schema.names, *self.parts]
        self.columns = recognise(names, spec, self.location)
        if empty:
            raise DataError("the log is empty", where=self.location, cure="Export it again: it has a header only.")
        self._check_kinds(schema)

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All records, see `Opened`."""
        pieces = _parquet(self._path, size) if is_parquet(self._path) else _arrow(self._path, size)
        return self._numbered(pieces, 0)

    def split(self) -> list[Part]:
        """Parts of the file, see `Parted`; a single one where it is not Parquet."""
        if not is_parquet(self._path):
            return [Part(0, 1, 0, 0, self._path.stat().st_size)]
        with _readable(self._path):
            return _groups(self._path, BATCH)

    def batches_of(self, part: Part) -> Iterator[Batch]:
        """The records of a part, see `Parted`."""
        pieces = _parquet(self._path, BATCH, part) if is_parquet(self._path) else _arrow(self._path, BATCH)
        return self._numbered(pieces, part.row)

    def _numbered(self, pieces: Iterator[pa.RecordBatch], start: int) -> Iterator[Batch]:
        import pyarrow as pa

        names = [str(i) for i in range(len(self.columns.names))]
        with _readable(self._path):
            for records in pieces:
                count = records.num_rows
                parts = [pa.repeat(pa.scalar(value, pa.string()), count) for value in self.parts.values()]
                batch = pa.RecordBatch.from_arrays([*records.columns, *parts], names)
                yield Batch(batch, np.arange(start, start + count, dtype=np.int64))
                start += count

    def place(self, row: int) -> str:
        """File and row, counted from 1."""
        return f"{self.location}, row {row + 1}"

    def _check_kinds(self, schema: pa.Schema) -> None:
        columns = self.columns
        values = list(columns.tags.values()) if columns.tags is not None else [columns.value]
        for i in values:
            if i is None or i >= len(schema):
                continue
            kind = schema.field(i).type
            kind = getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind
            if not (is_number(kind) or is_text(kind)):
                raise DataError(
                    f"column '{columns.names[i]}' holds {kind}, not numbers", where=self.location,
                    cure="Export numbers, or remove the column.",
                )  # fmt: skip


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its name."""
    return path.name.lower().endswith(PARQUET)


def partitions(path: Path, folder: Path) -> Mapping[str, str | None]:
    """Columns that are in the path of a file: `year=2024/tag=TT-101/part-0.parquet`."""
    found: dict[str, str | None] = {}
    for part in path.relative_to(folder).parts[:-1]:
        name, mark, value = part.partition("=")
        if mark:
            found[unquote(name)] = None if value == _NULL else unquote(value)
    return found


def column_names(path: Path) -> list[str]:
    """Names of a file's own columns."""
    with _readable(path):
        return list(_schema(path)[0].names)


def _schema(path: Path) -> tuple[pa.Schema, bool]:
    """The columns of a file, and whether it is empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if is_parquet(path):
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows == 0
    first = next(_arrow(path, 1), None)
    if first is not None:
        return first.schema, False
    with pa.memory_map(str(path)) as stream:
        return _opened_arrow(stream).schema, True


def _parquet(path: Path, size: int, part: Part | None = None) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    parts = _groups(path, size) if part is None else [part]
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for one in parts:
            yield from file.iter_batches(batch_size=size, row_groups=list(range(one.start, one.stop)))


def _groups(path: Path, size: int) -> list[Part]:
    """Row groups of a Parquet file, so many together that hardly a batch of them is smaller than `size`."""
    import pyarrow.parquet as pq

    found: list[Part] = []
    with pq.ParquetFile(path) as file:
        data = file.metadata
        begin, row, rows, weight = 0, 0, 0, 0
        for i in range(data.num_row_groups):
            group = data.row_group(i)
            rows, weight = rows + group.num_rows, weight + group.total_byte_size
            if rows >= _BATCHES * size or i + 1 == data.num_row_groups:
                found.append(Part(begin, i + 1, row, 0, weight))
                begin, row, rows, weight = i + 1, row + rows, 0, 0
    return found


def _arrow(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most `size` records of an Arrow file or stream."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as stream:
        reader = _opened_arrow(stream)
        count = getattr(reader, "num_record_batches", None)
        whole = (reader.get_batch(i) for i in range(count)) if count is not None else iter(reader)
        for batch in whole:
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)


def _opened_arrow(stream: pa.NativeFile) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    import pyarrow as pa

    try:
        return pa.ipc.open_file(stream)
    except pa.ArrowInvalid:
        stream.seek(0)
        return pa.ipc.open_stream(stream)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what Arrow and the file system say about a file into one clear line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem).splitlines()[0]
        raise DataError(
            f"cannot be read ({reason})", where=str(path), cure="Check the file, or export it again."
        ) from None
