"""Fitted Q evaluation: its regressions against a slow loop, its baseline against a model that is wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from controlkit.config import ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.errors import TrainingError
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import EvaluationModel
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.fqe import fit_values
from controlkit.evaluation.linear_values import RIDGE, LinearRegression, Resamples, with_one
from controlkit.evaluation.model_rollouts import roll_out_folds, roll_out_paired, roll_out_together, values
from controlkit.evaluation.model_values import ModelValues
from controlkit.evaluation.policies import EvaluatedPolicy
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.objective import Objective
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests.evaluation.conftest import OPERATOR_GAIN, OPERATOR_NOISE, LinearPlant

ESTIMAND = Estimand(0.8, 20)


def test_regressions_are_what_a_slow_loop_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    now, after = (torch.empty(103, 2).normal_(generator=generator) for _ in range(2))
    reward = torch.empty(103, 2).normal_(generator=generator).double()
    weight = torch.rand(103, generator=generator)
    resamples = Resamples.draw(103, 10, 3, generator)
    found = LinearRegression(now, resamples, 0.9, weight).iterate(reward, with_one(after), 4)
    for member in range(3):
        counts = resamples.counts[member]
        rows = [t for t in range(103) for _ in range(int(counts[t // resamples.block]))]
        x, following = with_one(now)[rows], with_one(after)[rows]
        held = RIDGE * (1.0 - 0.9) * 103 * torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
        q = torch.zeros(3, 2, dtype=torch.float64)
        for _ in range(4):
            target = reward[rows] + 0.9 * following @ q
            heavy = x * weight[rows].double().unsqueeze(1)
            q = torch.linalg.solve(heavy.T @ x + held, heavy.T @ target)
        assert torch.allclose(found[member], q, atol=1e-6)


def test_regressions_that_grow_without_end_stay_numbers_and_disagree() -> None:
    generator = torch.Generator().manual_seed(0)
    now = torch.empty(200, 2).normal_(generator=generator)
    reward = torch.empty(200, 1).normal_(generator=generator).double()
    resamples = Resamples.draw(200, 10, 6, generator)
    found = LinearRegression(now, resamples, 0.99).iterate(reward, with_one(-9.0 * now.flip(1)), 500)
    assert bool(torch.isfinite(found).all())
    assert float(found.abs().max()) > 1e3  # far beyond all rewards, so that it agrees with nothing


def drawn_log() -> tuple[Tensor, Resamples]:
    """(T, F) recorded features, and bootstrap samples of them."""
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(3, 3, generator=generator)
    now = torch.randn(900, 3, generator=generator) @ mixed
    now = (now - now.mean(dim=0)) / now.std(dim=0)
    return now, Resamples.draw(len(now), 10, 4, generator)


def test_features_beyond_the_recorded_ones_are_drawn_back_to_their_edge() -> None:
    now, resamples = drawn_log()
    regression = LinearRegression(now, resamples, 0.9)
    recorded = with_one(now)
    inverse = torch.linalg.inv(recorded.T @ recorded)
    leverage = torch.einsum("bi,ij,bj->b", recorded, inverse, recorded)
    edge = float(leverage.sort().values[round(0.999 * len(now)) - 1])
    far = with_one(torch.cat([40.0 * now[:50], now[:50]]))
    found = regression.within(far)
    after = torch.einsum("bi,ij,bj->b", found, inverse, found)
    assert float(after.max()) < edge * 1.01
    assert float((found[:50, :-1].norm(dim=1) / far[:50, :-1].norm(dim=1)).max()) < 0.5
    direction = [torch.nn.functional.normalize(each[:50, :-1], dim=1) for each in (found, far)]
    torch.testing.assert_close(*direction)  # towards the mean, and the constant stays
    assert bool((found[:, -1] == 1.0).all())
    inside = torch.einsum("bi,ij,bj->b", far[50:], inverse, far[50:]) < edge * 0.99
    assert int(inside.sum()) >= 48
    torch.testing.assert_close(found[50:][inside], far[50:][inside])


def test_steps_far_outside_the_log_do_not_make_the_regressions_grow() -> None:
    """In every twelfth recorded state the policy would do what nobody has done."""
    now, resamples = drawn_log()
    after = with_one(0.8 * now)
    after[::12, :-1] *= 50.0
    reward = torch.randn(len(now), 1, generator=torch.Generator().manual_seed(4))
    regression = LinearRegression(now, resamples, 0.9)
    grown, held = (float(regression.iterate(reward, x, 60).abs().max()) for x in (after, regression.within(after)))
    assert grown > 1e3
    assert held < 5.0


def test_resamples_hold_as_many_blocks_as_the_log() -> None:
    resamples = Resamples.draw(103, 10, 50, torch.Generator().manual_seed(1))
    assert resamples.counts.shape == (50, 11)
    assert resamples.counts.sum(dim=1).tolist() == [11.0] * 50
    unseen = resamples.unseen(torch.tensor([0, 9, 10, 102]))
    assert torch.equal(unseen[:, 0], unseen[:, 1])
    assert torch.equal(unseen[:, 3], resamples.counts[:, 10] == 0)


def test_policies_side_by_side_are_rolled_out_as_alone(plant: LinearPlant, found: Findings) -> None:
    fold, rows = found.model.folds[0], found.starts.rows[:7]
    policies = [
        plant.policy(0.9),
        EvaluatedPolicy("noisy", lambda o, noise: -0.4 * o[:, :1] + noise),
        plant.policy(0.3),
    ]
    together = roll_out_together(fold, policies, found.log, rows, ESTIMAND, seed=3)
    for policy, beside in zip(policies, together, strict=True):
        alone = roll_out_paired(fold, policy, found.log, rows, ESTIMAND, seed=3)
        assert torch.allclose(beside.frames, alone.frames, atol=1e-5)
        assert torch.allclose(beside.returns, alone.returns, atol=1e-5)
        assert torch.allclose(beside.visited, alone.visited, atol=1e-5)
        assert beside.marks == alone.marks


def test_visited_states_are_those_of_the_watched_rollouts(plant: LinearPlant, found: Findings) -> None:
    rolled = roll_out_paired(
        found.model.folds[0], plant.policy(0.9), found.log, found.starts.rows[:7], ESTIMAND, seed=3
    )
    assert rolled.marks == tuple(range(11))
    for mark, visited in zip(rolled.marks, rolled.visited, strict=True):
        assert torch.equal(visited, rolled.frames[mark, rolled.watched])  # without history a state is its frame


def shifted(model: EvaluationModel, offset: float) -> EvaluationModel:
    """The same model with a drift of its own."""
    folds = tuple(replace(fold, noise=fold.noise + offset) for fold in model.folds)
    return replace(model, folds=folds)


@pytest.fixture(scope="module")
def corrected(plant: LinearPlant, found: Findings) -> tuple[float, float, float]:
    """The gain of u = -0.8 x over the operator: the truth, by a model that drifts, and by FQE that starts from it."""
    operator = EvaluatedPolicy("operator", lambda o, noise: -OPERATOR_GAIN * o[:, :1] + OPERATOR_NOISE * noise)
    policies, log, estimand = [operator, plant.policy(0.8)], found.log, found.estimand
    wrong, starts = shifted(found.model, 0.15), found.starts.rows
    rolled = roll_out_folds(wrong, [[each] * len(wrong.folds) for each in policies], log, starts, estimand, 0)
    objective = Objective(plant.spec())
    features = ValueFeatures(log, objective, ScalingConfig())
    generator = torch.Generator().manual_seed(0)
    baseline = ModelValues(rolled, policies, wrong, log, features, estimand, objective, 100, generator)
    fitted = fit_values(policies, log, starts, estimand, features, baseline, 8, generator, Silent())
    x = log.frames[starts, 0].numpy()
    truth = plant.true_value(0.8, x, estimand) - plant.true_value(OPERATOR_GAIN, x, estimand, OPERATOR_NOISE)
    model = float((values(rolled[1]) - values(rolled[0])).mean())
    return truth, model, float((fitted.values[1] - fitted.values[0]).mean())


def test_fqe_takes_away_what_a_wrong_model_adds(corrected: tuple[float, float, float]) -> None:
    truth, model, fqe = corrected
    assert abs(model - truth) > 0.05
    assert abs(fqe - truth) < 0.3 * abs(model - truth)


def test_without_a_baseline_a_quadratic_value_is_found(plant: LinearPlant, found: Findings) -> None:
    """The exact value is linear in the features, so that plain fitted Q evaluation has it, too."""
    features = ValueFeatures(found.log, Objective(plant.spec()), ScalingConfig())
    generator = torch.Generator().manual_seed(0)
    fitted = fit_values(
        [plant.policy(0.8)], found.log, found.starts.rows, found.estimand, features, None, 8, generator, Silent()
    )
    truth = plant.true_value(0.8, found.log.frames[found.starts.rows, 0].numpy(), found.estimand)
    assert float(fitted.values.mean()) == pytest.approx(truth, abs=0.15 * float(found.starts.returns.std()))


def test_only_gains_are_shrunk_and_only_where_they_are_too_noisy(plant: LinearPlant, found: Findings) -> None:
    features = ValueFeatures(found.log, Objective(plant.spec()), ScalingConfig())
    policies, starts, results = [plant.policy(0.5), plant.policy(0.9)], found.starts.rows, []
    for exact in (np.inf, 1e-9):
        generator = torch.Generator().manual_seed(0)
        results.append(
            fit_values(policies, found.log, starts, ESTIMAND, features, None, 8, generator, Silent(), exact=exact)
        )
    for fitted in results:
        assert torch.equal(fitted.plain, results[0].values)
        assert torch.equal(fitted.values[0], fitted.plain[0])
    assert not torch.equal(results[1].values[1], results[1].plain[1])


def test_values_that_are_no_numbers_are_refused(plant: LinearPlant, linear_log: TransitionDataset) -> None:
    rewards = linear_log.rewards.copy()
    rewards[2000] = np.inf
    log = LoggedTransitions(replace(linear_log, rewards=rewards))
    features = ValueFeatures(log, Objective(plant.spec()), ScalingConfig())
    starts, generator = log.rows[:20], torch.Generator().manual_seed(0)
    with pytest.raises(TrainingError, match="not numbers"):
        fit_values([plant.policy(0.8)], log, starts, ESTIMAND, features, None, 3, generator, Silent())
