"""Exports of InfluxDB (preset `influxdb`): annotated CSV, and files of line protocol.

After InfluxData's "Annotated CSV": tables one after the other, each with annotations (`#datatype`, `#group`,
`#default`), a header and records; a new table may have other columns. `_time` and `_value` are the sample, the columns
of the group key say which series it belongs to. Tables without `_value`, as `pivot()` makes them, are refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controlkit.errors import DataError
from controlkit.files import sha256_of
from controlkit.ingest.columns import Columns
from controlkit.ingest.sources.influx_lines import read_point, says_nothing, taken_apart
from controlkit.ingest.sources.influx_series import FIELD, MEASUREMENT, Naming
from controlkit.ingest.sources.opened import BATCH, Batch, Rejected
from controlkit.ingest.sources.text_file import BLOCK, Lines, TextFile
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN, _SMALLEST = 200, 1 << 16
# Beside the group key, these change from table to table without making another series.
_NO_KEY = frozenset({"", "result", "table", "_start", "_stop", "_time", "_value"})
_BREAK = re.compile(rb"^(?:#.*|\r?)$", re.MULTILINE)
_ANNOTATED = re.compile(
    rb"\s*(#(datatype|group|default)|[^\n]*\b_time\b[^\n]*\b_value\b|[^\n]*\b_value\b[^\n]*\b_time\b)"
)


def is_influx(path: Path) -> bool:
    """Whether a file is one of the two forms: an export through another tool is an ordinary CSV file."""
    head = TextFile(path).head
    if _ANNOTATED.match(head):
        return True
    lines = (line.strip().decode("utf-8", "replace") for line in head.split(b"\n"))
    first = next((line for line in lines if line and not says_nothing(line)), "")
    point = read_point(first)
    return point is not None and point[2] is not None


@dataclass
class _Table:
    """What is known of the table that is being read."""

    group: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    default: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class InfluxFile:
    """One export, see `controlkit.ingest.sources.opened.Opened`.

    Raises:
        DataError: it cannot be read, is empty, or its series have no name or the same.
    """

    def __init__(self, path: Path, spec: PlantSpec) -> None:
        self._text = TextFile(path, spec.log.encoding)
        if not self._text.head.strip():
            raise DataError("the log is empty", where=str(path), cure="Export it again.")
        self._pattern = spec.log.columns.tag
        self._is_csv = bool(_ANNOTATED.match(self._text.head))
        self._text.forget()
        self.name, self.location = path.name, str(path)
        self.columns = Columns("long", ("timestamp", "tag", "value"), 0, None, 1, 2)
        self.sha256 = sha256_of(path)

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All records; a record is a field of a point."""
        naming, table = Naming(self._pattern, self.location), _Table()
        for lines in self._text.blocks(max(_SMALLEST, BLOCK * size // BATCH)):
            if self._is_csv:
                yield from self._tables(lines, table, naming)
            else:
                yield taken_apart(lines, naming, self.location)

    def place(self, row: int) -> str:
        """File and line."""
        return f"{self.location}, line {row}"

    def _tables(self, lines: Lines, table: _Table, naming: Naming) -> Iterator[Batch]:
        """The tables in a block of lines; the first may have begun in the block before."""
        start, number, content = 0, lines.first, lines.content
        for found in _BREAK.finditer(content):
            if found.start() >= len(content):
                break  # the end of the last line
            before = content[start : found.start()]
            yield from self._records(Lines(before, number), table, naming)
            end = min(found.end() + 1, len(content))
            number += before.count(b"\n") + content[found.start() : end].count(b"\n")
            start = end
            self._annotation(found.group().decode("utf-8", "replace").rstrip("\r"), table)
        yield from self._records(Lines(content[start:], number), table, naming)

    def _annotation(self, line: str, table: _Table) -> None:
        table.names = []  # a header follows
        if not line:
            table.group, table.types, table.default = [], [], []
            return
        name, *cells = next(csv.reader([line]))
        name, _, first = name.partition(" ")
        cells = [first, *cells] if first else ["", *cells]
        kinds = {"#group": "group", "#datatype": "types", "#default": "default"}
        if name in kinds:
            setattr(table, kinds[name], cells)

    def _records(self, lines: Lines, table: _Table, naming: Naming) -> Iterator[Batch]:
        if not lines.content.strip():
            return
        if not table.names:
            line, _, rest = lines.content.partition(b"\n")
            table.names = [name.strip() for name in next(csv.reader([line.decode("utf-8", "replace").strip("\r")]))]
            for needed in ("_time", "_value"):
                if needed not in table.names:
                    raise DataError(
                        f"a table without a column '{needed}'", where=self.place(lines.first),
                        cure="Export it without pivot(): one sample per row.",
                    )  # fmt: skip
            lines = Lines(rest, lines.first + 1)
            if not rest.strip():
                return
        columns, row, rejected = _cells(lines, len(table.names))
        if rejected or len(row):
            yield Batch(self._batch(columns, row, table, naming), row, tuple(rejected))

    def _batch(self, columns: Sequence[Any], row: np.ndarray, table: _Table, naming: Naming) -> pa.RecordBatch:
        import pyarrow as pa
        import pyarrow.compute as pc

        def of(name: str) -> Any:
            at = table.names.index(name)
            default = table.default[at] if at < len(table.default) else ""
            return pc.if_else(pc.equal(columns[at], ""), default, columns[at]) if default else columns[at]

        value = of("_value")
        at = table.names.index("_value")
        if at < len(table.types) and table.types[at] == "boolean":
            value = pc.if_else(pc.equal(value, "true"), "1", pc.if_else(pc.equal(value, "false"), "0", value))
        keys = [
            name
            for i, name in enumerate(table.names)
            if name in naming.keys
            or (name in (MEASUREMENT, FIELD))
            or (name not in _NO_KEY and i < len(table.group) and table.group[i] == "true")
        ]
        names = self._names([of(name) for name in keys], keys, row, naming)
        return pa.RecordBatch.from_arrays([of("_time"), names, value], ["timestamp", "tag", "value"])

    def _names(self, columns: Sequence[Any], keys: Sequence[str], row: np.ndarray, naming: Naming) -> pa.Array:
        """The name (K,) of each record's series."""
        import pyarrow as pa

        if not len(row):
            return pa.array([], pa.string())
        coded = [column.dictionary_encode() for column in columns]
        both = np.zeros(len(row), dtype=np.int64)
        for column in coded:
            both = both * len(column.dictionary) + column.indices.to_numpy()
            _, both = np.unique(both, return_inverse=True)  # small again, however many keys there are
        _, first, which = np.unique(both, return_index=True, return_inverse=True)
        made = [
            naming.name(
                {key: str(column[int(i)].as_py()) for key, column in zip(keys, columns, strict=True)},
                self.place(int(row[i])),
            )
            for i in first
        ]
        return pa.array(made, pa.string()).take(pa.array(which))


def _cells(lines: Lines, width: int) -> tuple[list[Any], np.ndarray, list[Rejected]]:
    """The columns of records, their lines, and lines that are no records of this table."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(i) for i in range(width)]
    quotes = lines.content.count(b'"')
    count = lines.content.count(b"\n") + (not lines.content.endswith(b"\n"))
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(lines.content),
            arrow_csv.ReadOptions(use_threads=False, column_names=names),
            arrow_csv.ParseOptions(quote_char='"' if quotes else False),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        ).combine_chunks()
        if table.num_rows == count:
            row = np.arange(lines.first, lines.first + count, dtype=np.int64)
            return [table.column(i).chunk(0) for i in range(width)], row, []
    except pa.ArrowInvalid:
        pass
    kept: list[list[str]] = []
    rows: list[int] = []
    rejected: list[Rejected] = []
    for i, line in enumerate(lines.content.removesuffix(b"\n").split(b"\n")):
        text = line.decode("utf-8", "replace").rstrip("\r")
        found = next(csv.reader([text]), [])
        if len(found) == width:
            kept.append(found)
            rows.append(lines.first + i)
        else:
            reason = f"{len(found)} cells where the table's header has {width}"
            rejected.append(Rejected(lines.first + i, text[:_SHOWN], reason))
    columns = [pa.array([record[i] for record in kept], pa.string()) for i in range(width)]
    return columns, np.array(rows, dtype=np.int64), rejected
