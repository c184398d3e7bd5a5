"""Time for the supervised loop: a monotonic clock that nobody can set, and the wall clock that people read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

NS = 1_000_000_000


class Clock(Protocol):
    """Both clocks, in nanoseconds, and waiting on the monotonic one."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; may jump."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment; never jumps."""

    def wait_until(self, monotonic_ns: int) -> None:
        """Returns at that moment, or at once where it has passed."""


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """See `Clock`."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns()

    def wait_until(self, monotonic_ns: int) -> None:
        """See `Clock`."""
        left = monotonic_ns - time.monotonic_ns()
        if left > 0:
            time.sleep(left / NS)


class AcceleratedClock:
    """Waits for nothing: time passes when somebody waits, or says so. For trials of many hours in minutes.

    Args:
        wall_ns: where the wall clock starts.
    """

    def __init__(self, wall_ns: int = 1_700_000_000 * NS) -> None:
        self._monotonic, self._offset = 0, wall_ns

    def wall_ns(self) -> int:
        """See `Clock`."""
        return self._monotonic + self._offset

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return self._monotonic

    def wait_until(self, monotonic_ns: int) -> None:
        """See `Clock`."""
        self._monotonic = max(self._monotonic, monotonic_ns)

    def advance(self, seconds: float) -> None:
        """Lets time pass, as slow work would."""
        self._monotonic += round(seconds * NS)

    def set_wall(self, by_s: float) -> None:
        """Sets the wall clock forward (or back), as a person or a time server would."""
        self._offset += round(by_s * NS)


@dataclass(frozen=True)
class Tick:
    """One cycle's place in time.

    Attributes:
        number: of the period since the clock was anchored.
        time_ns: the sample time, a multiple of the period since 1970 by the anchored clock.
        start_ns: the moment on the monotonic clock at which it is due.
    """

    number: int
    time_ns: int
    start_ns: int


class Metronome:
    """Sample times at multiples of the period since 1970, as ingest's grid has them, kept by the monotonic clock.

    The wall clock is read once, when the metronome is anchored: a jump of it later changes nothing until somebody
    anchors again.

    Args:
        clock: both clocks.
        period_s: sample period.
    """

    def __init__(self, clock: Clock, period_s: float) -> None:
        self._clock, self.period_ns = clock, round(period_s * NS)
        self.anchor()

    def anchor(self) -> None:
        """Takes the wall clock as it is now; the next tick is the first one after it."""
        monotonic, wall = self._clock.monotonic_ns(), self._clock.wall_ns()
        self._offset = wall - monotonic
        first = (wall // self.period_ns + 1) * self.period_ns  # after now: no tick comes twice
        self._next = Tick(0, first, first - self._offset)

    @property
    def jump_s(self) -> float:
        """Seconds by which the wall clock has moved away since it was anchored."""
        return (self._clock.wall_ns() - self._clock.monotonic_ns() - self._offset) / NS

    def wait(self, latest: float = 0.5) -> tuple[Tick, int]:
        """Waits for the next tick.

        Args:
            latest: share of the period after which a tick is too old to be begun; it is left out.

        Returns:
            The tick, and how many were left out before it.
        """
        now, period = self._clock.monotonic_ns(), self.period_ns
        due = self._next
        missed = 0
        if now > due.start_ns + latest * period:
            missed = int(-(-(now - due.start_ns - latest * period) // period))
            due = Tick(due.number + missed, due.time_ns + missed * period, due.start_ns + missed * period)
        self._clock.wait_until(due.start_ns)
        self._next = Tick(due.number + 1, due.time_ns + period, due.start_ns + period)
        return due, missed


class ScaledClock:
    """The machine's clocks, running faster: for trials on a server that runs as much faster.

    Args:
        speed: times real time.
        began: wall clock and monotonic clock at the moment from which on it runs faster; now where not given. Two
            processes of one machine that are given the same have the same time.
    """

    def __init__(self, speed: float, began: tuple[int, int] | None = None) -> None:
        self._speed = speed
        self._wall_ns, self._monotonic_ns = began or (time.time_ns(), time.monotonic_ns())
        self._set_ns = 0

    def wall_ns(self) -> int:
        """See `Clock`."""
        return self._wall_ns + self.monotonic_ns() + self._set_ns

    def monotonic_ns(self) -> int:
        """See `Clock`; starts at 0."""
        return round((time.monotonic_ns() - self._monotonic_ns) * self._speed)

    def wait_until(self, monotonic_ns: int) -> None:
        """See `Clock`."""
        left = monotonic_ns - self.monotonic_ns()
        if left > 0:
            time.sleep(left / self._speed / NS)

    def set_wall(self, by_s: float) -> None:
        """Sets the wall clock forward (or back), as a person or a time server would."""
        self._set_ns += round(by_s * NS)
