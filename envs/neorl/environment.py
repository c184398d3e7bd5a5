"""A vectorised simulator with exact sensors as a gymnasium environment; `DmsdEnv` is `controlkit/DMSD-v0`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from envs.neorl import dmsd
from envs.rewards import RewardMeter
from envs.simulation import VectorSimulator

Frame = npt.NDArray[np.float32]


class SimulatedPlantEnv(gymnasium.Env[Frame, Frame]):
    """One copy of a simulator; reward and limits come from a shipped plant file.

    Observation (n,) float32: the measured tags in the plant file's order, engineering units, unbounded.
    Action (m,) float32: commands in engineering units, clipped to their limits.
    Reward: the plant file's objective; `info` after a step repeats it as `true_reward` (the sensors are exact).
    Never terminated by itself; truncated at the horizon.

    Args:
        plant: name of the plant file.
        simulator: makes B copies from (copies, generator).
        horizon: steps of an episode.

    Raises:
        ControlkitError: a horizon below 1, an option of `reset` (there is none), a command that is not finite.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self, plant: str, simulator: Callable[[int, np.random.Generator], VectorSimulator], horizon: int
    ) -> None:
        if horizon < 1:
            raise ControlkitError(f"horizon {horizon} is no episode", where=plant, cure="Give 1 or more.")
        self.horizon, self._plant_name, self._make = horizon, plant, simulator
        spec = PlantSpec.load(config_path("plants", plant))
        limits = [spec.limits(tag) for tag in spec.action_tags]
        low, high = (np.array([pair[i] for pair in limits], dtype=np.float32) for i in (0, 1))
        self._meter, self._time = RewardMeter(spec), 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape=(len(spec.frame_tags),), dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts an episode; a seed starts the generator anew as well."""
        super().reset(seed=seed)
        if options:
            raise ControlkitError(
                f"the option '{next(iter(options))}' is unknown",
                where=self._plant_name,
                cure="Give what varies to the constructor.",
            )
        self._plant, self._time = self._make(1, self.np_random), 0
        self._meter.reset(self._plant.true_frame)
        return self._plant.true_frame[0].astype(np.float32), {}

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One period."""
        command = np.asarray(action, dtype=np.float64).reshape(1, -1)  # (1, m)
        self._plant.step(command)
        self._time += 1
        reward = float(self._meter.step(self._clipped(command), self._plant.true_frame)[0])
        observation = self._plant.true_frame[0].astype(np.float32)
        return observation, reward, False, self._time >= self.horizon, {"true_reward": reward}

    def _clipped(self, command: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        space = self.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        return np.clip(command, space.low, space.high).astype(np.float64)


class DmsdEnv(SimulatedPlantEnv):
    """DMSD of NeoRL-2; `envs.neorl.dmsd` has the physics.

    Args:
        horizon: steps of an episode.
        params: the plant's constants.
    """

    def __init__(self, horizon: int = dmsd.STEPS, params: dmsd.DmsdParams = dmsd.DEFAULT_PARAMS) -> None:
        super().__init__("dmsd", lambda copies, rng: dmsd.VectorDmsd(copies, rng, params=params), horizon)
