"""CSV, plain or packed: delimiter, decimal mark and encoding are found out where the plant file does not name them.

Arrow takes blocks of lines apart on all cores. Where a block holds a line that it cannot take apart, or that it would
take apart in a way nobody meant (an open quotation mark swallows the lines after it), the block is halved until such
lines stand alone, and those are looked at one by one.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError
from controlkit.files import sha256_of
from controlkit.ingest.columns import Columns, recognise
from controlkit.ingest.sources.opened import BATCH, Batch, Part, Rejected
from controlkit.ingest.sources.text_file import BLOCK, HEAD, Lines, TextFile
from controlkit.ingest.sources.values import decimal_mark
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    import pyarrow as pa

_DELIMITERS = (",", ";", "\t", "|")
SMALLEST = 1 << 16  # bytes of a block
_FEW_LINES = 64  # are taken apart one by one where Arrow cannot
_SHOWN = 200  # signs of a line in quarantine
_TITLE_LINES = 30  # among which a header is looked for
_FIRST_LINES = 1000  # of which one at least must have as many cells as the header
_SEPARATOR = re.compile(r"\s*\"?sep=.\"?\s*", re.IGNORECASE)
OPEN_QUOTE = "a quotation mark is left open or stands inside a cell"
NOT_TEXT = "bytes that are not in the file's encoding"


class CsvFile:
    """One CSV file, see `Opened`.

    Attributes:
        decimal: its decimal mark.

    Raises:
        DataError: it cannot be read, is empty, or has a header that the plant file does not explain.
    """

    def __init__(self, path: Path, spec: PlantSpec) -> None:
        rules = spec.log
        self._text = TextFile(path, rules.encoding)
        self._path, self.name, self.location = path, path.name, str(path)
        lines = [line for line in self._text.head.decode("utf-8", "replace").splitlines() if line.strip()]
        if not lines:
            raise DataError("the log is empty", where=self.location, cure="Export it again, with a header line.")
        self._header = self._text.head.lstrip(b"\r\n").split(b"\n", 1)[0].rstrip(b"\r")
        self._delimiter = rules.delimiter or _delimiter(lines[0], self.location)
        self.columns: Columns = self._recognised(lines, spec)
        if len(lines) == 1 and len(self._text.head) < HEAD:
            raise DataError("the log is empty", where=self.location, cure="Export it again: it has a header only.")
        _same_delimiter(lines, self._delimiter, self.location)
        _some_fit(lines, self._delimiter, self.location)
        self.decimal = rules.decimal or decimal_mark(self._value_cells(lines[1:]), self._delimiter)
        self._text.forget()
        self.sha256 = sha256_of(path)
        self._careful = False  # whether a line with a wrong number of cells was seen

    def _recognised(self, lines: Sequence[str], spec: PlantSpec) -> Columns:
        """The meaning of the first line's cells; says where the header is if it is not there."""
        where = self.location
        if _SEPARATOR.fullmatch(lines[0]):
            raise DataError(
                f"begins with '{lines[0].strip()}', a hint for spreadsheets and no header", where=f"{where}, line 1",
                cure="Remove that line.",
            )  # fmt: skip
        try:
            return recognise(_cells(lines[0], self._delimiter, where), spec, where)
        except DataError:
            for line in lines[1:_TITLE_LINES]:
                mark = spec.log.delimiter or _delimiter(line, where)
                if _is_header(line, mark, spec, where):
                    at = self._text.head[: self._text.head.find(line.encode())].count(b"\n") + 1
                    raise DataError(
                        f"'{_short(lines[0])}' is no header; line {at} looks like it: '{_short(line)}'",
                        where=f"{where}, line 1", cure=f"Remove the lines above line {at}.",
                    ) from None  # fmt: skip
            raise

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All records, see `Opened`."""
        first = True
        for lines in self._text.blocks(_block(size)):
            if first:
                lines, first = self._after_header(lines), False
            yield from self._taken_apart(lines)

    def split(self) -> list[Part]:
        """Parts of the file, see `Parted`."""
        return self._text.split(_block(BATCH))

    def batches_of(self, part: Part) -> Iterator[Batch]:
        """The records of a part, see `Parted`."""
        for lines in self._text.blocks(_block(BATCH), part):
            yield from self._taken_apart(self._after_header(lines) if lines.first == 1 else lines)

    def place(self, row: int) -> str:
        """File and line."""
        return f"{self.location}, line {row}"

    def _after_header(self, lines: Lines) -> Lines:
        start = lines.content.find(self._header) + len(self._header)
        end = lines.content.find(b"\n", start) + 1 or len(lines.content)
        return Lines(lines.content[end:], lines.first + lines.content[:end].count(b"\n"))

    def _taken_apart(self, lines: Lines) -> Iterator[Batch]:
        if not lines.content.strip():
            return
        batch = self._at_once(lines)
        if batch is not None:
            yield batch
        elif lines.content.count(b"\n") <= _FEW_LINES:
            yield from self._one_by_one(lines)
        else:
            middle = lines.content.find(b"\n", len(lines.content) // 2) + 1 or len(lines.content)
            if middle == len(lines.content):  # the second half is one long line
                middle = lines.content.rfind(b"\n", 0, len(lines.content) // 2) + 1
            before = lines.content[:middle]
            yield from self._taken_apart(Lines(before, lines.first))
            yield from self._taken_apart(Lines(lines.content[middle:], lines.first + before.count(b"\n")))

    def _at_once(self, lines: Lines) -> Batch | None:
        """The block, if nothing in it needs a closer look: every line is a record, or has a wrong number of cells."""
        import pyarrow as pa

        content, number = _without_blanks(lines)
        if content.count(b'"') % 2 or (b"\r" in content and content.count(b"\r") != content.count(b"\r\n")):
            return None
        wrong: list[Any] = []
        try:
            if not self._careful:
                try:
                    table = self._parse(content, None)
                except pa.ArrowInvalid:
                    self._careful = True
            if self._careful:  # Arrow counts lines on one core only
                table = self._parse(content, wrong)
        except (pa.ArrowInvalid, UnicodeError):
            return None
        if table.num_rows + len(wrong) != len(number):
            return None
        at = np.array([row.number - 1 for row in wrong], dtype=np.int64)
        rejected = tuple(
            Rejected(int(number[i]), row.text[:_SHOWN], _cell_count(row.actual_columns, row.expected_columns))
            for i, row in zip(at, wrong, strict=True)
            if row.text.strip()
        )
        records = table.combine_chunks().to_batches()
        batch = records[0] if records else pa.RecordBatch.from_pylist([], table.schema)
        return Batch(batch, np.delete(number, at), rejected)

    def _parse(self, content: bytes, wrong: list[Any] | None) -> pa.Table:
        """A block as text; lines with a wrong number of cells go to `wrong`, or are an error where that is None."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        def skip(row: Any) -> str:
            assert wrong is not None
            wrong.append(row)
            return "skip"

        columns = [str(i) for i in range(len(self.columns.names))]
        return arrow_csv.read_csv(
            pa.BufferReader(content),
            arrow_csv.ReadOptions(block_size=1 << 22, column_names=columns, use_threads=wrong is None),
            arrow_csv.ParseOptions(
                delimiter=self._delimiter,
                quote_char='"' if b'"' in content else False,
                invalid_row_handler=None if wrong is None else skip,
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )

    def _one_by_one(self, lines: Lines) -> Iterator[Batch]:
        import pyarrow as pa

        rows: list[int] = []
        cells: list[list[str]] = []
        rejected: list[Rejected] = []
        for i, line in enumerate(lines.content.split(b"\n")):
            number, line = lines.first + i, line.removesuffix(b"\r")
            if not line.strip():
                continue
            found = _record(line, self._delimiter, len(self.columns.names))
            if isinstance(found, str):
                rejected.append(Rejected(number, line.decode("utf-8", "replace")[:_SHOWN], found))
            else:
                rows.append(number)
                cells.append(found)
        if rows or rejected:
            arrays = [pa.array([record[i] for record in cells], pa.string()) for i in range(len(self.columns.names))]
            records = pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))])
            yield Batch(records, np.array(rows, dtype=np.int64), tuple(rejected))

    def _value_cells(self, lines: Sequence[str]) -> Iterator[str]:
        """The cells of the head's lines that should hold a number."""
        columns = self.columns
        values = list(columns.tags.values()) if columns.tags is not None else [columns.value]
        for record in csv.reader(lines, delimiter=self._delimiter):
            if len(record) == len(columns.names):
                yield from (record[i] for i in values if i is not None)


