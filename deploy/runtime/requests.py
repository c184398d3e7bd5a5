"""What operators ask of a running controller: a queue between the control socket's thread and the loop."""

from __future__ import annotations

import queue
import threading
from typing import Any, Literal

from controlkit.errors import ControlkitError
from deploy.runtime.slots import Slot
from deploy.runtime.snapshot import Mode

Action = Literal["mode", "load", "swap", "recalibrate"]
LOWER: tuple[Mode | None, ...] = ("OFF", "SHADOW")


class Request:
    """One wish of an operator; answered by the loop.

    Args:
        action: what to do.
        mode: the wanted mode, of `mode`.
        operator: who asks; empty where no token was needed.
        change_record: under which record, of `mode` ARMED.
        slot: opened and ready to be stepped, of `load`.
        problem: why it is refused before the loop has seen it; the loop only records that.
    """

    def __init__(
        self,
        action: Action,
        *,
        mode: Mode | None = None,
        operator: str = "",
        change_record: str = "",
        slot: Slot | None = None,
        problem: ControlkitError | None = None,
    ) -> None:
        self.action, self.mode, self.operator, self.change_record = action, mode, operator, change_record
        self.slot, self.problem = slot, problem
        self._done, self._lock = threading.Event(), threading.Lock()
        self._begun = self._withdrawn = False
        self._text = ""
        self._problem: ControlkitError | None = None

    def record(self) -> dict[str, Any]:
        """For the audit log; the token is not part of it."""
        return {
            "action": self.action,
            "mode": self.mode,
            "operator": self.operator,
            "change_record": self.change_record,
            "controller": None if self.slot is None else self.slot.controller,
        }

    def begin(self) -> bool:
        """The loop takes it up; whether it still may: a request that its operator gave up must not be done later."""
        with self._lock:
            self._begun = not self._withdrawn
            return self._begun

    def answer(self, text: str) -> None:
        """It was done."""
        self._text = text
        self._done.set()

    def refuse(self, problem: ControlkitError) -> None:
        """It cannot be done."""
        self._problem = problem
        self._done.set()

    def wait(self, timeout_s: float) -> str:
        """What the loop says. What it does not take up in time is withdrawn, but for a lower mode, which still comes.

        Raises:
            ControlkitError: it refused, or did not answer in time.
        """
        if not self._done.wait(timeout_s):
            with self._lock:
                self._withdrawn = not self._begun and not (self.action == "mode" and self.mode in LOWER)
                what = "the request is withdrawn" if self._withdrawn else "the request still stands"
            raise ControlkitError(
                f"the loop did not answer in time; {what}", where="runtime", cure="See the status page."
            )
        if self._problem is not None:
            raise self._problem
        return self._text


class Requests:
    """Bounded, so that nobody can fill the memory by asking."""

    def __init__(self, limit: int = 16) -> None:
        self._queue: queue.Queue[Request] = queue.Queue(limit)

    def put(self, request: Request) -> None:
        """Adds one.

        Raises:
            ControlkitError: too many wait.
        """
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            raise ControlkitError("too many requests wait", where="runtime", cure="Try again.") from None

    def take(self) -> list[Request]:
        """All that wait and were not withdrawn."""
        waiting: list[Request] = []
        while True:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return waiting
            if request.begin():
                waiting.append(request)
