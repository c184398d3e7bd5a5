"""Reading and checking the audit log, also while a runtime writes it.

The chain of hashes shows that something inside the log was changed. It cannot show that rows are missing at the very
end, nor that the oldest segments were taken away (a log that grows too large drops them itself), nor that somebody who
may write the folder made a whole new log: against these, note number and hash of the last row elsewhere from time to
time (`AuditLog.seq` and `.head`, `AuditCheck.last_seq` and `.last_hash`). What is read is untrusted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlkit.errors import ArtifactError, ControlkitError, nearest
from deploy.runtime.audit_segment import (
    COLUMNS,
    CURE,
    GENESIS,
    KINDS,
    Link,
    RawRow,
    canonical,
    check_form,
    check_plain,
    follow,
    list_segments,
    raw_row,
    read_anchor,
    segment_number,
    segment_path,
)

_CHUNK = 100
_LOWEST, _HIGHEST = -(2**63), 2**63 - 2  # a check looks at rows of impossible numbers too


@dataclass(frozen=True)
class AuditRow:
    """One row.

    Attributes:
        seq: its number, unbroken from 1 over all segments.
        kind: one of `KINDS`.
        wall_ns: wall clock, nanoseconds since 1970-01-01 UTC; monotonic_ns: a clock that never jumps.
        payload: what happened.
        hash: SHA-256 in hex, over the hash before it and this row.
    """

    seq: int
    kind: str
    wall_ns: int
    monotonic_ns: int
    payload: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class AuditCheck:
    """What a check of the chain found.

    Attributes:
        rows: rows whose chain holds, before the first problem.
        first_seq: number of the first row that is kept; later than 1 once old segments were dropped.
        last_seq: number of the last row whose chain holds; `first_seq - 1` where there is none.
        last_hash: its hash, in hex.
        segments: files looked at.
        problem: file and row at which the chain breaks, and how; empty if it holds.
    """

    rows: int
    first_seq: int
    last_seq: int
    last_hash: str
    segments: int
    problem: str


def read_audit(
    folder: str | Path, *, kinds: Collection[str] | None = None, first: int | None = None
) -> Iterator[AuditRow]:
    """The rows in order, up to what is written by the time that the last segment is read. The chain is not checked.

    Args:
        folder: of the log.
        kinds: only these; all of them where not given.
        first: number of the row to begin at; the oldest where not given.

    Raises:
        ControlkitError: a kind that does not exist.
        ArtifactError: no log there, a file that is no segment, or a damaged row (file and number are named). Files and
            rows are opened as they are reached.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ControlkitError(f"'{kind}' is no kind of an audit row", cure=nearest(kind, KINDS))
    paths = _segments_of(Path(folder))
    return (
        AuditRow(row.seq, row.kind, row.wall_ns, row.monotonic_ns, _parsed(path, row), row.hash.hex())
        for path in paths
        for row in _rows_of(path, kinds, _LOWEST if first is None else max(_LOWEST, min(first, _HIGHEST)))
    )


def verify_audit(folder: str | Path) -> AuditCheck:
    """Checks the whole chain: every row's hash, unbroken numbers, every segment's anchor.

    Found is any change, removal, insertion or exchange of rows or segments inside the chain. Not to be found: rows
    missing at the end of the last segment, and the oldest segments missing (`first_seq` says where the log begins).

    Raises:
        ArtifactError: there is no log.
    """
    paths = _segments_of(Path(folder))
    begin: Link | None = None
    last = GENESIS
    before = 0
    for path in paths:
        number = segment_number(path)
        try:
            if before and number != before + 1:
                raise ArtifactError("is missing", where=str(segment_path(path.parent, before + 1)))
            with closing(_open(path)) as connection, _readable(str(path)):
                anchor = read_anchor(connection, path)
                if begin is None:
                    begin = last = GENESIS if number == 1 else anchor
                if anchor.seq != last.seq:
                    raise ArtifactError(
                        f"begins after row {anchor.seq}, but the row before it is {last.seq}", where=str(path)
                    )
                if anchor.hash != last.hash:
                    raise ArtifactError(f"its anchor is not the hash of row {last.seq}", where=str(path))
                for row in _rows(connection, path):
                    last = follow(last, row, path)
        except ArtifactError as problem:
            kept = list_segments(path.parent)
            if kept and path not in kept and number < segment_number(kept[0]):
                return verify_audit(folder)  # a running log has just dropped it, being too large
            return _checked(begin or last, last, len(paths), str(problem))
        before = number
    return _checked(begin or last, last, len(paths), "")


def _open(path: Path) -> sqlite3.Connection:
    check_plain(path)
    with _readable(str(path)):
        # No look at the file's bytes beforehand: closing it again would take SQLite's locks from a log of this process.
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            check_form(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _segments_of(folder: Path) -> list[Path]:
    try:
        found = list_segments(folder)
    except OSError:
        found = []
    if not found:
        raise ArtifactError("holds no audit log", where=str(folder), cure="Give the folder of audit-000001.sqlite ...")
    return found


def _rows_of(path: Path, kinds: Collection[str] | None, first: int) -> Iterator[RawRow]:
    with closing(_open(path)) as connection:
        yield from _rows(connection, path, kinds, first)


def _rows(
    connection: sqlite3.Connection, path: Path, kinds: Collection[str] | None = None, first: int = _LOWEST
) -> Iterator[RawRow]:
    """Rows in chunks: a reader that pauses between two holds no lock, which would let a running log's WAL grow."""
    some = "" if kinds is None else f"AND kind IN ({', '.join('?' * len(kinds))})"
    query = f"SELECT {COLUMNS} FROM entry WHERE seq >= ? {some} ORDER BY seq LIMIT {_CHUNK}"
    while True:
        with _readable(f"{path}, from row {first}"):
            chunk = connection.execute(query, (first, *(kinds or ()))).fetchall()
        for values in chunk:
            row = raw_row(path, values)
            if row.seq < first:
                raise ArtifactError("is out of order", where=f"{path}, row {row.seq}", cure=CURE)
            first = row.seq + 1
            yield row
        if len(chunk) < _CHUNK:
            return


def _parsed(path: Path, row: RawRow) -> dict[str, Any]:
    try:
        payload = json.loads(row.payload.decode("ascii"))
        # Written again, a NaN, an infinity or a key that occurs twice does not give the same bytes.
        good = isinstance(payload, dict) and canonical(payload) == row.payload
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise ArtifactError("its payload is no JSON of this log", where=f"{path}, row {row.seq}", cure=CURE)
    return dict(payload)


def _checked(begin: Link, last: Link, segments: int, problem: str) -> AuditCheck:
    return AuditCheck(last.seq - begin.seq, begin.seq + 1, last.seq, last.hash.hex(), segments, problem)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as problem:
        cure = "Read it as the user who runs the runtime, or read a copy of the whole folder."
        raise ArtifactError(f"cannot be read ({problem})", where=where, cure=cure) from None
    except sqlite3.Error as problem:
        raise ArtifactError(f"is damaged ({problem})", where=where, cure=CURE) from None
