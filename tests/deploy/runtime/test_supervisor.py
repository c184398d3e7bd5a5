"""The loop as a whole, at an accelerated clock on a simulated plant: modes, slots, clock, operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from controlkit.errors import ControlkitError
from deploy.bundle import Bundle, load_bundle
from deploy.runtime.clock import AcceleratedClock
from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.plant import PlantReading, WriteRequest, WriteResult
from deploy.runtime.recalibration import Calibration
from deploy.runtime.requests import Request, Requests
from deploy.runtime.settings import Settings
from deploy.runtime.simulated import SimulatedPlant
from deploy.runtime.slots import Slot, Slots
from deploy.runtime.snapshot import Snapshot
from deploy.runtime.supervisor import Supervisor
from deploy.runtime.worker import InlineWorker
from tests.deploy.conftest import Exported
from tests.deploy.plants import PERIOD_S, TankEnv


class Log:
    """An audit log in memory, whose disk can be full."""

    def __init__(self) -> None:
        self.problem, self.pending, self.lost = "", 0, 0
        self.rows: list[tuple[str, dict[str, Any]]] = []

    def append(self, kind: str, payload: dict[str, Any], **_: Any) -> None:
        self.rows.append((kind, payload))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [payload for name, payload in self.rows if name == kind]


class Board:
    """Keeps the latest."""

    latest: Snapshot

    def publish(self, snapshot: Snapshot) -> None:
        self.latest = snapshot


class Watched(SimulatedPlant):
    """Keeps what is read and written."""

    reads = 0
    silent = False

    def read(self, timeout_s: float) -> PlantReading:
        self.reads += 1
        reading = super().read(timeout_s)
        return PlantReading(problem="no answer") if self.silent else reading

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        self.requests = [*getattr(self, "requests", []), request]
        return super().write(request, timeout_s)


class Loop:
    """A supervisor with everything around it."""

    def __init__(self, bundle: Bundle, *, learned: bool = True, settings: Settings | None = None) -> None:
        self.clock, self.log, self.board, self.wishes = AcceleratedClock(), Log(), Board(), Requests()

        def operator(frame: np.ndarray) -> np.ndarray:
            error = frame[0] - frame[1]
            return np.array([2.4 + 1.2 * error, 0.5 + 0.02 * (30 - frame[2]), 1.0])

        self.plant = Watched(bundle.spec, TankEnv(), self.clock, operator, seed=3)
        self.slots = Slots(Slot("A", bundle, Calibration() if learned else None))
        self.stored: list[Calibration | None] = []
        self.loop = Supervisor(
            self.slots,
            self.plant,
            self.clock,
            self.log,
            self.board,
            InlineWorker(self.clock),
            self.wishes,
            LeaseKeeper("edge-1"),
            settings=settings or Settings(),
            on_calibration=lambda slot: self.stored.append(slot.recalibrator and slot.recalibrator.result),
        )
        self.loop.run(0)  # OFF -> SHADOW

    @property
    def mode(self) -> str:
        return self.loop.modes.mode

    def cycles(self, count: int) -> None:
        for _ in range(count):
            self.loop.cycle(*self.loop.metronome.wait())

    def wish(self, action: Any, **options: Any) -> str:
        request = Request(action, **options)
        self.wishes.put(request)
        self.cycles(1)
        return request.wait(0.0)

    def arm(self) -> None:
        self.wish("mode", mode="ARMED", operator="anna", change_record="MOC-1")
        self.until(lambda: self.mode == "ARMED", 40)

    def until(self, condition: Callable[[], bool], cycles: int) -> int:
        for count in range(cycles):
            if condition():
                return count
            self.cycles(1)
        raise AssertionError(f"not within {cycles} cycles: {self.loop.modes.state}")


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return load_bundle(exported.path, exported.public_key)


@pytest.fixture
def loop(bundle: Bundle) -> Loop:
    return Loop(bundle)


def test_it_starts_in_shadow_and_writes_nothing(loop: Loop) -> None:
    loop.cycles(30)
    assert loop.mode == "SHADOW"
    assert not getattr(loop.plant, "requests", [])
    rows = loop.log.of("cycle")
    assert [row["cycle"] for row in rows] == list(range(1, 31))
    assert not any(row["written"] for row in rows)
    assert np.diff([row["time_ns"] for row in rows]).tolist() == [round(PERIOD_S * 1e9)] * 29
    assert rows[0]["flags"].count("history_filling") == 1
    assert rows[-1]["trust"] == 1.0


def test_advisory_writes_advice_and_a_heartbeat_and_no_command(loop: Loop) -> None:
    loop.wish("mode", mode="ADVISORY", operator="anna")
    loop.until(lambda: loop.mode == "ADVISORY", 20)
    loop.cycles(5)
    assert all(not request.commands and request.lease is None for request in loop.plant.requests)
    assert [request.heartbeat for request in loop.plant.requests] == list(range(1, len(loop.plant.requests) + 1))
    assert loop.plant.advice == pytest.approx(loop.plant.requests[-1].advice)
    assert not loop.plant.controlled


def test_arming_climbs_by_rungs_and_takes_the_lease_first(loop: Loop) -> None:
    loop.arm()
    changes = [(row["from"], row["to"]) for row in loop.log.of("mode")]
    assert changes == [("OFF", "SHADOW"), ("SHADOW", "ADVISORY"), ("ADVISORY", "ARMED")]
    assert loop.log.of("mode")[-1]["change_record"] == "MOC-1"
    assert loop.plant.lease.startswith("edge-1 ")
    loop.cycles(20)
    assert loop.plant.controlled
    rows = loop.log.of("cycle")
    armed = [row for row in rows if row["mode"] == "ARMED"]
    assert all(row["written"] for row in armed)
    assert armed[0]["trust"] == pytest.approx(0.1)
    assert armed[-1]["trust"] == 1.0
    # The command in force at the next cycle is the one that was written.
    assert all(np.allclose(b["act_prev"], a["action"], atol=1e-5) for a, b in pairwise(armed))


@pytest.mark.parametrize("learned", [True, False])
def test_the_first_row_says_what_was_learned_of_the_plant_before(bundle: Bundle, learned: bool) -> None:
    loop = Loop(bundle, learned=learned)
    loop.loop.run(1)
    start = loop.log.of("start")[0]
    assert (start["shift"], start["stretch"]) == ((0.0, 0.0) if learned else (None, None))


def test_a_refused_request_is_recorded_and_shown(bundle: Bundle) -> None:
    loop = Loop(bundle)
    problem = ControlkitError("the signature is wrong", where="b/manifest.sig")
    loop.wishes.put(Request("load", operator="anna", problem=problem))
    loop.loop.run(1)
    assert loop.log.of("operator")[0]["action"] == "load"
    (told,) = [row for row in loop.log.of("alarm") if row["name"] == "request_refused"]
    assert told["text"] == "load refused to anna: b/manifest.sig: the signature is wrong"
    assert any(notice.name == "request_refused" for notice in loop.board.latest.notices)


def test_recalibration_comes_before_arming(bundle: Bundle) -> None:
    loop = Loop(bundle, learned=False)
    loop.wish("mode", mode="ARMED", operator="anna", change_record="MOC-1")
    loop.cycles(50)
    assert (loop.mode, "recalibrating" in loop.board.latest.why) == ("ADVISORY", True)
    assert bundle.manifest.recalibration is not None
    loop.until(lambda: loop.mode == "ARMED", bundle.manifest.recalibration.steps + 50)
    learned = loop.log.of("calibration")[0]
    assert abs(learned["shift"]) < 0.5
    assert loop.stored == [Calibration(learned["shift"], learned["stretch"])]
    loop.wish("recalibrate", operator="anna")
    assert loop.mode == "SHADOW"
    assert loop.stored[-1] is None  # what was kept for a restart goes, too
    assert loop.board.latest.calibration.startswith(("0 of", "1 of"))


@pytest.mark.parametrize(
    ("spoil", "because"),
    [
        (lambda loop: setattr(loop.plant, "auto", False), "switch is not on"),
        (lambda loop: setattr(loop.log, "problem", "disk full"), "audit_blocked"),
        (lambda loop: setattr(loop.slots.active, "bundle", replace(loop.slots.active.bundle, trusted=False)), "signed"),
        (lambda loop: setattr(loop.slots.active, "recalibrator", None), "export it again"),
    ],
    ids=["switch", "disk", "unsigned", "old-bundle"],
)
def test_what_stands_in_the_way_is_said(loop: Loop, spoil: Callable[[Loop], None], because: str) -> None:
    spoil(loop)
    loop.wish("mode", mode="ARMED", operator="anna", change_record="MOC-1")
    loop.cycles(40)
    assert because in loop.board.latest.why
    assert loop.mode in ("SHADOW", "ADVISORY")


def test_the_lease_of_another_is_waited_for_and_runs_out(loop: Loop) -> None:
    loop.cycles(20)
    loop.wish("mode", mode="ARMED", operator="anna", change_record="MOC-1")
    for count in range(12):
        loop.plant.lease = f"stranger {count}"
        loop.cycles(1)
    assert (loop.mode, loop.board.latest.lease) == ("ADVISORY", "stranger")
    assert "stranger" in loop.board.latest.why
    assert 5 <= loop.until(lambda: loop.mode == "ARMED", 20) <= 9  # five periods without a renewal, then a claim


def test_three_silent_cycles_and_nothing_is_written_in_any(loop: Loop) -> None:
    loop.arm()
    loop.cycles(15)
    before = len(loop.plant.requests)
    loop.plant.silent = True
    loop.cycles(2)
    assert loop.mode == "ARMED"
    loop.cycles(1)
    assert loop.mode == "SHADOW"
    assert [request for request in loop.plant.requests[before:] if request.commands] == []
    loop.plant.silent = False
    loop.cycles(40)
    assert loop.mode == "SHADOW"  # who wants it armed again asks again


def test_a_late_result_is_not_written_and_history_has_no_hole(loop: Loop) -> None:
    loop.arm()
    loop.cycles(15)
    session, before = loop.slots.active.session, len(loop.plant.requests)
    compute = session.compute

    def slow(*args: Any, **options: Any) -> Any:
        loop.clock.advance(0.6 * PERIOD_S)
        return compute(*args, **options)

    session.compute = slow  # type: ignore[method-assign]
    loop.cycles(1)
    session.compute = compute  # type: ignore[method-assign]
    assert "compute_late" in loop.log.of("cycle")[-1]["faults"]
    assert [request for request in loop.plant.requests[before:] if request.commands] == []
    loop.cycles(1)
    last = loop.log.of("cycle")[-1]
    assert last["written"]
    assert not {"history_filling", "timing_bad"} & set(last["flags"])


def test_a_cycle_that_is_begun_too_late_is_left_out(loop: Loop) -> None:
    loop.arm()
    loop.cycles(15)
    loop.clock.advance(2.8 * PERIOD_S)
    loop.cycles(1)
    row = loop.log.of("cycle")[-1]
    assert "cycle_missed" in row["faults"]
    assert loop.loop.counters["missed"] >= 2
    assert not row["written"]
    assert "timing_bad" in row["flags"]


def test_off_reads_nothing_and_gives_the_lease_back(loop: Loop) -> None:
    loop.arm()
    loop.cycles(5)
    assert "in force" in loop.wish("mode", mode="OFF")
    assert loop.plant.lease == ""
    reads = loop.plant.reads
    loop.cycles(5)
    assert loop.plant.reads == reads
    loop.wish("mode", mode="SHADOW")
    assert loop.mode == "SHADOW"
    loop.cycles(3)
    assert loop.log.of("cycle")[-1]["mode"] == "SHADOW"


def test_the_wall_clock_is_taken_over_only_where_nobody_is_commanded(loop: Loop) -> None:
    loop.cycles(20)
    stamp = loop.log.of("cycle")[-1]["time_ns"]
    loop.clock.set_wall(3600.0)
    loop.cycles(3)
    rows = loop.log.of("cycle")
    assert [row["cycle"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["time_ns"] - stamp > 3600 * 1e9
    assert any(row["name"] == "clock_set" for row in loop.log.of("alarm"))


def test_the_second_slot_takes_charge_and_gives_it_back_warm(loop: Loop, bundle: Bundle) -> None:
    """The same graph under another name stands in for another controller."""
    renamed = bundle.manifest.model_copy(
        update={"model": bundle.manifest.model.model_copy(update={"sha256": "0" * 64})}
    )
    second = Slot("", replace(bundle, manifest=renamed), Calibration())
    loop.arm()
    assert "slot B" in loop.wish("load", slot=second, operator="anna")
    with pytest.raises(ControlkitError, match="not full yet"):
        loop.wish("swap", operator="anna")
    loop.cycles(10)
    assert loop.mode == "ARMED"  # the second one is fed beside the first, which does not notice
    assert "in charge" in loop.wish("swap", operator="anna")
    assert (loop.mode, loop.slots.active.name) == ("SHADOW", "B")
    loop.cycles(1)
    assert loop.log.of("cycle")[-1]["controller"] == "0" * 12
    loop.wish("swap", operator="anna")
    loop.cycles(1)
    last = loop.log.of("cycle")[-1]
    assert loop.slots.active.name == "A"
    assert "history_filling" not in last["flags"]


def test_a_late_second_slot_leaves_the_first_one_alone(loop: Loop, bundle: Bundle) -> None:
    """Its step is taken over a cycle later, by itself; the one in charge is never late for it."""
    model = bundle.manifest.model.model_copy(update={"sha256": "0" * 64})
    second = Slot("", replace(bundle, manifest=bundle.manifest.model_copy(update={"model": model})), Calibration())
    loop.arm()
    loop.wish("load", slot=second, operator="anna")
    loop.cycles(10)
    compute, slow = second.session.compute, [True]

    def hesitant(*args: Any, **options: Any) -> Any:
        if slow.pop():
            loop.clock.advance(0.95 * PERIOD_S)
        slow.append(False)
        return compute(*args, **options)

    second.session.compute = hesitant  # type: ignore[method-assign]
    before = loop.slots.active.session.state.copy()
    loop.cycles(3)
    assert loop.loop.counters["standby_late"] == 1
    assert (loop.mode, loop.loop.counters["late"]) == ("ARMED", 0)
    assert not np.array_equal(loop.slots.active.session.state, before)
    assert second.last is not None
    assert not {"history_filling", "timing_bad"} & set(second.last.raised)
    assert not {"history_filling", "timing_bad"} & set(loop.log.of("cycle")[-1]["flags"])


def test_a_wish_that_fails_unexpectedly_does_not_end_the_loop(loop: Loop) -> None:
    with pytest.raises(ControlkitError, match="AssertionError"):
        loop.wish("load", slot=None, operator="anna")
    loop.cycles(1)
    assert any(row["name"] == "request_failed" for row in loop.log.of("alarm"))


def test_the_end_is_orderly(loop: Loop) -> None:
    loop.arm()
    loop.loop.run(5)
    assert loop.plant.lease == ""
    assert loop.log.rows[-1][0] == "stop"
    assert loop.log.rows[-1][1]["mode"] == "ARMED"
