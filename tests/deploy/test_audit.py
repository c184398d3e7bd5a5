"""The audit log loses no row that it took, shows every change, outlives a full disk, and trusts no file."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlkit.errors import ArtifactError, ControlkitError
from deploy.runtime import audit_reader, audit_writer
from deploy.runtime.audit import MIN_SEGMENT_BYTES, AuditLog
from deploy.runtime.audit_reader import AuditRow, read_audit, verify_audit
from deploy.runtime.audit_segment import KINDS, MAX_PAYLOAD_BYTES, SCHEMA, canonical, chained_hash, list_segments

CHUNK = {"text": "x" * 2000}  # two rows of it fill a page
SMALL: dict[str, Any] = {"segment_bytes": MIN_SEGMENT_BYTES, "max_bytes": 100 * MIN_SEGMENT_BYTES}


def segment(folder: Path, number: int = 1) -> Path:
    return folder / f"audit-{number:06d}.sqlite"


def put(log: AuditLog, number: int, kind: str = "cycle", **payload: Any) -> None:
    log.append(kind, {"n": number, **payload}, wall_ns=10 * number, monotonic_ns=number)


def numbers(folder: Path) -> list[Any]:
    return [row.payload["n"] for row in read_audit(folder) if "n" in row.payload]


@pytest.fixture(scope="module")
def three_segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with AuditLog(tmp_path_factory.mktemp("audit"), **SMALL) as log:
        number = 0
        while not segment(log.folder, 3).exists():
            number += 1
            put(log, number, **CHUNK)
        put(log, number + 1)
        put(log, number + 2)
    return log.folder


@pytest.fixture
def folder(three_segments: Path, tmp_path: Path) -> Path:
    """A finished log of three segments."""
    return shutil.copytree(three_segments, tmp_path / "audit")


def tampered(path: Path, *statements: str) -> None:
    """Changes a segment as somebody would who knows SQLite, and covers the tracks."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = [sql for sql in SCHEMA if sql.startswith("CREATE TRIGGER")]
        for sql in triggers:
            connection.execute(f"DROP TRIGGER {sql.split()[2]}")
        for statement in (*statements, *triggers):
            connection.execute(statement)


def forged(path: Path, seq: int, kind: Any, wall_ns: Any, payload: Any, digest: bytes | None = None) -> None:
    """Replaces the row, with a chain that holds up to it where its values allow one."""
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("SELECT hash FROM entry WHERE seq = ?", (seq - 1,)).fetchone()[0]
    if digest is None:
        digest = chained_hash(before, seq, kind, wall_ns, 0, payload)
    triggers = [sql for sql in SCHEMA if sql.startswith("CREATE TRIGGER")]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for sql in triggers:
            connection.execute(f"DROP TRIGGER {sql.split()[2]}")
        connection.execute("DELETE FROM entry WHERE seq = ?", (seq,))
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, 0, ?, ?)", (seq, kind, wall_ns, payload, digest))
        for sql in triggers:
            connection.execute(sql)


# The chain


def test_chain_known_answer(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.append("start", {"b": float("nan"), "a": 1.5}, wall_ns=-7, monotonic_ns=8)
        log.append("mode", {}, wall_ns=2**62, monotonic_ns=9, durable=True)
    one = b'{"a":1.5,"b":null}'
    first = hashlib.sha256(
        bytes(32)
        + (1).to_bytes(8, "big")
        + (5).to_bytes(2, "big")
        + b"start"
        + struct.pack(">q", -7)
        + struct.pack(">q", 8)
        + (18).to_bytes(4, "big")
        + one
    ).digest()
    second = hashlib.sha256(
        first + b"\0\0\0\0\0\0\0\2" + b"\0\4mode" + b"\x40\0\0\0\0\0\0\0" + b"\0\0\0\0\0\0\0\t" + b"\0\0\0\2{}"
    ).hexdigest()
    assert list(read_audit(tmp_path)) == [
        AuditRow(1, "start", -7, 8, {"a": 1.5, "b": None}, first.hex()),
        AuditRow(2, "mode", 2**62, 9, {}, second),
    ]
    check = verify_audit(tmp_path)
    assert (check.rows, check.first_seq, check.last_seq, check.last_hash) == (2, 1, 2, second)
    assert (check.segments, check.problem) == (1, "")
    assert (log.seq, log.head) == (2, second)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: nulled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nulled(item) for item in value]
    return None if value in (float("inf"), float("-inf")) or value != value else value


