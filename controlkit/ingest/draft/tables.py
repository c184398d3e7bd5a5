"""The files of an unknown log as tables that DuckDB reads: CSV in any encoding and packing, Parquet, Arrow."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from controlkit.errors import DataError
from controlkit.ingest.sources.sql_address import has_scheme, is_address, redacted

CSV, PARQUET, ARROW = (".csv", ".tsv", ".txt"), (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
_PACKED = (".gz", ".zst")
_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Table:
    """A file for DuckDB.

    Attributes:
        read: the table function.
        delimiter: of a CSV file; empty for others.
    """

    read: str
    delimiter: str = ""


def files_of(sources: Sequence[Path | str]) -> list[Path]:
    """The files that paths, folders and patterns name.

    Raises:
        DataError: one names no log.
    """
    found: list[Path] = []
    for source in sources:
        path, text = Path(source), str(source)
        if is_address(text) or (has_scheme(text) and not path.exists()):
            raise DataError(
                "a plant file cannot be proposed from a database", where=redacted(text),
                cure="Export a part of it as CSV.",
            )  # fmt: skip
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) is not None)
        else:
            inside = [Path(name) for name in sorted(glob(text, recursive=True))] if has_magic(text) else [path]
            inside = [path] if path.is_file() else inside
        for file in inside:
            if not file.is_file():
                raise DataError("no such file", where=redacted(str(file)), cure="Check the path.")
        if not inside:
            raise DataError("holds no log", where=text, cure="Name CSV, Parquet or Arrow files.")
        found += inside
    if not found:
        raise DataError("no log was named", cure="Name one or more CSV or Parquet files.")
    return found


def table_of(path: Path, scratch: Path) -> Table:
    """A file as a table; what DuckDB cannot read itself is written anew in the scratch folder.

    Raises:
        DataError: it is of no kind that is known, is empty, or cannot be read.
    """
    kind = _kind(path)
    if kind == "csv":
        return _csv_table(path, scratch)
    if kind == "arrow":
        path = _as_parquet(path, scratch / "log.parquet")
    elif kind is None:
        raise DataError(
            "is neither CSV nor Parquet nor Arrow by its name", where=str(path),
            cure="Name it .csv, .csv.gz, .csv.zst, .parquet or .arrow after what it is.",
        )  # fmt: skip
    return Table(f"read_parquet({quoted_text(_literal(path))})")


def quoted_text(value: str) -> str:
    """Text for a query."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    for suffix in _PACKED:
        if name.endswith(suffix):
            return "csv" if name.removesuffix(suffix).endswith(CSV) else None
    known = {"csv": CSV, "parquet": PARQUET, "arrow": ARROW}
    return next((kind for kind, suffixes in known.items() if name.endswith(suffixes)), None)


def _csv_table(path: Path, scratch: Path) -> Table:
    from controlkit.ingest.sources.text_file import TextFile

    text = TextFile(path)
    header = next((line for line in text.head.decode("utf-8", "replace").splitlines() if line.strip()), "")
    if not header:
        raise DataError("the log is empty", where=str(path), cure="Export it again, with a header line.")
    try:
        split = {mark: next(csv.reader([header], delimiter=mark)) for mark in _DELIMITERS}
    except csv.Error as problem:
        raise DataError(f"is no CSV file ({problem})", where=f"{path}, line 1", cure="Export it again.") from None
    delimiter = max(_DELIMITERS, key=lambda mark: len(split[mark]))
    if text.encoding != "utf-8" or path.suffix.lower() == ".zst":
        with (scratch / "log.csv").open("wb") as stream:
            stream.writelines(lines.content for lines in text.blocks())
        path = scratch / "log.csv"
    names = [name.strip().lstrip("\ufeff") or f"column_{i + 1}" for i, name in enumerate(split[delimiter])]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DataError(f"column '{name}' is there twice", where=f"{path}, line 1", cure="Remove one of them.")
    fields = ", ".join(f"{quoted_text(name)}: 'VARCHAR'" for name in names)
    # Lines that cannot be taken apart are the ingest's to report; a proposal does without them.
    return Table(
        f"read_csv({quoted_text(_literal(path))}, header = true, auto_detect = false, quote = '\"', escape = '\"', "
        f"delim = {quoted_text(delimiter)}, columns = {{{fields}}}, ignore_errors = true)",
        delimiter,
    )


def _as_parquet(path: Path, copy: Path) -> Path:
    """An Arrow file or stream as Parquet, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(str(path)) as stream:
            reader: Any
            try:
                reader = pa.ipc.open_file(stream)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            except pa.ArrowInvalid:
                stream.seek(0)
                reader = batches = pa.ipc.open_stream(stream)
            with pq.ParquetWriter(copy, reader.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
    except (pa.ArrowInvalid, OSError) as problem:
        reason = str(problem).splitlines()[0]
        raise DataError(f"is no Arrow file ({reason})", where=str(path), cure="Export it again.") from None
    return copy


def _literal(path: Path) -> str:
    """A path that DuckDB does not take for a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))
