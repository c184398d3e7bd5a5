"""The same controller on the same plant twice: through OPC UA under the supervised runtime, and in the simulator.

Both plants draw the same noise and disturbances (one seed), so that what differs is the runtime's doing: sample
times, time stamps, quality, commands that go out and come back, late and lost cycles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from deploy.bundle import Bundle
from deploy.runtime.clock import ScaledClock
from deploy.runtime.loop import run_simulation
from deploy.runtime.opcua import OpcUaPlant
from deploy.runtime.opcua_security import Security
from deploy.runtime.operators import token_hash
from deploy.runtime.plant import PlantReading, WriteRequest, WriteResult
from deploy.runtime.recalibration import Calibration
from deploy.runtime.service import Runtime
from deploy.runtime.session import ControllerSession
from deploy.runtime.settings import Settings
from deploy.runtime.site import Site
from envs.opcua_server import SimulatedPlant
from envs.tasks import Task

OPERATOR, TOKEN, RECORD = "benchmark", "token-of-the-benchmark", "BENCHMARK-1"
# Periods within which the controller must be armed and trusted.
ARMED_WITHIN = 200


@dataclass(frozen=True)
class Comparison:
    """One seed.

    Attributes:
        served, simulated: mean reward per period on the true state, over the same periods.
        first, last: those periods.
        controlled: share of them that the controller drove, through OPC UA.
        faulty, missed, falls: cycles of the runtime with a fault, periods that it left out, falls from ARMED;
            plant_missed: periods that the server left out.
    """

    served: float
    simulated: float
    first: int
    last: int
    controlled: float
    faulty: int
    missed: int
    falls: int
    plant_missed: int

    @property
    def difference(self) -> float:
        """Of the served plant, as a share of the simulated one's."""
        return (self.served - self.simulated) / abs(self.simulated)


class _Recorded:
    """An environment that keeps its true rewards."""

    def __init__(self, env: Any) -> None:
        self._env, self.rewards = env, list[float]()

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        frame, info = self._env.reset(seed=seed)
        return frame, info

    def step(self, action: Any, /) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        frame, reward, terminated, truncated, info = self._env.step(action)
        self.rewards.append(float(info.get("true_reward", reward)))
        return frame, reward, terminated, truncated, info

    def close(self) -> None:
        self._env.close()


@dataclass(frozen=True)
class _OneEnvironment(Task):
    """A task with this environment and this operator."""

    env: Any = None
    operated: Task | None = None

    def spec(self) -> PlantSpec:
        assert self.operated is not None
        return self.operated.spec()

    def make(self, **options: Any) -> Any:
        return self.env

    def controller(self, name: str, rng: np.random.Generator, **options: Any) -> Any:
        assert self.operated is not None
        return self.operated.controller(name, rng, **options)


class _Hurried:
    """A plant whose server runs faster than real time: time limits shrink with the period."""

    def __init__(self, plant: OpcUaPlant, speed: float) -> None:
        self._plant, self._speed, self.handshake = plant, speed, plant.handshake

    def read(self, timeout_s: float) -> PlantReading:
        return self._plant.read(timeout_s / self._speed)

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        return self._plant.write(request, timeout_s / self._speed)

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        return self._plant.read_back(timeout_s / self._speed)

    def close(self) -> None:
        self._plant.close()


def compare(
    bundle: Bundle,
    task: Task,
    make: Callable[[], Any],
    seed: int,
    *,
    periods: int,
    settle: int,
    speed: float,
    phase: float,
    state: Path,
) -> Comparison:
    """Runs a controller on a task both ways.

    Args:
        bundle: of the task's plant.
        task: for its operator.
        make: its environment, which must not end before the comparison does.
        seed: of the environment.
        periods: that are compared.
        settle: before them, once the controller is armed and trusted.
        speed: times real time.
        phase: of the server's sample times, as a share of the period.
        state: folder of the runtime.

    Raises:
        ControlkitError: the controller was not armed in time, or its bundle cannot be recalibrated.
    """
    env = _Recorded(make())
    given = {field.name: getattr(task, field.name) for field in fields(Task)}
    clock, period_s = ScaledClock(speed), bundle.spec.period_s / speed
    with SimulatedPlant(
        _OneEnvironment(**given, env=env, operated=task), port=0, speed=speed, seed=seed, phase=phase, insecure=True,
        wall_ns=clock.wall_ns,
    ) as server:  # fmt: skip
        plant = OpcUaPlant(bundle.spec, server.address, security=Security.insecure_for_tests())
        site = Site(operators={OPERATOR: token_hash(TOKEN)}, status_port=0)
        settings = Settings(require_trusted=False)
        with Runtime(bundle, _Hurried(plant, speed), state, site, clock=clock, settings=settings) as runtime:
            plant.connect(10.0)
            recalibrator = runtime.supervisor.slots.active.recalibrator
            if recalibrator is None or not recalibrator.accept(Calibration()):
                raise ControlkitError("cannot be armed without a recalibration", where=str(bundle.path))
            thread = threading.Thread(target=runtime.run, daemon=True)
            thread.start()
            try:
                _armed(runtime, lambda: _trusted(runtime), ARMED_WITHIN * period_s)
                first = len(env.rewards) + settle
                before = server.describe()
                _armed(
                    runtime,
                    lambda: len(env.rewards) >= first + periods,
                    2 * (settle + periods + ARMED_WITHIN) * period_s,
                )
                after = server.describe()
                counters = dict(runtime.supervisor.counters)
            finally:
                runtime.stop()
                thread.join(30.0)
    served = np.array(env.rewards[first : first + periods])
    record = run_simulation(ControllerSession(bundle), make(), seed=seed, steps=first + periods)
    simulated = record.info.get("true_reward", record.rewards)[first:]
    return Comparison(
        served=float(served.mean()),
        simulated=float(simulated.mean()),
        first=first,
        last=first + periods,
        controlled=(after.controlled_steps - before.controlled_steps) / max(after.steps - before.steps, 1),
        faulty=counters.get("faulty", 0),
        missed=counters.get("missed", 0),
        falls=counters.get("falls", 0),
        plant_missed=after.missed - before.missed,
    )


def _trusted(runtime: Runtime) -> bool:
    latest = runtime.board.latest()
    return latest is not None and latest.mode == "ARMED" and latest.trust >= 1.0


def _armed(runtime: Runtime, until: Callable[[], bool], seconds: float) -> None:
    """Waits for a condition, and arms the controller again wherever it fell."""
    end, asked = time.monotonic() + seconds, 0.0
    while not until():
        now = time.monotonic()
        if now > end:
            latest = runtime.board.latest()
            told = "nothing was shown" if latest is None else f"{latest.mode}, {latest.why}, {dict(latest.faults)}"
            raise ControlkitError(
                f"not armed for long enough within {seconds:.0f} s ({told})",
                where="benchmark runtime kpi",
                cure="Run it on a machine that does nothing else.",
            )
        if runtime.supervisor.modes.state.wanted != "ARMED" and now - asked > 0.5:
            asked = now
            runtime.ask("ARMED", TOKEN, RECORD)
        time.sleep(0.02)
