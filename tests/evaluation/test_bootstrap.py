"""Intervals against tables and against slow simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from controlkit.evaluation.bootstrap import (
    StandardError,
    jackknife,
    moving_block,
    refits,
    t_interval,
    t_quantile,
    union,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 4, 2.7764),
        (0.975, 9, 2.2622),
        (0.95, 1, 6.3138),
        (0.975, 120, 1.9799),
        (0.995, 30, 2.7500),
        (0.5, 3, 0.0),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(probability: float, freedom: float, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=2e-4)
    assert t_quantile(1.0 - probability, freedom) == pytest.approx(-expected, abs=2e-4)


def autoregressive(count: int, length: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    series = np.zeros((count, length))
    series[:, 0] = rng.standard_normal(count) / math.sqrt(1 - phi**2)
    for t in range(1, length):
        series[:, t] = phi * series[:, t - 1] + rng.standard_normal(count)
    return series


def test_block_bootstrap_of_dependent_values_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    series = autoregressive(300, 600, 0.6, rng)
    true_error = float(series.mean(axis=1).std())
    by_blocks = [moving_block(values, 25, rng, resamples=150) for values in series]
    by_single_values = [moving_block(values, 1, rng, resamples=150) for values in series[:50]]
    assert np.mean([e.value for e in by_blocks]) == pytest.approx(true_error, rel=0.15)
    assert np.mean([e.value for e in by_single_values]) < 0.6 * true_error  # what ignoring dependence would claim
    covered = [abs(values.mean()) <= t_interval(0.0, [e]).high for values, e in zip(series, by_blocks, strict=True)]
    assert 0.90 <= np.mean(covered) <= 0.985


def test_weighted_mean_with_equal_weights_is_the_mean() -> None:
    values = np.random.default_rng(1).standard_normal(100)
    plain = moving_block(values, 5, np.random.default_rng(2))
    weighted = moving_block(values, 5, np.random.default_rng(2), weights=np.full(100, 3.0))
    assert weighted.value == pytest.approx(plain.value)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(3).standard_normal(40)
    without = np.array([np.delete(values, i).mean() for i in range(40)])
    assert jackknife(without).value == pytest.approx(values.std(ddof=1) / math.sqrt(40))


def test_too_few_values_give_an_infinite_interval() -> None:
    for error in (
        jackknife(np.array([1.0])),
        refits(np.array([1.0])),
        moving_block(np.array([1.0]), 3, np.random.default_rng(0)),
    ):
        interval = t_interval(1.0, [error])
        assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_errors_add_in_squares_and_freedom_is_pooled() -> None:
    interval = t_interval(0.0, [StandardError(3.0, 4.0), StandardError(4.0, 1000.0)])
    assert interval.stderr == pytest.approx(5.0)
    assert t_quantile(0.975, 1000) * 5 < interval.high < t_quantile(0.975, 4) * 5


def test_no_error_gives_a_point_and_union_holds_both() -> None:
    point = t_interval(2.0, [StandardError(0.0, 3.0)])
    assert (point.low, point.high) == (2.0, 2.0)
    other = t_interval(0.0, [StandardError(1.0, 10.0)])
    joined = union(point, other)
    assert (joined.value, joined.low, joined.high) == (2.0, other.low, other.high)
