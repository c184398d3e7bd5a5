"""Pipeline: a slow, obvious simulation, the released rows, a replay of recorded commands, the hand-made controllers."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.ingest import ingest
from controlkit.ingest.flat import flat_arrays
from controlkit.layout import Layout
from controlkit.objective import Objective
from envs.closed_loop import score
from envs.collect import collect
from envs.neorl import flow_rewards
from envs.neorl.pipeline import DEFAULT_PARAMS, VectorPipeline, next_pipe
from envs.neorl.pipeline_controllers import DeadTime
from envs.tasks import get_task
from tests.data_files import data_file


class SlowPipe:
    """One pipe, metre by metre: water enters at the gate, and five metres of it leave at the foot in a step."""

    def __init__(self, flow: float) -> None:
        self.gate, self.metres = flow, [flow] * 100

    def step(self, command: float) -> float:
        self.gate = min(200.0, max(0.0, self.gate + min(1.0, max(-1.0, command))))
        self.metres = [self.gate] * 5 + self.metres[:-5]
        return self.metres[-1]  # in double precision


def test_it_flows_like_a_pipe_and_saturates_like_a_gate() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(80, 120, 3)
    slow, pipe = [SlowPipe(float(flow)) for flow in start], np.repeat(start[:, None].astype(np.float32), 20, axis=1)
    # Drifts that drive one gate shut, one open, and beyond what a command can be.
    for command in rng.uniform(-1.5, 1.5, (600, 3)) + np.array([-0.8, 0.8, 0.0]):
        pipe = next_pipe(pipe, command)
        assert pipe[:, -1] == pytest.approx(
            [one.step(float(c)) for one, c in zip(slow, command, strict=True)], abs=2e-3
        )
    assert pipe[:2, 0] == pytest.approx([0.0, 200.0], abs=30.0)
    assert pipe.min() == 0.0
    assert pipe.max() == 200.0


def test_targets_change_on_their_own() -> None:
    def targets(command: float) -> np.ndarray:
        plant = VectorPipeline(500, np.random.default_rng(1))
        return np.stack([plant.reset()[:, 1], *(plant.step(np.full((500, 1), command))[:, 1] for _ in range(300))])

    idle = targets(0.0)
    assert np.array_equal(idle, targets(0.7))
    assert set(np.unique(idle)) == set(DEFAULT_PARAMS.targets)
    # A quarter of the draws comes out as before.
    assert (np.diff(idle, axis=0) != 0).mean() == pytest.approx(0.75 * DEFAULT_PARAMS.change, rel=0.15)
    assert [(idle[0] == target).mean() for target in DEFAULT_PARAMS.targets] == pytest.approx([0.25] * 4, abs=0.06)


@pytest.fixture(scope="module")
def released() -> dict[str, np.ndarray]:
    return {name: values.astype(np.float64) for name, values in np.load(data_file("neorl2/Pipeline-train.npz")).items()}


def test_the_layout_is_the_columns_of_the_released_file_in_their_order(tmp_path: Path) -> None:
    spec = get_task("pipeline").spec()
    lags = range(1, 26)
    assert Layout.from_spec(spec).names == (
        "flow", "target", *(f"flow@-{lag}" for lag in lags), *(f"gate@-{lag}" for lag in lags)
    )  # fmt: skip
    path = data_file("neorl2/Pipeline-train.npz")
    data = ingest(spec, [path], tmp_path / "data").dataset  # raises where a window or a reward is another
    assert len(data.transitions) == 100_000
    again, original = flat_arrays(data), np.load(path)
    for name in ("obs", "action", "next_obs"):
        assert np.array_equal(again[name], original[name]), name
    assert np.abs(again["reward"] - original["reward"].ravel()).max() < 2e-6


def test_released_rewards_follow_from_the_formula(released: dict[str, np.ndarray]) -> None:
    objective = Objective(get_task("pipeline").spec())
    following = released["next_obs"][:, :2]
    reward = objective.reward(released["obs"], released["action"], following)
    assert np.abs(reward - released["reward"].ravel()).max() < 2e-6
    in_torch = objective.reward(*(torch.from_numpy(x) for x in (released["obs"], released["action"], following)))
    assert np.array_equal(in_torch.numpy(), reward)


def test_replayed_commands_reproduce_the_recorded_episodes(released: dict[str, np.ndarray]) -> None:
    observation, action, following, recorded = (
        released[name].reshape(100, 1000, -1) for name in ("obs", "action", "next_obs", "reward")
    )
    first = observation[:, 0]
    plant = VectorPipeline(100, np.random.default_rng(0))
    plant.pipe = np.repeat(first[:, :1].astype(np.float32), DEFAULT_PARAMS.cells, axis=1)
    assert np.abs(first[:, 2:27] - first[:, :1]).max() == 0.0  # a pipe in which every metre flows alike
    assert np.abs(first[:, 27:]).max() == 0.0
    assert first[:, 0].min() >= DEFAULT_PARAMS.start_flow[0]
    assert first[:, 0].max() <= DEFAULT_PARAMS.start_flow[1]
    flow = np.stack([plant.step(action[:, step])[:, 0] for step in range(1000)], axis=1)  # (100, 1000)
    assert np.abs(flow - following[:, :, 0]).max() < 1e-3
    rewards = flow_rewards.pipeline({}, {"flow": flow, "target": following[:, :, 1]})
    assert np.abs(rewards - recorded[:, :, 0]).max() < 1e-3
    # The whole observation, from the first one on: histories are made of these flows and of the commands.
    seen = np.concatenate([np.repeat(first[:, :1], 26, axis=1), flow], axis=1)  # (100, 1026) the oldest first
    for step in (0, 17, 500, 999):
        assert np.abs(seen[:, step + 1 : step + 26][:, ::-1] - following[:, step, 2:27]).max() < 1e-3
    changes = (following[:, :, 1] != observation[:, :, 1]).mean()
    assert changes == pytest.approx(0.75 * DEFAULT_PARAMS.change, rel=0.15)


@pytest.mark.parametrize(
    ("controller", "least", "most"),
    [("dead_time", 99, 106), (DeadTime(0.3), 78, 88), (DeadTime(0.02), 17, 36), ("operator", 17, 36)],
)
def test_hand_made_controllers_score_as_measured(controller: DeadTime | str, least: float, most: float) -> None:
    task = get_task("pipeline")
    result = score(controller, task, seed=3, copies=200)
    assert least < task.benchmark_score(-result.mean * result.steps) < most
    assert result.limit_violations.sum() == 0


def test_a_dead_time_controller_lands_on_the_target_without_overshoot() -> None:
    plant = VectorPipeline(1, np.random.default_rng(4))
    controller = DeadTime()
    frame = plant.reset()
    plant.pipe[:], plant.target = 100.0, np.array([110.0])
    frame, flows = plant.true_frame, []
    for _ in range(60):
        plant.target[:] = 110.0
        frame = plant.step(controller.act(frame))
        flows.append(float(frame[0, 0]))
    # Ten steps at full speed, seen after the dead time, and then nothing more.
    assert flows == [100.0] * 19 + [100.0 + step for step in range(1, 11)] + [110.0] * 31


def test_the_operators_hand_is_the_released_logs(tmp_path: Path) -> None:
    log = np.load(collect("pipeline", tmp_path / "log.npz", episodes=5, seed=0).path)
    command = log["action"].reshape(5, 1000)
    assert np.abs(command).max() <= 0.02
    assert (np.diff(command, axis=1) == 0).mean() > 0.6
    with pytest.raises(ValueError, match="needs a generator"):
        DeadTime(repeats=0.5)


def test_the_environment_shows_the_frame_or_the_benchmarks_window() -> None:
    env = get_task("pipeline").make(window=True)
    check_env(env.unwrapped, skip_render_check=True)
    plain = gymnasium.make("envs:controlkit/Pipeline-v0")
    assert (plain.observation_space.shape, env.observation_space.shape) == ((2,), (52,))
    observation, _ = env.reset(seed=5)
    frame, _ = plain.reset(seed=5)
    assert observation.tolist() == [*frame, *[frame[0]] * 25, *[0.0] * 25]
    rng, flows, commands, ends = np.random.default_rng(0), [frame[0]] * 26, [0.0] * 25, []
    for step in range(1000):
        command = rng.uniform(-1.2, 1.2, 1).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(command)
        frame, same, *_ = plain.step(command)
        flows, commands = [frame[0], *flows[:-1]], [float(np.clip(command[0], -1, 1)), *commands[:-1]]
        ends.append((terminated, truncated))
        if step % 50 == 49:
            assert observation == pytest.approx([flows[0], frame[1], *flows[1:], *commands], abs=1e-6)
            assert reward == same == pytest.approx((2.0 - abs(frame[0] - frame[1]) / 100.0) ** 2 - 3.0, abs=1e-5)
    assert ends == [(False, False)] * 999 + [(False, True)]


def test_the_runs_settings_are_those_that_the_structure_asks_for() -> None:
    config = RunConfig.load(config_path("runs", "pipeline"))
    assert config.scaling.min_spread == 1  # the log's commands fill a fortieth of their range
    assert config.dynamics.linear_count > 0
    assert (config.rollout.length, config.policy.gamma, config.threads) == (150, 0.99, 1)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ControlkitError, match="0 copies"):
        VectorPipeline(0, np.random.default_rng(0))
    with pytest.raises(ControlkitError, match="step 0, copy 1, action 0"):
        VectorPipeline(2, np.random.default_rng(0)).step(np.array([[0], [np.nan]]))
