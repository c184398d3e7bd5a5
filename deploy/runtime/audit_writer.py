"""Writing rows into the audit log's segments: SQLite's write-ahead log, rotation, and going on after a failure.

With `synchronous=NORMAL` a commit reaches the operating system at once and the disk at the next checkpoint; with `FULL`
it reaches the disk, and with it all before (https://sqlite.org/pragma.html#pragma_synchronous). A checkpoint waits for
the disk, which would be too long for a fast control loop: a thread does it, and whatever else has time.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from controlkit.errors import ArtifactError, ControlkitError
from deploy.runtime.audit_segment import (
    CURE,
    GENESIS,
    Link,
    chained_hash,
    check_form,
    check_plain,
    fill_segment,
    list_segments,
    segment_number,
    segment_path,
    tail_of,
)

# Only somebody who writes into the file by other means ever makes it wait; then the row waits, not the control loop.
_LOCK_WAIT_S = 0.02
_PAGE_BYTES = 4096


class Record(NamedTuple):
    """A row that has no place in the chain yet."""

    kind: str
    wall_ns: int
    monotonic_ns: int
    payload: bytes
    durable: bool


def connect(uri: str) -> sqlite3.Connection:
    """Opens an SQLite URI for writing, without implicit transactions."""
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_LOCK_WAIT_S, check_same_thread=False)


class SegmentWriter:
    """Writes row after row; goes on where the folder's last segment ends.

    Args:
        folder: absolute; only one writer at a time may be given it.
        max_bytes, segment_bytes, connect: see `deploy.runtime.audit.AuditLog`.

    Raises:
        ControlkitError: the folder cannot be written.
        ArtifactError: the last segment is damaged, changed, or something else.

    Attributes:
        tail: the last row written.
        path: the segment that it is in, or the one that could not be opened.
    """

    def __init__(
        self, folder: Path, max_bytes: int, segment_bytes: int, connect: Callable[[str], sqlite3.Connection]
    ) -> None:
        self.tail, self.path = GENESIS, segment_path(folder, 0)
        self._folder, self._max_bytes, self._segment_bytes, self._connect = folder, max_bytes, segment_bytes, connect
        self._connection: sqlite3.Connection | None = None
        self._inode = self._unmeasured = self._unchecked = 0
        self._full_sync = False
        self._finished = True  # the next row begins a new segment
        self._doubt = False  # a write failed: see first how the segment ends
        self._attempt: tuple[Record, Link] | None = None
        self._background = _Background()
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    def write(self, record: Record) -> None:
        """Writes a row, whole or not at all. After a failure, give the same row again, or leave it out for ever.

        Raises:
            sqlite3.Error, OSError, ControlkitError: it is not written.
        """
        connection = self._ready()
        attempt, self._attempt = self._attempt, None
        if attempt == (record, self.tail):
            return  # SQLite had told of a failure after the row was in
        if self._unmeasured >= self._segment_bytes // 64:
            connection = self._measured(connection)
        seq, digest = self.tail.seq + 1, chained_hash(self.tail.hash, self.tail.seq + 1, *record[:4])
        self._attempt = record, Link(seq, digest)
        self._doubt = True
        if record.durable != self._full_sync:
            connection.execute(f"PRAGMA synchronous={'FULL' if record.durable else 'NORMAL'}")
            self._full_sync = record.durable
        try:
            connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", (seq, *record[:4], digest))
        except sqlite3.OperationalError:  # the disk: the segment itself is good
            raise
        except sqlite3.Error:
            self._finished = True
            self._leave()
            raise
        self.tail, self._attempt, self._doubt = self._attempt[1], None, False
        # What the row adds to the write-ahead log, about.
        self._unmeasured += _PAGE_BYTES + len(record.payload)

    def close(self) -> None:
        """Closes the segment, as one file unless somebody reads it; every row is on the disk afterwards, if it can."""
        self._background.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                _close(connection)
            self._sync_log()

    def _measured(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Begins a new segment where this one is large enough, and has its write-ahead log copied where that is."""
        self._unchecked += self._unmeasured
        self._unmeasured = 0
        if connection.execute("PRAGMA page_count").fetchone()[0] * _PAGE_BYTES >= self._segment_bytes:
            self._finished = True
            self._sync_log()
            self._leave()
            return self._begin()
        if self._unchecked >= self._segment_bytes // 4:
            self._unchecked = 0
            path = self.path
            self._background.do(lambda: self._checkpoint(path))
        return connection

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._background.do(lambda: _close(connection))

    def _sync_log(self) -> None:
        # A new segment must not outlast, in a power cut, the end of the one before it.
        with suppress(OSError):
            _sync(_beside(self.path, "-wal"))

    def _ready(self) -> sqlite3.Connection:
        """The connection for the next row.

        A segment that was damaged, changed or taken away while it was open is left as it is; the chain goes on in a new
        one, and a check of the log shows what happened.
        """
        if self._finished:
            return self._begin()
        connection = self._connection
        try:
            if connection is None:
                connection, tail = self._open(self.path)
            elif os.stat(self.path).st_ino != self._inode:
                # A file that was deleted could be written for ever, to nobody's use.
                raise ArtifactError("was replaced", where=str(self.path))
            else:
                tail = tail_of(connection, self.path) if self._doubt else self.tail
            if tail != self.tail and (self._attempt is None or tail != self._attempt[1]):
                raise ArtifactError("was changed", where=str(self.path))
            self.tail, self._doubt = tail, False
        except sqlite3.OperationalError:
            self._leave()
            raise
        except (sqlite3.DatabaseError, ArtifactError, FileNotFoundError):
            self._finished = True
            self._leave()
            connection = self._begin()
        return connection

    def _resume(self) -> None:
        """Opens the last segment, or begins the first."""
        try:
            segments = list_segments(self._folder)
            if segments:
                self.path, self._finished = segments[-1], False
                _, self.tail = self._open(self.path)
                self._background.do(self._clean_up)
            else:
                self._begin()
        except (sqlite3.OperationalError, OSError) as problem:
            cure = "Free some space, or give a folder on a local disk that this user may write."
            raise ControlkitError(f"cannot be written ({problem})", where=str(self.path), cure=cure) from None
        except sqlite3.DatabaseError as problem:
            raise ArtifactError(f"is damaged ({problem})", where=str(self.path), cure=CURE) from None

    def _open(self, path: Path) -> tuple[sqlite3.Connection, Link]:
        """A segment, and how it ends; nothing is written into one that is damaged, or not ours."""
        check_plain(path)
        connection = self._connect(f"{path.as_uri()}?mode=rw")
        try:
            check_form(connection, path)
            tail = tail_of(connection, path)
            if connection.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
                raise ControlkitError("its disk allows no write-ahead log", where=str(path), cure="Use a local disk.")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("PRAGMA synchronous=NORMAL")
            self._inode = os.stat(path).st_ino
        except BaseException:
            connection.close()
            raise
        self._connection, self._full_sync = connection, False
        self._unmeasured = self._segment_bytes  # to be measured at once
        return connection, tail
        return connection

    def _begin(self) -> sqlite3.Connection:
        """A new segment that follows the last row; it is whole under its name, or not there."""
        last = max(map(segment_number, list_segments(self._folder)), default=0)
        path = segment_path(self._folder, max(last, segment_number(self.path)) + 1)
        aside = path.with_name(f".{path.name}.part")
        for rest in self._folder.glob(".audit-*.sqlite.part*"):
            rest.unlink()
        with closing(self._connect(f"{aside.as_uri()}?mode=rwc")) as connection:
            fill_segment(connection, self.tail)
        os.rename(aside, path)
        self.path, self._finished, self._attempt = path, False, None
        _sync(self._folder)
        connection, _ = self._open(path)
        self._doubt = False
        self._background.do(self._clean_up)
        return connection

    def _checkpoint(self, path: Path) -> None:
        with closing(self._connect(f"{path.as_uri()}?mode=rw")) as connection:
            for _ in range(3):
                # The log is used again from its start only if no row came in the meantime.
                _, logged, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if logged == copied:
                    return

    def _clean_up(self) -> None:
        """Makes one file of finished segments that still have a write-ahead log, and drops the oldest."""
        finished = list_segments(self._folder)[:-1]
        for path in finished:
            if _beside(path, "-wal").exists():
                with suppress(sqlite3.Error, ArtifactError):  # a damaged one is left to the check of the log
                    check_plain(path)
                    with closing(self._connect(f"{path.as_uri()}?mode=rw")) as connection:
                        check_form(connection, path)
                        _close(connection)
        # Room for the current one to grow, with its write-ahead log.
        allowed = self._max_bytes - self._segment_bytes * 3 // 2
        sizes = {path: path.lstat().st_size for path in finished}
        for path in finished:
            if sum(sizes.values()) <= allowed:
                return
            path.unlink()
            del sizes[path]
            for rest in ("-wal", "-shm"):
                _beside(path, rest).unlink(missing_ok=True)


class _Background:
    """A thread that does one job after the other; what the disk refuses is left to a later job of the same kind."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="audit log", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Waits for all jobs."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with suppress(sqlite3.Error, OSError, ControlkitError):
                job()


def _close(connection: sqlite3.Connection) -> None:
    """Leaves one file, which whoever may read it can read; a write-ahead log too where somebody reads it just now."""
    with closing(connection):
        connection.execute("PRAGMA journal_mode=DELETE")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path) -> None:
    with suppress(FileNotFoundError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
