"""The doubly robust estimate: right where either of its halves is, and limits by fitted Q evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from controlkit.evaluation.doubly_robust import correct, ratios
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.fqe import FittedValues
from tests.evaluation.conftest import GAMMA, OPERATOR_GAIN, OPERATOR_NOISE, SIGMA, A, B, LinearPlant
from tests.evaluation.test_known_answers import named, start_states

ESTIMAND = Estimand(GAMMA, 30)


def fitted(wrong: float, errors: torch.Tensor) -> FittedValues:
    """Operator and one policy, whose Q functions are too high by `wrong`; the truth is 2."""
    values = torch.full((2, 3, 50), 2.0 + wrong, dtype=torch.float64)
    return FittedValues(
        values, values, torch.zeros(2, 3, 50, 0), torch.zeros(2), torch.zeros(2), torch.arange(errors.shape[1]), errors
    )


def estimated(found: FittedValues, weights: torch.Tensor) -> float:
    rng = np.random.default_rng(0)
    return correct(found, 1, weights, weights, 2, 5, ESTIMAND, rng).value.value


def test_a_constant_error_of_the_q_functions_is_taken_away() -> None:
    """Q too high by c has temporal-difference errors of -(1 - gamma) c everywhere, whatever the ratios are."""
    errors = torch.full((2, 400), -(1.0 - GAMMA) * 0.7, dtype=torch.float64)
    uneven = torch.linspace(0.0, 2.0, 400, dtype=torch.float64)
    assert estimated(fitted(0.7, errors), torch.ones(400, dtype=torch.float64)) == pytest.approx(2.0)
    assert estimated(fitted(0.7, errors), uneven) == pytest.approx(2.0)


def test_only_errors_where_the_policy_goes_count() -> None:
    errors = torch.zeros(2, 400, dtype=torch.float64)
    errors[:, 200:] = 5.0  # wrong where it never goes
    weights = torch.cat([torch.full((200,), 2.0), torch.zeros(200)]).double()
    assert estimated(fitted(0.0, errors), weights) == pytest.approx(2.0)
    assert estimated(fitted(0.0, errors), torch.ones(400, dtype=torch.float64)) > 3.0


def test_steps_that_every_member_was_fitted_on_are_left_out() -> None:
    errors = torch.full((2, 400), math.nan, dtype=torch.float64)
    errors[:, ::2] = -(1.0 - GAMMA) * 0.7
    assert estimated(fitted(0.7, errors), torch.ones(400, dtype=torch.float64)) == pytest.approx(2.0)


def test_ratios_are_high_where_the_policy_goes(found: Findings) -> None:
    policy = named(found, "mean operator")
    rows = found.log.rows[::5]
    mine = ratios(policy.rolled, found.model, found.recorded, found.log, rows, found.estimand)
    theirs = ratios(found.operator_rolled, found.model, found.recorded, found.log, rows, found.estimand)
    assert float(mine.mean()) == pytest.approx(1.0)
    assert float((theirs - 1.0).abs().median()) < 0.15  # the operator is where its log is
    # The policy gives -0.4 x without the hand's noise: the farther a recorded command is from that, the less it counts.
    hand = (found.log.actions[rows, 0] + OPERATOR_GAIN * found.log.frames[rows, 0]).abs()
    assert float(mine[hand < 0.1].mean()) > 2.0 * float(mine[hand > 0.6].mean())


def test_the_estimate_finds_the_true_value(plant: LinearPlant, found: Findings) -> None:
    starts = start_states(found)
    operator = plant.true_value(OPERATOR_GAIN, starts, found.estimand, OPERATOR_NOISE)
    for name, gain in (("better", 1.0), ("mean operator", OPERATOR_GAIN)):
        candidate = named(found, name)
        truth = plant.true_value(gain, starts, found.estimand)
        assert abs(candidate.doubly_robust.value.value - truth) < 0.2 * candidate.evidence.spread
        assert candidate.doubly_robust.gain.low <= truth - operator <= candidate.doubly_robust.gain.high


def test_q_functions_find_the_share_outside_a_limit(plant: LinearPlant) -> None:
    """Under u = -k x the state is Gaussian, so that the share of samples beyond a limit is known at every step."""
    limit, gain = 0.4, 0.8
    spec = plant.spec(constraints=[{"tag": "x", "low": -limit, "high": limit, "share": 0.1}])
    found = plant.assess(plant.log(rows=6000, spec=spec), plant.policy(gain))
    (estimate,) = found.candidates[0].outside_fqe
    assert estimate is not None
    starts, total = start_states(found).astype(float), 0.0
    for start in starts:
        mean, variance = float(start), 0.0
        for weight in found.estimand.weights.tolist():
            mean, variance = (A - B * gain) * mean, (A - B * gain) ** 2 * variance + SIGMA**2
            below, above = (math.erf((end - mean) / math.sqrt(2.0 * variance)) for end in (-limit, limit))
            total += weight * (1.0 - (above - below) / 2.0)
    share = total / len(starts)
    assert 0.02 < share < 0.2
    assert estimate.value == pytest.approx(share, abs=0.03)
