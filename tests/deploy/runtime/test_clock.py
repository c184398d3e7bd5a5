"""Ticks lie on ingest's grid, missed ones are counted, and the wall clock cannot move them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import sample_times
from deploy.runtime.clock import NS, AcceleratedClock, Metronome, SystemClock

START = 1_700_000_000 * NS + 123_456_789


def test_an_accelerated_clock_moves_only_when_somebody_waits_or_says_so() -> None:
    clock = AcceleratedClock(START)
    assert (clock.monotonic_ns(), clock.wall_ns()) == (0, START)
    clock.wait_until(3 * NS)
    clock.wait_until(2 * NS)  # passed already
    clock.advance(0.25)
    assert (clock.monotonic_ns(), clock.wall_ns()) == (3_250_000_000, START + 3_250_000_000)
    clock.set_wall(-3600.0)
    assert (clock.monotonic_ns(), clock.wall_ns()) == (3_250_000_000, START + 3_250_000_000 - 3600 * NS)


def test_the_machine_waits_until_the_moment_and_not_for_one_that_has_passed() -> None:
    clock = SystemClock()
    until = clock.monotonic_ns() + NS // 50
    clock.wait_until(until)
    assert clock.monotonic_ns() >= until
    began = clock.monotonic_ns()
    clock.wait_until(began - NS)
    assert clock.monotonic_ns() - began < NS // 2
    assert abs(clock.wall_ns() - time.time_ns()) < NS


@given(
    wall=st.integers(0, 4_000_000_000 * NS),
    period_s=st.sampled_from([0.001, 0.01, 1 / 3, 0.7, 2.0, 60.0, 3600.0]),
    busy=st.lists(st.floats(0, 0.49), min_size=1, max_size=10),
)
def test_ticks_are_the_sample_times_of_ingest(wall: int, period_s: float, busy: list[float]) -> None:
    clock = AcceleratedClock(wall)
    metronome = Metronome(clock, period_s)
    found = []
    for share in busy:
        tick, missed = metronome.wait()
        assert missed == 0
        assert clock.monotonic_ns() == tick.start_ns
        assert clock.wall_ns() == tick.time_ns
        found.append(tick)
        clock.advance(share * period_s)
    times = [tick.time_ns for tick in found]
    assert times == sample_times(wall + 1, times[-1], period_s).tolist()  # the first one after now
    assert [tick.number for tick in found] == list(range(len(found)))


@given(stalls=st.lists(st.floats(0, 7.0), min_size=1, max_size=12), latest=st.sampled_from([0.1, 0.5, 0.9]))
def test_a_late_tick_is_begun_up_to_the_share_and_left_out_beyond_it(stalls: list[float], latest: float) -> None:
    period = 2.0
    clock = AcceleratedClock(START)
    metronome = Metronome(clock, period)
    before, _ = metronome.wait(latest)
    total = 0
    for stall in stalls:
        clock.advance(stall * period)
        now = clock.monotonic_ns()
        tick, missed = metronome.wait(latest)
        total += missed
        assert tick.number == before.number + 1 + missed
        assert tick.time_ns - before.time_ns == tick.start_ns - before.start_ns == (1 + missed) * metronome.period_ns
        assert tick.time_ns % metronome.period_ns == 0
        # Begun no later than allowed, and no tick was left out that could still have been begun.
        assert clock.monotonic_ns() <= tick.start_ns + latest * metronome.period_ns
        assert missed == 0 or now > tick.start_ns - metronome.period_ns + latest * metronome.period_ns
        before = tick
    assert before.number == len(stalls) + total


def test_a_long_stall_leaves_out_what_it_covered() -> None:
    clock = AcceleratedClock(START)
    metronome = Metronome(clock, 1.0)
    first, _ = metronome.wait()
    clock.advance(3600.0)
    tick, missed = metronome.wait()
    assert (missed, tick.number) == (3599, first.number + 3600)
    assert metronome.wait()[1] == 0


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_changes_nothing_until_it_is_anchored(jump_s: float) -> None:
    clock = AcceleratedClock(START)
    metronome = Metronome(clock, 2.0)
    first, _ = metronome.wait()
    assert metronome.jump_s == 0.0
    clock.advance(0.1)
    clock.set_wall(jump_s)
    assert metronome.jump_s == jump_s
    for number in range(1, 4):
        tick, missed = metronome.wait()
        assert (missed, tick.time_ns - first.time_ns, tick.start_ns - first.start_ns) == (0, *(2 * number * NS,) * 2)
    clock.advance(0.1)
    metronome.anchor()
    assert metronome.jump_s == 0.0
    anew, missed = metronome.wait()
    assert (anew.number, missed) == (0, 0)
    assert anew.time_ns == clock.wall_ns()
    assert anew.time_ns % (2 * NS) == 0
    assert anew.time_ns - tick.time_ns == 2 * NS + round(jump_s) * NS
    assert np.diff([anew.start_ns, metronome.wait()[0].start_ns]) == 2 * NS
