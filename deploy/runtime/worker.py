"""A thread that computes one thing at a time, so that slow or hanging work never holds up the loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from deploy.runtime.clock import NS, Clock

NO_TIME = "no time was left to compute"


@dataclass(frozen=True)
class Outcome:
    """What came of a call: `done` with a value, `late` (still running, or never begun), or `failed` with a text."""

    state: Literal["done", "late", "failed"]
    value: Any = None
    text: str = ""


class Worker:
    """Runs calls in a thread of its own; at most one is under way."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[int, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._done = threading.Condition()
        self._finished: tuple[int, Outcome] = (0, Outcome("late"))
        self._number = self._told = 0
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether an earlier call is still running."""
        with self._done:
            return self._finished[0] != self._number

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        """Runs a call, and waits for at most `timeout_s`.

        While an earlier one still runs, or where no time is left, it is not begun.
        """
        if self.busy:
            return Outcome("late", text="an earlier step is still being computed")
        if timeout_s <= 0:
            return Outcome("late", text=NO_TIME)
        self._number += 1
        number = self._number
        self._calls.put((number, call))
        with self._done:
            in_time = self._done.wait_for(lambda: self._finished[0] == number, timeout_s)
            if not in_time:
                return Outcome("late", text="the controller took too long")
            self._told = number
            return self._finished[1]

    def leftover(self) -> Outcome | None:
        """What came, once, of a call that was late and has ended since; `None` if there is no such."""
        with self._done:
            number, outcome = self._finished
            if number != self._number or number == self._told:
                return None
            self._told = number
            return outcome

    def close(self) -> None:
        """Ends the thread once its call is done; a call that hangs ends with the process."""
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            number, call = item
            try:
                outcome = Outcome("done", call())
            except Exception as problem:  # noqa: BLE001 (whatever a runtime raises must not end the loop)
                outcome = Outcome("failed", text=f"{type(problem).__name__}: {problem}"[:300])
            with self._done:
                self._finished = (number, outcome)
                self._done.notify_all()


class InlineWorker:
    """Computes at once, in the caller's thread, and tells by the loop's clock whether it was in time: for trials.

    Args:
        clock: the loop's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leftover: Outcome | None = None

    def leftover(self) -> Outcome | None:
        """See `Worker.leftover`."""
        outcome, self._leftover = self._leftover, None
        return outcome

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        """See `Worker.run`."""
        if timeout_s <= 0:
            return Outcome("late", text=NO_TIME)
        began = self._clock.monotonic_ns()
        try:
            value = call()
        except Exception as problem:  # noqa: BLE001 (as in Worker)
            return Outcome("failed", text=f"{type(problem).__name__}: {problem}"[:300])
        if (self._clock.monotonic_ns() - began) / NS > timeout_s:
            self._leftover = Outcome("done", value)
            return Outcome("late", text="the controller took too long")
        return Outcome("done", value)
