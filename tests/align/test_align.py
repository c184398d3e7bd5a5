"""Alignment against slow obvious versions, and the promise that nothing comes from the future."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import (
    NS,
    Samples,
    align_command,
    align_log,
    align_signal,
    sample_times,
)
from controlkit.layout import Layout
from controlkit.spec import PlantSpec

PERIOD = 2.0
SPEC = PlantSpec.from_dict(
    {
        "name": "tank",
        "period_s": PERIOD,
        "tags": {
            "level": {"role": "state", "unit": "m", "range": [-5, 5], "history": 3},
            "inflow": {"role": "exogenous", "unit": "L/s", "range": [-5, 5], "interpolation": "linear", "max_age_s": 5},
            "area": {"role": "static", "unit": "m^2", "range": [-9, 9]},
            "valve": {
                "role": "action", "unit": "%", "range": [-100, 100], "safe": 0, "fallback": {"kind": "hold"},
                "history": 2,
            },
        },
        "objective": [{"kind": "track", "tag": "level", "setpoint": 1}],
    }
)  # fmt: skip
TENTH = NS // 10

Point = tuple[int, float, bool]  # tenths of a second, value, good

values = st.one_of(st.floats(-6, 6), st.just(math.nan), st.just(math.inf))
points = st.lists(st.tuples(st.integers(0, 300), values, st.booleans()), max_size=25).map(
    lambda found: sorted(found, key=lambda point: point[0])
)


def samples(found: list[Point]) -> Samples:
    return Samples(
        np.array([time * TENTH for time, _, _ in found], dtype=np.int64),
        np.array([value for _, value, _ in found], dtype=np.float64),
        np.array([good for *_, good in found], dtype=np.bool_),
    )


GRID = sample_times(0, 30 * NS, PERIOD)


def test_the_grid_does_not_depend_on_where_the_log_starts():
    np.testing.assert_array_equal(sample_times(1, 7 * NS, 2.0), np.array([2, 4, 6]) * NS)
    np.testing.assert_array_equal(sample_times(-3 * NS, 0, 2.0), np.array([-2, 0]) * NS)
    assert sample_times(1, 2, 2.0).size == 0
    early, late = (
        sample_times(10**18 + 7, 10**18 + 90 * NS, 0.25),
        sample_times(10**18 + 40 * NS + 5, 10**18 + 90 * NS, 0.25),
    )
    np.testing.assert_array_equal(early[-len(late) :], late)


def obvious_signal(found: list[Point], now: int, interpolation: str, max_age_s: float) -> tuple[float, float, bool]:
    known = [
        (time * TENTH, value) for time, value, good in found if good and math.isfinite(value) and time * TENTH <= now
    ]
    if not known:
        return math.nan, math.inf, False
    time, value = known[-1]
    age = (now - time) / NS
    if interpolation == "linear" and len(known) > 1:
        before, earlier = known[-2]
        between = (time - before) / NS
        if 0 < between <= max_age_s and age <= max_age_s:
            value = value + (value - earlier) / between * age
    return value, age, age <= max_age_s


@given(points, st.sampled_from(["step", "linear"]), st.floats(0.1, 20))
def test_signals_are_what_was_last_known(found, interpolation, max_age_s):
    aligned = align_signal(samples(found), GRID, interpolation, max_age_s)
    expected = [obvious_signal(found, int(now), interpolation, max_age_s) for now in GRID]
    np.testing.assert_array_equal(aligned.value, [value for value, _, _ in expected])
    np.testing.assert_array_equal(aligned.age_s, [age for _, age, _ in expected])
    np.testing.assert_array_equal(aligned.ok, [ok for *_, ok in expected])


def test_a_sample_counts_from_its_own_nanosecond_on():
    raw = Samples(GRID[1:3] + np.array([0, 1]), np.array([1.0, 2.0]), np.ones(2, dtype=np.bool_))
    np.testing.assert_array_equal(align_signal(raw, GRID[:4], "step", 9.0).value, [np.nan, 1, 1, 2])
    np.testing.assert_allclose(align_command(raw, GRID[:4], PERIOD).value, [np.nan, 1, 2, 2], rtol=1e-9)
    assert align_command(raw, GRID[:4], PERIOD).changed.tolist() == [False, False, True, False]


def obvious_command(found: list[Point], now: int) -> tuple[float, bool, bool]:
    """Walks through the period in steps of a tenth of a second, the resolution of the test's stamps."""
    known = [(time * TENTH, value if good and math.isfinite(value) else math.nan) for time, value, good in found]
    in_force = []
    for tenth in range(round(PERIOD * 10)):
        before = [value for time, value in known if time <= now + tenth * TENTH]
        in_force.append(before[-1] if before else math.nan)
    if any(math.isnan(value) for value in in_force):
        return math.nan, False, False
    moved = any(now < time < now + PERIOD * NS for time, _ in known) and len(set(in_force)) > 1
    return float(np.mean(in_force)), moved, True