@given(payloads=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), min_size=1, max_size=5))
@settings(max_examples=12, deadline=None)
def test_any_json_comes_back(payloads: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("json")
    with AuditLog(folder) as log:
        for payload in payloads:
            log.append("operator", payload, wall_ns=0, monotonic_ns=0)
    assert [row.payload for row in read_audit(folder)] == [nulled(payload) for payload in payloads]
    assert verify_audit(folder).problem == ""


def test_numpy_becomes_lists_and_null() -> None:
    payload = {"vector": np.array([1.5, np.nan], dtype=np.float32), "one": np.int64(3), "bad": np.float32(np.inf)}
    assert canonical(payload) == b'{"bad":null,"one":3,"vector":[1.5,null]}'


@pytest.mark.parametrize(
    ("kind", "payload", "wall_ns"),
    [
        ("cycles", {}, 0),
        ("cycle", {"x": "y" * MAX_PAYLOAD_BYTES}, 0),
        ("cycle", {"x": object()}, 0),
        ("cycle", {"x": {1, 2}}, 0),
        ("cycle", [1, 2], 0),
        ("cycle", {}, 2**63),
        ("cycle", {}, 1.5),
    ],
)
def test_mistakes_of_the_caller_raise_and_write_nothing(tmp_path: Path, kind: str, payload: Any, wall_ns: Any) -> None:
    with AuditLog(tmp_path) as log:
        with pytest.raises((ValueError, TypeError)):
            log.append(kind, payload, wall_ns=wall_ns, monotonic_ns=0)
        assert (log.seq, log.pending, log.problem) == (0, 0, "")
    with pytest.raises(ValueError, match="closed"):
        put(log, 1)


def test_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with AuditLog(tmp_path) as log, pytest.raises(ValueError, match="nested"):
        log.append("cycle", endless, wall_ns=0, monotonic_ns=0)


def test_kinds_and_first_select(folder: Path) -> None:
    with AuditLog(folder) as log:
        for number, kind in enumerate(KINDS):
            put(log, number, kind)
        last = log.seq
    assert [row.kind for row in read_audit(folder, kinds=("mode", "stop"))] == ["mode", "stop"]
    assert [row.seq for row in read_audit(folder, first=last - 1)] == [last - 1, last]
    assert list(read_audit(folder, first=2**80)) == []
    assert [row.seq for row in read_audit(folder, kinds=["cycle"], first=last - 20)][-1] == last - 6
    with pytest.raises(ControlkitError, match="did you mean 'mode'"):
        read_audit(folder, kinds=("mod",))


# Tampering


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET payload = x'7b7d'",
        "DELETE FROM entry",
        "DELETE FROM entry WHERE seq = 1",
        "INSERT OR REPLACE INTO entry VALUES (1, 'cycle', 0, 0, x'7b7d', zeroblob(32))",
        "INSERT INTO entry VALUES (99, 'cycle', 0, 0, x'7b7d', zeroblob(32))",
        "UPDATE anchor SET seq = 1",
        "DELETE FROM anchor",
        "INSERT OR REPLACE INTO anchor VALUES (0, zeroblob(32))",
    ],
)
def test_triggers_refuse_everything_but_the_next_row(tmp_path: Path, statement: str) -> None:
    with AuditLog(tmp_path) as log:
        put(log, 1)
        put(log, 2)
        with (
            closing(sqlite3.connect(segment(tmp_path), isolation_level=None)) as other,
            pytest.raises(sqlite3.IntegrityError, match="only appended"),
        ):
            other.execute(statement)
        put(log, 3)
    assert numbers(tmp_path) == [1, 2, 3]
    assert verify_audit(tmp_path).problem == ""


SWAP = (
    "UPDATE entry SET seq = -1 WHERE seq = 3",
    "UPDATE entry SET seq = 3 WHERE seq = 4",
    "UPDATE entry SET seq = 4 WHERE seq = -1",
)


