"""OFF -> SHADOW -> ADVISORY -> ARMED: up one rung at a time and only where nothing stands in the way, down at once.

- OFF: nothing is read, nothing is computed.
- SHADOW: everything is computed and recorded; nothing at all is written to the plant.
- ADVISORY: advice is written for the operator to read, and a heartbeat.
- ARMED: commands are written. Needs an operator's token and a change record, and falls back to SHADOW for good: whoever
  wants it armed again asks again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controlkit.errors import ControlkitError
from deploy.runtime.snapshot import MODES, Mode


@dataclass(frozen=True)
class Readiness:
    """What stands in the way of each rung: an empty text if nothing does."""

    advisory: str = ""
    armed: str = ""

    def obstacle(self, mode: Mode) -> str:
        """What stands in the way of a mode."""
        return {"OFF": "", "SHADOW": "", "ADVISORY": self.advisory, "ARMED": self.armed}[mode]


@dataclass(frozen=True)
class Change:
    """A change of mode, for the audit log."""

    before: Mode
    after: Mode
    why: str
    operator: str
    change_record: str


@dataclass(frozen=True)
class ModeState:
    """The mode in force, the wanted one, why they differ, and who asked for it under which record."""

    mode: Mode = "OFF"
    wanted: Mode = "SHADOW"
    why: str = ""
    operator: str = ""
    change_record: str = ""


class ModeKeeper:
    """Holds the mode and changes it by the rules."""

    def __init__(self) -> None:
        self.state = ModeState()

    @property
    def mode(self) -> Mode:
        """In force."""
        return self.state.mode

    def ask(self, mode: Mode, operator: str, change_record: str = "") -> Change | None:
        """An operator wants a mode; a lower one is in force at once.

        Raises:
            ControlkitError: ARMED without an operator or a change record, ADVISORY without an operator.
        """
        if mode in ("ADVISORY", "ARMED") and not operator:
            raise ControlkitError(f"{mode} needs an operator's token", where="mode")
        if mode == "ARMED" and not change_record:
            raise ControlkitError("ARMED needs a change record", where="mode")
        before = self.state.mode
        asked = replace(self.state, wanted=mode, why="", operator=operator, change_record=change_record)
        if MODES.index(mode) >= MODES.index(before):
            self.state = asked
            return None
        self.state = replace(asked, mode=mode)
        return Change(before, mode, "asked for", operator, change_record)

    def fall(self, why: str, to: Mode = "SHADOW") -> Change | None:
        """Down at once, and the wish for more is dropped; `None` where the mode is not above `to`."""
        state = self.state
        if MODES.index(state.mode) <= MODES.index(to):
            if MODES.index(state.wanted) > MODES.index(to) and state.mode == to:
                # What forbids the mode also forbids waiting for it silently.
                self.state = replace(state, why=why)
            return None
        self.state = ModeState(mode=to, wanted=to, why=f"fell from {state.mode}: {why}")
        return Change(state.mode, to, why, state.operator, state.change_record)

    def climb(self, ready: Readiness) -> Change | None:
        """One rung up towards the wanted mode, if nothing stands in the way."""
        state = self.state
        place = MODES.index(state.mode)
        if place >= MODES.index(state.wanted):
            return None
        above = MODES[place + 1]
        obstacle = ready.obstacle(above)
        if obstacle:
            self.state = replace(state, why=f"waiting for {above}: {obstacle}")
            return None
        self.state = replace(state, mode=above, why="")
        return Change(state.mode, above, "ready", state.operator, state.change_record)
