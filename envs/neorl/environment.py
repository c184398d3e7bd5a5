"""A vectorised simulator with exact sensors as a gymnasium environment: NeoRL-2's tasks but those of MuJoCo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from envs.neorl import dmsd, original_plants, pipeline, rocket
from envs.rewards import RewardMeter, ended
from envs.simulation import VectorSimulator
from envs.window import ObservationWindow

Frame = npt.NDArray[np.float32]


class SimulatedPlantEnv(gymnasium.Env[Frame, Frame]):
    """One copy of a simulator; reward and limits come from a shipped plant file.

    Observation (n,) float32: the measured tags in the plant file's order, engineering units, unbounded; or (O,), the
    plant file's whole layout with its history, where `window` asks for it.
    Action (m,) float32: commands in engineering units, clipped to their limits.
    Reward: the plant file's objective; `info` after a step repeats it as `true_reward` (the sensors are exact).
    Terminated by the plant file's rules, or by the simulator where it knows by itself; truncated at the horizon.

    Args:
        plant: name of the plant file.
        simulator: makes B copies from (copies, generator).
        horizon: steps of an episode.
        window: whether an observation holds the history that the plant file asks for, as in a benchmark's flat files.

    Raises:
        ControlkitError: a horizon below 1, an option of `reset` (there is none), a command that is not finite.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        plant: str,
        simulator: Callable[[int, np.random.Generator], VectorSimulator],
        horizon: int,
        window: bool = False,
    ) -> None:
        if horizon < 1:
            raise ControlkitError(f"horizon {horizon} is no episode", where=plant, cure="Give 1 or more.")
        self.horizon, self._plant_name, self._make = horizon, plant, simulator
        spec = PlantSpec.load(config_path("plants", plant))
        limits = [spec.limits(tag) for tag in spec.action_tags]
        low, high = (np.array([pair[i] for pair in limits], dtype=np.float32) for i in (0, 1))
        self._meter, self._window, self._time = RewardMeter(spec), ObservationWindow(spec) if window else None, 0
        size = self._window.layout.size if self._window else len(spec.frame_tags)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape=(size,), dtype=np.float32)
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
        frame = self._plant.true_frame
        self._meter.reset(frame)
        observation = self._window.reset(frame) if self._window else frame
        return observation[0].astype(np.float32), {}

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One period."""
        command = np.asarray(action, dtype=np.float64).reshape(1, -1)  # (1, m)
        self._plant.step(command)
        self._time += 1
        command, frame = self._clipped(command), self._plant.true_frame
        reward = float(self._meter.step(command, frame)[0])
        observation = self._window.step(command, frame) if self._window else frame
        terminated, truncated = bool(ended(self._plant, self._meter)[0]), self._time >= self.horizon
        return observation[0].astype(np.float32), reward, terminated, truncated, {"true_reward": reward}

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


class PipelineEnv(SimulatedPlantEnv):
    """Pipeline of NeoRL-2; `envs.neorl.pipeline` has the physics. The benchmark's own observation is `window=True`.

    Args:
        horizon: steps of an episode.
        params: the plant's constants.
        window: whether an observation is the benchmark's (52,) instead of flow and target alone.
    """

    def __init__(
        self,
        horizon: int = pipeline.STEPS,
        params: pipeline.PipelineParams = pipeline.DEFAULT_PARAMS,
        window: bool = False,
    ) -> None:
        super().__init__(
            "pipeline", lambda copies, rng: pipeline.VectorPipeline(copies, rng, params=params), horizon, window
        )


class RocketRecoveryEnv(SimulatedPlantEnv):
    """RocketRecovery of NeoRL-2; `envs.neorl.rocket` has the physics, which need Box2D.

    Args:
        horizon: steps of an episode.
        params: the plant's constants.
    """

    def __init__(self, horizon: int = rocket.STEPS, params: rocket.RocketParams = rocket.DEFAULT_PARAMS) -> None:
        super().__init__(
            "rocket-recovery", lambda copies, rng: rocket.VectorRocket(copies, rng, params=params), horizon
        )


class SimglucoseEnv(SimulatedPlantEnv):
    """Simglucose in engineering units; needs the original package.

    Args:
        horizon: steps of an episode.
    """

    def __init__(self, horizon: int = original_plants.SIMGLUCOSE.steps) -> None:
        original_plants.SIMGLUCOSE.require()
        super().__init__(
            "simglucose",
            lambda copies, rng: original_plants.OriginalPlant(copies, rng, task=original_plants.SIMGLUCOSE),
            horizon,
        )


class FusionEnv(SimulatedPlantEnv):
    """Fusion in engineering units; needs the original package.

    Args:
        horizon: steps of an episode.
    """

    def __init__(self, horizon: int = original_plants.FUSION.steps) -> None:
        original_plants.FUSION.require()
        super().__init__(
            "fusion",
            lambda copies, rng: original_plants.OriginalPlant(copies, rng, task=original_plants.FUSION),
            horizon,
        )
