"""One formula: known answers, numpy equal to torch for every term, limits that no rounding leaves."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import SpecError
from controlkit.objective import CommandLimits, Objective
from controlkit.spec import PlantSpec

TERMS: dict[str, dict[str, Any]] = {
    "track abs": {"kind": "track", "tag": "level", "setpoint": 1.5, "weight": 2},
    "track squared": {"kind": "track", "tag": "level", "setpoint": "goal", "error": "squared"},
    "cost value": {"kind": "cost", "tag": "valve", "weight": 0.5},
    "cost of a measured value": {"kind": "cost", "tag": "level", "weight": -0.5},
    "cost abs": {"kind": "cost", "tag": "level", "of": "abs"},
    "cost of a command's change": {"kind": "cost", "tag": "valve", "of": "change", "weight": 3},
    "cost of a measured change": {"kind": "cost", "tag": "level", "of": "change"},
    "range both": {"kind": "range", "tag": "level", "low": -0.5, "high": 0.5},
    "range low squared": {"kind": "range", "tag": "level", "low": 0.25, "error": "squared", "weight": 4},
    "range high": {"kind": "range", "tag": "level", "high": 0.25},
}


def plant(*terms: dict[str, Any], rate: float | None = None, limits=(-1.0, 1.0), **fields: Any) -> PlantSpec:
    valve = {"role": "action", "unit": "%", "range": [-1e9, 1e9], "limits": limits, "safe": limits[0], "history": 1}
    valve |= {"fallback": {"kind": "hold"}} | ({"max_rate_per_s": rate} if rate else {})
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 2,
            "tags": {
                "goal": {"role": "exogenous", "unit": "m", "range": [-5, 5]},
                "valve": valve,
                "pump": {"role": "action", "unit": "1", "range": [0, 1], "safe": 0, "fallback": {"kind": "hold"}},
                "level": {"role": "state", "unit": "m", "range": [-5, 5], "history": 1},
            },
            "objective": list(terms) or [TERMS["track abs"]],
            **fields,
        }
    )


def by_hand(name: str, obs: Any, act: Any, after: Any) -> float:
    """One row; the observation is (goal, level, level@-1, valve@-1), the frame (goal, level)."""
    goal, level, _, valve_before = obs
    goal_after, level_after = after
    outside = max(0.0, -0.5 - level_after) + max(0.0, level_after - 0.5)
    return {
        "track abs": -2 * abs(level_after - 1.5),
        "track squared": -((level_after - goal_after) ** 2),
        "cost value": -0.5 * act[0],
        "cost of a measured value": 0.5 * level_after,
        "cost abs": -abs(level_after),
        "cost of a command's change": -3 * abs(act[0] - valve_before),
        "cost of a measured change": -abs(level_after - level),
        "range both": -outside,
        "range low squared": -4 * max(0.0, 0.25 - level_after) ** 2,
        "range high": -max(0.0, level_after - 0.25),
        "function": 7 * (goal + act[1] - level_after),
    }[name]


@pytest.fixture
def function_term(tmp_path, monkeypatch):
    (tmp_path / "plant_rewards.py").write_text(
        "def profit(now, after):\n    return now['goal'] + now['pump'] - after['level']\n\n\nnot_callable = 3\n"
        "def surge(now, after):\n    return after['level'] - now['level'] > 1 + now['pump']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return {"kind": "function", "function": "plant_rewards:profit", "weight": 7}


@pytest.mark.parametrize("name", [*TERMS, "function"])
@pytest.mark.parametrize("shape", [(50,), (5, 10), ()])
def test_every_term_is_right_and_the_same_in_numpy_and_torch(name, shape, function_term):
    objective = Objective(plant(function_term if name == "function" else TERMS[name]))
    assert objective.layout.names == ("goal", "level", "level@-1", "valve@-1")
    rng = np.random.default_rng(2)
    obs, act, after = (rng.normal(size=(*shape, k)).astype(np.float32) for k in (4, 2, 2))
    reward = objective.reward(obs, act, after)
    assert reward.shape == shape
    rows = zip(obs.reshape(-1, 4), act.reshape(-1, 2), after.reshape(-1, 2), strict=True)
    np.testing.assert_allclose(reward.reshape(-1), [by_hand(name, *row) for row in rows], rtol=2e-5, atol=2e-6)
    tensor = objective.reward(torch.tensor(obs), torch.tensor(act), torch.tensor(after))
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), reward, rtol=1e-6, atol=1e-7)


def test_the_reward_is_the_sum_of_its_named_terms():
    objective = Objective(plant(TERMS["track abs"], TERMS["range both"], TERMS["track squared"]))
    assert objective.term_names == ("track level", "range level", "track level (2)")
    rng = np.random.default_rng(0)
    obs, act, after = rng.normal(size=(8, 4)), rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    terms = objective.terms(obs, act, after)
    assert tuple(terms) == objective.term_names
    np.testing.assert_allclose(objective.reward(obs, act, after), sum(terms.values()))


def test_the_reward_carries_gradients_to_the_action():
    objective = Objective(plant(TERMS["cost of a command's change"]))
    act = torch.tensor([[0.3, 0.0]], requires_grad=True)
    objective.reward(torch.zeros(1, 4), act, torch.zeros(1, 2)).sum().backward()
    assert act.grad is not None
    assert act.grad.tolist() == [[-3.0, 0.0]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "no_such_module:f' cannot be imported"),
        ("math:no_such_function", "math:no_such_function' cannot be imported"),
        ("plant_rewards:not_callable", "is not a function"),
    ],
)
def test_a_function_that_is_not_there_fails_before_any_work(function, message, function_term):
    with pytest.raises(SpecError, match=message):
        Objective(plant({"kind": "function", "function": function}))
    with pytest.raises(SpecError, match=f"trip's .*{message}"):
        Objective(plant(episodes={"terminated": [{"function": function}]}))


def test_trips_and_violations_are_the_same_in_numpy_and_torch():
    rules = [{"tag": "level", "below": -2}, {"tag": "level", "above": 3}, {"tag": "goal", "above": 4}]
    constraints = [{"tag": "level", "low": -1, "high": 2}]
    objective = Objective(plant(episodes={"terminated": rules}, constraints=constraints))
    frames = np.array([[0, -2.5], [0, -2], [5, 0], [0, 3.5], [np.nan, 0], [0, np.nan]], dtype=np.float32)
    expected = [True, False, True, True, False, False]
    now, action = np.zeros((6, 4), dtype=np.float32), np.zeros((6, 2), dtype=np.float32)
    assert objective.terminated(now, action, frames).tolist() == expected
    assert objective.terminated(torch.tensor(now), torch.tensor(action), torch.tensor(frames)).tolist() == expected
    outside = objective.violations(frames[:4])["level"]
    assert outside.tolist() == [1.5, 1, 0, 1.5]
    assert objective.violations(torch.tensor(frames[:4]))["level"].tolist() == outside.tolist()
    assert not Objective(plant()).terminated(now[:2], action[:2], np.full((2, 2), np.nan)).any()


@pytest.mark.usefixtures("function_term")
def test_a_function_sees_the_step_that_trips_the_plant():
    rules = [{"function": "plant_rewards:surge"}, {"tag": "level", "above": 3}]
    objective = Objective(plant(episodes={"terminated": rules}))
    # observation: goal, level, level@-1, valve@-1; action: valve, pump; frame: goal, level
    now = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9], [0, 2.5, 9, 9], [0, np.nan, 9, 9]], dtype=np.float32)
    action = np.array([[9, 0], [9, 0], [9, 1], [9, 1], [9, 0]], dtype=np.float32)
    after = np.array([[9, 1], [9, 1.5], [9, 1.5], [9, 3.5], [9, 0]], dtype=np.float32)
    expected = [False, True, False, True, False]
    assert objective.terminated(now, action, after).tolist() == expected
    assert objective.terminated(now[:, :2], action, after).tolist() == expected  # the frame alone is enough
    tensors = [torch.tensor(x).reshape(5, 1, -1) for x in (now, action, after)]
    assert objective.terminated(*tensors).tolist() == [[one] for one in expected]


@pytest.mark.usefixtures("function_term")
def test_rows_of_a_log_trip_by_their_values_and_by_the_steps_that_led_to_them():
    rules = [{"function": "plant_rewards:surge"}, {"tag": "level", "above": 3}]
    objective = Objective(plant(episodes={"terminated": rules}))
    level = np.array([3.5, 0, 1.5, 0, 1.5, 1.5], dtype=np.float32)
    frames, actions = np.stack([np.zeros(6, np.float32), level], axis=1), np.zeros((6, 2), dtype=np.float32)
    everywhere = np.ones(5, dtype=np.bool_)
    assert objective.tripped_rows(frames, actions, everywhere).tolist() == [True, False, True, False, True, False]
    cut = np.array([True, False, True, True, True])  # an episode begins in row 2
    assert objective.tripped_rows(frames, actions, cut).tolist() == [True, False, False, False, True, False]
    assert objective.tripped_rows(frames[:1], actions[:1], cut[:0]).tolist() == [True]


# Limits ---------------------------------------------------------------------------------------------------------------

ends = st.floats(-1e6, 1e6).flatmap(lambda low: st.tuples(st.just(low), st.floats(low + 2, low + 2e6)))


@given(ends, st.floats(1e-6, 1e6))
def test_limits_are_rounded_inward(interval, rate):
    limits = CommandLimits(plant(limits=interval, rate=rate))
    low, high = (Fraction(bound) for bound in interval)
    assert low <= Fraction(float(limits.low[0])) < Fraction(float(limits.high[0])) <= high
    assert Fraction(float(limits.max_step[0])) <= Fraction(rate) * 2
    # And to the very next number: the one beyond would be outside.
    assert Fraction(float(np.nextafter(limits.low[0], np.float32(-np.inf)))) < low
    assert Fraction(float(np.nextafter(limits.high[0], np.float32(np.inf)))) > high
    assert (limits.low[1], limits.high[1], limits.max_step[1]) == (0, 1, np.inf)


@pytest.mark.parametrize("rate", [None, 0.1])
def test_clamp_and_rate_limit_are_the_same_in_numpy_and_torch(rate):
    limits = CommandLimits(plant(rate=rate))
    rng = np.random.default_rng(1)
    action = rng.normal(0, 3, size=(200, 2)).astype(np.float32)
    obs = rng.uniform(-1, 1, size=(200, 4)).astype(np.float32)
    given = limits.apply(action, obs)
    step = np.inf if rate is None else limits.max_step[0]
    np.testing.assert_array_equal(
        given[:, 0], np.clip(np.clip(action[:, 0], obs[:, 3] - step, obs[:, 3] + step), -1, 1)
    )
    np.testing.assert_array_equal(given[:, 1], np.clip(action[:, 1], 0, 1))
    assert limits.apply(torch.tensor(action), torch.tensor(obs)).numpy().tobytes() == given.tobytes()
    assert np.unique(given[:, 0]).size > 2


def test_the_absolute_limit_wins_over_the_rate():
    limits = CommandLimits(plant(rate=0.1))
    outside = np.array([[0, 0, 0, 5.0]], dtype=np.float32)
    assert limits.apply(np.array([[5.0, 0.0]], dtype=np.float32), outside)[0, 0] == 1
