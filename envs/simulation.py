"""What a simulated plant and a controller have in common: B copies at once, explicit state, an injected generator.

Simulators and controllers meet in engineering units, in the order of tags of the plant file: n measured tags, m
commands.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError

Floats = npt.NDArray[np.float64]


class VectorSimulator(Protocol):
    """B independent copies of a plant.

    A step reads the command for (t, t + period] and moves to t + period. All draws come from the injected generator,
    and their number does not depend on the commands: equal seeds give equal disturbances to every controller.
    """

    @property
    def copies(self) -> int:
        """B."""

    @property
    def frame_tags(self) -> tuple[str, ...]:
        """Names of the n measured tags, a part of the plant file's frame tags in its order."""

    @property
    def true_frame(self) -> Floats:
        """(B, N) the noise-free values of all N frame tags of the plant file, hidden ones too."""

    def reset(self) -> Floats:
        """Starts all copies anew; returns the measurement (B, n) at time 0."""

    def step(self, command: Floats) -> Floats:
        """Applies the command (B, m) for one period; returns the next measurement (B, n)."""


@runtime_checkable
class EndingSimulator(VectorSimulator, Protocol):
    """A simulator that says by itself when an episode has truly ended, by what no tag shows."""

    @property
    def ended(self) -> npt.NDArray[np.bool_]:
        """(B,) copies whose episode has ended; they need not go on."""


class Controller(Protocol):
    """Commands for B copies of a plant."""

    def reset(self, batch: int) -> None:
        """Forgets the past and makes ready for `batch` copies."""

    def act(self, measurement: Floats) -> Floats:
        """The commands (B, m) for the measurements (B, n) of this moment; called once per period, in order."""


def checked_command(command: Any, copies: int, actions: int, time: int) -> Floats:
    """The command as float64 (B, m).

    Raises:
        ValueError: another shape.
        ControlkitError: a number that is not finite; names the copy and the step.
    """
    values = np.asarray(command, dtype=np.float64)
    if values.shape != (copies, actions):
        raise ValueError(f"a command has the shape {values.shape}, not {(copies, actions)}")
    finite = np.isfinite(values)
    if not finite.all():
        copy, action = np.argwhere(~finite)[0]
        raise ControlkitError(
            f"the controller commanded {values[copy, action]}, which is not a number that an actuator can follow",
            where=f"step {time}, copy {copy}, action {action}",
            cure="Mend the controller, or check its input.",
        )
    return values


def spawned_seeds(seed: int, count: int) -> list[np.random.SeedSequence]:
    """`count` independent seeds that follow from one; the first ones do not depend on `count`.

    Raises:
        ControlkitError: a negative seed.
    """
    if seed < 0:
        raise ControlkitError(f"the seed {seed} is negative", cure="Give 0 or more.")
    return np.random.SeedSequence(seed).spawn(count)
