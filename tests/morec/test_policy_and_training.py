"""The policy update on a task whose optimum is known, and the training loop as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder, build_critics, build_models
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ArtifactError, TrainingError
from controlkit.files import read_json
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.train import require_resumable, train
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import Batch
from tests import small_plant


def learner(**policy: Any) -> PolicyLearner:
    config = small_plant.config(policy={"hidden": [32], "batch_size": 128} | policy)
    generator = torch.Generator().manual_seed(0)
    models = build_models(config, small_plant.spec(), generator)
    critics = build_critics(config, small_plant.spec(), generator)
    return PolicyLearner(
        models.actor, critics, models.behaviour, CommandLimits(small_plant.spec()), config.policy, reward_spread=1.0
    )


def one_step_batch(generator: torch.Generator, offset: float = 0.0) -> Batch:
    """Reward -(a - s / 2)^2 + offset, each step the last: the best command is s / 2, its value the offset."""
    observation = torch.empty(128, 8).uniform_(-1, 1, generator=generator)
    action = torch.empty(128, 1).uniform_(-2, 2, generator=generator)
    reward = offset - (action[:, 0] - observation[:, 0] / 2).square()
    return Batch(observation, action, reward, observation, torch.ones(128))


def test_the_policy_finds_a_known_optimum() -> None:
    policy = learner(updates=1500, actor_learning_rate=3e-3, critic_learning_rate=3e-3, target_entropy=-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(1500):
        losses = policy.update(one_step_batch(generator), generator)
    observation = one_step_batch(generator).observation
    with torch.no_grad():
        error = (policy.actor(observation)[:, 0] - observation[:, 0] / 2).abs().mean()
    assert float(error) < 0.08
    policy.require_finite(losses)


def test_values_below_zero_are_not_clamped() -> None:
    policy = learner(updates=800, critic_learning_rate=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(800):
        losses = policy.update(one_step_batch(generator, offset=-5.0), generator)
    assert -7.5 < float(losses.mean_q) < -4.0


def test_the_anchor_holds_the_policy_at_the_operator() -> None:
    generator = torch.Generator().manual_seed(1)
    distances = []
    for weight in (0.0, 100.0):
        policy = learner(updates=400, actor_learning_rate=3e-3, behaviour_anchor=weight)
        for _ in range(400):
            policy.update(one_step_batch(generator), generator)
        observation = one_step_batch(generator).observation
        with torch.no_grad():
            distances.append(float((policy.actor(observation) - policy.behaviour(observation)).abs().mean()))
    assert distances[1] < 0.3 * distances[0]


def test_the_actor_rests_while_the_critics_are_warmed_up() -> None:
    policy = learner(updates=40, critic_warm_start=10, actor_learning_rate=3e-3)
    generator = torch.Generator().manual_seed(1)

    def weights_now() -> list[torch.Tensor]:
        networks = (policy.actor.net, policy.critics.net)
        return [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in networks]

    actor, critics = weights_now()
    alpha = float(policy.log_alpha)
    for _ in range(10):
        policy.update(one_step_batch(generator), generator)
    assert torch.equal(weights_now()[0], actor)
    assert float(policy.log_alpha) == alpha
    assert not torch.equal(weights_now()[1], critics)
    policy.update(one_step_batch(generator), generator)
    assert not torch.equal(weights_now()[0], actor)
    assert float(policy.log_alpha) != alpha


def test_a_warm_start_brings_the_actor_to_the_operator() -> None:
    policy = learner(actor_learning_rate=3e-3)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(300):
        observation = one_step_batch(generator).observation
        losses.append(float(policy.warm_start(observation, policy.behaviour(observation))))
    assert losses[-1] < 0.05 * losses[0]


def test_the_average_is_the_mean_of_the_last_actors() -> None:
    policy = learner(updates=10, average=0.3)
    generator = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(10):
        policy.update(one_step_batch(generator), generator)
        seen.append(policy.actor.net.body[0].weight.detach().clone())
    kept = policy.final_actor()
    torch.testing.assert_close(kept.net.body[0].weight, torch.stack(seen[-3:]).mean(0))
    assert learner(updates=10).final_actor() is not None


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransitionDataset, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("data") / "data"
    data = small_plant.dataset(noise=0.02)
    data.save(folder)
    return data, read_json(folder / RECORD)


class Interrupting(Silent):
    """Breaks off in the middle of a stage, as a kill would."""

    def __init__(self, stage: str, after: int) -> None:
        super().__init__()
        self.stage, self.left, self.now = stage, after, ""

    def start(self, stage: str, total: int) -> None:
        self.now = stage

    def advance(self, units: int = 1, note: str = "") -> None:
        if self.now == self.stage and note:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    models = RunFolder.open(folder).load_models()
    parts = {part: getattr(models, part).state_dict() for part in ("dynamics", "reward", "behaviour", "actor")}
    flat = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    return flat | {"threshold": models.threshold}


@pytest.mark.parametrize(
    ("stage", "after", "returns"), [("dynamics reward", 1, 0), ("policy", 1, 0), ("policy", 3, 0), ("policy", 3, 40)]
)
def test_a_resumed_run_ends_with_the_numbers_of_an_undisturbed_one(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]], stage: str, after: int, returns: int
) -> None:
    data, record = stored
    config = small_plant.config(checkpoint_every=2, policy={"average": 0.5, "critic_returns": returns})
    train(RunFolder.create(tmp_path / "whole", config, data, record), data, Silent())
    cut = RunFolder.create(tmp_path / "cut", config, data, record)
    with pytest.raises(KeyboardInterrupt):
        train(cut, data, Interrupting(stage, after))
    with pytest.raises(ArtifactError, match="not trained to its end"):
        cut.load_models()
    train(RunFolder.open(tmp_path / "cut"), data, Silent())
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "cut" / "metrics.csv").read_text()


def test_a_belief_is_the_best_elite_and_stays_as_it_is(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]
) -> None:
    data, record = stored
    config = small_plant.config(policy={"inputs": "belief", "average": 0.5})
    models = train(RunFolder.create(tmp_path / "run", config, data, record), data, Silent())
    best = models.dynamics.elites_only(1).state_dict()
    assert models.actor.belief is not None
    for name, value in models.actor.belief.state_dict().items():
        assert torch.equal(value, best[name]), name


def test_a_run_leaves_a_complete_folder(tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]) -> None:
    data, record = stored
    folder = RunFolder.create(tmp_path / "run", small_plant.config(), data, record)
    train(folder, data, Silent())
    names = {"config.yaml", "spec.yaml", "split.json", "dataset.json", "run.json", "metrics.csv", "checkpoint.pt"}
    assert names <= {path.name for path in folder.path.iterdir()}
    assert len(TransitionDataset.load(folder.path / "calibration").transitions) > 0
    with pytest.raises(ArtifactError, match="trained to its end"):
        require_resumable(folder)
    assert "updates" in (folder.path / "metrics.csv").read_text()


def test_a_threshold_that_ends_every_rollout_is_named(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]
) -> None:
    data, record = stored
    progress = Silent()
    config = small_plant.config(filter={"threshold": 99.0})
    train(RunFolder.create(tmp_path / "run", config, data, record), data, progress)
    assert any("threshold 99" in line and "filter.threshold" in line for line in progress.messages)


def test_what_is_off_is_said(tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]) -> None:
    data, record = stored
    progress = Silent()
    config = small_plant.config(filter={"enabled": False})
    train(RunFolder.create(tmp_path / "run", config, data, record), data, progress)
    assert any("filter is off" in line for line in progress.messages)


@pytest.mark.parametrize(("value", "said"), [(1e6, 1), (-1e6, 0), (None, 0)])
def test_critics_that_diverge_are_named_once(
    tmp_path: Path,
    stored: tuple[TransitionDataset, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    value: float | None,
    said: int,
) -> None:
    data, record = stored
    update, progress = PolicyLearner.update, Silent()

    def diverging(self: PolicyLearner, batch: Batch, generator: torch.Generator) -> Any:
        losses = update(self, batch, generator)
        return losses if value is None else losses._replace(mean_q=torch.tensor(value))

    monkeypatch.setattr(PolicyLearner, "update", diverging)
    train(RunFolder.create(tmp_path / "run", small_plant.config(), data, record), data, progress)
    named = [line for line in progress.messages if "critics diverge" in line and "policy.critic_norm" in line]
    assert len(named) == said


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, record = stored
    folder = RunFolder.create(tmp_path / "run", small_plant.config(checkpoint_every=1), data, record)
    update, calls = PolicyLearner.update, 0

    def poisoned(self: PolicyLearner, batch: Batch, generator: torch.Generator) -> Any:
        nonlocal calls
        calls += 1
        if calls > 45:
            batch = batch._replace(reward=batch.reward * torch.nan)
        return update(self, batch, generator)

    monkeypatch.setattr(PolicyLearner, "update", poisoned)
    with pytest.raises(TrainingError, match="critic loss is not a number") as problem:
        train(folder, data, Silent())
    assert "update 60" in str(problem.value)
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["learner"]["updates"] == 40
    assert all(torch.isfinite(value).all() for value in checkpoint["learner"]["actor"].values())
