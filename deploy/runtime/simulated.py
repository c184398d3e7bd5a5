"""A simulated plant in this very process, with its operator: for trials, for tests, and for many hours in minutes.

Like a real plant it goes on by itself: its operator (the controller whose logs were learned from) commands until a
controller holds the lease, keeps its heartbeat going and the operator's switch is on, and takes over again once one of
these fails. The plant moves on at every sample time of the loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from deploy.runtime.clock import Clock
from deploy.runtime.plant import Environment, PlantReading, Sample, WriteRequest, WriteResult

# (n,) frame -> (m,) command
OperatorLaw = Callable[[Any], Any]


class SimulatedPlant:
    """See the module.

    Args:
        spec: the plant.
        env: its observation is the frame in the plant file's order, its action the command in engineering units.
        clock: the loop's.
        operator: what commands while no controller does; the safe values where there is none.
        on_reset: called where an episode ends, so that the operator can forget it.
        seed: of the environment.
        watchdog_periods: without a new heartbeat, after which the operator takes over again.
        on_step: called after every period with the frame, the command in force, the reward and whether a controller
            commanded.
    """

    handshake = frozenset({"auto", "heartbeat_plant", "heartbeat_controller", "lease", "advice"})

    def __init__(
        self,
        spec: PlantSpec,
        env: Environment,
        clock: Clock,
        operator: OperatorLaw | None = None,
        *,
        on_reset: Callable[[], None] = lambda: None,
        seed: int = 0,
        watchdog_periods: int = 3,
        on_step: Callable[[Any, Any, float, bool], None] | None = None,
    ) -> None:
        self.spec, self._env, self._clock, self._operator = spec, env, clock, operator
        self._period_ns = round(spec.period_s * 1e9)
        self._watchdog, self._on_step, self._seed, self._on_reset = watchdog_periods, on_step, seed, on_reset
        self.auto, self.lease, self.heartbeat, self.advice = True, "", 0, dict[str, float]()
        self._beat, self._silent = -1, watchdog_periods
        frame, _ = env.reset(seed=seed)
        self.frame = np.asarray(frame, dtype=np.float64).reshape(-1)
        if len(self.frame) != len(spec.frame_tags):
            raise ControlkitError(
                f"the environment shows {len(self.frame)} tags, the bundle's plant has {len(spec.frame_tags)} "
                f"({', '.join(spec.frame_tags)})",
                where="simulation",
                cure="Run the bundle on the plant that it was made for.",
            )
        self._low, self._high = np.array([spec.limits(tag) for tag in spec.action_tags], dtype=np.float64).T
        self.command = np.array([spec.tags[tag].safe or 0.0 for tag in spec.action_tags], dtype=np.float64)
        self._stamp = self._grid()
        self._command_stamp = self._stamp
        self.steps = self.resets = 0
        self._operate()

    @property
    def controlled(self) -> bool:
        """Whether a controller is in command."""
        return self.auto and bool(self.lease) and self._silent < self._watchdog

    def read(self, timeout_s: float) -> PlantReading:
        """See `Plant`."""
        self._move_on()
        stamp, command_stamp = self._stamp, self._command_stamp
        return PlantReading(
            samples={tag: Sample(stamp, float(v)) for tag, v in zip(self.spec.frame_tags, self.frame, strict=True)},
            commands={
                tag: Sample(command_stamp, float(v)) for tag, v in zip(self.spec.action_tags, self.command, strict=True)
            },
            modes={
                name: Sample(stamp, float(tag.accept[0])) for name, tag in self.spec.tags.items() if tag.role == "mode"
            },
            auto=self.auto,
            heartbeat=self.heartbeat,
            lease=self.lease,
        )

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        """See `Plant`; a command outside the absolute limits is refused, and one that the operator does not allow."""
        self._move_on()
        refused = {}
        allowed = self.auto and bool(self.lease if request.lease is None else request.lease)
        for tag, value in request.commands.items():
            i = self.spec.action_tags.index(tag)
            if not self._low[i] <= value <= self._high[i]:
                refused[tag] = "out of range"
            elif not allowed:
                refused[tag] = "the operator commands" if self.auto else "the operator's switch is off"
            else:
                if self.command[i] != value:
                    self._command_stamp = self._clock.wall_ns()
                self.command[i] = value
        self.advice = {**self.advice, **request.advice}
        if request.lease is not None:
            self.lease = request.lease
        if request.heartbeat is not None and request.heartbeat != self._beat:
            self._beat, self._silent = request.heartbeat, 0
        return WriteResult(refused)

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        """See `Plant`."""
        return dict(zip(self.spec.action_tags, self.command.tolist(), strict=True))

    def close(self) -> None:
        """See `Plant`."""

    def _grid(self) -> int:
        return self._clock.wall_ns() // self._period_ns * self._period_ns

    def _move_on(self) -> None:
        """One step of the plant for every sample time that has passed; beyond a hundred it lets the rest go."""
        behind = (self._grid() - self._stamp) // self._period_ns
        if behind < 0:  # the wall clock was set back: the plant's stamps follow it
            self._stamp = self._command_stamp = self._grid()
            return
        for _ in range(min(behind, 100)):
            self._step()
        self._stamp = self._grid()

    def _step(self) -> None:
        command, controlled = self.command.copy(), self.controlled
        frame, reward, terminated, truncated, _ = self._env.step(command.astype(np.float32))
        self.steps += 1
        if terminated or truncated:
            self.resets += 1
            self._on_reset()
            frame, _ = self._env.reset(seed=self._seed + self.resets)
        self.frame = np.asarray(frame, dtype=np.float64).reshape(-1)
        self.heartbeat += 1
        self._silent += 1
        self._stamp += self._period_ns
        if self._on_step is not None:
            self._on_step(self.frame, command, float(reward), controlled)
        self._operate()

    def _operate(self) -> None:
        if self.controlled or self._operator is None:
            return
        wish = np.clip(np.asarray(self._operator(self.frame), dtype=np.float64), self._low, self._high)
        if not np.array_equal(wish, self.command):
            self._command_stamp = self._stamp
        self.command = wish
