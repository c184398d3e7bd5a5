"""A sample of an unknown log, read without a plant file.

Of every tag all samples are counted and their extremes taken; the samples themselves are kept of a few stretches,
spread evenly over the log, so that a log of any size is looked at in the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError
from controlkit.ingest.draft.cells import require_fit
from controlkit.ingest.draft.header import MOST, Meaning, meaning_of, share, split_unit
from controlkit.ingest.draft.stamps import (
    TWO_NUMBERS,
    has_either_first,
    numbers_of,
    order_of,
    shorter_with_day_first,
    stamps_of,
)
from controlkit.ingest.draft.tables import quoted_text, table_of
from controlkit.ingest.log_file import readable
from controlkit.ingest.sources.codes import Codes
from controlkit.ingest.stage import Code

# Values that are kept of a source, and the stretches that they come from.
KEPT, STRETCHES = 3_000_000, 8
_HEAD = 5_000  # rows that the columns' meaning is told from
MEMORY_LIMIT = "1GB"


@dataclass(frozen=True)
class TagSample:
    """What a log holds of one tag: K samples that are kept, in order of time, and figures of all of them.

    Attributes:
        time_ns, value: (K,) UTC; NaN where a sample is not good or no number.
        samples, good: all there are, and how many of them are good numbers.
        low, high: smallest and largest good number of all; NaN without any.
        unit: as the log states it.
        compared: whether ingest compares that unit with the plant file's.
    """

    time_ns: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    samples: int
    good: int
    low: float
    high: float
    unit: str | None = None
    compared: bool = False


@dataclass(frozen=True)
class LogSample:
    """One source.

    Attributes:
        name: of the file.
        form: long or wide.
        tags: name in the log -> samples.
        naive: whether its time stamps have no zone.
        columns: what only the plant file can name: field of `log.columns` -> column.
        reasons: how these were told.
        backward: whether some stamp lies before the tag's last one in the file.
        whole: whether all samples were kept.
        day_first: whether 03/04 was read as the third of April; None where the stamps are of another kind.
        doubtful: whether it may be the fourth of March as well, as far as this source tells.
    """

    name: str
    form: Literal["long", "wide"]
    tags: dict[str, TagSample]
    naive: bool
    columns: dict[str, str]
    reasons: dict[str, str]
    backward: bool
    whole: bool
    day_first: bool | None = None
    doubtful: bool = False


def sample_of(source: Path, day_first: bool | None = None) -> LogSample:
    """Reads a sample of a CSV, Parquet or Arrow file.

    Args:
        source: the file.
        day_first: what other files tell of the order of day and month, for one that does not tell itself.

    Raises:
        DataError: the log is missing, empty, or of no kind that is known; it has no time stamps or no numbers.
    """
    import duckdb

    with readable(source), TemporaryDirectory(prefix="controlkit-") as scratch:
        connection = duckdb.connect(f"{scratch}/log.duckdb", config={"memory_limit": MEMORY_LIMIT})
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET TimeZone = 'UTC'")  # in which a stamp without a zone is read
        with connection:
            return _Reader(connection, source, Path(scratch), day_first).sample()


class _Reader:
    """Reads one source: once, from `_read` as it stands, into a table `log` of time stamps and numbers on disk."""

    def __init__(self, connection: Any, path: Path, scratch: Path, day_first: bool | None) -> None:
        self._duck, self.path, self._told = connection, path, day_first
        table = table_of(path, scratch)
        if table.delimiter:
            require_fit(path, table.delimiter)
        self._read, self._delimiter = table.read, table.delimiter
        described = self._all(f"DESCRIBE SELECT * FROM {self._read}")
        self._types = {str(name): str(kind) for name, kind, *_ in described}

    def sample(self) -> LogSample:
        head = self._head()
        if not any(head.values()):
            raise DataError("the log is empty", where=str(self.path), cure="Export it again: it has a header only.")
        meaning = meaning_of(list(self._types), head, str(self.path))
        day_first, doubtful = self._order(meaning.timestamp, head[meaning.timestamp])
        stamps = stamps_of(
            self._types[meaning.timestamp], _quoted(meaning.timestamp), head[meaning.timestamp], day_first is not False
        )
        if stamps is None:
            example = next(iter(head[meaning.timestamp]), "")
            raise DataError(
                f"the time stamp '{example}' cannot be read",
                where=str(self.path),
                cure="Write ISO 8601 such as 2024-05-01T10:00:00Z, or seconds, ms, us or ns since 1970.",
            )
        value, good = self._values(meaning, head), self._good(meaning)
        self._duck.execute(
            f"CREATE TABLE log AS SELECT CAST({stamps.utc_ns} AS BIGINT) AS utc_ns, {', '.join(value)} FROM "
            f"(SELECT *, {good} AS is_good FROM {self._read})"
        )
        rows, first, last = self._all("SELECT count(utc_ns), min(utc_ns), max(utc_ns) FROM log")[0]
        if not rows:
            raise DataError("no time stamp can be read", where=str(self.path), cure="Check its first lines.")
        where, whole = _stretches(rows * max(1, len(meaning.tags)), int(first), int(last))
        tags = self._long(where) if meaning.form == "long" else self._wide(meaning, where)
        return LogSample(
            name=self.path.name,
            form=meaning.form,
            tags=tags,
            naive=stamps.naive,
            columns=meaning.unusual,
            reasons=dict(meaning.reasons),
            backward=self._backward,
            whole=whole,
            day_first=day_first,
            doubtful=doubtful,
        )

    def _head(self) -> dict[str, list[str]]:
        """Cells of the first rows as text, without the empty ones."""
        listed = ", ".join(f"CAST({_quoted(name)} AS VARCHAR)" for name in self._types)
        rows = self._all(f"SELECT {listed} FROM {self._read} LIMIT {_HEAD}")
        return {name: [row[i] for row in rows if row[i]] for i, name in enumerate(self._types)}

    def _order(self, name: str, cells: list[str]) -> tuple[bool | None, bool]:
        """Whether the day comes before the month (None: the stamps are of another kind), and whether that is open."""
        if self._types[name] != "VARCHAR" or not has_either_first(cells):
            return None, False
        day, month = order_of(*zip(*numbers_of(cells), strict=True))
        if not day and not month:
            parts = (f"max(TRY_CAST(regexp_extract({_quoted(name)}, '{TWO_NUMBERS}', {i}) AS INTEGER))" for i in (1, 2))
            highest = self._all(f"SELECT {', '.join(parts)} FROM {self._read}")[0]
            day, month = order_of(*((number or 0,) for number in highest))
        if day and month:
            raise DataError(
                "some time stamps have the day first and others the month", where=str(self.path),
                cure="Export ISO 8601 such as 2024-05-31 10:00:00.",
            )  # fmt: skip
        if day != month:
            return day, False
        return (shorter_with_day_first(cells) if self._told is None else self._told), True

    def _good(self, meaning: Meaning) -> str:
        if meaning.quality is None:
            return "true"
        quality = f"CAST({_quoted(meaning.quality)} AS VARCHAR)"
        seen = [row[0] for row in self._all(f"SELECT DISTINCT {quality} FROM {self._read}")]
        codes = Codes(str(self.path))
        codes.look(seen)
        listed = ", ".join(quoted_text(code) for code in seen if code is not None and codes.worth(code) is Code.GOOD)
        return f"coalesce({quality} IN ({listed}), false)" if listed else "false"

    def _values(self, meaning: Meaning, head: dict[str, list[str]]) -> list[str]:
        """The columns of `log` beside the time stamp: tag, value and unit, or v0, v1 ... of a wide log."""
        if meaning.tag is None or meaning.value is None:
            return [f"{_finite(self._number(name, head))} AS v{i}" for i, name in enumerate(meaning.tags)]
        unit = f"trim(CAST({_quoted(meaning.unit)} AS VARCHAR))" if meaning.unit else "CAST(NULL AS VARCHAR)"
        return [
            f"trim(CAST({_quoted(meaning.tag)} AS VARCHAR)) AS tag",
            f"{_finite(self._number(meaning.value, head))} AS value",
            f"{unit} AS unit",
        ]

    def _long(self, where: str) -> dict[str, TagSample]:
        figures = self._all(
            "SELECT tag, count(*), count(value), min(value), max(value), mode(unit) FROM log "
            "WHERE tag <> '' GROUP BY 1 ORDER BY min(utc_ns), 1"
        )
        if not figures:
            raise DataError("no row names a tag", where=str(self.path), cure="Check the column of the tags.")
        # Numbers for names: a million texts in Python take longer than everything else.
        self._duck.execute("CREATE TYPE tag_name AS ENUM (SELECT DISTINCT tag FROM log WHERE tag <> '' ORDER BY tag)")
        got = self._duck.execute(
            "SELECT CAST(enum_code(CAST(tag AS tag_name)) AS INTEGER) AS number, utc_ns, value FROM log "
            f"WHERE {where} AND utc_ns IS NOT NULL AND tag <> ''"
        ).fetchnumpy()
        number, time_ns, value = (_filled(got[name]) for name in ("number", "utc_ns", "value"))
        # In order of time tag by tag; of one stamp as the log has them.
        by_tag = np.argsort(number, kind="stable")
        self._backward = bool(((np.diff(time_ns[by_tag]) < 0) & (np.diff(number[by_tag]) == 0)).any())
        order = np.lexsort((time_ns, number))
        ends = np.cumsum(np.bincount(number, minlength=len(figures)))
        parts = dict(zip(sorted(str(row[0]) for row in figures), np.split(order, ends[:-1]), strict=True))
        tags = {}
        for name, count, numbers, low, high, stated in figures:
            rows = parts[name]
            tags[name] = TagSample(
                time_ns[rows], value[rows], count, numbers, _float(low), _float(high), stated, compared=True
            )
        return tags

    def _wide(self, meaning: Meaning, where: str) -> dict[str, TagSample]:
        columns = [f"v{i}" for i in range(len(meaning.tags))]
        figures = self._all(
            "SELECT count(*), " + ", ".join(f"count({v}), min({v}), max({v})" for v in columns) + " FROM log"
        )[0]
        query = f"SELECT utc_ns, {', '.join(columns)} FROM log WHERE {where} AND utc_ns IS NOT NULL"
        got = self._duck.execute(query).fetchnumpy()
        time_ns = _filled(got["utc_ns"])
        self._backward = bool((np.diff(time_ns) < 0).any())
        order = np.argsort(time_ns, kind="stable")
        tags = {}
        for i, name in enumerate(meaning.tags):
            good, low, high = figures[1 + 3 * i : 4 + 3 * i]
            short, unit, taken = split_unit(name)
            value = _filled(got[f"v{i}"])[order]
            sample = TagSample(time_ns[order], value, figures[0], good, _float(low), _float(high), unit, taken)
            tags[short if taken else name] = sample
        return tags

    def _number(self, name: str, head: dict[str, list[str]]) -> str:
        """The expression for a column's number: NULL where it holds something else."""
        field = _quoted(name)
        if self._types[name] != "VARCHAR":
            return f"TRY_CAST({field} AS DOUBLE)"
        with_comma = [cell for cell in head[name] if "," in cell]
        # A decimal comma cannot stand in a file whose columns a comma parts, unless in quotes.
        if with_comma and self._delimiter != "," and share(with_comma, lambda text: text.count(",") == 1) >= MOST:
            return f"TRY_CAST(replace(trim({field}), ',', '.') AS DOUBLE)"
        return f"TRY_CAST(trim({field}) AS DOUBLE)"

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._duck.execute(query).fetchall()
        return found


def _stretches(values: int, first: int, last: int) -> tuple[str, bool]:
    """The condition that keeps a few stretches of a log of so many values, and whether it keeps all."""
    if values <= KEPT or last <= first:
        return "true", True
    span = (last - first) / STRETCHES
    length = span * KEPT / values
    starts = [first + i * span for i in range(STRETCHES)]
    return "(" + " OR ".join(f"utc_ns BETWEEN {a:.0f} AND {a + length:.0f}" for a in starts) + ")", False


def _finite(value: str) -> str:
    return f"CASE WHEN is_good AND isfinite({value}) THEN {value} END"


def _filled(column: Any) -> npt.NDArray[Any]:
    """DuckDB's column with NaN where it has NULL (a time stamp has none)."""
    if np.ma.isMaskedArray(column):
        return np.asarray(np.ma.filled(column, np.nan if column.dtype.kind == "f" else 0))
    return np.asarray(column)


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
