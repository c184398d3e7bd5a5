"""Where the Industrial Benchmark's random numbers come from: one generator for B copies, or the reference's stream."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from envs.simulation import Floats

# Mean of the exponential part of the fatigue's noise; mean and deviation of what a broken-in fatigue draws.
EXPONENTIAL_MEAN, BURST_MEAN, BURST_STD = 0.1, 2.4, 0.4
# Keeps a success possible, and a failure.
LEAST_CHANCE = 0.001


class Draws(Protocol):
    """What a step draws, in this order; rows 0 and 1 of an array (2, B) belong to the gain and to the velocity."""

    def fatigue(self, chance: Floats) -> tuple[Floats, Floats, Floats]:
        """Exponential, uniform, and 1 with the given chance, else 0: each (2, B)."""

    def burst(self, needed: bool) -> Floats:
        """(B,) normal numbers of mean 2.4 and deviation 0.4; read only where `needed`."""

    def consumption(self) -> Floats:
        """(B,) standard normal numbers."""


class GeneratorDraws:
    """B copies from one generator; a step draws as much whatever was commanded.

    Args:
        copies: B.
        rng: the generator.
    """

    def __init__(self, copies: int, rng: np.random.Generator) -> None:
        self._copies, self._rng = copies, rng
        self._normal: Floats = np.zeros((2, copies))

    def fatigue(self, chance: Floats) -> tuple[Floats, Floats, Floats]:
        """See `Draws`."""
        exponential = self._rng.exponential(EXPONENTIAL_MEAN, (2, self._copies))
        uniform = self._rng.random((2, 2, self._copies))
        self._normal = self._rng.standard_normal((2, self._copies))
        return exponential, uniform[0], (uniform[1] < chance).astype(np.float64)

    def burst(self, needed: bool) -> Floats:
        """See `Draws`."""
        burst: Floats = BURST_MEAN + BURST_STD * self._normal[0]
        return burst

    def consumption(self) -> Floats:
        """See `Draws`."""
        standard: Floats = self._normal[1]
        return standard


class ReferenceDraws:
    """One copy, drawn as the reference implementation draws: numpy's legacy generator, in its order.

    Whether a burst is drawn depends on the plant's state here, so that equal seeds do not give equal disturbances to
    every controller: this is for comparison with the reference.

    Args:
        seed: what the reference seeds numpy's global generator with.

    Attributes:
        stream: the legacy generator; a caller may draw from it between two steps.
    """

    def __init__(self, seed: int) -> None:
        self.stream = np.random.RandomState(seed)  # of its own; numpy's global one stays alone
        # The reference plans a wandering setpoint first, used or not: how long, how fast, whether it rests.
        self.stream.randint(1, 100)
        self.stream.random_sample(2)

    def fatigue(self, chance: Floats) -> tuple[Floats, Floats, Floats]:
        """See `Draws`."""
        exponential = self.stream.exponential(EXPONENTIAL_MEAN, (2, 1))
        uniform = self.stream.random_sample((2, 1))
        return exponential, uniform, self.stream.binomial(1, chance).astype(np.float64)

    def burst(self, needed: bool) -> Floats:
        """See `Draws`."""
        return self.stream.normal(BURST_MEAN, BURST_STD, 1) if needed else np.zeros(1)

    def consumption(self) -> Floats:
        """See `Draws`."""
        return np.asarray(self.stream.standard_normal(1))
