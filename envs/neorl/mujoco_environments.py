"""The MuJoCo tasks as gymnasium environments: `controlkit/HalfCheetah-v0` and its kin."""

from __future__ import annotations

from typing import Any

from envs.neorl import mujoco_plants
from envs.neorl.environment import Frame, SimulatedPlantEnv
from envs.neorl.mujoco_plants import MujocoPlant, VectorMujoco


class MujocoPlantEnv(SimulatedPlantEnv):
    """One copy of a MuJoCo plant; `envs.neorl.mujoco_plants` has the physics.

    Args:
        plant_file: name of the plant file.
        plant: which physics.
        horizon: steps of an episode.
    """

    def __init__(self, plant_file: str, plant: MujocoPlant, horizon: int) -> None:
        super().__init__(plant_file, lambda copies, rng: VectorMujoco(copies, rng, plant=plant), horizon)


class HalfCheetahEnv(MujocoPlantEnv):
    """NeoRL's HalfCheetah-v3, x kept: (18,) and (6,)."""

    def __init__(self, horizon: int = mujoco_plants.STEPS) -> None:
        super().__init__("halfcheetah", mujoco_plants.HALF_CHEETAH, horizon)


class HopperEnv(MujocoPlantEnv):
    """NeoRL's Hopper-v3, x kept: (12,) and (3,)."""

    def __init__(self, horizon: int = mujoco_plants.STEPS) -> None:
        super().__init__("hopper", mujoco_plants.HOPPER, horizon)


class Walker2dEnv(MujocoPlantEnv):
    """NeoRL's Walker2d-v3, x kept: (18,) and (6,)."""

    def __init__(self, horizon: int = mujoco_plants.STEPS) -> None:
        super().__init__("walker2d", mujoco_plants.WALKER2D, horizon)


class RandomFrictionHopperEnv(MujocoPlantEnv):
    """NeoRL-2's RandomFrictionHopper: (13,) and (3,)."""

    def __init__(self, horizon: int = mujoco_plants.STEPS) -> None:
        super().__init__("random-friction-hopper", mujoco_plants.RANDOM_FRICTION_HOPPER, horizon)


class SafetyHalfCheetahEnv(MujocoPlantEnv):
    """NeoRL-2's SafetyHalfCheetah: (18,) and (6,).

    Args:
        horizon: steps of an episode.
        speeding_ends: whether an episode ends where the limit is exceeded, as NeoRL-2's function of ends says. The
            benchmark's published evaluation goes on to the horizon, at -100 for each step above the limit.
    """

    def __init__(self, horizon: int = mujoco_plants.STEPS, speeding_ends: bool = True) -> None:
        super().__init__("safety-halfcheetah", mujoco_plants.HALF_CHEETAH, horizon)
        self.speeding_ends = speeding_ends

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One period."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated and self.speeding_ends, truncated, info
