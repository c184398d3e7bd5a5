"""Faults of a plant, its network and the edge box for the soak of the runtime, injected between plant and loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deploy.runtime.clock import NS, AcceleratedClock
from deploy.runtime.plant import PlantReading, Sample, WriteRequest, WriteResult
from deploy.runtime.simulated import SimulatedPlant
from deploy.runtime.worker import InlineWorker, Outcome

HOUR_S = 3600.0
SLOW_SHARE = 0.7  # of the period that a slow step takes
STRANGER = "stranger"


class Killed(BaseException):
    """The process ends here, as if it had been killed: nothing of the runtime may catch it."""


@dataclass(frozen=True)
class Fault:
    """One injected fault.

    Attributes:
        kind: of `KINDS`.
        tag: which measured tag or command; empty where it is none's.
        begun, ends: first cycle with it, first cycle without it.
    """

    kind: str
    tag: str
    begun: int
    ends: int


# What is done to a sample of one tag; `None`: the plant does not answer for it.
Spoil = Callable[[Sample, int], Sample | None]
VALUES: Mapping[str, Spoil] = {
    "nan": lambda sample, now: replace(sample, value=math.nan),
    "infinite": lambda sample, now: replace(sample, value=math.inf),
    "out of range": lambda sample, now: replace(sample, value=25.0),
    "bad quality": lambda sample, now: replace(sample, value=math.nan, quality="bad"),
    "uncertain quality": lambda sample, now: replace(sample, quality="uncertain"),
    "no stamp": lambda sample, now: replace(sample, time_ns=None),
    "old stamp": lambda sample, now: replace(sample, time_ns=now - round(HOUR_S * NS)),
    "future stamp": lambda sample, now: replace(sample, time_ns=now + round(HOUR_S * NS)),
    "tag gone": lambda sample, now: None,
}
# kind -> names by which the runtime may tell it: of a fault, of a refusal, of a notice, or of a flag
KINDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(VALUES, ("input_unusable",)),
    "frozen": ("input_unusable",),
    "silent": ("plant_silent",),
    "command unknown": ("reference_invalid",),
    "write dropped": ("write_not_confirmed",),
    "write refused": ("refused",),
    "write silent": ("write_failed",),
    "switch off": ("disarmed",),
    "another master": ("disarmed",),
    "plant stands still": ("disarmed",),
    "clock ahead": ("clock_set",),
    "clock back": ("clock_set",),
    "slow": ("compute_late",),
    "disk full": ("audit_blocked",),
    "killed": ("start",),
}


class PlantClock:
    """The plant's own clock: that of the edge box, which a person may set, is another."""

    def __init__(self, clock: AcceleratedClock) -> None:
        self._clock, self._offset = clock, clock.wall_ns() - clock.monotonic_ns()

    def wall_ns(self) -> int:
        """See `deploy.runtime.clock.Clock`."""
        return self._clock.monotonic_ns() + self._offset

    def monotonic_ns(self) -> int:
        """See `deploy.runtime.clock.Clock`."""
        return self._clock.monotonic_ns()

    def wait_until(self, monotonic_ns: int) -> None:
        """See `deploy.runtime.clock.Clock`."""
        self._clock.wait_until(monotonic_ns)


class FaultyPlant:
    """A plant with at most one fault at a time.

    Args:
        plant: it.
        clock: its own.
        rng: draws what a fault leaves open.

    Attributes:
        fault: the present one, if any.
    """

    def __init__(self, plant: SimulatedPlant, clock: PlantClock, rng: np.random.Generator) -> None:
        self.plant, self._clock, self._rng = plant, clock, rng
        self.handshake = plant.handshake
        self.fault: Fault | None = None
        self._held: float | None = None
        self._beat: int | None = None
        self._stranger = 0
        self._dies_at = ""

    def begin(self, fault: Fault) -> None:
        """From now on this is wrong."""
        self.fault, self._held = fault, None
        self._beat = self.plant.heartbeat
        if fault.kind == "switch off":
            self.plant.auto = False
        if fault.kind == "killed":
            self._dies_at = str(self._rng.choice(["read", "before write", "after write", "read back"]))

    def end(self) -> None:
        """Everything works again."""
        if self.fault is not None and self.fault.kind == "another master":
            self.plant.lease = ""
        self.fault, self._dies_at, self.plant.auto = None, "", True

    def read(self, timeout_s: float) -> PlantReading:
        """See `deploy.runtime.plant.Plant`."""
        self._die("read")
        kind = self._kind
        if kind == "another master":
            self._stranger += 1
            self.plant.lease = f"{STRANGER} {self._stranger}"
        reading = self.plant.read(timeout_s)
        if self.fault is None:
            return reading
        tag, now = self.fault.tag, self._clock.wall_ns()
        if kind == "silent":
            return PlantReading(problem="the server does not answer")
        if kind == "plant stands still":
            return replace(reading, heartbeat=self._beat)
        if kind == "command unknown":
            return replace(reading, commands={name: at for name, at in reading.commands.items() if name != tag})
        if kind not in VALUES and kind != "frozen":
            return reading
        samples = dict(reading.samples)
        sample = samples.pop(tag)
        if kind == "frozen":
            self._held = sample.value if self._held is None else self._held
            spoilt: Sample | None = replace(sample, value=self._held)
        else:
            spoilt = VALUES[kind](sample, now)
        if spoilt is not None:
            samples[tag] = spoilt
        return replace(reading, samples=samples)

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        """See `deploy.runtime.plant.Plant`."""
        self._die("before write")
        kind = self._kind
        if kind == "silent":
            return WriteResult(problem="the server does not answer")
        if kind == "write silent":
            if self._rng.random() < 0.5:  # nobody knows whether it arrived
                self.plant.write(request, timeout_s)
            return WriteResult(dict.fromkeys(request.commands, "not confirmed"), "the server does not answer")
        if self.fault is not None and request.commands and kind in ("write dropped", "write refused"):
            kept = {tag: value for tag, value in request.commands.items() if tag != self.fault.tag}
            result = self.plant.write(replace(request, commands=kept), timeout_s)
            refused = {self.fault.tag: "BadUserAccessDenied"} if kind == "write refused" else {}
            return WriteResult({**result.refused, **refused}, result.problem)
        result = self.plant.write(request, timeout_s)
        self._die("after write")
        return result

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        """See `deploy.runtime.plant.Plant`."""
        self._die("read back")
        return {} if self._kind == "silent" else self.plant.read_back(timeout_s)

    def close(self) -> None:
        """See `deploy.runtime.plant.Plant`."""

    @property
    def _kind(self) -> str:
        return "" if self.fault is None else self.fault.kind

    def _die(self, place: str) -> None:
        """Whoever was killed does nothing any more: once it has died, at every place."""
        if self._dies_at == place:
            self._dies_at = "dead"
        if self._dies_at == "dead":
            raise Killed


class SlowComputer(InlineWorker):
    """Computes at once by the accelerated clock, or takes too long while `slow`."""

    def __init__(self, clock: AcceleratedClock, period_s: float) -> None:
        super().__init__(clock)
        self._accelerated, self._period_s = clock, period_s
        self.slow = False

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        """See `deploy.runtime.worker.Worker`."""

        def work() -> Any:
            if self.slow:
                self._accelerated.advance(SLOW_SHARE * self._period_s)
            return call()

        return super().run(work, timeout_s)
