"""Rank correlation against a slow version and known answers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from controlkit.ranks import agreement_matrix, spearman


def slow_spearman(a: list[float], b: list[float]) -> float:
    """From the definition: the correlation of the ranks, counted one by one."""
    ranks = [[sum(other < value for other in values) for value in values] for values in (a, b)]
    means = [sum(r) / len(r) for r in ranks]
    first, second = ([x - mean for x in r] for r, mean in zip(ranks, means, strict=True))
    product = sum(x * y for x, y in zip(first, second, strict=True))
    sizes = [sum(x * x for x in values) for values in (first, second)]
    return float(product / (sizes[0] * sizes[1]) ** 0.5)


@given(st.integers(0, 2**31), st.integers(2, 30))
def test_it_is_the_correlation_of_the_ranks(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 3, size, generator=generator)
    found = spearman(a, b)
    for row in range(3):
        assert abs(float(found[row]) - slow_spearman(a[row].tolist(), b[row].tolist())) < 1e-9


def test_only_the_order_counts() -> None:
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spearman(values, values.exp()), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(spearman(values, -(values**3)), -torch.ones(5, dtype=torch.float64))


def test_constants_rank_nothing() -> None:
    values = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    assert spearman(values, torch.ones(2, 10)).tolist() == [0.0, 0.0]
    assert spearman(torch.zeros(2, 10), values).tolist() == [0.0, 0.0]


def test_independent_scores_are_uncorrelated() -> None:
    a, b = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    assert abs(float(spearman(a, b))) < 0.06  # 4 standard errors


def test_the_agreement_of_many_is_that_of_each_two() -> None:
    scores = torch.randn(4, 7, 11, generator=torch.Generator().manual_seed(2))
    scores[3] = 1.0  # one that ranks nothing, not even as itself
    found = agreement_matrix(scores)
    for i in range(4):
        for j in range(4):
            pairs = (
                [slow_spearman(scores[i, r].tolist(), scores[j, r].tolist()) for r in range(7)]
                if max(i, j) < 3
                else [0.0]
            )
            assert abs(float(found[i, j]) - sum(pairs) / len(pairs)) < 1e-9
