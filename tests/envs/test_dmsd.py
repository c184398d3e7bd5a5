"""DMSD: a slow, obvious simulation, the released data, the scores of the hand-made controllers."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from controlkit.errors import ControlkitError
from controlkit.objective import Objective
from envs.closed_loop import score
from envs.neorl.dmsd import DEFAULT_PARAMS, VectorDmsd, holding_command, next_state
from envs.tasks import get_task
from tests.data_files import data_file


def slow_step(x: list[float], v: list[float], force: list[float]) -> tuple[list[float], list[float]]:
    """One mass at a time: wall - spring - mass 1 - spring - mass 2 - spring - wall."""
    k, c, m, dt = 2.0, 4.0, 20.0, 0.2
    middle = k * (x[1] - x[0]) + c * (v[1] - v[0])  # pulls mass 1 to the right, mass 2 to the left
    pulls = [-k * x[0] - c * v[0] + middle + force[0], -k * x[1] - c * v[1] - middle + force[1]]
    return [x[i] + dt * v[i] for i in (0, 1)], [v[i] + dt * pulls[i] / m for i in (0, 1)]


def test_it_moves_like_two_masses_on_springs() -> None:
    rng = np.random.default_rng(0)
    state, command = rng.normal(size=(50, 4)), rng.uniform(-1.5, 1.5, size=(50, 2))
    moved = next_state(state, command)
    for one, action, after in zip(state, command, moved, strict=True):
        force = [30.0 * min(1.0, max(-1.0, float(a))) for a in action]
        x, v = slow_step([float(i) for i in one[:2]], [float(i) for i in one[2:]], force)
        assert after == pytest.approx([*x, *v], abs=1e-12)


def test_the_holding_command_holds() -> None:
    target = np.random.default_rng(1).uniform(-1.5, 1.5, size=(20, 2))
    state = np.concatenate([target, np.zeros_like(target)], axis=1)
    assert next_state(state, holding_command(target)) == pytest.approx(state, abs=1e-12)


def test_targets_change_once_at_most_in_the_middle_and_ignore_the_actions() -> None:
    def targets(command: float) -> np.ndarray:
        plant = VectorDmsd(400, np.random.default_rng(2))
        found = [plant.reset()[:, 4:]]
        for _ in range(plant.params.steps):
            found.append(plant.step(np.full((400, 2), command))[:, 4:])
        return np.stack(found)

    idle = targets(0.0)
    changed = (np.diff(idle, axis=0) != 0).any(axis=(1, 2))
    assert np.flatnonzero(changed).tolist() == [49]  # the step from 49 to 50
    share = (idle[49] != idle[50]).mean(axis=0)
    assert share == pytest.approx([0.5, 0.5], abs=0.08)
    assert np.array_equal(idle, targets(1.0))


def test_released_transitions_and_rewards_are_reproduced() -> None:
    data = np.load(data_file("neorl2/DMSD-train.npz"))
    observation, action, following = (data[name].astype(np.float64) for name in ("obs", "action", "next_obs"))
    assert np.abs(next_state(observation[:, :4], action) - following[:, :4]).max() < 1e-6  # float32 near 2
    spec = get_task("dmsd").spec()
    reward = Objective(spec).reward(observation, action, following)
    assert np.abs(reward - data["reward"]).max() < 2e-6
    # Targets never react: they change at the same step of every episode, and as often under any action.
    change = (following[:, 4:] != observation[:, 4:]).reshape(1000, 100, 2)
    assert np.flatnonzero(change.any(axis=(0, 2))).tolist() == [49]
    start = observation[::100]
    assert np.abs(start[:, :2]).max() <= DEFAULT_PARAMS.start_position_m
    assert np.abs(start[:, 2:4]).max() <= DEFAULT_PARAMS.start_velocity_m_per_s


def test_replayed_commands_reproduce_the_recorded_episodes() -> None:
    data = np.load(data_file("neorl2/DMSD-train.npz"))
    observation, action, following, recorded = (
        data[name].astype(np.float64).reshape(1000, 100, -1) for name in ("obs", "action", "next_obs", "reward")
    )
    objective, state = Objective(get_task("dmsd").spec()), observation[:, 0, :4]
    for step in range(100):
        before = np.concatenate([state, observation[:, step, 4:]], axis=1)
        state = next_state(state, action[:, step])
        after = np.concatenate([state, following[:, step, 4:]], axis=1)  # targets as recorded
        assert np.abs(after - following[:, step]).max() < 1e-3, step
        reward = objective.reward(before, action[:, step], after)
        assert np.abs(reward - recorded[:, step, 0]).max() < 1e-3, step


@pytest.mark.parametrize(
    ("name", "least", "most"), [("pd", 96.5, 98.5), ("braking", 99.0, 100.5), ("operator", 40, 70)]
)
def test_hand_made_controllers_score_as_documented(name: str, least: float, most: float) -> None:
    task = get_task("dmsd")
    result = score(name, task, seed=3, copies=400)
    assert least < task.benchmark_score(-result.mean * result.steps) < most
    assert result.limit_violations.sum() == 0


def test_the_environment_keeps_gymnasiums_contract_and_steps_the_same_plant() -> None:
    env = get_task("dmsd").make()
    check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=5)
    state, ends = observation[None, :4].astype(np.float64), []
    for _ in range(100):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        state = next_state(state, action[None].astype(np.float64))
        ends.append((terminated, truncated))
        assert observation[:4] == pytest.approx(state[0], abs=1e-5)
        assert info["true_reward"] == reward
    assert ends == [(False, False)] * 99 + [(False, True)]
    assert gymnasium.make("envs:controlkit/DMSD-v0").action_space == env.action_space


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ControlkitError, match="0 copies"):
        VectorDmsd(0, np.random.default_rng(0))
    with pytest.raises(ControlkitError, match="step 0, copy 1, action 0"):
        VectorDmsd(2, np.random.default_rng(0)).step(np.array([[0, 0], [np.nan, 0]]))
    with pytest.raises(ControlkitError, match="option 'start'"):
        get_task("dmsd").make().reset(options={"start": 1})
    with pytest.raises(ControlkitError, match="no published scale"):
        get_task("refrigerator").benchmark_score(1.0)
