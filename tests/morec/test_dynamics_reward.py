"""The dynamics reward must rank transitions by how false they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import Models, build_models
from controlkit.morec.dynamics import action_scaler, change_scaler, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant


def fitted(log: LoggedTransitions, **settings: Any) -> tuple[Models, list[dict[str, float]]]:
    config = small_plant.config(reward=settings)
    generator = torch.Generator().manual_seed(0)
    models = build_models(config, small_plant.spec(), generator)
    observation = observation_scaler(log, config.scaling)
    action = action_scaler(log, CommandLimits(small_plant.spec()), config.scaling)
    set_scaler(models.behaviour.input_scaler, observation)
    set_scaler(models.behaviour.action_scaler, action)
    set_scaler(models.reward.input_scaler, observation, action)
    set_scaler(models.reward.change_scaler, change_scaler(log))
    fit_behaviour(models.behaviour, log, 300, generator, Silent())
    history = fit_dynamics_reward(
        models.reward, log, models.behaviour, small_plant.spec(), config.reward, generator, Silent()
    )
    return models, history


def rank_correlation(models: Models, log: LoggedTransitions) -> float:
    rng = np.random.default_rng(1)
    rows = log.rows[:300]
    error = torch.from_numpy(rng.normal(size=(300, 1)).astype(np.float32)) * 0.8
    with torch.no_grad():
        reward = models.reward.log_odds(log.observe(rows), log.actions[rows], log.next_state(rows) + error).numpy()
    ranks = [np.argsort(np.argsort(x)) for x in (reward, -error.abs().numpy()[:, 0])]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize(("method", "least"), [("noise", 0.9), ("mixed", 0.8)])
def test_larger_errors_get_lower_rewards(method: str, least: float) -> None:
    log = LoggedTransitions(small_plant.dataset())
    models, history = fitted(log, method=method, hidden=[32, 32], updates=600)
    assert rank_correlation(models, log) > least
    assert history[-1]["d_real"] > 0.55 > 0.45 > history[-1]["d_false"]


def test_the_adversary_learns_to_pass_for_the_plant() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.1))
    settings = {"method": "irl", "hidden": [32], "generator_learning_rate": 3e-3}
    _, early = fitted(log, updates=100, **settings)
    _, late = fitted(log, updates=1500, **settings)
    # The generator's transitions are told from real ones less and less easily.
    gap_early = early[-1]["d_real"] - early[-1]["d_false"]
    gap_late = late[-1]["d_real"] - late[-1]["d_false"]
    assert gap_late < 0.5 * gap_early


def test_an_exogenous_change_does_not_move_the_reward() -> None:
    log = LoggedTransitions(small_plant.dataset())
    models, _ = fitted(log)
    assert models.reward.change_scaler.spread.shape == (1,)
    assert models.reward.state_slots.tolist() == [0]


def test_snapshots_are_taken_late_and_all_kept() -> None:
    log = LoggedTransitions(small_plant.dataset(episodes=2))
    models, _ = fitted(log, networks=2, snapshots=3, updates=90)
    first = models.reward.net.body[0].weight
    assert first.shape[0] == 6
    assert not torch.equal(first[0], first[2])  # the same network, a snapshot later
    assert float((first[0] - first[2]).abs().mean()) < float((first[0] - first[1]).abs().mean())


def test_the_clone_acts_like_the_operator() -> None:
    data = small_plant.dataset(episodes=20)
    log = LoggedTransitions(data)
    config = small_plant.config()
    models = build_models(config, small_plant.spec(), torch.Generator().manual_seed(0))
    set_scaler(models.behaviour.input_scaler, observation_scaler(log, config.scaling))
    set_scaler(models.behaviour.action_scaler, action_scaler(log, CommandLimits(small_plant.spec()), config.scaling))
    fit_behaviour(models.behaviour, log, 1500, torch.Generator().manual_seed(0), Silent())
    observation = log.observe(log.rows)
    expected = (-0.6 * (observation[:, :1] - 1)).clamp(-2, 2)
    with torch.no_grad():
        assert float((models.behaviour(observation) - expected).abs().mean()) < 0.06
        spread = (models.behaviour.sample(observation, torch.Generator().manual_seed(1)) - expected).std()
    assert 0.36 < float(spread) < 0.44
