"""The reward's own network: known answers, whole episodes held out, and its way through training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import RunFolder, build_reward_network
from controlkit.config import RewardModelConfig, ScalingConfig
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import SpecError
from controlkit.evaluation import evaluate
from controlkit.evaluation.candidates import of_run
from controlkit.files import read_json
from controlkit.morec.reward_model import RewardFit, fit_reward, split_episodes
from controlkit.morec.train import train
from controlkit.objective import CommandLimits, Objective
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from tests import small_plant

RECORDED = {"objective": [{"kind": "recorded"}]}


def recorded(rewards: Any, episodes: int = 10, history: int = 0, **spec_changes: Any) -> TransitionDataset:
    """The small plant's log with rewards (frame, action, next frame) -> (T,) of any formula."""
    data = small_plant.dataset(small_plant.spec(history), episodes=episodes, steps=100)
    values = np.full(len(data), np.nan, dtype=np.float32)
    steps = np.flatnonzero(np.isfinite(data.actions[:, 0]))
    values[steps] = rewards(data.frames[steps], data.actions[steps], data.frames[steps + 1])
    return TransitionDataset.from_frames(
        small_plant.spec(history, **RECORDED, **spec_changes),
        frames=data.frames,
        actions=data.actions,
        episode=data.episode,
        time_ns=data.time_ns,
        rewards=values,
    )


def fitted(data: TransitionDataset, seed: int = 0, **settings: Any) -> tuple[Any, RewardFit, LoggedTransitions]:
    generator = torch.Generator().manual_seed(seed)
    config = RewardModelConfig.model_validate({"hidden": [32], "updates": 600, "members": 2} | settings)
    network, log = build_reward_network(config, data.spec, generator), LoggedTransitions(data)
    limits = CommandLimits(data.spec)
    return network, fit_reward(network, log, config, ScalingConfig(), limits, generator, Silent()), log


def linear(frame: Any, action: Any, after: Any) -> Any:
    return 2.0 * after[:, 0] - 0.5 * frame[:, 1] + 3.0 * action[:, 0] + 1.0


def peaked(frame: Any, action: Any, after: Any) -> Any:
    """A narrow peak where level and load meet."""
    return -np.log(np.abs(after[:, 0] - after[:, 1]) + 0.01)


def test_a_linear_reward_is_found_in_closed_form() -> None:
    network, fit, _ = fitted(recorded(linear), updates=1)
    assert fit.r2 > 0.9999
    frame, action = torch.tensor([[0.3, 1.0]]), torch.tensor([[0.4]])
    level = small_plant.next_level(0.3, 0.4, 1.0)  # another would contradict the plant, and the log says nothing of it
    with torch.no_grad():
        found = float(network(frame, action, torch.tensor([[level, 1.0]])))
    assert found == pytest.approx(2 * level - 0.5 + 1.2 + 1.0, abs=0.01)


def test_any_leading_dimensions_and_their_mean_over_members() -> None:
    network, _, log = fitted(recorded(linear), updates=20)
    rows = log.rows[:6]
    observation, action, after = log.observe(rows), log.actions[rows], log.frames[rows + 1]
    flat = network(observation, action, after)
    folded = network(observation.reshape(2, 3, -1), action.reshape(2, 3, -1), after.reshape(2, 3, -1))
    assert torch.allclose(folded, flat.reshape(2, 3), atol=1e-6)
    x = network.features(observation, action, after)
    singly = torch.stack([network.net(x.expand(2, -1, -1))[e, :, 0] for e in range(2)]).mean(dim=0)
    assert torch.allclose(network.reward_scaler.invert(singly), flat, atol=1e-5)


