"""Physics, noise, doors: known answers computed by hand, and the vector form against one refrigerator at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec, TrackTerm
from envs.refrigerator import (
    DEFAULT_PARAMS,
    DOOR,
    TEMPERATURE,
    DoorSchedule,
    RefrigeratorParams,
    VectorRefrigerator,
    next_temperature,
    power_to_reach,
)


def test_the_constants_are_those_of_the_plant_file() -> None:
    spec = PlantSpec.load(config_path("plants", "refrigerator"))
    assert spec.frame_tags == ("temperature", "door")
    assert (spec.frame_tags.index("temperature"), spec.frame_tags.index("door")) == (TEMPERATURE, DOOR)
    assert spec.limits("power") == (DEFAULT_PARAMS.power_low, DEFAULT_PARAMS.power_high)
    assert spec.period_s == DEFAULT_PARAMS.dt_s
    (term,) = spec.objective
    assert isinstance(term, TrackTerm)
    assert (term.tag, term.setpoint) == ("temperature", DEFAULT_PARAMS.target_c)


@pytest.mark.parametrize(
    ("temperature", "power", "door", "expected"),
    [
        (10.0, 0.0, 0.0, 10.1),  # 10 - (10 - 15) 0.02
        (10.0, 0.0, 1.0, 10.4),  # 10 - (10 - 15) 0.08
        (10.0, 2.0, 0.0, 8.14),  # cooled to 8, then 8 + 7 x 0.02: cooling comes before the leak
        (10.0, 2.0, 1.0, 8.56),  # 8 + 7 x 0.08
        (15.0, 0.0, 1.0, 15.0),  # no difference to the outside
        (-2.0, 0.34693877551020408, 0.0, -2.0),  # 17 x 0.02 / 0.98 holds the target
    ],
)
def test_one_step_by_hand(temperature: float, power: float, door: float, expected: float) -> None:
    after = next_temperature(np.array([temperature]), np.array([power]), np.array([door]))
    assert after[0] == pytest.approx(expected, abs=1e-12)


def test_the_power_to_reach_a_temperature_reaches_it() -> None:
    rng = np.random.default_rng(0)
    temperature, door = rng.uniform(-20, 20, 100), rng.integers(0, 2, 100).astype(float)
    power = power_to_reach(-2.0, temperature, door)
    np.testing.assert_allclose(next_temperature(temperature, power, door), -2.0, atol=1e-12)


@pytest.mark.parametrize("noise", ["measurement", "process", "none"])
def test_the_vector_form_against_a_slow_one(noise: Any) -> None:
    """Many copies at once give what a loop over single numbers gives, from the same draws in the same order."""
    copies, steps, scale = 5, 450, 0.3
    commands = np.random.default_rng(1).uniform(-1.0, 11.0, (steps, copies))
    plant = VectorRefrigerator(copies, np.random.default_rng(7), noise=noise, noise_scale=scale)
    plant.reset()

    draws = np.random.default_rng(7)
    true: list[float] = []
    for life in range(2):  # the constructor resets once, this test a second time
        opens, first = draws.random(copies) < 0.5, draws.integers(0, 181, copies)
        first_noise = draws.standard_normal(copies)
        true = [10.0] * copies
        if life == 1:
            expected = 10.0 + scale * first_noise if noise == "measurement" else np.full(copies, 10.0)
            np.testing.assert_array_equal(plant.measured_temperature, expected)
    for time in range(steps):
        frame = plant.step(commands[time][:, None])
        disturbance = draws.standard_normal(copies)
        for copy in range(copies):
            phase = time % 200
            k = 0.08 if opens[copy] and first[copy] <= phase < first[copy] + 20 else 0.02
            cooled = true[copy] - min(max(commands[time, copy], 0.0), 10.0)
            true[copy] = cooled - (cooled - 15.0) * k + (scale * disturbance[copy] if noise == "process" else 0.0)
        if (time + 1) % 200 == 0:
            opens, first = draws.random(copies) < 0.5, draws.integers(0, 181, copies)
        seen = [t + (scale * e if noise == "measurement" else 0.0) for t, e in zip(true, disturbance, strict=True)]
        np.testing.assert_allclose(plant.true_temperature, true, rtol=0, atol=1e-11)
        np.testing.assert_allclose(frame[:, TEMPERATURE], seen, rtol=0, atol=1e-11)


def test_measurement_noise_leaves_the_plant_exact() -> None:
    plant = VectorRefrigerator(4000, np.random.default_rng(0), noise="measurement", noise_scale=0.1)
    frame = plant.reset()
    for _ in range(5):
        frame = plant.step(np.full((4000, 1), 1.0))
    error = frame[:, TEMPERATURE] - plant.true_temperature
    assert error.std() == pytest.approx(0.1, rel=0.05)
    assert abs(error.mean()) < 0.01
    still_shut = plant.true_temperature == plant.true_temperature.min()
    assert still_shut.mean() > 0.9  # the doors alone tell copies apart


def test_process_noise_moves_the_plant_and_the_sensor_is_exact() -> None:
    plant = VectorRefrigerator(4000, np.random.default_rng(0), noise="process", noise_scale=0.1)
    np.testing.assert_array_equal(plant.reset()[:, TEMPERATURE], 10.0)
    before, door = plant.true_temperature.copy(), plant.door.copy()
    frame = plant.step(np.full((4000, 1), 1.0))
    np.testing.assert_array_equal(frame[:, TEMPERATURE], plant.true_temperature)
    disturbance = plant.true_temperature - next_temperature(before, np.full(4000, 1.0), door)
    assert disturbance.std() == pytest.approx(0.1, rel=0.05)


def test_the_door_observed_now_governs_the_next_step() -> None:
    plant = VectorRefrigerator(200, np.random.default_rng(3), noise="none")
    frame = plant.reset()
    seen_open = 0
    for _ in range(200):
        before, door = frame[:, TEMPERATURE], frame[:, DOOR]
        frame = plant.step(np.zeros((200, 1)))
        leak = np.where(door == 1.0, 0.08, 0.02)
        np.testing.assert_allclose(frame[:, TEMPERATURE], before - (before - 15.0) * leak, atol=1e-12)
        seen_open += int(door.sum())
    assert seen_open > 0


def test_the_doors_open_once_in_half_of_the_intervals_and_for_twenty_steps() -> None:
    copies, intervals = 400, 20
    schedule = DoorSchedule(copies, np.random.default_rng(5), DEFAULT_PARAMS)
    doors = np.stack([schedule.at(time) for time in range(200 * intervals)])  # (T, B)
    per_interval = doors.reshape(intervals, 200, copies)
    open_steps = per_interval.sum(axis=1)  # (intervals, B)
    assert set(np.unique(open_steps)) == {0.0, 20.0}  # fully inside the interval, or not at all
    assert (open_steps == 20).mean() == pytest.approx(0.5, abs=0.02)  # 8000 coins: standard error 0.0056
    rises = (np.diff(per_interval, axis=1, prepend=0.0) == 1).sum(axis=1)
    np.testing.assert_array_equal(rises, open_steps / 20)  # one opening
    first = per_interval.argmax(axis=1)[open_steps == 20]
    assert (first.min(), first.max()) == (0, 180)
    assert first.mean() == pytest.approx(90.0, abs=3.0)  # standard error 0.83


def test_all_kinds_of_noise_and_all_commands_meet_the_same_doors() -> None:
    def doors(noise: Any, power: float) -> np.ndarray[Any, Any]:
        plant = VectorRefrigerator(20, np.random.default_rng(11), noise=noise)
        seen = []
        for _ in range(500):
            plant.step(np.full((20, 1), power))
            seen.append(plant.door)
        return np.stack(seen)

    expected = doors("measurement", 0.0)
    assert expected.any()
    np.testing.assert_array_equal(doors("process", 3.0), expected)
    np.testing.assert_array_equal(doors("none", 9.0), expected)


def test_a_hidden_door_still_opens() -> None:
    plant = VectorRefrigerator(300, np.random.default_rng(2), door="hidden")
    assert plant.frame_tags == ("temperature",)
    assert plant.reset().shape == (300, 1)
    doors = []
    for _ in range(200):
        assert plant.step(np.zeros((300, 1))).shape == (300, 1)
        doors.append(plant.door)
    assert np.any(doors)
    assert plant.true_frame.shape == plant.measured_frame.shape == (300, 2)


def test_ten_thousand_copies_and_other_constants() -> None:
    params = RefrigeratorParams(ambient_c=20.0, door_probability=0.0)
    plant = VectorRefrigerator(10_000, np.random.default_rng(0), noise="none", start_c=5.0, params=params)
    frame = plant.step(np.linspace(0, 20, 10_000)[:, None])
    power = np.clip(np.linspace(0, 20, 10_000), 0, 10)  # the compressor saturates
    np.testing.assert_allclose(frame[:, TEMPERATURE], (5.0 - power) * 0.98 + 20.0 * 0.02, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": "measurment"}, "refrigerator: unknown noise 'measurment'. Mend it: did you mean 'measurement'?"),
        ({"door": "ajar"}, "refrigerator: unknown door 'ajar'. Mend it: valid names: hidden, seen"),
        ({"noise_scale": -0.1}, "refrigerator: noise_scale -0.1 is no standard deviation. Give 0 or more."),
        ({"noise_scale": float("nan")}, "refrigerator: noise_scale nan is no standard deviation. Give 0 or more."),
        ({"start_c": float("inf")}, "refrigerator: start_c inf is no temperature. Give a number."),
        ({"copies": 0}, "refrigerator: 0 copies cannot be simulated. Give 1 or more."),
    ],
)
def test_wrong_arguments_say_so(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlkitError) as raised:
        VectorRefrigerator(**({"copies": 1, "rng": np.random.default_rng(0)} | arguments))
    assert str(raised.value) == message


def test_a_command_that_is_no_number_names_copy_and_step() -> None:
    plant = VectorRefrigerator(3, np.random.default_rng(0))
    plant.step(np.zeros((3, 1)))
    before = plant.true_temperature.copy()
    with pytest.raises(ControlkitError, match=r"^step 1, copy 2, action 0: the controller commanded nan"):
        plant.step(np.array([[0.0], [1.0], [np.nan]]))
    np.testing.assert_array_equal(plant.true_temperature, before)
    with pytest.raises(ValueError, match="shape"):
        plant.step(np.zeros(3))
