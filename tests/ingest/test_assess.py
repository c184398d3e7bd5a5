"""The assessment of a tag against a slow loop and known answers, in blocks of any size."""

from __future__ import annotations

import math
import sys
import tracemalloc
from dataclasses import astuple, fields, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlkit.errors import DataError
from controlkit.ingest import figures
from controlkit.ingest.assess import Account, TagAssessment, assess
from controlkit.ingest.flags import Flagged, Flags
from controlkit.ingest.sample_rules import BACKWARD, CONTRADICTION, NO_MEASUREMENT, OUTSIDE_LIMITS
from controlkit.ingest.sources import stage_sources
from controlkit.ingest.sources.staged import StagedLog
from controlkit.ingest.stage import SAMPLE, USABLE, Code, Stage
from controlkit.log_rules import LogRules
from controlkit.progress import Silent
from tests.ingest.staged import NS, START, log_of, pairs, staged, usable_stage

GOOD, UNCERTAIN, SUBSTITUTED, BAD, EMPTY, UNREADABLE = Code


def assessed(spec, tag, folder, *files, size=1 << 19, **options):
    """The assessment, its usable samples, and what is in quarantine: (source, row, text, reason)."""
    log = staged(folder, tag, *files)
    usable = Stage(folder / "usable", (tag,), USABLE)
    found = assess(spec, tag, log, usable, size=size, **options)
    entries = [(entry.source, entry.row, entry.text, entry.reason) for entry in log.quarantine.listed]
    marks = sum(UNREADABLE in sample[2:] for file in files for sample in file)
    assert sum(astuple(found.account)) == 2 * found.account.samples
    assert found.account.samples + marks == sum(len(list(file)) for file in files)
    assert found.account.quarantined == len(log.quarantine)
    return found, pairs(usable, tag), entries


# The slow version ----------------------------------------------------------------------------------------------------


def obvious(spec, tag, files):
    """The rules one sample at a time: the account, the usable samples, rows in quarantine by reason."""
    rules, rule = spec.log, spec.tags[tag]
    held = rule.role in ("action", "mode")
    worth = {
        GOOD: 0,
        UNCERTAIN: 2 - (rules.uncertain == "use"),
        SUBSTITUTED: 2 - (rules.substituted == "use"),
        BAD: 2,
        UNREADABLE: 3,
    }
    count = dict.fromkeys((field.name for field in fields(Account)), 0)
    quarantined, lines = [], []
    for source, samples in enumerate(files):
        mine = [(second, value, code, source, row) for row, (second, value, code) in enumerate(samples)]
        if rules.on_backward == "sort":
            lines += sorted(mine, key=lambda sample: sample[0])
            continue
        highest = -math.inf
        for sample in mine:
            if sample[0] < highest:
                quarantined += [(sample[3], sample[4], BACKWARD)] * (sample[2] != UNREADABLE)
            else:
                lines.append(sample)
                highest = sample[0]
    count["samples"] = sum(code != UNREADABLE for samples in files for *_, code in samples)
    stamps: dict[float, list[tuple]] = {}
    for sample in sorted(lines, key=lambda sample: sample[0]):
        if sample[2] == EMPTY:
            count["empty"] += 1
        elif worth[sample[2]] < 2 and not math.isfinite(sample[1]):
            quarantined.append((*sample[3:], NO_MEASUREMENT))
            if held:
                stamps.setdefault(sample[0], []).append((*sample[:2], UNREADABLE, *sample[3:]))
        elif sample[2] != UNREADABLE or held:
            stamps.setdefault(sample[0], []).append(sample)
    usable = []
    run = None
    for second, group in stamps.items():
        group.sort(key=lambda sample: worth[sample[2]])
        chosen = group[0]
        equals = [sample for sample in group if worth[sample[2]] == worth[chosen[2]] < 2]
        against = [sample for sample in equals if sample[1] != chosen[1]]
        count["merged"] += sum(sample[2] != UNREADABLE for sample in group if sample is not chosen)
        how = rules.on_duplicate
        if how == "reject" or (how == "mean" and rule.role == "mode"):
            quarantined += [(*sample[3:], CONTRADICTION) for sample in against]
            count["merged"] -= len(against)
            if held and against:  # what was said then is not known
                quarantined.append((*chosen[3:], CONTRADICTION))
                chosen = (second, math.nan, UNREADABLE)
        elif how == "last" and equals:
            chosen = equals[-1]
        elif how == "mean" and against:
            chosen = (second, sum(sample[1] for sample in equals) / len(equals), *chosen[2:])
        value, code = chosen[1:3]
        low, high = spec.limits(tag) if rule.role == "action" else rule.range
        if code == UNREADABLE:
            pass
        elif worth[code] == 2:
            count[{UNCERTAIN: "uncertain", SUBSTITUTED: "substituted", BAD: "bad_quality"}[code]] += 1
        elif rule.role == "action" and not low - 1e-6 * (high - low) <= value <= high + 1e-6 * (high - low):
            quarantined.append((*chosen[3:], OUTSIDE_LIMITS))
        elif rule.role == "action":
            count["used"] += 1
            usable.append((second, min(max(value, low), high)))
            continue
        elif not low <= value <= high:
            count["out_of_range"] += 1
        else:
            if run is None or abs(value - run[1]) > (rule.frozen.within if rule.frozen else 0):
                run = (second, value)
            if rule.frozen and second - run[0] > rule.frozen.after_s:
                count["frozen"] += 1
            else:
                count["used"] += 1
                usable.append((second, value))
                continue
        if held:
            usable.append((second, math.nan))
    count["quarantined"] = len(quarantined)
    return Account(**count), usable, sorted(quarantined)


