"""The behaviour anchor: with a large weight the trained policy is the cloned operator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from controlkit.artifacts import Models, RunFolder, build_models
from controlkit.config import RunConfig
from controlkit.dataset import RECORD
from controlkit.errors import ConfigError
from controlkit.files import read_json
from controlkit.morec.logged_returns import logged_returns
from controlkit.morec.policy_training import PolicyTraining
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.train import train
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant


def test_a_large_anchor_reproduces_the_clone(tmp_path: Path) -> None:
    data = small_plant.dataset(noise=0.02)
    data.save(tmp_path / "data")
    record, log = read_json(tmp_path / "data" / RECORD), LoggedTransitions(data)
    observation = log.observe(log.rows)

    def trained(anchor: float) -> Models:
        policy = {"updates": 1000, "hidden": [32], "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
        config = small_plant.config(
            reward={"behaviour_updates": 300}, policy=policy | {"behaviour_anchor": anchor}, rollout={"every": 100}
        )
        return train(RunFolder.create(tmp_path / f"{anchor:g}", config, data, record), data, Silent())

    def distance(models: Models) -> float:
        with torch.no_grad():
            return float((models.actor(observation) - models.behaviour(observation)).abs().mean())

    free, anchored = (trained(anchor) for anchor in (0.0, 1000.0))
    # Commands go from -2 to 2, and the operator's own noise on them is 0.4.
    assert distance(anchored) < 0.03
    assert distance(free) > 0.15


def test_an_anchor_to_the_log_regresses_the_recorded_commands() -> None:
    """On logged transitions alone: the actor is led to the commands of its batch, whatever the clone says."""
    log, spec = LoggedTransitions(small_plant.dataset(noise=0.02)), small_plant.spec()
    policy = {"updates": 600, "hidden": [32], "actor_learning_rate": 3e-3, "behaviour_anchor": 1000.0}
    policy |= {"anchor_to": "log", "real_ratio": 0.5, "warm_start": 0}
    config = small_plant.config(policy=policy, rollout={"every": 100})
    models = build_models(config, spec, torch.Generator().manual_seed(0))
    with torch.no_grad():  # a clone that is wrong by more than the commands vary
        models.behaviour.action_scaler.centre += 1.0
    chooser = TransitionFilter(models.dynamics, models.judge, config.filter, float("-inf"))
    training = PolicyTraining(models, chooser, spec, log, config)
    while not training.finished:
        training.epoch()
    observation, recorded = log.observe(log.rows), log.actions[log.rows]
    gain = torch.linalg.lstsq(observation, recorded).solution
    with torch.no_grad():
        away = (training.final_actor()(observation) - observation @ gain).abs().mean()
        clone = (models.behaviour(observation) - observation @ gain).abs().mean()
    assert float(away) < 0.1
    assert float(clone) > 0.5


def test_an_anchor_in_units_of_a_value_grows_with_rewards_and_horizon() -> None:
    log, spec = LoggedTransitions(small_plant.dataset(noise=0.02)), small_plant.spec()
    rewards = log.rewards[log.rows]
    for gamma, centred in ((0.9, False), (0.98, False), (0.98, True)):
        policy = {"gamma": gamma, "centre_rewards": centred, "behaviour_anchor": 0.5, "anchor_unit": "value"}
        config = small_plant.config(policy=policy)
        models = build_models(config, spec, torch.Generator().manual_seed(0))
        chooser = TransitionFilter(models.dynamics, models.judge, config.filter, float("-inf"))
        learner = PolicyTraining(models, chooser, spec, log, config).learner
        assert isinstance(learner, PolicyLearner)
        centre = rewards.mean() if centred else 0.0
        value = (rewards - centre).abs().mean() / rewards.std() / (1 - gamma)
        assert learner.anchor == pytest.approx(0.5 * float(value), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.9, 0.98])
def test_an_anchor_in_units_of_returns_is_their_spread(gamma: float) -> None:
    log, spec = LoggedTransitions(small_plant.dataset(noise=0.02)), small_plant.spec()
    policy = {"gamma": gamma, "behaviour_anchor": 0.5, "anchor_unit": "return"}
    config = small_plant.config(policy=policy)
    models = build_models(config, spec, torch.Generator().manual_seed(0))
    chooser = TransitionFilter(models.dynamics, models.judge, config.filter, float("-inf"))
    learner = PolicyTraining(models, chooser, spec, log, config).learner
    assert isinstance(learner, PolicyLearner)
    worth = logged_returns(log, gamma, float(log.rewards[log.rows].std()))[log.rows]
    assert learner.anchor == pytest.approx(0.5 * float(worth.std()), rel=1e-4)


def test_an_anchor_to_the_log_needs_logged_transitions() -> None:
    policy = {"behaviour_anchor": 1.0, "anchor_to": "log", "real_ratio": 0.001}
    with pytest.raises(ConfigError, match="anchor_to"):
        RunConfig.from_dict({"policy": policy})
    RunConfig.from_dict({"policy": policy | {"real_ratio": 0.5}})
    RunConfig.from_dict({"policy": policy | {"behaviour_anchor": 0.0}})
