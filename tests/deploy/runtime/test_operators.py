"""Tokens and change records, the queue of wishes, and notices for people."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from controlkit.errors import ControlkitError
from deploy.runtime.clock import AcceleratedClock
from deploy.runtime.notices import Notices
from deploy.runtime.operators import HASH, Operators, new_token, require_change_record, token_hash
from deploy.runtime.requests import Request, Requests
from deploy.runtime.snapshot import Notice


def two() -> tuple[Operators, AcceleratedClock, str, str]:
    clock = AcceleratedClock()
    (anna, anna_hash), (bob, bob_hash) = new_token(), new_token()
    return Operators({"anna": anna_hash, "bob": bob_hash}, clock, tries=3, pause_s=60.0), clock, anna, bob


def test_a_new_token_is_its_owners_and_only_its_hash_is_stored() -> None:
    operators, _, anna, bob = two()
    assert (operators.identify(anna), operators.identify(bob)) == ("anna", "bob")
    assert len(anna) >= 43  # 256 bits
    assert anna != bob
    stored = token_hash(anna)
    assert HASH.fullmatch(stored)
    assert anna not in stored


@pytest.mark.parametrize(
    "change", [lambda t: "", lambda t: t[:-1], lambda t: t + "x", token_hash, lambda t: "x" * 9999]
)
def test_what_is_nobodys_token_is_refused_and_not_repeated(change: Any) -> None:
    operators, _, anna, _ = two()
    given = change(anna)
    with pytest.raises(ControlkitError, match="is nobody's") as refused:
        operators.identify(given)
    assert not given or given not in str(refused.value)
    assert operators.identify(anna) == "anna"


def test_too_many_wrong_tokens_lock_everybody_out_for_the_pause_by_a_clock_that_nobody_sets() -> None:
    operators, clock, anna, _ = two()
    for _ in range(2):
        with pytest.raises(ControlkitError, match="nobody's"):
            operators.identify("wrong")
    assert operators.identify(anna) == "anna"  # counts anew
    for _ in range(3):
        with pytest.raises(ControlkitError, match="nobody's"):
            operators.identify("wrong")
    clock.set_wall(3600.0)
    for _ in range(2):
        with pytest.raises(ControlkitError, match="too many wrong tokens"):
            operators.identify(anna)
        clock.advance(29.9)
    clock.advance(0.2)
    assert operators.identify(anna) == "anna"


def test_without_operators_nobody_is_let_in() -> None:
    with pytest.raises(ControlkitError, match="no operator is named"):
        Operators({}, AcceleratedClock()).identify(new_token()[0])


@pytest.mark.parametrize("text", ["MOC-2026-017", "a", "7", "CHG:4/5_6.b", "A" * 80])
def test_ids_of_change_records(text: str) -> None:
    assert require_change_record(text) == text


@pytest.mark.parametrize("text", [" MOC", "MOC 1", "-1", "MOC\n", "MOC-1\x00", "A" * 81, "ä", "<b>", "../x", "'"])
def test_what_is_no_id_of_a_change_record(text: str) -> None:
    with pytest.raises(ControlkitError, match="is no id of a change record"):
        require_change_record(text)


def test_a_missing_change_record_is_named_with_its_option() -> None:
    with pytest.raises(ControlkitError, match="--change-record: arming needs the id of a change record"):
        require_change_record("")


def test_a_request_is_answered_or_refused_by_the_loop() -> None:
    requests = Requests()
    asked = [Request("mode", mode="ARMED", operator="anna", change_record="MOC-1"), Request("swap", operator="anna")]
    for request in asked:
        requests.put(request)

    def loop() -> None:
        first, second = requests.take()
        first.answer("ARMED is wanted")
        second.refuse(ControlkitError("the second slot is empty", where="slots"))

    thread = threading.Thread(target=loop)
    thread.start()
    assert asked[0].wait(5.0) == "ARMED is wanted"
    with pytest.raises(ControlkitError, match="slots: the second slot is empty"):
        asked[1].wait(5.0)
    thread.join()
    assert requests.take() == []
    assert asked[0].record() == {
        "action": "mode", "mode": "ARMED", "operator": "anna", "change_record": "MOC-1", "controller": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "stands"),
    [
        (Request("mode", mode="ARMED", operator="anna", change_record="MOC-1"), False),
        (Request("mode", mode="ADVISORY", operator="anna"), False),
        (Request("swap", operator="anna"), False),
        (Request("mode", mode="SHADOW"), True),
        (Request("mode", mode="OFF"), True),
    ],
)
def test_what_was_not_taken_up_in_time_is_not_done_later_unless_it_lowers(request_: Request, stands: bool) -> None:
    requests = Requests()
    requests.put(request_)
    with pytest.raises(ControlkitError, match="still stands" if stands else "is withdrawn"):
        request_.wait(0.0)
    assert requests.take() == ([request_] if stands else [])


def test_what_the_loop_is_doing_cannot_be_withdrawn() -> None:
    requests, request = Requests(), Request("swap", operator="anna")
    requests.put(request)
    assert requests.take() == [request]
    with pytest.raises(ControlkitError, match="still stands"):
        request.wait(0.0)
    request.answer("done")
    assert request.wait(0.0) == "done"


def test_nobody_fills_the_memory_by_asking() -> None:
    requests = Requests(limit=2)
    for _ in range(2):
        requests.put(Request("swap"))
    with pytest.raises(ControlkitError, match="too many requests wait"):
        requests.put(Request("swap"))
    assert len(requests.take()) == 2
    requests.put(Request("swap"))


def test_a_notice_begins_once_keeps_its_time_and_ends_once() -> None:
    told: list[Notice] = []
    notices = Notices(told.append, past=2)
    notices.hold({"plant_silent": ("warning", "cut")}, 10)
    notices.hold({"plant_silent": ("alarm", "still cut"), "late": ("warning", "slow")}, 20)
    assert [notice.name for notice in notices.shown()] == ["late", "plant_silent"]
    assert notices.shown()[1] == Notice(10, "alarm", "plant_silent", "still cut", True)
    notices.event("mode", "info", "SHADOW", 25)
    notices.hold({}, 30)
    assert [(n.name, n.time_ns, n.active) for n in told] == [
        ("plant_silent", 10, True), ("late", 20, True), ("mode", 25, False), ("plant_silent", 30, False),
        ("late", 30, False),
    ]  # fmt: skip
    assert [(n.name, n.time_ns) for n in notices.shown()] == [("late", 20), ("plant_silent", 10)]  # two are kept
