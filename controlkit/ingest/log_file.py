"""A log file as such: its kind, its header, and where in it a record lies.

DuckDB numbers records, an engineer looks for lines; the file is read again to find the line, but only for an error.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from controlkit.errors import DataError

CSV, PARQUET = (".csv", ".csv.gz", ".txt", ".tsv"), (".parquet", ".pq")
_DELIMITERS = (",", ";", "\t", "|")
_BAD_LINE = re.compile(r"CSV Error on Line: (\d+)")
_EXPECTED = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")
_LONGEST_HEADER = 1_000_000


def is_csv(path: Path) -> bool:
    """Whether a log is CSV; otherwise it is Parquet.

    Raises:
        DataError: it is missing, a folder, or neither.
    """
    if not path.exists():
        raise DataError("no such file", where=str(path), cure="Check the path.")
    if not path.is_file():
        raise DataError("is a folder, not a log", where=str(path), cure="Name the files in it.")
    name = path.name.lower()
    if name.endswith(CSV):
        return True
    if name.endswith(PARQUET):
        return False
    cure = "Name it .csv, .csv.gz or .parquet after what it is."
    raise DataError("is neither CSV nor Parquet by its name", where=str(path), cure=cure)


def header_of(path: Path) -> tuple[list[str], str]:
    """Names of a CSV file's columns, and the mark between them: the one that gives most columns.

    Raises:
        DataError: the file is empty or no text.
    """
    with opened(path) as stream:
        line = stream.readline(_LONGEST_HEADER)
    line.encode("utf-8")  # a byte that is no UTF-8 comes to light here; in the other lines DuckDB finds it
    if not line.strip():
        raise DataError("the log is empty", where=str(path), cure="Export it again, with a header line.")
    try:
        split = {mark: next(csv.reader([line], delimiter=mark)) for mark in _DELIMITERS}
    except csv.Error as problem:
        raise DataError(f"is no CSV file ({problem})", where=f"{path}, line 1", cure="Export it again.") from None
    delimiter = max(_DELIMITERS, key=lambda mark: len(split[mark]))
    return split[delimiter], delimiter


def first_cell(path: Path, delimiter: str, column: int) -> str | None:
    """The first cell of a CSV file's column that is not empty."""
    with opened(path) as stream:
        records = csv.reader(stream, delimiter=delimiter)
        next(records)
        return next((r[column] for r in records if len(r) > column and r[column].strip()), None)


def line_of(path: Path, delimiter: str, row: int) -> int:
    """The line in which a record of a CSV file begins; records are counted from 0 after the header, lines from 1."""
    before, records = 0, -1
    with opened(path) as stream:
        reader = csv.reader(stream, delimiter=delimiter)
        for record in reader:
            if record:  # a blank line is no record
                if records == row:
                    break
                records += 1
            before = reader.line_num
    return before + 1


def opened(path: Path) -> TextIO:
    """A CSV file as text, unpacked where it is gzipped; bytes that are no UTF-8 come as surrogates."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def literal(path: Path) -> str:
    """A path that DuckDB does not take for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what DuckDB, the CSV reader and the file system say about a log into one clear line.

    Raises:
        DataError: anything went wrong in the block.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as problem:
        raise _explained(path, str(problem)) from None
    except UnicodeError:
        raise _not_text(f"{path}, line 1") from None
    except (OSError, EOFError, csv.Error) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise DataError(f"cannot be read ({reason})", where=str(path), cure="Check the file.") from None


def _explained(path: Path, message: str) -> DataError:
    line = _BAD_LINE.search(message)
    where = f"{path}, line {line[1]}" if line else str(path)
    if "unicode" in message.lower() or "utf-8" in message.lower():
        return _not_text(where)
    if found := _EXPECTED.search(message):
        what = f"has {found[2]} columns where the header has {found[1]}"
        return DataError(what, where=where, cure="Mend that line, or export again.")
    if "unterminated quote" in message:
        what = "a quotation mark is left open or stands inside a cell"
        return DataError(what, where=where, cure="Mend that line, or export again.")
    if "invalid state" in message:
        what = "a line end or a quotation mark is out of place"
        return DataError(what, where=f"{path}{_lone_return(path)}", cure="Mend that line, or export again.")
    what = message.splitlines()[0].split(": ", 1)[-1]
    return DataError(f"cannot be read ({what})", where=where, cure="Check the file, or export it again.")


def _lone_return(path: Path) -> str:
    """`, line N` of the first carriage return inside a line, which DuckDB refuses without saying where."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if b"\r" in line.rstrip(b"\r\n"):
                return f", line {number}"
    return ""


def _not_text(where: str) -> DataError:
    return DataError("is not UTF-8 text", where=where, cure="Export it as UTF-8.")
