"""The simulated plant: who commands it, what it refuses, and how it follows the clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from deploy.runtime.clock import NS, AcceleratedClock
from deploy.runtime.plant import WriteRequest
from deploy.runtime.simulated import SimulatedPlant
from tests.deploy.plants import PERIOD_S, TankEnv, plant_description

SPEC = PlantSpec.from_dict(plant_description())
OPERATOR = np.array([1.0, 0.5, 2.0])
OURS = {"valve": 3.0, "heater": 1.5, "pump": 0.25}


class Rig:
    def __init__(self, operator: Any = lambda frame: OPERATOR, horizon: int = 10_000) -> None:
        self.clock, self.steps = AcceleratedClock(), list[tuple[list[float], bool]]()
        self.plant = SimulatedPlant(
            SPEC, TankEnv(horizon), self.clock, operator,
            on_step=lambda frame, command, reward, controlled: self.steps.append((command.tolist(), controlled)),
        )  # fmt: skip
        self.beat = 0

    def period(self, **request: Any) -> dict[str, str]:
        """One period, at whose start something is written; what was refused."""
        answer = self.plant.write(WriteRequest(**request), 1.0)
        assert answer.problem == ""
        self.clock.advance(PERIOD_S)
        self.plant.read(1.0)
        return dict(answer.refused)

    def control(self, **request: Any) -> dict[str, str]:
        """One period under a controller."""
        self.beat += 1
        return self.period(**({"commands": OURS, "heartbeat": self.beat, "lease": f"tank-0a {self.beat}"} | request))

    @property
    def in_force(self) -> dict[str, float]:
        return dict(self.plant.read_back(1.0))


def commands(values: Any) -> dict[str, float]:
    return dict(zip(SPEC.action_tags, np.asarray(values, dtype=float).tolist(), strict=True))


def test_the_operator_commands_until_a_controller_has_lease_heartbeat_and_the_switch() -> None:
    rig = Rig()
    assert rig.in_force == commands(OPERATOR)
    rig.period()
    rig.period(heartbeat=1)  # a heartbeat alone
    rig.period(lease="tank-0a 1")  # a lease alone: the heartbeat is still young
    assert [controlled for _, controlled in rig.steps] == [False, False, True]
    rig = Rig()
    assert rig.control() == {}
    assert rig.in_force == OURS
    assert rig.plant.controlled
    assert rig.steps == [([3.0, 1.5, 0.25], True)]
    reading = rig.plant.read(1.0)
    assert (reading.auto, reading.lease, reading.heartbeat, reading.problem) == (True, "tank-0a 1", 1, "")
    assert {tag: sample.value for tag, sample in reading.commands.items()} == OURS


def test_the_watchdog_gives_the_plant_back_after_three_periods() -> None:
    rig = Rig()
    rig.control()
    for _ in range(4):
        rig.period(heartbeat=rig.beat)  # the same counter is no heartbeat
    assert [controlled for _, controlled in rig.steps] == [True, True, True, False, False]
    assert rig.in_force == commands(OPERATOR)
    assert not rig.plant.controlled
    rig.control()
    assert rig.steps[-1][1]


def test_a_lease_given_back_gives_the_plant_back() -> None:
    rig = Rig()
    rig.control()
    rig.period(lease="")
    assert rig.in_force == commands(OPERATOR)
    assert rig.steps[-1] == ([3.0, 1.5, 0.25], False)  # the last command stays for the period that has begun


def test_the_operators_switch_takes_over_and_refuses_commands() -> None:
    rig = Rig()
    rig.control()
    rig.plant.auto = False
    refused = rig.control(commands={**OURS, "pump": 3.0})
    assert refused == dict.fromkeys(OURS, "the operator's switch is off")
    assert rig.steps[-1] == ([3.0, 1.5, 0.25], False)
    assert rig.in_force == commands(OPERATOR)
    assert rig.plant.read(1.0).auto is False


def test_a_command_without_a_lease_is_refused() -> None:
    rig = Rig()
    assert rig.control(lease=None) == dict.fromkeys(OURS, "the operator commands")
    assert rig.in_force == commands(OPERATOR)
    rig.control()
    assert rig.control(lease="") == dict.fromkeys(OURS, "the operator commands")


@pytest.mark.parametrize("value", [0.05, 7.8, -1e9, float("nan"), float("inf")])
def test_a_command_out_of_range_is_refused_and_the_others_are_taken(value: float) -> None:
    rig = Rig()
    assert rig.control(commands={**OURS, "valve": value}) == {"valve": "out of range"}
    assert rig.in_force == {**OURS, "valve": OPERATOR[0]}


def test_an_operator_who_wishes_for_too_much_is_clipped_and_without_one_the_safe_values_hold() -> None:
    assert Rig(lambda frame: np.array([99.0, -99.0, 1.0])).in_force == {"valve": 7.7, "heater": -1.0, "pump": 1.0}
    assert Rig(None).in_force == {"valve": 2.0, "heater": 0.0, "pump": 1.0}


def test_the_plant_goes_on_by_itself_and_stamps_its_samples_with_their_times() -> None:
    rig = Rig()
    first = rig.plant.read(1.0)
    for wait, steps in ((0.0, 0), (PERIOD_S * 0.999, 0), (PERIOD_S * 0.001, 1), (10 * PERIOD_S, 11)):
        rig.clock.advance(wait)
        reading = rig.plant.read(1.0)
        assert rig.plant.steps == steps
        assert {sample.time_ns for sample in reading.samples.values()} == {
            rig.clock.wall_ns() // round(PERIOD_S * NS) * round(PERIOD_S * NS)
        }
    assert reading.heartbeat == 11
    # The operator's command is that of the beginning, and so is its stamp.
    assert reading.commands == first.commands
    rig.clock.advance(0.5)
    rig.control()
    assert {s.time_ns for s in rig.plant.read(1.0).commands.values()} == {rig.clock.wall_ns() - round(PERIOD_S * NS)}


def test_after_a_long_stop_it_lets_the_rest_go() -> None:
    rig = Rig()
    rig.clock.advance(1e6)
    stamp = rig.plant.read(1.0).samples["level"].time_ns
    assert rig.plant.steps == 100
    assert stamp is not None
    assert 0 <= rig.clock.wall_ns() - stamp < PERIOD_S * NS


def test_a_clock_that_is_set_back_moves_the_stamps_and_not_the_plant() -> None:
    rig = Rig()
    rig.control()
    before = rig.plant.read(1.0)
    rig.clock.set_wall(-3600.0)
    reading = rig.plant.read(1.0)
    assert rig.plant.steps == 1
    for tag, sample in reading.samples.items():
        assert sample.value == before.samples[tag].value
        assert sample.time_ns == rig.clock.wall_ns() // (2 * NS) * 2 * NS
    rig.control()
    assert rig.plant.steps == 2


def test_an_episode_that_ends_is_followed_by_another() -> None:
    rig = Rig(horizon=3)
    for _ in range(7):
        rig.period()
    assert (rig.plant.steps, rig.plant.resets) == (7, 2)


def test_advice_is_kept_and_moves_nothing() -> None:
    rig = Rig()
    rig.period(advice=OURS)
    rig.period(advice={"pump": 1.0})
    assert rig.plant.advice == {**OURS, "pump": 1.0}
    assert rig.in_force == commands(OPERATOR)


def test_an_environment_of_another_plant_is_named() -> None:
    class Other(TankEnv):
        def _measured(self) -> np.ndarray:
            return np.zeros(3)

    with pytest.raises(ControlkitError, match="the environment shows 3 tags, the bundle's plant has 5"):
        SimulatedPlant(SPEC, Other(), AcceleratedClock())
