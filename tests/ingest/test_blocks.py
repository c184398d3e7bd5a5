"""Alignment in blocks equals alignment of the whole log, to the last bit."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import NS, AlignedLog, Samples, align_log, sample_times
from controlkit.ingest import blocks
from controlkit.ingest.blocks import aligned_blocks, modes
from controlkit.ingest.stage import USABLE, Stage
from controlkit.spec import PlantSpec

PERIOD = 2.0
SPEC = PlantSpec.from_dict(
    {
        "name": "tank",
        "period_s": PERIOD,
        "tags": {
            "level": {"role": "state", "unit": "m", "range": [-5, 5]},
            "inflow": {"role": "exogenous", "unit": "L/s", "range": [-5, 5], "interpolation": "linear", "max_age_s": 5},
            "valve": {"role": "action", "unit": "%", "range": [-5, 5], "safe": 0, "fallback": {"kind": "hold"}},
            "auto": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1, 2], "max_age_s": 9},
            "runs": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1]},
        },
        "objective": [{"kind": "track", "tag": "level", "setpoint": 1}],
    }
)  # fmt: skip
TENTH = NS // 10
Point = tuple[int, float]


def rising(value: st.SearchStrategy[float], most: int = 40) -> st.SearchStrategy[list[Point]]:
    return st.dictionaries(st.integers(-100, 700), value, max_size=most).map(lambda found: sorted(found.items()))


measured = rising(st.floats(-5, 5))
ordered = rising(st.one_of(st.floats(-5, 5), st.just(math.nan)))
in_mode = rising(st.sampled_from([0.0, 1.0, 2.0, math.nan]), most=12)
logs = st.fixed_dictionaries(
    {"level": measured, "inflow": measured, "valve": ordered, "auto": in_mode, "runs": in_mode}
)
stretches = st.lists(st.integers(-50, 650), max_size=8, unique=True).map(
    lambda edges: [(a * TENTH, b * TENTH) for a, b in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)]
)


def staged(folder: Path, log: dict[str, list[Point]]) -> Stage:
    stage = Stage(folder, tuple(log), USABLE)
    for tag, found in log.items():
        stage.append_tag(tag, np.array([(time * TENTH, value) for time, value in found], dtype=USABLE))
    return stage


def raw(found: list[Point]) -> Samples:
    time_ns = np.array([time * TENTH for time, _ in found], dtype=np.int64)
    value = np.array([value for _, value in found], dtype=np.float64)
    return Samples(time_ns, value, np.ones(len(found), dtype=np.bool_))


def same(one: AlignedLog, other: AlignedLog) -> None:
    for field in fields(AlignedLog):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert np.ascontiguousarray(mine).tobytes() == np.ascontiguousarray(theirs).tobytes(), field.name


def obvious_modes(log: dict[str, list[Point]], now: int) -> tuple[bool, bool]:
    """Whether every mode is accepted at `now`, and at every sample in (now, now + period]."""
    good, kept = True, True
    for tag in SPEC.names("mode"):
        before = [(time * TENTH, value) for time, value in log[tag] if time * TENTH <= now]
        good &= bool(before) and before[-1][1] in SPEC.tags[tag].accept
        good &= bool(before) and now - before[-1][0] <= SPEC.max_age_s(tag) * NS
        inside = [value for time, value in log[tag] if now < time * TENTH <= now + PERIOD * NS]
        kept &= all(value in SPEC.tags[tag].accept for value in inside)
    return good, kept


@given(logs, stretches, st.integers(1, 12), st.sampled_from([1, 3, 1000]))
def test_blocks_are_rows_of_the_whole(log, grid, rows, most):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SAMPLES", most)
        usable = staged(Path(folder), log)
        found = list(aligned_blocks(SPEC, usable, grid, rows))
        kept = [modes(SPEC, usable, block) for _, block in found]
    numbers = [number for number, _ in found]
    assert numbers == sorted(numbers)
    assert all(0 < len(block.time_ns) <= rows for _, block in found)
    for number, (first, last) in enumerate(grid):
        times = sample_times(first, last, PERIOD)
        mine = [block for other, block in found if other == number]
        assert np.concatenate([np.empty(0, dtype=np.int64), *(block.time_ns for block in mine)]).tolist() == list(times)
        if not mine:
            continue
        whole = align_log(SPEC, {tag: raw(log[tag]) for tag in ("level", "inflow", "valve")}, times)
        columns = {f.name: np.concatenate([getattr(block, f.name) for block in mine]) for f in fields(AlignedLog)}
        same(AlignedLog(**columns), whole)
    for (_, block), (now, after) in zip(found, kept, strict=True):
        expected = [obvious_modes(log, int(time)) for time in block.time_ns]
        assert list(zip(now.tolist(), after.tolist(), strict=True)) == expected


def test_short_stretches_share_the_work_of_a_block(tmp_path, monkeypatch):
    log = {tag: [(0, 1.0)] for tag in ("level", "inflow", "valve", "auto", "runs")}
    called: list[int] = []

    def counted(spec: PlantSpec, samples: dict[str, Samples], grid_ns: np.ndarray) -> AlignedLog:
        called.append(len(grid_ns))
        return align_log(spec, samples, grid_ns)

    monkeypatch.setattr(blocks, "align_log", counted)
    grid = [(k * 10 * NS, k * 10 * NS + 3 * NS) for k in range(1000)]  # two sample times each
    found = list(aligned_blocks(SPEC, staged(tmp_path, log), grid, rows=500))
    assert [number for number, _ in found] == list(range(1000))
    assert called == [500] * 4


def test_a_tag_with_many_samples_makes_blocks_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "SAMPLES", 100)
    log = {tag: [(0, 1.0)] for tag in ("inflow", "valve", "auto", "runs")}
    log["level"] = [(time, time / 1000) for time in range(2000)]  # twenty in a period
    found = [block for _, block in aligned_blocks(SPEC, staged(tmp_path, log), [(0, 200 * NS)])]
    assert max(len(block.time_ns) for block in found) <= 5
    np.testing.assert_array_equal(np.concatenate([block.time_ns for block in found]), sample_times(0, 200 * NS, PERIOD))