samples = st.tuples(
    st.integers(0, 25).map(lambda quarter: quarter / 4),
    st.sampled_from([-40.0, -1.0, 0.0, 0.0, 0.25, 3.0, 10.0, 10.000001, 12.5, math.nan]),
    st.sampled_from([GOOD, GOOD, GOOD, GOOD, UNCERTAIN, SUBSTITUTED, BAD, EMPTY, UNREADABLE]),
)
rising = st.lists(samples, max_size=25).map(lambda found: sorted(found, key=lambda sample: sample[0]))
logs = st.lists(st.one_of(rising, rising, st.lists(samples, max_size=25)), min_size=1, max_size=4)
rules = st.builds(
    LogRules,
    on_backward=st.sampled_from(["reject", "sort"]),
    on_duplicate=st.sampled_from(["reject", "first", "last", "mean"]),
    uncertain=st.sampled_from(["use", "leave_out"]),
    substituted=st.sampled_from(["use", "leave_out"]),
    max_quarantined=st.just(1.0),
)
SUITE: dict[str, dict] = {
    "temperature": {"range": [-30, 11], "frozen": {"after_s": 1.5, "within": 0.25}, "spike_z": 2},
    "auto": {"role": "mode", "unit": "1", "range": [0, 11], "accept": [3]},
    "position": {"role": "feedback", "unit": "kW", "range": [-0.5, 12], "of": "power"},
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs, rules, st.sampled_from(["temperature", "door", "power", "auto", "position"]), st.integers(1, 8))
def test_every_block_size_gives_what_the_slow_version_gives(make_spec, files, how, tag, size):
    spec = make_spec(SUITE).model_copy(update={"log": how})
    account, usable, quarantined = obvious(spec, tag, files)
    results = []
    with TemporaryDirectory() as folder:
        for number, block in enumerate((size, 1000)):
            place = Path(folder, str(number))
            if not account.used and tag != "position":
                with pytest.raises(DataError, match="has no good sample"):
                    assessed(spec, tag, place, *files, size=block, max_bad_share=1)
                return
            if tag in ("temperature", "power") and len({value for _, value in usable if value == value}) == 1:
                with pytest.raises(DataError, match="never changes"):
                    assessed(spec, tag, place, *files, size=block, max_bad_share=1)
                return
            found, written, entries = assessed(spec, tag, place, *files, size=block, max_bad_share=1)
            assert found.account == account
            assert [(source, row, reason) for source, row, _, reason in entries] == quarantined
            np.testing.assert_array_equal(np.array(written).reshape(-1, 2), np.array(usable).reshape(-1, 2))
            results.append(found)
    small, whole = results
    assert same(small) == same(whole)
    assert_figures(whole, [value for _, value in usable if value == value])


def same(found: TagAssessment) -> tuple:
    """The assessment without what floating-point sums round otherwise in other blocks."""
    return astuple(replace(found, mean=None, std=None))


