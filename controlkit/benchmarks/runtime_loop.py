"""The supervised loop against the plant's OPC UA server in another process: which cycles meet their deadline, and where
the time of a cycle goes.

`run_loop` starts both processes; `main` is the controller's, which imports nothing that an edge box lacks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.errors import ControlkitError
from deploy.bundle import load_bundle
from deploy.runtime.clock import NS, Tick
from deploy.runtime.opcua import OpcUaPlant
from deploy.runtime.opcua_security import Security
from deploy.runtime.operators import token_hash
from deploy.runtime.plant import PlantReading, WriteRequest, WriteResult
from deploy.runtime.recalibration import Calibration
from deploy.runtime.service import Runtime
from deploy.runtime.settings import Settings
from deploy.runtime.site import Site
from deploy.runtime.supervisor import Computer
from deploy.runtime.worker import Outcome

OPERATOR, TOKEN, RECORD = "benchmark", "token-of-the-benchmark", "BENCHMARK-1"
PARTS = ("wake", "read", "compute", "write", "read_back", "audit", "publish", "cycle")
# A controller that fell back to SHADOW is armed again after this many periods.
REARM = 100
# Share of the run after which its memory counts as that of its start.
SETTLED = 0.1


class Stopwatch:
    """Milliseconds of each part of each cycle, in memory that is taken beforehand.

    Args:
        cycles: at most.
    """

    def __init__(self, cycles: int) -> None:
        self.times = np.full((cycles, len(PARTS)), np.nan)
        self.row = -1

    def note(self, part: str, ns: int) -> None:
        """Adds to a part of the present cycle; what comes before the first or after the last is left out."""
        if 0 <= self.row < len(self.times):
            column = PARTS.index(part)
            spent = ns / 1e6
            known = self.times[self.row, column]
            self.times[self.row, column] = spent if np.isnan(known) else known + spent

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, its time noted."""

        def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter_ns()
            try:
                return work(*args, **options)
            finally:
                self.note(part, time.perf_counter_ns() - began)

        return call


class TimedPlant:
    """A plant whose calls are timed."""

    def __init__(self, plant: OpcUaPlant, watch: Stopwatch) -> None:
        self._plant, self.handshake = plant, plant.handshake
        self._read, self._write, self._read_back = (
            watch.timed(part, getattr(plant, part)) for part in ("read", "write", "read_back")
        )

    @property
    def reconnects(self) -> int:
        """See `OpcUaPlant`."""
        return self._plant.reconnects

    def read(self, timeout_s: float) -> PlantReading:
        """See `Plant`."""
        reading: PlantReading = self._read(timeout_s)
        return reading

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        """See `Plant`."""
        result: WriteResult = self._write(request, timeout_s)
        return result

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        """See `Plant`."""
        found: Mapping[str, float] = self._read_back(timeout_s)
        return found

    def close(self) -> None:
        """See `Plant`."""
        self._plant.close()


class _TimedComputer:
    """Notes when a step was done, by the monotonic clock; `None` where it was not."""

    def __init__(self, computer: Computer, watch: Stopwatch) -> None:
        self._computer, self._watch = computer, watch
        self.done_ns: int | None = None

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        began = time.monotonic_ns()
        outcome = self._computer.run(call, timeout_s)
        now = time.monotonic_ns()
        self._watch.note("compute", now - began)
        self.done_ns = now if outcome.state == "done" else None
        return outcome

    def leftover(self) -> Outcome | None:
        return self._computer.leftover()


