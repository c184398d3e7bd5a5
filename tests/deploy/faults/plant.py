"""The tank as a real OPC UA server with the supervised runtime on it, at a multiple of real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.spec import PlantSpec
from deploy.bundle import Bundle
from deploy.runtime.audit_reader import AuditRow, read_audit
from deploy.runtime.clock import ScaledClock
from deploy.runtime.opcua import OpcUaPlant
from deploy.runtime.opcua_security import Security
from deploy.runtime.operators import token_hash
from deploy.runtime.plant import PlantReading, WriteRequest, WriteResult
from deploy.runtime.recalibration import Calibration
from deploy.runtime.service import Runtime
from deploy.runtime.settings import Settings
from deploy.runtime.site import Site
from deploy.runtime.worker import Outcome, Worker
from envs.opcua_server import SimulatedPlant
from envs.simulation import Floats
from envs.tasks import Task, get_task
from tests.deploy.plants import PERIOD_S, TankEnv, plant_description

SPEED = 10.0
TOKEN, OPERATOR, RECORD = "token-of-the-tests", "anna", "MOC-1"


class Attendant:
    """The tank's operator: what the log's did, without its restlessness."""

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measured: Floats) -> Floats:
        """(B, 5) -> (B, 3)."""
        error = measured[:, 0] - measured[:, 1]
        heater = 0.5 + 0.02 * (30 - measured[:, 2])
        return np.stack([2.4 + 1.2 * error, heater, np.ones_like(error)], axis=-1)


class RecordedTank(TankEnv):
    """The tank, keeping every command that drove it, and whether a controller had given it."""

    def __init__(self) -> None:
        super().__init__(horizon=10**9)
        self.server: SimulatedPlant | None = None
        self.commands: list[tuple[np.ndarray, bool]] = []

    def unsafe(self) -> int:
        """How many commands of a controller broke a limit or a rate; what is no number counts, too.

        The operator's own commands are the operator's business: the tank's is quick where he takes over.
        """
        spec = PlantSpec.from_dict(plant_description())
        commands = np.array([command for command, _ in self.commands])  # (T, m)
        ours = np.array([controlled for _, controlled in self.commands])
        low, high = np.array([spec.limits(tag) for tag in spec.action_tags]).T
        rates = [spec.tags[tag].max_rate_per_s for tag in spec.action_tags]
        step = np.array([np.inf if rate is None else rate * spec.period_s for rate in rates])
        good = (commands >= low) & (commands <= high)
        # The plant holds in double precision what was computed in single.
        good[1:] &= np.abs(np.diff(commands, axis=0)) <= step + 1e-6 * (high - low)
        # What drives the plant in the first period under a controller is still the operator's last command.
        ours[1:] &= ours[:-1].copy()
        return int((~good.all(axis=1) & ours).sum())

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        controlled = self.server is not None and self.server.controlled
        self.commands.append((np.array(action, dtype=np.float64), controlled))
        return super().step(action)

    def close(self) -> None:
        """As gymnasium's environments have it."""


class TankTask(Task):
    """The tank as a task; not registered, so that no user finds it."""

    def spec(self) -> PlantSpec:
        return PlantSpec.from_dict(plant_description())

    def make(self, **options: Any) -> Any:
        return options.get("env") or RecordedTank()

    def controller(self, name: str, rng: np.random.Generator, **options: Any) -> Any:
        del name, rng, options
        return Attendant()


def tank_task() -> Task:
    """See `TankTask`."""
    known = get_task("refrigerator")
    fields = {name: getattr(known, name) for name in known.__dataclass_fields__}
    return TankTask(**{**fields, "name": "tank"})


class Hurried:
    """A plant whose server runs faster than real time: time limits shrink with the period."""

    def __init__(self, plant: OpcUaPlant, speed: float) -> None:
        self._plant, self._speed = plant, speed
        self.handshake = plant.handshake

    @property
    def reconnects(self) -> int:
        return self._plant.reconnects

    def read(self, timeout_s: float) -> PlantReading:
        return self._plant.read(timeout_s / self._speed)

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        return self._plant.write(request, timeout_s / self._speed)

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        return self._plant.read_back(timeout_s / self._speed)

    def close(self) -> None:
        self._plant.close()