@pytest.mark.parametrize(
    ("statements", "where"),
    [
        (["UPDATE entry SET payload = x'7b7d' WHERE seq = 3"], "row 3:"),
        (["UPDATE entry SET wall_ns = wall_ns + 1 WHERE seq = 3"], "row 3:"),
        (["UPDATE entry SET monotonic_ns = 0 WHERE seq = 3"], "row 3:"),
        (["UPDATE entry SET kind = 'mode' WHERE seq = 3"], "row 3:"),
        (["UPDATE entry SET hash = randomblob(32) WHERE seq = 3"], "row 3:"),
        (["DELETE FROM entry WHERE seq = 3"], "row 4: follows row 2"),
        (["DELETE FROM entry WHERE seq = 1"], "row 2: follows row 0"),
        (["DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry)"], "audit-000002.sqlite: begins after row"),
        (["INSERT INTO entry SELECT -5, kind, 0, 0, payload, hash FROM entry WHERE seq = 1"], "row -5:"),
        (SWAP, "row 3:"),
        (["UPDATE anchor SET hash = randomblob(32)"], "audit-000001.sqlite: its anchor"),
        (["DELETE FROM anchor"], "audit-000001.sqlite: its anchor"),
        (["DROP TABLE anchor", SCHEMA[0], "CREATE TABLE more (x)"], "audit-000001.sqlite: is no audit segment"),
    ],
)
def test_tampering_is_found_and_named(folder: Path, statements: list[str], where: str) -> None:
    tampered(segment(folder), *statements)
    check = verify_audit(folder)
    assert where in check.problem
    assert "audit-00000" in check.problem


def test_a_dropped_trigger_is_found(folder: Path) -> None:
    with closing(sqlite3.connect(segment(folder, 2))) as connection:
        connection.execute("DROP TRIGGER entry_delete")
    assert "audit-000002.sqlite: is no audit segment, or its triggers were changed" in verify_audit(folder).problem


def test_a_missing_segment_in_the_middle_is_found(folder: Path) -> None:
    segment(folder, 2).unlink()
    check = verify_audit(folder)
    assert check.problem.endswith("audit-000002.sqlite: is missing")
    assert check.last_seq == check.rows > 0


def test_a_renamed_segment_is_found(folder: Path) -> None:
    segment(folder, 2).unlink()
    segment(folder, 3).rename(segment(folder, 2))
    assert "audit-000002.sqlite: begins after row" in verify_audit(folder).problem


def test_oldest_segments_may_be_missing_and_the_check_says_so(folder: Path) -> None:
    whole = verify_audit(folder)
    segment(folder, 1).unlink()
    check = verify_audit(folder)
    assert check.problem == ""
    assert check.first_seq > 1
    assert (check.last_seq, check.last_hash) == (whole.last_seq, whole.last_hash)
    assert check.rows == check.last_seq - check.first_seq + 1 == sum(1 for _ in read_audit(folder))


def test_a_cut_tail_shows_only_by_a_noted_hash(folder: Path) -> None:
    whole = verify_audit(folder)
    tampered(segment(folder, 3), f"DELETE FROM entry WHERE seq = {whole.last_seq}")
    check = verify_audit(folder)
    assert (check.problem, check.last_seq) == ("", whole.last_seq - 1)
    assert check.last_hash != whole.last_hash


# Processes


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    program = "import sys; from deploy.runtime.audit import AuditLog; AuditLog(sys.argv[1])"
    with AuditLog(tmp_path) as log:
        with pytest.raises(ControlkitError, match="another runtime writes"):
            AuditLog(tmp_path)
        other = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
        assert other.returncode != 0
        assert "another runtime writes" in other.stderr
        put(log, 1)
    with AuditLog(tmp_path) as log:
        put(log, 2)
    assert numbers(tmp_path) == [1, 2]


