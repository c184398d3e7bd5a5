"""Simglucose and Fusion: files of the released layout are read, rewards follow, and what is missing is said plainly."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from controlkit.artifacts import RunFolder
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ControlkitError, DataError
from controlkit.files import read_json
from controlkit.ingest import ingest
from controlkit.ingest.flat import flat_arrays
from controlkit.morec.train import train
from controlkit.objective import Objective
from controlkit.progress import Silent
from envs.closed_loop import score
from envs.collect import collect
from envs.neorl import original_plants
from envs.tasks import get_task

Arrays = dict[str, np.ndarray]
# One of the simulator's patients: body weight, Fsnc, Ib, Km0, Vi, Vm0, Vmx, b, d, f, k1, k2, ka1, ka2, kabs, kd, ke1,
# ke2, ki, kmax, kp1, kp2, kp3, ksc, m1, m2, m30, m4, p2u, u2ss.
PATIENT = (
    68.706, 1, 97.554, 260.89, 0.048153, 5.92855, 0.074667, 0.83072, 0.32294, 0.9, 0.057252, 0.067738, 0.0025, 0.0115,
    0.091043, 0.0185, 0.0005, 339, 0.0088838, 0.015865, 11.5048, 0.023318, 0.023253, 0.056, 0.15221, 0.25907, 0.22832,
    0.10363, 0.021344, 1.21698,
)  # fmt: skip


def slow_risk(glucose: float) -> float:
    return 10 * (1.509 * (math.log(glucose) ** 1.084 - 5.381)) ** 2


def slow_simglucose(now: float, after: float) -> float:
    if after >= 600:
        return 0.0
    return -15.0 if after <= 40 else (slow_risk(now) - slow_risk(after) + 100) / 100


def simglucose_file(path: Path, episodes: int = 6, steps: int = 60) -> Arrays:
    """The released layout: (N, 31) observations, (N, 1) actions, rewards by the formula, `done` by what is hidden."""
    rng, rows = np.random.default_rng(0), []
    for episode in range(episodes):
        patient = np.array(PATIENT) * (1.0 + 0.02 * episode)
        glucose, fall = 140.0, 0.0
        for step in range(steps):
            action = rng.uniform(-1, 1)
            fall = 0.9 * fall + 0.6 * (action + 0.4 if episode % 2 else action)
            following = max(10.0, glucose - fall)
            done = following - fall / 3 < 41.0 or (episode == 1 and step == 30)  # not what the sensor's rule would say
            rows.append(([glucose, *patient], [action], [following, *patient], done, step == steps - 1))
            glucose = following
            if done:
                break
    observation, action, following, done, cut = (np.array(part, dtype=np.float32) for part in zip(*rows, strict=True))
    pairs = zip(observation[:, 0].tolist(), following[:, 0].tolist(), strict=True)
    arrays = {
        "obs": observation,
        "action": action,
        "next_obs": following,
        "reward": np.array([slow_simglucose(*pair) for pair in pairs], dtype=np.float32),
        "done": done,
        "truncated": cut * (1 - done),
    }
    np.savez(path, **arrays)
    return arrays


FUSION_LOW = np.array([0.3, 1.6, 0.1, 0.5, 1.265, 2.18])
FUSION_HIGH = np.array([0.8, 2.0, 0.5, 0.9, 1.36, 2.29])


def fusion_file(path: Path, episodes: int = 5, steps: int = 100) -> Arrays:
    """The released layout: settings in force cut to thousandths, outputs, targets and powers that are drawn anew."""
    rng, rows = np.random.default_rng(1), []

    def drawn() -> np.ndarray:
        return np.concatenate([rng.uniform([1.1, 3.8, 0.84], [2.1, 6.2, 1.06]), rng.uniform(0, [1.75, 1.75, 1.5])])

    for _ in range(episodes):
        before = np.concatenate([[0.5, 1.7, 0.3, 0.75, 1.32, 2.22], [1.4, 5.1, 1.0], drawn()])
        for step in range(steps):
            action = rng.uniform(-1, 1, 6)
            settings = FUSION_LOW + (action + 1) / 2 * (FUSION_HIGH - FUSION_LOW)
            outputs = 0.5 * before[6:9] + [0.3 + settings[0], 1.0 + settings[1], 0.2 + 0.4 * settings[3]]
            after = np.concatenate([np.floor(settings * 1000) / 1000, outputs, drawn()])
            error = (outputs - before[9:12]) / [0.2, 0.5, 0.05]
            rows.append((before, action, after, -math.log(math.sqrt((error**2).mean())), step == steps - 1))
            before = after
    names = ("obs", "action", "next_obs", "reward", "truncated")
    arrays = {name: np.array(part, dtype=np.float32) for name, part in zip(names, zip(*rows, strict=True), strict=True)}
    arrays["done"] = np.zeros_like(arrays["reward"])
    np.savez(path, **arrays)
    return arrays


FILES: dict[str, Callable[[Path], Arrays]] = {"simglucose": simglucose_file, "fusion": fusion_file}


def ingested(name: str, folder: Path) -> tuple[Arrays, TransitionDataset]:
    arrays = FILES[name](folder / f"{name}-train.npz")
    return arrays, ingest(get_task(name).spec(), [folder / f"{name}-train.npz"], None).dataset


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_released_layout_are_read_and_come_back(name: str, tmp_path: Path) -> None:
    arrays, data = ingested(name, tmp_path)
    assert len(data.transitions) == len(arrays["obs"])
    again = flat_arrays(data)
    for key in ("obs", "next_obs", "done", "truncated"):
        assert np.array_equal(again[key], arrays[key]), key
    assert np.abs(again["action"] - arrays["action"]).max() < 1e-5  # float32 in engineering units and back
    assert np.abs(again["reward"] - arrays["reward"]).max() < 1e-3
    limits = [get_task(name).spec().limits(tag) for tag in data.spec.action_tags]
    expected = [low + (a + 1) / 2 * (high - low) for (low, high), a in zip(limits, arrays["action"][0], strict=True)]
    assert data.actions[data.transitions[0]] == pytest.approx(expected, abs=1e-6)


def test_ends_that_the_sensor_does_not_show_are_taken_from_the_file(tmp_path: Path) -> None:
    arrays, data = ingested("simglucose", tmp_path)
    assert 2 <= int(arrays["done"].sum()) == int(data.terminated.sum())
    following = data.frames[np.flatnonzero(data.terminated) + 1, 0]
    assert following.max() > 60.0  # the end that only the file knows
    data.save(tmp_path / "data")
    assert np.array_equal(TransitionDataset.load(tmp_path / "data").terminated, data.terminated)
    # Where the plant file says that the rules decide, such a file is refused.
    content = get_task("simglucose").spec().to_dict()
    content["episodes"] = {"terminated": content["episodes"]["terminated"]}
    with pytest.raises(DataError, match="the file says that the episode ends there"):
        ingest(type(data.spec).from_dict(content), [tmp_path / "simglucose-train.npz"], None)


TINY = (
    "threads=1", "dynamics.hidden=[8]", "dynamics.max_epochs=1", "reward.updates=60", "reward.distil=false",
    "reward.hidden=[8]", "reward.behaviour_updates=20", "rollout.starts=20", "rollout.length=5", "rollout.every=20",
    "policy.updates=40", "policy.hidden=[8]", "filter.threshold=off",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_policy_is_trained_on_them(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / "file.npz")
    spec = get_task(name).spec()
    ingest(spec, [tmp_path / "file.npz"], tmp_path / "data")
    data, config = TransitionDataset.load(tmp_path / "data"), RunConfig.load(config_path("runs", "dmsd"), TINY)
    run = RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD))
    actor = train(run, data, Silent()).actor
    observation = data.observations(data.transitions)
    command = actor(torch.from_numpy(observation)).detach().numpy()
    limits = np.array([spec.limits(tag) for tag in spec.action_tags])
    assert command.shape == (len(observation), len(limits))
    assert ((command >= limits[:, 0] - 1e-6) & (command <= limits[:, 1] + 1e-6)).all()
    # A patient's constants, which do not change inside an episode, must not blow up a scaled input.
    assert np.isfinite(command).all()
    assert np.ptp(command, axis=0).min() > 0


def test_wrong_rewards_are_refused(tmp_path: Path) -> None:
    arrays = fusion_file(tmp_path / "file.npz")
    arrays["reward"][17] += 0.5
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(DataError, match=r"1 of 500 rewards do not follow.*the first is row 17"):
        ingest(get_task("fusion").spec(), [tmp_path / "file.npz"], None)


@pytest.mark.parametrize("name", FILES)
def test_rewards_and_ends_are_the_same_for_numpy_and_torch(name: str) -> None:
    spec = get_task(name).spec()
    objective, rng = Objective(spec), np.random.default_rng(2)
    bounds = np.array([spec.tags[tag].range for tag in spec.frame_tags])
    now, after = (rng.uniform(bounds[:, 0], bounds[:, 1], (500, len(bounds))).astype(np.float32) for _ in range(2))
    action = np.zeros((500, len(spec.action_tags)), dtype=np.float32)
    with np.errstate(all="raise"):
        reward = objective.reward(now, action, after)
    tensors = [torch.from_numpy(x) for x in (now, action, after)]
    assert np.isfinite(reward).all()
    assert objective.reward(*tensors).numpy() == pytest.approx(reward, rel=1e-4, abs=1e-4)
    ended = objective.terminated(now, action, after)
    assert np.array_equal(objective.terminated(*tensors).numpy(), ended)
    if name == "simglucose":
        assert ended.any()
        slow = [
            slow_simglucose(max(2.0, float(a)), max(2.0, float(b))) for a, b in zip(now[:, 0], after[:, 0], strict=True)
        ]
        assert reward == pytest.approx(slow, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_without_the_original_package_one_line_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neorl2", None)
    task = get_task(name)
    for attempt in (lambda: score("constant", task, seed=0, copies=1), task.make):
        with pytest.raises(ControlkitError, match=rf"task {name}: its simulator is in the package neorl2") as caught:
            attempt()
        assert "https://github.com/polixir/NeoRL2" in str(caught.value)
        assert "\n" not in str(caught.value)


class FakeSimglucose(gymnasium.Env[Any, Any]):
    """What the original looks like from outside: insulin lowers the glucose, and a hidden number ends the episode."""

    observation_space = gymnasium.spaces.Box(0, 1000, (31,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.glucose, self.steps = float(self.np_random.uniform(100, 160)), 0
        return self._shown(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.glucose -= float(action[0]) + 1.0
        self.steps += 1
        return self._shown(), 0.0, self.steps == 12, False, {}

    def _shown(self) -> np.ndarray:
        return np.array([self.glucose, *PATIENT], dtype=np.float32)


@pytest.fixture
def fake_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original_plants, "require_original", lambda package, wanted_for: None)
    monkeypatch.setitem(sys.modules, "neorl2", ModuleType("neorl2"))
    monkeypatch.setitem(
        gymnasium.registry, "Simglucose", gymnasium.envs.registration.EnvSpec("Simglucose", FakeSimglucose)
    )


@pytest.mark.usefixtures("fake_original")
def test_the_original_package_is_stepped_in_engineering_units(tmp_path: Path) -> None:
    task, rng = get_task("simglucose"), np.random.default_rng(0)
    plant = task.simulator(3, rng)
    start = plant.reset()[:, 0]
    for insulin in (0.0, 2.5, 5.0, 9.0):  # the last one saturates
        frame = plant.step(np.full((3, 1), insulin))
    assert frame[:, 0] == pytest.approx(start - 0.0 - 1.0 - 2.0 - 2.0, abs=1e-4)
    assert frame[0, 1:] == pytest.approx(PATIENT)
    # 12 steps, then the original says that it is over: nothing more is counted.
    result = score("constant", task, seed=1, copies=2)
    assert result.lengths.tolist() == [12, 12]
    env = task.make()
    observation, _ = env.reset(seed=4)
    assert observation.shape == (31,)
    ends = [env.step(np.array([2.5], np.float32))[2] for _ in range(12)]
    assert ends == [False] * 11 + [True]
    log = np.load(collect(task, tmp_path / "log.npz", episodes=2, seed=0).path)
    assert log["terminated"].tolist() == ([False] * 11 + [True]) * 2
