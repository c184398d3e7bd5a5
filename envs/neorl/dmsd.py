"""DMSD of NeoRL-2 (arXiv 2503.19267): two masses between two walls, coupled by three springs and dampers.

A step of 0.2 s is one step of the explicit Euler method: both positions move with the velocities before the step, both
velocities with the forces of springs, dampers and actuators before it.

    x' = x + dt v
    v1' = v1 + dt / m (f1 - (k + k) x1 + k x2 - (c + c) v1 + c v2),    v2' the same with 1 and 2 exchanged

Each mass has a target position. With probability 1/2, and for each mass on its own, the target is drawn anew in the
middle of the episode; nothing announces that, and no action can change it. A target in a frame is the one that the
reward of the step which led there was computed with.

Numpy only; the gymnasium form is in `environment.py` and steps this same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from envs.simulation import Floats, checked_command

STEPS = 100
FRAME_TAGS = ("position_1", "position_2", "velocity_1", "velocity_2", "target_1", "target_2")


@dataclass(frozen=True)
class DmsdParams:
    """The plant's constants.

    Attributes:
        mass_kg: of each mass.
        stiffness_n_per_m, damping_n_s_per_m: of each spring and damper.
        force_n: the full force of an actuator; a command is a share of it.
        dt_s: length of a step.
        start_position_m, start_velocity_m_per_s: bounds of the uniform start.
        target_m: bounds of the uniform targets.
        steps: of an episode; the targets may change after half of them.
    """

    mass_kg: float = 20.0
    stiffness_n_per_m: float = 2.0
    damping_n_s_per_m: float = 4.0
    force_n: float = 30.0
    dt_s: float = 0.2
    start_position_m: float = 0.25
    start_velocity_m_per_s: float = 0.1
    target_m: float = 1.5
    steps: int = STEPS


DEFAULT_PARAMS = DmsdParams()


def next_state(state: Floats, command: Floats, params: DmsdParams = DEFAULT_PARAMS) -> Floats:
    """Positions and velocities one step later: (B, 4), (B, 2) shares of the full force -> (B, 4)."""
    position, velocity = state[:, :2], state[:, 2:]
    other_position, other_velocity = position[:, ::-1], velocity[:, ::-1]
    spring = params.stiffness_n_per_m * (other_position - 2.0 * position)
    damper = params.damping_n_s_per_m * (other_velocity - 2.0 * velocity)
    force = params.force_n * np.clip(command, -1.0, 1.0)
    moved = velocity + params.dt_s / params.mass_kg * (spring + damper + force)
    return np.concatenate([position + params.dt_s * velocity, moved], axis=1)


def holding_command(target: Floats, params: DmsdParams = DEFAULT_PARAMS) -> Floats:
    """The command that keeps the masses at rest at their targets: (B, 2) metres -> (B, 2)."""
    return params.stiffness_n_per_m * (2.0 * target - target[:, ::-1]) / params.force_n


class VectorDmsd:
    """B copies, stepped at once.

    Args:
        copies: B.
        rng: draws starts and targets; all draws are made at the reset.
        params: the plant's constants.

    Raises:
        ControlkitError: no copy at all.

    Attributes:
        time: steps since the reset.
        state: (B, 4) positions, velocities.
    """

    frame_tags = FRAME_TAGS

    def __init__(self, copies: int, rng: np.random.Generator, *, params: DmsdParams = DEFAULT_PARAMS) -> None:
        if copies < 1:
            raise ControlkitError(f"{copies} copies cannot be simulated", where="dmsd", cure="Give 1 or more.")
        self.copies, self.params, self._rng = copies, params, rng
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the generator's stream; returns the frame (B, 6) at time 0."""
        params, shape = self.params, (self.copies, 2)
        position = self._rng.uniform(-params.start_position_m, params.start_position_m, shape)
        velocity = self._rng.uniform(-params.start_velocity_m_per_s, params.start_velocity_m_per_s, shape)
        self.state = np.concatenate([position, velocity], axis=1)
        targets = self._rng.uniform(-params.target_m, params.target_m, (2, *shape))  # first and second half
        stays = self._rng.random(shape) < 0.5
        self._targets = np.stack([targets[0], np.where(stays, targets[0], targets[1])])  # (2, B, 2)
        self.time = 0
        return self.true_frame

    def step(self, command: Any) -> Floats:
        """0.2 s: shares of the full force (B, 2), saturating at -1 and 1 -> frame (B, 6).

        Raises:
            ValueError: another shape.
            ControlkitError: a command that is not finite.
        """
        self.state = next_state(self.state, checked_command(command, self.copies, 2, self.time), self.params)
        self.time += 1
        return self.true_frame

    @property
    def target(self) -> npt.NDArray[np.float64]:
        """(B, 2) the targets in force."""
        half: npt.NDArray[np.float64] = self._targets[int(self.time >= self.params.steps // 2)]
        return half

    @property
    def true_frame(self) -> Floats:
        """(B, 6) positions, velocities, targets; the sensors are exact."""
        return np.concatenate([self.state, self.target], axis=1)
