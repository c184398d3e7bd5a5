"""Who says that a controller may not command, and what stands in its way."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.plant import PlantReading, Sample
from deploy.runtime.recalibration import Calibration
from deploy.runtime.sensing import Sensing
from deploy.runtime.settings import Settings
from deploy.runtime.watch import DOUBTS, Watch
from tests.deploy.runtime.scripted import ALL, ScriptedPlant, two_valves

SPAN = np.array([10.0, 10.0], dtype=np.float32)
COMMANDS = np.array([2.5, 7.5], dtype=np.float32)
SPEC = two_valves(mode=True)


class Rig:
    """A watch whose controller holds the lease, and the reading of a plant that says nothing against it."""

    def __init__(self, handshake: frozenset[str] = ALL, held: bool = True, **settings: Any) -> None:
        self.lease, self.sensing = LeaseKeeper("tank-0a"), Sensing(SPEC)
        self.watch = Watch(SPEC, ScriptedPlant(handshake), self.lease, replace(Settings(), **settings), SPAN)
        self.reading = PlantReading(
            commands={"a": Sample(0, 2.5), "b": Sample(0, 7.5)},
            modes={"running": Sample(0, 1.0)},
            auto=True,
            heartbeat=0,
            lease="",
        )
        if held:
            self.lease.see("")
            tag = self.lease.text(True)
            self.lease.see(tag)
            self.reading = replace(self.reading, lease=tag)
        self.slot = SimpleNamespace(
            warm=True,
            last=SimpleNamespace(raised=("spread_high", "fallback_active")),
            recalibrator=SimpleNamespace(result=Calibration(), progress="120 of 500 scored steps"),
            bundle=SimpleNamespace(trusted=True),
        )

    def disarms(self, confirmed: Any = COMMANDS, **change: Any) -> str:
        """One cycle in ARMED; the plant's counter moves unless the change says otherwise."""
        beat = (self.reading.heartbeat or 0) + 1
        self.reading = replace(self.reading, **({"heartbeat": beat} | change))
        self.watch.see(self.reading)
        return self.watch.disarms(self.reading, self.sensing, confirmed)

    def stands(self, healthy: int = 3, audit: str = "", **change: Any) -> tuple[str, str]:
        """What stands in the way of ADVISORY, and of ARMED."""
        self.disarms(**change)
        ready = self.watch.readiness(self.reading, self.sensing, self.slot, healthy, audit)  # type: ignore[arg-type]
        assert ready.obstacle("SHADOW") == ready.obstacle("OFF") == ""
        return ready.obstacle("ADVISORY"), ready.obstacle("ARMED")


def test_a_quiet_plant_disarms_nobody() -> None:
    rig = Rig()
    assert [rig.disarms() for _ in range(5)] == [""] * 5
    assert rig.disarms(None) == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"auto": False}, "the operator took over (the plant's switch is off)"),
        ({"auto": False, "problem": "half of it"}, "the operator took over (the plant's switch is off)"),
        ({"auto": None}, "the plant does not say whether a controller may act"),
        ({"modes": {"running": Sample(0, 0.0)}}, "the plant's mode 'running' is 0"),
        ({"modes": {}}, "the plant does not say its mode ('running')"),
        ({"lease": "tank-0b 4"}, "another controller commands (tank-0b)"),
        ({"lease": "operator"}, "another controller commands (unknown)"),
        ({"lease": ""}, "another controller commands (the lease is gone)"),
        ({"lease": None}, "the plant does not say who holds the lease"),
        ({"commands": {"a": Sample(0, 2.6), "b": Sample(0, 7.5)}}, "somebody else moved 'a'"),
        ({"commands": {"a": Sample(0, 2.6), "b": Sample(0, 1.0)}}, "somebody else moved 'a', 'b'"),
        # A thousandth of the span is a rounding; what is not shown, or not good, has not moved.
        ({"commands": {"a": Sample(0, 2.509), "b": Sample(0, 7.5)}}, ""),
        ({"commands": {"a": Sample(0, 9.0, "bad")}}, ""),
        # One silent cycle proves nothing.
        ({"problem": "cut", "lease": None, "modes": {}, "commands": {}, "auto": None, "heartbeat": None}, ""),
    ],
)
def test_what_disarms_at_once(change: dict[str, Any], why: str) -> None:
    rig = Rig()
    assert rig.disarms() == ""
    assert rig.disarms(**change) == why


def test_a_command_that_was_not_confirmed_cannot_have_been_moved() -> None:
    assert Rig().disarms(None, commands={"a": Sample(0, 9.0), "b": Sample(0, 9.0)}) == ""