def test_a_peak_where_tags_of_one_unit_meet_is_resolved() -> None:
    units = {
        "tags": {
            name: tag | ({"unit": "m"} if name == "load" else {})
            for name, tag in small_plant.spec(0).to_dict()["tags"].items()
        }
    }
    data = recorded(peaked, episodes=20, **units)
    _, with_distances, _ = fitted(data)
    _, without, _ = fitted(data, distances=False)
    assert with_distances.r2 > 0.99
    assert with_distances.error_best < 0.1
    assert without.mae > 5 * with_distances.mae  # the same networks on (s, a, s') alone


def test_whole_episodes_are_held_out() -> None:
    log = LoggedTransitions(recorded(linear))
    kept, held = split_episodes(log, 0.2, torch.Generator().manual_seed(3))
    number = torch.arange(len(log.frames)) // 101
    assert set(number[kept].tolist()).isdisjoint(number[held].tolist())
    assert len(number[held].unique()) == 2
    assert sorted([*kept.tolist(), *held.tolist()]) == log.rows.tolist()
    one = LoggedTransitions(recorded(linear, episodes=1))
    kept, held = split_episodes(one, 0.1, torch.Generator().manual_seed(3))
    assert len(held) == 20  # one of five blocks of time
    assert int(held.max() - held.min()) == 19
    assert len(kept) == 80


def test_rewards_that_nothing_explains_are_warned_of() -> None:
    noise = np.random.default_rng(0)
    _, fit, _ = fitted(recorded(lambda frame, action, after: noise.normal(size=len(frame))), updates=100)
    assert fit.r2 < 0.2
    assert fit.describe().startswith("Warning: the learned reward explains")
    _, good, _ = fitted(recorded(linear), updates=1)
    assert good.describe().startswith("The learned reward explains 100.0%")


def test_equal_seeds_give_equal_networks() -> None:
    data = recorded(linear)
    (first, _, log), (second, _, _), (other, _, _) = (fitted(data, seed, updates=30) for seed in (1, 1, 2))
    rows = log.rows[:5]
    values = [network(log.observe(rows), log.actions[rows], log.frames[rows + 1]) for network in (first, second, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_an_objective_without_formula_says_so() -> None:
    objective = Objective(small_plant.spec(0, **RECORDED))
    assert objective.term_names == ("recorded reward",)
    with pytest.raises(SpecError, match="the reward is recorded with the data and has no formula here"):
        objective.reward(np.zeros((1, 2)), np.zeros((1, 1)), np.zeros((1, 2)))
    with pytest.raises(SpecError, match="a recorded reward is the whole reward"):
        PlantSpec.from_dict(
            small_plant.spec(0).to_dict()
            | {"objective": [{"kind": "recorded"}, {"kind": "track", "tag": "level", "setpoint": 1}]}
        )


def test_training_and_evaluation_use_the_learned_reward(tmp_path: Path) -> None:
    def track(frame: Any, action: Any, after: Any) -> Any:
        return -((after[:, 0] - 1.0) ** 2)

    data = recorded(track, episodes=14, history=1)
    data.save(tmp_path / "data")
    config = small_plant.config(
        reward={"distil": False}, reward_model={"hidden": [32, 32], "updates": 800, "members": 2}
    )
    run = RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD))
    messages = Messages()
    models = train(run, data, messages)
    assert any(text.startswith("The learned reward explains") for text in messages.texts)
    log = LoggedTransitions(data)
    rows = log.rows[:200]
    loaded = run.load_models()
    assert loaded.reward_model is not None
    assert models.reward_model is not None
    inputs = log.observe(rows), log.actions[rows], log.frames[rows + 1]
    assert torch.equal(loaded.reward_model(*inputs), models.reward_model(*inputs))
    assert float((loaded.reward_model(*inputs) - log.rewards[rows]).abs().mean()) < 0.1
    report = evaluate([of_run(run)], data, quick=True, progress=messages, seed=0)
    assert any(text.startswith("Evaluation: The learned reward explains") for text in messages.texts)
    assert report.verdict in ("GO TO SHADOW", "INCONCLUSIVE", "NO-GO", "NO VERDICT")


class Messages(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)
