"""The form of the audit log's segments: tables, triggers, hashes, and the checks that a file is one.

A segment `audit-000001.sqlite` holds one `anchor` (number and hash of the last row before it) and the rows after it. A
row's hash is the SHA-256 over the hash before it and everything that the row says. What is read is untrusted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from controlkit.errors import ArtifactError

KINDS = ("start", "cycle", "mode", "alarm", "operator", "bundle", "calibration", "stop")
MAX_PAYLOAD_BYTES = 256 * 1024

APPLICATION_ID = 0x434B4155  # "CKAU", in the header of every segment
VERSION = 1
SCHEMA = (
    "CREATE TABLE anchor (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL)",
    "CREATE TABLE entry (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, wall_ns INTEGER NOT NULL, "
    "monotonic_ns INTEGER NOT NULL, payload BLOB NOT NULL, hash BLOB NOT NULL)",
    # In order only; this is also what stops REPLACE, which deletes without asking a trigger.
    "CREATE TRIGGER entry_insert BEFORE INSERT ON entry "
    "WHEN NEW.seq IS NOT 1 + coalesce((SELECT max(seq) FROM entry), (SELECT max(seq) FROM anchor)) "
    "BEGIN SELECT RAISE(ABORT, 'audit rows are only appended'); END",
    "CREATE TRIGGER anchor_insert BEFORE INSERT ON anchor WHEN EXISTS (SELECT 1 FROM anchor) "
    "BEGIN SELECT RAISE(ABORT, 'audit rows are only appended'); END",
    *(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'audit rows are only appended'); END"
        for table in ("entry", "anchor")
        for verb in ("UPDATE", "DELETE")
    ),
)

_NAME = re.compile(r"audit-([0-9]{6}|[1-9][0-9]{6,11})\.sqlite")
HASH_BYTES = 32
_HIGHEST = 2**63 - 2
# A value of another type or size arrives as NULL, unread.
COLUMNS = f"""seq,
    CASE WHEN typeof(kind) = 'text' THEN kind END,
    CASE WHEN typeof(wall_ns) = 'integer' THEN wall_ns END,
    CASE WHEN typeof(monotonic_ns) = 'integer' THEN monotonic_ns END,
    CASE WHEN typeof(payload) = 'blob' AND length(payload) <= {MAX_PAYLOAD_BYTES} THEN payload END,
    CASE WHEN typeof(hash) = 'blob' AND length(hash) = {HASH_BYTES} THEN hash END"""
CURE = "Move the folder away to keep it as evidence; a new log begins in an empty one."


class Link(NamedTuple):
    """A place in the chain: number and hash of a row."""

    seq: int
    hash: bytes


class RawRow(NamedTuple):
    """A row as stored; types and sizes are right, the rest is not checked yet."""

    seq: int
    kind: str
    wall_ns: int
    monotonic_ns: int
    payload: bytes
    hash: bytes


GENESIS = Link(0, bytes(HASH_BYTES))
"""What the very first row follows."""


def chained_hash(before: bytes, seq: int, kind: str, wall_ns: int, monotonic_ns: int, payload: bytes) -> bytes:
    """SHA-256 over: the hash before; number (8 bytes); length of the kind (2), kind; both clocks (8 each, signed);
    length of the payload (4), payload. Integers are big-endian."""
    name = kind.encode("ascii")
    head = struct.pack(f">QH{len(name)}sqqI", seq, len(name), name, wall_ns, monotonic_ns, len(payload))
    return hashlib.sha256(before + head + payload).digest()


def follow(last: Link, row: RawRow, path: Path) -> Link:
    """The link that a row makes.

    Raises:
        ArtifactError: it does not follow the last one, or does not match its hash.
    """
    where = f"{path}, row {row.seq}"
    if row.seq != last.seq + 1:
        raise ArtifactError(f"follows row {last.seq}: rows between them are missing", where=where)
    if chained_hash(last.hash, *row[:-1]) != row.hash:
        raise ArtifactError("does not match its hash: it, or the row before it, was changed", where=where)
    return Link(row.seq, row.hash)


def tail_of(connection: sqlite3.Connection, path: Path, rows: int = 20) -> Link:
    """The end of a segment, its last rows checked.

    Raises:
        ArtifactError: a row there is damaged or does not match the chain.
    """
    anchor = read_anchor(connection, path)
    query = f"SELECT {COLUMNS} FROM entry ORDER BY seq DESC LIMIT ?"
    found = [raw_row(path, values) for values in connection.execute(query, (rows + 1,))][::-1]
    if len(found) <= rows:  # all of them
        last = anchor
    else:
        last = Link(found[0].seq, found[0].hash)
        del found[0]
    for row in found:
        last = follow(last, row, path)
    return last


def read_anchor(connection: sqlite3.Connection, path: Path) -> Link:
    """What the segment's first row follows.

    Raises:
        ArtifactError: there is not exactly one, or it is damaged.
    """
    query = f"SELECT seq, CASE WHEN typeof(hash) = 'blob' AND length(hash) = {HASH_BYTES} THEN hash END FROM anchor"
    match connection.execute(f"{query} LIMIT 2").fetchall():
        case [(int(seq), bytes(digest))] if seq >= 0:
            return Link(seq, digest)
    raise ArtifactError("its anchor is damaged", where=str(path), cure=CURE)


def list_segments(folder: Path) -> list[Path]:
    """The segments in a folder, oldest first; whatever else lies there is not looked at."""
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=segment_number)


def segment_number(path: Path) -> int:
    """12 of `audit-000012.sqlite`; the name must be one."""
    return int(path.name.removeprefix("audit-").removesuffix(".sqlite"))


def segment_path(folder: Path, number: int) -> Path:
    """The inverse."""
    return folder / f"audit-{number:06d}.sqlite"


def check_plain(path: Path) -> None:
    """Sees to it that there is a plain file; links are not followed.

    Raises:
        ArtifactError: there is none.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise ArtifactError("no such file", where=str(path)) from None
    except OSError as problem:
        raise ArtifactError(f"cannot be read ({problem.strerror})", where=str(path)) from None
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError("is no plain file", where=str(path), cure=CURE)