KILLED = """
import sys
from deploy.runtime.audit import AuditLog
log = AuditLog(sys.argv[1], segment_bytes=1 << 18)
for n in range(10**9):
    log.append("cycle", {"n": n, "text": "x" * 1000}, wall_ns=n, monotonic_ns=n, durable=n % 50 == 0)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("rows", [1, 500])
def test_a_killed_process_loses_no_row_that_it_had_written(tmp_path: Path, rows: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if int(line) >= rows:
                process.send_signal(signal.SIGKILL)
                break
        rest = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    returned = rest[-1] if rest else rows
    assert process.returncode == -signal.SIGKILL
    before = verify_audit(tmp_path)  # as the kill left it
    assert before.problem == ""
    with AuditLog(tmp_path) as log:
        assert log.seq == before.last_seq
        put(log, -1, "start")
    found = numbers(tmp_path)
    assert found == [*range(len(found) - 1), -1]
    assert found[-2] >= returned
    assert verify_audit(tmp_path).problem == ""


def test_half_made_segments_are_swept_away(folder: Path) -> None:
    (folder / ".audit-000004.sqlite.part").write_bytes(b"half")
    (folder / ".audit-000004.sqlite.part-journal").write_bytes(b"half")
    with AuditLog(folder, **SMALL) as log:
        for number in range(60):
            put(log, number, **CHUNK)
    assert segment(folder, 4).exists()
    assert not list(folder.glob("*.part*")) + list(folder.glob(".*.part*"))
    assert verify_audit(folder).problem == ""


def test_threads_may_append_together(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:

        def write(begin: int) -> None:
            for number in range(begin, begin + 50):
                put(log, number)

        threads = [threading.Thread(target=write, args=(100 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(numbers(tmp_path)) == sorted(100 * k + i for k in range(4) for i in range(50))
    assert verify_audit(tmp_path).problem == ""


# A disk that refuses


class Disk:
    """Opens SQLite on a disk of limited size."""

    def __init__(self) -> None:
        self.pages = 2**30

    def __call__(self, uri: str) -> sqlite3.Connection:
        disk = self

        class Limited(sqlite3.Connection):
            def execute(self, *statement: Any) -> sqlite3.Cursor:
                super().execute(f"PRAGMA max_page_count={disk.pages}")
                return super().execute(*statement)

        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=Limited)

    def resize(self, pages: int) -> None:
        self.pages = pages


def test_a_full_disk_keeps_the_rows_in_order(tmp_path: Path) -> None:
    disk = Disk()
    with AuditLog(tmp_path, connect=disk) as log:
        put(log, 0, **CHUNK)
        disk.resize(1)
        written = 1
        while not log.problem:  # the last page has some room
            put(log, written, **CHUNK)
            written += 1
        assert "full" in log.problem
        assert "audit-000001.sqlite" in log.problem
        for number in range(written, written + 120):
            put(log, number, **CHUNK)
        assert (log.pending, log.lost) == (121, 0)
        assert verify_audit(tmp_path).rows == log.seq == written - 1
        disk.resize(2**30)
        put(log, written + 120, **CHUNK)
        assert log.problem == ""
        assert log.pending == 122 - 50  # no append pays for all of them
        put(log, written + 121, **CHUNK)
        put(log, written + 122, **CHUNK)
        assert log.pending == 0
    assert numbers(tmp_path) == list(range(written + 123))
    assert [row.wall_ns for row in read_audit(tmp_path)] == [10 * n for n in range(written + 123)]
    assert verify_audit(tmp_path).problem == ""


def test_the_oldest_rows_are_dropped_and_an_alarm_tells_of_them(tmp_path: Path) -> None:
    disk = Disk()
    with AuditLog(tmp_path, connect=disk, pending_limit=10) as log:
        put(log, 0)
        disk.resize(1)
        for number in range(1, 31):
            put(log, number, **CHUNK, more="x" * 5000)
        assert (log.seq, log.pending, log.lost) == (1, 10, 20)
        disk.resize(2**30)
        put(log, 31)
        assert (log.pending, log.lost, log.problem) == (0, 20, "")
        disk.resize(1)
        for number in range(32, 48):
            put(log, number, **CHUNK, more="x" * 5000)
        disk.resize(2**30)
    rows = list(read_audit(tmp_path))
    assert [row.payload.get("n", "lost") for row in rows] == [0, 21, "lost", *range(22, 32), 38, "lost", *range(39, 48)]
    alarm = rows[2]
    assert alarm.kind == "alarm"
    assert alarm.payload["name"] == "audit_rows_lost"
    assert (alarm.payload["lost"], alarm.payload["first_wall_ns"], alarm.payload["last_wall_ns"]) == (20, 10, 200)
    assert (alarm.payload["before_seq"], alarm.wall_ns) == (rows[1].seq, rows[1].wall_ns)
    assert rows[14].payload["lost"] == 6
    assert log.lost == 26
    assert verify_audit(tmp_path).problem == ""


def test_large_rows_that_wait_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.runtime.audit.MAX_PENDING_BYTES", 50_000)
    disk = Disk()
    with AuditLog(tmp_path, connect=disk) as log:
        disk.resize(1)
        for number in range(20):
            put(log, number, more="x" * 9000)
        assert (log.pending, log.lost) == (5, 15)


def test_closing_on_a_full_disk_does_not_raise(tmp_path: Path) -> None:
    disk = Disk()
    with AuditLog(tmp_path, connect=disk) as log:
        disk.resize(1)
        put(log, 1, more="x" * 9000)
    assert log.pending == 1
    with AuditLog(tmp_path) as log:
        put(log, 2)
    assert numbers(tmp_path) == [2]


def test_no_room_for_a_new_segment(tmp_path: Path) -> None:
    disk = Disk()
    with AuditLog(tmp_path, connect=disk, **SMALL) as log:
        number = 0
        disk.resize(MIN_SEGMENT_BYTES // 4096 + 4)
        while not log.problem:
            if segment(tmp_path, 2).exists():
                disk.resize(1)
            put(log, number, **CHUNK)
            number += 1
        for _ in range(5):
            put(log, number, **CHUNK)
            number += 1
        assert log.pending == 6
        disk.resize(2**30)
        put(log, number, **CHUNK)
        assert (log.pending, log.problem) == (0, "")
    assert numbers(tmp_path) == list(range(number + 1))
    assert verify_audit(tmp_path).problem == ""


class Deceitful(sqlite3.Connection):
    """Says once that a row could not be written, which it was."""

    lie = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        cursor = super().execute(sql, *parameters)
        if sql.startswith("INSERT INTO entry") and Deceitful.lie:
            Deceitful.lie = False
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


def test_a_row_that_was_written_after_all_is_not_written_twice(tmp_path: Path) -> None:
    def connect(uri: str) -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=Deceitful)

    with AuditLog(tmp_path, connect=connect) as log:
        put(log, 0)
        Deceitful.lie = True
        put(log, 1)
        assert (log.pending, "I/O error" in log.problem) == (1, True)
        put(log, 2)
        assert (log.pending, log.problem) == (0, "")
    assert numbers(tmp_path) == [0, 1, 2]
    assert verify_audit(tmp_path).problem == ""


REFUSED = """
import resource, sys
from deploy.runtime.audit import AuditLog
from deploy.runtime.audit_reader import read_audit, verify_audit
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with AuditLog(sys.argv[1]) as log:
    put = lambda n: log.append("cycle", {"n": n, "text": "x" * 2000}, wall_ns=n, monotonic_ns=n)
    put(0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    n = 0
    while not log.problem:
        n += 1
        put(n)
    for n in range(n + 1, n + 11):
        put(n)
    assert log.pending == 11, log.pending
    assert verify_audit(log.folder).rows == log.seq
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    put(n + 1)
    assert (log.pending, log.problem, log.lost) == (0, "", 0), (log.pending, log.problem)
assert [row.payload["n"] for row in read_audit(log.folder)] == list(range(n + 2))
assert verify_audit(log.folder).problem == ""
"""


def test_the_system_itself_refuses(tmp_path: Path) -> None:
    """A limit of the process on the size of files: writes fail in the middle, as on a disk that is full or broken."""
    done = subprocess.run([sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_file_taken_away_while_it_is_written(tmp_path: Path, taken: str) -> None:
    folder = tmp_path / "audit"
    with AuditLog(folder) as log:
        put(log, 1)
        put(log, 2)
        if taken == "file":
            segment(folder).rename(tmp_path / "gone")
            put(log, 3)
            assert log.problem == ""
        else:
            folder.rename(tmp_path / "moved")
            put(log, 3)
            assert (log.pending, "audit" in log.problem) == (1, True)
            (tmp_path / "moved").rename(folder)
        put(log, 4)
        assert (log.pending, log.problem) == (0, "")
    assert numbers(folder)[-2:] == [3, 4]
    check = verify_audit(folder)
    assert (check.problem, check.last_seq) == ("", 4)
    assert check.first_seq == (3 if taken == "file" else 1)


def test_rows_of_a_stranger_end_the_segment_and_are_found(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        put(log, 1)
        with closing(sqlite3.connect(segment(tmp_path), isolation_level=None)) as other:
            other.execute("INSERT INTO entry VALUES (2, 'cycle', 0, 0, x'7b7d', zeroblob(32))")
        put(log, 2)
        put(log, 3)
        assert (log.pending, log.seq) == (0, 3)
    assert numbers(tmp_path) == [1, 2, 3]
    assert "row 2: does not match its hash" in verify_audit(tmp_path).problem


def test_a_durable_row_is_synchronised(tmp_path: Path) -> None:
    statements: list[str] = []

    def connect(uri: str) -> sqlite3.Connection:
        connection = audit_writer.connect(uri)
        connection.set_trace_callback(statements.append)
        return connection

    def modes() -> list[str]:
        kept = [text for text in statements if "synchronous" in text or text.startswith("INSERT INTO entry")]
        statements.clear()
        names = ["INSERT" if text.startswith("INSERT") else text for text in kept]
        return [name for name, before in zip(names, [None, *names], strict=False) if name != before]  # triggers repeat

    with AuditLog(tmp_path, connect=connect) as log:
        assert modes() == ["PRAGMA synchronous=NORMAL"]
        put(log, 1)
        assert modes() == ["INSERT"]
        log.append("mode", {}, wall_ns=0, monotonic_ns=0, durable=True)
        assert modes() == ["PRAGMA synchronous=FULL", "INSERT"]
        put(log, 2)
        assert modes() == ["PRAGMA synchronous=NORMAL", "INSERT"]


# Size


def test_rotation_makes_one_file_a_segment_and_one_chain(tmp_path: Path) -> None:
    count = 0
    for _ in range(3):  # a log that is opened again goes on
        with AuditLog(tmp_path, **SMALL) as log:
            for _ in range(50):
                put(log, count, **CHUNK)
                count += 1
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [*(f"audit-{k:06d}.sqlite" for k in range(1, len(files))), "audit.lock"]
    assert len(files) > 4
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.sqlite"))]
    assert all(MIN_SEGMENT_BYTES <= size <= 1.2 * MIN_SEGMENT_BYTES for size in sizes[:-1])
    assert numbers(tmp_path) == list(range(count))
    check = verify_audit(tmp_path)
    assert (check.problem, check.rows, check.segments) == ("", count, len(sizes))


def test_the_oldest_segments_make_room(tmp_path: Path) -> None:
    limit = 4 * MIN_SEGMENT_BYTES
    with AuditLog(tmp_path, max_bytes=limit) as log:
        for number in range(400):
            put(log, number, **CHUNK)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit
    assert not segment(tmp_path, 1).exists()
    check = verify_audit(tmp_path)
    assert (check.problem, check.last_seq) == ("", 400)
    assert check.first_seq == 401 - check.rows > 1
    assert numbers(tmp_path) == list(range(check.first_seq - 1, 400))
    with AuditLog(tmp_path, max_bytes=limit) as log:
        assert log.seq == 400


def test_rows_are_copied_into_the_segment_while_the_log_is_open(tmp_path: Path) -> None:
    """Or else the write-ahead log would hold every row of the segment, several times."""
    with AuditLog(tmp_path, segment_bytes=2**20) as log:
        size = segment(tmp_path).stat().st_size
        for number in range(300):
            put(log, number)
        deadline = time.monotonic() + 20
        while segment(tmp_path).stat().st_size == size and time.monotonic() < deadline:
            time.sleep(0.01)
        assert segment(tmp_path).stat().st_size > size


@pytest.mark.parametrize(
    "sizes", [{"max_bytes": 1000}, {"segment_bytes": 1000}, {"pending_limit": 0}, {"max_bytes": -1}]
)
def test_too_small_is_refused(tmp_path: Path, sizes: dict[str, Any]) -> None:
    with pytest.raises(ControlkitError, match="too small"):
        AuditLog(tmp_path, **sizes)
    assert list(tmp_path.iterdir()) == []


# Readers


def test_readers_see_whole_rows_while_the_log_is_written(tmp_path: Path) -> None:
    done = threading.Event()
    with AuditLog(tmp_path, **SMALL) as log:
        put(log, 0, **CHUNK)
        slow = read_audit(tmp_path)
        assert next(slow).seq == 1

        def write() -> None:
            for number in range(1, 300):
                put(log, number, **CHUNK)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        checks = []
        while not done.is_set():
            checks.append(verify_audit(tmp_path))
            seen = numbers(tmp_path)
            assert seen == list(range(len(seen)))
        writer.join()
        assert [check.problem for check in checks] == [""] * len(checks)
        assert (log.pending, log.lost, log.problem) == (0, 0, "")
        rest = [row.seq for row in slow]
        assert rest == list(range(2, len(rest) + 2))
    assert verify_audit(tmp_path).rows == 300


def test_a_reader_that_holds_a_segment_does_not_hold_up_the_log(tmp_path: Path) -> None:
    with AuditLog(tmp_path, **SMALL) as log:
        put(log, 0, **CHUNK)
        with closing(sqlite3.connect(f"{segment(tmp_path).as_uri()}?mode=ro", uri=True, isolation_level=None)) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT count(*) FROM entry").fetchone() == (1,)
            for number in range(1, 100):
                put(log, number, **CHUNK)
            assert (log.pending, log.problem) == (0, "")
            assert verify_audit(tmp_path).rows == 100
            assert other.execute("SELECT count(*) FROM entry").fetchone() == (1,)
        for number in range(100, 200):
            put(log, number, **CHUNK)
    assert not list(tmp_path.glob("*-wal"))
    assert verify_audit(tmp_path).rows == 200


def test_a_check_goes_on_where_the_log_has_dropped_what_it_was_about_to_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list_segments(folder)
    segment(folder, 1).unlink()
    answers: Iterator[list[Path]] = iter([listed])
    monkeypatch.setattr(audit_reader, "list_segments", lambda where: next(answers, None) or list_segments(where))
    check = verify_audit(folder)
    assert (check.problem, check.segments) == ("", 2)


# Hostile files


def _other_schema(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE entry (seq, kind, wall_ns, monotonic_ns, payload, hash)")


VIEW = (
    "CREATE VIEW entry AS WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x FROM r) "
    "SELECT x AS seq, x AS kind, x AS wall_ns, x AS monotonic_ns, x AS payload, x AS hash FROM r"
)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=2")


def _page_of_noise(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-4096, os.SEEK_END)
        stream.write(np.random.default_rng(0).bytes(4096))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(30_000)),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no database"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "header": lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(9000)),
    "page of noise": _page_of_noise,
    "folder": _folder,
    "link": _link,
    "newer": _newer,
    "other schema": _other_schema,
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_files_are_refused_and_named(tmp_path: Path, hostile: str) -> None:
    with AuditLog(tmp_path) as log:
        for number in range(40):
            put(log, number, **CHUNK)
    path = segment(tmp_path)
    HOSTILE[hostile](path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ArtifactError, match=r"audit-000001\.sqlite"):
        AuditLog(tmp_path)
    with pytest.raises(ArtifactError, match=r"audit-000001\.sqlite"):
        list(read_audit(tmp_path))
    assert "audit-000001.sqlite" in verify_audit(tmp_path).problem
    assert (path.read_bytes() if path.is_file() else b"") == before
    with pytest.raises(ArtifactError):  # the lock was given back
        AuditLog(tmp_path)


@pytest.mark.parametrize(
    ("kind", "wall_ns", "payload"),
    [
        ("cycle", 0, b'{"a":NaN}'),
        ("cycle", 0, b'{"a":1e999}'),
        ("cycle", 0, b'{"a":1,"a":2}'),
        ("cycle", 0, b'{"a": 1}'),
        ("cycle", 0, b"[1]"),
        ("cycle", 0, b'{"a":'),
        ("cycle", 0, b"\xff\xfe"),
        ("cycle", 0, b'{"a":' + b"9" * 5000 + b"}"),
        ("cycle", 0, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_payloads_that_are_no_json_of_ours_are_refused(tmp_path: Path, kind: str, wall_ns: int, payload: bytes) -> None:
    with AuditLog(tmp_path) as log:
        for number in range(4):
            put(log, number)
    forged(segment(tmp_path), 4, kind, wall_ns, payload)
    assert verify_audit(tmp_path).problem == ""  # the chain was forged too
    rows = read_audit(tmp_path)
    assert [next(rows).seq for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ArtifactError, match=r"audit-000001\.sqlite, row 4: its payload"):
        next(rows)


@pytest.mark.parametrize(
    ("kind", "wall_ns", "payload", "digest"),
    [
        ("cycle", 0, bytes(MAX_PAYLOAD_BYTES + 1), bytes(32)),
        ("cycle", 0, bytes(5_000_000), bytes(32)),
        ("cycle", 0, "{}", bytes(32)),
        ("cycle", 0, 5, bytes(32)),
        ("cycle", "noon", b"{}", bytes(32)),
        ("cycle", 1.5, b"{}", bytes(32)),
        ("cycle", bytes(5_000_000), b"{}", bytes(32)),
        ("cycle", 0, b"{}", b"short"),
        ("cycle", 0, b"{}", "x" * 32),
        ("other", 0, b"{}", bytes(32)),
        (b"cycle", 0, b"{}", bytes(32)),
        ("c" * 5_000_000, 0, b"{}", bytes(32)),
    ],
)
def test_values_of_another_type_or_size_are_refused(
    tmp_path: Path, kind: Any, wall_ns: Any, payload: Any, digest: Any
) -> None:
    with AuditLog(tmp_path) as log:
        for number in range(4):
            put(log, number)
    forged(segment(tmp_path), 4, kind, wall_ns, payload, digest)
    with pytest.raises(ArtifactError, match=r"audit-000001\.sqlite, (row 4|from row)"):
        list(read_audit(tmp_path))
    assert "audit-000001.sqlite" in verify_audit(tmp_path).problem
    with pytest.raises(ArtifactError, match=r"audit-000001\.sqlite"):
        AuditLog(tmp_path)


def test_a_view_in_place_of_the_table_is_not_run(folder: Path) -> None:
    with closing(sqlite3.connect(segment(folder), isolation_level=None)) as connection:
        connection.execute("DROP TABLE entry")
        connection.execute(VIEW)
    with pytest.raises(ArtifactError, match="is no audit segment"):
        next(read_audit(folder))


@given(place=st.integers(0, 10**9), bits=st.integers(1, 255))
@settings(max_examples=25, deadline=None)
def test_a_flipped_byte_never_gives_other_rows(place: int, bits: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Found, or without any effect on what is read."""
    folder = tmp_path_factory.mktemp("flipped")
    with AuditLog(folder) as log:
        for number in range(12):
            put(log, number, text="x" * 900)
    path = segment(folder)
    good = list(read_audit(folder))
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= bits
    path.write_bytes(content)
    if verify_audit(folder).problem == "":
        assert list(read_audit(folder)) == good


def test_no_log_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ArtifactError, match="no audit log"):
            read_audit(place)
        with pytest.raises(ArtifactError, match="no audit log"):
            verify_audit(place)
    with pytest.raises(ControlkitError, match="cannot be written"):
        AuditLog(tmp_path / "file")


def test_names_with_signs_of_addresses(tmp_path: Path) -> None:
    folder = tmp_path / "a?mode=memory#b%20"
    with AuditLog(folder) as log:
        put(log, 1)
    assert numbers(folder) == [1]
    assert sorted(path.name for path in folder.iterdir()) == ["audit-000001.sqlite", "audit.lock"]
