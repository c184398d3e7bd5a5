"""What the dynamics reward sees of an expected change where prediction and world model say nearly the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from controlkit.artifacts import Models
from controlkit.models.linear_prediction import LinearPrediction
from deploy.export.judge import Judge
from deploy.export.networks import ExpectedDeviation
from tests.deploy.plants import fitted
from tests.deploy.test_distilled import distilled_models


@pytest.fixture(scope="module")
def models() -> Models:
    """The tank's, with a linear prediction."""
    return distilled_models(observer=False)


@pytest.fixture(scope="module")
def asked() -> tuple[Tensor, Tensor]:
    """Recorded observations and commands."""
    data, _, _ = fitted()
    rows = data.transitions[:200]
    return torch.from_numpy(data.observations(rows)), torch.from_numpy(data.actions[rows])


def exact(models: Models, tremble: float) -> Models:
    """The world model on average becomes the prediction, but for weights that tremble by so much; its members differ.

    An innovation becomes a hundredth of the change's spread, as for a log without noise.
    """
    models = copy.deepcopy(models)
    dynamics, prediction = models.dynamics, models.judge.prediction
    assert isinstance(prediction, LinearPrediction)
    assert dynamics.net.skip is not None
    inputs, states = dynamics.net.skip.weight.shape[1], prediction.weight.shape[1]
    prediction.spread.fill_(0.01)
    prediction.weight[inputs:] = 0.0  # products, which a linear path does not have
    theirs, ours = dynamics.input_scaler, models.judge.input_scaler
    stretch = theirs.spread.double() / ours.spread.double()
    shift = (theirs.centre.double() - ours.centre.double()) / ours.spread.double()
    weight = prediction.weight[:inputs].double()
    generator = torch.Generator().manual_seed(1)
    elites = list(dynamics.elites)
    apart = 0.1 * torch.randn(len(elites), inputs, states, generator=generator, dtype=torch.float64)
    apart -= apart.mean(dim=0)
    with torch.no_grad():
        for place, member in enumerate(elites):
            noise = tremble * torch.randn(inputs, states, generator=generator, dtype=torch.float64)
            dynamics.net.skip.weight[member, :, :states] = (weight * stretch[:, None] + apart[place] + noise).float()
            dynamics.net.skip.bias[member, 0, :states] = (prediction.bias.double() + shift @ weight).float()
        dynamics.net.body[-1].weight.zero_()
        dynamics.net.body[-1].bias.zero_()
    return models


def doubled(models: Models, observation: Tensor, action: Tensor) -> Tensor:
    """The innovation of the expected change, all of it in double precision: (B, S)."""
    judge, dynamics = copy.deepcopy(models.judge).double(), copy.deepcopy(models.dynamics).double()
    o, a = observation.double(), action.double()
    assert judge.prediction is not None
    scaled, _ = dynamics.scaled_change(o, a)
    mean = scaled[dynamics.elites].mean(dim=0)
    seen = judge.input_scaler(torch.cat([o, a], dim=-1))
    found: Tensor = (mean - judge.prediction(o, a, seen)) / judge.prediction.spread
    return found


def test_it_is_the_expected_changes_innovation(models: Models, asked: tuple[Tensor, Tensor]) -> None:
    judge = Judge(models)
    assert judge.expected_deviation is not None
    hope = judge.expect(*asked)
    assert float(hope.deviation.abs().max()) > 0.05  # products and perceptrons have their part in it
    torch.testing.assert_close(hope.deviation.double(), doubled(models, *asked), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(judge.deviation_of(*asked, hope.change), hope.deviation, rtol=1e-3, atol=1e-3)


def test_on_an_exact_plant_it_is_more_than_rounding(models: Models, asked: tuple[Tensor, Tensor]) -> None:
    still = exact(models, tremble=1e-6)
    judge, true = Judge(still), doubled(still, *asked)
    assert judge.expected_deviation is not None
    hope = judge.expect(*asked)
    size = float(true.abs().max())
    assert size < 0.01
    error = float((hope.deviation.double() - true).abs().max())
    taken_apart = float((judge.deviation_of(*asked, hope.change).double() - true).abs().max())
    assert error < 2e-3 * size
    assert taken_apart > 20.0 * error


def test_where_the_scales_differ_or_there_is_no_linear_path_the_changes_are_compared(
    models: Models, asked: tuple[Tensor, Tensor]
) -> None:
    assert ExpectedDeviation.fits(models.dynamics, models.judge)
    other = copy.deepcopy(models)
    other.judge.change_scaler.spread.mul_(2.0)
    bare = copy.deepcopy(models)
    bare.dynamics.net.skip = None
    for changed in (other, bare):
        judge = Judge(changed)
        assert judge.expected_deviation is None
        hope = judge.expect(*asked)
        torch.testing.assert_close(hope.deviation, judge.deviation_of(*asked, hope.change))
