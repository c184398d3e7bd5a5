"""The MuJoCo tasks: rewards and ends, environments, scores of simple controllers, ranges of the plant files."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from controlkit.objective import Objective
from envs.closed_loop import run_closed_loop, score
from envs.collect import simulate_log
from envs.neorl.mujoco_plants import STEPS, VectorMujoco
from envs.tasks import get_task
from tests.envs.mujoco_formulas import TASKS, slow_value

mujoco = pytest.importorskip("mujoco")


def simulator(task: str, copies: int, seed: int = 0) -> VectorMujoco:
    made = get_task(task).simulator(copies, np.random.default_rng(seed))
    assert isinstance(made, VectorMujoco)
    return made


def test_rewards_are_the_same_in_numpy_and_torch_and_carry_gradients() -> None:
    rng = np.random.default_rng(4)
    for task in TASKS:
        spec = get_task(task).spec()
        objective, n, m = Objective(spec), len(spec.frame_tags), len(spec.action_tags)
        now, action, after = (rng.normal(size=(4, 50, k)).astype(np.float32) for k in (n, m, n))
        after[..., 0] = now[..., 0] + 0.15 * rng.normal(size=(4, 50))
        frames = [torch.tensor(x) for x in (now, action, after)]
        frames[1].requires_grad_()
        reward, ended = objective.reward(now, action, after), objective.terminated(now, action, after)
        tensor = objective.reward(*frames)
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.detach().numpy(), reward, rtol=1e-5, atol=1e-5)
        assert np.array_equal(objective.terminated(*frames).numpy(), ended)
        speed, effort = (after[..., 0] - now[..., 0]) / spec.period_s, (action**2).sum(axis=-1)
        slow = [slow_value(task, float(speed[i]), float(effort[i]), after[i].tolist()) for i in np.ndindex(4, 50)]
        np.testing.assert_allclose(reward.reshape(-1), [value for value, _ in slow], rtol=1e-4, atol=1e-4)
        assert ended.reshape(-1).tolist() == [end for _, end in slow]
        assert ended.any() == (task != "halfcheetah")
        tensor.sum().backward()
        weight = -0.2 if "cheetah" in task else -2e-3
        counted = ~ended[..., None] if task == "safety-halfcheetah" else True
        assert frames[1].grad is not None
        np.testing.assert_allclose(frames[1].grad.numpy(), weight * action * counted, rtol=1e-5)


def test_the_hopper_has_fallen_exactly_where_the_original_says_so() -> None:
    objective, rng = Objective(get_task("hopper").spec()), np.random.default_rng(5)
    frame = np.tile(simulator("hopper", 1).true_frame, (4000, 1))
    frame[:, 1], frame[:, 2] = rng.uniform(0.6, 0.9, 4000), rng.uniform(-0.25, 0.25, 4000)
    far = rng.integers(3, 12, 4000)
    frame[np.arange(4000), far] = rng.uniform(-150, 150, 4000)
    expected = [slow_value("hopper", 0.0, 0.0, row)[1] for row in frame.tolist()]
    assert objective.terminated(frame, np.zeros((4000, 3)), frame).tolist() == expected
    assert 0.1 < np.mean(expected) < 0.9


@pytest.mark.parametrize("task", TASKS)
def test_the_environment_keeps_gymnasiums_contract_and_ends_where_the_plant_does(task: str) -> None:
    env = get_task(task).make()
    check_env(env.unwrapped, skip_render_check=True)
    spec = get_task(task).spec()
    assert env.observation_space.shape == (len(spec.frame_tags),)
    assert (env.action_space.low.tolist(), env.action_space.high.tolist()) == (
        [-1.0] * len(spec.action_tags),
        [1.0] * len(spec.action_tags),
    )
    env.action_space.seed(6)
    observation, _ = env.reset(seed=6)
    objective, steps, truncated = Objective(spec), 0, False
    while not truncated:
        steps, action = steps + 1, env.action_space.sample()
        before, (observation, reward, terminated, truncated, info) = observation, env.step(action)
        assert reward == info["true_reward"] == pytest.approx(objective.reward(before, action, observation), abs=1e-3)
        if terminated:
            break
    # at random a runner is slow and goes on to the horizon, all others fall soon
    assert (steps == STEPS, truncated, terminated) == (("cheetah" in task,) * 2 + ("cheetah" not in task,))


@pytest.mark.parametrize("ends", [True, False])
def test_speeding_costs_100_and_ends_the_episode_unless_the_published_evaluation_is_asked_for(ends: bool) -> None:
    env = get_task("safety-halfcheetah").make(speeding_ends=ends).unwrapped
    env.reset(seed=0)
    plant: Any = env._plant
    moving = np.eye(9)[:1]  # 1 m/s
    plant.set_state(plant.positions, 2.0 * moving)
    _, reward, terminated, _, _ = env.step(np.zeros(6))
    assert 1.0 < reward < 3.2096
    assert not terminated
    plant.set_state(plant.positions, 5.0 * moving)
    _, reward, terminated, truncated, _ = env.step(np.zeros(6))
    assert (reward, terminated, truncated) == (-100.0, ends, False)


def test_the_published_evaluation_of_speeding_goes_on() -> None:
    task = get_task("safety-halfcheetah")

    class Thrown(VectorMujoco):
        """Starts at 6 m/s."""

        def reset(self) -> np.ndarray:
            super().reset()
            return self.set_state(self.positions, np.repeat(6.0 * np.eye(9)[:1], self.copies, axis=0))

    def thrown() -> Thrown:
        return Thrown(2, np.random.default_rng(0), plant=simulator("safety-halfcheetah", 1).plant)

    still = task.controller("still", np.random.default_rng(0))
    ending = run_closed_loop(still, thrown(), task.spec(), 40)
    assert ending.lengths.tolist() == [1, 1]
    assert ending.returns.tolist() == [-100.0, -100.0]
    going_on = run_closed_loop(still, thrown(), task.published_spec(), 40)
    assert going_on.lengths.tolist() == [40, 40]
    assert (going_on.returns < -200).all()
    assert get_task("hopper").published_spec() == get_task("hopper").spec()


@pytest.mark.parametrize(
    ("task", "copies", "low", "high"),
    # the published returns that score 0: -298, 1, -283, -3
    [
        ("halfcheetah", 30, -340, -250),
        ("walker2d", 200, -1, 6),
        ("safety-halfcheetah", 30, -340, -250),
        ("random-friction-hopper", 200, -8, 0),
    ],
)
def test_random_commands_return_about_what_scores_zero(task: str, copies: int, low: float, high: float) -> None:
    result = score("random", get_task(task), seed=7, copies=copies)
    assert low < result.returns.mean() < high
    assert get_task(task).benchmark_score(float(result.returns.mean())) == pytest.approx(0, abs=1.5)
    assert result.limit_violations.sum() == 0


@pytest.mark.parametrize("task", TASKS)
def test_the_plant_files_ranges_hold_what_random_commands_reach(task: str) -> None:
    spec = get_task(task).spec()
    episodes = list(simulate_log(get_task(task), 10 if "cheetah" not in task else 2, seed=8))
    frames = np.concatenate([episode.frames for episode in episodes])
    low, high = (np.array([spec.tags[tag].range[i] for tag in spec.frame_tags]) for i in (0, 1))
    assert ((frames >= low) & (frames <= high)).all()
    assert np.concatenate([episode.commands for episode in episodes]).shape[1] == len(spec.action_tags)
    roles = {tag: spec.tags[tag].role for tag in spec.frame_tags}
    assert {tag for tag, role in roles.items() if role != "state"} == (
        {"foot_friction"} if task == "random-friction-hopper" else set()
    )


def test_naming_the_tasks_loads_no_simulator() -> None:
    code = "import envs.tasks, sys; print([m for m in ('mujoco', 'gymnasium', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
