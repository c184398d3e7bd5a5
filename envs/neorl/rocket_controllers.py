"""Reference controllers of RocketRecovery, for B copies at once; they know the rocket's masses and engines.

`Descent` wants an acceleration: sideways towards the pad, against the wind, and upward so that the rate of descent
falls with the height. Main engine and angle give it as far as they can: the thrust points along the body, so that the
body is tilted to where the thrust should point, and the side engines turn it.
"""

from __future__ import annotations

import numpy as np

from envs.neorl.rocket import DEFAULT_PARAMS, MAIN_BELOW, RocketParams
from envs.simulation import Floats

# Hull and legs by Box2D's reckoning: density times area.
MASS_KG = 4.96
# Found by a random search on the simulator. Sideways the natural frequency is 0.8 rad/s, and the angle follows faster.
PLACE_PER_S2, SPEED_PER_S = 0.6, 1.5
MOST_TILT = 0.25  # a landing is safe below 0.3
TILT_PER_S2, TURN_PER_S = 34.0, 3.4
# Full side engine, measured: radians per second squared.
TURN_RAD_PER_S2 = 6.0
# Wanted rate of descent: metres per second near the ground, and per metre above it.
LANDING_M_PER_S, DESCENT_PER_S, BRAKING_PER_S = 0.5, 0.8, 2.0
# An operator's hand.
OPERATOR_NOISE, OPERATOR_GAIN = 0.35, 0.4


class Descent:
    """Brings the rocket over the pad and lets it down.

    Args:
        gain: of all corrections, as a share of this file's.
        noise_std: of what a hand adds to both commands.
        rng: draws that noise; needed only where there is some.
        params: the plant's constants.
    """

    def __init__(
        self,
        gain: float = 1.0,
        noise_std: float = 0.0,
        rng: np.random.Generator | None = None,
        params: RocketParams = DEFAULT_PARAMS,
    ) -> None:
        if noise_std > 0 and rng is None:
            raise ValueError("a noisy controller needs a generator")
        self.gain, self.noise_std, self._rng, self._params = gain, noise_std, rng, params

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 7) -> (B, 2)."""
        params, gain = self._params, self.gain
        x, y = measurement[:, 0] * params.half_width_m, measurement[:, 1] * params.half_height_m
        speed_x = measurement[:, 2] * params.frames_per_s / params.half_width_m
        speed_y = measurement[:, 3] * params.frames_per_s / params.half_height_m
        angle, turn = measurement[:, 4], measurement[:, 5] * params.frames_per_s / 20.0
        sideways = -gain * (PLACE_PER_S2 * x + SPEED_PER_S * speed_x) - measurement[:, 6] / MASS_KG
        descent = LANDING_M_PER_S + DESCENT_PER_S * np.maximum(y, 0.0)
        upward = params.gravity_m_per_s2 - gain * BRAKING_PER_S * (speed_y + descent)
        tilt = np.clip(np.arctan2(-sideways, np.maximum(upward, 0.5 * params.gravity_m_per_s2)), -MOST_TILT, MOST_TILT)
        turning = gain * (TILT_PER_S2 * (tilt - angle) - TURN_PER_S * turn)
        strongest = params.main_impulse_per_m * MAIN_BELOW * params.frames_per_s / MASS_KG  # m/s^2
        power = np.maximum(upward, 0.0) * np.cos(angle) / strongest
        # The engine runs with half its power at least: less is off, or half.
        main = np.where(power < 0.25, -1.0, np.maximum(2.0 * power - 1.0, 1e-3))
        side = -turning / TURN_RAD_PER_S2
        command = np.stack([main, side], axis=1)
        if self._rng is not None and self.noise_std > 0:
            command = command + self.noise_std * self._rng.standard_normal(command.shape)
        return np.asarray(np.clip(command, -1.0, 1.0))


def operator(rng: np.random.Generator, params: RocketParams = DEFAULT_PARAMS) -> Descent:
    """The unsteady hand whose logs `collect` writes; the released data come from other policies."""
    return Descent(OPERATOR_GAIN, OPERATOR_NOISE, rng, params)
