"""The edge's form of the alignment gives what the ingest gives, to the last bit, whatever arrives in whatever order."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import NS, AlignedLog, Samples, align_log, sample_times
from controlkit.online import ROUNDING, OnlineAligner, OnlineCommands
from controlkit.spec import PlantSpec

PERIOD = 2.0
TENTH = NS // 10


def plant(on_duplicate: str = "reject", **changes: dict[str, Any]) -> PlantSpec:
    hold = {"safe": 0, "fallback": {"kind": "hold"}}
    tags: dict[str, dict[str, Any]] = {
        "level": {"role": "state", "unit": "m", "range": [-5, 5], "frozen": {"after_s": 3}},
        "inflow": {"role": "exogenous", "unit": "L/s", "range": [-5, 5], "interpolation": "linear", "max_age_s": 5},
        "heat": {
            "role": "state", "unit": "kW", "range": [0, 4], "interpolation": "linear",
            "frozen": {"after_s": 5, "within": 0.5}, "compression": {"deviation": 0.1, "max_interval_s": 4},
        },
        "area": {"role": "static", "unit": "m^2", "range": [-9, 9]},
        "valve": {"role": "action", "unit": "%", "range": [-5, 5], **hold},
        "pump": {"role": "action", "unit": "%", "range": [-9, 9], "limits": [0, 3], "max_age_s": 7, **hold},
    }  # fmt: skip
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": PERIOD,
            "tags": {name: tag | changes.get(name, {}) for name, tag in tags.items()},
            "objective": [{"kind": "track", "tag": "level", "setpoint": 1}],
            "log": {"on_duplicate": on_duplicate},
        }
    )


SPEC = plant()
GRID = sample_times(0, 30 * NS, PERIOD)


class Arrival(NamedTuple):
    tag: str
    time: int  # tenths of a second
    value: float
    good: bool


# Repeated values freeze; 3.0000001 is a rounding beyond pump's limit; stamps go back by up to three seconds.
values = st.one_of(
    st.sampled_from([0.0, 1.0, 1.4, 2.0, 3.0 + 1e-7, 3.1]), st.floats(-6, 6), st.sampled_from([math.nan, math.inf])
)
arrivals = st.lists(
    st.tuples(
        st.sampled_from((*SPEC.frame_tags, *SPEC.action_tags)),
        st.sampled_from([0, 0, 1, 3, 5, 10, 20, 40, -5, -30]),
        values,
        st.integers(0, 5).map(bool),
    ),
    max_size=120,
)


def logged(found: list[tuple[str, int, float, bool]]) -> list[Arrival]:
    """Steps forward and back in time, to stamps."""
    arrived, newest = [], 0
    for tag, step, value, good in found:
        arrived.append(Arrival(tag, max(0, newest + step), value, good))
        newest = max(newest, arrived[-1].time)
    return arrived


def usable(spec: PlantSpec, name: str, log: list[Arrival]) -> Samples:
    """What an ingest keeps of a tag, sample by sample: in order, one a stamp, in range, not frozen."""
    tag, action = spec.tags[name], spec.tags[name].role == "action"
    low, high = spec.limits(name) if action else tag.range
    slack = ROUNDING * (high - low) if action else 0.0
    stamps: dict[int, list[float]] = {}
    newest = -1
    for _, time, value, good in (arrival for arrival in log if arrival.tag == name):
        if time >= newest:
            said = stamps.setdefault(time, [])
            said += [value] * (good and math.isfinite(value))
        newest = max(newest, time)
    kept: list[tuple[int, float]] = []
    run: tuple[int, float] | None = None
    for time, said in stamps.items():
        differ = any(value != said[0] for value in said)
        if action and (not said or (differ and spec.log.on_duplicate == "reject")):
            kept.append((time, math.nan))
        if not said or (action and differ and spec.log.on_duplicate == "reject"):
            continue
        mean = sum(said[1:], said[0]) / len(said) if differ else said[0]
        value = {"reject": said[0], "first": said[0], "last": said[-1], "mean": mean}[spec.log.on_duplicate]
        if not low - slack <= value <= high + slack:
            if action:
                kept.append((time, math.nan))
            continue
        value = min(max(value, low), high)
        if tag.frozen is not None:
            if run is None or abs(value - run[1]) > tag.frozen.within:
                run = (time, value)
            if (time - run[0]) * TENTH > tag.frozen.after_s * NS:
                continue
        kept.append((time, value))
    time_ns = np.array([time * TENTH for time, _ in kept], dtype=np.int64)
    value_of = np.array([value for _, value in kept], dtype=np.float64)
    return Samples(time_ns, value_of, np.ones(len(kept), dtype=np.bool_))


def batch(spec: PlantSpec, log: list[Arrival]) -> AlignedLog:
    return align_log(spec, {name: usable(spec, name, log) for name in spec.tags}, GRID)


def push_all(
    spec: PlantSpec, aligner: OnlineAligner, commands: OnlineCommands, due: list[Arrival], at_once: bool
) -> None:
    """Pushes samples one by one, or those of all tags at once."""
    rounds: list[dict[str, Arrival]] = [{}]
    for arrival in due:
        if arrival.tag in spec.action_tags:
            commands.push(arrival.tag, arrival.time * TENTH, arrival.value, arrival.good)
        elif not at_once:
            aligner.push(arrival.tag, arrival.time * TENTH, arrival.value, arrival.good)
        else:
            if arrival.tag in rounds[-1]:
                rounds.append({})
            rounds[-1][arrival.tag] = arrival
    for found in rounds if at_once else []:
        row = [found.get(name, Arrival(name, 0, math.nan, False)) for name in spec.frame_tags]
        aligner.push_many(
            np.array([arrival.time * TENTH for arrival in row], dtype=np.int64),
            np.array([arrival.value for arrival in row]),
            np.array([arrival.good for arrival in row]),
        )


def arriving(queue: list[Arrival], now: int, ahead: dict[str, int] | None) -> list[Arrival]:
    """What comes of a tag until `now`; where its clock is ahead, one more sample, and no second one before its time."""
    count = next((i for i, arrival in enumerate(queue) if arrival.time * TENTH > now), len(queue))
    if ahead is not None and queue[count:] and ahead.get(queue[count].tag, 0) * TENTH <= now:
        ahead[queue[count].tag] = queue[count].time
        count += 1
    due = queue[:count]
    del queue[:count]
    return due


@given(arrivals, st.sampled_from(["reject", "first", "last", "mean"]), st.booleans(), st.booleans())
def test_online_equals_batch_to_the_last_bit(found, on_duplicate, at_once, early):
    spec, log = plant(on_duplicate), logged(found)
    expected = batch(spec, log)
    aligner, commands = OnlineAligner(spec), OnlineCommands(spec)
    ahead: dict[str, int] | None = {} if early else None
    waiting = {name: [arrival for arrival in log if arrival.tag == name] for name in spec.tags}
    for row, now in enumerate(GRID):
        due = [arrival for queue in waiting.values() for arrival in arriving(queue, int(now), ahead)]
        push_all(spec, aligner, commands, due, at_once)
        frame, ok, age = aligner.frame(int(now))
        assert frame.tobytes() == expected.frames[row].tobytes()
        assert ok.tobytes() == expected.mask[row].tobytes()
        assert age.tobytes() == expected.age_s[row].tobytes()
        if row:
            action, changed, known = commands.over_period(int(now))
            assert action.tobytes() == expected.actions[row - 1].tobytes()
            assert changed.tobytes() == expected.changed[row - 1].tobytes()
            assert known.tobytes() == expected.action_mask[row - 1].tobytes()


def plant_log(late: int = 0) -> list[Arrival]:
    """A level, and commands that are logged `late` periods late."""
    rng = np.random.default_rng(0)
    log = [Arrival("level", int(now // TENTH), float(rng.uniform(-5, 5)), True) for now in GRID]
    log += [Arrival("valve", int(now // TENTH) + 20 * late, float(rng.uniform(-5, 5)), True) for now in GRID]
    return sorted(log, key=lambda arrival: arrival.time)


def past_commands(log: list[Arrival]) -> np.ndarray:
    commands, found, waiting = OnlineCommands(SPEC), [], list(log)
    for now in GRID:
        while waiting and waiting[0].time * TENTH <= now:
            arrival = waiting.pop(0)
            if arrival.tag == "valve":
                commands.push("valve", arrival.time * TENTH, arrival.value)
        found.append(commands.over_period(int(now))[0][0])
    return np.array(found)


@pytest.mark.parametrize("late", [-1, 1])
def test_commands_shifted_by_one_period_show(late):
    actions = batch(SPEC, plant_log()).actions[:-1, 0]
    np.testing.assert_array_equal(past_commands(plant_log())[1:], actions)
    assert not np.array_equal(past_commands(plant_log(late))[1:], actions)


def test_a_command_counts_from_its_stamp_on_and_is_weighted_by_time():
    commands = OnlineCommands(SPEC)
    assert not commands.over_period(0)[2].any()
    for time, value in ((0, 1.0), (40, 5.0), (70, 3.0)):
        commands.push("valve", time * TENTH, value)
    found = [commands.over_period(second * NS) for second in (2, 4, 6, 8, 10)]
    assert [value[0] for value, _, _ in found] == [1, 1, 5, 4, 3]
    assert [bool(changed[0]) for _, changed, _ in found] == [False, False, False, True, False]
    assert [known.tolist() for *_, known in found] == [[True, False]] * 5


def test_a_command_that_is_not_known_is_unknown_until_the_next_good_one():
    commands, found = OnlineCommands(SPEC), []
    pushed = {
        0: [(2.0, True)], 2: [(3.1, True)], 4: [(1.0, True)], 5: [(1.0, False)], 6: [(2.0, True)],
        8: [(1.0, True), (2.0, True)], 10: [(3.0 + 1e-7, True), (1.0, False)],
    }  # fmt: skip
    for second in range(13):
        for value, good in pushed.get(second, []):
            commands.push("pump", second * NS, value, good)
        if second and second % 2 == 0:
            value, changed, known = commands.over_period(second * NS)
            assert not changed[1]
            found.append(float(value[1]))
            assert known[1] == math.isfinite(found[-1])
    # Outside its limits from 2 s on; not good from 5 to 6 s; two values at 8 s.
    np.testing.assert_array_equal(found, [2, math.nan, math.nan, 2, math.nan, 3])


def test_an_old_command_is_unknown():
    commands = OnlineCommands(SPEC)
    commands.push("pump", 0, 2.0)
    assert [bool(commands.over_period(second * NS)[2][1]) for second in (8, 9, 10)] == [True, True, False]


def test_a_stamp_far_in_the_future_is_not_believed():
    aligner, commands = OnlineAligner(SPEC), OnlineCommands(SPEC)
    future = round(SPEC.log.future_s * NS)
    far = 2 * NS + future + 1
    for second, stamp in ((0, 0), (1, far), (1, NS)):
        aligner.push("level", stamp, float(second))
        commands.push("valve", stamp, float(second))
        if second == 0:
            aligner.frame(0)
            commands.over_period(0)
    assert (aligner.frame(2 * NS)[0][0], commands.over_period(2 * NS)[0][0]) == (1.0, 0.5)
    for stamp, value in (
        (far + NS - 1, 4.0),
        (3 * NS, 2.0),
    ):  # just what is allowed: what has a stamp before it is late
        aligner.push("level", stamp, value)
    assert aligner.frame(3 * NS)[0][0] == 1.0


@pytest.mark.parametrize("on_duplicate", ["reject", "first", "last", "mean"])
def test_a_good_sample_counts_before_a_doubtful_one_of_its_stamp(on_duplicate):
    spec = plant(on_duplicate)
    for order in ([(4.0, True), (2.0, False)], [(2.0, False), (4.0, True)], [(4.0, True), (2.0, False), (4.5, True)]):
        for at_once in (False, True):
            aligner, commands = OnlineAligner(spec), OnlineCommands(spec)
            for value, doubtful in order:
                commands.push("valve", 0, value, True, doubtful)
                if not at_once:
                    aligner.push("level", 0, value, True, doubtful)
                    continue
                n = len(spec.frame_tags)
                aligner.push_many(np.zeros(n, np.int64), np.full(n, value), np.ones(n, bool), np.full(n, doubtful))
            aligner.push("level", NS, 9.0, good=False, doubtful=True)
            assert aligner.frame(NS)[0][0] == 2.0
            assert commands.over_period(2 * NS)[0][0] == 2.0


def test_what_arrives_too_late_is_left_out_and_other_tags_are_unknown():
    aligner, commands = OnlineAligner(SPEC), OnlineCommands(SPEC)
    aligner.push("level", 10 * NS, 1.0)
    aligner.push("level", 8 * NS, 4.0)
    assert aligner.frame(10 * NS)[0][0] == 1.0
    with pytest.raises(KeyError):
        aligner.push("valve", 10 * NS, 1.0)
    with pytest.raises(KeyError):
        commands.push("level", 10 * NS, 1.0)


def test_two_samples_ahead_of_time_leave_a_tag_unknown_rather_than_show_the_future():
    aligner = OnlineAligner(SPEC)
    for second in (1, 3, 4):
        aligner.push("level", second * NS, float(second))
    frame, ok, age = aligner.frame(2 * NS)
    assert (math.isnan(frame[0]), bool(ok[0]), age[0]) == (True, False, math.inf)
    assert aligner.frame(3 * NS)[0][0] == 3.0
    assert aligner.frame(4 * NS)[0][0] == 4.0


def test_a_value_that_cannot_be_never_becomes_one():
    for bad in (math.nan, math.inf, 5.001, -5.001):
        aligner = OnlineAligner(SPEC)
        aligner.push("level", 0, 2.0)
        aligner.push("level", NS, bad, True)
        frame, ok, age = aligner.frame(2 * NS)
        assert (frame[0], ok[0], age[0]) == (2.0, True, 2.0)


def test_a_frozen_sensor_grows_old():
    aligner = OnlineAligner(SPEC)
    ages = []
    for second in range(12):
        aligner.push("level", second * NS, 2.0)
        ages.append(float(aligner.frame(second * NS)[2][0]))
    assert ages == [0.0] * 4 + [float(age) for age in range(1, 9)]
    assert not aligner.frame(11 * NS)[1][0]
    aligner.push("level", 12 * NS, 2.1)
    assert aligner.frame(12 * NS)[1][0]


def test_with_compression_a_value_holds_for_the_longest_silence():
    spec = plant(level={"frozen": None, "compression": {"deviation": 0.1, "max_interval_s": 60}})
    aligner = OnlineAligner(spec)
    aligner.push("level", 0, 2.0)
    assert [bool(aligner.frame(second * NS)[1][0]) for second in (6, 7, 60, 61)] == [True, True, True, False]
    aligned = align_log(spec, {name: usable(spec, name, [Arrival("level", 0, 2.0, True)]) for name in spec.tags}, GRID)
    assert aligned.mask[:, 0].all()