def _block(size: int) -> int:
    """Bytes of a block of about `size` records."""
    return max(SMALLEST, BLOCK * size // BATCH)


def _record(line: bytes, delimiter: str, width: int) -> list[str] | str:
    """The cells of a line, or why it has none."""
    try:
        cells = next(csv.reader([line.decode("utf-8")], delimiter=delimiter, strict=True))
    except UnicodeDecodeError:
        return NOT_TEXT
    except csv.Error:
        return OPEN_QUOTE
    if any("\n" in cell for cell in cells):
        return OPEN_QUOTE
    if len(cells) != width:
        return _cell_count(len(cells), width)
    return cells


def _cell_count(found: int, expected: int) -> str:
    return f"{found} cell{'s' * (found != 1)} where the header has {expected}"


def _without_blanks(lines: Lines) -> tuple[bytes, npt.NDArray[np.int64]]:
    """The lines of a block that are not blank, and their numbers."""
    content = lines.content
    if not content.startswith((b"\n", b"\r\n")) and b"\n\n" not in content and b"\n\r\n" not in content:
        count = content.count(b"\n") + (not content.endswith(b"\n"))
        return content, np.arange(lines.first, lines.first + count, dtype=np.int64)
    every = content.split(b"\n")
    kept = [i for i, line in enumerate(every) if line.strip()]
    return b"\n".join([every[i] for i in kept]), np.array(kept, dtype=np.int64) + lines.first


def _cells(line: str, delimiter: str, where: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as problem:
        raise DataError(f"is no CSV file ({problem})", where=f"{where}, line 1", cure="Export it again.") from None


def _delimiter(header: str, where: str) -> str:
    """The mark that splits the header into most columns."""
    return max(_DELIMITERS, key=lambda mark: len(_cells(header, mark, where)))


def _same_delimiter(lines: Sequence[str], delimiter: str, where: str) -> None:
    """Refuses a file whose first record is split by another mark than its header."""
    if len(lines) < 2:
        return
    width = len(_cells(lines[0], delimiter, where))
    for mark in _DELIMITERS:
        first = [len(_cells(lines[1], one, where)) for one in (delimiter, mark)]
        if first[0] != width and first[1] == width and mark != delimiter:
            raise DataError(
                f"the header is split by {_shown(delimiter)}, the line after it by {_shown(mark)}",
                where=where, cure="Export it again with one delimiter.",
            )  # fmt: skip


def _some_fit(lines: Sequence[str], delimiter: str, where: str) -> None:
    """Refuses a file none of whose first records has as many cells as its header."""
    width = len(_cells(lines[0], delimiter, where))
    records = list(csv.reader(lines[1:_FIRST_LINES], delimiter=delimiter))
    if not records or any(len(record) == width for record in records):
        return
    found = len(records[0])
    cure = "Was it cut off? Export it again, with one cell for each column."
    if found > width:
        cure = (
            "Export it without a delimiter at the end of the lines, and with another delimiter where it is the decimal "
            "mark, too; 'log.delimiter' and 'log.decimal' of the plant file name them."
        )
    raise DataError(
        f"the header has {width} cells and no line after it has, such as '{_short(lines[1])}' with {found}",
        where=f"{where}, line 2", cure=cure,
    )  # fmt: skip


def _is_header(line: str, delimiter: str, spec: PlantSpec, where: str) -> bool:
    try:
        recognise(_cells(line, delimiter, where), spec, where)
    except DataError:
        return False
    return True


def _short(line: str) -> str:
    line = line.strip()
    return line if len(line) <= 80 else f"{line[:76]} ..."


def _shown(delimiter: str) -> str:
    return "tabs" if delimiter == "\t" else f"'{delimiter}'"
