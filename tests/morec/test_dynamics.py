"""World models on a plant whose equation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controlkit.artifacts import build_models
from controlkit.config import RunConfig
from controlkit.errors import TrainingError
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.dynamics import DynamicsFit, WorldModel, fit_dynamics
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant


def fitted(config: RunConfig, log: LoggedTransitions, history: int = 2) -> tuple[GaussianEnsemble, DynamicsFit]:
    plant = small_plant.spec(history)
    generator = torch.Generator().manual_seed(0)
    dynamics = build_models(config, plant, generator).dynamics
    limits = CommandLimits(plant)
    return dynamics, fit_dynamics(dynamics, log, config.dynamics, config.scaling, limits, generator, Silent())


@pytest.mark.parametrize("architecture", ["window", "observer"])
def test_a_linear_plant_is_found_and_carried_far_beyond_the_log(architecture: str) -> None:
    log = LoggedTransitions(small_plant.dataset())
    dynamics, fit = fitted(small_plant.config(dynamics={"architecture": architecture, "hidden": []}), log)
    assert float(fit.holdout_rmse) < 2e-3
    observation = log.observe(log.rows[:50])
    action = torch.full((50, 1), 2.0)  # the log's commands have a standard deviation of 0.4
    predicted = dynamics(observation, action)[0].mean(0)[:, 0]
    expected = small_plant.next_level(observation[:, 0], action[:, 0], observation[:, 1])
    assert float((predicted - expected).abs().max()) < 0.03


def test_an_observer_averages_sensor_noise_over_its_window() -> None:
    noise, history = 0.1, 8
    log = LoggedTransitions(small_plant.dataset(small_plant.spec(history), episodes=40, noise=noise))
    fresh = small_plant.dataset(small_plant.spec(history), episodes=10, noise=noise, seed=9)
    config = small_plant.config(dynamics={"architecture": "observer", "hidden": []})
    dynamics, fit = fitted(config, log, history)
    # The measurement's own noise cannot be predicted; a window of nine leaves little on top of it, one sample leaves
    # noise * sqrt(1 + 0.9^2) = 0.135.
    assert noise * 0.9 < float(fit.holdout_rmse) < noise * 1.1
    held = LoggedTransitions(fresh)
    mean = dynamics(held.observe(held.rows), held.actions[held.rows])[0].mean(0)
    rmse = float((mean - held.next_state(held.rows)).square().mean().sqrt())
    assert noise * 0.93 < rmse < noise * 1.1


def test_no_member_gets_worse_by_descent_and_elites_are_the_best() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    dynamics, fit = fitted(small_plant.config(dynamics={"learning_rate": 0.5, "max_epochs": 2}), log)
    # A learning rate that wrecks every network: each member keeps the ridge solution it started from.
    assert float(fit.holdout_rmse) < 0.12
    assert set(dynamics.elites.tolist()) == set(torch.argsort(fit.member_rmse)[:2].tolist())


def test_equal_seeds_give_equal_networks() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    first, second = (fitted(small_plant.config(), log)[0].state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_loss_that_is_no_number_stops_the_fit_with_its_place() -> None:
    log = LoggedTransitions(small_plant.dataset())
    log._table[50:60] = torch.nan
    with pytest.raises(TrainingError, match="not a number"):
        fitted(small_plant.config(), log)


def test_the_world_shifts_history_and_clamps_to_what_sensors_can_show() -> None:
    data = small_plant.dataset(episodes=1, steps=30)
    log = LoggedTransitions(data)
    dynamics = build_models(small_plant.config(), small_plant.spec(), torch.Generator()).dynamics
    world = WorldModel(dynamics, small_plant.spec())
    rows = log.rows
    batch = log.batch(rows)
    shifted = world.next_observation(batch.observation, batch.action, log.frames[rows + 1])
    np.testing.assert_array_equal(shifted.numpy(), batch.next_observation.numpy())
    frame = world.next_frame(torch.tensor([[50.0], [3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert frame.tolist() == [[10.0, 1.0], [3.0, 1.0]]
