"""The MuJoCo tasks: a plain loop over one simulation, gymnasium's own environments, the released data, the formulas."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

from controlkit.errors import ControlkitError
from controlkit.ingest import ingest
from controlkit.objective import Objective
from envs.neorl.mujoco_plants import FOOT, VectorMujoco, load_model
from envs.tasks import get_task
from tests.data_files import data_file
from tests.envs.mujoco_formulas import TASKS, slow_value

mujoco = pytest.importorskip("mujoco")

FILES = {"cheetah": ("half_cheetah.xml", 5), "hopper": ("hopper.xml", 4), "walker2d": ("walker2d.xml", 4)}


def simulator(task: str, copies: int, seed: int = 0) -> VectorMujoco:
    made = get_task(task).simulator(copies, np.random.default_rng(seed))
    assert isinstance(made, VectorMujoco)
    return made


def commands(task: str, steps: int, copies: int, seed: int = 1) -> np.ndarray:
    """Held for three steps each, some of them beyond what the motors give."""
    drawn = np.random.default_rng(seed).uniform(-1.3, 1.3, (steps, copies, len(get_task(task).spec().action_tags)))
    return drawn[3 * (np.arange(steps) // 3)]


class SlowPlant:
    """One simulation, written out: the model file, the frame skip, the cut velocities; the model is its own."""

    def __init__(self, task: str, position: np.ndarray, velocity: np.ndarray, friction: float | None) -> None:
        file, self.skip = next(entry for part, entry in FILES.items() if part in task)
        _, self.model = load_model(file)
        if friction is not None:
            foot = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_GEOM, FOOT)
            self.model.geom_friction[foot] = [float(f"{friction:.2f}"), *self.model.geom_friction[foot][1:]]
        self.task, self.friction, self.data = task, friction, mujoco.MjData(self.model)
        self.data.qpos[:], self.data.qvel[:] = position, velocity
        mujoco.mj_forward(self.model, self.data)

    def frame(self) -> list[float]:
        cut = math.inf if "cheetah" in self.task else 10.0
        shown = [min(cut, max(-cut, v)) for v in self.data.qvel]
        return [*self.data.qpos, *shown, *([] if self.friction is None else [self.friction])]

    def step(self, command: np.ndarray) -> tuple[list[float], float, bool]:
        before = float(self.data.qpos[0])
        for i, wish in enumerate(command):
            self.data.ctrl[i] = min(1.0, max(-1.0, wish))
        for _ in range(self.skip):
            mujoco.mj_step(self.model, self.data)
        speed = (float(self.data.qpos[0]) - before) / (0.05 if "cheetah" in self.task else 0.008)
        return self.frame(), *slow_value(self.task, speed, sum(min(1.0, abs(a)) ** 2 for a in command), self.frame())


@pytest.mark.parametrize("task", TASKS)
def test_every_copy_moves_like_a_simulation_of_its_own(task: str) -> None:
    plant, spec = simulator(task, 3), get_task(task).spec()
    assert plant.frame_tags == spec.frame_tags
    assert plant.plant.action_tags == spec.action_tags
    assert plant.period_s == pytest.approx(spec.period_s, abs=1e-12)
    frame = plant.reset()
    frictions = plant.friction if plant.plant.friction else [None] * 3
    slow = [SlowPlant(task, plant.positions[i], plant.velocities[i], frictions[i]) for i in range(3)]
    assert frame.tolist() == [one.frame() for one in slow]
    objective, ends = Objective(spec), 0
    for command in commands(task, 60, 3):
        before, after = frame, plant.step(command)
        reward = objective.reward(before, command.clip(-1, 1), after)
        ended = objective.terminated(before, command, after)
        for i, one in enumerate(slow):
            expected, value, end = one.step(command[i])
            assert after[i].tolist() == expected
            assert reward[i] == pytest.approx(value, abs=1e-9)
            assert ended[i] == end
        frame, ends = after, ends + int(ended.sum())
    assert (ends > 0) == ("cheetah" not in task)  # commands like these let all others fall


@pytest.mark.parametrize(
    ("task", "module", "name"),
    [
        ("halfcheetah", "half_cheetah_v4", "HalfCheetahEnv"),
        ("hopper", "hopper_v4", "HopperEnv"),
        ("walker2d", "walker2d_v4", "Walker2dEnv"),
    ],
)
def test_gymnasiums_own_environments_do_the_same(task: str, module: str, name: str) -> None:
    pytest.importorskip("imageio", reason="gymnasium's MuJoCo environments need imageio")
    original = pytest.importorskip(f"gymnasium.envs.mujoco.{module}").__dict__[name](
        exclude_current_positions_from_observation=False
    )
    env = get_task(task).make()
    for seed in (0, 1, 2):
        theirs, _ = original.reset(seed=seed)
        ours, _ = env.reset(seed=seed)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)
        for command in commands(task, 80, 1, seed)[:, 0].clip(-1, 1):
            theirs, reward, terminated, _, _ = original.step(command)
            ours, ours_reward, ours_terminated, _, _ = env.step(command)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
            assert (ours_reward, ours_terminated) == (pytest.approx(reward, abs=1e-9), terminated)
            if terminated:
                break


@pytest.mark.parametrize("task", TASKS)
def test_episodes_start_with_the_originals_noise(task: str) -> None:
    plant = simulator(task, 400)
    rest = plant.positions - plant._model.qpos0
    noise = 0.1 if "cheetah" in task else 0.005
    assert 0.95 * noise < np.abs(rest).max() <= noise
    spread = noise if "cheetah" in task else noise / math.sqrt(3)  # normal, or uniform in +-noise
    assert plant.velocities.std() == pytest.approx(spread, rel=0.05)
    assert (np.abs(plant.velocities).max() > noise) == ("cheetah" in task)
    assert not np.array_equal(plant.true_frame, plant.reset())
    assert np.array_equal(simulator(task, 5, seed=3).true_frame, simulator(task, 5, seed=3).true_frame)


def test_every_episode_has_a_friction_of_its_own() -> None:
    plant = simulator("random-friction-hopper", 200)
    frame = plant.reset()
    friction = frame[:, -1]
    assert 1.5 <= friction.min() < 1.53 < 2.47 < friction.max() <= 2.5
    assert np.array_equal(plant.step(np.zeros((200, 3)))[:, -1], friction)
    assert not np.array_equal(plant.reset()[:, -1], friction)
    # From one state: equal frictions go on equally, others slide differently. 1.504 is 1.50 to the physics.
    plant = simulator("random-friction-hopper", 3)
    rest = np.repeat(plant.positions[:1], 3, axis=0)
    plant.set_state(rest, np.repeat([[3.0, -2.0, 0, 0, 0, 0]], 3, axis=0), np.array([1.5, 1.504, 2.5]))
    for command in commands("random-friction-hopper", 30, 1):
        plant.step(np.repeat(command, 3, axis=0))
    assert np.array_equal(plant.positions[0], plant.positions[1])
    assert np.abs(plant.positions[0] - plant.positions[2]).max() > 1e-3


@pytest.mark.parametrize("part", ["train", "val"])
def test_released_rewards_and_ends_follow_the_formulas(part: str) -> None:
    path = data_file(f"neorl2/SafetyHalfCheetah-{part}.npz")
    data = np.load(path)
    observation, action, following = (data[name] for name in ("obs", "action", "next_obs"))
    objective = Objective(get_task("safety-halfcheetah").spec())
    for kind in (np.float32, np.float64):
        steps = [x.astype(kind) for x in (observation, action, following)]
        assert np.abs(objective.reward(*steps) - data["reward"]).max() < 1e-3
        assert np.array_equal(objective.terminated(*steps), data["done"].astype(bool))
    # Nobody is too fast in these files; a tenth faster, and the rule finds those that are.
    following = observation + 1.1 * (following - observation)
    speed = (following[:, 0].astype(float) - observation[:, 0]) / 0.05
    assert np.array_equal(objective.terminated(observation, action, following), speed > 3.2096)
    assert np.array_equal(objective.reward(observation, action, following) == -100, speed > 3.2096)
    assert (speed > 3.2096).sum() > 10
    # The plant file reads the file: columns, ranges, rewards and ends are checked there.
    read = ingest(get_task("safety-halfcheetah").spec(), [path], None).dataset
    assert len(read.transitions) == len(observation)
    assert (int(read.terminated.sum()), int(read.truncated.sum())) == (0, int(data["truncated"].sum()))


def test_released_transitions_are_reproduced_as_well_as_float32_tells_the_state() -> None:
    data = np.load(data_file("neorl2/SafetyHalfCheetah-train.npz"))
    observation, action, following = (data[name].astype(np.float64) for name in ("obs", "action", "next_obs"))
    plant, error = simulator("safety-halfcheetah", 1000), np.empty_like(observation)
    for start in range(0, len(observation), 1000):
        rows = slice(start, start + 1000)
        plant.set_state(observation[rows, :9], observation[rows, 9:])
        error[rows] = np.abs(plant.step(action[rows]) - following[rows])
    # Another version of MuJoCo made the record, in float64; what is left is the rounding of the recorded states (x near
    # 100 m is known to 4e-6), which stiff contacts make larger in the joints' velocities.
    assert error[:, :9].max() < 2e-5
    assert error[:, 9:].max() < 2e-3
    assert np.quantile(error[:, 9:].max(axis=1), 0.99) < 1e-4
    assert np.median(error.max(axis=1)) < 5e-6


def test_recorded_commands_lead_along_the_record_until_contacts_part_them() -> None:
    data = np.load(data_file("neorl2/SafetyHalfCheetah-train.npz"))
    episodes = [data[name].astype(np.float64).reshape(18, 1000, -1) for name in ("obs", "action", "next_obs")]
    observation, action, following = episodes
    plant = simulator("safety-halfcheetah", 18)
    plant.set_state(observation[:, 0, :9], observation[:, 0, 9:])
    error = np.stack([np.abs(plant.step(action[:, k]) - following[:, k]).max(axis=1) for k in range(100)])  # (100, 18)
    assert error[:5].max() < 1e-3
    assert np.median(error[19]) < 1e-2


def test_bad_arguments_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a file about what diverges
    with pytest.raises(ControlkitError, match="hopper: 0 copies"):
        simulator("hopper", 0)
    with pytest.raises(ControlkitError, match="step 0, copy 1, action 2"):
        simulator("hopper", 2).step(np.array([[0, 0, 0], [0, 0, np.nan]]))
    with pytest.raises(ValueError, match=r"\(2, 4\), not \(2, 3\)"):
        simulator("hopper", 2).step(np.zeros((2, 4)))
    plant = simulator("halfcheetah", 2)
    plant.step(np.zeros((2, 6)))
    velocity = plant.velocities
    velocity[1] = 1e12
    plant.set_state(plant.positions, velocity)
    with pytest.raises(ControlkitError, match="halfcheetah, step 0, copy 1: the physics diverged"):
        plant.step(np.zeros((2, 6)))
    with pytest.raises(ControlkitError, match=r"no_such\.xml: gymnasium's MuJoCo model file is not installed"):
        load_model("no_such.xml")
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ControlkitError, match=r"mujoco is not installed\. Install controlkit\[neorl\]"):
        simulator("hopper", 1)


def test_a_model_is_loaded_without_leaving_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    simulator("halfcheetah", 1).step(np.zeros((1, 6)))
    assert list(tmp_path.iterdir()) == []
    assert mujoco.get_mju_user_warning() is None


def test_commands_are_checked_before_any_copy_moves() -> None:
    plant = simulator("walker2d", 2)
    before = plant.true_frame
    with pytest.raises(ControlkitError):
        plant.step(np.array([[0.0] * 6, [np.inf] * 6]))
    assert np.array_equal(plant.true_frame, before)
    assert plant.time == 0
