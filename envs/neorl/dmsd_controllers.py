"""Reference controllers of DMSD, for B copies at once; all of them know the plant's constants.

Both feed the force forward that holds the masses at their targets. `PositionDerivative` adds a proportional and a
derivative part; `Braking` follows the velocity from which full force can still stop a mass at its target, and meets it
in one step by the inverse of the plant: nearly the least time that a move can take.
"""

from __future__ import annotations

import numpy as np

from envs.neorl.dmsd import DEFAULT_PARAMS, DmsdParams, holding_command, next_state
from envs.simulation import Floats

# Natural frequency 2.8 rad/s, damping ratio 0.9, of a free mass.
GAIN_PER_S2, RATE_GAIN_PER_S = 8.0, 5.0
# An operator's: much slower, and with an unsteady hand.
OPERATOR_GAIN_PER_S2, OPERATOR_RATE_GAIN_PER_S, OPERATOR_NOISE = 1.0, 1.0, 0.2


class PositionDerivative:
    """command = holding command + mass / full force (gain (target - position) - rate gain velocity) + noise.

    Args:
        gain_per_s2, rate_gain_per_s: acceleration per metre, and per metre per second.
        noise_std: of what a hand adds, as a share of the full force.
        rng: draws that noise; needed only where there is some.
        params: the plant's constants.
    """

    def __init__(
        self,
        gain_per_s2: float = GAIN_PER_S2,
        rate_gain_per_s: float = RATE_GAIN_PER_S,
        noise_std: float = 0.0,
        rng: np.random.Generator | None = None,
        params: DmsdParams = DEFAULT_PARAMS,
    ) -> None:
        if noise_std > 0 and rng is None:
            raise ValueError("a noisy controller needs a generator")
        self.gain_per_s2, self.rate_gain_per_s, self.noise_std = gain_per_s2, rate_gain_per_s, noise_std
        self._rng, self._params = rng, params

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 6) -> (B, 2)."""
        position, velocity, target = np.split(measurement, 3, axis=1)
        acceleration = self.gain_per_s2 * (target - position) - self.rate_gain_per_s * velocity
        command = holding_command(target, self._params) + acceleration * self._params.mass_kg / self._params.force_n
        if self._rng is not None and self.noise_std > 0:
            command = command + self.noise_std * self._rng.standard_normal(command.shape)
        return np.clip(command, -1.0, 1.0)


class Braking:
    """Moves each mass as fast as full force can still stop it at its target.

    Args:
        params: the plant's constants.
    """

    def __init__(self, params: DmsdParams = DEFAULT_PARAMS) -> None:
        self._params = params

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 6) -> (B, 2)."""
        position, velocity, target = np.split(measurement, 3, axis=1)
        params = self._params
        strongest = params.force_n / params.mass_kg  # m/s^2, of a free mass
        # The position of the next sample is settled already; the command shapes the move after it.
        gap = target - (position + params.dt_s * velocity)
        half_step = 0.5 * strongest * params.dt_s  # braking comes in steps
        stoppable = np.sqrt(2.0 * strongest * np.abs(gap) + half_step**2) - half_step
        wanted = np.sign(gap) * np.minimum(np.abs(gap) / params.dt_s, stoppable)
        free = next_state(measurement[:, :4], np.zeros_like(position), params)[:, 2:]
        return np.clip((wanted - free) / (params.dt_s * strongest), -1.0, 1.0)


def operator(rng: np.random.Generator, params: DmsdParams = DEFAULT_PARAMS) -> PositionDerivative:
    """The slow, unsteady hand whose logs `collect` writes; the released data come from other policies."""
    return PositionDerivative(OPERATOR_GAIN_PER_S2, OPERATOR_RATE_GAIN_PER_S, OPERATOR_NOISE, rng, params)
