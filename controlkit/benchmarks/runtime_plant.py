"""The plant of the suite `runtime`: 15 states, 5 exogenous tags and 3 commands at any period, and its OPC UA server.

    state' = A state + B command + C exogenous + noise

A has a spectral radius of 0.85. The commands' limits, rates and the noise are the same per period whatever the period
is, so that the same plant can run once a second or a hundred times. `main` serves it from a process of its own.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.spec import PlantSpec
from envs.simulation import Floats
from envs.tasks import Task, get_task

STATES, EXOGENOUS, COMMANDS = 15, 5, 3
NOISE = 0.02
# Of a command's span, per period.
RATE = 0.1
_SEED = 7


def linear_spec(period_s: float) -> PlantSpec:
    """The plant's description: tags `s0`.., `x0`.., commands `a0`.. with rates and each kind of fallback."""
    tags: dict[str, Any] = {
        f"s{i}": {"role": "state", "unit": "1", "range": [-10, 10], "limits": [-9, 9], "history": 2}
        for i in range(STATES)
    }
    tags |= {f"x{i}": {"role": "exogenous", "unit": "1", "range": [-2, 2], "history": 1} for i in range(EXOGENOUS)}
    fallbacks: tuple[dict[str, Any], ...] = (
        {"kind": "pi", "measured": "s0", "setpoint": 0, "gain": 0.2, "reset_time_s": 20 * period_s},
        {"kind": "ramp", "rate_per_s": 0.02 / period_s},
        {"kind": "hold"},
    )
    for i, fallback in enumerate(fallbacks):
        tags[f"a{i}"] = {
            "role": "action",
            "unit": "1",
            "range": [-1, 1],
            "limits": [-0.95, 0.95],
            "max_rate_per_s": 2 * RATE / period_s,
            "history": 3,
            "safe": 0.0,
            "fallback": fallback,
        }
    objective = [{"kind": "track", "tag": f"s{i}", "setpoint": 0} for i in range(3)]
    return PlantSpec.from_dict({"name": "linear", "period_s": period_s, "tags": tags, "objective": objective})


class LinearEnv:
    """The plant as a gymnasium environment: (20,) frame, (3,) command; it never ends.

    Attributes:
        commands: (m,) of every step so far, where they are kept.
    """

    def __init__(self, keep: bool = False) -> None:
        rng = np.random.default_rng(_SEED)
        drawn = rng.normal(size=(STATES, STATES))
        self._own = 0.85 * drawn / np.abs(np.linalg.eigvals(drawn)).max()
        self._by_command = rng.normal(size=(STATES, COMMANDS)) / 4
        self._by_exogenous = rng.normal(size=(STATES, EXOGENOUS)) / 8
        self._keep = keep
        self.commands: list[Floats] = []

    def reset(self, *, seed: int | None = None) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Starts at rest."""
        self._rng = np.random.default_rng(seed)
        self._state, self._exogenous = np.zeros(STATES), np.zeros(EXOGENOUS)
        return self._frame(), {}

    def step(self, action: Any, /) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One period."""
        command = np.asarray(action, dtype=np.float64)
        if self._keep:
            self.commands.append(command)
        noise = NOISE * self._rng.standard_normal(STATES)
        state = self._own @ self._state + self._by_command @ command + self._by_exogenous @ self._exogenous + noise
        self._state = np.clip(state, -8.5, 8.5)
        wander = 0.98 * self._exogenous + 0.05 * self._rng.standard_normal(EXOGENOUS)
        self._exogenous = np.clip(wander, -1.5, 1.5)
        return self._frame(), -float(np.abs(self._state[:3]).mean()), False, False, {}

    def close(self) -> None:
        """As gymnasium's environments have it."""

    def _frame(self) -> npt.NDArray[np.float32]:
        return np.concatenate([self._state, self._exogenous]).astype(np.float32)


class LinearOperator:
    """Who commands while no controller does: a weak proportional law and, for a log, some restlessness.

    Args:
        restless: standard deviation of what is added, for a log.
        rng: draws it.
    """

    def __init__(self, restless: float, rng: np.random.Generator) -> None:
        self._restless, self._rng = restless, rng
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Starts from no command."""
        self._last, self._wander = np.zeros((batch, COMMANDS)), np.zeros((batch, COMMANDS))

    def act(self, measured: Floats) -> Floats:
        """(B, 20) frames -> (B, 3) commands that keep limits and rates."""
        self._wander = 0.9 * self._wander + self._restless * self._rng.standard_normal(self._wander.shape)
        wish = np.clip(-0.2 * measured[:, :COMMANDS] + self._wander, -0.95, 0.95)
        self._last = np.clip(wish, self._last - 1.9 * RATE, self._last + 1.9 * RATE)
        return self._last


@dataclass(frozen=True)
class LinearTask(Task):
    """The plant as a task, with one period of `period_s` seconds; not registered, as it is no benchmark of control."""

    period_s: float = 1.0

    def spec(self) -> PlantSpec:
        """The plant's description."""
        return linear_spec(self.period_s)

    def make(self, **options: Any) -> Any:
        """The environment."""
        return LinearEnv(**options)

    def controller(self, name: str, rng: np.random.Generator, **options: Any) -> Any:
        """The operator, whatever the name."""
        return LinearOperator(0.05, rng)


def linear_task(period_s: float) -> LinearTask:
    """The plant at a period, in seconds."""
    known = get_task("refrigerator")  # for what nobody asks of this one
    given = {field.name: getattr(known, field.name) for field in fields(known)}
    return LinearTask(**(given | {"name": "linear"}), period_s=period_s)


@dataclass(frozen=True)
class Served:
    """What a process that serves the plant says once it listens.

    Attributes:
        address: of the server.
        security: paths of the client's certificate, its key and the server's certificate; empty where there are none.
    """

    address: str
    security: dict[str, str]


def main() -> None:
    """Serves the plant until standard input ends: `period_s`, `folder` (empty: no security), `speed` as JSON."""
    from envs.opcua_server import SimulatedPlant

    asked = json.loads(sys.stdin.readline())
    folder = Path(asked["folder"]) if asked["folder"] else None
    with SimulatedPlant(linear_task(asked["period_s"]), folder, port=0, insecure=folder is None) as plant:
        gc.freeze()
        security: dict[str, str] = {}
        if plant.client is not None:
            paths = (plant.client.certificate, plant.client.private_key, plant.server_certificate)
            names = ("certificate", "private_key", "trusted_server_certificate")
            security = dict(zip(names, map(str, paths), strict=True))
        print(json.dumps({"address": plant.address, "security": security}), flush=True)
        while sys.stdin.readline():
            record = plant.describe()
            print(
                json.dumps({"steps": record.steps, "missed": record.missed, "controlled": record.controlled_steps}),
                flush=True,
            )


if __name__ == "__main__":
    main()
