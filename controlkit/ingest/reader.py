"""One source of a plant log, read by DuckDB into a table of parsed columns and handed out tag by tag.

DuckDB parses in parallel and spills to disk; only one tag at a time is in memory as arrays. Nothing is changed or
dropped here: what cannot be parsed keeps its text, so that an error can show it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError
from controlkit.files import sha256_of
from controlkit.ingest import columns as header
from controlkit.ingest import log_file, timestamps
from controlkit.ingest.columns import Columns
from controlkit.ingest.quality import good_codes
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    import duckdb

_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


@dataclass(frozen=True)
class RawSamples:
    """The K samples of one tag in one source, in the order of the file.

    Attributes:
        row: (K,) records before each one in the file; `Source.place` names the line.
        time_ns: (K,) UTC.
        value: (K,) NaN where the cell is empty, text or no number.
        text: (K,) whether the cell holds text that is no number.
        empty: (K,) whether the cell is empty.
        good: (K,) whether the quality code is good.
    """

    row: npt.NDArray[np.int64]
    time_ns: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    text: npt.NDArray[np.bool_]
    empty: npt.NDArray[np.bool_]
    good: npt.NDArray[np.bool_]


class Source:
    """A log file, loaded into a table of its own.

    Args:
        connection: where the table is made.
        path: CSV (also gzipped) or Parquet.
        spec: the plant.
        table: name of the table.

    Attributes:
        path, sha256: the file.
        rows: records in it.
        first_ns: its first time stamp, good enough to put sources in order: a stamp without a zone counts as UTC.
        columns: what its columns mean.
        unknown_codes: words in the quality column that nobody here knows; their samples count as not good.

    Raises:
        DataError: the file is missing, empty, of another kind, has a column, tag or unit that the plant file lacks, or
            a time stamp that cannot be read.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, spec: PlantSpec, table: str) -> None:
        self.path, self._spec, self._table, self._duck = path, spec, table, connection
        self._delimiter: str | None = None  # of a Parquet file: none
        is_csv = log_file.is_csv(path)
        with log_file.readable(self.path):
            self.sha256 = sha256_of(path)
            if is_csv:
                names, self._delimiter = log_file.header_of(path)
                self._types = ["VARCHAR"] * len(names)
            else:
                names = self._header_of_parquet()
            self.columns: Columns = header.recognise(names, spec, str(path))
            self._load()
            self.rows = int(self._one(f"SELECT count(*) FROM {table}")[0])
            if not self.rows:
                raise DataError("the log is empty", where=str(path), cure="Export it again: it has a header only.")
            self._time = self._checked_time()
            self.first_ns = int(self._one(f"SELECT min({self._time} - zone * 60000000000) FROM {table}")[0])
            self._good, self.unknown_codes = self._quality()
            self._counts = self._counted()
            self._check_units()

    def names(self) -> tuple[str, ...]:
        """The plant file's tags that the source holds."""
        return tuple(self._counts)

    def count(self, tag: str) -> int:
        """How many cells or samples of a tag the source holds."""
        return self._counts.get(tag, 0)

    def samples(self, tag: str) -> RawSamples:
        """The samples of a tag in the order of the file.

        Raises:
            DataError: a time stamp that a change of the clock skips or repeats.
        """
        if self.columns.tags is not None:
            i = self.columns.tags[tag]
            value, text, chosen, values = f"v{i}", f"x{i}", "", []
        else:
            value, text, chosen, values = "v", "x", "WHERE tag = ?", [self._column_of(tag)]
        with log_file.readable(self.path):
            got: dict[str, Any] = self._duck.execute(
                f"SELECT rowid AS row, {self._time} AS local, zone, coalesce({value}, 'nan'::DOUBLE) AS value, "
                f"{text} IS NOT NULL AS text, {value} IS NULL AND {text} IS NULL AS empty, {self._good} AS good "
                f"FROM {self._table} {chosen} ORDER BY rowid",
                values,
            ).fetchnumpy()
        row, local, zone = (np.asarray(got[name], dtype=np.int64) for name in ("row", "local", "zone"))
        time_ns, wrong = timestamps.to_utc(local, zone, self._spec.time_zone)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"the time stamp {timestamps.iso(int(local[i]))[:-1]} is skipped or shown twice when the clock changes "
                f"in {self._spec.time_zone}",
                where=self.place(int(row[i])),
                cure="Export in UTC or with the offset, such as 2024-10-27T02:30:00+01:00.",
            )
        text_there, empty, good = (np.asarray(got[name], dtype=np.bool_) for name in ("text", "empty", "good"))
        return RawSamples(row, time_ns, np.asarray(got["value"], dtype=np.float64), text_there, empty, good)

    def text_of(self, tag: str, row: int) -> tuple[str, str]:
        """The text that stands where a number should, and what may be done about it."""
        column = f"x{self.columns.tags[tag]}" if self.columns.tags is not None else "x"
        text = str(self._one(f"SELECT {column} FROM {self._table} WHERE rowid = ?", [row])[0])
        if _DECIMAL_COMMA.fullmatch(text):
            return text, "Export numbers with a decimal point."
        return text, "Mend it, leave the cell empty, or mark the sample bad in a quality column."

    def place(self, row: int) -> str:
        """File and line of a record; a Parquet file has rows instead."""
        if self._delimiter is None:
            return f"{self.path}, row {row + 1}"
        return f"{self.path}, line {log_file.line_of(self.path, self._delimiter, row)}"

    # Reading -------------------------------------------------------------------------------------------------------

    def _header_of_parquet(self) -> list[str]:
        described = self._all("DESCRIBE SELECT * FROM read_parquet(?)", [log_file.literal(self.path)])
        self._types = [str(kind) for _, kind, *_ in described]
        return [str(name) for name, *_ in described]

    def _load(self) -> None:
        columns, names = self.columns, self.columns.names
        values: list[Any] = [log_file.literal(self.path)]
        if self._delimiter is not None:
            fields = [f"c{i}" for i in range(len(names))]
            kinds = ", ".join(f"'{field}': 'VARCHAR'" for field in fields)
            read = (
                f"read_csv(?, header = true, auto_detect = false, delim = '{self._delimiter}', quote = '\"', "
                f"escape = '\"', columns = {{{kinds}}})"
            )
        else:
            fields, read = [_quoted(name) for name in names], "read_parquet(?)"
        local, zone, text = self._time_expressions(fields[columns.timestamp], self._types[columns.timestamp])
        wanted = [f"{local} AS local", f"{zone} AS zone", f"{text} AS time_text"]
        if columns.quality is not None:
            wanted.append(f"CAST({fields[columns.quality]} AS VARCHAR) AS quality")
        if columns.tags is not None:
            for i in columns.tags.values():
                value, rest = self._number_expressions(i, fields[i])
                wanted += [f"{value} AS v{i}", f"{rest} AS x{i}"]
        else:
            assert columns.tag is not None
            assert columns.value is not None
            value, rest = self._number_expressions(columns.value, fields[columns.value])
            wanted += [f"trim(CAST({fields[columns.tag]} AS VARCHAR)) AS tag", f"{value} AS v", f"{rest} AS x"]
            if columns.unit is not None:
                wanted.append(f"trim(CAST({fields[columns.unit]} AS VARCHAR)) AS unit")
        self._duck.execute(f"CREATE TABLE {self._table} AS SELECT {', '.join(wanted)} FROM {read}", values)

    def _time_expressions(self, field: str, kind: str) -> tuple[str, str, str]:
        """Local time or number since 1970, offset in minutes, and the text where neither could be read."""
        self._numeric_time = not kind.startswith(("TIMESTAMP", "DATE", "VARCHAR"))
        if kind == "VARCHAR":
            first = self._first_stamp(field)
            self._numeric_time = first is not None and timestamps.is_number(first)
        if self._numeric_time:
            local, zone = f"TRY_CAST({field} AS DECIMAL(38, 9))", "0"
        elif kind == "VARCHAR":
            local, zone = timestamps.text_expressions(field)
        else:
            local, zone = f"epoch_ns({field})", "0" if kind.endswith("TIME ZONE") else str(timestamps.NAIVE)
        shown = f"coalesce(CAST({field} AS VARCHAR), '')"
        return local, f"CAST({zone} AS INTEGER)", f"CASE WHEN ({local}) IS NULL THEN {shown} END"

    def _first_stamp(self, field: str) -> str | None:
        if self._delimiter is not None:
            return log_file.first_cell(self.path, self._delimiter, self.columns.timestamp)
        query = f"SELECT {field} FROM read_parquet(?) WHERE {field} IS NOT NULL LIMIT 1"
        found = self._all(query, [log_file.literal(self.path)])
        return str(found[0][0]) if found else None

    def _number_expressions(self, i: int, field: str) -> tuple[str, str]:
        """The number in a cell, and its text where it holds something else."""
        kind = self._types[i]
        if kind == "VARCHAR":
            number = f"TRY_CAST(trim({field}) AS DOUBLE)"
            return number, f"CASE WHEN {number} IS NULL AND trim({field}) <> '' THEN {field} END"
        if kind.startswith(("TIMESTAMP", "DATE", "TIME", "STRUCT", "MAP", "BLOB", "UUID", "INTERVAL")) or "[" in kind:
            raise DataError(
                f"column '{self.columns.names[i]}' holds {kind}, not numbers",
                where=str(self.path),
                cure="Export numbers, or remove the column.",
            )
        return f"CAST({field} AS DOUBLE)", "CAST(NULL AS VARCHAR)"

    # Checks of a whole file ------------------------------------------------------------------------------------------

    def _checked_time(self) -> str:
        """The expression for local nanoseconds."""
        unread = self._all(
            f"SELECT rowid, time_text FROM {self._table} WHERE time_text IS NOT NULL ORDER BY rowid LIMIT 1"
        )
        if unread:
            row, text = unread[0]
            what = f"the time stamp '{text}' cannot be read" if text else "a time stamp is missing"
            raise DataError(what, where=self.place(row), cure=timestamps.FORMS)
        if not self._numeric_time:
            return "local"
        row, largest = self._one(
            f"SELECT rowid, CAST(abs(local) AS DOUBLE) FROM {self._table} ORDER BY abs(local) DESC LIMIT 1"
        )
        unit = timestamps.epoch_unit_ns(float(largest))
        if unit is None:
            raise DataError(
                "the time stamp lies beyond the year 2261 in any unit", where=self.place(row), cure=timestamps.FORMS
            )
        return f"CAST(round(local * {unit}) AS BIGINT)"

    def _quality(self) -> tuple[str, tuple[str, ...]]:
        """The expression that says whether a row's quality is good, and the unknown words."""
        if self.columns.quality is None:
            return "true", ()
        codes = [row[0] for row in self._all(f"SELECT DISTINCT quality FROM {self._table}")]
        good, unknown = good_codes(codes, str(self.path))
        listed = ", ".join(_text(code) for code in sorted(good))
        return (f"coalesce(quality IN ({listed}), false)" if listed else "false"), unknown

    def _counted(self) -> dict[str, int]:
        """Samples by tag, all of which the plant file knows."""
        if self.columns.tags is not None:
            return dict.fromkeys(self.columns.tags, self.rows)
        known, counts = header.log_names(self._spec), {}
        for name, count, row in self._all(
            f"SELECT coalesce(tag, ''), count(*), min(rowid) FROM {self._table} GROUP BY 1 ORDER BY 3"
        ):
            if name not in known:
                raise header.unknown_tag(name, known, self.place(row))
            counts[known[name]] = int(count)
        return counts

    def _check_units(self) -> None:
        if self.columns.unit is None:
            return
        known = header.log_names(self._spec)
        for name, unit, row in self._all(
            f"SELECT tag, unit, min(rowid) FROM {self._table} WHERE unit <> '' GROUP BY 1, 2 ORDER BY 3"
        ):
            if header.is_other_unit(self._spec, known[name], unit):
                raise header.wrong_unit(self._spec, known[name], unit, self.place(row))

    # Small things ----------------------------------------------------------------------------------------------------

    def _column_of(self, tag: str) -> str:
        return self._spec.tags[tag].column or tag

    def _one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        return self._all(query, values)[0]

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._duck.execute(query, list(values)).fetchall()


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _text(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"
