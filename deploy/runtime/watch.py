"""What the plant and its people say about who may command: what ends ARMED at once, and what stands in its way."""

from __future__ import annotations

from typing import Any

import numpy as np

from controlkit.spec import PlantSpec
from deploy.runtime.lease import LeaseKeeper, PlantPulse
from deploy.runtime.modes import Readiness
from deploy.runtime.plant import Plant, PlantReading
from deploy.runtime.sensing import Sensing
from deploy.runtime.settings import Settings
from deploy.runtime.slots import Slot

Commands = np.ndarray[Any, np.dtype[np.float32]]

# Flags by which the graph says that it lacks what it needs; others cut trust and leave the plant to its fallback.
NEEDS = ("input_unusable", "state_invalid", "reference_invalid", "model_invalid")
# Flags that must be down before the controller is armed.
DOUBTS = (*NEEDS, "score_observed_low", "ewma_high", "cusum_high")


class Watch:
    """Looks at every reading before anything is computed.

    Args:
        spec: the plant.
        plant: for which parts of the handshake it has.
        lease: as this controller sees it.
        settings: choices.
        span: (m,) between the absolute limits of the commands.
    """

    def __init__(self, spec: PlantSpec, plant: Plant, lease: LeaseKeeper, settings: Settings, span: Commands) -> None:
        self._spec, self._has, self._lease, self._settings, self._span = spec, plant.handshake, lease, settings, span
        self._pulse = PlantPulse(settings.heartbeat_periods)
        self._alive = True
        self.may_claim = False
        """Whether only the lease is missing."""

    def see(self, reading: PlantReading) -> None:
        """Takes the reading of one cycle."""
        # A plant that does not answer is another fault than one whose control stands still.
        if "heartbeat_plant" in self._has and not reading.problem:
            self._alive = self._pulse.see(reading.heartbeat)
        if "lease" in self._has:
            self._lease.see(reading.lease)

    def disarms(self, reading: PlantReading, sensing: Sensing, confirmed: Commands | None) -> str:
        """Why a controller that is in command must let go at once; empty if it need not.

        Args:
            reading: of this cycle, already seen.
            sensing: for what its samples are worth.
            confirmed: (m,) the commands that the plant showed after the last write; `None` where it did not.
        """
        if "auto" in self._has and reading.auto is False:
            return "the operator took over (the plant's switch is off)"
        if not reading.problem:  # one silent cycle proves nothing; several in a row are faulty cycles
            if mode := sensing.plant_mode(reading):
                return mode
            if "auto" in self._has and reading.auto is None:
                return "the plant does not say whether a controller may act"
            if "lease" in self._has and reading.lease is None:
                return "the plant does not say who holds the lease"
            if "lease" in self._has and self._lease.state != "held":
                return f"another controller commands ({self._lease.holder or 'the lease is gone'})"
            if moved := self._moved(reading, sensing, confirmed):
                return f"somebody else moved {moved}"
        return "" if self._alive else "the plant's heartbeat has stopped"

    def lost_write(self, reading: PlantReading, acknowledged: str | None) -> str:
        """Whether the plant has forgotten what it said it took; empty if not.

        A command that hardly changes is confirmed although its write was lost. The lease is another text every period,
        and goes in the same request.

        Args:
            reading: of this cycle, already seen.
            acknowledged: the lease that it took in the cycle before.
        """
        if acknowledged is None or reading.lease is None or reading.lease == acknowledged:
            return ""
        if self._lease.state != "held":
            return ""  # another one's: a reason of its own
        return "the plant does not show what it said it took: writes are lost"

    def readiness(
        self, reading: PlantReading, sensing: Sensing, slot: Slot, healthy_cycles: int, audit_problem: str
    ) -> Readiness:
        """What stands in the way of ADVISORY and of ARMED.

        Args:
            reading: of this cycle, already seen.
            sensing: for what its samples are worth.
            slot: the controller in charge.
            healthy_cycles: without a fault, up to the last one.
            audit_problem: why rows of the audit log wait.
        """
        common = ""
        if reading.problem:
            common = "the plant does not answer"
        elif not slot.warm:
            common = "history is filling"
        elif healthy_cycles < self._settings.settle_cycles:
            common = f"{healthy_cycles} of {self._settings.settle_cycles} cycles without a fault"
        armed = common or self._armed(reading, sensing, slot, audit_problem)
        self.may_claim = not armed
        if not armed and "lease" in self._has and self._lease.state != "held":
            armed = f"the lease is {self._lease.state} {self._lease.holder}".strip()
        return Readiness(common, armed)

    def _armed(self, reading: PlantReading, sensing: Sensing, slot: Slot, audit_problem: str) -> str:
        recalibrator = slot.recalibrator
        doubts = [name for name in DOUBTS if slot.last is not None and name in slot.last.raised]
        if self._settings.require_trusted and not slot.bundle.trusted:
            return "the bundle is not signed with the known key (--public-key)"
        if recalibrator is None:
            return "the bundle cannot be recalibrated: export it again"
        if recalibrator.result is None:
            return f"recalibrating, {recalibrator.progress}"
        if doubts:
            return f"the controller does not trust the plant ({', '.join(doubts)})"
        if audit_problem:
            return "the audit log is blocked"
        if "auto" in self._has and reading.auto is not True:
            return "the plant's switch is not on"
        if mode := sensing.plant_mode(reading):
            return mode
        return "" if self._alive else "the plant's heartbeat does not move"

    def _moved(self, reading: PlantReading, sensing: Sensing, confirmed: Commands | None) -> str:
        """The commands that were confirmed in the last cycle and are others now."""
        if confirmed is None:
            return ""
        with np.errstate(invalid="ignore"):
            moved = np.abs(sensing.echo(reading) - confirmed) > self._settings.confirm * self._span  # NaN has not moved
        return ", ".join(f"'{tag}'" for tag, other in zip(self._spec.action_tags, moved, strict=True) if other)
