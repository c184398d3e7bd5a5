"""Statistics gathered in blocks are those of the whole log."""

from __future__ import annotations

import numpy as np
import pytest

from controlkit.align import AlignedLog
from controlkit.ingest.statistics import BUCKETS, LogStatistics

NS = 1_000_000_000
START = 1_704_067_200 * NS


def log_of(rows: int, seed: int = 0, first: int = START) -> tuple[AlignedLog, np.ndarray]:
    rng = np.random.default_rng(seed)
    time_ns = first + NS * np.cumsum(rng.choice([1, 1, 1, 40], rows))
    frames = np.column_stack([rng.uniform(-20, 30, rows), rng.integers(0, 2, rows)]).astype(np.float32)
    mask = rng.random(frames.shape) > 0.1
    frames[~mask] = np.nan
    actions = np.round(rng.uniform(0, 10, (rows, 1))).astype(np.float32)
    age = rng.choice([0, 0.5, 1, 3], frames.shape).astype(np.float32)
    log = AlignedLog(time_ns, frames, mask, age, actions, rng.random((rows, 1)) > 0.8, np.ones((rows, 1), dtype=bool))
    return log, rng.random(rows) > 0.3


def gathered(spec, log: AlignedLog, kept: np.ndarray, cuts: list[int]) -> LogStatistics:
    statistics = LogStatistics(spec, int(log.time_ns[0]), int(log.time_ns[-1]))
    for start, stop in zip([0, *cuts], [*cuts, len(kept)], strict=True):
        part = slice(start, stop)
        statistics.add(AlignedLog(*(column[part] for column in vars(log).values())), kept[part])
    return statistics


@pytest.mark.parametrize("cuts", [[], [1, 2, 2, 700, 4999], list(range(250, 5000, 250))])
def test_figures_do_not_depend_on_the_blocks_and_are_those_of_numpy(spec, cuts):
    log, kept = log_of(5000)
    statistics = gathered(spec, log, kept, cuts)
    value = log.frames[kept & log.mask[:, 0], 0].astype(np.float64)
    found = statistics.figures("temperature")
    assert found.rows == len(value)
    assert (found.low, found.high) == (value.min(), value.max())
    assert found.mean == pytest.approx(value.mean(), rel=1e-12)
    assert found.std == pytest.approx(value.std(), rel=1e-12)
    assert found.held_share == pytest.approx((log.age_s[kept & log.mask[:, 0], 0] >= 1).mean())
    assert found.changed_share is None
    assert statistics.figures("power").changed_share == pytest.approx(log.changed[kept, 0].mean())
    same = [
        kept[i] and kept[i - 1] and log.time_ns[i] - log.time_ns[i - 1] == NS and log.actions[i] == log.actions[i - 1]
        for i in range(1, 5000)
    ]
    assert statistics.figures("power").held_share == pytest.approx(sum(map(bool, same)) / kept.sum())


@pytest.mark.parametrize("cuts", [[], [3, 2500]])
def test_strips_are_those_of_each_bucket_looked_at_alone(spec, cuts):
    log, kept = log_of(5000)
    statistics = gathered(spec, log, kept, cuts)
    strip, (rows, used) = statistics.trend("temperature"), statistics.rows()
    assert len(statistics.start_ns) <= BUCKETS
    assert rows.sum() == 5000
    assert used.sum() == kept.sum()
    for i, start in enumerate(statistics.start_ns):
        inside = (log.time_ns >= start) & (log.time_ns < start + statistics.width_ns)
        value = log.frames[inside & log.mask[:, 0], 0].astype(np.float64)
        assert (rows[i], used[i]) == (inside.sum(), (inside & kept).sum())
        if value.size:
            assert (strip.low[i], strip.high[i]) == (value.min(), value.max())
            assert strip.mean[i] == pytest.approx(value.mean(), rel=1e-9)
            assert strip.usable[i] == value.size / inside.sum()
        else:
            assert np.isnan(strip.mean[i])
            assert np.isnan(strip.usable[i]) == (not inside.any())


def test_a_histogram_counts_every_kept_row_once_where_it_lies(spec):
    log, kept = log_of(20_000)
    edges, counts = gathered(spec, log, kept, [77]).histogram("temperature")
    value = log.frames[kept & log.mask[:, 0], 0].astype(np.float64)
    assert len(counts) <= 60
    assert counts.sum() == len(value)
    expected = np.histogram(value, edges)[0]
    # A value within a rounding of an edge may count on either side of it.
    assert np.abs(counts - expected).sum() <= 4
    assert edges[0] <= value.min()
    assert value.max() <= edges[-1]


def test_a_tag_that_uses_little_of_its_range_has_a_histogram_of_that_part(spec):
    log, kept = log_of(3000)
    log.frames[:] = np.where(np.isfinite(log.frames), 5 + np.random.default_rng(1).normal(0, 0.3, (3000, 1)), np.nan)
    edges, counts = gathered(spec, log, kept, []).histogram("temperature")
    assert edges[-1] - edges[0] < 4
    assert (counts > 0).sum() > 20


def test_a_tag_that_was_never_usable_has_no_figures(spec):
    log, kept = log_of(100)
    log.mask[:, 1] = False
    statistics = gathered(spec, log, kept, [])
    found = statistics.figures("door")
    assert (found.rows, found.low, found.std, found.held_share) == (0, None, None, None)
    assert statistics.histogram("door")[1].tolist() == [0]
    assert np.nanmax(statistics.trend("door").usable) == 0


def test_a_log_of_one_row_and_empty_blocks_are_no_trouble(spec):
    log, kept = log_of(1)
    statistics = gathered(spec, log, np.ones(1, dtype=bool), [0, 1])
    assert len(statistics.start_ns) == 1
    assert statistics.rows()[0].tolist() == [1]
    assert kept.shape == (1,)


def test_the_room_does_not_grow_with_the_log(make_spec):
    spec = make_spec(period_s=1)
    sizes = []
    for days in (1, 1000):
        statistics = LogStatistics(spec, START, START + days * 86_400 * NS)
        arrays = [value for value in vars(statistics).values() if isinstance(value, np.ndarray)]
        sizes.append(sum(array.nbytes for array in arrays))
        assert statistics.start_ns[-1] + statistics.width_ns > START + days * 86_400 * NS
        assert statistics.width_ns % NS == 0
    assert sizes[1] < 1.1 * sizes[0]
