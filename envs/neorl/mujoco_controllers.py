"""The simplest controllers of the MuJoCo tasks, for B copies at once: nobody walks by hand.

The benchmarks' scales begin near what `Random` returns.
"""

from __future__ import annotations

import numpy as np

from envs.neorl.mujoco_plants import MujocoPlant
from envs.simulation import Floats


class Still:
    """No torque at all.

    Args:
        plant: has m commands.
    """

    def __init__(self, plant: MujocoPlant) -> None:
        self._actions = len(plant.action_tags)

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        return np.zeros((len(measurement), self._actions))


class Random:
    """Uniform commands in -1 .. 1, drawn anew in every step.

    Args:
        plant: has m commands.
        rng: draws them.
    """

    def __init__(self, plant: MujocoPlant, rng: np.random.Generator) -> None:
        self._actions, self._rng = len(plant.action_tags), rng

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        return self._rng.uniform(-1.0, 1.0, (len(measurement), self._actions))
