"""Controllers: known answers, bounds, state; references against textbook results; scores inside the known bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controlkit.errors import ControlkitError
from envs.closed_loop import ClosedLoop, score
from envs.controllers import PID, Proportional, operator, pid, steep_p
from envs.references import SEARCH_SEED, KalmanDeadbeat, LinearLaw, best_linear_gain, raw_deadbeat
from envs.refrigerator import RefrigeratorParams, VectorRefrigerator, next_temperature
from envs.tasks import REFRIGERATOR, get_task

SCORE_SEED = 1


def measured(*temperatures: float, door: float = 0.0) -> np.ndarray[Any, Any]:
    return np.array([[t, door] for t in temperatures])


def test_proportional_by_hand() -> None:
    law = Proportional(0.2)
    law.reset(3)
    # 0.2 x (10 + 3.75), 0.2 x (-2 + 3.75), and never below 0
    np.testing.assert_allclose(law.act(measured(10.0, -2.0, -5.0))[:, 0], [2.75, 0.35, 0.0], atol=1e-12)
    np.testing.assert_allclose(steep_p().act(measured(-3.5, 10.0))[:, 0], [0.375, 10.0], atol=1e-12)


def test_the_operators_hand_shakes() -> None:
    law = operator(np.random.default_rng(0))
    power = law.act(measured(*np.full(20_000, 0.0)))[:, 0]
    assert power.mean() == pytest.approx(0.75, abs=0.003)
    assert power.std() == pytest.approx(0.1, rel=0.03)
    cold = operator(np.random.default_rng(0)).act(measured(*np.full(2000, -3.75)))[:, 0]
    assert (cold == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert cold.min() == 0
    with pytest.raises(ValueError, match="generator"):
        Proportional(0.2, noise_std=0.1)


def test_pid_by_hand() -> None:
    law = PID(0.1, 0.005, 0.4, reference_c=-2.0)
    law.reset(2)
    # e = 12 and 2; no derivative at first: 1.2 + 0.06, 0.2 + 0.01
    np.testing.assert_allclose(law.act(measured(10.0, 0.0))[:, 0], [1.26, 0.21], atol=1e-12)
    # e = 11 and 3; sums 23 and 5: 1.1 + 0.115 - 0.4, 0.3 + 0.025 + 0.4
    np.testing.assert_allclose(law.act(measured(9.0, 1.0))[:, 0], [0.815, 0.725], atol=1e-12)
    law.reset(2)
    np.testing.assert_allclose(law.act(measured(10.0, 0.0))[:, 0], [1.26, 0.21], atol=1e-12)


def test_the_test_controllers_settle_far_from_the_log() -> None:
    plant = VectorRefrigerator(1, np.random.default_rng(0), noise="none")
    for law, expected in ((steep_p(), -3.5183), (pid(), -3.75)):
        settled = []
        law.reset(1)
        measurement = plant.reset()
        for _ in range(2000):
            measurement = plant.step(law.act(measurement))
            settled.append(plant.true_temperature[0])
        # P: 0.98 (T - 1.5 (T + 3.75)) + 0.3 = T; the median leaves the open doors out
        assert np.median(settled) == pytest.approx(expected, abs=0.02)


def test_raw_deadbeat_is_deadbeat_with_either_door() -> None:
    temperature = np.array([3.0, -1.0, 0.5, 3.0, -1.0, 0.5])
    door = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    power = raw_deadbeat().act(np.stack([temperature, door], axis=1))[:, 0]
    np.testing.assert_allclose(next_temperature(temperature, power, door), -2.0, atol=1e-12)


def test_the_gain_found_is_no_worse_than_its_neighbours() -> None:
    gain = best_linear_gain()
    assert 0.2 < gain < 0.4
    means = {g: score(LinearLaw(g), REFRIGERATOR, seed=SCORE_SEED, copies=30).mean for g in (gain, 0.18, 0.4, 0.7)}
    assert min(means, key=lambda g: means[g]) == gain
    assert SEARCH_SEED != SCORE_SEED


def test_with_process_noise_deadbeat_is_the_best_linear_law() -> None:
    """An exact sensor leaves nothing to filter, and then the gain of 1 is known to be optimal."""
    assert best_linear_gain(noise="process", steps=500) == pytest.approx(1.0, abs=0.02)


def test_kalman_is_the_mean_of_all_measurements_where_nothing_leaks() -> None:
    """Where the plant stands still, the filter must be the plain average of what was seen."""
    params = RefrigeratorParams(leak_shut_per_s=0.0, leak_open_per_s=0.0, power_high=0.0)
    law = KalmanDeadbeat(noise_scale=0.5, params=params)
    rng = np.random.default_rng(0)
    seen = 4.0 + 0.5 * rng.standard_normal((30, 8))  # (T, B)
    law.reset(8)
    for step, row in enumerate(seen, start=1):
        law.act(np.stack([row, np.zeros(8)], axis=1))
        np.testing.assert_allclose(law.estimate_c, seen[:step].mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(law.variance, 0.25 / step, rtol=1e-12)


def test_kalman_is_least_squares_of_the_whole_past() -> None:
    """The plant is exact, so every temperature is share x start + offset: fitting the start to all measurements at
    once, and carrying the fit forward, must give the filter's estimate and variance."""
    copies, steps, scale = 4, 60, 0.3
    plant = VectorRefrigerator(copies, np.random.default_rng(4), noise_scale=scale)
    law = KalmanDeadbeat(noise_scale=scale)
    law.reset(copies)
    measurement = plant.reset()
    share, offset = np.ones(copies), np.zeros(copies)
    weighted, squares = np.zeros(copies), np.zeros(copies)
    for _ in range(steps):
        weighted += share * (measurement[:, 0] - offset)
        squares += share**2
        command = law.act(measurement)
        offset = next_temperature(offset, command[:, 0], plant.door)
        share = share * np.where(plant.door == 1, 0.92, 0.98)
        np.testing.assert_allclose(law.estimate_c, share * weighted / squares + offset, atol=1e-10)
        np.testing.assert_allclose(law.variance, share**2 * scale**2 / squares, rtol=1e-10)
        measurement = plant.step(command)


