"""RocketRecovery: Newton's laws, gymnasium's lander in the air, falls, crashes, landings, rewards step by step."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from controlkit.errors import ControlkitError
from controlkit.ingest import ingest
from controlkit.objective import Objective
from envs.closed_loop import score
from envs.collect import collect
from envs.neorl import flow_rewards
from envs.neorl.rocket import DEFAULT_PARAMS, FRAME_TAGS, Rocket, VectorRocket, main_power, side_power, wind_at
from envs.neorl.rocket_controllers import MASS_KG, Descent
from envs.tasks import get_task

box2d = pytest.importorskip("Box2D", reason="needs controlkit[neorl]")


def bodies(rocket: Rocket) -> list[Any]:
    return [rocket.hull, *rocket.legs]


def whole(rocket: Rocket, what: str) -> np.ndarray:
    """(2,) of the centre of mass of hull and legs: `worldCenter` or `linearVelocity`."""
    total = sum(body.mass for body in bodies(rocket))
    return sum(body.mass * np.array(getattr(body, what)) for body in bodies(rocket)) / total


def test_its_centre_of_mass_moves_as_newton_says() -> None:
    rng, force = np.random.default_rng(0), np.array([120.0, -60.0])
    rocket = Rocket(force, DEFAULT_PARAMS, box2d)
    mass = sum(body.mass for body in bodies(rocket))
    assert mass == pytest.approx(MASS_KG, abs=0.01)
    place, speed = whole(rocket, "worldCenter"), whole(rocket, "linearVelocity")
    for step in range(60):
        command, scatter, wind = rng.uniform(-1, 1, 2), rng.uniform(-1 / 30, 1 / 30, 2), 8.0 * math.sin(0.1 * step)
        tilt = rocket.hull.angle
        # Impulses along and across the body, one engine at a time, written out.
        up, right = np.array([-math.sin(tilt), math.cos(tilt)]), np.array([math.cos(tilt), math.sin(tilt)])
        impulse = np.zeros(2)
        if command[0] > 0:
            power = 0.5 + 0.5 * command[0]
            impulse += 13.0 * power * ((4 / 30 + 2 * scatter[0]) * up + scatter[1] * right)
        if abs(command[1]) > 0.5:
            power, sign = abs(command[1]), math.copysign(1.0, command[1])
            impulse += 0.6 * power * (scatter[0] * up + (3 * scatter[1] + sign * 12 / 30) * right)
        push = impulse + 0.02 * np.array([wind, -10.0 * mass]) + (0.02 * force if step == 0 else 0.0)
        speed = speed + push / mass
        place = place + 0.02 * speed
        rocket.step(command, scatter, wind)
        assert whole(rocket, "linearVelocity") == pytest.approx(speed, abs=1e-3), step
        assert whole(rocket, "worldCenter") == pytest.approx(place, abs=2e-3), step
    assert rocket.hull.position[1] > DEFAULT_PARAMS.ground_m + 1.0  # nothing has touched the ground


def lunar_lander() -> ModuleType:
    """gymnasium's module, read by its file: its package asks for pygame, which only drawing needs."""
    path = Path(gymnasium.__file__).parent / "envs" / "box2d" / "lunar_lander.py"
    if not path.is_file():
        pytest.skip("this gymnasium has no LunarLander")
    spec = importlib.util.spec_from_file_location("lunar_lander_alone", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_in_the_air_it_is_gymnasiums_lander(seed: int) -> None:
    module = lunar_lander()
    env = module.LunarLander(continuous=True, enable_wind=True, wind_power=10.0, turbulence_power=0.0)
    first, _ = env.reset(seed=seed)
    # The same draws again, in its order: terrain, start, winds, and in every step where the engines push.
    rng, _ = gymnasium.utils.seeding.np_random(seed)
    rng.uniform(0, 1, size=12)
    force = rng.uniform(-module.INITIAL_RANDOM, module.INITIAL_RANDOM, size=2)
    index = float(rng.integers(-9999, 9999))
    rng.integers(-9999, 9999)
    rocket, commands = Rocket(force, DEFAULT_PARAMS, box2d), np.random.default_rng(seed)
    command, theirs = np.zeros(2), first
    for step in range(50):
        scatter = rng.uniform(-1.0, 1.0, size=2) / 30
        ours = rocket.step(command, scatter, float(wind_at(np.array([index + step]))[0]))
        assert ours == pytest.approx(theirs[:6], abs=2e-5), step
        command = commands.uniform(-1, 1, 2)
        theirs = env.step(command)[0]
    assert theirs[1] > 0.3


@pytest.mark.parametrize(("angle", "reached"), [(0.0, 100.0), (1.2, -100.0)])
def test_without_thrust_it_falls_and_lands_or_crashes_by_its_angle(angle: float, reached: float) -> None:
    rocket = Rocket(np.zeros(2), DEFAULT_PARAMS, box2d)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    start = np.array(rocket.hull.position)
    for body in bodies(rocket):
        body.position, body.angle = (turn @ (np.array(body.position) - start) + start).tolist(), body.angle + angle
    still = {"main_engine": np.zeros(1), "side_engine": np.zeros(1), "wind": np.zeros(1)}
    shown, heights = rocket.step(np.zeros(2), np.zeros(2), 0.0), []
    for step in range(2, 200):
        before = dict(zip(FRAME_TAGS, np.array(shown)[:, None], strict=False)) | still
        shown = rocket.step(np.zeros(2), np.zeros(2), 0.0)
        after = dict(zip(FRAME_TAGS, np.array(shown)[:, None], strict=False)) | still
        if flow_rewards.rocket_landed(before, after)[0]:
            break
        heights.append(shown[1])
        if shown[1] > 0.3:
            assert whole(rocket, "linearVelocity") == pytest.approx([0.0, -10.0 * 0.02 * step], abs=2e-3)
    assert np.all(np.diff(heights) < 0)
    # A free fall from 9.4 m ends below 15 m/s: hard, and yet safe by the benchmark's formula if it is upright.
    assert flow_rewards.rocket_recovery(before, after).tolist() == [reached]


def test_a_positive_side_command_pushes_right_and_turns_clockwise() -> None:
    for sign in (1.0, -1.0):
        rocket = Rocket(np.zeros(2), DEFAULT_PARAMS, box2d)
        shown = [rocket.step(np.array([-1.0, sign]), np.zeros(2), 0.0) for _ in range(5)][-1]
        assert sign * shown[2] > 0
        assert sign * shown[4] < 0


def test_draws_do_not_depend_on_the_commands() -> None:
    def winds(command: float) -> list[np.ndarray]:
        plant = VectorRocket(3, np.random.default_rng(7))
        found = [plant.true_frame, *(plant.step(np.full((3, 2), command)) for _ in range(30))]
        return [frame[:, 6] for frame in found] + [plant.reset()]

    idle, full = winds(-1.0), winds(1.0)
    assert all(np.array_equal(a, b) for a, b in zip(idle, full, strict=True))
    wind = np.stack(idle[:-1])
    assert (np.abs(np.diff(wind, axis=0)) > 0).all()  # it always changes, and smoothly
    assert np.abs(np.diff(wind, axis=0)).max() < 0.6


def slow_reward(s: np.ndarray, a: np.ndarray, t: np.ndarray) -> float:
    """As in the benchmark's description, number by number."""
    if abs(t[1]) <= 0.05:
        return 100.0 if abs(t[4]) < 0.3 and abs(t[2]) < 0.5 and abs(t[3]) < 2 else -100.0

    def shaping(z: np.ndarray) -> float:
        return -100 * math.hypot(z[0], z[1]) - 100 * math.hypot(z[2], z[3]) - 100 * abs(z[4])

    main = (min(max(a[0], 0.0), 1.0) + 1.0) * 0.5 if a[0] > 0 else 0.0
    side = min(max(abs(a[1]), 0.5), 1.0) if abs(a[1]) > 0.5 else 0.0
    return shaping(t) - shaping(s) - 0.3 * main - 0.03 * side


def test_rewards_and_ends_follow_the_benchmarks_formula() -> None:
    rng, objective = np.random.default_rng(1), Objective(get_task("rocket-recovery").spec())
    now, after = (rng.uniform(-0.6, 0.6, (4000, 7)) for _ in range(2))
    after[:, 1] *= 0.3
    action = rng.uniform(-1.3, 1.3, (4000, 2))
    action[:5] = [[0, 0], [1e-9, 0.5], [-1, -0.5], [1, 1], [2, -2]]
    slow = [slow_reward(*step) for step in zip(now, action, after, strict=True)]
    reward = objective.reward(now, action, after)
    assert reward == pytest.approx(slow, abs=1e-9)
    assert sorted(set(np.sign(np.array(slow)[np.abs(after[:, 1]) <= 0.05]))) == [-1.0, 1.0]
    ended = objective.terminated(now, action, after)
    assert np.array_equal(ended, np.abs(after[:, 1]) <= 0.05)
    tensors = [torch.from_numpy(x.astype(np.float32)) for x in (now, action, after)]
    assert objective.reward(*tensors).numpy() == pytest.approx(reward, abs=1e-3)
    assert np.array_equal(objective.terminated(*tensors).numpy(), np.abs(after[:, 1].astype(np.float32)) <= 0.05)
    assert float(main_power(np.float64(0.0))) == 0.0
    assert float(side_power(np.float64(0.5))) == 0.0


@pytest.mark.parametrize(("name", "least", "most"), [("descent", 91, 100), ("operator", 60, 92)])
def test_hand_made_controllers_score_as_measured(name: str, least: float, most: float) -> None:
    task = get_task("rocket-recovery")
    result = score(name, task, seed=3, copies=40)
    assert least < task.benchmark_score(float(result.returns.mean())) < most
    assert result.lengths.max() < task.steps  # all come down


def test_the_environment_keeps_gymnasiums_contract_ends_and_is_cut() -> None:
    env = get_task("rocket-recovery").make()
    check_env(env.unwrapped, skip_render_check=True)
    controller, rewards = Descent(), []
    observation, _ = env.reset(seed=2)
    terminated = truncated = False
    while not (terminated or truncated):
        command = controller.act(observation[None].astype(np.float64))[0]
        observation, reward, terminated, truncated, _ = env.step(command)
        rewards.append(reward)
    assert terminated
    assert not truncated
    assert rewards[-1] == 100.0
    short = gymnasium.make("envs:controlkit/RocketRecovery-v0", horizon=7)
    short.reset(seed=2)
    assert [short.step(np.zeros(2, np.float32))[2:4] for _ in range(7)] == [(False, False)] * 6 + [(False, True)]


def test_a_log_ends_where_the_rocket_lands_and_is_ingested(tmp_path: Path) -> None:
    log = collect("rocket-recovery", tmp_path / "log.npz", episodes=4, seed=0)
    content = np.load(log.path)
    assert log.samples == len(content["obs"]) < 4 * 500
    ends = np.flatnonzero(content["terminated"])
    assert len(ends) == 4
    assert not content["truncated"].any()
    assert np.abs(content["next_obs"][ends, 1]).max() <= 0.05
    assert np.abs(np.delete(content["next_obs"][:, 1], ends)).min() > 0.05
    data = ingest(get_task("rocket-recovery").spec(), [log.path], None).dataset
    assert int(data.terminated.sum()) == 4
    assert set(np.abs(data.rewards[data.terminated])) == {100.0}
    cut = collect("rocket-recovery", tmp_path / "cut.npz", episodes=1, seed=0, steps=10)
    assert np.load(cut.path)["truncated"].tolist() == [False] * 9 + [True]


def test_bad_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlkitError, match="0 copies"):
        VectorRocket(0, np.random.default_rng(0))
    with pytest.raises(ControlkitError, match="step 0, copy 1, action 0"):
        VectorRocket(2, np.random.default_rng(0)).step(np.array([[0, 0], [np.nan, 0]]))
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ControlkitError, match=r"Box2D is not installed.*Install controlkit\[neorl\]"):
        VectorRocket(1, np.random.default_rng(0))
