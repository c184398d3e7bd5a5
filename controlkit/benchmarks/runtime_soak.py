"""A day of plant time with random faults: what drove the plant, what the log kept, and what the runtime said.

The loop runs by an accelerated clock on the simulated plant of `deploy.runtime.simulated`. About once in 200 healthy
cycles one fault begins; once it is over, an operator arms the controller again. The process restarts are those of one
that is killed: no row is written and no lease given back, and the next runtime finds the state folder as it was left.
"""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.benchmarks.runtime_faults import HOUR_S, KINDS, Fault, FaultyPlant, Killed, PlantClock, SlowComputer
from controlkit.benchmarks.runtime_plant import LinearEnv, LinearOperator
from controlkit.progress import Progress
from deploy.bundle import Bundle
from deploy.runtime.audit_reader import read_audit, verify_audit
from deploy.runtime.clock import AcceleratedClock, Tick
from deploy.runtime.operators import token_hash
from deploy.runtime.recalibration import Calibration
from deploy.runtime.service import Runtime
from deploy.runtime.settings import Settings
from deploy.runtime.simulated import SimulatedPlant
from deploy.runtime.site import Site

OPERATOR, TOKEN, RECORD = "benchmark", "token-of-the-benchmark", "BENCHMARK-1"
CHANCE = 1 / 200
# Healthy cycles under a fully trusted controller before the next fault may begin.
PAUSE = 20
# A fault lasts longer than three periods of a value's age and three faulty cycles.
SHORTEST, LONGEST = 8, 15
# After a fault that is over, a fall may still be its doing for so long.
AFTERMATH = 6


@dataclass(frozen=True)
class Told:
    """A fault and what the runtime said: the first name that tells it, cycles until then (`None`: never), and whether
    the mode fell while it lasted."""

    fault: Fault
    name: str
    delay: int | None
    fell: bool


@dataclass(frozen=True)
class SoakResult:
    """A soak.

    Attributes:
        cycles: that the loops ran; restarts: among them.
        controlled: periods that a controller drove; of them unsafe: outside limits, not finite, or beyond a rate from
            the command in force before.
        takeovers: how often a controller took command; largest_jump: the largest change of a command in the first
            period under it, as a share of what the rate allows.
        armed, trust: cycles armed; mean trust in them.
        rows, chain: of the audit log, and what broke in its chain (empty: nothing); lost: cycles without a row, and
            rows that the log says it dropped.
        told: of each fault; false_falls: from ARMED with no fault about, with their reasons.
    """

    cycles: int
    restarts: int
    controlled: int
    unsafe: int
    takeovers: int
    largest_jump: float
    armed: int
    trust: float
    rows: int
    chain: str
    lost: int
    told: tuple[Told, ...]
    false_falls: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """As JSON: counts, and one entry for each kind of fault."""
        kinds: dict[str, Any] = {}
        for kind in KINDS:
            some = [told for told in self.told if told.fault.kind == kind]
            delays = [told.delay for told in some if told.delay is not None]
            kinds[kind] = {
                "injected": len(some),
                "flagged": len(delays),
                "names": sorted({told.name for told in some if told.name}),
                "delay_median": float(np.median(delays)) if delays else None,
                "delay_max": max(delays, default=None),
                "fell": sum(told.fell for told in some),
            }
        content = asdict(self)
        return content | {"told": len(self.told), "false_falls": list(self.false_falls), "kinds": kinds}


