"""The PID against a slow loop and against a plant whose best gains are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import build_models
from controlkit.baselines.pid import Loop, PIDPolicy
from controlkit.baselines.pid_tuning import Tuning, tune_pid
from controlkit.errors import DataError, SpecError
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.layout import Layout
from controlkit.morec.dynamics import WorldModel, fit_dynamics
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from deploy.export.fallback import FallbackStage, Situation
from tests import small_plant

# level' - level = 0.9 (level - last) + 0.5 (valve - last) for a constant load: the next level is the setpoint where
# the valve moves by -(0.9 (e - e_1) + e) / 0.5, which is a velocity PI with these settings.
BEST_GAIN, BEST_RESET_S = -0.9 / 0.5, 0.9


def plant(gain: float = -0.3, reset_time_s: float = 8.0, history: int = 2, **changes: Any) -> PlantSpec:
    content = small_plant.spec(history, **changes).to_dict()
    pi = {"kind": "pi", "measured": "level", "setpoint": 1.0, "gain": gain, "reset_time_s": reset_time_s}
    content["tags"]["valve"]["fallback"] = pi
    return PlantSpec.from_dict(content)


def exact_world(spec: PlantSpec) -> tuple[WorldModel, LoggedTransitions]:
    """A world model that is the plant itself: its linear path is fitted in closed form on a noise-free log."""
    log = LoggedTransitions(small_plant.dataset(spec))
    config = small_plant.config(dynamics={"hidden": []})
    generator = torch.Generator().manual_seed(0)
    models = build_models(config, spec, generator)
    fit_dynamics(models.dynamics, log, config.dynamics, config.scaling, CommandLimits(spec), generator, Silent())
    return WorldModel(models.dynamics, spec), log


def test_the_law_is_the_edge_fallbacks() -> None:
    spec = plant(-0.7, 3.0)
    rng = np.random.default_rng(0)
    clone = build_models(small_plant.config(), spec, torch.Generator().manual_seed(0)).behaviour
    policy, edge = PIDPolicy(spec), FallbackStage(spec, clone, blind_ramp_s=60.0)
    layout = LoggedTransitions(small_plant.dataset(spec)).layout
    observation = torch.from_numpy(rng.normal(size=(50, layout.size)).astype(np.float32))
    ones = torch.ones(50, 2, dtype=torch.bool)
    last = observation[:, [layout.index("valve@-1")]]
    error = observation[:, [layout.index("level@-1")]] - 1.0
    now = Situation(
        frame=observation[:, :2],
        usable=ones,
        reference=last,
        dt=torch.ones(50, 1),
        observation=observation,
        whole=ones[:, :1],
    )
    expected = edge(now, error, ones[:, :1]).wish
    torch.testing.assert_close(policy(observation), expected)


def test_the_derivative_part_and_a_setpoint_tag_against_a_slow_loop() -> None:
    content = plant().to_dict()
    content["tags"]["valve"]["fallback"]["setpoint"] = "load"
    content["period_s"] = 2
    spec = PlantSpec.from_dict(content)
    policy = PIDPolicy(spec, [Loop("valve", -0.5, 4.0, 0.25)])
    layout = LoggedTransitions(small_plant.dataset(spec)).layout
    observation = torch.randn(6, layout.size, generator=torch.Generator().manual_seed(0))
    at = layout.index
    for row, mine in zip(observation.tolist(), policy(observation)[:, 0].tolist(), strict=True):
        e, e1, e2 = (row[at(f"level{lag}")] - row[at(f"load{lag}")] for lag in ("", "@-1", "@-2"))
        change = (e - e1) + e * 2 / 4 + 0.25 * (e - 2 * e1 + e2) / 2
        assert mine == pytest.approx(row[at("valve@-1")] - 0.5 * change, abs=1e-5)


def test_tuning_recovers_the_best_gains_of_a_first_order_plant() -> None:
    spec = plant()
    world, log = exact_world(spec)
    tuned = tune_pid(world, log, Tuning(), torch.Generator().manual_seed(0), Silent())
    (loop,) = tuned.policy.loops
    assert loop.gain == pytest.approx(BEST_GAIN, rel=0.1)
    assert loop.reset_time_s == pytest.approx(BEST_RESET_S, rel=0.1)
    known = tune_pid(*exact_world(plant(BEST_GAIN, BEST_RESET_S)), Tuning(generations=1), generator(), Silent())
    assert tuned.reward == pytest.approx(known.reward_before, rel=0.03)
    assert tuned.reward_before < 2 * tuned.reward < 0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sensor_noise_asks_for_slower_integration() -> None:
    world, log = exact_world(plant())
    residuals = 0.5 * torch.randn(500, 1, generator=generator())
    noisy = tune_pid(world, log, Tuning(), generator(), Silent(), residuals)
    (loop,) = noisy.policy.loops
    assert 0 < -loop.gain / loop.reset_time_s < 0.5 * -BEST_GAIN / BEST_RESET_S


def test_rewards_are_those_of_a_slow_rollout_of_the_plant() -> None:
    spec = plant()
    world, log = exact_world(spec)
    tuned = tune_pid(world, log, Tuning(starts=4, horizon=25, generations=1, population=6), generator(5), Silent())
    rows = log.rows[log.remaining[log.rows] >= 25]
    drawn = rows[torch.randint(len(rows), (4,), generator=generator(5))]
    rewards = []
    for row in drawn.tolist():
        level, before, valve = (float(x) for x in (log.frames[row, 0], log.frames[row - 1, 0], log.actions[row - 1, 0]))
        for step in range(25):
            change = (level - before) + (level - 1) / 8
            valve = min(max(valve - 0.3 * change, -2.0), 2.0)
            before, level = level, small_plant.next_level(level, valve, float(log.frames[row + step, 1]))
            rewards.append(-abs(level - 1))
    assert tuned.reward_before == pytest.approx(float(np.mean(rewards)), abs=0.01)


def test_it_is_a_policy_that_the_evaluation_takes() -> None:
    spec = plant()
    log = LoggedTransitions(small_plant.dataset(spec))
    observation = log.observe(log.rows[:20])
    policy = PIDPolicy(spec)
    evaluated = EvaluatedPolicy("pid", policy)
    applied = command(evaluated, observation, torch.zeros(20, 1), CommandLimits(spec))
    torch.testing.assert_close(applied, CommandLimits(spec).apply(policy(observation), observation))
    again = PIDPolicy.from_dict(spec, policy.to_dict())
    torch.testing.assert_close(again(observation), policy(observation))


def test_an_actuator_without_a_loop_holds() -> None:
    content = plant().to_dict()
    valve = content["tags"]["valve"]
    content["tags"]["vent"] = valve | {"fallback": {"kind": "hold"}, "safe": 0.5}
    content["tags"]["drain"] = valve | {"fallback": {"kind": "hold"}, "safe": 0.25, "history": 0}
    spec = PlantSpec.from_dict(content)
    policy = PIDPolicy(spec)
    layout = Layout.from_spec(spec)
    observation = torch.randn(5, layout.size, generator=generator())
    found = policy(observation)
    torch.testing.assert_close(found[:, 1], observation[:, layout.index("vent@-1")])
    assert found[:, 2].tolist() == [0.25] * 5


def test_what_a_loop_needs_is_named() -> None:
    with pytest.raises(SpecError, match="no actuator has a fallback of kind 'pi'"):
        PIDPolicy(small_plant.spec())
    with pytest.raises(SpecError, match=r"needs 'level@-2'.*Give 'level' a history of 2"):
        PIDPolicy(plant(history=1), [Loop("valve", 1.0, 1.0, 1.0)])
    with pytest.raises(SpecError, match=r"needs 'level@-1'"):
        PIDPolicy(plant(history=0))
    with pytest.raises(SpecError, match=r"tags.vlave: has no fallback"):
        PIDPolicy(plant(), [Loop("vlave", 1.0, 1.0)])


def test_a_log_of_single_steps_is_refused() -> None:
    spec = plant()
    world, _ = exact_world(spec)
    short = LoggedTransitions(small_plant.dataset(spec, episodes=40, steps=3))
    with pytest.raises(DataError, match="no episode is long enough"):
        tune_pid(world, short, Tuning(), generator(), Silent())
