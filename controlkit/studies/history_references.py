"""Controllers that know the refrigerator's constants, with the door seen or hidden: what its noise and its hidden door
leave to be gained."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from envs.refrigerator import (
    DEFAULT_PARAMS,
    TEMPERATURE,
    Door,
    VectorRefrigerator,
    leak,
    next_temperature,
    power_to_reach,
)
from envs.simulation import Controller, Floats
from envs.tasks import get_task

# The search's own seed, apart from those of scores and logs.
SEARCH_SEED, SEARCH_COPIES, SEARCH_STEPS = 20_310_543, 8, 2000
GAINS = np.linspace(0.05, 1.0, 20)
INTEGRAL_GAINS = np.concatenate([[0.0], np.geomspace(1e-3, 0.5, 19)])


class ProportionalIntegral:
    """power = (power that holds the target with the door shut) + gain e + integral gain sum(e), e = T - target, clipped
    to the compressor's bounds; the sum stands still while the power is at a bound.

    Args:
        gain, integral_gain: per kelvin, and per kelvin and second; one number, or one per copy (B,).
    """

    def __init__(self, gain: float | Floats, integral_gain: float | Floats) -> None:
        self.gain, self.integral_gain = np.asarray(gain), np.asarray(integral_gain)
        self._hold = float(power_to_reach(-2.0, np.full(1, -2.0), np.zeros(1))[0])
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Empties the sum."""
        self._sum = np.zeros(batch)  # (B,)

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, 1)."""
        error = measurement[:, TEMPERATURE] - DEFAULT_PARAMS.target_c
        wish = self._hold + self.gain * error + self.integral_gain * (self._sum + error)
        power = np.clip(wish, DEFAULT_PARAMS.power_low, DEFAULT_PARAMS.power_high)
        self._sum = np.where(power == wish, self._sum + error, self._sum)
        return power[:, None]


class DoorGuess:
    """Deadbeat on a Kalman filter that takes the door to be as the last step betrayed it.

    Of the two temperatures that the last command could have led to, with the door shut and open, the nearer one to the
    measurement tells which it was; it is expected to stay so. Knows the plant's constants and its sensor's noise.

    Args:
        noise: standard deviation of the sensor, kelvin.
    """

    def __init__(self, noise: float = 0.1) -> None:
        self._noise = noise
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Knows nothing: the first measurement becomes the estimate, the door is shut."""
        self._power: Floats | None = None  # (B,)
        self._door = np.zeros(batch)  # (B,)

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, 1)."""
        seen = measurement[:, TEMPERATURE]
        if self._power is None:
            self._estimate, self._variance = seen.copy(), np.full(len(seen), self._noise**2)
        else:
            expected = np.stack([next_temperature(self._estimate, self._power, np.full(len(seen), d)) for d in (0, 1)])
            self._door = np.abs(expected - seen).argmin(axis=0).astype(float)
            before = (1.0 - leak(self._door)) ** 2 * self._variance
            trust = before / (before + self._noise**2)
            along = np.take_along_axis(expected, self._door[None].astype(int), axis=0)[0]
            self._estimate, self._variance = along + trust * (seen - along), (1.0 - trust) * before
        wish = power_to_reach(DEFAULT_PARAMS.target_c, self._estimate, self._door)
        self._power = np.clip(wish, DEFAULT_PARAMS.power_low, DEFAULT_PARAMS.power_high)
        return self._power[:, None]


@lru_cache(maxsize=2)
def best_gains(integral: bool) -> tuple[float, float]:
    """The gains of the best `ProportionalIntegral` (or proportional) law: those of a grid with the smallest mean
    |T - target| of the true temperature in simulations that no score is made with."""
    gain, slow = (grid.ravel() for grid in np.meshgrid(GAINS, INTEGRAL_GAINS if integral else np.zeros(1)))
    each = [np.repeat(values, SEARCH_COPIES) for values in (gain, slow)]
    simulator = VectorRefrigerator(len(each[0]), np.random.default_rng(SEARCH_SEED))
    law, total = ProportionalIntegral(*each), np.zeros(len(each[0]))
    law.reset(simulator.copies)
    measured = simulator.reset()
    for _ in range(SEARCH_STEPS):
        measured = simulator.step(law.act(measured))
        total += np.abs(simulator.true_temperature - DEFAULT_PARAMS.target_c)
    best = int(total.reshape(-1, SEARCH_COPIES).mean(axis=1).argmin())
    return float(gain[best]), float(slow[best])


def reference_controllers(door: Door) -> dict[str, Controller]:
    """The task's operator and what is possible beside it, by name."""
    task, rng = get_task("refrigerator"), np.random.default_rng(0)
    names = (task.behaviour, *(task.references if door == "seen" else ()))
    found = {name: task.controller(name, rng) for name in names}
    if door == "hidden":
        found["best proportional"] = ProportionalIntegral(*best_gains(False))
        found["best PI"] = ProportionalIntegral(*best_gains(True))
        found["Kalman, door guessed"] = DoorGuess()
    return found
