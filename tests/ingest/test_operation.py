"""Feedback against command and time in accepted modes, against slow loops; tags that end early or were renamed."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlkit.ingest.assess import Account, TagAssessment
from controlkit.ingest.flags import Flagged
from controlkit.ingest.operation import APART, accepted_share, assess_feedback
from controlkit.ingest.tag_warnings import log_warnings
from tests.ingest.staged import NS, START, usable_stage

POSITION = {"role": "feedback", "unit": "kW", "range": [-0.5, 12], "of": "power", "tolerance": 0.5, "settle_s": 3}


def obvious_late(feedback, commands, tolerance, settle_s, gap_s):
    """Seconds of the compared samples, and which of them are late."""
    seen, late = [], []
    since = last = None
    for second, value in feedback:
        known = [command for at, command in commands if at <= second]
        if not known or math.isnan(known[-1]):
            continue
        apart = abs(value - known[-1]) > tolerance
        if not apart or (last is not None and second - last > gap_s):
            since = None
        if apart and since is None:
            since = second
        seen.append(second)
        late.append(apart and second - since > settle_s)
        last = second
    return seen, late


# Quarters of a second, each at most once, in order.
stamps = st.lists(st.integers(0, 200), max_size=60, unique=True).map(lambda found: [i / 4 for i in sorted(found)])


def signals(*values: float) -> st.SearchStrategy[list[tuple[float, float]]]:
    return stamps.flatmap(
        lambda at: st.lists(st.sampled_from(values), min_size=len(at), max_size=len(at)).map(
            lambda found: list(zip(at, found, strict=True))
        )
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(signals(0.0, 0.4, 1.0, 2.0), signals(0.0, 0.4, 1.0, 2.0, math.nan), st.integers(1, 9))
def test_a_feedback_is_late_where_a_slow_loop_says_so(make_spec, feedback, commands, size):
    spec = make_spec({"position": POSITION}, episodes={"max_gap_s": 5})
    seen, late = obvious_late(feedback, commands, 0.5, 3, 5)
    with TemporaryDirectory() as folder:
        usable = usable_stage(Path(folder), position=feedback, power=commands)
        found = assess_feedback(spec, "position", usable, size=size)
        whole = assess_feedback(spec, "position", usable)
    assert found == whole
    assert found.compared == len(seen)
    assert sum(flag.samples for flag in found.flags) == sum(late)
    flagged = {second for second, flag in zip(seen, late, strict=True) if flag}
    inside = {
        second
        for second in seen
        if any(flag.from_ns <= START + round(second * NS) <= flag.to_ns for flag in found.flags)
    }
    assert inside == flagged
    assert found.share == (sum(late) / len(seen) if seen else 0)
    assert bool(found.warnings) == (found.share > 0.01)


def test_a_valve_that_sticks_is_flagged_once_it_had_time_to_settle(make_spec, tmp_path):
    spec = make_spec({"position": POSITION})
    commands = [(0, 1), (50, 5)]
    stuck = [(s, 1 if s < 70 else 5) for s in range(200)]
    found = assess_feedback(spec, "position", usable_stage(tmp_path, position=stuck, power=commands))
    assert found.flags == (Flagged(APART, START + 54 * NS, START + 69 * NS, 16),)
    assert found.share == 16 / 200
    assert found.warnings == (
        "position: 8.0 % of its samples lie further than 0.5 kW from the command 'power' for longer than 3 s: a valve "
        "that sticks, a local override, or a slow actuator",
    )


def test_a_feedback_without_tolerance_or_in_another_unit_is_not_compared(make_spec, tmp_path):
    usable = usable_stage(tmp_path, position=[(0, 1)], power=[(0, 9)])
    assert assess_feedback(make_spec({"position": {**POSITION, "tolerance": None}}), "position", usable) is None
    found = assess_feedback(make_spec({"position": {**POSITION, "unit": "%"}}), "position", usable)
    assert (found.compared, found.flags) == (0, ())
    assert found.warnings == ("position: not compared with its command 'power', as their units differ (% and kW)",)


# Modes ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stamps.flatmap(lambda at: st.tuples(*[st.tuples(st.just(s), st.sampled_from([0.0, 1.0, math.nan])) for s in at])),
    st.integers(0, 20),
    st.integers(21, 60),
    st.sampled_from([None, 2.0]),
    st.integers(1, 9),
)
def test_the_time_in_accepted_modes_is_that_of_a_walk_in_small_steps(make_spec, samples, begin, end, max_age, size):
    auto = {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1], "max_age_s": max_age}
    spec = make_spec({"auto": auto})
    accepted = 0
    for eighth in range(8 * begin, 8 * end):
        middle = eighth / 8 + 1 / 16
        known = [(second, value) for second, value in samples if second <= middle]
        accepted += bool(known) and known[-1][1] == 1 and middle - known[-1][0] <= (max_age or math.inf)
    with TemporaryDirectory() as folder:
        usable = usable_stage(Path(folder), auto=samples)
        share = accepted_share(spec, "auto", usable, START + begin * NS, START + end * NS, size=size)
    assert share == pytest.approx(accepted / (8 * (end - begin)), abs=1e-9)


# Tags side by side ---------------------------------------------------------------------------------------------------


def spans(**tags: tuple[float, float, float]) -> dict[str, TagAssessment]:
    """Assessments of tags that reach from a second to another, with a mean."""
    return {
        tag: TagAssessment(
            tag, Account(), mean, mean, mean, 0.0, (), (), START + round(first * NS), START + round(last * NS)
        )
        for tag, (first, last, mean) in tags.items()
    }


def test_tags_that_end_where_others_begin(make_spec):
    also = {"role": "state", "unit": "degC", "range": [-30, 40]}
    spec = make_spec({"cold_room": also, "TT_new": also, "cold_new": also})
    found = spans(
        temperature=(0, 499, 5), TT_new=(500, 1000, 5.1), cold_room=(0, 499, -20), cold_new=(500.5, 1000, -19),
        door=(0, 1000, 0), power=(0, 1000, 1),
    )  # fmt: skip
    renamed = (
        "2024-01-01T00:08:19Z and {} begins at 2024-01-01T00:08:{}; if this is one tag that was renamed, give both "
    )
    assert set(log_warnings(spec, found)) == {
        "temperature, TT_new: temperature ends at " + renamed.format("TT_new", "20Z") + "parts one name in the log",
        "cold_room, cold_new: cold_room ends at " + renamed.format("cold_new", "20.5Z") + "parts one name in the log",
    }
    apart = spans(temperature=(0, 499, 5), TT_new=(700, 1000, 5), door=(0, 1000, 0), power=(0, 1000, 1))
    assert log_warnings(spec, apart) == ("temperature: its last sample is 8.3 min before the log's end",)
    whole = spans(temperature=(0, 1000, 5), TT_new=(0, 1000, 5), door=(0, 999, 0), power=(1, 1000, 1))
    assert log_warnings(spec, whole) == ()


def test_a_command_that_falls_silent_was_held(spec):
    found = spans(temperature=(0, 1000, 5), door=(0, 1000, 0), power=(0, 990, 1))
    assert log_warnings(spec, found) == ("power: its last sample is 10 s before the log's end; it was held since",)
    assert log_warnings(spec, {}) == ()
