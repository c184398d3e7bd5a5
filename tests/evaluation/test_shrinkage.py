"""How much a noisy estimate is shrunk: known answers, and regressions where the noise and the signal are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from controlkit.evaluation.linear_values import RIDGES, LinearRegression, Resamples, with_one
from controlkit.evaluation.shrinkage import choose_shrinkage


def members(*figures: tuple[float, float]) -> Tensor:
    """(K, M) estimates of two members, of a given mean and standard error."""
    return torch.tensor([[mean - error / math.sqrt(2.0), mean + error / math.sqrt(2.0)] for mean, error in figures])


@pytest.mark.parametrize(
    ("estimates", "chosen"),
    [
        (members((1.0, 0.1), (0.0, 0.01)), 0),  # exact enough as it is, whatever the next one says
        (members((1.0, 0.5), (0.8, 0.3), (0.7, 0.15), (0.6, 0.01)), 2),  # the first that is
        (members((1.0, 0.5), (0.8, 0.3), (0.1, 0.15), (0.0, 0.01)), 1),  # 0.1 is too far from 0.5 .. 1.5
        (members((1.0, 0.5), (0.1, 0.3), (0.9, 0.1)), 0),  # what contradicts ends the search
        (members((1.0, 0.9), (0.9, 0.8), (0.8, 0.7)), 2),  # none is: the last
        (torch.tensor([[3.0], [1.0]]), 0),  # one member tells no error
    ],
)
def test_the_first_estimate_that_is_exact_enough_is_taken_while_none_contradicts(
    estimates: Tensor, chosen: int
) -> None:
    assert choose_shrinkage(estimates, exact=0.2) == chosen


def test_ridges_are_what_a_slow_loop_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    now = torch.randn(103, 2, generator=generator)
    reward = torch.randn(103, 2, generator=generator).double()
    resamples = Resamples.draw(103, 10, 3, generator)
    found = LinearRegression(now, resamples, 0.9).first_shrunk(reward)
    assert found.shape == (3, 3, 2 + len(RIDGES))
    for member in range(3):
        counts = resamples.counts[member]
        rows = [t for t in range(103) for _ in range(int(counts[t // resamples.block]))]
        x, y = with_one(now)[rows], reward[rows, 0]
        for number, share in enumerate(RIDGES):
            held = share * 103 * torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
            assert torch.allclose(found[member, :, 2 + number], torch.linalg.solve(x.T @ x + held, x.T @ y), atol=1e-6)
    usual = LinearRegression(now, resamples, 0.9).iterate(reward, torch.zeros(103, 3, dtype=torch.float64), 1)
    assert torch.equal(found[..., :2], usual)


def gain(signal: float, exact: float) -> tuple[float, float, int]:
    """Of a policy that holds a state far from the log's: by plain regressions, by the chosen ones, and which these are.

    60 features, of which one has an effect on what a step is worth beyond the model: `signal`, under noise of 1. The
    policy's next features are all 0.3 wherever it is, so that the truth is 0.3 signal / (1 - 0.9).
    """
    generator = torch.Generator().manual_seed(5)
    now = torch.randn(1500, 60, generator=generator)
    left = signal * now[:, :1].double() + torch.randn(1500, 1, generator=generator).double()
    after = with_one(torch.full((1500, 60), 0.3))
    regression = LinearRegression(now, Resamples.draw(1500, 10, 20, generator), 0.9)
    found = regression.carry(regression.first_shrunk(left), after, 60)  # (M, F + 1, 1 + K)
    values = (after[:1] @ found)[:, 0].T  # (1 + K, M)
    chosen = choose_shrinkage(values, exact)
    return float(values[0].mean()), float(values[chosen].mean()), chosen


def test_noise_is_shrunk_and_a_model_that_is_wrong_is_still_found_out() -> None:
    plain, shrunk, chosen = gain(signal=0.0, exact=0.4)
    assert chosen > 0
    assert abs(shrunk) < abs(plain)
    plain, shrunk, _ = gain(signal=1.0, exact=0.4)
    truth = 0.3 / (1.0 - 0.9)
    assert shrunk == pytest.approx(plain, abs=0.5 * truth)
    assert shrunk > 0.5 * truth
    assert gain(signal=1.0, exact=10.0)[2] == 0