@pytest.mark.parametrize("noise", ["process", "none"])
def test_kalman_believes_an_exact_sensor(noise: Any) -> None:
    law = KalmanDeadbeat(noise=noise)
    law.reset(4)
    frames = np.stack([np.random.default_rng(0).normal(0, 3, 4), np.array([0.0, 1.0, 0.0, 1.0])], axis=1)
    for _ in range(3):
        np.testing.assert_allclose(law.act(frames), raw_deadbeat().act(frames), atol=1e-12)


def test_references_need_the_door() -> None:
    for law in (raw_deadbeat(), KalmanDeadbeat()):
        law.reset(2)
        with pytest.raises(ControlkitError, match="needs the door, which is hidden"):
            law.act(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("operator", 0.29, 0.40),
        ("raw_deadbeat", 0.076, 0.081),
        ("best_memoryless", 0.043, 0.047),
        ("kalman", 0.0010, 0.0030),
    ],
)
def test_what_is_possible(name: str, low: float, high: float) -> None:
    """Mean |T + 2| of the true temperature, 50 simulations of 2000 steps, sensor noise 0.1, door seen."""
    result = score(name, REFRIGERATOR, seed=SCORE_SEED)
    assert result.cost.shape == (50,)
    assert low < result.mean < high
    assert result.stderr < 0.05 * result.mean or name == "kalman"
    assert not result.limit_violations.any()


def test_the_start_does_not_count_and_the_end_does() -> None:
    """One step at full power from 10 degC with the door shut or open: (10 - 10) 0.98 + 0.3, or 0.92 and 1.2."""

    class FullPower:
        def reset(self, batch: int) -> None:
            self.batch = batch

        def act(self, measurement: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            assert len(measurement) == self.batch
            return np.full((len(measurement), 1), 10.0)

    cost = score(FullPower(), REFRIGERATOR, seed=0, copies=4000, steps=1).cost
    assert {round(float(c), 9) for c in cost} == {2.3, 3.2}


def test_scores_repeat_and_controllers_meet_the_same_plant() -> None:
    first, second = (score("operator", REFRIGERATOR, seed=5, copies=4, steps=100) for _ in range(2))
    np.testing.assert_array_equal(first.cost, second.cost)
    other = score("operator", REFRIGERATOR, seed=6, copies=4, steps=100)
    assert (first.cost != other.cost).all()
    # Deadbeat by name and by hand: the same plant, so the same numbers.
    named = score("raw_deadbeat", REFRIGERATOR, seed=5, copies=4, steps=100)
    np.testing.assert_array_equal(named.cost, score(LinearLaw(1.0), REFRIGERATOR, seed=5, copies=4, steps=100).cost)


def test_violations_of_the_limits_are_counted() -> None:
    class Wild:
        def __init__(self) -> None:
            self.time = 0

        def reset(self, batch: int) -> None:
            self.time = 0

        def act(self, measurement: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            self.time += 1
            wild = {1: -0.5, 2: 10.0, 3: 10.001}.get(self.time, 0.0)
            return np.array([[wild], [0.0]])

    result = score(Wild(), REFRIGERATOR, seed=0, copies=2, steps=4)
    np.testing.assert_array_equal(result.limit_violations, [2, 0])


def test_mean_and_standard_error() -> None:
    result = ClosedLoop(np.array([1.0, 2.0, 3.0, 6.0]), np.zeros(4, dtype=np.int64), 10, np.full(4, 10))
    assert result.mean == 3.0
    assert result.stderr == pytest.approx(np.sqrt((4 + 1 + 0 + 9) / 3) / 2)
    assert np.isnan(ClosedLoop(np.array([1.0]), np.zeros(1, dtype=np.int64), 10, np.full(1, 10)).stderr)


def test_unknown_names_and_numbers_say_so() -> None:
    with pytest.raises(ControlkitError) as raised:
        get_task("refridgerator")
    assert str(raised.value) == "unknown task 'refridgerator'. did you mean 'refrigerator'?"
    with pytest.raises(ControlkitError, match=r"task refrigerator: unknown controller 'kalmann'.*'kalman'"):
        score("kalmann", REFRIGERATOR, seed=0)
    with pytest.raises(ControlkitError, match="the seed -1 is negative"):
        score("kalman", REFRIGERATOR, seed=-1)
    with pytest.raises(ControlkitError, match="0 steps cannot be scored"):
        score("kalman", REFRIGERATOR, seed=0, steps=0)


def test_the_tasks_lists_name_its_controllers() -> None:
    task = get_task("refrigerator")
    assert {task.behaviour, *task.test_controllers, *task.references} == set(task.controllers)
    assert task.spec().name == "refrigerator"
