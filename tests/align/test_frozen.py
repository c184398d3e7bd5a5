"""The rule for dead sensors, against a slow loop and in blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import NS, Run, frozen_samples
from controlkit.log_rules import Frozen

# Few different values, so that runs come about; multiples of 0.1, so that differences just miss `within` or exceed it.
logs = st.lists(
    st.tuples(st.integers(0, 40), st.one_of(st.integers(-3, 3).map(lambda i: i / 10), st.floats(-1, 1))), max_size=60
).map(lambda found: sorted(found, key=lambda sample: sample[0]))
rules = st.builds(Frozen, after_s=st.sampled_from([0.5, 3.0, 10.0]), within=st.sampled_from([0.0, 0.1, 0.2, 0.5]))


def obvious(times: np.ndarray, values: np.ndarray, rule: Frozen) -> list[bool]:
    frozen = []
    start = first = None
    for now, value in zip(times.tolist(), values.tolist(), strict=True):
        if first is None or abs(value - first) > rule.within:
            start, first = now, value
        frozen.append(now - start > rule.after_s * NS)
    return frozen


def arrays(found: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([at * NS // 4 for at, _ in found], dtype=np.int64),
        np.array([value for _, value in found], dtype=np.float64),
    )


@given(logs, rules, st.lists(st.integers(0, 60), max_size=5))
def test_frozen_samples_are_those_of_a_slow_loop_in_any_blocks(found, rule, cuts):
    times, values = arrays(found)
    expected = obvious(times, values, rule)
    whole, end = frozen_samples(times, values, rule)
    assert whole.tolist() == expected
    carry: Run | None = None
    parts = []
    edges = [0, *sorted(min(cut, len(times)) for cut in cuts), len(times)]
    for start, stop in pairwise(edges):
        part, carry = frozen_samples(times[start:stop], values[start:stop], rule, carry)
        parts += part.tolist()
    assert parts == expected
    assert carry == end


@pytest.mark.parametrize("within", [0.0, 0.5])
def test_long_and_short_runs(within):
    rng = np.random.default_rng(0)
    lengths = rng.choice([1, 2, 7, 8, 9, 10, 71, 72, 73, 200, 1000], 300)
    levels = np.cumsum(rng.uniform(0.6, 2, 300))  # each level differs from the one before by more than `within`
    values = np.repeat(levels, lengths) + within * rng.uniform(0, 0.9, lengths.sum()) * (within > 0)
    times = np.arange(len(values)) * NS
    rule = Frozen(after_s=50, within=within)
    assert frozen_samples(times, values, rule)[0].tolist() == obvious(times, values, rule)


def test_a_sensor_is_frozen_once_its_run_is_too_old_and_alive_when_it_moves():
    times = np.arange(8) * NS
    frozen, run = frozen_samples(times, np.array([1.0, 1, 1, 1, 1, 2, 2, 2]), Frozen(after_s=2))
    assert frozen.tolist() == [False, False, False, True, True, False, False, False]
    assert run == Run(5 * NS, 2.0)
    # A gap in the log does not bring it back to life: the next sample says the same.
    assert frozen_samples(np.array([100 * NS]), np.array([2.0]), Frozen(after_s=2), run)[0].tolist() == [True]


def test_a_slow_drift_within_the_band_starts_a_run_where_it_leaves_the_band_of_the_first_value():
    values = np.arange(10) * 0.1
    frozen, run = frozen_samples(np.arange(10) * NS, values, Frozen(after_s=1, within=0.25))
    assert frozen.tolist() == [False, False, True] * 3 + [False]
    assert run == Run(9 * NS, float(values[9]))
