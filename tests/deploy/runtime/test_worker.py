"""One call at a time; slow, hanging and failing calls never hold up the loop, nor are mistaken for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.runtime.clock import AcceleratedClock
from deploy.runtime.worker import InlineWorker, Outcome, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_call_is_done_in_a_thread_of_its_own(worker: Worker) -> None:
    assert not worker.busy
    found = worker.run(threading.get_ident, 10.0)
    assert found.state == "done"
    assert found.value != threading.get_ident()
    assert [worker.run(lambda i=i: i, 10.0).value for i in range(50)] == list(range(50))


def fail() -> None:
    raise ValueError("no " + "x" * 500)


def test_a_failure_is_told_and_the_next_call_runs(worker: Worker) -> None:
    found = worker.run(fail, 10.0)
    assert found.state == "failed"
    assert found.text.startswith("ValueError: no ")
    assert len(found.text) <= 300
    assert worker.run(lambda: 7, 10.0) == Outcome("done", 7)


def test_a_hanging_call_is_late_and_so_is_what_comes_while_it_hangs(worker: Worker) -> None:
    go, begun, calls = threading.Event(), threading.Event(), []

    def hang() -> str:
        begun.set()
        go.wait(10.0)
        return "old"

    began = time.monotonic()
    assert worker.run(hang, 0.05) == Outcome("late", text="the controller took too long")
    assert begun.wait(5.0)
    for _ in range(3):
        found = worker.run(lambda: calls.append("new"), 0.05)
        assert found == Outcome("late", text="an earlier step is still being computed")
    assert time.monotonic() - began < 5.0
    assert worker.busy
    go.set()
    until(lambda: not worker.busy)
    assert calls == []  # was never begun
    assert worker.run(lambda: "newest", 10.0) == Outcome("done", "newest")


def test_a_late_result_is_not_mistaken_for_the_next_ones(worker: Worker) -> None:
    for _ in range(20):
        go = threading.Event()
        assert worker.run(lambda go=go: (go.wait(10.0), "old")[1], 0.002).state == "late"
        go.set()
        # At any moment the next is either not begun or answers for itself.
        found = worker.run(lambda: "new", 10.0)
        assert found.state == "late" or found.value == "new"
        until(lambda: not worker.busy)


def test_a_late_failure_is_not_mistaken_either(worker: Worker) -> None:
    go = threading.Event()

    def hang() -> None:
        go.wait(10.0)
        raise RuntimeError("old")

    assert worker.run(hang, 0.01).state == "late"
    go.set()
    until(lambda: not worker.busy)
    assert worker.run(lambda: 1, 10.0) == Outcome("done", 1)


@pytest.mark.parametrize("left_s", [0.0, -1.0])
@pytest.mark.parametrize("inline", [False, True])
def test_nothing_is_begun_where_no_time_is_left(worker: Worker, left_s: float, inline: bool) -> None:
    computer, calls = InlineWorker(AcceleratedClock()) if inline else worker, list[int]()
    assert computer.run(lambda: calls.append(1), left_s) == Outcome("late", text="no time was left to compute")
    assert worker.run(lambda: None, 10.0).state == "done"
    assert calls == []


def test_closing_ends_the_thread() -> None:
    worker = Worker()
    worker.run(lambda: None, 10.0)
    worker.close()
    worker._thread.join(10.0)
    assert not worker._thread.is_alive()


def test_inline_the_loops_clock_tells_what_was_late() -> None:
    clock = AcceleratedClock()
    worker = InlineWorker(clock)

    def work(seconds: float) -> Any:
        clock.advance(seconds)
        return seconds

    assert worker.run(lambda: work(0.5), 0.5) == Outcome("done", 0.5)
    assert worker.run(lambda: work(0.6), 0.5).state == "late"
    assert worker.run(fail, 0.5).state == "failed"
