"""Reference controllers that define what is possible on the refrigerator. All of them know the plant and see the door.

- `LinearLaw(gain=1)` is deadbeat on the raw measurement: power such that the next temperature would be the target, were
  the measurement true.
- `LinearLaw(gain)` with the gain of `best_linear_gain`: the best law that is linear in the current measurement.
- `KalmanDeadbeat`: deadbeat on the estimate of the exact Kalman filter (Kalman 1960), which starts from the first
  measurement and does not know the true start.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from envs.controllers import bounded
from envs.refrigerator import (
    DEFAULT_PARAMS,
    DOOR,
    TEMPERATURE,
    Noise,
    RefrigeratorParams,
    VectorRefrigerator,
    leak,
    next_temperature,
    power_to_reach,
)
from envs.simulation import Floats

# The search's own seed, apart from every seed that a score is made with: see `best_linear_gain`.
SEARCH_SEED = 20_310_542
SEARCH_COPIES = 32
SEARCH_INTERVAL = (0.0, 1.2)
SEARCH_TOLERANCE = 1e-3


class LinearLaw:
    """power = (power that holds the target with this door) + gain (T - target), clipped to the compressor's bounds.

    Args:
        gain: power per kelvin, one number or one per copy (B,).
        params: the plant's constants.
    """

    def __init__(self, gain: npt.ArrayLike, params: RefrigeratorParams = DEFAULT_PARAMS) -> None:
        self.gain = np.asarray(gain, dtype=np.float64)
        self._params = params

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 2) -> (B, 1)."""
        params = self._params
        temperature, door = _seen(measurement)
        hold = power_to_reach(params.target_c, np.full_like(temperature, params.target_c), door, params)
        return bounded(hold + self.gain / params.dt_s * (temperature - params.target_c), params)


class KalmanDeadbeat:
    """Deadbeat on a Kalman filter's estimate.

    Args:
        noise, noise_scale: of the plant, known to the filter.
        params: the plant's constants.

    Attributes:
        estimate_c: (B,) after `act`, the temperature expected at the next measurement.
        variance: (B,) the variance of that expectation.
    """

    def __init__(
        self, noise: Noise = "measurement", noise_scale: float = 0.1, params: RefrigeratorParams = DEFAULT_PARAMS
    ) -> None:
        self._sensor_variance = noise_scale**2 if noise == "measurement" else 0.0
        self._process_variance = noise_scale**2 if noise == "process" else 0.0
        self._params = params
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Knows nothing: the first measurement becomes the estimate."""
        self._first = True
        self.estimate_c = np.zeros(batch)  # (B,)
        self.variance = np.zeros(batch)  # (B,)

    def act(self, measurement: Floats) -> Floats:
        """(B, 2) -> (B, 1)."""
        params = self._params
        temperature, door = _seen(measurement)
        if self._first or self._sensor_variance == 0:
            # Nothing better is known than the measurement, or it is exact.
            self.estimate_c, known = temperature.copy(), np.full_like(temperature, self._sensor_variance)
        else:
            trust = self.variance / (self.variance + self._sensor_variance)  # (B,)
            self.estimate_c, known = (
                self.estimate_c + trust * (temperature - self.estimate_c),
                (1.0 - trust) * self.variance,
            )
        self._first = False
        command = bounded(power_to_reach(params.target_c, self.estimate_c, door, params), params)
        self.estimate_c = next_temperature(self.estimate_c, command[:, 0], door, params)
        self.variance = (1.0 - leak(door, params)) ** 2 * known + self._process_variance
        return command


def raw_deadbeat(params: RefrigeratorParams = DEFAULT_PARAMS) -> LinearLaw:
    """Deadbeat on the measurement as it is."""
    return LinearLaw(1.0, params)


@lru_cache(maxsize=32)
def best_linear_gain(
    noise: Noise = "measurement",
    noise_scale: float = 0.1,
    start_c: float = 10.0,
    steps: int = 2000,
    params: RefrigeratorParams = DEFAULT_PARAMS,
) -> float:
    """The gain of the best `LinearLaw`, by golden-section search.

    A gain is judged by the mean |T - target| of the true temperature in `SEARCH_COPIES` simulations of `steps` steps.
    All gains meet the same noise and doors, drawn with `SEARCH_SEED`, so that the loss is a smooth function of the
    gain. Scores must be made with other seeds. The result is remembered for each set of arguments.
    """

    def loss(gain: float) -> float:
        plant = VectorRefrigerator(
            SEARCH_COPIES,
            np.random.default_rng(SEARCH_SEED),
            noise=noise,
            noise_scale=noise_scale,
            start_c=start_c,
            params=params,
        )
        law, measurement, total = LinearLaw(gain, params), plant.reset(), 0.0
        for _ in range(steps):
            measurement = plant.step(law.act(measurement))
            total += float(np.abs(plant.true_temperature - params.target_c).mean())
        return total / steps

    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    low, high = SEARCH_INTERVAL
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(gain) for gain in inner]
    while high - low > SEARCH_TOLERANCE:
        if losses[0] < losses[1]:
            high = inner[1]
            inner = [high - ratio * (high - low), inner[0]]
            losses = [loss(inner[0]), losses[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + ratio * (high - low)]
            losses = [losses[1], loss(inner[1])]
    return (low + high) / 2.0


def _seen(measurement: Floats) -> tuple[Floats, Floats]:
    if measurement.shape[1] <= DOOR:
        raise ControlkitError(
            "this reference controller needs the door, which is hidden",
            where="refrigerator",
            cure='Use door="seen", or a controller that reads the temperature only.',
        )
    return measurement[:, TEMPERATURE], measurement[:, DOOR]