def assert_figures(found: TagAssessment, values: list[float]) -> None:
    if not values:
        assert (found.low, found.high, found.mean, found.std, found.first_ns) == (None,) * 5
        return
    expected = (min(values), max(values), np.mean(values), np.std(values))
    assert (found.low, found.high, found.mean, found.std) == pytest.approx(expected, rel=1e-12, abs=1e-12)


# Order and duplicates ------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_goes_to_quarantine_until_it_catches_up(spec, tmp_path):
    seconds = [0, 1, 2, 3, 4, 2.5, 3.5, 4.5, 5.5]
    found, usable, entries = assessed(spec, "temperature", tmp_path, [(s, i) for i, s in enumerate(seconds)])
    assert [second for second, _ in usable] == [0, 1, 2, 3, 4, 4.5, 5.5]
    assert entries == [
        (0, 5, "2024-01-01T00:00:02.5Z", BACKWARD),
        (0, 6, "2024-01-01T00:00:03.5Z", BACKWARD),
    ]
    assert "temperature: 2 samples contradict the log or the plant file and are in quarantine" in found.warnings


def test_a_file_in_any_order_is_sorted_where_the_plant_file_says_so(make_spec, tmp_path):
    spec = make_spec(log={"on_backward": "sort"})
    order = np.random.default_rng(0).permutation(1000)
    _, usable, entries = assessed(spec, "temperature", tmp_path, [(s, s % 7) for s in order.tolist()], size=64)
    assert usable == [(s, s % 7) for s in range(1000)]
    assert not entries
    assert not [path for path in (tmp_path / "staged" / "sorted").iterdir() if path.stat().st_size]


def test_a_jump_of_the_clock_forward_is_only_a_gap(spec, tmp_path):
    found, usable, entries = assessed(spec, "temperature", tmp_path, [(s, s % 7) for s in (0, 1, 2, 3602, 3603)])
    assert (len(usable), entries, found.warnings) == (5, [], ())


def test_many_overlapping_files_come_out_as_one(spec, tmp_path):
    rng = np.random.default_rng(1)
    seconds = np.sort(rng.integers(0, 3000, 2000))
    file = rng.integers(0, 40, 2000)
    files = [[(int(s), s % 5) for s in seconds[file == i]] for i in range(40)]
    found, usable, entries = assessed(spec, "temperature", tmp_path, *files, size=100)
    assert usable == [(s, s % 5) for s in np.unique(seconds).tolist()]
    assert found.account.merged == 2000 - len(usable)
    assert not entries


@pytest.mark.parametrize(
    ("rule", "value", "merged", "quarantined"),
    [("reject", 1.0, 1, [2, 3]), ("first", 1.0, 3, []), ("last", 6.0, 3, []), ("mean", 3.0, 3, [])],
)
def test_several_values_of_one_stamp_by_rule(rule, value, merged, quarantined, make_spec, tmp_path):
    spec = make_spec(log={"on_duplicate": rule, "max_quarantined": 1})
    file = [(0, 0), (1, 1), (1, 2), (1, 6), (1, 1 if rule != "last" else 6), (2, 5)]
    file[4] = (1, 7, BAD)
    found, usable, entries = assessed(spec, "temperature", tmp_path, file)
    assert usable == [(0, 0), (1, value), (2, 5)]
    assert found.account.merged == merged
    assert [row for _, row, _, reason in entries if reason == CONTRADICTION] == quarantined


def test_a_good_sample_counts_before_an_uncertain_one_of_its_stamp(make_spec, tmp_path):
    spec = make_spec(log={"uncertain": "use"})
    file = [(0, 9, UNCERTAIN), (0, 1), (1, 2, UNCERTAIN), (1, 3, BAD)]
    found, usable, entries = assessed(spec, "temperature", tmp_path, file)
    assert (usable, entries) == ([(0, 1), (1, 2)], [])
    assert (found.account.merged, found.account.uncertain, found.account.used) == (2, 0, 2)
    assert [flag for flag in found.flags if flag.reason == "uncertain"] == [
        Flagged("uncertain", START + NS, START + NS, 1)
    ]


# Values --------------------------------------------------------------------------------------------------------------


