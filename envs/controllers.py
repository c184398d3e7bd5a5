"""The refrigerator's logged operator and the two test controllers, for B copies at once.

All of them read the measured temperature (column 0) only. Signs: the error is e = T - reference, positive when the air
is too warm, and a positive gain cools; power never goes below 0, and the bounds are the compressor's.

The reference is -2 - 1.75 = -3.75 degC for all three, as in the public example of this plant: 0.2 x 1.75 = 0.35 is the
power that holds -2 with the door shut, so the operator (gain 0.2) sits near -2 without an integral. The same reference
with gain 1.5 settles near -3.5, and with the PID's integral at -3.75: far from what the operator's log shows, which is
their purpose.
"""

from __future__ import annotations

import numpy as np

from envs.refrigerator import DEFAULT_PARAMS, TEMPERATURE, RefrigeratorParams
from envs.simulation import Floats

REFERENCE_C = DEFAULT_PARAMS.target_c - 1.75


class Proportional:
    """power = gain (T - reference) + N(0, noise_std), clipped to the compressor's bounds.

    Args:
        gain: power per kelvin.
        reference_c: the temperature at which the power is 0.
        noise_std: what an operator's hand adds to the power.
        rng: draws that noise; needed only where there is some.
        params: the plant's constants.
    """

    def __init__(
        self,
        gain: float,
        reference_c: float = REFERENCE_C,
        noise_std: float = 0.0,
        rng: np.random.Generator | None = None,
        params: RefrigeratorParams = DEFAULT_PARAMS,
    ) -> None:
        if noise_std > 0 and rng is None:
            raise ValueError("a noisy controller needs a generator")
        self.gain, self.reference_c, self.noise_std = gain, reference_c, noise_std
        self._rng, self._params = rng, params

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, 1)."""
        power = self.gain * (measurement[:, TEMPERATURE] - self.reference_c)
        if self._rng is not None and self.noise_std > 0:
            power = power + self.noise_std * self._rng.standard_normal(len(power))
        return bounded(power, self._params)


class PID:
    """power = kp e + ki sum(e dt) + kd (e - e_before) / dt, clipped to the compressor's bounds.

    Positional form; the sum includes the present error and is not held back while the power is at a bound (no
    anti-windup); the first derivative is 0.

    Args:
        kp, ki, kd: gains per kelvin, per kelvin and second, per kelvin per second.
        reference_c: the set point.
        params: the plant's constants.
    """

    def __init__(
        self,
        kp: float,
        ki: float,
        kd: float,
        reference_c: float = REFERENCE_C,
        params: RefrigeratorParams = DEFAULT_PARAMS,
    ) -> None:
        self.kp, self.ki, self.kd, self.reference_c = kp, ki, kd, reference_c
        self._params = params
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Empties the sum and the remembered error."""
        self.error_sum = np.zeros(batch)  # (B,)
        self.error_before: Floats | None = None  # (B,)

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, 1)."""
        dt = self._params.dt_s
        error = measurement[:, TEMPERATURE] - self.reference_c
        before = error if self.error_before is None else self.error_before
        self.error_sum = self.error_sum + error * dt
        self.error_before = error
        power = self.kp * error + self.ki * self.error_sum + self.kd * (error - before) / dt
        return bounded(power, self._params)


def operator(rng: np.random.Generator, params: RefrigeratorParams = DEFAULT_PARAMS) -> Proportional:
    """The logged operator: gain 0.2, N(0, 0.1) on the power."""
    return Proportional(0.2, noise_std=0.1, rng=rng, params=params)


def steep_p(params: RefrigeratorParams = DEFAULT_PARAMS) -> Proportional:
    """The first test controller: gain 1.5, no noise."""
    return Proportional(1.5, params=params)


def pid(params: RefrigeratorParams = DEFAULT_PARAMS) -> PID:
    """The second test controller: (0.1, 0.005, 0.4), no noise."""
    return PID(0.1, 0.005, 0.4, params=params)


def bounded(power: Floats, params: RefrigeratorParams) -> Floats:
    """Clips a power (B,) to the compressor's bounds and gives it the shape of a command (B, 1)."""
    return np.clip(power, params.power_low, params.power_high)[:, None]
