"""The Industrial Benchmark as a gymnasium environment, `controlkit/Industrial-v0`, with NeoRL's observations."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np

from controlkit.errors import ControlkitError, nearest
from envs.neorl import industrial
from envs.neorl.environment import Frame, SimulatedPlantEnv
from envs.neorl.industrial_files import REPEATED_COLUMNS

OBSERVATIONS = ("frame", "stacked", "repeated")


class IndustrialEnv(SimulatedPlantEnv):
    """The Industrial Benchmark with a constant setpoint; `envs.neorl.industrial` has the dynamics.

    Args:
        horizon: steps of an episode.
        params: setpoint and start.
        observation: `frame`, the six measured tags; `stacked`, NeoRL's (180,), 30 frames with the newest first and the
            first one repeated until there are as many; `repeated`, NeoRL's first edition, (182,), the same with
            fatigue and consumption of the newest frame once more at the end.

    Raises:
        ControlkitError: another observation.
    """

    def __init__(
        self,
        horizon: int = industrial.STEPS,
        params: industrial.IndustrialParams = industrial.DEFAULT_PARAMS,
        observation: Literal["frame", "stacked", "repeated"] = "frame",
    ) -> None:
        if observation not in OBSERVATIONS:
            raise ControlkitError(
                f"unknown observation '{observation}'", where="industrial", cure=nearest(observation, OBSERVATIONS)
            )
        super().__init__(
            "industrial",
            lambda copies, rng: industrial.VectorIndustrial(copies, rng, params=params),
            horizon,
            window=observation != "frame",
        )
        self._repeats = observation == "repeated"
        if self._repeats:
            size = self.observation_space.shape[0] + len(REPEATED_COLUMNS)  # type: ignore[index]
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape=(size,), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """See `SimulatedPlantEnv`."""
        observation, info = super().reset(seed=seed, options=options)
        return self._repeated(observation), info

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """See `SimulatedPlantEnv`."""
        observation, reward, terminated, truncated, info = super().step(action)
        return self._repeated(observation), reward, terminated, truncated, info

    def _repeated(self, observation: Frame) -> Frame:
        return np.append(observation, observation[list(REPEATED_COLUMNS)]) if self._repeats else observation
