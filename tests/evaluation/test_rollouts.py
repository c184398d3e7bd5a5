"""Rollouts, returns, support and limits against slow, obvious versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from controlkit.config import ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.evaluation.estimand import Estimand, realised_returns
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.limits import actuator_use, limits_of
from controlkit.evaluation.model_rollouts import roll_out_paired
from controlkit.evaluation.policies import EvaluatedPolicy, fit_operator, operator_policy
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions
from tests.evaluation.conftest import OPERATOR_GAIN, TINY, LinearPlant

SHORT = Estimand(gamma=0.8, horizon=6)


def test_weights_add_up_and_fall() -> None:
    weights = SHORT.weights
    assert float(weights.sum()) == pytest.approx(1.0)
    assert (weights[1:] / weights[:-1]).tolist() == pytest.approx([0.8] * 5)
    assert SHORT.weight == pytest.approx(1 - 0.8**6)


def test_realised_returns_are_weighted_sums(plant: LinearPlant) -> None:
    data = plant.log(rows=30)
    log, estimand = LoggedTransitions(data), Estimand(0.5, 2)
    expected = [(2 / 3) * data.rewards[row] + (1 / 3) * data.rewards[row + 1] for row in (0, 11)]
    assert realised_returns(log, torch.tensor([0, 11]), estimand).tolist() == pytest.approx(expected)


def test_a_rollout_is_what_a_slow_loop_gives(plant: LinearPlant, found: Findings) -> None:
    fold, log, policy = found.model.folds[0], found.log, plant.policy(1.0)
    rows = found.starts.rows[:4]
    rolled = roll_out_paired(fold, policy, log, rows, SHORT, seed=5)
    generator = torch.Generator().manual_seed(5)
    members = len(fold.world.ensemble.elites)
    draws = []
    for _ in range(SHORT.horizon):
        draws.append(torch.randint(len(fold.noise), (members * 4,), generator=generator))
        torch.empty(members * 4, 1).normal_(generator=generator)
    for member in range(members):
        for start in range(4):
            x, value = float(log.frames[rows[start], 0]), 0.0
            for step, weight in enumerate(SHORT.weights.tolist()):
                means, _ = fold.world.ensemble(torch.tensor([[x]]), torch.tensor([[-x]]))
                x = float(means[member, 0, 0]) + float(fold.noise[draws[step][member * 4 + start], 0])
                value -= weight * x**2
            assert float(rolled.returns[member, start]) == pytest.approx(value, rel=1e-4)


def test_policies_meet_the_same_noise(plant: LinearPlant, found: Findings) -> None:
    fold, rows = found.model.folds[1], found.starts.rows[:10]
    one, other = (
        roll_out_paired(fold, plant.policy(gain), found.log, rows, SHORT, seed=1) for gain in (0.9, 0.9 + 1e-4)
    )
    again = roll_out_paired(fold, plant.policy(0.9), found.log, rows, SHORT, seed=1)
    assert torch.equal(one.frames, again.frames)
    assert float((one.frames - other.frames).abs().max()) < 1e-3  # other noise would give about 0.5


def test_a_fold_draws_no_noise_from_its_own_block(found: Findings) -> None:
    pooled = torch.cat([fold.residuals for fold in found.model.folds])
    centred, size, first = pooled - pooled.mean(dim=0), len(found.model.folds[0].residuals), found.model.folds[0]
    assert torch.equal(first.noise[:size], centred[size : 2 * size])
    assert torch.equal(first.noise[size:], centred[size:])
    last = found.model.folds[-1]
    assert torch.equal(last.noise[-len(last.residuals) :], centred[: len(last.residuals)])


def test_clamp_and_rate_limit_are_those_of_the_exported_controller(plant: LinearPlant) -> None:
    spec = plant.spec(tags={"u": {"max_rate_per_s": 0.25, "limits": [-1, 0.8]}})
    data = plant.log(rows=800, spec=spec)
    found = plant.assess(data, plant.policy(40.0), effort=TINY)
    actions = torch.cat([r.actions for r in found.candidates[0].rolled], dim=1)
    assert float(actions.min()) >= -1.0
    assert float(actions.max()) <= 0.8
    assert float((actions[1:] - actions[:-1]).abs().max()) <= 0.25 + 1e-6
    assert float((actions[1:] - actions[:-1]).abs().max()) > 0.24


def test_rollouts_end_at_a_trip(plant: LinearPlant) -> None:
    spec = plant.spec(episodes={"terminated": [{"tag": "x", "above": 4.0}]})
    found = plant.assess(plant.log(rows=800, spec=spec), plant.policy(-1.0), effort=TINY)  # unstable: c = 1.4
    candidate = found.candidates[0]
    trip = next(limit for limit in candidate.evidence.limits if "trip" in limit.name)
    rolled = candidate.rolled[0]
    slow = [
        any(float(rolled.frames[step + 1, b, 0]) > 4.0 for step in range(len(rolled.actions)) if rolled.alive[step, b])
        for b in range(rolled.frames.shape[1])
    ]
    assert trip.policy == pytest.approx(np.mean(slow), abs=0.1)
    assert not trip.holds
    assert candidate.decision.verdict != "GO TO SHADOW"
    after = rolled.frames[1:, :, 0].gt(4.0).cumsum(dim=0)[:-1].gt(0)
    assert not bool(rolled.alive[1:][after].any())


def test_support_distance_is_that_of_brute_force(found: Findings) -> None:
    recorded = found.recorded
    points = found.candidates[0].support.points[:30]
    distance, nearest = recorded.distance(points)
    for point, far, near in zip(points, distance, nearest, strict=True):
        every = ((recorded.reference - point) / recorded.spread).square().sum(dim=1).sqrt()
        assert float(every.sort().values[4]) == pytest.approx(float(far), rel=1e-3, abs=1e-4)
        assert float(((near - point) / recorded.spread).norm()) == pytest.approx(float(every.min()), rel=1e-3, abs=1e-4)


def test_actuator_use_of_a_known_sequence(plant: LinearPlant) -> None:
    spec = plant.spec(tags={"u": {"limits": [0, 2]}})
    actions = torch.tensor([0.0, 1.0, 0.5, 2.0, 2.0, 1.0]).reshape(6, 1, 1)
    use = actuator_use(spec, CommandLimits(spec), actions, torch.ones(6, 1, dtype=torch.bool))[0]
    assert use.travel == pytest.approx((1 + 0.5 + 1.5 + 0 + 1) / 5)
    assert use.fastest == pytest.approx(1.5)
    assert use.reversals == pytest.approx(2 / 4)
    assert use.saturated == pytest.approx(3 / 6)


def test_limits_come_from_the_plant_file(plant: LinearPlant) -> None:
    spec = plant.spec(
        tags={"x": {"limits": [-5, 5]}},
        constraints=[{"tag": "x", "high": 2, "share": 0.05}],
        episodes={"terminated": [{"tag": "x", "above": 10}]},
    )
    found: list[Any] = [(limit.name, limit.allowed) for limit in limits_of(spec)]
    assert found == [
        ("Constraint x at most 2 K", 0.05),
        ("Limit of x within -5 .. 5 K", 0.0),
        ("No trip of the plant", 0.0),
    ]


def test_a_linear_operator_is_cloned_well(plant: LinearPlant, linear_log: TransitionDataset) -> None:
    limits = CommandLimits(linear_log.spec)
    generator = torch.Generator().manual_seed(0)
    clone = fit_operator(LoggedTransitions(linear_log), limits, ScalingConfig(), 200, generator)
    policy: EvaluatedPolicy = operator_policy([clone])
    x = torch.linspace(-0.8, 0.8, 9).unsqueeze(1)
    mean = policy.act(x, torch.zeros(9, 1))
    assert float((mean + OPERATOR_GAIN * x).abs().max()) < 0.06
    assert float((policy.act(x, torch.ones(9, 1)) - mean).mean()) == pytest.approx(0.4, rel=0.08)


def test_the_back_test_finds_the_known_noise(found: Findings) -> None:
    assert float(found.model.one_step_rmse[0]) == pytest.approx(0.2, rel=0.05)
    assert abs(float(found.model.autocorrelation[0])) < 0.1
    assert found.back_test.fan_coverage == pytest.approx(0.9, abs=0.06)
    # Open loop the error settles at sigma / sqrt(1 - 0.9^2).
    assert float(found.back_test.rmse[-10:].mean()) == pytest.approx(0.2 / np.sqrt(1 - 0.81), rel=0.25)
