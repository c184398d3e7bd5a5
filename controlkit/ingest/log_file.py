"""What DuckDB and the file system say about a log file, in one clear line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlkit.errors import DataError

_BAD_LINE = re.compile(r"CSV Error on Line: (\d+)")
_EXPECTED = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")


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