def test_a_command_outside_its_limits_goes_to_quarantine_and_a_rounding_is_clamped(spec, tmp_path):
    _, usable, entries = assessed(spec, "power", tmp_path, [(0, 1), (1, 10.000001), (2, 10.5), (3, -1e-9), (4, 2)])
    np.testing.assert_array_equal(usable, [(0, 1), (1, 10), (2, math.nan), (3, 0), (4, 2)])
    assert entries == [(0, 2, "10.5", OUTSIDE_LIMITS)]


def test_no_number_in_a_good_sample_goes_to_quarantine(spec, tmp_path):
    _, usable, entries = assessed(spec, "temperature", tmp_path, [(0, 1), (1, math.nan), (2, math.inf), (3, 2)])
    assert usable == [(0, 1), (3, 2)]
    assert entries == [(0, 1, "nan", NO_MEASUREMENT), (0, 2, "inf", NO_MEASUREMENT)]


@pytest.mark.parametrize("tag", ["power", "auto"])
def test_what_is_not_known_of_a_command_or_a_mode_is_unknown_until_the_next_good_one(tag, make_spec, tmp_path):
    spec = make_spec({"auto": {"role": "mode", "unit": "1", "range": [0, 9], "accept": [1]}})
    file = [
        (0, 1), (1, 1, BAD), (2, 2), (3, 2, UNCERTAIN), (4, 3), (5, 4), (5, 5), (6, 1), (7, math.nan), (8, 2),
        (9, 0, UNREADABLE), (10, 3), (10, 0, UNREADABLE), (11, 4), (11, 0, BAD), (12, 0, EMPTY), (13, 2, SUBSTITUTED),
    ]  # fmt: skip
    found, usable, entries = assessed(spec, tag, tmp_path, file)
    unknown = {1, 3, 5, 7, 9, 13}
    assert [second for second, value in usable if math.isnan(value)] == sorted(unknown)
    assert [second for second, _ in usable] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert [(row, reason) for _, row, _, reason in entries] == [
        (5, CONTRADICTION), (6, CONTRADICTION), (8, NO_MEASUREMENT),
    ]  # fmt: skip
    account = found.account
    assert (account.samples, account.used, account.bad_quality, account.merged) == (15, 7, 1, 1)
    assert (account.empty, account.uncertain, account.substituted, account.quarantined) == (1, 1, 1, 3)


def test_a_spike_of_a_command_that_is_unknown_in_between_is_found(make_spec, tmp_path):
    spec = make_spec({"power": {"spike_z": 4}})
    file = [(s, 9 if s == 20 else s % 2, BAD if s == 10 else GOOD) for s in range(40)]
    found, _, _ = assessed(spec, "power", tmp_path, file)
    assert [flag for flag in found.flags if flag.reason == "spike"] == [
        Flagged("spike", START + 20 * NS, START + 20 * NS, 1)
    ]


def test_a_mode_that_is_not_good_is_written_as_unknown(make_spec, tmp_path):
    spec = make_spec({"auto": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1]}})
    file = [(0, 1), (1, 1, BAD), (2, 7), (3, 0), (4, 0, EMPTY), (5, 1, UNCERTAIN)]
    _, usable, _ = assessed(spec, "auto", tmp_path, file)
    np.testing.assert_array_equal(usable, [(0, 1), (1, math.nan), (2, math.nan), (3, 0), (5, math.nan)])


def test_a_frozen_sensor_is_left_out_and_comes_back(make_spec, tmp_path):
    spec = make_spec({"temperature": {"frozen": {"after_s": 5}}})
    values = [1, 2, 3, *[4] * 10, 5, 6]
    found, usable, _ = assessed(spec, "temperature", tmp_path, list(enumerate(values)), size=3)
    assert [second for second, _ in usable] == [*range(9), 13, 14]
    assert found.account.frozen == 4
    assert found.flags == (Flagged("frozen", START + 9 * NS, START + 12 * NS, 4),)
    assert found.warnings == (
        "temperature: 4 samples say the same for longer than 5 s, as a frozen sensor does, and were not used",
    )


def test_a_compressed_tag_that_is_silent_is_not_frozen_and_nothing_of_it_is_missing(make_spec, tmp_path):
    thin = {"frozen": {"after_s": 600}, "compression": {"deviation": 0.5, "max_interval_s": 600}}
    spec = make_spec({"temperature": thin})
    file = [(s, s / 100) for s in range(100) if s < 20 or s % 10 == 0]
    found, usable, _ = assessed(spec, "temperature", tmp_path, [*file, (3000, 2), (3001, 3)])
    assert len(usable) == len(file) + 2
    assert (found.account.frozen, found.warnings) == (0, ())


