"""The refrigerator as a gymnasium environment, `controlkit/Refrigerator-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from envs.refrigerator import DEFAULT_PARAMS, Door, Noise, RefrigeratorParams, VectorRefrigerator
from envs.rewards import RewardMeter

Frame = npt.NDArray[np.float32]


class RefrigeratorEnv(gymnasium.Env[Frame, Frame]):
    """One refrigerator; `envs.refrigerator` has the physics, `configs/plants/refrigerator.yaml` the objective.

    Observation (n,) float32, in the plant file's order: measured temperature in degC and door (1 open, 0 shut), the
    door only with `door="seen"`. The door observed at t governs the step from t to t + 1.
    Action (1,) float32: cooling power, 0 .. 10; beyond that the compressor saturates.
    Reward: the objective on the measured next temperature, -|T' + 2|. `info` has `true_temperature` and `door` and,
    after a step, `true_reward`: the objective on the true next temperature.
    Never terminated; truncated at the horizon.

    Args:
        noise, noise_scale, door, start_c, params: see `envs.refrigerator.VectorRefrigerator`.
        horizon: steps of an episode.

    Raises:
        ControlkitError: an argument that cannot be right, an option of `reset` (there is none), a power that is not
            finite.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        noise: Noise = "measurement",
        noise_scale: float = 0.1,
        door: Door = "seen",
        horizon: int = 2000,
        start_c: float = 10.0,
        params: RefrigeratorParams = DEFAULT_PARAMS,
    ) -> None:
        if horizon < 1:
            raise ControlkitError(f"horizon {horizon} is no episode", where="refrigerator", cure="Give 1 or more.")
        self.horizon = horizon
        self._options: dict[str, Any] = {
            "noise": noise,
            "noise_scale": noise_scale,
            "door": door,
            "start_c": start_c,
            "params": params,
        }
        probe = VectorRefrigerator(1, np.random.default_rng(0), **self._options)  # checks the arguments
        spec = PlantSpec.load(config_path("plants", "refrigerator"))
        self._measured_reward, self._true_reward = RewardMeter(spec), RewardMeter(spec)
        low, high = _reachable(params, start_c, noise_scale)
        bounds = {"temperature": (low, high), "door": (0.0, 1.0)}
        self.observation_space = gymnasium.spaces.Box(
            low=np.array([bounds[tag][0] for tag in probe.frame_tags], dtype=np.float32),
            high=np.array([bounds[tag][1] for tag in probe.frame_tags], dtype=np.float32),
        )
        self.action_space = gymnasium.spaces.Box(params.power_low, params.power_high, shape=(1,), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts an episode; a seed starts the generator anew as well."""
        super().reset(seed=seed)
        if options:
            raise ControlkitError(
                f"the option '{next(iter(options))}' is unknown",
                where="refrigerator",
                cure="Give what varies to the constructor.",
            )
        self._plant = VectorRefrigerator(1, self.np_random, **self._options)
        observation = self._observation()
        self._measured_reward.reset(self._plant.measured_frame)
        self._true_reward.reset(self._plant.true_frame)
        return observation, self._info()

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One second."""
        command = np.asarray(action, dtype=np.float64).reshape(1, -1)  # (1, 1)
        self._plant.step(command)
        params = self._plant.params
        command = np.clip(command, params.power_low, params.power_high)  # what the compressor did
        reward = self._measured_reward.step(command, self._plant.measured_frame)
        true_reward = self._true_reward.step(command, self._plant.true_frame)
        truncated = self._plant.time >= self.horizon
        info = self._info() | {"true_reward": float(true_reward[0])}
        return self._observation(), float(reward[0]), False, truncated, info

    def _observation(self) -> Frame:
        return self._plant.measured_frame[0, : len(self._plant.frame_tags)].astype(np.float32)

    def _info(self) -> dict[str, Any]:
        return {"true_temperature": float(self._plant.true_temperature[0]), "door": float(self._plant.door[0])}


def _reachable(params: RefrigeratorParams, start_c: float, noise_scale: float) -> tuple[float, float]:
    """The lowest and highest temperature that an episode can show.

    At full power with the door shut the temperature falls towards ambient - power (1 - k) / k. Process noise adds up to
    a stationary standard deviation of scale / sqrt(1 - (1 - k)^2); ten of them are never drawn.
    """
    share = params.leak_shut_per_s * params.dt_s
    coldest = params.ambient_c - params.power_high * params.dt_s * (1.0 - share) / share
    margin = 10.0 * noise_scale / np.sqrt(1.0 - (1.0 - share) ** 2)
    return min(coldest, start_c) - margin, max(params.ambient_c, start_c) + margin
