"""Where a log is cut into episodes, and what each rule removed."""

from __future__ import annotations

import numpy as np
import pytest

from controlkit.ingest import ingest

MODE = {"auto": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1]}}


def seconds_of(data):
    """Second of each row after the first one's minute, by episode."""
    seconds = (data.time_ns // 1_000_000_000) % 3600
    return [seconds[data.episode == number].tolist() for number in np.unique(data.episode)]


def log(at, seconds, skip=()):
    """Samples of all tags at the given seconds, but those of `skip`: (second, tag)."""
    values = {"TT-101": lambda k: k % 4, "door": lambda k: k % 2, "power": lambda k: k % 3}
    return [
        (at(k), tag, str(value(k)), "good") for k in seconds for tag, value in values.items() if (k, tag) not in skip
    ]


def accounted(quality):
    assert quality.rows == quality.rows_kept + sum(quality.rows_removed.values())
    return {name: count for name, count in quality.rows_removed.items() if count}, {
        name: count for name, count in quality.cuts.items() if count
    }


def test_a_gap_cuts_and_nothing_crosses_it(spec, write_long, at):
    result = ingest(spec, [write_long(log(at, [*range(10), *range(100, 112)]))], None)
    data = result.dataset
    assert seconds_of(data) == [list(range(10)), list(range(100, 112))]
    assert np.isnan(data.actions[[9, 21]]).all()
    assert data.truncated.tolist() == [k in (8, 20) for k in range(22)]
    # Two samples of history: each episode's first two rows and its last start no transition.
    assert data.transitions.tolist() == [*range(2, 9), *range(12, 21)]
    removed, cuts = accounted(result.quality)
    assert (removed, cuts) == ({}, {"gap": 1})
    assert result.quality.gaps == (("2024-01-01T00:00:09Z", "2024-01-01T00:01:40Z", 91.0),)


def test_a_pause_as_long_as_allowed_is_no_gap(make_spec, write_long, at):
    rows = log(at, [*range(10), *range(12, 22)])
    assert ingest(make_spec(), [write_long(rows)], None).quality.episodes == 1
    assert ingest(make_spec(episodes={"max_gap_s": 2.9}), [write_long(rows)], None).quality.episodes == 2


def test_a_tag_that_falls_silent_cuts_once_it_is_too_old(spec, write_long, at):
    silent = {(k, "TT-101") for k in range(10, 18)}
    result = ingest(spec, [write_long(log(at, range(30), silent))], None)
    # The sample of second 9 may be 3 s old: it serves until second 12.
    assert seconds_of(result.dataset) == [list(range(13)), list(range(18, 30))]
    removed, cuts = accounted(result.quality)
    assert removed == {"measurement unknown": 5}
    assert cuts == {"measurement unknown": 1}
    assert result.quality.unusable_rows == {"temperature": 5, "door": 0}


def test_bad_quality_and_values_out_of_range_age_like_silence(spec, write_long, at):
    rows = log(at, range(30))
    for k in range(10, 18):
        rows[3 * k] = (at(k), "TT-101", "99" if k % 2 else "1", "good" if k % 2 else "uncertain")
    assert seconds_of(ingest(spec, [write_long(rows)], None).dataset) == [list(range(13)), list(range(18, 30))]


def test_rows_before_the_first_command_start_no_step(spec, write_long, at):
    unknown = {(k, "power") for k in range(5)}
    result = ingest(spec, [write_long(log(at, range(20), unknown))], None)
    # Of the five rows each is a piece of its own, too short to keep.
    assert seconds_of(result.dataset) == [list(range(5, 20))]
    removed, cuts = accounted(result.quality)
    assert removed == {"piece too short": 5}
    assert cuts == {"command unknown": 5}


def test_only_accepted_modes_are_kept_and_a_moment_outside_cuts(make_spec, write_long, at):
    spec = make_spec(MODE)
    modes = [(0, 1), (10, 2), (15, 1), (24.4, 0), (24.6, 1)]
    rows = [*log(at, range(40)), *((at(second), "auto", str(value), "good") for second, value in modes)]
    result = ingest(spec, [write_long(rows)], None)
    assert seconds_of(result.dataset) == [list(range(10)), list(range(15, 25)), list(range(25, 40))]
    removed, cuts = accounted(result.quality)
    assert removed == {"mode not accepted": 5}
    assert cuts == {"mode not accepted": 2}


def test_a_mode_that_is_not_good_is_not_accepted(make_spec, write_long, at):
    spec = make_spec(MODE)
    modes = [(3, 1, "good"), (10, 1, "bad"), (15, 1, "good"), (30, 9, "good")]
    rows = [*log(at, range(40)), *((at(second), "auto", str(value), q) for second, value, q in modes)]
    assert seconds_of(ingest(spec, [write_long(rows)], None).dataset) == [list(range(3, 10)), list(range(15, 30))]


def test_a_trip_ends_its_episode_for_good(make_spec, write_long, at):
    spec = make_spec(episodes={"terminated": [{"tag": "temperature", "above": 20}]})
    rows = log(at, range(40))
    for k in range(12, 16):
        rows[3 * k] = (at(k), "TT-101", "25", "good")
    result = ingest(spec, [write_long(rows)], None)
    data = result.dataset
    assert seconds_of(data) == [list(range(13)), list(range(16, 40))]
    assert np.flatnonzero(data.terminated).tolist() == [11]
    assert np.flatnonzero(data.truncated).tolist() == [13 + 22]
    removed, cuts = accounted(result.quality)
    assert removed == {"plant stays tripped": 3}
    assert cuts["trip"] == 4


def test_a_static_tag_that_changes_cuts(make_spec, write_long, at):
    spec = make_spec({"load": {"role": "static", "unit": "t", "range": [0, 10]}})
    rows = [*log(at, range(30)), (at(0), "load", "3", "good"), (at(12), "load", "5", "good")]
    result = ingest(spec, [write_long(rows)], None)
    assert seconds_of(result.dataset) == [list(range(12)), list(range(12, 30))]
    assert accounted(result.quality) == ({}, {"static tag changes": 1})
    assert result.dataset.frames[:, 2].tolist() == [3] * 12 + [5] * 18


@pytest.mark.parametrize(("min_steps", "kept"), [(1, 2), (4, 2), (5, 1)])
def test_short_pieces_are_left_out(min_steps, kept, make_spec, write_long, at):
    # Two samples of history: four rows are the least, and five rows hold four steps.
    spec = make_spec(episodes={"min_steps": min_steps})
    rows = log(at, [*range(5), *range(100, 103), *range(200, 220)])
    result = ingest(spec, [write_long(rows)], None)
    assert result.quality.episodes == kept
    removed, _ = accounted(result.quality)
    assert removed == {"piece too short": 3 if kept == 2 else 8}
    assert np.unique(result.dataset.episode).tolist() == list(range(kept))


def test_feedback_is_checked_and_reported_but_not_stored(make_spec, write_long, at):
    spec = make_spec({"position": {"role": "feedback", "unit": "kW", "range": [0, 12], "of": "power"}})
    rows = [*log(at, range(20)), *((at(k), "position", "4.5", "good") for k in range(20))]
    result = ingest(spec, [write_long(rows)], None)
    assert result.dataset.frames.shape == (20, 2)
    assert result.quality.tags["position"].mean == 4.5
    assert result.quality.tags["position"].held_share is None
