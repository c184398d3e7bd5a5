"""What is written in which mode, and what counts as arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from deploy.runtime.clock import AcceleratedClock, Tick
from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.plant import WriteRequest, WriteResult
from deploy.runtime.session import StepResult
from deploy.runtime.settings import Settings
from deploy.runtime.snapshot import MODES, Mode
from deploy.runtime.writing import Writer
from tests.deploy.runtime.scripted import ALL, ScriptedPlant, two_valves

COMMAND = {"a": 2.5, "b": 7.5}
SPAN = np.array([10.0, 10.0], dtype=np.float32)


def result(**values: float) -> StepResult:
    action = np.array([values.get("a", 2.5), values.get("b", 7.5)], dtype=np.float32)
    nothing = np.zeros(1, dtype=np.float32)
    return StepResult(action, action, action, 1.0, 0.0, 0.0, 0.0, nothing, nothing, ())


@dataclass
class Rig:
    """A writer on a scripted plant whose lease it holds."""

    plant: ScriptedPlant
    writer: Writer
    lease: LeaseKeeper
    clock: AcceleratedClock
    counters: Counter[str]
    faults: dict[str, str]

    def send(
        self, mode: Mode, step: StepResult | None = None, *, claim: bool = False, quiet: bool = False
    ) -> WriteRequest | None:
        """One cycle; what was written in it."""
        before = len(self.plant.written)
        tick = Tick(0, 0, self.clock.monotonic_ns())
        self.faults.clear()
        self.confirmed = self.writer.send(mode, step, tick, self.faults, claim=claim, quiet=quiet)
        assert len(self.plant.written) <= before + 1
        return self.plant.written[-1][0] if len(self.plant.written) > before else None


def rig(held: bool = True, **plant: Any) -> Rig:
    spec, scripted, clock, counters = two_valves(), ScriptedPlant(**plant), AcceleratedClock(), Counter[str]()
    lease = LeaseKeeper("tank-0a")
    if held:
        lease.see("")
        text = lease.text(True)
        for _ in range(2):
            lease.see(text)
        assert lease.state == "held"
    writer = Writer(spec, scripted, clock, lease, Settings(), SPAN, counters)
    return Rig(scripted, writer, lease, clock, counters, {})


@pytest.mark.parametrize("mode", ["OFF", "SHADOW"])
def test_in_shadow_nothing_at_all_is_written(mode: Mode) -> None:
    for held in (False, True):
        plant = rig(held)
        plant.lease.state = "foreign"
        for step in (result(), None):
            for quiet in (False, True):
                assert plant.send(mode, step, quiet=quiet) is None
                assert not plant.confirmed
        assert (plant.faults, plant.counters) == ({}, {})


def test_after_a_fall_only_the_own_lease_is_given_back_and_that_once() -> None:
    plant = rig()
    assert plant.send("SHADOW", result()) == WriteRequest(lease="")
    assert plant.send("SHADOW", result()) is None


def test_after_a_fall_a_lease_that_was_not_read_is_not_given_back() -> None:
    plant = rig()
    plant.lease.see(None)
    assert plant.send("SHADOW", result(), quiet=True) is None


def test_advisory_writes_advice_and_heartbeat_and_never_a_command() -> None:
    plant = rig(held=False)
    plant.lease.see("")
    assert plant.send("ADVISORY", result()) == WriteRequest(advice=COMMAND, heartbeat=1)
    assert plant.send("ADVISORY", result(), claim=True) == WriteRequest(
        advice=COMMAND, heartbeat=2, lease="tank-0a 1"
    )  # armed is wanted
    assert plant.send("ADVISORY", None) == WriteRequest(lease="")  # no result, and the wish is gone
    assert plant.send("ADVISORY", result(), quiet=True) is None
    assert plant.counters == {}


def test_armed_writes_commands_heartbeat_and_renewal_in_one_request() -> None:
    plant = rig()
    assert plant.send("ARMED", result()) == WriteRequest(commands=COMMAND, heartbeat=1, lease="tank-0a 2")
    assert plant.confirmed
    assert plant.writer.confirmed is not None
    assert plant.writer.confirmed.tolist() == plant.writer.echo.tolist() == [2.5, 7.5]
    assert plant.send("ARMED", result()) == WriteRequest(commands=COMMAND, heartbeat=2, lease="tank-0a 3")
    assert (plant.counters, plant.faults) == ({"writes": 2}, {})


@pytest.mark.parametrize(("step", "quiet"), [(None, False), (result(), True), (None, True)])
def test_an_armed_cycle_without_a_result_writes_nothing_and_keeps_the_lease(
    step: StepResult | None, quiet: bool
) -> None:
    plant = rig()
    plant.send("ARMED", result())
    assert plant.send("ARMED", step, quiet=quiet) is None
    assert not plant.confirmed
    assert plant.writer.confirmed is None
    assert plant.lease.state == "held"
    assert plant.send("ARMED", result()) == WriteRequest(commands=COMMAND, heartbeat=2, lease="tank-0a 3")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", ["heartbeat_controller", "lease", "advice"])
def test_a_plant_is_not_written_what_it_does_not_have(mode: Mode, part: str) -> None:
    plant = rig(handshake=ALL - {part})
    request = plant.send(mode, result(), claim=True) or WriteRequest()
    assert not {"heartbeat_controller": request.heartbeat, "lease": request.lease, "advice": request.advice}[part]
    bare = rig(handshake=frozenset())
    request = bare.send(mode, result(), claim=True) or WriteRequest()
    assert request == WriteRequest(commands=COMMAND if mode == "ARMED" else {})
    bare.writer.release()
    assert len(bare.plant.written) == (mode == "ARMED")


@pytest.mark.parametrize(
    ("echo", "confirmed", "others"),
    [
        ({"a": 2.5, "b": 7.5}, True, ""),
        ({"a": 2.509, "b": 7.491}, True, ""),  # within a thousandth of the span
        ({"a": 2.52, "b": 7.5}, False, "'a'"),
        ({"a": 2.5}, False, "'b'"),
        ({}, False, "'a', 'b'"),
        ({"a": float("nan"), "b": 7.5}, False, "'a'"),
        ({"a": 2.5, "b": 1e300}, False, "'b'"),
    ],
)
def test_what_the_plant_does_not_show_has_not_arrived(echo: Mapping[str, float], confirmed: bool, others: str) -> None:
    plant = rig(echo=echo)
    assert plant.send("ARMED", result()) is not None
    assert plant.confirmed is confirmed
    assert (plant.writer.confirmed is not None) is confirmed
    told = f"the plant does not show the command that was written to {others}"
    assert plant.faults == ({} if confirmed else {"write_not_confirmed": told})
    assert plant.counters == {"writes": 1} | ({} if confirmed else {"unconfirmed": 1})
    assert [tag for tag, value in zip("ab", plant.writer.echo, strict=True) if np.isnan(value)] == [
        tag for tag in "ab" if np.isnan(echo.get(tag, np.nan))
    ]  # fmt: skip


def test_refusals_and_silence_are_told_by_name() -> None:
    plant = rig(result=WriteResult({"b": "out of range", "lease": "not writable"}), echo={"a": 2.5, "b": 1.0})
    plant.send("ARMED", result())
    assert set(plant.faults) == {"refused.b", "refused.lease", "write_not_confirmed"}
    assert plant.faults["refused.b"] == "the plant refused 'b': out of range"
    assert plant.counters == {"writes": 1, "refused": 2, "unconfirmed": 1}
    plant = rig(result=WriteResult(problem="no answer within 0.4 s"), echo={})
    plant.send("ARMED", result())
    assert plant.faults["write_failed"] == "no answer within 0.4 s"
    assert not plant.confirmed
    # A command that arrived although its answer was lost is in force: the plant shows it.
    plant.plant.echo = None
    plant.send("ARMED", result())
    assert plant.confirmed
    assert set(plant.faults) == {"write_failed"}


@pytest.mark.parametrize("waited_s", [0.9, 0.95, 30.0])
def test_a_cycle_that_was_held_up_writes_no_command_any_more(waited_s: float) -> None:
    plant = rig()
    tick = Tick(0, 0, plant.clock.monotonic_ns())
    plant.clock.advance(waited_s)
    assert not plant.writer.send("ARMED", result(), tick, plant.faults, claim=False, quiet=False)
    assert plant.plant.written == []
    assert set(plant.faults) == {"write_late"}


def test_writing_and_reading_back_share_what_is_left_of_the_period() -> None:
    plant = rig()
    tick = Tick(0, 0, plant.clock.monotonic_ns())
    plant.clock.advance(0.5)
    plant.writer.send("ARMED", result(), tick, {}, claim=False, quiet=False)
    plant.writer.send("ADVISORY", result(), tick, {}, claim=True, quiet=False)
    assert [time for _, time in plant.plant.written] == [pytest.approx(0.2), pytest.approx(0.4)]


def test_the_lease_is_released_at_the_end() -> None:
    plant = rig()
    plant.writer.release()
    plant.writer.release()
    assert [request for request, _ in plant.plant.written] == [WriteRequest(lease="")]


def test_the_lease_that_was_taken_is_kept_for_the_next_read() -> None:
    rigged = rig()
    request = rigged.send("ARMED", result())
    assert request is not None
    assert rigged.writer.acknowledged == request.lease is not None
    assert rigged.send("ARMED", None) is None
    assert rigged.writer.acknowledged is None  # nothing was written in this cycle
    for answer in (WriteResult({"lease": "BadNotWritable"}), WriteResult(problem="no answer")):
        spoiled = rig(result=answer)
        assert spoiled.send("ARMED", result()) is not None
        assert spoiled.writer.acknowledged is None
