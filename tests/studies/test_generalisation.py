"""What docs/generalisation.md derives, against numbers: a discriminator's best answers, and what a ranking buys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

PAGE = (Path(__file__).parents[2] / "docs" / "generalisation.md").read_text(encoding="utf-8")
OUTCOMES = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)


def gaussian(centre: float, spread: float) -> Tensor:
    """Probabilities of the outcomes: (81,)."""
    return torch.softmax(-0.5 * ((OUTCOMES - centre) / spread) ** 2, dim=0)


def best(p: Tensor, g: Tensor, odds: Callable[[Tensor], Tensor], share: float = 0.5) -> Tensor:
    """The table f (81,) that minimises the logistic loss where D has log odds `odds(f)`, which rise with f: a bisection
    on the slope of each outcome's loss. `share` of what is seen at this (s, a) is real."""
    low, high = torch.full_like(p, -300.0), torch.full_like(p, 300.0)
    for _ in range(80):
        f = ((low + high) / 2).requires_grad_(True)
        log_odds = odds(f)
        loss = -share * p * torch.nn.functional.logsigmoid(log_odds)
        loss = loss - (1 - share) * g * torch.nn.functional.logsigmoid(-log_odds)
        (slope,) = torch.autograd.grad(loss.sum(), f)
        low, high = torch.where(slope < 0, f.detach(), low), torch.where(slope < 0, high, f.detach())
    return (low + high) / 2


def test_gail_at_equilibrium_carries_no_ranking() -> None:
    p = gaussian(0.3, 0.7)
    assert best(p, p, lambda f: f).abs().max() < 1e-6  # D = 1/2 everywhere


@pytest.mark.parametrize(("spread", "offset"), [(1.5, 0.0), (1.5, 0.4), (0.8, 0.3), (0.5, 0.0)])
def test_gail_before_equilibrium_ranks_by_what_the_generator_does_too_rarely(spread: float, offset: float) -> None:
    sigma = 0.8
    f = best(gaussian(0.0, sigma), gaussian(offset, spread), lambda f: f)
    formula = -0.5 * OUTCOMES**2 * (1 / sigma**2 - 1 / spread**2) - offset * OUTCOMES / spread**2
    near = OUTCOMES.abs() < 2.0
    difference = (f - formula)[near]
    assert (difference - difference.mean()).abs().max() < 1e-6
    peak = float(OUTCOMES[near][f[near].argmax()])
    if spread > sigma:
        assert abs(peak) < 0.5  # right, up to a shift
    else:
        assert abs(peak) > 1.85  # upside down, or a straight line: the farthest wins


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("generator", [(0.0, 0.8), (0.5, 1.5), (-0.3, 0.6)])
def test_airl_finds_the_plants_density_whatever_the_generator(generator: tuple[float, float], share: float) -> None:
    p, g = gaussian(0.0, 0.8), gaussian(*generator)
    f = best(p, g, lambda f: f - g.log(), share)
    near = OUTCOMES.abs() < 2.0
    difference = (f - p.log())[near]
    assert difference.numpy() == pytest.approx(np.log(share / (1 - share)), abs=1e-6)  # a function of (s, a) alone


def test_noise_negatives_rank_rightly_whatever_their_sizes() -> None:
    rng, sigma = np.random.default_rng(0), 0.6
    error = np.linspace(0.0, 4.0, 50)
    for _ in range(20):
        spreads, shares = 10.0 ** rng.uniform(-2, 1, size=4), rng.dirichlet(np.ones(4))
        wide = np.sqrt(sigma**2 + spreads**2)
        g = (shares * np.exp(-0.5 * (error[:, None] / wide) ** 2) / wide).sum(axis=1)
        ratio = -0.5 * (error / sigma) ** 2 - np.log(g)
        assert (np.diff(ratio) < 0).all()


def test_the_pick_of_a_ranking_is_as_good_as_the_page_says() -> None:
    rng, sigma = np.random.default_rng(1), 0.5
    tightest = np.inf
    for _ in range(2000):
        error, delta = np.abs(rng.normal(size=11)), rng.uniform(0.0, 2.0)
        score = 3.0 - error**2 / (2 * sigma**2) + delta * rng.choice([-1.0, 1.0], size=11)
        picked, bound = error[score.argmax()], np.sqrt(error.min() ** 2 + 4 * sigma**2 * delta)
        assert picked <= bound + 1e-12
        tightest = min(tightest, bound - picked)
        threshold = score.max()
        assert picked <= np.sqrt(max(0.0, 2 * sigma**2 * (3.0 - threshold + delta))) + 1e-12
    assert tightest < 0.02  # and no better


def test_the_simulation_lemma_holds_as_it_is_written() -> None:
    rng, gamma, states = np.random.default_rng(2), 0.9, 5
    for _ in range(20):
        p, g = rng.dirichlet(np.ones(states), size=(2, states))
        reward, start = rng.uniform(-1, 1, states), rng.dirichlet(np.ones(states))
        value, other = (np.linalg.solve(np.eye(states) - gamma * world, reward) for world in (p, g))
        met = (1 - gamma) * np.linalg.solve(np.eye(states) - gamma * g.T, start)  # d(g, pi)
        difference = start @ other - start @ value
        assert difference == pytest.approx(gamma / (1 - gamma) * met @ ((g - p) @ value))
        total_variation = 0.5 * np.abs(g - p).sum(axis=1)
        assert abs(difference) <= 2 * gamma / (1 - gamma) ** 2 * met @ total_variation


def test_the_excess_loss_bounds_the_error_of_the_probability() -> None:
    wanted, found = np.meshgrid(np.linspace(0.01, 0.99, 99), np.linspace(0.01, 0.99, 99))
    excess = wanted * np.log(wanted / found) + (1 - wanted) * np.log((1 - wanted) / (1 - found))
    assert (excess >= 2 * (wanted - found) ** 2 - 1e-12).all()


def test_the_page_names_this_file_and_files_that_are_there() -> None:
    assert "`tests/studies/test_generalisation.py`" in PAGE
    docs = Path(__file__).parents[2] / "docs"
    links = [part.split(")")[0] for part in PAGE.split("](")[1:]]
    local = [link for link in links if not link.startswith("https://arxiv.org/abs/")]
    assert local
    assert all((docs / link).is_file() for link in local), local
