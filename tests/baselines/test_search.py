"""Differential evolution against functions whose minimum is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from controlkit.baselines.search import differential_evolution


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rosenbrock(points: Tensor) -> Tensor:
    x, y = points.unbind(dim=1)
    return (1 - x).square() + 100 * (y - x.square()).square()


def test_it_finds_the_end_of_a_curved_valley() -> None:
    low, high = torch.tensor([-3.0, -3.0]), torch.tensor([3.0, 3.0])
    found = differential_evolution(rosenbrock, low, high, generator(), generations=200, tolerance=0.0)
    torch.testing.assert_close(found.point, torch.ones(2), atol=0.02, rtol=0)
    assert found.value == float(rosenbrock(found.point.unsqueeze(0))[0])


def test_it_stays_inside_the_box_and_ends_where_the_minimum_lies_at_its_edge() -> None:
    asked: list[Tensor] = []

    def away(points: Tensor) -> Tensor:
        asked.append(points)
        return -points.sum(dim=1)

    low, high = torch.tensor([-1.0, 2.0, 0.0]), torch.tensor([0.5, 4.0, 1.0])
    found = differential_evolution(away, low, high, generator(), generations=60)
    seen = torch.cat(asked)
    assert bool(((seen >= low) & (seen <= high)).all())
    torch.testing.assert_close(found.point, high, atol=0.1, rtol=0)


def test_a_value_that_is_no_number_is_the_worst() -> None:
    def holed(points: Tensor) -> Tensor:
        return torch.where(points[:, 0] > 0, torch.nan, points[:, 0].square() + 1)

    found = differential_evolution(holed, torch.tensor([-1.0]), torch.tensor([9.0]), generator(), generations=40)
    assert math.isclose(found.value, 1.0, abs_tol=1e-2)


def test_a_start_is_tried_and_equal_seeds_agree() -> None:
    low, high, start = torch.tensor([-3.0, -3.0]), torch.tensor([3.0, 3.0]), torch.tensor([[1.0, 1.0]])
    found = differential_evolution(rosenbrock, low, high, generator(), start=start, generations=1)
    assert found.value == 0.0
    runs = [differential_evolution(rosenbrock, low, high, generator(4), generations=5) for _ in range(2)]
    assert torch.equal(runs[0].point, runs[1].point)


def test_it_ends_early_where_all_points_agree() -> None:
    found = differential_evolution(
        lambda points: torch.ones(len(points)), torch.tensor([0.0]), torch.tensor([1.0]), generator(), generations=50
    )
    assert found.generations == 1