class HurriedWorker(Worker):
    """The same for the controller's thread.

    Args:
        speed: times real time.
    """

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        return super().run(call, timeout_s / self._speed)


class Trial:
    """A server, a runtime on it, and what came of both."""

    def __init__(self, server: SimulatedPlant, env: RecordedTank, runtime: Runtime, clock: ScaledClock) -> None:
        self.server, self.env, self.runtime, self.clock = server, env, runtime, clock
        self.thread = threading.Thread(target=runtime.run, daemon=True)

    @property
    def mode(self) -> str:
        return self.runtime.supervisor.modes.mode

    @property
    def latest(self) -> Any:
        return self.runtime.board.latest()

    def until(self, condition: Callable[[], bool], periods: float, what: str) -> float:
        """Waits for a condition; how many periods it took.

        Raises:
            AssertionError: it did not come true in time.
        """
        began = time.monotonic()
        while not condition():
            waited = (time.monotonic() - began) * SPEED / PERIOD_S
            assert waited <= periods, f"{what}: not within {periods} periods; {self.told()}"
            time.sleep(0.01)
        return (time.monotonic() - began) * SPEED / PERIOD_S

    def told(self) -> str:
        """The runtime's own words."""
        latest = self.latest
        return "nothing shown yet" if latest is None else f"{latest.mode}, {latest.why}, {dict(latest.faults)}"

    def periods(self, count: float) -> None:
        """Lets time pass."""
        time.sleep(count * PERIOD_S / SPEED)

    def arm(self) -> None:
        """Everything works again, and the controller is armed and trusted."""
        self.server.faults.clear()
        self.server.set_auto(True)
        self.runtime.ask("ARMED", TOKEN, RECORD)
        self.until(lambda: self.mode == "ARMED" and self.latest.trust >= 1.0, 120, "arming")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Rows of the audit log so far."""
        return [row.payload for row in self.audit() if row.kind == kind]

    def audit(self) -> list[AuditRow]:
        """All rows of the audit log so far."""
        return list(read_audit(self.runtime.state / "audit"))

    def unsafe(self) -> int:
        """Unsafe commands of a controller that drove the plant."""
        return self.env.unsafe()


@contextmanager
def running(
    bundle: Bundle,
    state: Path,
    *,
    address: Callable[[str], str] = lambda address: address,
    server: SimulatedPlant | None = None,
    clock: ScaledClock | None = None,
    settings: Settings | None = None,
    public_key: Path | None = None,
) -> Iterator[Trial]:
    """A server and a runtime, which begins in SHADOW with what it once learned of the plant.

    Args:
        bundle, state: of the runtime.
        address: changes where it connects.
        server, clock: of another trial, to join in there; its own where not given.
        settings: of the loop.
        public_key: of those whose bundles may be loaded; anybody's where not given.
    """
    env = RecordedTank()
    clock = clock or ScaledClock(SPEED)
    with ExitStack() as stack:
        if server is None:
            options = {"env": env}
            server = stack.enter_context(
                SimulatedPlant(tank_task(), port=0, speed=SPEED, insecure=True, wall_ns=clock.wall_ns, options=options)
            )
            env.server = server
        plant = OpcUaPlant(
            bundle.spec,
            address(server.address),
            security=Security.insecure_for_tests(),
            silence_s=1.0,
            backoff_s=(0.05, 0.2),
        )
        site = Site(operators={OPERATOR: token_hash(TOKEN)}, status_port=0)
        worker = HurriedWorker(SPEED)
        stack.callback(worker.close)
        runtime = stack.enter_context(
            Runtime(
                bundle,
                Hurried(plant, SPEED),
                state,
                site,
                public_key=public_key,
                clock=clock,
                address=server.address,
                settings=settings,
                computer=worker,
            )
        )
        recalibrator = runtime.supervisor.slots.active.recalibrator
        assert recalibrator is not None
        assert recalibrator.accept(Calibration())
        trial = Trial(server, env, runtime, clock)
        trial.thread.start()
        try:
            yield trial
        finally:
            runtime.stop()
            trial.thread.join(30.0)
            assert not trial.thread.is_alive()


__all__ = ["OPERATOR", "RECORD", "SPEED", "TOKEN", "Trial", "running"]
