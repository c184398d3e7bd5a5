"""Differential evolution (Storn and Price 1997, J. Global Optimization 11): a search that needs values alone.

One generation is one call of the objective with all trial points, so that a whole population of controllers is rolled
out as one batch. The variant is best/1/bin with a weight drawn per generation (dither), after which a point that left
the box is drawn anew inside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CROSSOVER = 0.7
WEIGHTS = (0.5, 1.0)


class Found(NamedTuple):
    """The best point (D,), its value, and how many generations were made."""

    point: Tensor
    value: float
    generations: int


def differential_evolution(
    objective: Callable[[Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    generator: torch.Generator,
    *,
    start: Tensor | None = None,
    population: int = 24,
    generations: int = 40,
    tolerance: float = 1e-3,
) -> Found:
    """Minimises a function over a box.

    Args:
        objective: (P, D) points -> (P,) values; a value that is no number counts as the worst.
        low, high: (D,) the box.
        generator: random draws.
        start: (K, D) points of the first population, clamped to the box; the rest is drawn uniformly.
        population: P, four at least.
        generations: at most.
        tolerance: the search ends where the population's values lie within this share of their size.
    """
    size, span = len(low), high - low

    def uniform(count: int) -> Tensor:
        return low + span * torch.rand(count, size, generator=generator, dtype=low.dtype, device=low.device)

    points = uniform(population)
    if start is not None:
        points[: len(start)] = torch.minimum(torch.maximum(start, low), high)
    values = _ordered(objective(points))
    made = 0
    for _ in range(generations):
        made += 1
        best = points[values.argmin()]
        weight = WEIGHTS[0] + (WEIGHTS[1] - WEIGHTS[0]) * torch.rand((), generator=generator, device=low.device)
        first, second = _two_others(population, generator, low.device)
        mutant = best + weight * (points[first] - points[second])
        mutant = torch.where((mutant >= low) & (mutant <= high), mutant, uniform(population))
        crossed = torch.rand(population, size, generator=generator, device=low.device) < CROSSOVER
        forced = torch.randint(size, (population, 1), generator=generator, device=low.device)
        crossed.scatter_(1, forced, True)  # one coordinate at least is the mutant's
        trial = torch.where(crossed, mutant, points)
        tried = _ordered(objective(trial))
        better = tried <= values
        points, values = torch.where(better.unsqueeze(1), trial, points), torch.where(better, tried, values)
        worst = float(values.max())
        if math.isfinite(worst) and worst - float(values.min()) <= tolerance * float(values.abs().mean()):
            break
    return Found(points[values.argmin()], float(values.min()), made)


def _ordered(values: Tensor) -> Tensor:
    return torch.nan_to_num(values, nan=torch.inf, posinf=torch.inf)


def _two_others(population: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two different members for each one, neither itself: (P,), (P,)."""
    at = torch.arange(population, device=device)
    # Steps around a ring of P: two different ones of 1 .. P - 1.
    first = torch.randint(1, population, (population,), generator=generator, device=device)
    second = torch.randint(1, population - 1, (population,), generator=generator, device=device)
    second = second + (second >= first)
    return (at + first) % population, (at + second) % population
