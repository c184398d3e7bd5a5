"""The audit log: every cycle and every event of the runtime, append-only and hash-chained, in a folder of SQLite files.

Every append is a transaction of its own: a killed process loses no row that append returned for, a power cut at most
those after the last `durable` one. What the disk refuses waits in memory: a control loop is never stopped by its log.
What the chain can show, and what it cannot, says `deploy.runtime.audit_reader`.
"""

from __future__ import annotations

import fcntl
import operator
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from controlkit.errors import ControlkitError
from deploy.runtime.audit_segment import KINDS, MAX_PAYLOAD_BYTES, canonical
from deploy.runtime.audit_writer import Record, SegmentWriter, connect

MIN_SEGMENT_BYTES = 64 * 1024
MAX_PENDING_BYTES = 64 * 1024 * 1024
LOCK = "audit.lock"

_ROWS_PER_APPEND = 50


class AuditLog:
    """Appends to the log in a folder, and goes on where its last segment ends. One process at a time, any thread.

    Args:
        folder: made where it is missing; on a local disk.
        max_bytes: the oldest segments are deleted before all of them together grow beyond this; what comes on top is
            the last one's write-ahead log, at worst a few times the segment's size.
        segment_bytes: size at which a new segment begins; a quarter of `max_bytes` where that is less.
        pending_limit: rows that wait in memory at most (and never more than 64 MiB).
        connect: how SQLite is opened; for tests.

    Raises:
        ControlkitError: a size that is too small, another process writes here, or the folder cannot be written.
        ArtifactError: the last segment is damaged, changed, or something else.

    Attributes:
        problem: why the last row could not be written; empty if it was.
        lost: rows dropped since the log was opened, because too many waited; an alarm row tells of them later.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_bytes: int = 2 * 1024**3,
        segment_bytes: int = 64 * 1024**2,
        pending_limit: int = 10_000,
        connect: Callable[[str], sqlite3.Connection] = connect,
    ) -> None:
        self.folder = Path(folder).absolute()
        segment_bytes = min(segment_bytes, max_bytes // 4)
        if segment_bytes < MIN_SEGMENT_BYTES or pending_limit < 1:
            cure = f"Give {4 * MIN_SEGMENT_BYTES} bytes or more in all, {MIN_SEGMENT_BYTES} a segment, 1 pending row."
            raise ControlkitError("is too small for an audit log", where="size of the audit log", cure=cure)
        self.problem, self.lost = "", 0
        self._pending_limit = pending_limit
        self._mutex = threading.Lock()
        self._queue: deque[Record] = deque()
        self._queued_bytes = 0
        # First and last of the dropped rows that no alarm row tells of yet, and how many they are.
        self._dropped: tuple[Record, Record] | None = None
        self._dropped_rows = 0
        self._written: Record | None = None
        self._closed = False
        self._lock = _locked(self.folder)
        try:
            self._writer = SegmentWriter(self.folder, max_bytes, segment_bytes, connect)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def pending(self) -> int:
        """Rows that wait in memory."""
        return len(self._queue)

    @property
    def seq(self) -> int:
        """Number of the last row written."""
        return self._writer.tail.seq

    @property
    def head(self) -> str:
        """Its hash, in hex: noted elsewhere, it shows later whether anything up to this row was changed or cut off."""
        return self._writer.tail.hash.hex()

    def append(
        self, kind: str, payload: Mapping[str, Any], *, wall_ns: int, monotonic_ns: int, durable: bool = False
    ) -> None:
        """Writes a row, or keeps it in memory where the disk refuses (`problem`, `pending`); rows keep their order.

        What waits goes first: at most 50 rows an append, so that no cycle pays for all of them.

        Args:
            kind: start, cycle, mode, alarm, operator, bundle, calibration or stop.
            payload: what JSON can hold, and numpy's arrays; NaN and infinities become null.
            wall_ns: nanoseconds since 1970-01-01 UTC; monotonic_ns: a clock that never jumps.
            durable: return once this row, and all before it, are on the disk and not only in the system's memory.

        Raises:
            ValueError, TypeError: the caller's mistake: no such kind, no JSON, more than 256 KiB, or a closed log.
        """
        if kind not in KINDS:
            raise ValueError(f"'{kind}' is no kind of an audit row")
        content = canonical(payload)
        if len(content) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload of {len(content)} bytes is larger than {MAX_PAYLOAD_BYTES}")
        wall_ns, monotonic_ns = operator.index(wall_ns), operator.index(monotonic_ns)
        if not (-(2**63) <= wall_ns < 2**63 and -(2**63) <= monotonic_ns < 2**63):
            raise ValueError("a time stamp does not fit into 64 bits")
        with self._mutex:
            if self._closed:
                raise ValueError("the audit log is closed")
            self._queue.append(Record(kind, wall_ns, monotonic_ns, content, durable))
            self._queued_bytes += len(content)
            self._flush(_ROWS_PER_APPEND)
            while len(self._queue) > self._pending_limit or self._queued_bytes > MAX_PENDING_BYTES:
                self._drop()

    def close(self) -> None:
        """Writes what waits, as far as the disk lets it (see `pending`), and leaves one file per segment."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self._flush(len(self._queue) + 1)
            self._writer.close()
            os.close(self._lock)

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self, rows: int) -> None:
        """Writes what waits; the alarm of dropped rows follows the first row that shows that the disk is back."""
        for _ in range(rows):
            alarm = self._dropped is not None and not (self.problem and self._queue)
            if not alarm and not self._queue:
                return
            record = self._alarm() if alarm else self._queue[0]
            try:
                self._writer.write(record)
            except (sqlite3.Error, OSError, ControlkitError) as problem:
                reason = problem.what if isinstance(problem, ControlkitError) else str(problem)
                self.problem = f"{self._writer.path}: cannot be written ({reason})"
                return
            self.problem, self._written = "", record
            if alarm:
                self._dropped, self._dropped_rows = None, 0
            else:
                self._queued_bytes -= len(self._queue.popleft().payload)

    def _drop(self) -> None:
        oldest = self._queue.popleft()
        self._queued_bytes -= len(oldest.payload)
        self._dropped = (oldest if self._dropped is None else self._dropped[0], oldest)
        self._dropped_rows += 1
        self.lost += 1

    def _alarm(self) -> Record:
        assert self._dropped is not None
        first, last = self._dropped
        payload = {
            "name": "audit_rows_lost",
            "severity": "alarm",
            "text": f"{self._dropped_rows} audit rows were lost before row {self.seq}, because the disk refused them",
            "lost": self._dropped_rows,
            "before_seq": self.seq,
            "first_wall_ns": first.wall_ns,
            "last_wall_ns": last.wall_ns,
        }
        after = self._written or last
        return Record("alarm", after.wall_ns, after.monotonic_ns, canonical(payload), False)


def _locked(folder: Path) -> int:
    """Makes the folder and takes its lock; closing the handle gives it back, and so does any end of the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        cure = "Free some space, or give a folder that this user may write."
        raise ControlkitError(f"cannot be written ({problem.strerror})", where=str(folder), cure=cure) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(handle)
        busy = isinstance(problem, BlockingIOError)
        what = "another runtime writes this audit log" if busy else f"cannot be locked ({problem.strerror})"
        cure = "Stop it, or give this one a folder of its own, on a local disk."
        raise ControlkitError(what, where=str(folder), cure=cure) from None
    return handle
