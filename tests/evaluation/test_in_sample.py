"""The kernel estimate from recorded commands alone: a known value, a slow version, and when it says nothing."""

from __future__ import annotations

import math

import pytest
import torch

from controlkit.config import ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import Fold
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.in_sample import LARGEST, InSample
from controlkit.evaluation.linear_values import RIDGE, with_one
from controlkit.evaluation.policies import EvaluatedPolicy, fit_operator
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.models.actor import BehaviourClone
from controlkit.objective import CommandLimits, Objective
from controlkit.replay import LoggedTransitions
from tests.evaluation.conftest import OPERATOR_GAIN, OPERATOR_NOISE, LinearPlant
from tests.evaluation.test_known_answers import named, start_states


@pytest.fixture(scope="module")
def clone(plant: LinearPlant, found: Findings) -> BehaviourClone:
    generator = torch.Generator().manual_seed(0)
    return fit_operator(found.log, CommandLimits(plant.spec()), ScalingConfig(), 100, generator)


def in_sample(
    plant: LinearPlant, log: LoggedTransitions, folds: tuple[Fold, ...], clone: BehaviourClone, estimand: Estimand
) -> InSample:
    features = ValueFeatures(log, Objective(plant.spec()), ScalingConfig())
    generator = torch.Generator().manual_seed(0)
    return InSample(log, folds, [clone] * len(folds), log.rows[:60], estimand, features, 4, generator)


@pytest.mark.parametrize(("name", "gain"), [("better", 1.0), ("mean operator", OPERATOR_GAIN)])
def test_it_finds_the_true_gain(plant: LinearPlant, found: Findings, name: str, gain: float) -> None:
    starts, candidate = start_states(found), named(found, name)
    operator = plant.true_value(OPERATOR_GAIN, starts, found.estimand, OPERATOR_NOISE)
    truth = plant.true_value(gain, starts, found.estimand) - operator
    estimate = candidate.in_sample.gain
    assert estimate is not None
    assert estimate.low <= truth <= estimate.high
    assert abs(estimate.value - truth) < 0.3 * candidate.evidence.spread
    assert candidate.in_sample.effective > candidate.in_sample.needed


def test_a_policy_whose_commands_were_never_given_is_left_alone(found: Findings) -> None:
    outside = named(found, "far outside").in_sample
    assert outside.value is None
    assert outside.gain is None
    assert outside.effective < outside.needed
    assert "recorded steps speak of the policy" in outside.reason


def test_a_policy_that_draws_its_commands_is_left_alone(
    plant: LinearPlant, found: Findings, clone: BehaviourClone
) -> None:
    estimator = in_sample(plant, found.log, found.model.folds, clone, found.estimand)
    drawn = estimator.of(EvaluatedPolicy("drawn", lambda o, noise: -0.4 * o[:, :1] + 0.1 * noise))
    assert "draws its commands" in drawn.reason
    assert math.isnan(drawn.effective)
    assert drawn.values.numel() == 0


def test_a_log_without_excitation_says_nothing(plant: LinearPlant, found: Findings) -> None:
    log = LoggedTransitions(plant.log(rows=800, noise=0.0))
    still = fit_operator(log, CommandLimits(plant.spec()), ScalingConfig(), 50, torch.Generator().manual_seed(0))
    folds = tuple(_without(fold, log, number) for number, fold in enumerate(found.model.folds))
    assert "needed" in in_sample(plant, log, folds, still, found.estimand).of(plant.policy(1.6)).reason


def test_it_is_what_a_slow_loop_gives(
    plant: LinearPlant, linear_log: TransitionDataset, found: Findings, clone: BehaviourClone
) -> None:
    """With one resample that holds every row once: weights, equations and extrapolation, row by row."""
    log = LoggedTransitions(linear_log.slice(0, 700))
    folds = tuple(_without(fold, log, number) for number, fold in enumerate(found.model.folds))
    estimand = Estimand(0.8, 5)
    estimator = in_sample(plant, log, folds, clone, estimand)
    estimator._resamples.counts.fill_(1.0)
    policy = plant.policy(0.6)
    answer = estimator.of(policy)
    features = ValueFeatures(log, Objective(plant.spec()), ScalingConfig())

    def q(state: float, action: float) -> torch.Tensor:
        return with_one(features(torch.tensor([[state]]), torch.tensor([[action]])))[0]

    x, u = log.frames[:, 0].tolist(), log.actions[:, 0].tolist()
    mean, log_std = clone.distribution(log.frames)
    spread = (log_std.exp() * clone.action_scaler.spread)[:, 0].tolist()
    centre = clone.action_scaler.invert(mean)[:, 0].tolist()
    rows = [row for row in log.rows.tolist() if row + 1 in set(log.rows.tolist())]

    def solved(bandwidth: float) -> torch.Tensor:
        weight = []
        for row in rows:
            far, odd = ((u[row + 1] - to) / spread[row + 1] for to in (-0.6 * x[row + 1], centre[row + 1]))
            weight.append(math.exp(0.5 * odd**2 - 0.5 * (far / bandwidth) ** 2))
        w = torch.tensor(weight, dtype=torch.float64)
        w = (w / w.mean()).clamp(max=LARGEST)
        w = w / w.mean()
        now = torch.stack([q(x[row], u[row]) for row in rows])
        after = torch.stack([q(x[row + 1], u[row + 1]) for row in rows])
        reward = 0.2 * log.rewards[rows].double()
        held = RIDGE * 0.2 * len(rows) * torch.eye(now.shape[1], dtype=torch.float64)
        held[-1, -1] = 1e-9 * len(rows)
        found = torch.zeros(now.shape[1], dtype=torch.float64)
        for _ in range(5):
            found = torch.linalg.solve(now.T @ (w[:, None] * now) + held, now.T @ (w * (reward + 0.8 * after @ found)))
        return found / estimand.weight

    both = 2.0 * solved(answer.bandwidth / math.sqrt(2.0)) - solved(answer.bandwidth)
    slow = [float(q(x[row], -0.6 * x[row]) @ both) for row in log.rows[:60].tolist()]
    assert answer.values[0].tolist() == pytest.approx(slow, rel=1e-3, abs=1e-4)


def _without(fold: Fold, log: LoggedTransitions, number: int) -> Fold:
    """A fold that only tells its third of another log."""
    third = len(log.rows) // 3
    left_out = log.rows[number * third : (number + 1) * third if number < 2 else len(log.rows)]
    return Fold(fold.world, left_out, log, fold.residuals, fold.noise)
