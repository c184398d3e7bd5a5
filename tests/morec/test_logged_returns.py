"""What logged steps were worth, against a loop; critics that begin there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import build_models
from controlkit.morec.logged_returns import logged_returns
from controlkit.morec.policy_training import PolicyTraining
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.replay import LoggedTransitions
from tests import small_plant

LOG_ALONE = {"real_ratio": 1.0}


class Record:
    """As much of a log as returns are made of: 12 rows, of which a few cannot be used."""

    rows = torch.tensor([0, 1, 2, 4, 5, 6, 7, 9, 10])
    rewards = torch.tensor([1.0, 2.0, 3.0, 9.0, -1.0, 4.0, 0.5, 2.0, 9.0, 1.0, 1.5, 9.0])
    terminated = torch.tensor([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("centre", [0.0, 1.25])
def test_returns_are_what_a_loop_says(gamma: float, centre: float) -> None:
    log: Any = Record()
    found = logged_returns(log, gamma, 2.0, centre)
    scaled = [(float(value) - centre) / 2.0 for value in log.rewards]
    mean = np.mean([scaled[row] for row in log.rows.tolist()]) / (1.0 - gamma)
    # Row 3 cannot be used, and neither can row 8: the record breaks off before them. Row 5 is a true end.
    for stretch, beyond in (([0, 1, 2], mean), ([4, 5], 0.0), ([6, 7], mean), ([9, 10], mean)):
        value = beyond
        for row in reversed(stretch):
            value = scaled[row] + gamma * value
            assert float(found[row]) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert bool(found[[3, 8, 11]].isnan().all())


def test_a_long_record_costs_no_loop_over_its_rows_and_adds_up_as_one_does() -> None:
    class Long:
        rows = torch.arange(5000)
        rewards = torch.randn(5000, generator=torch.Generator().manual_seed(0))
        terminated = torch.zeros(5000, dtype=torch.bool)

    log: Any = Long()
    found = logged_returns(log, 0.999, 1.0)
    value = float(log.rewards.double().mean()) / 0.001
    for row in range(4999, -1, -1):
        value = float(log.rewards[row]) + 0.999 * value
        assert float(found[row]) == pytest.approx(value, rel=1e-5, abs=1e-3)


def begun(log: LoggedTransitions, **policy: Any) -> PolicyTraining:
    """Training on a log whose rewards are 20 higher, so that a value is some 200, after its warm start."""
    config = small_plant.config(policy={"critic_learning_rate": 3e-3, "tau": 0.01} | policy)
    models = build_models(config, small_plant.spec(), torch.Generator().manual_seed(0))
    for scaled in (models.actor, models.behaviour, models.reward):
        scaled.input_scaler.spread.fill_(3.0)
    chooser = TransitionFilter(models.dynamics.lean(), models.judge, config.filter, -torch.inf, models.regressor)
    training = PolicyTraining(models, chooser, small_plant.spec(), log, config)
    training.warm_start()
    return training


@pytest.mark.parametrize("policy", [{}, {"algorithm": "td3_bc", **LOG_ALONE}])
def test_critics_begin_at_what_the_log_was_worth(policy: dict[str, Any]) -> None:
    log = LoggedTransitions(small_plant.dataset(episodes=20))
    log.rewards += 20.0
    worth = logged_returns(log, 0.9, float(log.rewards[log.rows].std()))[log.rows]
    observation, action = log.observe(log.rows), log.actions[log.rows]
    errors = []
    for updates in (0, 1, 400):
        learner: Any = begun(log, critic_returns=updates, **policy).learner
        with torch.no_grad():
            for critics in (learner.critics, learner.targets):
                errors.append(float((critics(observation, action) - worth).square().mean().sqrt() / worth.std()))
    fresh, _, near, _, learned, followed = errors
    # From the first step on they are where values are; then they learn what tells one from another.
    assert fresh > 10.0
    assert near < 2.0
    assert learned < 0.8 * near, (fresh, near, learned)
    assert followed == pytest.approx(learned)


def test_imitation_has_no_critics_to_begin_anywhere() -> None:
    log = LoggedTransitions(small_plant.dataset())
    imitating = [begun(log, algorithm="bc", critic_returns=updates, **LOG_ALONE) for updates in (0, 30)]
    for training in imitating:
        training.epoch()
    weights = [torch.cat([p.flatten() for p in each.final_actor().net.parameters()]) for each in imitating]
    assert torch.equal(*weights)
