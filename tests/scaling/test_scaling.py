"""Scaling: known answers, exact JSON, constant columns."""

from __future__ import annotations

import json

import numpy as np

from controlkit.scaling import Scaler


def test_a_range_maps_to_minus_one_and_one():
    scaler = Scaler.from_range(np.array([0, -30], dtype=np.float32), np.array([10, 40], dtype=np.float32))
    np.testing.assert_allclose(scaler.apply(np.array([[0, -30], [5, 5], [10, 40]])), [[-1, -1], [0, 0], [1, 1]])


def test_fit_gives_mean_0_and_deviation_1_and_inverts():
    values = np.random.default_rng(0).normal([5, -300], [0.1, 40], size=(1000, 2))
    scaler = Scaler.fit(values)
    scaled = scaler.apply(values)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(scaler.invert(scaled), values, rtol=1e-6)


def test_a_constant_column_takes_the_spread_it_is_given():
    values = np.column_stack([np.full(10, 1000.1), np.arange(10.0), np.zeros(10)])
    assert Scaler.fit(values).spread[[0, 2]].tolist() == [1, 1]
    scaler = Scaler.fit(values, fallback_spread=np.array([7.0, 8.0, 9.0]))
    np.testing.assert_allclose(scaler.spread, [7, np.arange(10.0).std(), 9], rtol=1e-6)
    # A real variation that is small against the value is kept.
    assert Scaler.fit(1000 + 0.01 * np.arange(10.0)[:, None]).spread[0] < 0.1


def test_json_keeps_every_bit():
    scaler = Scaler.fit(np.random.default_rng(1).normal(size=(50, 4)) / 3)
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert again.centre.tobytes() == scaler.centre.tobytes()
    assert again.spread.tobytes() == scaler.spread.tobytes()
    assert again.centre.dtype == again.spread.dtype == np.float32