class Soak:
    """See the module.

    Args:
        bundle: of the linear plant.
        state: folder; empty.
        seed: of plant, operator and faults.
        chance: of a fault in each healthy cycle.
    """

    def __init__(self, bundle: Bundle, state: Path, seed: int, chance: float = CHANCE) -> None:
        self._bundle, self._state, self._chance = bundle, state, chance
        plant_seed, operator_seed, fault_seed, wrapper_seed = np.random.SeedSequence(seed).spawn(4)
        self._rng = np.random.default_rng(fault_seed)
        spec = bundle.spec
        self._period_s = spec.period_s
        self._clock = AcceleratedClock()
        clock = PlantClock(self._clock)
        operator = LinearOperator(0.05, np.random.default_rng(operator_seed))
        self._driven: list[tuple[np.ndarray[Any, Any], bool]] = []
        simulated = SimulatedPlant(
            spec,
            LinearEnv(),
            clock,
            lambda frame: operator.act(np.asarray(frame)[None])[0],
            seed=int(plant_seed.generate_state(1)[0]),
            on_step=lambda frame, command, reward, controlled: self._driven.append((command, controlled)),
        )
        self._plant = FaultyPlant(simulated, clock, np.random.default_rng(wrapper_seed))
        self._computer = SlowComputer(self._clock, self._period_s)
        self._site = Site(operators={OPERATOR: token_hash(TOKEN)}, status_port=0)
        self._cycles = self._restarts = self._armed = self._over = self._healthy = 0
        self._trust = 0.0
        self._names: list[str] = []
        self._told: list[Told] = []
        self._name, self._delay, self._fell = "", -1, False
        self._false: list[str] = []

    def run(self, cycles: int, progress: Progress) -> SoakResult:
        """Runs for a number of cycles, over as many runtimes as it takes."""
        progress.start("soak", cycles)
        self._left, self._progress = cycles, progress
        while self._left > 0:
            runtime = self._runtime()
            try:
                runtime.run(self._left)
            except Killed:
                self._restarts += 1
            finally:
                runtime.close()
        return self._result()

    def _runtime(self) -> Runtime:
        runtime = Runtime(
            self._bundle, self._plant, self._state, self._site, clock=self._clock, computer=self._computer,
            settings=Settings(require_trusted=False),
        )  # fmt: skip
        loop = runtime.supervisor
        recalibrator = loop.slots.active.recalibrator
        assert recalibrator is not None
        assert recalibrator.accept(Calibration())
        if self._plant.fault is not None and self._plant.fault.kind == "killed":
            self._note("start")
            self._end()
        whole = loop.cycle

        def cycle(tick: Tick, missed: int = 0) -> None:
            self._left -= 1
            self._cycles += 1
            self._before(runtime)
            before = loop.modes.mode
            whole(tick, missed)
            self._after(runtime, before)

        loop.cycle = cycle  # type: ignore[method-assign]
        return runtime

    def _before(self, runtime: Runtime) -> None:
        """Faults begin and end, and the operator arms, before a cycle."""
        fault, loop = self._plant.fault, runtime.supervisor
        if fault is not None and self._cycles >= fault.ends:
            self._end()
            self._refusing(runtime, False)
            fault = None
        if fault is None and loop.modes.state.wanted != "ARMED" and self._cycles > self._over + AFTERMATH:
            runtime.ask("ARMED", TOKEN, RECORD)
        if fault is None and self._healthy >= PAUSE and self._rng.random() < self._chance:
            self._begin(runtime)

    def _begin(self, runtime: Runtime) -> None:
        kind = str(self._rng.choice(list(KINDS)))
        spec, thresholds = self._bundle.spec, self._bundle.manifest.thresholds
        length = int(self._rng.integers(SHORTEST, LONGEST + 1))
        tag = str(self._rng.choice(spec.frame_tags))
        if kind in ("write dropped", "write refused", "command unknown"):
            tag = str(self._rng.choice(spec.action_tags))
        if kind == "frozen":
            tag = str(self._rng.choice([name for name, limit in thresholds.frozen_repeats.items() if limit]))
            length += thresholds.frozen_repeats[tag] or 0
        self._name, self._delay, self._fell, self._healthy = "", -1, False, 0
        self._plant.begin(Fault(kind, tag, self._cycles, self._cycles + length))
        if kind.startswith("clock"):
            self._clock.set_wall(HOUR_S if kind == "clock ahead" else -HOUR_S)
        self._computer.slow = kind == "slow"
        self._refusing(runtime, kind == "disk full")

    def _end(self) -> None:
        fault = self._plant.fault
        assert fault is not None
        if fault.kind.startswith("clock"):
            self._clock.set_wall(-HOUR_S if fault.kind == "clock ahead" else HOUR_S)
        self._computer.slow = False
        self._plant.end()
        self._told.append(Told(fault, self._name, self._delay if self._name else None, self._fell))
        self._over = self._cycles

    def _refusing(self, runtime: Runtime, full: bool) -> None:
        """The disk refuses every row of the log, or takes them again."""
        writer = runtime.audit._writer
        if full:

            def refuse(record: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            writer.write = refuse  # type: ignore[method-assign]
        else:
            vars(writer).pop("write", None)

    def _after(self, runtime: Runtime, before: str) -> None:
        loop, latest = runtime.supervisor, runtime.board.latest()
        assert latest is not None
        fault, mode = self._plant.fault, loop.modes.mode
        self._progress.advance(note=f"{len(self._told)} faults")
        if mode == "ARMED":
            self._armed += 1
            self._trust += latest.trust
        names = [*latest.faults, *(notice.name for notice in latest.notices if notice.active)]
        if fault is not None:
            for name in names:
                if name.partition(".")[0] in KINDS[fault.kind]:
                    self._note(name.partition(".")[0])
        healthy = mode == "ARMED" and latest.trust >= 1.0 and not latest.faults and fault is None
        self._healthy = self._healthy + 1 if healthy else 0
        if before == "ARMED" and mode != "ARMED":
            self._fell = True
            if fault is None and self._cycles > self._over + AFTERMATH:
                self._false.append(f"cycle {self._cycles}: {loop.modes.state.why}")

    def _note(self, name: str) -> None:
        fault = self._plant.fault
        assert fault is not None
        if not self._name:
            self._name, self._delay = name, self._cycles - fault.begun

    def _result(self) -> SoakResult:
        spec = self._bundle.spec
        commands = np.array([command for command, _ in self._driven])
        controlled = np.array([by for _, by in self._driven])
        unsafe, jumps = judge(spec, commands, controlled)
        check = verify_audit(self._state / "audit")
        return SoakResult(
            cycles=self._cycles,
            restarts=self._restarts,
            controlled=int(controlled.sum()),
            unsafe=unsafe,
            takeovers=len(jumps),
            largest_jump=float(jumps.max(initial=0.0)),
            armed=self._armed,
            trust=self._trust / max(self._armed, 1),
            rows=check.rows,
            chain=check.problem,
            lost=lost_rows(self._state / "audit", self._cycles, self._restarts),
            told=tuple(self._told),
            false_falls=tuple(self._false),
        )


def judge(
    spec: Any, commands: np.ndarray[Any, Any], controlled: np.ndarray[Any, Any]
) -> tuple[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """How many commands (T, m) of a controller were unsafe, and its first steps after each change of command.

    Args:
        spec: the plant.
        commands: in force in each period.
        controlled: (T,) whether a controller was in command; what the plant's own operator does is his business.

    Returns:
        Periods with an unsafe command; and for each takeover the largest change as a share of what the rate allows.
    """
    low, high = np.array([spec.limits(tag) for tag in spec.action_tags]).T
    rates = [spec.tags[tag].max_rate_per_s for tag in spec.action_tags]
    step = np.array([np.inf if rate is None else rate * spec.period_s for rate in rates])
    slack = 1e-6 * (high - low)  # the graph's numbers are float32
    good = ((commands >= low) & (commands <= high)).all(axis=1)  # NaN is not good
    change = np.abs(np.diff(commands, axis=0))
    good[1:] &= (change <= step + slack).all(axis=1)
    first = controlled[1:] & ~controlled[:-1]
    return int((controlled & ~good).sum()), (change[first] / step).max(axis=1, initial=0.0)


def lost_rows(folder: Path, cycles: int, killed: int) -> int:
    """Cycles of all runtimes that wrote in a folder without a row.

    A cycle in which the wall clock was taken anew is over with that and has an alarm's row instead; one in which the
    process was killed has none.

    Args:
        folder: of the audit log.
        cycles: that were begun.
        killed: of them, those in which the process was killed.
    """
    started = anew = dropped = 0
    rows = set[tuple[int, int]]()  # number of the runtime, and of its cycle
    for row in read_audit(folder, kinds=("start", "cycle", "alarm")):
        if row.kind == "start":
            started += 1
        elif row.kind == "cycle":
            rows.add((started, row.payload["cycle"]))
        elif row.payload["name"] == "clock_set" and "starts anew" in row.payload["text"]:
            anew += 1
        elif row.payload["name"] == "audit_rows_lost":
            dropped += int(row.payload["lost"])
    return max(cycles - killed - anew - len(rows), dropped)


def run_soak(
    bundle: Bundle, state: Path, seed: int, cycles: int, progress: Progress, chance: float = CHANCE
) -> dict[str, Any]:
    """One soak, as JSON."""
    return Soak(bundle, state, seed, chance).run(cycles, progress).summary()
