"""The plants whose truth is known, and how far from a log a question is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controlkit.studies.distance import Distance, Questions, Trajectories
from controlkit.studies.plants import PERIOD_S, PLANTS, TANK_PARAMS, KnownPlant, TankParams, get_plant, next_tank_state
from envs.refrigerator import next_temperature


@pytest.fixture(params=list(PLANTS))
def plant(request: pytest.FixtureRequest) -> KnownPlant:
    """Each of them."""
    return get_plant(request.param)


def test_a_tank_at_rest_stays_there() -> None:
    """At a steady state both balances vanish: q (Cf - C) = k C, and the heat of the reaction is carried away."""
    params = TANK_PARAMS
    temperature = 350.0
    rate = params.rate_per_min * np.exp(-params.activation_k / temperature)
    concentration = params.exchange_per_min * params.feed_mol_l / (params.exchange_per_min + rate)
    heat = params.rise_k_l_mol * rate * concentration + params.exchange_per_min * (350.0 - temperature)
    coolant = temperature - heat / params.cooling_per_min
    after = next_tank_state(np.array([[concentration, temperature, 350.0]]), np.array([coolant]))
    assert after[0] == pytest.approx([concentration, temperature], rel=1e-4)
    assert coolant == pytest.approx(300.0, abs=1.0)  # the textbook's operating point


def test_the_tank_follows_its_balances() -> None:
    """Against Euler steps of a thousandth of the length."""
    rng = np.random.default_rng(0)
    frame = rng.uniform([0.3, 335.0, 345.0], [0.65, 352.0, 355.0], (40, 3))
    coolant = rng.uniform(280.0, 320.0, 40)
    (concentration, temperature, feed), params = frame.T, TANK_PARAMS
    h = PERIOD_S / 60.0 / 20_000
    for _ in range(20_000):
        rate = params.rate_per_min * np.exp(-params.activation_k / temperature) * concentration
        drift = params.exchange_per_min * (feed - temperature) + params.cooling_per_min * (coolant - temperature)
        concentration, temperature = (
            concentration + h * (params.exchange_per_min * (params.feed_mol_l - concentration) - rate),
            temperature + h * (drift + params.rise_k_l_mol * rate),
        )
    wanted = np.stack([concentration, temperature], axis=1)
    assert next_tank_state(frame, coolant) == pytest.approx(wanted, rel=2e-4)
    assert next_tank_state(frame, coolant, TankParams(substeps=2)) != pytest.approx(wanted, rel=2e-4)
    # Nothing a straight line could say: the same step of temperature counts for more where it is hotter.
    hotter = np.array([[0.5, 330.0 + 15 * i, 350.0] for i in range(3)])
    change = next_tank_state(hotter, np.full(3, 300.0))[:, 0] - 0.5
    assert (change[2] - change[1]) / (change[1] - change[0]) > 2.0


def test_logs_hold_what_the_plants_do(plant: KnownPlant) -> None:
    data = plant.log(3, 400)
    assert len(data.transitions) == 400
    frames, actions = data.frames.astype(np.float64), data.actions.astype(np.float64)
    residual = data.frames[1:, : plant.states] - plant.step(frames[:-1], actions[:-1])
    assert residual.std(axis=0) == pytest.approx(plant.noise, rel=0.15)
    hand = actions[:-1] - plant.law(frames[:-1])
    assert np.abs(hand).max() < 6 * plant.hand.max()
    assert np.array_equal(plant.log(3, 400).frames, data.frames)
    assert not np.array_equal(plant.log(4, 400).frames, data.frames)
    ranges = np.array([plant.spec.tags[tag].range for tag in plant.spec.frame_tags])
    assert ((frames >= ranges[:, 0]) & (frames <= ranges[:, 1])).all()


def test_the_refrigerator_is_the_benchmarks() -> None:
    plant = get_plant("refrigerator")
    frame, power = np.array([[5.0, 0.0], [5.0, 1.0]]), np.array([[1.0], [2.0]])
    assert plant.step(frame, power)[:, 0] == pytest.approx(next_temperature(frame[:, 0], power[:, 0], frame[:, 1]))


def test_distance_is_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.0], [3.0, 0.5]])
    points = rng.normal(size=(5000, 2)) @ mixing.T + [5.0, -2.0]
    distance = Distance.fit(points)
    asked = np.array([[5.0, -2.0], [6.0, -2.0], [6.0, 1.0]])
    covariance = np.cov(points.T) + np.diag((1e-3 * np.abs(points).max(axis=0)) ** 2)
    centred = asked - points.mean(axis=0)
    wanted = [np.sqrt(z @ np.linalg.solve(covariance, z)) for z in centred]
    assert distance(asked) == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert distance(asked)[2] < distance(asked)[1]  # along the cloud it is nearer than across
    still = np.column_stack([points[:, 0], np.zeros(len(points))])
    still[:, 1] = 1.0
    assert np.isfinite(Distance.fit(still)(still)).all()


def test_questions_reach_from_the_log_to_far_away(plant: KnownPlant) -> None:
    data = plant.log(0, 1000)
    points = np.concatenate([data.frames[:-1], data.actions[:-1]], axis=1).astype(np.float64)
    distance = Distance.fit(points)
    asked = Questions.draw(plant, data, distance, 3000)
    frame, command = asked.frame.double().numpy(), asked.command.double().numpy()
    assert asked.truth.numpy() == pytest.approx(plant.step(frame, command), rel=1e-4, abs=1e-4)
    noise = (asked.happened - asked.truth).double().numpy()
    assert noise.std(axis=0) == pytest.approx(plant.noise, rel=0.1)
    assert np.median(distance(points)) < np.median(asked.distance)
    assert asked.distance.min() < 1.0
    assert asked.distance.max() > 20.0
    assert torch.equal(asked.frame, Questions.draw(plant, data, distance, 3000).frame)


def test_trajectories_are_the_plants_own(plant: KnownPlant) -> None:
    data = plant.log(0, 1000)
    points = np.concatenate([data.frames[:-1], data.actions[:-1]], axis=1).astype(np.float64)
    distance = Distance.fit(points)
    true = Trajectories.draw(plant, data, distance, 50, 6)
    assert true.frames.shape == (7, 50, len(plant.spec.frame_tags))
    along = []
    for now, following in zip(true.frames[:-1], true.frames[1:], strict=True):
        command = true.act(now)
        assert following[:, : plant.states] == pytest.approx(plant.step(now, command))
        along.append(distance(np.concatenate([now, command], axis=1)))
    assert true.distance == pytest.approx(np.mean(along, axis=0))
    # Without a share of its own a controller is the operator.
    plain = Trajectories(true.frames, true.distance, plant, true.usual, np.ones((50, 1)), np.zeros((50, plant.states)))
    assert plain.act(true.frames[0]) == pytest.approx(plant.clipped(plant.law(true.frames[0])))