def check_form(connection: sqlite3.Connection, path: Path) -> None:
    """Checks that tables and triggers are exactly ours, and sets how the connection reads.

    Raises:
        ArtifactError: they are not.
        sqlite3.Error: the file is damaged or no database.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * MAX_PAYLOAD_BYTES)
    connection.text_factory = lambda raw: raw.decode("ascii", "replace")
    try:
        header = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        found = connection.execute("SELECT sql FROM sqlite_master LIMIT ?", (len(SCHEMA) + 1,)).fetchall()
    except UnicodeDecodeError:  # Python cannot even show SQLite's message, which quotes the damaged name
        raise ArtifactError("is damaged", where=str(path), cure=CURE) from None
    if header[0] != APPLICATION_ID or (header[1] == VERSION and {sql for (sql,) in found} != set(SCHEMA)):
        raise ArtifactError("is no audit segment, or its triggers were changed", where=str(path), cure=CURE)
    if header[1] != VERSION:
        cure = "Read it with the version of controlkit that wrote it."
        raise ArtifactError(f"is an audit segment of version {header[1]}, not {VERSION}", where=str(path), cure=cure)


def raw_row(path: Path, values: tuple[Any, ...]) -> RawRow:
    """The row that `COLUMNS` gave.

    Raises:
        ArtifactError: something in it is missing, too large, or of another type.
    """
    if None in values or values[1] not in KINDS or not 0 < values[0] <= _HIGHEST:
        what = "is damaged: a value is missing, too large, or of another type"
        raise ArtifactError(what, where=f"{path}, row {values[0]}", cure=CURE)
    return RawRow(*values)


def fill_segment(connection: sqlite3.Connection, last: Link) -> None:
    """Makes a segment of an empty file; `last` is what its first row will follow."""
    connection.execute("PRAGMA page_size=4096")
    connection.execute("BEGIN")
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={VERSION}")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO anchor VALUES (?, ?)", last)
    connection.execute("COMMIT")


def canonical(payload: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces, in ASCII; numpy's arrays as lists, NaN and infinities as null.

    Raises:
        ValueError, TypeError: it is no JSON.
    """
    if not isinstance(payload, Mapping):
        raise TypeError(f"a payload is a mapping, not {type(payload).__name__}")
    try:
        try:
            return _ENCODER.encode(payload).encode("ascii")
        except ValueError:  # there is a NaN somewhere: rare enough not to look for it in every payload
            return _ENCODER.encode(_nulled(payload)).encode("ascii")
    except RecursionError:
        raise ValueError("a payload is nested too deeply") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _nulled(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return value
