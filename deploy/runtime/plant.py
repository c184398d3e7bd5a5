"""What a controller can be connected to: a simulator now; the protocol that a live plant will speak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError, nearest


@dataclass(frozen=True)
class Reading:
    """What a plant shows at one moment: values, quality and age (n,) of the measured tags, command in force (m,)."""

    obs: npt.NDArray[np.float32]
    ok: npt.NDArray[np.bool_]
    age_s: npt.NDArray[np.float32]
    act_prev: npt.NDArray[np.float32]


class Plant(Protocol):
    """A live plant: read, write, close. Tags are in the manifest's order, values in engineering units."""

    def read(self) -> Reading:
        """The present state; what is not known comes with `ok` False, never with an exception."""

    def write(self, action: npt.NDArray[np.float32]) -> None:
        """Hands a command (m,) to the plant.

        Raises:
            ControlkitError: the plant refused it.
        """

    def close(self) -> None:
        """Leaves the plant as it is and lets go of it."""


class Environment(Protocol):
    """The part of a gymnasium environment that a simulation needs."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode: the first frame (n,) and further facts."""

    def step(self, action: Any, /) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Applies a command (m,) for one period: next frame, reward, terminated, truncated, further facts."""


@dataclass(frozen=True)
class PlantAddress:
    """Where a plant is: `sim` and the name of a task."""

    kind: Literal["sim"]
    target: str


def plant_address(text: str) -> PlantAddress:
    """Reads what `--plant` was given, such as `sim:refrigerator`.

    Raises:
        ControlkitError: another kind of plant, or no name.
    """
    kind, colon, target = text.partition(":")
    where = f"--plant {text}"
    if kind == "opc.tcp":
        raise ControlkitError(
            "this version does not speak OPC UA", where=where, cure="Run the bundle on a simulator: --plant sim:TASK."
        )
    if kind != "sim":
        cure = f"Write sim:TASK; {nearest(kind, ['sim', 'opc.tcp'])}" if colon else "Write sim:TASK."
        raise ControlkitError("is no plant", where=where, cure=cure)
    if not target:
        raise ControlkitError(
            "the task's name is missing", where=where, cure="Write sim:TASK, for example sim:refrigerator."
        )
    return PlantAddress("sim", target)
