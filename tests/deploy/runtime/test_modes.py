"""Up one rung at a time, down at once, and ARMED only ever by an operator and under a change record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import ControlkitError
from deploy.runtime.modes import Change, ModeKeeper, Readiness
from deploy.runtime.snapshot import MODES, Mode

READY = Readiness()


def keeper_in(mode: Mode) -> ModeKeeper:
    keeper = ModeKeeper()
    keeper.ask(mode, "anna", "MOC-1") if mode != "SHADOW" else None
    while keeper.mode != mode:
        assert keeper.climb(READY) is not None
    return keeper


def test_it_starts_off_and_climbs_to_shadow_by_itself_and_no_further() -> None:
    keeper = ModeKeeper()
    assert keeper.mode == "OFF"
    assert keeper.climb(Readiness("no", "no")) == Change("OFF", "SHADOW", "ready", "", "")
    assert keeper.climb(READY) is None
    assert keeper.mode == "SHADOW"


def test_arming_passes_every_rung_and_names_operator_and_record() -> None:
    keeper = keeper_in("SHADOW")
    assert keeper.ask("ARMED", "anna", "MOC-1") is None
    assert keeper.climb(READY) == Change("SHADOW", "ADVISORY", "ready", "anna", "MOC-1")
    assert keeper.climb(Readiness(armed="recalibrating")) is None
    assert keeper.state.why == "waiting for ARMED: recalibrating"
    assert keeper.climb(READY) == Change("ADVISORY", "ARMED", "ready", "anna", "MOC-1")
    assert (keeper.state.why, keeper.climb(READY)) == ("", None)


@pytest.mark.parametrize("start", MODES)
@pytest.mark.parametrize("goal", MODES)
def test_every_wish_from_every_mode(start: Mode, goal: Mode) -> None:
    keeper = keeper_in(start)
    change = keeper.ask(goal, "bob", "MOC-2")
    lower = MODES.index(goal) < MODES.index(start)
    assert change == (Change(start, goal, "asked for", "bob", "MOC-2") if lower else None)
    assert (keeper.mode, keeper.state.wanted) == (goal if lower else start, goal)
    rungs = [keeper.mode]
    while (step := keeper.climb(READY)) is not None:
        rungs.append(step.after)
    low = min(MODES.index(start), MODES.index(goal))
    assert rungs == list(MODES[MODES.index(goal) if lower else low : MODES.index(goal) + 1])


@pytest.mark.parametrize("start", MODES)
@pytest.mark.parametrize("to", ["OFF", "SHADOW"])
def test_a_fall_from_every_mode_is_at_once_and_for_good(start: Mode, to: Mode) -> None:
    keeper = keeper_in(start)
    change = keeper.fall("frozen sensor", to)
    if MODES.index(start) <= MODES.index(to):
        assert change is None
        assert keeper.mode == start
        return
    assert change is not None
    assert (change.before, change.after, change.why) == (start, to, "frozen sensor")
    assert (keeper.mode, keeper.state.wanted) == (to, to)
    assert keeper.state.why == f"fell from {start}: frozen sensor"
    assert (keeper.state.operator, keeper.state.change_record) == ("", "")
    assert keeper.climb(READY) is None


def test_a_fault_while_waiting_is_told_and_the_wish_stands() -> None:
    keeper = keeper_in("SHADOW")
    keeper.ask("ARMED", "anna", "MOC-1")
    assert keeper.fall("the plant is silent") is None
    assert (keeper.state.why, keeper.state.wanted) == ("the plant is silent", "ARMED")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (("ADVISORY", ""), "ADVISORY needs an operator's token"),
        (("ARMED", "", "MOC-1"), "ARMED needs an operator's token"),
        (("ARMED", "anna"), "ARMED needs a change record"),
    ],
)
def test_a_wish_that_may_not_be_changes_nothing(wish: tuple[Any, ...], message: str) -> None:
    keeper = keeper_in("SHADOW")
    before = keeper.state
    with pytest.raises(ControlkitError, match=message):
        keeper.ask(*wish)
    assert keeper.state == before


asks = st.tuples(st.just("ask"), st.sampled_from(MODES), st.sampled_from(["", "anna"]), st.sampled_from(["", "MOC-1"]))
falls = st.tuples(st.just("fall"), st.sampled_from(["SHADOW", "OFF"]))
climbs = st.tuples(st.just("climb"), st.sampled_from(["", "no"]), st.sampled_from(["", "no"]))


@given(st.lists(st.one_of(asks, falls, climbs), max_size=40))
def test_armed_is_never_reached_by_itself_nor_by_skipping_a_rung(steps: list[tuple[Any, ...]]) -> None:
    keeper = ModeKeeper()
    allowed = False  # whether an operator asked for ARMED, under a record, since the last fall or lower wish
    for name, *arguments in steps:
        before = keeper.mode
        try:
            if name == "ask":
                change = keeper.ask(*arguments)
                allowed = arguments[0] == "ARMED"
            elif name == "fall":
                change = keeper.fall("fault", *arguments)
                allowed = allowed and change is None
            else:
                change = keeper.climb(Readiness(*arguments))
        except ControlkitError:
            assert arguments[0] in ("ADVISORY", "ARMED")
            assert keeper.mode == before
            continue
        assert (change is None) == (keeper.mode == before)
        if change is not None:
            assert (change.before, change.after) == (before, keeper.mode)
        rise = MODES.index(keeper.mode) - MODES.index(before)
        assert rise <= (1 if name == "climb" else 0)
        if rise > 0 and keeper.mode != "SHADOW":
            assert not arguments[0 if keeper.mode == "ADVISORY" else 1]
        if keeper.mode == "ARMED":
            assert allowed
            assert keeper.state.operator
            assert keeper.state.change_record