def test_a_spike_is_flagged_and_used(make_spec, tmp_path):
    spec = make_spec({"temperature": {"spike_z": 6}})
    values = np.random.default_rng(2).normal(0, 0.1, 5000)
    values[[100, 3000]] += [20, -20]
    values[4000:] += 10  # a step stays where it went: no spike
    found, usable, _ = assessed(spec, "temperature", tmp_path, list(enumerate(values)), size=333)
    assert len(usable) == found.account.used == 5000
    assert found.flags == tuple(Flagged("spike", START + s * NS, START + s * NS, 1) for s in (100, 3000))
    assert found.warnings == ("temperature: 2 samples are spikes; they were used as they are",)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 9.0, -9.0]), max_size=40), st.integers(1, 9))
def test_spikes_are_those_of_a_slow_loop_in_blocks_of_any_size(values, size):
    steps = [after - before for before, after in pairwise(values)]
    usual = np.median(steps) if steps else 0
    away = [step - usual for step in steps]
    scale = np.median(np.abs(away)) * 1.4826 if steps else 0
    limit = 3 * (scale or 1.253314 * np.mean(np.abs(away or [0])))
    expected = [
        i + 1
        for i, (there, back) in enumerate(pairwise(away))
        if (there > limit and back < -limit) or (there < -limit and back > limit)
    ]
    with TemporaryDirectory() as folder:
        usable = usable_stage(Path(folder), temperature=list(enumerate(values)))
        times, numbers = figures.spikes(usable, "temperature", 3, size)
    assert numbers.tolist() == expected
    assert times.tolist() == [START + i * NS for i in expected]


def test_spikes_of_a_tag_that_mostly_stands_still(make_spec, tmp_path):
    spec = make_spec({"temperature": {"spike_z": 6}})
    values = np.repeat([1.0, 1.1], 500)
    values[300] = 9
    found, _, _ = assessed(spec, "temperature", tmp_path, list(enumerate(values)))
    assert [flag.from_ns for flag in found.flags] == [START + 300 * NS]


# What stops, and what is worth a sentence ----------------------------------------------------------------------------


def refused(spec, tag, folder, *files, where="log0.csv", parts=()):
    with pytest.raises(DataError) as caught:
        assessed(spec, tag, folder, *files)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.where == where
    assert len(caught.value.cure) > 8
    for part in parts:
        assert part in message, (part, message)


@pytest.mark.parametrize(("tag", "role"), [("temperature", "state"), ("power", "action")])
def test_a_state_or_a_valve_that_never_changes(tag, role, spec, tmp_path):
    refused(
        spec, tag, tmp_path, [(s, 3) for s in range(20)], parts=[f"{role} '{tag}' never changes", "it is 3 in all 20"]
    )


def test_a_tag_without_a_good_sample_says_what_its_samples_are(spec, tmp_path):
    file = [(s, 3, BAD) for s in range(20)] + [(20, 0, EMPTY)]
    refused(spec, "door", tmp_path, file, parts=["'door' has no good sample (20 bad quality, 1 empty)"])


def test_a_tag_that_is_all_in_quarantine_stops_with_the_reason_of_that(spec, tmp_path):
    refused(
        spec, "power", tmp_path, [(s, 11 + s % 3) for s in range(20)],
        parts=["20 of 20 rows", "20 times 'command outside its limits', first '11' of tag 'power' in log0.csv, line 2"],
    )  # fmt: skip


def test_a_feedback_may_have_no_good_sample(make_spec, tmp_path):
    found, usable, _ = assessed(make_spec(SUITE), "position", tmp_path, [(0, 1, BAD)])
    assert (found.account.used, usable, found.low) == (0, [], None)
    assert "position: no good sample" in found.warnings


def test_a_range_that_does_not_fit_names_the_first_line(make_spec, tmp_path):
    spec = make_spec({"temperature": {"range": [4, 40]}})
    file = [(s, 5 - 0.25 * s) for s in range(18)] + [(18, -9), (19, -9)]
    refused(
        spec, "temperature", tmp_path, file, where="log0.csv, line 7",
        parts=["15 of 20 values", "[4, 40] degC", "the first is 3.75", "reach from -9 to 5"],
    )  # fmt: skip


