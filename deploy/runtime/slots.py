"""Bundle slots: the controller in charge, and a second one kept hot beside it, to change to and to come back from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from controlkit.errors import ControlkitError
from deploy.bundle.store import Bundle
from deploy.runtime.recalibration import Calibration, Recalibrator
from deploy.runtime.sensing import Inputs
from deploy.runtime.session import ControllerSession, StepResult, Vector


@dataclass(frozen=True)
class Step:
    """One step that was computed and not yet taken.

    Attributes:
        result: see `ControllerSession.compute`.
        state: (S,) after it.
        time_ns: sample time.
        slot, epoch: whose it is, and since which restart of it.
    """

    result: StepResult
    state: Vector
    time_ns: int
    slot: Slot
    epoch: int


class Slot:
    """One bundle being stepped, with what it has learned of the plant.

    Args:
        name: `A` or `B`.
        bundle: checked.
        calibration: what was learned of this plant with this very controller before, if anything.
    """

    def __init__(self, name: str, bundle: Bundle, calibration: Calibration | None = None) -> None:
        self.name, self.bundle = name, bundle
        self.session = ControllerSession(bundle)
        manifest = bundle.manifest
        self.recalibrator: Recalibrator | None = None
        self._shortfall: int | None = None
        if manifest.recalibration is not None:
            bounds = manifest.recalibration
            self.recalibrator = Recalibrator(
                manifest.safety, manifest.thresholds, bounds.steps, bounds.shift, bounds.stretch
            )
            if calibration is not None:
                self.recalibrator.accept(calibration)
            self._shortfall = manifest.state_index("shortfall")
            self._shift, self._stretch = (manifest.state_index(f"shortfall_{name}") for name in ("shift", "stretch"))
        self._sums = tuple(manifest.state_index(name) for name in ("ewma", "cusum"))
        self._trust = manifest.state_index("trust")
        self._commands = [manifest.state_index(f"command.{tag}") for tag in self.session.commands]
        self.last: StepResult | None = None
        self._learned, self._epoch = True, 0
        self.restart()

    @property
    def controller(self) -> str:
        """SHA-256 of the graph."""
        return self.bundle.manifest.model.sha256

    @property
    def warm(self) -> bool:
        """Whether its history is full."""
        return self.last is not None and "history_filling" not in self.last.raised

    @property
    def shortfall(self) -> float | None:
        """Standardised shortfall of the last observed transition; `None` where it was not scored, or is not told."""
        if self.last is None or self._shortfall is None or "observed_unscored" in self.last.raised:
            return None
        return float(self.session.state[self._shortfall])

    @property
    def sums(self) -> tuple[float, float]:
        """EWMA and CUSUM of shortfalls."""
        ewma, cusum = (float(self.session.state[index]) for index in self._sums)
        return ewma, cusum

    def restart(self) -> None:
        """A cold start, with what was learned of the plant."""
        self.session.reset()
        self.last, self._learned = None, True
        self._epoch += 1
        self._apply()

    def compute(self, inputs: Inputs, dt_s: float, time_ns: int) -> Step:
        """What one period gives; changes nothing, so that any thread may do it. See `ControllerSession.compute`."""
        session, epoch = self.session, self._epoch
        result, state = session.compute(inputs.obs, inputs.ok, inputs.age_s, inputs.act_prev, dt=dt_s)
        return Step(result, state, time_ns, self, epoch)

    def step(self, inputs: Inputs, dt_s: float) -> StepResult:
        """One period, computed and taken at once."""
        step = self.compute(inputs, dt_s, 0)
        self.take(step)
        return step.result

    def take(self, step: Step) -> StepResult | None:
        """Moves on by a step; `None`, and nothing moves, if it is another slot's or was begun before a restart."""
        if step.slot is not self or step.epoch != self._epoch:
            return None
        self.session.state = step.state
        if "state_invalid" in step.result.raised:
            self._apply()  # the graph's own cold start has forgotten what was learned
        self.last, self._learned = step.result, False
        return step.result

    def learn(self) -> Calibration | None:
        """Takes the last step into the recalibration, once; the calibration in the step in which it is found."""
        shortfall = self.shortfall
        if self.recalibrator is None or self.last is None or shortfall is None or self._learned:
            return None
        self._learned = True
        found = self.recalibrator.see(shortfall, "observed_unfamiliar" not in self.last.raised)
        if found is not None:
            self._apply()
        return found

    def forget(self) -> None:
        """Begins the recalibration anew."""
        if self.recalibrator is not None:
            self.recalibrator.forget()
            self._apply()

    def distrust(self) -> None:
        """Trust begins at nothing: whoever was in command until now is left without a bump."""
        self.session.state[self._trust] = 0.0

    def not_issued(self, in_force: Vector) -> None:
        """The last command did not reach the plant; `in_force` (m,) did, as far as it is known (NaN where not).

        Where that lies beyond the absolute limits, the nearest command that the controller may give counts.
        """
        # A state that holds a command beyond the limits is no state: the graph would forget all of it.
        nearest = np.clip(in_force, self.session.low, self.session.high)
        for index, known, value in zip(self._commands, np.isfinite(in_force), nearest.tolist(), strict=True):
            if known:
                self.session.state[index] = value

    def _apply(self) -> None:
        if self.recalibrator is None:
            return
        found = self.recalibrator.result or Calibration()
        state = self.session.state
        state[self._shift], state[self._stretch] = found.shift, found.stretch
        for index in self._sums:
            state[index] = 0.0


@dataclass
class Slots:
    """Two places: `active` commands, `standby` is stepped beside it."""

    active: Slot
    standby: Slot | None = field(default=None)

    def load(self, slot: Slot) -> Slot:
        """Puts a bundle that was opened elsewhere (which takes its time) into the second place.

        Raises:
            ControlkitError: it is made for another plant, or it is the one in charge.
        """
        bundle = slot.bundle
        ours, theirs = self.active.bundle.manifest, bundle.manifest
        where = str(bundle.path)
        if theirs.training.spec_sha256 != ours.training.spec_sha256:
            raise ControlkitError(
                f"is made for plant '{theirs.plant}' as another plant file describes it",
                where=where,
                cure="Export it for the plant file of the bundle in charge, or restart the runtime with it.",
            )
        if theirs.model.sha256 == ours.model.sha256:
            raise ControlkitError("is the controller in charge", where=where)
        slot.name = "B" if self.active.name == "A" else "A"
        self.standby = slot
        return slot

    def swap(self) -> Slot:
        """The second one takes charge, the first stays hot beside it: once more, and all is as it was.

        Raises:
            ControlkitError: there is no second one, or its history is not full yet.
        """
        if self.standby is None:
            raise ControlkitError("the second slot is empty", where="slots", cure="Load a bundle into it first.")
        if not self.standby.warm:
            raise ControlkitError(
                "its history is not full yet", where=f"slot {self.standby.name}", cure="Wait a little."
            )
        self.active, self.standby = self.standby, self.active
        return self.active

    def describe(self) -> dict[str, str]:
        """Name of a slot -> what is in it, for people to read."""
        told = {}
        for slot, place in ((self.active, "in charge"), (self.standby, "standing by")):
            if slot is not None:
                state = "warm" if slot.warm else "filling its history"
                told[slot.name] = f"{slot.controller[:12]}, {place}, {state}"
        return dict(sorted(told.items()))
