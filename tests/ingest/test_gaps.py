"""Gaps of a log: what the tags leave free together."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controlkit.ingest.gaps import find_gaps
from controlkit.ingest.stage import USABLE, Stage
from tests import small_plant

NS = 1_000_000_000
SPEC = small_plant.spec(episodes={"max_gap_s": 5})


def staged(folder, **times):
    stage = Stage(folder, ("level", "load", "valve"), USABLE)
    for tag, seconds in times.items():
        samples = np.zeros(len(seconds), dtype=USABLE)
        samples["time_ns"] = np.sort(np.array(seconds, dtype=np.int64)) * NS
        stage.append_tag(tag, samples)
    return stage


def slow(*times):
    """All stamps in one list; a gap is a difference of more than five seconds."""
    known = sorted(set().union(*times))
    gaps = [(a, b) for a, b in itertools.pairwise(known) if b - a > 5]
    return gaps, list(zip([known[0], *(b for _, b in gaps)], [*(a for a, _ in gaps), known[-1]], strict=True))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 300), max_size=60),
    st.lists(st.integers(0, 300), min_size=1, max_size=30),
)
def test_gaps_are_those_of_all_stamps_together(tmp_path_factory, level, load):
    stretches, gaps = find_gaps(SPEC, staged(tmp_path_factory.mktemp("stage"), level=level, load=load, valve=[7]))
    expected_gaps, expected_stretches = slow(level, load)
    assert [(gap.from_ns // NS, gap.to_ns // NS) for gap in gaps] == expected_gaps
    assert [(a // NS, b // NS) for a, b in stretches] == expected_stretches


def test_commands_do_not_fill_a_gap(tmp_path):
    stretches, gaps = find_gaps(SPEC, staged(tmp_path, level=[0, 1, 20], load=[0], valve=range(20)))
    assert [(gap.from_ns // NS, gap.to_ns // NS) for gap in gaps] == [(1, 20)]
    assert [(a // NS, b // NS) for a, b in stretches] == [(0, 1), (20, 20)]
