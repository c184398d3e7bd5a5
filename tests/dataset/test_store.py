"""A data set written in stretches, and one that stays on disk."""

from __future__ import annotations

import itertools
import os
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlkit.dataset import RECORD, DatasetWriter, Split, TransitionDataset
from controlkit.dataset.mapped import ARRAYS, MEMORY, memory_bytes
from controlkit.dataset.store import writing
from controlkit.errors import ControlkitError, DataError
from controlkit.files import read_json
from tests import small_plant

ARRAY_NAMES = [f.name for f in fields(TransitionDataset) if f.name not in ("spec", "sources")]
ROWS = ("frames", "mask", "age_s", "actions", "changed", "episode", "time_ns")
SPEC = small_plant.spec(
    history=3,
    objective=[{"kind": "track", "tag": "level", "setpoint": 1}, {"kind": "cost", "tag": "valve", "of": "change"}],
    episodes={"terminated": [{"tag": "level", "above": 2.0}]},
)


def rows(lengths, seed):
    """Rows of episodes with these lengths; some trip at their end, some cells are unknown."""
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    frames = rng.normal(size=(count, 2)).clip(-1.9, 1.9).astype(np.float32)
    ends = np.cumsum(lengths) - 1
    frames[ends[rng.random(len(ends)) < 0.5], 0] = 3.0
    return {
        "frames": frames,
        "mask": rng.random((count, 2)) < 0.9,
        "age_s": rng.random((count, 2)).astype(np.float32),
        "actions": rng.normal(size=(count, 1)).astype(np.float32),
        "changed": rng.random((count, 1)) < 0.3,
        "episode": np.repeat(np.arange(len(lengths)), lengths),
        "time_ns": np.arange(count) * 1_000_000_000,
    }


def same(one, other):
    for name in ARRAY_NAMES:
        mine, yours = np.ascontiguousarray(getattr(one, name)), np.ascontiguousarray(getattr(other, name))
        assert mine.dtype == yours.dtype, name
        assert mine.tobytes() == yours.tobytes(), name


def written(path, given_rows, cuts):
    with writing(path) as folder:
        writer = DatasetWriter(SPEC, folder)
        edges = [0, *sorted(cuts), len(given_rows["time_ns"])]
        for start, stop in itertools.pairwise(edges):
            writer.append(**{name: part[start:stop] for name, part in given_rows.items()})
        writer.close({"log.csv": "ab" * 32})
    return TransitionDataset.load(path)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    cuts=st.sets(st.integers(0, 54), max_size=8),
    seed=st.integers(0, 1000),
)
def test_stretches_make_what_the_whole_makes(tmp_path_factory, lengths, cuts, seed):
    path = tmp_path_factory.mktemp("data")
    log = rows(lengths, seed)
    whole = TransitionDataset.from_frames(SPEC, **log, sources={"log.csv": "ab" * 32})
    found = written(path / "cut", log, [cut for cut in cuts if cut <= sum(lengths)])
    same(found, whole)
    whole.save(path / "whole")
    counted, record = (read_json(path / name / RECORD) for name in ("cut", "whole"))
    assert [counted[k] for k in ("rows", "transitions", "episodes")] == [
        record[k] for k in ("rows", "transitions", "episodes")
    ]


def test_a_log_that_goes_on_after_a_trip_is_refused_across_a_cut(tmp_path):
    log = rows([8], 0)
    log["frames"][:, 0] = 0.0
    log["frames"][4, 0] = 3.0
    for cut in range(1, 8):
        with pytest.raises(DataError, match="goes on after the plant tripped"):
            written(tmp_path / "data", log, [cut])
    assert not (tmp_path / "data").exists()


def test_a_mapped_data_set_is_the_one_in_memory(tmp_path):
    log = rows([30, 50, 20], 3)
    TransitionDataset.from_frames(SPEC, **log).save(tmp_path / "data")
    whole, mapped = (TransitionDataset.load(tmp_path / "data", mapped=mapped) for mapped in (False, True))
    assert mapped.is_mapped
    assert not whole.is_mapped
    same(mapped, whole)
    assert np.array_equal(mapped.transitions, whole.transitions)
    at = whole.transitions[:7]
    assert np.array_equal(mapped.observations(at), whole.observations(at))
    with pytest.raises(ValueError, match="read-only"):
        mapped.frames[0] = 0


def test_parts_of_a_mapped_data_set_are_usable_as_those_in_memory(tmp_path):
    TransitionDataset.from_frames(SPEC, **rows([400], 4)).save(tmp_path / "data")
    whole, mapped = (TransitionDataset.load(tmp_path / "data", mapped=mapped) for mapped in (False, True))
    split = Split.by_time(whole)
    for part in Split.PARTS:
        one, other = split.part(whole, part), split.part(mapped, part)
        assert other.is_mapped
        assert np.array_equal(one.transitions, other.transitions)
        at = one.transitions
        assert np.array_equal(one.actions[at], other.actions[at])
        assert np.array_equal(one.rewards, other.rewards, equal_nan=True)
        assert np.array_equal(one.truncated, other.truncated)


def test_arrays_of_another_table_are_made_anew(tmp_path):
    first, second = (TransitionDataset.from_frames(SPEC, **rows([30], seed)) for seed in (1, 2))
    first.save(tmp_path / "data")
    TransitionDataset.load(tmp_path / "data", mapped=True)
    arrays = tmp_path / "kept"
    (tmp_path / "data" / ARRAYS).rename(arrays)
    second.save(tmp_path / "data")
    arrays.rename(tmp_path / "data" / ARRAYS)
    same(TransitionDataset.load(tmp_path / "data", mapped=True), second)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_unpacked_elsewhere(tmp_path):
    first = TransitionDataset.from_frames(SPEC, **rows([30], 1))
    first.save(tmp_path / "data")
    (tmp_path / "data").chmod(0o555)
    same(TransitionDataset.load(tmp_path / "data", mapped=True), first)


def test_what_is_too_large_for_the_memory_is_mapped(tmp_path, monkeypatch):
    data = TransitionDataset.from_frames(SPEC, **rows([300], 1))
    data.save(tmp_path / "data")
    assert not TransitionDataset.load(tmp_path / "data").is_mapped
    monkeypatch.setenv(MEMORY, "1e-5")
    assert TransitionDataset.load(tmp_path / "data").is_mapped


def test_memory_must_be_a_number(monkeypatch):
    monkeypatch.setenv(MEMORY, "2.5")
    assert memory_bytes() == 2_500_000_000
    for text in ("much", "0", "-1", "nan"):
        monkeypatch.setenv(MEMORY, text)
        with pytest.raises(ControlkitError, match="not a number above 0"):
            memory_bytes()
