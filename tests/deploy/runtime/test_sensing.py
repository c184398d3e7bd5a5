"""Fed poll by poll, the edge sees what an ingest of the same samples would have seen, to the last bit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import NS, AlignedLog, Samples, align_log
from controlkit.spec import PlantSpec
from deploy.runtime.plant import PlantReading, Quality, Sample
from deploy.runtime.sensing import Inputs, Sensing

PERIOD_S = 2.0
TENTH = NS // 10
START = 1_700_000_000 * NS
NAN = math.nan


def plant(**log: Any) -> PlantSpec:
    hold = {"safe": 0, "fallback": {"kind": "hold"}}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": PERIOD_S,
            "tags": {
                "level": {"role": "state", "unit": "m", "range": [-5, 5]},
                "inflow": {
                    "role": "exogenous", "unit": "L/s", "range": [-5, 5], "interpolation": "linear", "max_age_s": 5,
                },
                "area": {"role": "static", "unit": "m^2", "range": [-9, 9]},
                "running": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1, 2]},
                "valve": {"role": "action", "unit": "%", "range": [-9, 9], "limits": [-5, 5], **hold},
                "pump": {"role": "action", "unit": "%", "range": [-9, 9], "max_age_s": 7, **hold},
            },
            "objective": [{"kind": "track", "tag": "level", "setpoint": 1}],
            "log": log,
        }
    )  # fmt: skip


SPEC = plant()
TAGS = (*SPEC.frame_tags, *SPEC.action_tags)
QUALITIES = get_args(Quality)
# What came since the poll before, the newest sample of a tag: how old it is (tenths of a second), value, quality.
arrival = st.tuples(
    st.sampled_from(TAGS),
    st.sampled_from([0, 0, 1, 3, 7, 13, 20, 21, 45]),
    st.one_of(st.sampled_from([0.0, 1.0, 2.0, 5.0 + 1e-7, 6.0, NAN, math.inf]), st.floats(-6, 6)),
    st.sampled_from(("good", "good", *QUALITIES)),
)
polls = st.lists(st.lists(arrival, max_size=4), min_size=1, max_size=25)
rules = st.fixed_dictionaries(
    {
        "on_duplicate": st.sampled_from(["reject", "first", "last", "mean"]),
        "uncertain": st.sampled_from(["use", "leave_out"]),
        "substituted": st.sampled_from(["use", "leave_out"]),
    }
)


def logged(spec: PlantSpec, name: str, seen: list[Sample]) -> Samples:
    """What an ingest keeps of a tag: nothing that goes back in time, one value a stamp, commands that are unknown."""
    action = spec.tags[name].role == "action"
    low, high = spec.limits(name) if action else spec.tags[name].range
    slack = 1e-6 * (high - low)
    stamps: dict[int, list[tuple[int, float]]] = {}
    for sample in seen:
        assert sample.time_ns is not None
        if stamps and sample.time_ns < max(stamps):
            continue
        allowed = {"good": True, "bad": False, "uncertain": spec.log.uncertain == "use"}
        allowed["substituted"] = spec.log.substituted == "use"
        worth = 0 if not (allowed[sample.quality] and math.isfinite(sample.value)) else 1
        stamps.setdefault(sample.time_ns, []).append((worth * (1 + (sample.quality == "good")), sample.value))
    kept: list[tuple[int, float]] = []
    for stamp, told in stamps.items():
        best = max(worth for worth, _ in told)
        values = [value for worth, value in told if worth == best]
        if best == 0:
            value = NAN
        elif all(value == values[0] for value in values):
            value = values[0]
        else:
            mean = sum(values[1:], values[0]) / len(values)
            first = NAN if action else values[0]
            value = {"reject": first, "first": values[0], "last": values[-1], "mean": mean}[spec.log.on_duplicate]
        if action:
            value = min(max(value, low), high) if low - slack <= value <= high + slack else NAN
        kept.append((stamp, value))
    time_ns, value_of = np.array([t for t, _ in kept], dtype=np.int64), np.array([v for _, v in kept], dtype=float)
    return Samples(time_ns, value_of, ~np.isnan(value_of))


def batch(spec: PlantSpec, seen: dict[str, list[Sample]], grid: list[int]) -> AlignedLog:
    return align_log(spec, {name: logged(spec, name, seen[name]) for name in TAGS}, np.array(grid, dtype=np.int64))


def reading(shown: dict[str, Sample]) -> PlantReading:
    return PlantReading(
        samples={tag: shown[tag] for tag in SPEC.frame_tags if tag in shown},
        commands={tag: shown[tag] for tag in SPEC.action_tags if tag in shown},
    )


@given(polls, rules)
def test_online_equals_training_for_the_samples_that_the_polls_saw(
    found: list[list[tuple[str, int, float, Quality]]], log: dict[str, Any]
) -> None:
    spec = plant(**log)
    sensing, shown, seen = Sensing(spec), dict[str, Sample](), {name: list[Sample]() for name in TAGS}
    grid, rows = list[int](), list[Inputs]()
    for number, came in enumerate(found):
        now = START + number * 2 * NS
        for tag, old, value, quality in came:
            shown[tag] = Sample(now - old * TENTH, value, quality)
        for tag, sample in shown.items():
            if not seen[tag] or repr(sample) != repr(seen[tag][-1]):
                seen[tag].append(sample)
        # Copies, as a plant makes new ones in every answer: a NaN is then no longer equal to itself.
        copies = {tag: replace(sample, value=float(str(sample.value))) for tag, sample in shown.items()}
        rows.append(sensing.take(reading(copies), now, commanding=False))
        grid.append(now)
        # The polls up to now, and no later one.
        expected = batch(spec, seen, grid[-2:] if number else grid)
        assert rows[-1].obs.tobytes() == expected.frames[-1].tobytes()
        assert rows[-1].ok.tobytes() == expected.mask[-1].tobytes()
        assert rows[-1].age_s.tobytes() == expected.age_s[-1].tobytes()
        if number:
            known = np.where(expected.action_mask[0], expected.actions[0], np.float32(NAN))
            np.testing.assert_array_equal(rows[-1].act_prev, known)


def take(
    sensing: Sensing, second: float, commanding: bool = False, **shown: float | tuple[float | None, float] | Sample
) -> Inputs:
    """One poll at a second; samples are given by stamp (seconds; now where not given) and value."""
    now = START + round(second * NS)
    samples: dict[str, Sample] = {}
    for tag, told in shown.items():
        if isinstance(told, Sample):
            samples[tag] = told
            continue
        stamp, value = told if isinstance(told, tuple) else (second, told)
        samples[tag] = Sample(None if stamp is None else START + round(stamp * NS), value)
    return sensing.take(reading(samples), now, commanding=commanding)


def test_a_value_without_a_source_time_never_becomes_one() -> None:
    sensing = Sensing(SPEC)
    for second in (0, 2, 4):
        inputs = take(sensing, second, level=(None, 1.0))
        assert math.isnan(inputs.obs[0])
        assert not inputs.ok[0]
        assert inputs.age_s[0] == math.inf
        assert inputs.notes == {"source_time": "'level' comes without a source time and is not used"}
    inputs = take(sensing, 6, level=2.0)
    assert (inputs.obs[0], inputs.notes) == (2.0, {})
    # The last stamped one grows old.
    inputs = take(sensing, 14, level=(None, 3.0))
    assert (inputs.obs[0], inputs.ok[0], inputs.age_s[0]) == (2.0, False, 8.0)


@pytest.mark.parametrize("on_duplicate", ["reject", "first", "last", "mean"])
@pytest.mark.parametrize("quality", ["uncertain", "substituted"])
def test_a_good_value_counts_before_a_doubtful_one_of_its_stamp(quality: Quality, on_duplicate: str) -> None:
    spec = plant(uncertain="use", substituted="use", on_duplicate=on_duplicate)
    good, doubtful = Sample(START, 4.0), Sample(START, 2.0, quality)
    for order in ((good, doubtful), (doubtful, good)):
        sensing = Sensing(spec)
        take(sensing, 0, level=order[0], valve=order[0])
        inputs = take(sensing, 2, level=order[1], valve=order[1])
        assert (inputs.obs[0], inputs.act_prev[0]) == (4.0, 4.0)


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("tag", ["level", "valve"])
def test_a_stamp_far_ahead_is_noted_and_believed_once_its_time_has_come(tag: str, between: bool) -> None:
    future = SPEC.log.future_s
    ahead = 2 * round(future) + 4.0
    sensing = Sensing(SPEC)
    take(sensing, 0, **{tag: (0, 1.0)})

    def known(inputs: Inputs) -> float:
        return float(inputs.obs[0] if tag == "level" else inputs.act_prev[0])

    inputs = take(sensing, 2, **{tag: (ahead, 4.0)})
    assert inputs.notes == {"source_time": f"'{tag}' is stamped {ahead - 2:.1f} s ahead of this clock"}
    assert known(inputs) == 1.0
    if between:  # not believed: what is stamped rightly is not too late beside it
        assert known(take(sensing, 4, **{tag: (2, 2.0)})) == 2.0
    before = take(sensing, ahead - 2, **{tag: (ahead, 4.0)})
    assert known(before) == (2.0 if between else 1.0)
    assert before.notes == {}  # within a period
    after = take(sensing, ahead + 2, **{tag: (ahead, 4.0)})
    assert known(after) == 4.0


def test_a_stamp_a_little_ahead_waits_for_its_time() -> None:
    sensing = Sensing(SPEC)
    take(sensing, 0, level=(0, 1.0))
    inputs = take(sensing, 2, level=(3.5, 2.0))
    assert (inputs.obs[0], inputs.notes) == (1.0, {})
    assert take(sensing, 4, level=(3.5, 2.0)).obs[0] == 2.0


def test_own_confirmed_commands_hold_from_the_sample_time_on() -> None:
    sensing = Sensing(SPEC)
    take(sensing, 0, valve=(-2, 1.0), pump=(-2, 3.0))
    sensing.commanded({"valve": 2.0, "pump": 3.0}, START)
    # The plant stamps the same command when it arrived; in force it counts from the sample time, as in training.
    inputs = take(sensing, 2, valve=(0.7, 2.0), pump=(-2, 3.0))
    assert inputs.act_prev.tolist() == [2.0, 3.0]
    # An operator's, given within the period, is weighted by its time.
    inputs = take(sensing, 4, valve=(3.0, 4.0), pump=(-2, 3.0))
    assert inputs.act_prev.tolist() == [3.0, 3.0]


def test_while_commanding_the_echo_counts_and_one_that_is_not_good_is_unknown() -> None:
    sensing = Sensing(SPEC)
    take(sensing, 0, valve=(0, 1.0), pump=(0, 1.0))
    assert take(sensing, 2, True, valve=(1.0, 3.0), pump=(0, 1.0)).act_prev.tolist() == [3.0, 1.0]
    assert take(sensing, 4, valve=(1.0, 3.0), pump=(0, 1.0)).act_prev.tolist() == [3.0, 1.0]
    bad = [Sample(START, 2.0, "bad"), Sample(START, 2.0, "uncertain"), Sample(START, NAN), Sample(START, math.inf)]
    for sample in bad:
        echo = sensing.echo(PlantReading(commands={"valve": sample}))
        assert not np.isfinite(echo).any()
    assert sensing.echo(PlantReading(commands={"valve": Sample(None, 1e300)}))[0] == math.inf
    assert Sensing(plant(uncertain="use")).echo(PlantReading(commands={"valve": bad[1]}))[0] == 2.0


def test_a_command_without_a_stamp_is_in_force_from_when_it_was_first_seen() -> None:
    sensing = Sensing(SPEC)
    assert math.isnan(take(sensing, 0, valve=(None, 1.0)).act_prev[0])  # it may just have been given
    assert take(sensing, 2, valve=(None, 1.0)).act_prev[0] == 1.0
    assert take(sensing, 4, valve=(None, 2.0)).act_prev[0] == 1.0
    assert take(sensing, 6, valve=(None, 1.0)).act_prev[0] == 2.0
    assert take(sensing, 8, valve=(None, 1.0)).act_prev[0] == 1.0


def test_an_empty_reading_leaves_everything_unknown_and_then_old() -> None:
    sensing = Sensing(SPEC)
    inputs = sensing.take(PlantReading(problem="cut"), START, commanding=False)
    assert np.isnan(inputs.obs).all()
    assert np.isnan(inputs.act_prev).all()
    assert not inputs.ok.any()
    take(sensing, 2, level=1.0, inflow=1.0, area=1.0)
    ages = [sensing.take(PlantReading(), START + s * NS, commanding=True).ok.tolist() for s in (4, 8, 10)]
    assert ages == [[True, True, True], [True, False, True], [False, False, True]]


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        (Sample(START, 1.0), ""),
        (Sample(None, 2.0), ""),
        (Sample(START, 0.0), "the plant's mode 'running' is 0"),
        (Sample(START, NAN), "the plant's mode 'running' is nan"),
        (Sample(START, 1.0, "bad"), "the plant does not say its mode ('running')"),
        (Sample(START, 1.0, "uncertain"), "the plant does not say its mode ('running')"),
        (None, "the plant does not say its mode ('running')"),
    ],
)
def test_the_plants_own_mode(sample: Sample | None, why: str) -> None:
    modes = {} if sample is None else {"running": sample}
    assert Sensing(SPEC).plant_mode(PlantReading(modes=modes)) == why