def control(
    bundle_path: Path, address: str, security: Mapping[str, str], seconds: float, state: Path
) -> dict[str, Any]:
    """Runs the controller, armed, and says how it went.

    Args:
        bundle_path: of the bundle.
        address, security: of the server, see `runtime_plant.Served`.
        seconds: how long.
        state: folder.

    Returns:
        Counts (`deadline_met`: computed within its share of the period, and the whole cycle within the period), shares,
        quantiles of the parts and the processor's time for a cycle in milliseconds, and memory in megabytes early in
        the run and at its end.
    """
    bundle = load_bundle(bundle_path)
    period_s = bundle.manifest.period_s
    cycles = max(round(seconds / period_s), 1)
    watch = Stopwatch(cycles)
    site = Site(operators={OPERATOR: token_hash(TOKEN)}, status_port=0)
    connection = Security(**security) if security else Security.insecure_for_tests()
    plant = OpcUaPlant(bundle.spec, address, security=connection)
    met, memory = np.zeros(cycles, dtype=np.bool_), np.full(2, np.nan)
    with Runtime(
        bundle, TimedPlant(plant, watch), state, site, settings=Settings(require_trusted=False), address=address
    ) as runtime:
        plant.connect(10.0)
        loop = runtime.supervisor
        recalibrator = loop.slots.active.recalibrator
        if recalibrator is None or not recalibrator.accept(Calibration()):
            raise ControlkitError("cannot be armed without a recalibration", where=str(bundle_path))
        computer = _TimedComputer(loop.computer, watch)
        loop.computer = computer
        loop.audit.append = watch.timed("audit", loop.audit.append)  # type: ignore[method-assign]
        loop.board.publish = watch.timed("publish", loop.board.publish)  # type: ignore[method-assign]
        whole, period_ns = loop.cycle, round(period_s * NS)
        half_ns = round(loop.settings.compute_share * period_ns)
        armed_rows = np.zeros(cycles, dtype=np.bool_)

        def cycle(tick: Tick, missed: int = 0) -> None:
            watch.row += 1
            row = watch.row
            watch.note("wake", time.monotonic_ns() - tick.start_ns)
            if loop.modes.state.wanted != "ARMED" and row % REARM == 0:
                runtime.ask("ARMED", TOKEN, RECORD)
            computer.done_ns = None
            whole(tick, missed)
            done = computer.done_ns
            spent_ns = time.monotonic_ns() - tick.start_ns
            met[row] = done is not None and done - tick.start_ns <= half_ns and spent_ns <= period_ns
            armed_rows[row] = loop.modes.mode == "ARMED"
            watch.note("cycle", spent_ns)
            if row == round(SETTLED * cycles):
                memory[0] = resident_mb()

        loop.cycle = cycle  # type: ignore[method-assign]
        began_s = time.process_time()
        runtime.run(cycles)
        cpu_s, memory[1] = time.process_time() - began_s, resident_mb()
        counters = dict(loop.counters)
    done = watch.times[: watch.row + 1]
    periods = cycles + counters.get("missed", 0)
    return {
        "periods": periods,
        "deadline_met": int(met.sum()),
        "faultless": cycles - counters.get("faulty", 0),
        "armed": int(armed_rows.sum()),
        **{name: counters.get(name, 0) for name in ("missed", "late", "faulty", "writes", "unconfirmed", "falls")},
        "parts_ms": {part: _quantiles(done[:, i]) for i, part in enumerate(PARTS)},
        "cpu_ms": 1e3 * cpu_s / cycles,
        "memory_mb": memory.tolist(),
    }


def run_loop(bundle_path: Path, period_s: float, seconds: float, folder: Path, secure: bool) -> dict[str, Any]:
    """Both processes; what `control` says, and what the server counted.

    Args:
        bundle_path: of a bundle of the linear plant with this period.
        period_s: of the plant.
        seconds: how long.
        folder: of certificates and state; must be empty.
        secure: signed and encrypted, or neither.
    """
    with served(period_s, folder / "certificates" if secure else None) as (server, answer):
        asked = {
            "bundle": str(bundle_path), "address": server["address"], "security": server["security"],
            "seconds": seconds, "state": str(folder / "state"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "controlkit.benchmarks.runtime_loop"],
            input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=seconds * 3 + 120,
        )  # fmt: skip
        if done.returncode:
            raise ControlkitError(
                f"the controller's process failed ({done.stderr.strip()[-500:]})", where="benchmark runtime loop"
            )
        return dict(json.loads(done.stdout)) | {"server": answer()}


@contextmanager
def served(period_s: float, folder: Path | None) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The linear plant's OPC UA server in a process of its own: where it listens, and a call that asks how it went.

    Args:
        period_s: of the plant.
        folder: of the certificates; none: no security.

    Raises:
        ControlkitError: it does not start.
    """
    command = [sys.executable, "-m", "controlkit.benchmarks.runtime_plant"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, told = process.stdin, process.stdout

        def ask(question: dict[str, Any]) -> dict[str, Any]:
            sent.write(json.dumps(question) + "\n")
            sent.flush()
            line = told.readline()
            if not line:
                raise ControlkitError("the plant's server ended", where="benchmark runtime")
            return dict(json.loads(line))

        try:
            yield (
                ask({"period_s": period_s, "folder": "" if folder is None else str(folder)}),
                lambda: ask({}),
            )
        finally:
            sent.close()
            try:
                process.wait(15.0)
            except subprocess.TimeoutExpired:
                process.kill()


def resident_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    """Resident memory of a process in megabytes (10^6 bytes); `VmHWM` for the highest so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ControlkitError(f"does not tell {field}", where=f"/proc/{pid}/status", cure="Run the benchmark on Linux.")


def _quantiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {}
    return {f"p{level}": float(np.quantile(known, level / 100)) for level in (50, 99)} | {"max": float(known.max())}


def main() -> None:
    """Runs `control` with what is asked for on standard input, as JSON."""
    asked = json.loads(sys.stdin.readline())
    result = control(Path(asked["bundle"]), asked["address"], asked["security"], asked["seconds"], Path(asked["state"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