@given(points)
def test_commands_are_the_time_weighted_mean_over_the_period_after(found):
    # Two commands of one stamp: only the last was ever in force.
    found = list({time: (time, value, good) for time, value, good in found}.values())
    aligned = align_command(samples(found), GRID, PERIOD)
    expected = [obvious_command(found, int(now)) for now in GRID]
    np.testing.assert_allclose(aligned.value, [value for value, _, _ in expected], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(aligned.changed, [changed for _, changed, _ in expected])
    np.testing.assert_array_equal(aligned.ok, [ok for *_, ok in expected])


def test_a_command_counts_from_its_stamp_on_and_not_before():
    command = samples([(0, 1.0, True), (40, 5.0, True), (70, 9.0, True)])
    aligned = align_command(command, GRID[:5], PERIOD)
    # (0, 2], (2, 4] hold 1; (4, 6] holds 5; in (6, 8] 5 holds for 1 s and 9 for 1 s.
    assert aligned.value.tolist() == [1, 1, 5, 7, 9]
    assert aligned.changed.tolist() == [False, False, False, True, False]


def test_a_command_that_is_not_known_is_unknown_until_the_next_one():
    command = samples(
        [(0, 1.0, True), (20, 2.0, False), (35, 3.0, True), (80, 4.0, True), (85, math.nan, True), (85, 5.0, True)]
    )
    aligned = align_command(command, GRID[:6], PERIOD)
    # (2, 4] is unknown for 1.5 s of it; of two commands of one stamp the last counts.
    np.testing.assert_array_equal(aligned.value, [1, math.nan, 3, 3, 4.75, 5])
    assert aligned.changed.tolist() == [False, False, False, False, True, False]
    assert aligned.ok.tolist() == [True, False, True, True, True, True]


def test_a_command_said_again_is_no_change_and_not_rounded():
    third = 1 / 3
    command = samples([(0, third, True), (7, third, True), (13, third, True), (17, third, True)])
    aligned = align_command(command, GRID[:2], PERIOD)
    assert aligned.value.tolist() == [third, third]
    assert not aligned.changed.any()


def test_a_command_too_old_is_not_known_where_the_plant_file_says_so():
    aligned = align_command(samples([(0, 1.0, True)]), GRID[:4], PERIOD, max_age_s=4.0)
    assert aligned.ok.tolist() == [True, True, True, False]


# The future ---------------------------------------------------------------------------------------------------------

logs = st.fixed_dictionaries(dict.fromkeys((*SPEC.frame_tags, *SPEC.action_tags), points))


def observed(log: dict[str, list[Point]]) -> tuple[np.ndarray, np.ndarray]:
    aligned = align_log(SPEC, {tag: samples(found) for tag, found in log.items()}, GRID)
    layout = Layout.from_spec(SPEC)
    rows = np.arange(layout.depth, len(GRID))
    return layout.observe(aligned.frames, aligned.actions, rows), aligned.mask


@given(logs, st.data())
def test_no_raw_value_after_t_changes_what_is_observed_at_t(log, data):
    now = data.draw(st.integers(0, 300), label="t in tenths of a second")
    change = st.one_of(st.none(), st.tuples(values, st.booleans()))

    def changed(point: Point) -> list[Point]:
        if point[0] <= now:
            return [point]
        new = data.draw(change)
        return [] if new is None else [(point[0], *new)]

    other: dict[str, list[Point]] = {tag: [p for point in found for p in changed(point)] for tag, found in log.items()}
    (before, mask), (after, other_mask) = observed(log), observed(other)
    rows = np.flatnonzero(now * TENTH >= GRID)
    depth = Layout.from_spec(SPEC).depth
    np.testing.assert_array_equal(before[: max(0, len(rows) - depth)], after[: max(0, len(rows) - depth)])
    np.testing.assert_array_equal(mask[rows], other_mask[rows])


def _plant_log(delay: int) -> tuple[np.ndarray, np.ndarray]:
    """A level that each command moves during the period after it; the commands are logged `delay` periods late."""
    rng = np.random.default_rng(3)
    command = rng.uniform(-1, 1, len(GRID))
    level = np.concatenate(([0.0], np.cumsum(command)[:-1])).clip(-5, 5)
    tenths = (GRID // TENTH).tolist()
    log: dict[str, Any] = {
        "level": [(t, float(v), True) for t, v in zip(tenths, level, strict=True)],
        "inflow": [(t, 0.0, True) for t in tenths],
        "area": [(0, 1.0, True)],
        "valve": [(t + 20 * delay, float(v), True) for t, v in zip(tenths, command, strict=True)],
    }
    aligned = align_log(SPEC, {tag: samples(found) for tag, found in log.items()}, GRID)
    return aligned.frames[:, 0], aligned.actions[:, 0]


def _explained(delay: int) -> bool:
    level, action = _plant_log(delay)
    known = np.isfinite(action[:-1])
    return bool(np.allclose(np.diff(level)[known], action[:-1][known], atol=1e-6))


def test_action_t_is_what_moves_the_plant_from_t_to_the_next_sample_and_a_shift_by_one_period_shows():
    assert _explained(delay=0)
    assert not _explained(delay=1)
    assert not _explained(delay=-1)