def test_a_negative_flow_is_out_of_range_and_the_sentence_names_the_sign(make_spec, tmp_path):
    spec = make_spec({"feed": {"role": "exogenous", "unit": "m^3/h", "range": [0, 100]}})
    found, usable, _ = assessed(spec, "feed", tmp_path, [(0, 3), (1, -0.5), (2, 4), (3, 101)])
    assert len(usable) == found.account.used == found.account.out_of_range == 2
    assert found.warnings == (
        "feed: 2 samples lie outside its range and were not used",
        "feed: 1 values are negative (down to -0.5 m^3/h), which its range does not allow: look at the sign and the "
        "zero of the measurement",
    )


def test_a_counter_that_wraps(make_spec, tmp_path):
    spec = make_spec({"meter": {"role": "exogenous", "unit": "kWh", "range": [0, 70_000]}})
    file = [(s, (60_000 + 90 * s) % 65_536) for s in range(500)]
    found, _, _ = assessed(spec, "meter", tmp_path / "counter", file, size=7)
    assert [w for w in found.warnings if "falls by most of its span once, as a counter that wraps" in w]
    level = [(s, 30_000 + 20_000 * math.sin(s / 20)) for s in range(500)]
    assert assessed(spec, "meter", tmp_path / "level", level)[0].warnings == ()


@pytest.mark.parametrize(("share", "warned"), [(0.1, True), (0.002, False)])
def test_samples_that_are_missing(share, warned, spec, tmp_path):
    rng = np.random.default_rng(3)
    seconds = np.flatnonzero(rng.random(20_000) >= share)
    found, _, _ = assessed(spec, "door", tmp_path, [(s, s % 2) for s in seconds.tolist()], size=1000)
    missing = [float(w.split()[1]) for w in found.warnings if "missing (one comes every 1 s)" in w]
    assert missing == ([pytest.approx(10, abs=0.6)] if warned else [])


def test_bad_quality_is_a_sentence_from_a_share_on(spec, tmp_path):
    found, _, _ = assessed(spec, "door", tmp_path, [(s, s % 2, BAD if s < 10 else GOOD) for s in range(100)])
    assert found.warnings == ("door: 10.0 % of its samples are not good",)
    assert found.flags == (Flagged("bad quality", START, START + 9 * NS, 10),)
    found, _, _ = assessed(spec, "door", tmp_path / "other", [(s, 0) for s in range(100)])
    assert found.warnings == ("door: never changes (0); no model can learn what it does",)


# From a file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["long", "wide"])
def test_the_samples_of_a_broken_log_all_end_somewhere(form, make_spec, rows, write_long, at, tmp_path):
    noise = {"role": "ignore", "unit": "1", "range": [0, 1]}
    spec = make_spec({"noise": noise}, log={"max_quarantined": 1})
    rows[6] = (rows[6][0], "TT-101", "No Data", "good")
    rows[9] = (rows[9][0], "TT-101", "999", "good")
    rows[12] = (rows[12][0], "TT-101", "", "good")
    rows[15] = (rows[15][0], "TT-101", "much", "good")
    rows[17] = (rows[17][0], "power", "11", "good")
    rows[21:21] = rows[18:21]
    rows.insert(27, (at(2), "TT-101", "1", "good"))
    rows[28:28] = [(at(2), "door", "0", "good"), (at(2), "power", "1", "good")]
    rows += [(at(20), tag, "1", "good") for tag in ("TT-101", "door", "power")]
    path = write_long([*rows, (at(20), "noise", "0.5", "good")])
    if form == "wide":
        lines = [f"{rows[i][0]},{rows[i][2]},{rows[i + 1][2]},{rows[i + 2][2]},0" for i in range(0, len(rows), 3)]
        path.write_text("\n".join(["timestamp,TT-101,door,power,noise", *lines]))
    log = stage_sources(spec, [path], tmp_path / "scratch", progress=Silent())
    read = len(log.quarantine)
    usable = Stage(tmp_path / "usable", log.stage.tags, USABLE)
    accounts = {tag: assess(spec, tag, log, usable).account for tag in log.stage.tags}
    total = {field.name: sum(getattr(one, field.name) for one in accounts.values()) for field in fields(Account)}
    ignored = 1 if form == "long" else len(rows) // 3
    assert total == {
        "samples": 68, "used": 58, "bad_quality": 1, "uncertain": 0, "substituted": 0, "empty": 1, "out_of_range": 1,
        "frozen": 0, "quarantined": 4, "merged": 3,
    }  # fmt: skip
    assert read == 1
    assert log.sources[0].ignored == ignored
    assert log.sources[0].samples == total["samples"] + read + ignored
    assert log.quarantine.counts() == {NO_MEASUREMENT: 1, OUTSIDE_LIMITS: 1, BACKWARD: 3}
    assert [int((~np.isnan(usable.read(tag)["value"])).sum()) for tag in log.stage.tags] == [
        accounts[tag].used for tag in log.stage.tags
    ]


