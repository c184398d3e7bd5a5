"""Who may command: a lease on a tag of the plant, against two controllers that both believe it is theirs.

OPC UA has no compare-and-swap, and clocks of two machines cannot be compared. So the text of the lease is the owner's
name and a counter; whoever holds it changes the counter every period, and a lease whose text has not changed for
`periods` reads is free. A claim is believed once it was read back unchanged twice: of two claims at the same time the
later one stays, and the other sees it. Whoever reads another's name stops commanding at once.

What that is worth, for two controllers of the same period that command only in a cycle in which they read their own
name: while every write lands within a period of the read before it, or never, no two commands of different controllers
come within a period. A write that a network keeps for longer and then delivers may bring back a name that has run out:
then commands of both may mix for a few periods, in the worst case for as long as each one's write lands between the
other's read and its own next one. What ends that is not the lease but the echo: whoever sees another command in force
than its own lets go (see `deploy.runtime.watch`).
"""

from __future__ import annotations

import re
from typing import Literal

State = Literal["free", "foreign", "claimed", "held"]

CONFIRMATIONS = 2
_TEXT = re.compile(r"([A-Za-z0-9_.:-]{1,80}) (\d{1,18})")


class LeaseKeeper:
    """The lease as one controller sees it; call `see` with every read, then write what `text` returns, if anything.

    Args:
        owner: a name that no other controller has.
        periods: reads without a change after which another's lease has run out.
    """

    def __init__(self, owner: str, periods: int = 5) -> None:
        if not _TEXT.fullmatch(f"{owner} 0"):
            raise ValueError(f"'{owner}' cannot be the name of an owner")
        self.owner, self.periods = owner, periods
        self.state: State = "foreign"  # until the first reads say otherwise
        self._seen: str | None = None
        self._read = False
        self._unchanged = self._confirmed = self._counter = 0

    def see(self, text: str | None) -> State:
        """Takes what was read in this cycle; `None`: nothing was read, which renews nobody's lease.

        Returns:
            `held`: this controller may command. `foreign`: another one holds it, or nothing is known yet.
        """
        self._read = text is not None
        if text is None:
            # A claim is confirmed by reads in a row, and nobody claims what he did not see free; a lease that is held
            # outlives a lost answer, as the plant is not commanded without one.
            self._confirmed = 0
            if self.state != "held":
                self.state = "foreign"
            return self.state
        self._unchanged = self._unchanged + 1 if text == self._seen else 0
        self._seen = text
        match = _TEXT.fullmatch(text)
        if match is not None and match[1] == self.owner:
            if self.state == "claimed":
                self._confirmed += 1
                if self._confirmed >= CONFIRMATIONS:
                    self.state = "held"
            elif self.state != "held":
                self.state, self._confirmed = "claimed", 1
        elif text == "":
            self.state = "free"
        else:
            # What no controller wrote counts as another's until it has stood still for long enough.
            self.state = "free" if self._unchanged >= self.periods else "foreign"
        return self.state

    @property
    def holder(self) -> str:
        """Who holds it, for people to read."""
        if not self._seen:
            return ""
        match = _TEXT.fullmatch(self._seen)
        return match[1] if match is not None else "unknown"

    def text(self, wanted: bool) -> str | None:
        """What to write now: a claim, a renewal, or the end of the own lease; `None` for nothing.

        Args:
            wanted: whether this controller wants to command.
        """
        if not wanted:
            if self.state in ("claimed", "held"):
                self.state, self._confirmed = "free", 0
                # After a lost answer it may be another's by now: then it runs out, or is given back once it was read.
                return "" if self._read else None
            return None
        if self.state == "free":
            self._confirmed, self.state = 0, "claimed"
            return self._next()
        return self._next() if self.state == "held" else None

    def _next(self) -> str:
        self._counter += 1
        return f"{self.owner} {self._counter}"


class PlantPulse:
    """Whether the plant's own counter still moves.

    Args:
        periods: reads without a change after which the plant counts as stopped.
    """

    def __init__(self, periods: int = 3) -> None:
        self.periods = periods
        self._last: int | None = None
        self._unchanged = 0

    def see(self, counter: int | None) -> bool:
        """Takes what was read in this cycle; whether the plant is alive. Nothing read counts as no change."""
        moved = counter is not None and counter != self._last
        self._unchanged = 0 if moved else self._unchanged + 1
        if counter is not None:
            self._last = counter
        return self._last is not None and self._unchanged < self.periods
