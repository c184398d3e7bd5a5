"""The supervised loop: read, watch, compute, judge, write, record; once per period, whatever happens around it.

A cycle in which the plant does not answer, the command in force is not known, or the controller is late writes nothing:
the plant keeps the last command, and where it watches the controller's heartbeat (which is not written either) its own
control takes over. A cycle that lacks a measurement writes what the graph's fallback commands. Three faulty cycles of
any kind in a row, or a single one that leaves no doubt (the operator took over, another controller commands, the
plant's own mode forbids it), and the controller is back in SHADOW until an operator arms it again.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from controlkit.errors import ControlkitError
from deploy.runtime.clock import NS, Clock, Metronome, Tick
from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.modes import Change, ModeKeeper, Readiness
from deploy.runtime.notices import Notices
from deploy.runtime.plant import Plant, PlantReading
from deploy.runtime.records import cycle_record, notice_record, snapshot_of, start_record
from deploy.runtime.requests import Request, Requests
from deploy.runtime.sensing import Inputs, Sensing
from deploy.runtime.session import StepResult
from deploy.runtime.settings import Settings
from deploy.runtime.slots import Slot, Slots, Step
from deploy.runtime.snapshot import Notice, Severity, Snapshot
from deploy.runtime.watch import NEEDS, Watch
from deploy.runtime.worker import Outcome
from deploy.runtime.writing import Commands, Writer

# Faults in which nothing is written: it is not known where the plant stands, or the command is wrong.
QUIET = ("cycle_missed", "reference_invalid", "action_unsafe")
# Share of a period for which another thread of this process may run before the loop gets its turn.
SWITCH_SHARE = 0.05
# Of what is said about a refused request, which may quote a path.
MAX_TEXT = 400


class AuditSink(Protocol):
    """What the loop needs of an audit log."""

    @property
    def problem(self) -> str:
        """Why rows are waiting; empty if none does."""

    @property
    def pending(self) -> int:
        """How many rows wait."""

    @property
    def lost(self) -> int:
        """How many had to be dropped."""

    def append(
        self, kind: str, payload: dict[str, Any], *, wall_ns: int, monotonic_ns: int, durable: bool = False
    ) -> None:
        """Takes one row."""


class Board(Protocol):
    """Where the loop shows itself."""

    def publish(self, snapshot: Snapshot) -> None:
        """Takes the latest."""


class Computer(Protocol):
    """What runs a step, see `deploy.runtime.worker.Worker`."""

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        """Runs a call, waits for at most `timeout_s`."""

    def leftover(self) -> Outcome | None:
        """What came of a late call that has ended since."""


class Supervisor:
    """One controller on one plant.

    Args:
        slots: the bundle in charge, and perhaps a second one.
        plant: what it runs on.
        clock: both clocks.
        audit, board: where every cycle is recorded, and shown.
        computer: runs the steps.
        requests: what operators ask for.
        lease: as this controller sees it.
        settings: choices.
        on_calibration: told of every recalibration that was found, to be kept, or is begun anew.
        address: of the plant, for the record.
    """

    def __init__(
        self,
        slots: Slots,
        plant: Plant,
        clock: Clock,
        audit: AuditSink,
        board: Board,
        computer: Computer,
        requests: Requests,
        lease: LeaseKeeper,
        *,
        settings: Settings | None = None,
        on_calibration: Callable[[Slot], None] = lambda slot: None,
        address: str = "",
    ) -> None:
        self.slots, self.plant, self.clock, self.audit, self.board = slots, plant, clock, audit, board
        self.computer, self.requests, self.lease = computer, requests, lease
        self.settings, self._on_calibration, self._address = settings or Settings(), on_calibration, address
        self.modes, self.counters, self.notices = ModeKeeper(), Counter[str](), Notices(self._tell)
        self.spec, self.period_s = slots.active.bundle.spec, slots.active.bundle.manifest.period_s
        self.metronome = Metronome(clock, self.period_s)
        span = slots.active.session.high - slots.active.session.low
        self._watch = Watch(self.spec, plant, lease, self.settings, span)
        self._writer = Writer(self.spec, plant, clock, lease, self.settings, span, self.counters)
        self._stopping = threading.Event()
        self._streak = self._healthy = 0
        self._mode_since_ns = clock.wall_ns()
        self._last_ns: int | None = None
        self._standby_ns: int | None = None
        self._compute_ms = self._jump = 0.0
        self._echo: Commands = np.full(len(self.spec.action_tags), np.nan, dtype=np.float32)
        n, m = len(self.spec.frame_tags), len(self.spec.action_tags)
        self._nothing = Inputs(
            np.full(n, np.nan, np.float32),
            np.zeros(n, np.bool_),
            np.full(n, np.inf, np.float32),
            np.full(m, np.nan, np.float32),
        )
        self._begin_afresh()

    # What one calls.

    def run(self, cycles: int | None = None) -> None:
        """Runs until `stop` is called, or for a number of cycles; leaves the plant in an orderly way."""
        self._append("start", start_record(self.slots.active, self._address), durable=True)
        self._changed(self.modes.climb(Readiness()))
        self.metronome.anchor()  # what it took to come here is no missed cycle
        # What is alive now stays: the collector need not look at it again in every cycle.
        gc.collect()
        gc.freeze()
        # Nor does a thread that shows a page keep the loop waiting for long.
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(switch_s, SWITCH_SHARE * self.period_s))
        done, why = 0, "asked for"
        try:
            while not self._stopping.is_set() and (cycles is None or done < cycles):
                tick, missed = self.metronome.wait(self.settings.late_start)
                self.cycle(tick, missed)
                done += 1
        except BaseException as problem:
            why = f"{type(problem).__name__}: {problem}"[:300]
            raise
        finally:
            sys.setswitchinterval(switch_s)
            gc.unfreeze()
            self._finish(why)

    def stop(self) -> None:
        """Ends `run` after its present cycle; from any thread."""
        self._stopping.set()

    def cycle(self, tick: Tick, missed: int = 0) -> None:
        """One period."""
        settings, faults = self.settings, dict[str, str]()
        self.counters["cycles"] += 1
        self._answer(tick)
        if missed:
            self.counters["missed"] += missed
            faults["cycle_missed"] = f"{missed} periods were left out: this machine was too busy"
        if self.modes.mode == "OFF":
            self._show(tick, self._nothing, None, faults)
            return
        reading = self.plant.read(settings.read_share * self.period_s)
        if reading.problem:
            faults["plant_silent"] = reading.problem
        if self._clock_jumped(tick):
            self._record(tick, self._nothing, None, {"clock_set": "the wall clock was set: history starts anew"}, False)
            return
        self._echo = self._sensing.echo(reading)
        self._decide(reading, faults)
        inputs = self._sensing.take(reading, tick.time_ns, commanding=self.modes.mode == "ARMED")
        outcome = self._compute(inputs, tick, faults)
        result: StepResult | None = outcome.value if outcome.state == "done" else None
        if result is not None:
            self._need(result, inputs, faults)
        if self.audit.problem:
            faults["audit_blocked"] = f"rows of the audit log wait ({self.audit.problem}): free some space"
        written = self._write(result, reading, tick, faults)
        self._judge(faults)
        self._learn()
        self._step_standby(inputs, tick, result.action if written and result is not None else self._echo)
        self._record(tick, inputs, result, faults, written)

    def _record(
        self, tick: Tick, inputs: Inputs, result: StepResult | None, faults: dict[str, str], written: bool
    ) -> None:
        """One row of the log, and what people see."""
        number, mode, slot = self.counters["cycles"], self.modes.mode, self.slots.active
        row = cycle_record(number, mode, tick, inputs, result, slot, faults, written, self._compute_ms)
        self._append("cycle", row)
        self._show(tick, inputs, result, faults)

    # Who may command.

    def _decide(self, reading: PlantReading, faults: dict[str, str]) -> None:
        """Down at once where somebody or something says so, up by a rung where nothing stands in the way."""
        self._watch.see(reading)
        if self.modes.mode == "ARMED" and (why := self._watch.disarms(reading, self._sensing, self._writer.confirmed)):
            faults["disarmed"] = why
            self._fall(why)
        if self.modes.mode == "ARMED" and (why := self._watch.lost_write(reading, self._writer.acknowledged)):
            faults["write_lost"] = why
        ready = self._watch.readiness(reading, self._sensing, self.slots.active, self._healthy, self.audit.problem)
        change = self.modes.climb(ready)
        if change is not None and change.after == "ARMED":
            # Whoever was in command is left without a bump: trust climbs from nothing.
            self.slots.active.distrust()
        self._changed(change)

    # Computing and judging.

    def _compute(self, inputs: Inputs, tick: Tick, faults: dict[str, str]) -> Outcome:
        slot = self.slots.active
        self._catch_up()
        dt = self.period_s if self._last_ns is None else (tick.time_ns - self._last_ns) / NS
        deadline = tick.start_ns + round(self.settings.compute_share * self.period_s * NS)
        began = self.clock.monotonic_ns()
        outcome = self.computer.run(lambda: slot.compute(inputs, dt, tick.time_ns), (deadline - began) / NS)
        self._compute_ms = (self.clock.monotonic_ns() - began) / 1e6
        if outcome.state == "done":
            self._last_ns = tick.time_ns
            return Outcome("done", slot.take(outcome.value))
        name = "compute_late" if outcome.state == "late" else "compute_failed"
        self.counters["late" if outcome.state == "late" else "failed"] += 1
        faults[name] = f"{outcome.text}; its result is not used"
        return outcome

    def _catch_up(self) -> None:
        """A late step's command is thrown away, but what it saw of the plant is true: history has no hole."""
        late = self.computer.leftover()
        if late is None or late.state != "done" or not isinstance(late.value, Step):
            return
        step, slot = late.value, late.value.slot
        if slot.take(step) is None:
            return
        slot.not_issued(self._echo)
        if slot is self.slots.active:
            self._last_ns = step.time_ns
        else:
            self._standby_ns = step.time_ns

    def _need(self, result: StepResult, inputs: Inputs, faults: dict[str, str]) -> None:
        """What the graph lacks."""
        lacking = [name for name in NEEDS if name in result.raised]
        bad = [name.partition(".")[2] for name in result.raised if name.startswith("input_bad.")]
        if "input_unusable" in lacking:
            frozen = "input_frozen" in result.raised
            what = "a frozen sensor" if frozen and not bad else ", ".join(f"'{tag}'" for tag in bad) or "a tag"
            note = inputs.notes.get("source_time", "")
            faults["input_unusable"] = f"no usable value of {what}" + (f"; {note}" if note else "")
        for name in lacking:
            if name != "input_unusable":
                faults[name] = self.slots.active.session.meaning(name)
        # The graph sees to this itself, and gates and golden vectors showed it; a broken machine may not.
        if unsafe := self._writer.unsafe(result.action, inputs.act_prev):
            faults["action_unsafe"] = f"the controller gave {unsafe}: it is not written"

    def _judge(self, faults: dict[str, str]) -> None:
        if faults:
            self.counters["faulty"] += 1
            self._streak, self._healthy = self._streak + 1, 0
        else:
            self._streak, self._healthy = 0, self._healthy + 1
        if self._streak >= self.settings.faulty_cycles:
            self._fall(f"{self._streak} faulty cycles in a row ({', '.join(faults)})")

    def _write(self, result: StepResult | None, reading: PlantReading, tick: Tick, faults: dict[str, str]) -> bool:
        claim = self.modes.mode == "ADVISORY" and self.modes.state.wanted == "ARMED" and self._watch.may_claim
        quiet = bool(reading.problem) or any(name in faults for name in QUIET)
        before = self.counters["writes"]
        written = self._writer.send(self.modes.mode, result, tick, faults, claim=claim, quiet=quiet)
        if written and result is not None:
            actions = zip(self.spec.action_tags, result.action.tolist(), strict=True)
            self._sensing.commanded(dict(actions), tick.time_ns)
        elif result is not None:
            self._echo = self._writer.echo if self.counters["writes"] > before else self._echo
            self.slots.active.not_issued(self._echo)
        return written

    # Learning, standby, operators.

    def _learn(self) -> None:
        if self.modes.mode == "ARMED":
            return
        for slot in (self.slots.active, self.slots.standby):
            found = None if slot is None else slot.learn()
            if slot is not None and found is not None:
                self._append(
                    "calibration",
                    {"controller": slot.controller, "shift": found.shift, "stretch": found.stretch},
                    durable=True,
                )
                text = f"slot {slot.name}: shift {found.shift:+.2f}, stretch {found.stretch:.2f}"
                self._event("recalibrated", "info", text)
                self._on_calibration(slot)

    def _step_standby(self, inputs: Inputs, tick: Tick, in_force: Commands) -> None:
        standby = self.slots.standby
        if standby is None:
            return
        left = tick.start_ns + round(self.settings.write_share * self.period_s * NS) - self.clock.monotonic_ns()
        dt = self.period_s if self._standby_ns is None else (tick.time_ns - self._standby_ns) / NS
        outcome = self.computer.run(lambda: standby.compute(inputs, dt, tick.time_ns), left / NS)
        if outcome.state == "done" and standby.take(outcome.value) is not None:
            self._standby_ns = tick.time_ns
            standby.not_issued(in_force)
        else:
            self.counters["standby_late"] += 1

    def _answer(self, tick: Tick) -> None:
        """Does what operators asked for since the last cycle."""
        for request in self.requests.take():
            try:
                request.answer(self._do(request))
            except ControlkitError as problem:
                who = f" to {request.operator}" if request.operator else ""
                self._event("request_refused", "warning", f"{request.action} refused{who}: {problem}"[:MAX_TEXT])
                request.refuse(problem)
            except Exception as problem:  # noqa: BLE001 (no wish may end the loop)
                what = f"{type(problem).__name__}: {problem}"[:200]
                self._event("request_failed", "warning", what)
                request.refuse(ControlkitError(f"it failed ({what})", where="runtime"))

    def _do(self, request: Request) -> str:
        self._append("operator", request.record(), durable=True)
        if request.problem is not None:
            raise request.problem
        if request.action == "mode":
            assert request.mode is not None
            before = self.modes.mode
            self._changed(self.modes.ask(request.mode, request.operator, request.change_record))
            if self.modes.mode == "OFF":
                self._writer.release()
            if self.modes.mode == "OFF" or before == "OFF":
                self._begin_afresh()
            if before == "OFF" and request.mode != "OFF":
                self._changed(self.modes.climb(Readiness()))
            if self.modes.mode == request.mode:
                return f"{request.mode} is in force"
            return f"{request.mode} is wanted; the status page says what it waits for"
        if request.action == "load":
            assert request.slot is not None
            slot = self.slots.load(request.slot)
            self._standby_ns = None
            self._append("bundle", {"slot": slot.name, "controller": slot.controller, "event": "loaded"}, durable=True)
            return f"slot {slot.name}: {slot.controller[:12]} loaded, filling its history"
        if request.action == "swap":
            slot = self.slots.swap()
            self._last_ns, self._standby_ns = self._standby_ns, self._last_ns
            self._fall(f"slot {slot.name} took charge")
            self._append("bundle", {"slot": slot.name, "controller": slot.controller, "event": "charge"}, durable=True)
            return f"slot {slot.name} is in charge, in {self.modes.mode}"
        self.slots.active.forget()
        self._on_calibration(self.slots.active)  # a restart must not find it again
        self._fall("the recalibration begins anew")
        return "the recalibration begins anew"

    # Housekeeping.

    def _clock_jumped(self, tick: Tick) -> bool:
        """Notes a jump of the wall clock; unless armed, starts anew by it. Whether the cycle is over with that."""
        jump = self.metronome.jump_s
        self._jump = jump if abs(jump) > self.settings.clock_jump_s else 0.0
        if not self._jump or self.modes.mode == "ARMED":
            return False
        self._event("clock_set", "warning", f"the wall clock moved by {jump:+.1f} s: history starts anew by it")
        self.metronome.anchor()
        self._begin_afresh()
        self._jump = 0.0
        return True

    def _begin_afresh(self) -> None:
        """Forgets what was sensed: a cold start of everything but what was learned."""
        self._sensing = Sensing(self.spec)
        self._last_ns = self._standby_ns = None
        self._compute_ms = self._jump = 0.0
        self._writer.confirmed = self._writer.acknowledged = None
        for slot in (self.slots.active, self.slots.standby):
            if slot is not None:
                slot.restart()

    def _fall(self, why: str) -> None:
        change = self.modes.fall(why)
        if change is not None:
            self.counters["falls"] += 1
        self._changed(change)

    def _changed(self, change: Change | None) -> None:
        if change is None:
            return
        self._mode_since_ns = self.clock.wall_ns()
        self._writer.confirmed = None
        self._append(
            "mode",
            {
                "from": change.before,
                "to": change.after,
                "why": change.why,
                "operator": change.operator,
                "change_record": change.change_record,
            },
            durable=True,
        )
        fell = change.before == "ARMED"
        self._event("mode", "alarm" if fell else "info", f"{change.before} → {change.after}: {change.why}")

    def _finish(self, why: str) -> None:
        self._writer.release()
        self._append("stop", {"why": why, "mode": self.modes.mode, "cycles": self.counters["cycles"]}, durable=True)

    def _show(self, tick: Tick, inputs: Inputs, result: StepResult | None, faults: dict[str, str]) -> None:
        now = self.clock.wall_ns()
        holds: dict[str, tuple[Severity, str]] = {
            name: ("alarm" if self.modes.mode == "ARMED" or self._streak >= 3 else "warning", text)
            for name, text in faults.items()
        }
        if self._jump:
            holds["clock_set"] = ("warning", f"the wall clock moved by {self._jump:+.1f} s; control goes on by its own")
        if self.audit.lost:
            holds["audit_lost"] = ("alarm", f"{self.audit.lost} rows of the audit log are lost")
        self.notices.hold(holds, now)
        self.counters["reconnects"] = int(getattr(self.plant, "reconnects", 0))
        self.counters["audit_pending"], self.counters["audit_lost"] = self.audit.pending, self.audit.lost
        cycle_ms = (self.clock.monotonic_ns() - tick.start_ns) / 1e6
        self.board.publish(
            snapshot_of(
                self.slots, self.modes.state, tick, inputs, result, faults,
                now_ns=now, since_ns=self._mode_since_ns, notices=self.notices.shown(), counters=self.counters,
                compute_ms=self._compute_ms, cycle_ms=cycle_ms, lease=self.lease.holder,
            )
        )  # fmt: skip

    def _event(self, name: str, severity: Severity, text: str) -> None:
        self.notices.event(name, severity, text, self.clock.wall_ns())

    def _tell(self, notice: Notice) -> None:
        self._append("alarm", notice_record(notice))

    def _append(self, kind: str, payload: dict[str, Any], durable: bool = False) -> None:
        wall, monotonic = self.clock.wall_ns(), self.clock.monotonic_ns()
        self.audit.append(kind, payload, wall_ns=wall, monotonic_ns=monotonic, durable=durable)
