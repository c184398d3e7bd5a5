"""Diagnostics that decide nothing: effective sample sizes, and how well the judges of support tell false steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controlkit.config import ScalingConfig
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.importance import effective_sample_size, effective_samples, log_weights
from controlkit.evaluation.policies import EvaluatedPolicy, fit_operator
from controlkit.evaluation.support import auroc
from controlkit.models.actor import BehaviourClone
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions
from tests.evaluation.conftest import LinearPlant


@pytest.fixture(scope="module")
def log(plant: LinearPlant) -> LoggedTransitions:
    return LoggedTransitions(plant.log(rows=2000))


@pytest.fixture(scope="module")
def clone(log: LoggedTransitions, plant: LinearPlant) -> BehaviourClone:
    generator = torch.Generator().manual_seed(0)
    return fit_operator(log, CommandLimits(plant.spec()), ScalingConfig(), 300, generator)


def test_weights_are_the_ratio_of_densities(plant: LinearPlant, log: LoggedTransitions, clone: BehaviourClone) -> None:
    """Against densities written out in engineering units, step by step."""
    rows, limits = log.rows[:40], CommandLimits(plant.spec())
    found = log_weights(plant.policy(0.6), clone, log, rows, 3, limits).numpy()
    total = np.zeros(len(rows))
    for step in range(3):
        x, u = log.observe(rows + step), log.actions[rows + step]
        mean, log_std = clone.distribution(x)
        centre, spread = clone.action_scaler.invert(mean), log_std.exp() * clone.action_scaler.spread
        ratio = torch.distributions.Normal(-0.6 * x, spread).log_prob(u) - torch.distributions.Normal(
            centre, spread
        ).log_prob(u)
        total += ratio.sum(dim=1).double().numpy()
        assert found[step] == pytest.approx(total, rel=1e-3, abs=1e-3)


def test_the_operator_itself_keeps_every_stretch_and_others_lose_them(
    plant: LinearPlant, log: LoggedTransitions, clone: BehaviourClone
) -> None:
    rows, limits = log.rows[:400:2], CommandLimits(plant.spec())
    itself = EvaluatedPolicy("itself", lambda o, noise: clone(o))
    assert effective_samples(itself, clone, log, rows, 60, limits)[50] == pytest.approx(200, rel=1e-3)
    near = effective_samples(plant.policy(0.5), clone, log, rows, 60, limits)
    far = effective_samples(plant.policy(1.5), clone, log, rows, 60, limits)
    assert list(near) == [1, 2, 5, 10, 20, 50]  # not beyond the horizon
    assert list(near.values()) == sorted(near.values(), reverse=True)
    assert 200 > near[1] > far[1] > 1
    assert far[50] < 10


def test_the_effective_size_of_known_weights() -> None:
    assert float(effective_sample_size(torch.zeros(7))) == pytest.approx(7)
    assert float(effective_sample_size(torch.tensor([900.0, 0.0, 0.0]))) == pytest.approx(1)
    weights = torch.tensor([1.0, 2.0, 3.0])
    assert float(effective_sample_size(weights.log())) == pytest.approx(36 / 14)


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    higher, lower = rng.integers(0, 8, 60), rng.integers(0, 6, 50)
    pairs = (higher[:, None] > lower[None]) + 0.5 * (higher[:, None] == lower[None])
    found = auroc(torch.from_numpy(higher).float(), torch.from_numpy(lower).float())
    assert found == pytest.approx(pairs.mean())
    assert auroc(torch.ones(5), torch.zeros(4)) == 1.0
    assert auroc(torch.zeros(5), torch.zeros(4)) == 0.5


def test_an_evaluation_states_both(found: Findings) -> None:
    operator = next(each for each in found.candidates if each.name == "mean operator")
    outside = next(each for each in found.candidates if each.name == "far outside")
    assert operator.effective[10] > 3 * outside.effective[10]
    assert 0.5 < operator.support.auroc_distance < 1.0
    assert np.isnan(operator.support.auroc_reward)  # no policy brought a dynamics reward
