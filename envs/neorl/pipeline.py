"""Pipeline of NeoRL-2 (arXiv 2503.19267): a gate at the head of a pipe, and a flow that is measured at its foot.

The pipe is 100 m long and water moves 5 m in a step, so that its foot shows the gate's flow of 19 steps before:

    gate' = clip(gate + command, 0, 200),    flow' = gate of 18 steps ago = flow + command of 19 steps ago

as long as the gate did not saturate. The wanted flow is drawn anew among four values with a small probability per step,
whatever is commanded. An episode starts with a pipe in which every metre flows alike. Flows are kept in single
precision, as the benchmark keeps them: over an episode of small commands the roundings add up to 0.003.

Numpy only; the gymnasium form is in `environment.py` and steps this same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from envs.simulation import Floats, checked_command

Flows = npt.NDArray[np.float32]
STEPS = 1000
FRAME_TAGS = ("flow", "target")


@dataclass(frozen=True)
class PipelineParams:
    """The plant's constants; flows have the benchmark's unit, which it does not name.

    Attributes:
        pipe_m: length of the pipe.
        velocity_m: what water moves in a step.
        most_flow: the gate's flow lies between 0 and this.
        start_flow: bounds of the uniform flow at the start.
        targets: what the wanted flow is drawn from, uniformly.
        change: probability per step that it is drawn (and may come out as before).
    """

    pipe_m: float = 100.0
    velocity_m: float = 5.0
    most_flow: float = 200.0
    start_flow: tuple[float, float] = (80.0, 120.0)
    targets: tuple[float, ...] = (50.0, 80.0, 110.0, 140.0)
    change: float = 0.003

    @property
    def cells(self) -> int:
        """Stretches of the pipe, the gate's and the foot's included: a flow is seen `cells` - 1 steps after the gate
        has it."""
        return round(self.pipe_m / self.velocity_m)


DEFAULT_PARAMS = PipelineParams()


def next_pipe(pipe: Flows, command: Floats, params: PipelineParams = DEFAULT_PARAMS) -> Flows:
    """The flows in the pipe one step later: (B, C) from the gate to the foot, (B,) changes of the gate -> (B, C)."""
    change = np.clip(command, -1.0, 1.0).astype(np.float32)
    gate = np.clip(pipe[:, 0] + change, np.float32(0.0), np.float32(params.most_flow))
    return np.concatenate([gate[:, None], pipe[:, :-1]], axis=1)


class VectorPipeline:
    """B copies, stepped at once.

    Args:
        copies: B.
        rng: draws starts and targets; as many draws in a step whatever is commanded.
        params: the plant's constants.

    Raises:
        ControlkitError: no copy at all.

    Attributes:
        time: steps since the reset.
        pipe: (B, C) flows from the gate to the foot.
        target: (B,) wanted flows.
    """

    frame_tags = FRAME_TAGS

    def __init__(self, copies: int, rng: np.random.Generator, *, params: PipelineParams = DEFAULT_PARAMS) -> None:
        if copies < 1:
            raise ControlkitError(f"{copies} copies cannot be simulated", where="pipeline", cure="Give 1 or more.")
        self.copies, self.params, self._rng = copies, params, rng
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the generator's stream; returns the frame (B, 2) at time 0."""
        start = self._rng.uniform(*self.params.start_flow, self.copies)
        self.pipe = np.repeat(start[:, None].astype(np.float32), self.params.cells, axis=1)
        self.target = self._drawn()
        self.time = 0
        return self.true_frame

    def step(self, command: Any) -> Floats:
        """Changes of the gate (B, 1), saturating at -1 and 1 -> frame (B, 2).

        Raises:
            ValueError: another shape.
            ControlkitError: a command that is not finite.
        """
        change = checked_command(command, self.copies, 1, self.time)
        self.pipe = next_pipe(self.pipe, change[:, 0], self.params)
        changes = self._rng.random(self.copies) < self.params.change
        self.target = np.where(changes, self._drawn(), self.target)
        self.time += 1
        return self.true_frame

    @property
    def true_frame(self) -> Floats:
        """(B, 2) flow at the foot and wanted flow; the sensor is exact."""
        return np.stack([self.pipe[:, -1].astype(np.float64), self.target], axis=1)

    def _drawn(self) -> Floats:
        return self._rng.choice(np.array(self.params.targets), self.copies)
