"""Faults that take a process, a network or a disk of their own: killed, cut off, two masters, disk full."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("asyncua", reason="OPC UA is the extra [opcua]")

from deploy.bundle import Bundle, load_bundle
from deploy.runtime.audit import AuditLog
from deploy.runtime.audit_reader import read_audit, verify_audit
from deploy.runtime.audit_writer import connect
from envs.opcua_faults import TcpProxy
from envs.opcua_server import SimulatedPlant
from tests.deploy.conftest import Exported
from tests.deploy.faults.plant import PERIOD_S, SPEED, RecordedTank, running, tank_task

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return load_bundle(exported.path, exported.public_key)


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_the_network_is_gone_for_30_s(bundle: Bundle, tmp_path: Path, how: str) -> None:
    """SHADOW within six periods, the plant's watchdog takes over; it is found again by itself, and not armed."""
    proxies: list[TcpProxy] = []

    def through(address: str) -> str:
        port = int(address.split(":")[2].split("/")[0])
        proxies.append(TcpProxy(port))
        return address.replace(f":{port}/", f":{proxies[0].port}/")

    try:
        with running(bundle, tmp_path / "state", address=through) as trial:
            trial.arm()
            getattr(proxies[0], how)()
            trial.until(lambda: trial.mode == "SHADOW", 6, "SHADOW")
            trial.until(lambda: not trial.server.controlled, 6, "the plant's own watchdog")
            trial.periods(30 / PERIOD_S)
            proxies[0].heal()
            trial.until(lambda: not trial.latest.faults, 120, "the plant answers again")
            assert trial.mode == "SHADOW"
            fell = [row for row in trial.rows("mode") if row["from"] == "ARMED"]
            assert "plant_silent" in fell[0]["why"]
            assert trial.unsafe() == 0
    finally:
        for proxy in proxies:
            proxy.close()


def test_two_masters(bundle: Bundle, tmp_path: Path) -> None:
    """The second one waits for as long as the first one lives, and gets the lease when it has gone."""
    with running(bundle, tmp_path / "one") as first:
        first.arm()
        with running(bundle, tmp_path / "two", server=first.server, clock=first.clock) as second:
            second.runtime.ask("ARMED", "token-of-the-tests", "MOC-2")
            second.until(
                lambda: second.latest is not None and "the lease is foreign" in second.latest.why,
                60,
                "the second one waits",
            )
            second.periods(10)
            assert (first.mode, second.mode) == ("ARMED", "ADVISORY")
            assert second.runtime.supervisor.counters["writes"] == 0
            first.runtime.stop()
            second.until(lambda: second.mode == "ARMED", 30, "the second one takes over")
    assert first.unsafe() == 0


def test_the_disk_is_full(bundle: Bundle, tmp_path: Path) -> None:
    """What cannot be recorded is not done: SHADOW within six periods; no row is lost, and their order is kept."""
    open_files: list[sqlite3.Connection] = []

    def watched(path: str) -> sqlite3.Connection:
        open_files.append(connect(path))
        return open_files[-1]

    with running(bundle, tmp_path / "state") as trial:
        trial.runtime.supervisor.audit = log = AuditLog(tmp_path / "small", connect=watched)
        trial.arm()
        for file in still_open(open_files):
            pages = file.execute("PRAGMA page_count").fetchone()[0]
            file.execute(f"PRAGMA max_page_count = {pages}")
        trial.until(lambda: bool(log.problem), 60, "the disk is full")
        trial.until(lambda: trial.mode == "SHADOW", 6, "SHADOW")
        assert "audit_blocked" in trial.runtime.supervisor.modes.state.why
        trial.until(lambda: log.pending >= 5, 20, "rows wait")
        for file in still_open(open_files):
            file.execute("PRAGMA max_page_count = 1000000")
        trial.until(lambda: log.pending == 0, 20, "rows are written")
        trial.until(lambda: "audit_blocked" not in trial.latest.faults, 5, "no fault any more")
        assert log.lost == 0
        assert trial.unsafe() == 0
    log.close()
    cycles = [row.payload["cycle"] for row in read_audit(tmp_path / "small", kinds=["cycle"])]
    assert cycles == list(range(cycles[0], cycles[0] + len(cycles)))
    assert verify_audit(tmp_path / "small").problem == ""


def test_killed_in_the_middle_of_a_cycle_and_started_again(exported: Exported, tmp_path: Path) -> None:
    """The plant's watchdog takes over; the new process begins in SHADOW, and the log goes on where it ended."""
    began = (time.time_ns(), time.monotonic_ns())
    env, state = RecordedTank(), tmp_path / "state"
    clock_ns = lambda: began[0] + round((time.monotonic_ns() - began[1]) * SPEED)  # noqa: E731
    server = SimulatedPlant(tank_task(), port=0, speed=SPEED, insecure=True, wall_ns=clock_ns, options={"env": env})
    env.server = server
    with server:
        arguments = json.dumps([str(exported.path), str(exported.public_key), str(state), server.address, list(began)])
        command = [sys.executable, "-m", "tests.deploy.faults.process", arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, cwd=ROOT, env=environment)

        def wait(condition: str, process: subprocess.Popen[bytes], periods: float) -> None:
            until = time.monotonic() + periods * PERIOD_S / SPEED
            while time.monotonic() < until:
                assert process.poll() is None, "the runtime ended"
                if conditions[condition]():
                    return
                time.sleep(0.05)
            raise AssertionError(f"not {condition} in time")

        conditions = {
            "in command": lambda: server.controlled,
            "out of command": lambda: not server.controlled,
            "writing its log": lambda: len(modes(state)) > 1,
        }
        first = start()
        try:
            wait("in command", first, 400)
            time.sleep(3 * PERIOD_S / SPEED)
        finally:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
        until = time.monotonic() + 6 * PERIOD_S / SPEED
        while server.controlled and time.monotonic() < until:
            time.sleep(0.02)
        assert not server.controlled  # within the watchdog's three periods, and a little
        before = list(read_audit(state / "audit"))
        second = start()
        try:
            wait("writing its log", second, 400)
            wait("in command", second, 400)  # asked for anew, by its own command line
        finally:
            second.terminate()
            assert second.wait(30) == 0
    after = list(read_audit(state / "audit"))
    assert [row.hash for row in after[: len(before)]] == [row.hash for row in before]
    assert verify_audit(state / "audit").problem == ""
    restart = next(row for row in after[len(before) :] if row.kind == "mode")
    assert (restart.payload["from"], restart.payload["to"]) == ("OFF", "SHADOW")
    assert env.unsafe() == 0


def still_open(files: list[sqlite3.Connection]) -> list[sqlite3.Connection]:
    """The connections that were not closed."""
    alive = []
    for file in files:
        with contextlib.suppress(sqlite3.ProgrammingError):
            file.execute("SELECT 1")
            alive.append(file)
    return alive


def modes(state: Path) -> list[str]:
    """Starts in the log so far."""
    try:
        return [row.kind for row in read_audit(state / "audit", kinds=["start"])]
    except Exception:  # noqa: BLE001 (the log is being made)
        return []
