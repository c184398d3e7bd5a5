"""A registered task as a real plant: an OPC UA server with an operator behind it, for trials of the edge runtime.

Time. The plant samples itself once per period, `phase` of a period after each multiple of the period since 1970, so
that a controller whose cycles begin at the multiples finds a fresh sample and has most of the period to answer. The
command in force at a sample time has driven the plant since the sample before. Time stamps are sample times; with a
`speed` other than 1 they run faster than the machine's clock, from the moment of the start on.

Who commands. A controller does while the operator's switch `auto` is on, the lease is not empty and the controller's
heartbeat has changed within the last `watchdog_periods`. If it does not, the operator does: the controller whose logs
are collected. It writes its commands to the nodes of the actions, so that these always show what is in force.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controlkit.background_loop import BackgroundLoop
from controlkit.certificates import Identity, certificate_bytes, ensure_identity, load_certificate, load_private_key
from controlkit.errors import ControlkitError
from envs.simulation import Floats, spawned_seeds
from envs.tasks import Task, get_task

if TYPE_CHECKING:
    from envs.opcua_address_space import ServerIdentity

HOST, PORT = "127.0.0.1", 4840
PHASE = 0.75
# Periods over which the operator takes over from where a controller left off.
TAKE_OVER_PERIODS = 10
START_S, STOP_S = 60.0, 10.0
_NS = 1_000_000_000


@dataclass(frozen=True)
class PlantRecord:
    """What the plant did since its start.

    Attributes:
        steps, episodes: periods, and episodes that have ended.
        reward_sum: as the environment gave them.
        true_reward_sum: of the true values, where the environment tells them; else the same.
        controlled_steps: periods driven by a controller's command.
        missed: sample times that were left out because the machine was too slow.
        last_command: in force over the last period, by action.
        time_ns: time stamp of the last sample.
    """

    steps: int = 0
    episodes: int = 0
    reward_sum: float = 0.0
    true_reward_sum: float = 0.0
    controlled_steps: int = 0
    missed: int = 0
    last_command: Mapping[str, float] = field(default_factory=dict)
    time_ns: int = 0

    @property
    def controlled_share(self) -> float:
        """Share of the periods that a controller drove."""
        return self.controlled_steps / self.steps if self.steps else 0.0


class SimulatedPlant:
    """See the module. A context manager: starts on entry, stops on exit.

    Args:
        task: a task or its name.
        folder: of the certificates, which are made where they are missing; not needed if `insecure`.
        port: on loopback; 0 takes any free one.
        speed: how much faster than real time.
        seed: of the environment and the operator's own noise.
        phase: of the sample times, as a share of the period.
        watchdog_periods: see the module.
        users: name -> password; where there are any, a client must be one of them.
        insecure: policy None and anonymous, for tests.
        options: of the task's environment.
        wall_ns: the wall clock, read at the start.

    Raises:
        ControlkitError: an unknown task, no folder, an argument that cannot be right, a missing extra.

    Attributes:
        spec: the plant.
        faults: what is wrong with it, see `envs.opcua_faults`.
        client: certificate and key for a client that is let in; `None` if insecure.
        server_certificate: for that client to trust.
    """

    def __init__(
        self,
        task: Task | str,
        folder: Path | None = None,
        *,
        port: int = PORT,
        speed: float = 1.0,
        seed: int = 0,
        phase: float = PHASE,
        watchdog_periods: int = 3,
        users: Mapping[str, str] | None = None,
        insecure: bool = False,
        options: Mapping[str, Any] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.task = get_task(task) if isinstance(task, str) else task
        where = f"simulated plant {self.task.name}"
        if not (np.isfinite(speed) and speed > 0 and 0 <= phase < 1 and watchdog_periods >= 1):
            raise ControlkitError("speed, phase or watchdog_periods cannot be right", where=where)
        try:
            from envs.opcua_address_space import variables_of
            from envs.opcua_faults import Faults
        except ImportError:
            cure = "Install controlkit[opcua]."
            raise ControlkitError("asyncua is not installed", where=where, cure=cure) from None
        self.spec, self._where = self.task.spec(), where
        self._speed, self._phase, self._watchdog, self._port = speed, phase, watchdog_periods, port
        self._wall_ns = wall_ns
        self._period_ns = round(self.spec.period_s * _NS)
        self._identity: ServerIdentity | None = None
        self.client: Identity | None = None
        self.server_certificate: Path | None = None
        if not insecure:
            self._identify(folder, users or {})
        self._variables = variables_of(self.spec)
        operator_seed, fault_seed = spawned_seeds(seed, 2)
        self.faults = Faults(self._variables, np.random.default_rng(fault_seed))
        options = dict(options or {})
        self._env, self._seed = self.task.make(**options), seed
        self._operator = self.task.controller(self.task.behaviour, np.random.default_rng(operator_seed), **options)
        limits = np.array([self.spec.limits(tag) for tag in self.spec.action_tags], dtype=np.float64)
        self._low, self._high = limits[:, 0], limits[:, 1]
        self._record, self._problem = PlantRecord(), ""
        self._beat: Any = None
        self._silent = watchdog_periods
        self._command = np.array([self.spec.tags[tag].safe for tag in self.spec.action_tags], dtype=np.float64)
        self._weight = 1.0
        self._over = threading.Event()
        self._loop: BackgroundLoop | None = None

    def __enter__(self) -> SimulatedPlant:
        self.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where clients connect, once it was started."""
        return f"opc.tcp://{HOST}:{self._server.port}/controlkit"

    @property
    def port(self) -> int:
        """The port that it listens on, once it was started."""
        return self._server.port

    @property
    def controlled(self) -> bool:
        """Whether a controller is in command now."""
        return (
            self._server.value("#auto") is True and bool(self._server.value("#lease")) and self._silent < self._watchdog
        )

    def start(self) -> None:
        """Listens, and lets the plant run from its first sample on.

        Raises:
            ControlkitError: the port is taken, or the environment shows other tags than the plant file has.
        """
        from envs.opcua_address_space import PlantServer

        self._server = PlantServer(self._variables, self._identity, self.faults, self._written, self._now_ns)
        self._loop = BackgroundLoop("simulated-plant")
        try:
            self._loop.call(self._begin(), START_S)
        except (OSError, TimeoutError) as problem:
            self._loop.close()
            self._loop = None
            reason = problem.strerror or type(problem).__name__
            raise ControlkitError(
                f"cannot listen on port {self._port} ({reason})",
                where=self._where,
                cure="Choose another port, or end what listens there.",
            ) from None
        except ControlkitError:
            self._loop.close()
            self._loop = None
            raise

    def stop(self) -> None:
        """Ends the server and the plant; harmless when called again."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        loop.loop.call_soon_threadsafe(self._running.cancel)
        try:
            loop.call(self._server.stop(), STOP_S)
        except TimeoutError:
            pass
        loop.close()
        self._env.close()
        self._over.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until the plant has ended.

        Returns:
            Whether it has.

        Raises:
            ControlkitError: it ended because its environment failed.
        """
        ended = self._over.wait(timeout_s)
        if self._problem:
            raise ControlkitError(f"the environment failed: {self._problem}", where=self._where)
        return ended

    def describe(self) -> PlantRecord:
        """What it did so far."""
        return self._record

    def set_auto(self, on: bool) -> None:
        """The operator's hand on the switch."""
        self._call(self._server.publish({"#auto": on}, self._now_ns()))

    def set_lease(self, text: str) -> None:
        """Another master takes the lease."""
        self._call(self._server.publish({"#lease": text}, self._now_ns()))

    def stop_server(self) -> None:
        """The server goes down, the plant goes on."""
        self._call(self._server.stop_listening())

    def restart_server(self) -> None:
        """The server comes up again, on the same port."""
        self._call(self._server.listen_again())

    def _now_ns(self) -> int:
        """The plant's time, which runs `speed` times as fast as the machine's."""
        return self._start_ns + round((time.monotonic() - self._began_s) * self._speed * _NS)

    def _call(self, work: Any) -> None:
        assert self._loop is not None, "the plant was not started"
        self._loop.call(work, STOP_S)

    def _identify(self, folder: Path | None, users: Mapping[str, str]) -> None:
        from envs.opcua_address_space import ServerIdentity

        if folder is None:
            cure = "Name a folder for the certificates, or choose --insecure for a test."
            raise ControlkitError("a secure server needs certificates", where=self._where, cure=cure)
        server = ensure_identity(folder, "simulated-plant", "server")
        self.client = ensure_identity(folder, "controller", "client")
        self.server_certificate = server.certificate
        self._identity = ServerIdentity(
            certificate=load_certificate(server.certificate),
            key=load_private_key(server.private_key),
            trusted=frozenset({certificate_bytes(load_certificate(self.client.certificate))}),
            users=users,
        )

    async def _begin(self) -> None:
        frame = self._reset(self._seed)
        await self._server.start(HOST, self._port)
        now = self._wall_ns()
        offset = round(self._phase * self._period_ns)
        # The first sample is the newest that could have been taken by now.
        self._start_ns = (now - offset) // self._period_ns * self._period_ns + offset
        self._began_s = time.monotonic() - (now - self._start_ns) / _NS / self._speed
        self._record = PlantRecord(time_ns=self._start_ns)
        self._operate(frame)
        await self._publish(frame, self._start_ns, commands=True)
        self._running = asyncio.get_running_loop().create_task(self._run())
        self._running.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._problem = f"{type(error).__name__}: {error}"
        self._over.set()

    async def _run(self) -> None:
        number, period_s = 0, self.spec.period_s / self._speed
        while True:
            number += 1
            behind = int((time.monotonic() - self._began_s) / period_s) - number
            if behind > 0:
                # Never in a burst: nobody could have commanded these periods.
                number += behind
                self._record = replace(self._record, missed=self._record.missed + behind)
            await asyncio.sleep(max(self._began_s + number * period_s - time.monotonic(), 0.0))
            await self._step(self._start_ns + number * self._period_ns)

    async def _step(self, time_ns: int) -> None:
        controlled = self.controlled
        # What a controller wrote after it had lost command, or before it had it, does not count.
        if controlled or self._weight == 0.0:
            self._command = np.array([self._server.value(tag) for tag in self.spec.action_tags], dtype=np.float64)
        frame, reward, terminated, truncated, info = self._env.step(self._command)
        record = self._record
        ended = bool(terminated or truncated)
        self._record = PlantRecord(
            steps=record.steps + 1,
            episodes=record.episodes + ended,
            reward_sum=record.reward_sum + float(reward),
            true_reward_sum=record.true_reward_sum + float(info.get("true_reward", reward)),
            controlled_steps=record.controlled_steps + controlled,
            missed=record.missed,
            last_command=dict(zip(self.spec.action_tags, self._command.tolist(), strict=True)),
            time_ns=time_ns,
        )
        measured = self._reset(None) if ended else self._frame(frame)
        self._silent += 1
        commands = not self.controlled
        if commands:
            self._operate(measured)
        else:
            self._operator.act(measured[None])  # it looks on, so that its own memory stays true
            self._weight = 0.0
        await self._publish(measured, time_ns, commands=commands)

    def _operate(self, measured: Floats) -> None:
        """The operator's command for the next period; after a controller, from where that one left off."""
        wish = np.clip(self._operator.act(measured[None])[0], self._low, self._high)
        if self._weight < 1.0:
            self._weight = min(self._weight + 1.0 / TAKE_OVER_PERIODS, 1.0)
            wish = self._command + self._weight * (wish - self._command)
        self._command = wish

    async def _publish(self, measured: Floats, time_ns: int, *, commands: bool) -> None:
        spec = self.spec
        values: dict[str, Any] = dict(zip(spec.frame_tags, measured.tolist(), strict=True))
        values |= {name: spec.tags[name].accept[0] for name in spec.names("mode")}
        if commands:
            values |= dict(zip(spec.action_tags, self._command.tolist(), strict=True))
        values["#heartbeat_plant"] = self._record.steps
        await self._server.publish(values, time_ns)

    def _written(self, name: str, value: Any) -> None:
        if name == "#heartbeat_controller" and value != self._beat:
            self._beat, self._silent = value, 0

    def _reset(self, seed: int | None) -> Floats:
        frame, _ = self._env.reset(seed=seed)
        self._operator.reset(1)
        return self._frame(frame)

    def _frame(self, values: Any) -> Floats:
        frame = np.asarray(values, dtype=np.float64).reshape(-1)
        if len(frame) != len(self.spec.frame_tags):
            raise ControlkitError(
                f"the environment shows {len(frame)} tags, the plant file has {len(self.spec.frame_tags)}",
                where=self._where,
                cure="Leave out the options that change what is measured.",
            )
        return frame


def serve(
    task: Task | str,
    folder: Path | None = None,
    *,
    on_start: Callable[[SimulatedPlant], None] | None = None,
    **settings: Any,
) -> PlantRecord:
    """Runs a task as an OPC UA server until it is interrupted (Ctrl-C).

    Args:
        task, folder, settings: see `SimulatedPlant`.
        on_start: called once it listens, to say where.

    Returns:
        What the plant did.

    Raises:
        ControlkitError: see `SimulatedPlant`.
    """
    with SimulatedPlant(task, folder, **settings) as plant:
        # The address space stays for good: a look for garbage through all of it would stop the plant for a while.
        gc.freeze()
        if on_start is not None:
            on_start(plant)
        try:
            plant.wait()
        except KeyboardInterrupt:
            pass
        return plant.describe()
