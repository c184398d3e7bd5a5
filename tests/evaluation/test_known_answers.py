"""Estimates against a plant whose values are known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controlkit.dataset import TransitionDataset
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.policies import EvaluatedPolicy
from tests.evaluation.conftest import OPERATOR_GAIN, OPERATOR_NOISE, SMALL, TINY, LinearPlant


def start_states(found: Findings) -> np.ndarray:
    return found.log.frames[found.starts.rows, 0].numpy()


def named(found: Findings, name: str) -> CandidateFindings:
    return next(candidate for candidate in found.candidates if candidate.name == name)


@pytest.mark.parametrize(("name", "gain"), [("better", 1.0), ("mean operator", OPERATOR_GAIN)])
def test_both_estimators_find_the_true_value(plant: LinearPlant, found: Findings, name: str, gain: float) -> None:
    candidate, starts = named(found, name), start_states(found)
    truth = plant.true_value(gain, starts, found.estimand)
    spread = candidate.evidence.spread
    assert abs(candidate.by_model.value - truth) < 0.15 * spread
    assert abs(candidate.by_fqe.value - truth) < 0.15 * spread
    assert candidate.by_model.low <= truth <= candidate.by_model.high
    assert candidate.by_fqe.low <= truth <= candidate.by_fqe.high


def test_the_interval_of_the_gain_holds_the_true_gain(plant: LinearPlant, found: Findings) -> None:
    starts = start_states(found)
    operator = plant.true_value(OPERATOR_GAIN, starts, found.estimand, OPERATOR_NOISE)
    gain = plant.true_value(1.0, starts, found.estimand) - operator
    candidate = named(found, "better")
    assert candidate.gain.low <= gain <= candidate.gain.high
    assert candidate.gain.high - candidate.gain.low < 4 * gain  # and says something


def test_the_operator_is_found_again(plant: LinearPlant, found: Findings) -> None:
    truth = plant.true_value(OPERATOR_GAIN, start_states(found), found.estimand, OPERATOR_NOISE)
    for estimate in (found.logged, found.operator_model, found.operator_fqe, found.operator_doubly_robust):
        assert estimate.low <= truth <= estimate.high


def test_verdicts(found: Findings) -> None:
    assert named(found, "better").decision.verdict == "GO TO SHADOW"
    assert named(found, "far outside").decision.verdict == "NO VERDICT"


def test_a_policy_far_outside_the_log_is_refused_and_the_tag_is_named(found: Findings) -> None:
    candidate = named(found, "far outside")
    assert candidate.support.share < 0.5
    assert not next(check for check in candidate.decision.checks if check.name == "support").passed
    chief = candidate.support.outside[0]
    assert chief.low > chief.log_high or chief.high < chief.log_low
    assert {tag.tag for tag in candidate.support.outside} <= {"x", "u"}


def test_a_policy_that_leaves_the_log_slowly_is_refused_by_where_it_ends(plant: LinearPlant) -> None:
    # x' = x + 0.03 + w: it starts where the log is, and walks off.
    drifting = EvaluatedPolicy("drifting", lambda o, noise: 0.2 * o[:, :1] + 0.06)
    candidate = plant.assess(plant.log(), drifting, effort=TINY).candidates[0]
    support = candidate.support
    assert float(support.by_step[:5].mean()) > 0.95
    last = support.by_step[-(-len(support.by_step) // 4) * -1 :]
    assert support.late == pytest.approx(float(last.mean()), abs=1e-6)
    assert support.late < 0.8 < float(support.by_step[:10].mean())
    check = next(check for check in candidate.decision.checks if check.name == "support to the end")
    assert not check.passed
    assert candidate.decision.verdict == "NO VERDICT"


def test_a_policy_inside_the_log_is_supported(found: Findings) -> None:
    support = named(found, "mean operator").support
    assert support.share > 0.95
    assert support.held_out == pytest.approx(0.995, abs=0.005)


def test_a_worse_policy_is_a_no_go(plant: LinearPlant) -> None:
    worse = EvaluatedPolicy("worse", lambda o, noise: -OPERATOR_GAIN * o[:, :1] + 0.2 + OPERATOR_NOISE * noise)
    # A coarse model would be contradicted by FQE, which takes its errors away.
    effort = replace(SMALL, model_updates=200)
    candidate = plant.assess(plant.log(rows=6000, seed=1), worse, effort=effort).candidates[0]
    assert candidate.decision.verdict == "NO-GO"
    assert candidate.gain.high < 0.0


def test_a_broken_constraint_is_no_go(plant: LinearPlant) -> None:
    spec = plant.spec(constraints=[{"tag": "x", "low": -0.25, "high": 0.25, "share": 0.1}])
    offset = plant.assess(
        plant.log(spec=spec), plant.policy(0.6, offset=0.6, name="off centre"), effort=TINY
    ).candidates[0]
    limit = offset.evidence.limits[0]
    assert limit.low > 0.1
    assert limit.policy > limit.operator
    assert offset.decision.verdict in ("NO-GO", "NO VERDICT")
    assert not limit.holds


def test_a_log_without_excitation_supports_no_other_policy(plant: LinearPlant) -> None:
    found = plant.assess(plant.log(noise=0.0), plant.policy(1.6, name="other"), effort=TINY)
    assert found.candidates[0].decision.verdict not in ("GO TO SHADOW", "NO-GO")


def test_an_unlogged_cause_is_flagged(plant: LinearPlant) -> None:
    """The operator answers a slow disturbance that is not logged and that moves the state: commands look harmful."""
    rng = np.random.default_rng(0)
    rows, d = 3000, 0.0
    x, u = np.zeros((rows, 1)), np.zeros((rows, 1))
    for row in range(rows):
        d = 0.97 * d + 0.2 * rng.standard_normal()
        u[row] = -0.4 * x[row] - 1.5 * d + 0.05 * rng.standard_normal()
        if row + 1 < rows:
            x[row + 1] = 0.9 * x[row] + 0.5 * u[row] + d + 0.1 * rng.standard_normal()
    data = TransitionDataset.from_frames(
        plant.spec(),
        frames=x.astype(np.float32),
        actions=u.astype(np.float32),
        episode=np.zeros(rows, dtype=np.int64),
        time_ns=np.arange(rows, dtype=np.int64) * 10**9,
    )
    fooled = plant.assess(data, plant.policy(-0.2, name="fooled"), effort=TINY).candidates[0]
    assert fooled.evidence.unexplained > 0.6
    assert any("not logged" in warning for warning in fooled.decision.warnings)


def test_a_linear_operator_leaves_nothing_unexplained(found: Findings) -> None:
    assert abs(found.candidates[0].evidence.unexplained) < 0.1
    assert not any("not logged" in warning for warning in found.candidates[0].decision.warnings)


def test_same_seed_same_numbers(plant: LinearPlant, linear_log: TransitionDataset) -> None:
    one, again, other = (
        plant.assess(linear_log, plant.policy(1.0), effort=TINY, seed=seed).candidates[0] for seed in (4, 4, 5)
    )
    assert one.gain == again.gain
    assert one.support.share == again.support.share
    assert one.gain != other.gain
