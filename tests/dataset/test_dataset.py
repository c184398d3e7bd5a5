"""TransitionDataset: what is a transition, rewards and ends, slices, the split by time, and the disk."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.dataset import Split, TransitionDataset
from controlkit.errors import ArtifactError, ControlkitError, DataError
from controlkit.spec import PlantSpec

ARRAYS = [f.name for f in fields(TransitionDataset) if f.name not in ("spec", "sources")]


def plant(history=2, trip=None, cost=False):
    objective = [{"kind": "track", "tag": "level", "setpoint": 1}]
    if cost:
        objective.append({"kind": "cost", "tag": "valve", "of": "change", "weight": 10})
    valve = {"role": "action", "unit": "%", "range": [0, 100], "safe": 0, "fallback": {"kind": "hold"}}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {
                "level": {"role": "state", "unit": "m", "range": [-1e6, 1e6], "history": history},
                "door": {"role": "exogenous", "unit": "1", "range": [-1e6, 1e6]},
                "valve": {**valve, "history": 1},
            },
            "objective": objective,
            "episodes": {"terminated": [{"tag": "level", "above": trip}]} if trip else {},
        }
    )


def build(lengths, spec=None, seed=0, **given_arrays):
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    return TransitionDataset.from_frames(
        spec or plant(),
        **{
            "frames": rng.normal(size=(rows, 2)).astype(np.float32),
            "actions": rng.normal(size=(rows, 1)).astype(np.float32),
            "episode": np.repeat(np.arange(len(lengths)), lengths),
            "time_ns": np.arange(rows) * 1_000_000_000,
            "sources": {"log.csv": "ab" * 32},
            **given_arrays,
        },
    )


def same(one, other):
    for name in ARRAYS:
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    assert (one.spec, dict(one.sources)) == (other.spec, dict(other.sources))


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5).filter(lambda lengths: max(lengths) > 1),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_transitions_are_the_rows_with_a_whole_known_window_and_a_known_next_row(lengths, history, seed):
    rows = sum(lengths)
    mask = np.random.default_rng(seed).random((rows, 2)) > 0.08
    data = build(lengths, plant(history), mask=mask)
    expected = []
    for row in range(rows):
        window = range(row - data.layout.depth, row + 2)
        inside = all(0 <= r < rows and data.episode[r] == data.episode[row] for r in window)
        if inside and all(mask[r].all() for r in window):
            expected.append(row)
    assert data.transitions.tolist() == expected
    if expected:
        assert np.isfinite(data.observations(data.transitions)).all()
        assert np.isfinite(data.rewards[data.transitions]).all()
        following = data.observations(data.transitions + 1)
        np.testing.assert_array_equal(data.next_observations(data.transitions), following)
    else:
        with pytest.raises(DataError, match="only 0 usable steps"):
            data.require_transitions()


def test_rewards_follow_the_formula_and_charge_no_change_that_is_not_known():
    spec = plant(cost=True)
    data = build([4, 3], spec, actions=np.array([[1], [3], [2], [9], [5], [5], [9]], dtype=np.float32))
    level = data.frames[:, 0]
    step = np.array([0, 2, 1, np.nan, 0, 0, np.nan])
    expected = -np.abs(np.append(level[1:], np.nan) - 1) - 10 * step
    np.testing.assert_allclose(data.rewards, expected, rtol=1e-6)
    assert np.isnan(data.actions[[3, 6]]).all()


def test_ends_are_trips_or_cuts_and_never_both():
    frames = np.zeros((9, 2), dtype=np.float32)
    frames[3, 0] = 7
    data = build([4, 4, 1], plant(trip=5), frames=frames)
    assert np.flatnonzero(data.terminated).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [6]
    frames[1, 0] = 7
    with pytest.raises(DataError, match=r"row 1: an episode goes on after the plant tripped"):
        build([4, 4, 1], plant(trip=5), frames=frames)


def test_an_end_by_a_function_needs_a_step_that_leads_there(tmp_path, monkeypatch):
    (tmp_path / "tank_jumps.py").write_text("def jumps(now, after):\n    return after['level'] - now['level'] > 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = plant()
    rules = {"episodes": {"terminated": [{"function": "tank_jumps:jumps"}]}}
    spec = PlantSpec.from_dict(spec.to_dict() | rules)
    frames = np.zeros((8, 2), dtype=np.float32)
    frames[[3, 4, 5, 6, 7], 0] = [5, 9.5, 9.5, 9.5, 9.5]  # trips in row 3; from row 3 to row 4 is no step
    data = build([4, 4], spec, frames=frames)
    assert np.flatnonzero(data.terminated).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [6]
    with pytest.raises(DataError, match=r"row 3: an episode goes on after the plant tripped"):
        build([8], spec, frames=frames)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1]])
def test_a_log_without_a_step(lengths):
    with pytest.raises(DataError, match="holds no step"):
        build(lengths)


def test_a_command_that_is_no_number_names_its_row():
    actions = np.zeros((6, 1), dtype=np.float32)
    actions[[2, 3]] = np.nan
    assert len(build([3, 3], actions=np.where(np.arange(6)[:, None] == 3, 0, actions))) == 6
    with pytest.raises(DataError, match="row 3: a command is not a number"):
        build([3, 3], actions=actions)


def test_the_error_for_too_short_a_log_says_how_long_it_is():
    with pytest.raises(DataError, match="needs 2 earlier samples and the longest episode has 3") as caught:
        build([3, 2]).require_transitions("log.csv")
    assert caught.value.where == "log.csv"
    assert "longer log" in caught.value.cure


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5).filter(lambda lengths: max(lengths) > 1),
    st.data(),
)
def test_a_slice_ends_what_it_cuts_and_leaves_the_rest_alone(lengths, draw):
    data = build(lengths)
    start = draw.draw(st.integers(0, len(data) - 1))
    stop = draw.draw(st.integers(start + 1, len(data)))
    before = {name: getattr(data, name).copy() for name in ARRAYS}
    piece = data.slice(start, stop)
    last = np.append(piece.episode[1:] != piece.episode[:-1], True)
    first = np.append(True, last[:-1])
    # One end a step that leads to an episode's last row, and no step from that row.
    ends = np.flatnonzero(last & ~first) - 1
    np.testing.assert_array_equal(np.flatnonzero(piece.terminated | piece.truncated), ends)
    assert np.isnan(piece.actions[last]).all()
    assert np.isnan(piece.rewards[last]).all()
    assert not piece.changed[last].any()
    np.testing.assert_array_equal(piece.rewards[~last], data.rewards[start:stop][~last])
    np.testing.assert_array_equal(piece.frames, data.frames[start:stop])
    whole = set(data.transitions.tolist())
    assert {start + row for row in piece.transitions.tolist()} == {
        row for row in whole if row - data.layout.depth >= start and row + 1 < stop
    }
    for name in ARRAYS:
        assert getattr(data, name).tobytes() == before[name].tobytes(), name


@pytest.mark.parametrize("lengths", [[200], [60, 60, 60], [10] * 20])
def test_a_split_is_in_order_of_time_and_nothing_crosses(lengths):
    data = build(lengths)
    split = Split.by_time(data)
    assert [split.bounds[part][0] for part in Split.PARTS] == [0, *[split.bounds[part][1] for part in Split.PARTS[:2]]]
    assert split.bounds["evaluation"][1] == len(data)
    seen: list[int] = []
    for part in Split.PARTS:
        start, stop = split.bounds[part]
        piece = split.part(data, part)
        depth = piece.layout.depth
        for row in piece.transitions:
            seen += range(start + row - depth, start + row + 2)
            assert start <= start + row - depth
            assert start + row + 1 < stop
        assert piece.time_ns[-1] < (data.time_ns[stop] if stop < len(data) else np.inf)
    assert max(seen) < len(data)
    if len(lengths) == 20:
        assert all(start % 10 == 0 for start, _ in split.bounds.values())


def test_a_split_survives_json_and_refuses_another_data_set():
    data = build([100])
    split = Split.by_time(data)
    again = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    same(again.part(data, "calibration"), split.part(data, "calibration"))
    for other in (build([100], time_ns=np.arange(100) * 7), build([50])):
        with pytest.raises(ArtifactError, match="belongs to another data set"):
            again.part(other, "evaluation")


def test_a_split_of_too_little_names_the_part():
    with pytest.raises(DataError, match="calibration part of the split: only 0 usable steps"):
        Split.by_time(build([20]))


def test_the_disk_gives_back_every_bit(tmp_path):
    mask = np.ones((9, 2), dtype=np.bool_)
    mask[4, 1] = False
    age = np.random.default_rng(5).random((9, 2)).astype(np.float32)
    age[4, 1] = np.inf
    changed = np.arange(9)[:, None] % 2 == 0
    data = build([5, 4], mask=mask, age_s=age, changed=changed)
    data.save(tmp_path / "data", extra={"note.txt": b"beside it"})
    same(TransitionDataset.load(tmp_path / "data"), data)
    assert (tmp_path / "data" / "note.txt").read_bytes() == b"beside it"
    record = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert (record["rows"], record["episodes"], record["sources"]) == (9, 2, {"log.csv": "ab" * 32})


def test_an_empty_part_of_a_data_set_keeps_its_kinds(tmp_path):
    data = build([30])
    data.slice(0, 3).save(tmp_path / "data")
    same(TransitionDataset.load(tmp_path / "data"), data.slice(0, 3))


def test_a_damaged_data_set_is_never_read(tmp_path):
    path = tmp_path / "data"
    data = build([9])

    def damaged(name, change):
        data.save(path)
        change(path / name)
        with pytest.raises(ControlkitError) as caught:
            TransitionDataset.load(path)
        assert str(path) in caught.value.where
        assert caught.value.cure
        return str(caught.value)

    def edit(old, new):
        return lambda file: file.write_text(file.read_text().replace(old, new))

    def flip(file):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    assert "does not match its hash" in damaged("data.parquet", flip)
    assert "does not match its hash" in damaged("data.parquet", lambda file: file.unlink())
    assert "does not match its hash" in damaged("spec.yaml", edit("setpoint: 1", "setpoint: 2"))
    assert "layout differs" in damaged("layout.json", edit('"level"', '"lever"'))
    assert "layout is damaged" in damaged("layout.json", edit('"slots"', '"spots"'))
    assert "schema 2" in damaged("dataset.json", edit('"schema": 1', '"schema": 2'))
    assert "is damaged" in damaged("dataset.json", edit("{", ""))
    assert "is no data set" in damaged("dataset.json", lambda file: file.unlink())
    with pytest.raises(ArtifactError, match="is no data set"):
        TransitionDataset.load(tmp_path / "nowhere")