# Flags ---------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60), st.integers(1, 6), st.lists(st.integers(0, 60))
)
def test_stretches_are_those_of_a_slow_loop_however_the_blocks_end(found, most, cuts):
    times = np.cumsum([step for step, _ in found] or [0])[: len(found)].astype(np.int64)
    flagged = np.array([flag for _, flag in found], dtype=np.bool_)
    expected: list[list[int]] = []
    for i, (now, flag) in enumerate(zip(times.tolist(), flagged.tolist(), strict=True)):
        if flag and i and flagged[i - 1]:
            expected[-1][1:] = [now, expected[-1][2] + 1]
        elif flag:
            expected.append([now, now, 1])
    while len(expected) > most:  # the shortest way between two goes, of equal ones the latest
        gaps = [(expected[i + 1][0] - expected[i][1], -i) for i in range(len(expected) - 1)]
        i = -min(gaps)[1]
        expected[i : i + 2] = [[expected[i][0], expected[i + 1][1], expected[i][2] + expected[i + 1][2]]]
    flags = Flags(most)
    edges = [0, *sorted(min(cut, len(times)) for cut in cuts), len(times)]
    for start, stop in pairwise(edges):
        flags.add("x", times[start:stop], flagged[start:stop])
    assert [[flag.from_ns, flag.to_ns, flag.samples] for flag in flags.result()] == expected


# Size ----------------------------------------------------------------------------------------------------------------


def big_log(folder: Path, count: int) -> StagedLog:
    rng = np.random.default_rng(0)
    made = np.zeros(count, dtype=SAMPLE)
    made["time_ns"] = START + np.arange(count) * NS
    made["value"] = np.cumsum(rng.normal(0, 0.01, count)) % 10
    made["row"] = np.arange(count)
    made["code"] = np.where(rng.random(count) < 0.01, Code.BAD, Code.GOOD)
    again = rng.integers(1, count, count // 100)
    made["time_ns"][again] = made["time_ns"][again - 1]
    stage = Stage(folder / "staged", ("temperature",))
    stage.append_tag("temperature", made)
    return log_of(stage, count)


ALL_ON = {"temperature": {"frozen": {"after_s": 60, "within": 0.001}, "spike_z": 8}}


def test_memory_does_not_grow_with_the_log(make_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "SAMPLED", 10_000)  # differences for medians; their bound is beyond a short log
    spec = make_spec(ALL_ON, log={"on_duplicate": "mean", "on_backward": "sort"})
    log = big_log(tmp_path, 600_000)
    usable = Stage(tmp_path / "usable", ("temperature",), USABLE)
    tracemalloc.start()
    found = assess(spec, "temperature", log, usable, size=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.account.samples == 600_000
    assert peak < 600_000 * SAMPLE.itemsize / 4


@pytest.mark.parametrize(
    ("within", "most"),
    [(0.0, 0.1), (0.001, 1.1)],  # what starts a run of nearly equal values is found by going from run to run
)
def test_samples_are_worked_on_in_blocks_and_not_one_by_one(within, most, make_spec, tmp_path):
    rules = {"temperature": {"frozen": {"after_s": 60, "within": within}, "spike_z": 8}}
    spec = make_spec(rules, log={"on_duplicate": "mean"})
    log = big_log(tmp_path, 200_000)
    usable = Stage(tmp_path / "usable", ("temperature",), USABLE)
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        assess(spec, "temperature", log, usable)
    finally:
        sys.setprofile(before)
    assert calls < most * 200_000