@pytest.mark.parametrize("beat", [5, None])
def test_a_plant_whose_heartbeat_stops_disarms_after_three_periods(beat: int | None) -> None:
    rig = Rig()
    rig.disarms(heartbeat=5)
    told = [rig.disarms(heartbeat=beat) for _ in range(4)]
    assert told == ["", "", *["the plant's heartbeat has stopped"] * 2]
    assert rig.disarms(heartbeat=6) == ""


@pytest.mark.parametrize("part", ["auto", "lease", "heartbeat_plant"])
def test_what_the_plant_does_not_have_cannot_stop_it(part: str) -> None:
    rig = Rig(ALL - {part})
    silent = {"auto": {"auto": None}, "lease": {"lease": None}, "heartbeat_plant": {"heartbeat": None}}[part]
    for _ in range(5):
        assert rig.disarms(**silent) == ""
    assert rig.stands(**silent) == ("", "")


def test_nothing_stands_in_the_way_of_a_controller_that_is_ready() -> None:
    assert Rig().stands() == ("", "")


def test_what_stands_in_the_way_of_both() -> None:
    assert Rig().stands(problem="cut") == ("the plant does not answer",) * 2
    assert Rig().stands(healthy=2) == ("2 of 3 cycles without a fault",) * 2
    rig = Rig()
    rig.slot.warm = False
    assert rig.stands() == ("history is filling",) * 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"auto": False}, "the plant's switch is not on"),
        ({"auto": None}, "the plant's switch is not on"),
        ({"modes": {"running": Sample(0, 0.0)}}, "the plant's mode 'running' is 0"),
        ({"audit": "disk full"}, "the audit log is blocked"),
    ],
)
def test_what_stands_in_the_way_of_arming_only(change: dict[str, Any], why: str) -> None:
    rig = Rig(held=False)
    assert rig.stands(**change) == ("", why)
    assert not rig.watch.may_claim


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_controller_that_does_not_trust_the_plant_is_not_armed(doubt: str) -> None:
    rig = Rig()
    rig.slot.last = SimpleNamespace(raised=("spread_high", doubt))
    assert rig.stands() == ("", f"the controller does not trust the plant ({doubt})")


def test_a_controller_is_not_armed_before_it_has_learned_its_plant() -> None:
    rig = Rig()
    rig.slot.recalibrator.result = None
    assert rig.stands() == ("", "recalibrating, 120 of 500 scored steps")
    rig.slot.recalibrator = None
    assert rig.stands()[1] == "the bundle cannot be recalibrated: export it again"


def test_only_a_bundle_of_the_known_key_is_armed() -> None:
    for required in (True, False):
        rig = Rig(require_trusted=required)
        rig.slot.bundle.trusted = False
        assert rig.stands() == ("", "the bundle is not signed with the known key (--public-key)" if required else "")


def test_the_lease_is_the_last_thing_to_be_claimed() -> None:
    rig = Rig(held=False)
    assert rig.stands(audit="disk full")[1] == "the audit log is blocked"
    assert not rig.watch.may_claim
    assert rig.stands() == ("", "the lease is free")
    assert rig.watch.may_claim
    tag = rig.lease.text(True)
    assert rig.stands(lease=tag) == ("", "the lease is claimed tank-0a")
    assert rig.stands(lease=tag) == ("", "")
    assert rig.stands(lease="tank-0b 1") == ("", "the lease is foreign tank-0b")
    assert rig.watch.may_claim


def test_a_heartbeat_that_does_not_move_stands_in_the_way() -> None:
    rig = Rig()
    told = [rig.stands(heartbeat=3)[1] for _ in range(5)]
    assert told == ["", "", "", *["the plant's heartbeat does not move"] * 2]


def test_a_write_that_the_plant_forgot_shows_in_the_lease() -> None:
    rig = Rig()
    rig.disarms()
    taken = rig.lease.text(True)
    assert rig.watch.lost_write(replace(rig.reading, lease=taken), taken) == ""
    assert "writes are lost" in rig.watch.lost_write(rig.reading, taken)  # still the text before
    assert "writes are lost" in rig.watch.lost_write(replace(rig.reading, lease=""), taken)
    for unknown in (replace(rig.reading, lease=None), PlantReading(problem="no answer")):
        assert rig.watch.lost_write(unknown, taken) == ""
    assert rig.watch.lost_write(rig.reading, None) == ""  # nothing was written, or it was not taken
    rig.disarms(lease="stranger 7")
    assert rig.watch.lost_write(rig.reading, taken) == ""  # another one's: said by `disarms`
