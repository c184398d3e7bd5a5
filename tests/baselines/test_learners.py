"""BC and TD3+BC on tasks whose answers are known, against slow versions, and through the whole training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder, build_critics, build_models
from controlkit.baselines.bc import BCLearner
from controlkit.baselines.td3_bc import TD3BCLearner
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import TrainingError
from controlkit.evaluation.policies import policy_of
from controlkit.files import read_json
from controlkit.morec.train import train
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import Batch
from controlkit.spec import PlantSpec
from tests import small_plant

FAST = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3, "hidden": [32], "real_ratio": 1.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def td3_bc(spec: PlantSpec | None = None, **policy: Any) -> TD3BCLearner:
    spec = spec or small_plant.spec()
    config = small_plant.config(policy=FAST | {"algorithm": "td3_bc"} | policy)
    drawn = generator()
    models = build_models(config, spec, drawn)
    critics = build_critics(config, spec, drawn)
    return TD3BCLearner(models.actor, critics, CommandLimits(spec), config.policy, reward_spread=2.0)


def bc(**policy: Any) -> BCLearner:
    config = small_plant.config(policy=FAST | {"algorithm": "bc"} | policy)
    models = build_models(config, small_plant.spec(), generator())
    return BCLearner(models.actor, config.policy)


def batch(drawn: torch.Generator, logged_gain: float = 0.5, noise: float = 0.0) -> Batch:
    """Logged commands gain x level (with noise); reward -(a + level)^2, each step the last: the best is -level."""
    observation = torch.empty(128, 8).uniform_(-1, 1, generator=drawn)
    action = logged_gain * observation[:, :1] + noise * torch.randn(128, 1, generator=drawn)
    reward = -(action[:, 0] + observation[:, 0]).square()
    return Batch(observation, action, reward, observation, torch.ones(128))


def gain_of(learner: Any) -> float:
    """How much of the level the actor commands, by least squares."""
    observation = batch(generator(9)).observation
    with torch.no_grad():
        command = learner.final_actor()(observation)[:, 0]
    return float((command * observation[:, 0]).sum() / observation[:, 0].square().sum())


def test_cloning_finds_the_mean_command_in_spite_of_noise() -> None:
    learner, drawn = bc(updates=500), generator(1)
    for _ in range(500):
        losses = learner.update(batch(drawn, noise=0.3), drawn)
    assert gain_of(learner) == pytest.approx(0.5, abs=0.03)
    # What is left is the variance of the noise, in commands scaled to [-1, 1] (the plant's go from -2 to 2).
    assert float(losses.actor_loss) == pytest.approx(0.3**2 / 4, rel=0.4)


@pytest.mark.parametrize(("alpha", "gain"), [(1e-3, 0.5), (1000.0, -1.0)])
def test_alpha_weighs_value_against_imitation(alpha: float, gain: float) -> None:
    learner, drawn = td3_bc(updates=600, td3_alpha=alpha), generator(1)
    for _ in range(600):
        learner.update(batch(drawn, noise=1.0), drawn)
    assert gain_of(learner) == pytest.approx(gain, abs=0.2)


def test_the_target_against_a_slow_loop() -> None:
    learner, drawn = td3_bc(td3_noise=10.0, gamma=0.9), generator(1)
    sample = batch(drawn)._replace(terminated=torch.tensor([0.0, 1.0]).repeat(64))
    found = learner.target(sample, generator(2))
    noise = 10.0 * torch.empty_like(sample.action).normal_(generator=generator(2))
    for row in range(6):
        observation = sample.next_observation[row : row + 1]
        with torch.no_grad():
            # Scaled commands reach from -1 to 1, this plant's from -2 to 2.
            wish = learner.target_actor(observation) + 2.0 * noise[row].clamp(-0.5, 0.5)
            values = learner.targets(observation, wish.clamp(-2, 2))
        expected = float(sample.reward[row]) / 2.0
        expected += 0.9 * float(values.min()) if row % 2 == 0 else 0.0
        assert float(found[row]) == pytest.approx(expected, abs=1e-5)


def test_targets_obey_the_rate_limit() -> None:
    content = small_plant.spec().to_dict()
    content["tags"]["valve"]["max_rate_per_s"] = 0.01
    learner = td3_bc(PlantSpec.from_dict(content), td3_noise=0.0, gamma=0.9)
    sample = batch(generator(1))._replace(terminated=torch.zeros(128))
    last = sample.next_observation[:, [learner.limits._previous[0] or 0]]
    with torch.no_grad():
        wish = learner.target_actor(sample.next_observation)
        values = learner.targets(sample.next_observation, wish.clip(last - 0.01, last + 0.01)).amin(dim=0)
    torch.testing.assert_close(learner.target(sample, generator()), sample.reward / 2 + 0.9 * values)


def test_the_actor_moves_every_second_update_and_the_targets_with_it() -> None:
    learner, drawn = td3_bc(updates=10), generator(1)
    weights = [learner.actor.net.body[0].weight, learner.targets.net.body[0].weight]
    moved = []
    for _ in range(4):
        before = [weight.detach().clone() for weight in weights]
        learner.update(batch(drawn), drawn)
        moved.append([not torch.equal(old, new) for old, new in zip(before, weights, strict=True)])
    assert moved == [[False, False], [True, True], [False, False], [True, True]]


def test_values_below_zero_are_not_clamped() -> None:
    learner, drawn = td3_bc(updates=400, critic_learning_rate=1e-2), generator(1)
    for _ in range(400):
        sample = batch(drawn)
        losses = learner.update(sample._replace(reward=sample.reward - 10.0), drawn)
    assert -7.0 < float(losses.mean_q) < -4.0  # rewards are divided by 2


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransitionDataset, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("data") / "data"
    data = small_plant.dataset(noise=0.02)
    data.save(folder)
    return data, read_json(folder / RECORD)


class Cut(Silent):
    """Breaks off in the third epoch of the policy."""

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.left = "", 3

    def start(self, stage: str, total: int) -> None:
        self.stage = stage

    def advance(self, units: int = 1, note: str = "") -> None:
        if self.stage == "policy" and note:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("algorithm", ["bc", "td3_bc"])
def test_a_run_trains_resumes_exactly_and_is_a_policy_like_any_other(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]], algorithm: str
) -> None:
    data, record = stored
    # An odd number of updates per epoch: the delay of the actor must not depend on where a run was cut.
    policy = {"algorithm": algorithm, "real_ratio": 1.0, "average": 0.5}
    config = small_plant.config(checkpoint_every=1, policy=policy, rollout={"every": 15})
    progress = Silent()
    train(RunFolder.create(tmp_path / "whole", config, data, record), data, progress)
    assert any(f"{algorithm} learns from the log alone" in line for line in progress.messages)
    cut = RunFolder.create(tmp_path / "cut", config, data, record)
    with pytest.raises(KeyboardInterrupt):
        train(cut, data, Cut())
    train(RunFolder.open(tmp_path / "cut"), data, Silent())
    runs = [RunFolder.open(tmp_path / name) for name in ("whole", "cut")]
    actors = [run.load_models().actor.state_dict() for run in runs]
    for name, value in actors[0].items():
        assert torch.equal(value, actors[1][name]), name
    metrics = [(run.path / "metrics.csv").read_text() for run in runs]
    assert metrics[0] == metrics[1]
    assert "actor_loss" in metrics[0]
    assert ("critic_loss" in metrics[0]) == (algorithm == "td3_bc")
    policy_found = policy_of(runs[0], algorithm)
    observation = torch.from_numpy(data.observations(data.transitions[:5]))
    assert policy_found.act(observation, torch.zeros(5, 1)).shape == (5, 1)


def test_a_loss_that_is_no_number_stops_td3_bc(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, record = stored
    config = small_plant.config(checkpoint_every=1, policy={"algorithm": "td3_bc", "real_ratio": 1.0})
    folder = RunFolder.create(tmp_path / "run", config, data, record)
    update = TD3BCLearner.update

    def poisoned(self: TD3BCLearner, batch: Batch, drawn: torch.Generator) -> Any:
        return update(self, batch._replace(reward=batch.reward * (torch.nan if self.updates > 30 else 1.0)), drawn)

    monkeypatch.setattr(TD3BCLearner, "update", poisoned)
    with pytest.raises(TrainingError, match="update 40: the critic loss is not a number"):
        train(folder, data, Silent())
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["learner"]["updates"] == 20
