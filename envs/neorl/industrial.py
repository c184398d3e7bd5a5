"""The Industrial Benchmark (Hein et al. 2017, arXiv 1709.09480).

Three steerings, velocity v, gain g and shift h in [0, 100], are moved by commands in [-1, 1], by at most 1, 10 and 5.75
a step. A setpoint p (70 in NeoRL, arXiv 2102.00714) is the load; nothing moves it. Two outputs are to be small: the
reward is -(consumption + 3 fatigue), which NeoRL takes as it is: returns are plain sums over 1000 steps. What is hard:

- *Delayed cost.* A step's operational cost exp((2 p + 4 v + 2.5 g) / 100) shows in the consumption five to nine steps
  later, spread over these steps by the weights 1/9, 2/9, 3/9, 2/9, 1/9 (0.11111, 0.22222, ... to five digits).
- *Hidden direction.* The shift is calibrated against a potential that turns as it is used (`industrial_goldstone`); it
  adds 25 (1 + V) to the consumption. It reads the effective shift h / 20 - p / 50 - 1.5, in [-1.5, 1.5].
- *Noise that grows.* The consumption is drawn from a normal distribution whose deviation is 1 + 0.005 x its mean.
- *Fatigue* is b (1 + 2 α) / 3 with b = max(0, 30000 / (5 v + 100) - g^2 / 100): low velocity and low gain wear the
  plant. For the gain and for the velocity there is an effective share e in [0, 1] (`effective_shares`), a noise

      n = s + (1 - s) u e with chance e, else s;    s = 2 / (1 + exp(-x)) - 1, x exponential of mean 0.1, u uniform,

  and a hidden wear w: e where e <= 0.05, else min(5, 1.1 w) once w >= 1.2, else 0.9 w + n / 3. α is the larger noise;
  once one wear is 5, it is 1 / (1 + exp(-y)) instead, y normal with mean 2.4 and deviation 0.4: about 0.92.

A frame holds setpoint, velocity, gain, shift, fatigue, consumption, in NeoRL's order. The consumption and fatigue of
a frame, noise included, are those that the reward counts: there is no measurement beside them.

All constants are those of the benchmark's reference implementation (Siemens); the state that it wrote after each of
1000 steps is met to 6 decimals when this code draws from the same stream. The reference can let the setpoint wander;
NeoRL holds it, and so does this plant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from controlkit.errors import ControlkitError
from envs.neorl import industrial_goldstone as goldstone
from envs.neorl.industrial_draws import LEAST_CHANCE, Draws, GeneratorDraws
from envs.simulation import Floats, checked_command

STEPS = 1000
FRAME_TAGS = ("setpoint", "velocity", "gain", "shift", "fatigue", "consumption")
# The effective shift spans this over the whole range of the shift, and is bounded.
EFFECTIVE_SHIFT_SCALE, SHIFT_BOUND = 5.0, 1.5
# Largest move of velocity, gain and shift in a step; the last takes nine tenths of one to reach the least radius.
LARGEST_STEP = (1.0, 10.0, goldstone.LEAST_RADIUS / 0.9 * 100.0 / EFFECTIVE_SHIFT_SCALE)
# Oldest cost first: 9, 8, ... 5 steps ago; the five since do not show yet.
DELAY_WEIGHTS = np.array([0.11111, 0.22222, 0.33333, 0.22222, 0.11111])
COST_MEMORY = 10
FATIGUE_WEIGHT = 3.0
# Of the two hidden states of the fatigue.
RESET_SHARE, GROWTH_START, GROWTH, MOST, FORGETTING = 0.05, 1.2, 1.1, 5.0, 0.9


@dataclass(frozen=True)
class IndustrialParams:
    """What may differ between plants of this kind.

    Attributes:
        setpoint: the load, 0 .. 100; 70 in NeoRL.
        start: velocity, gain and shift before an episode.
    """

    setpoint: float = 70.0
    start: tuple[float, float, float] = (50.0, 50.0, 50.0)


DEFAULT_PARAMS = IndustrialParams()


def effective_shares(velocity: Floats, gain: Floats, setpoint: float) -> Floats:
    """Effective gain and velocity, 0 .. 1 each, which the fatigue's noise follows: (B,), (B,) -> (2, B)."""
    gain_least, gain_span, velocity_least, velocity_span = _share_bounds(setpoint)
    shares = np.empty((2, len(velocity)))
    shares[0] = (1.0 / (gain + (1.0 + setpoint)) - gain_least) / gain_span
    shares[1] = ((gain + (2.0 + setpoint)) / (velocity + (101.0 - setpoint)) - velocity_least) / velocity_span
    return shares


@cache
def _share_bounds(setpoint: float) -> tuple[float, float, float, float]:
    """Least value and span of what is scaled to 0 .. 1: of the gain's reciprocal, of gain over velocity."""
    gain_least, gain_most = 1.0 / (101.0 + setpoint), 1.0 / (1.0 + setpoint)
    velocity_least, velocity_most = (2.0 + setpoint) / (201.0 - setpoint), (102.0 + setpoint) / (101.0 - setpoint)
    return gain_least, gain_most - gain_least, velocity_least, velocity_most - velocity_least


class VectorIndustrial:
    """B copies, stepped at once.

    Args:
        copies: B.
        rng: draws all noise.
        params: setpoint and start.
        draws: stands in for `rng`, such as the reference's stream.

    Raises:
        ControlkitError: no copy at all, a setpoint or start outside 0 .. 100.

    Attributes:
        time: steps since the reset.
        steering: (3, B) velocity, gain, shift.
        wear: (2, B) hidden states of the fatigue, of the gain and of the velocity.
        costs: (B, 10) operational costs, the oldest first.
        direction: (B,) numbers of the goldstone's states.
        calibration: (B,) -V, 1 at best.
        fatigue, consumption: (B,) the two outputs.
    """

    frame_tags = FRAME_TAGS

    def __init__(
        self,
        copies: int,
        rng: np.random.Generator,
        *,
        params: IndustrialParams = DEFAULT_PARAMS,
        draws: Draws | None = None,
    ) -> None:
        if copies < 1:
            raise ControlkitError(f"{copies} copies cannot be simulated", where="industrial", cure="Give 1 or more.")
        wrong = [value for value in (params.setpoint, *params.start) if not 0.0 <= value <= 100.0]
        if wrong:
            raise ControlkitError(f"{wrong[0]:g} is outside 0 .. 100", where="industrial", cure="Give a value inside.")
        self.copies, self.params = copies, params
        self._draws = draws or GeneratorDraws(copies, rng)
        self._reach = np.array(LARGEST_STEP)[:, None]
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the stream; returns the frame (B, 6) at time 0.

        As in the reference, a first step without a command gives the outputs of that frame.
        """
        self.steering = np.repeat(np.array(self.params.start)[:, None], self.copies, axis=1)
        self.wear = np.zeros((2, self.copies))
        self.costs = np.repeat(self._operational_cost()[:, None], COST_MEMORY, axis=1)
        self.direction = np.full(self.copies, goldstone.start_state())
        self._advance(np.zeros((self.copies, 3)))
        self.time = 0
        return self.true_frame

    def step(self, command: Any) -> Floats:
        """One step: (B, 3) for velocity, gain and shift, saturating at -1 and 1 -> frame (B, 6).

        Raises:
            ValueError: another shape.
            ControlkitError: a command that is not finite.
        """
        self._advance(checked_command(command, self.copies, 3, self.time))
        self.time += 1
        return self.true_frame

    @property
    def true_frame(self) -> Floats:
        """(B, 6) setpoint, velocity, gain, shift, fatigue, consumption."""
        frame = np.empty((self.copies, 6))
        frame[:, 0], frame[:, 1:4] = self.params.setpoint, self.steering.T
        frame[:, 4], frame[:, 5] = self.fatigue, self.consumption
        return frame

    @property
    def effective_shift(self) -> Floats:
        """(B,) what the goldstone reads."""
        shift = EFFECTIVE_SHIFT_SCALE * self.steering[2] / 100.0 - 0.02 * self.params.setpoint - SHIFT_BOUND
        return _bounded(shift, -SHIFT_BOUND, SHIFT_BOUND)

    @property
    def delayed_cost(self) -> Floats:
        """(B,) the operational cost that shows now."""
        shown: Floats = self.costs[:, : len(DELAY_WEIGHTS)] @ DELAY_WEIGHTS
        return shown

    @property
    def basic_fatigue(self) -> Floats:
        """(B,) the fatigue without its noise, times 3."""
        velocity, gain, _ = self.steering
        basic: Floats = np.maximum(0.0, 30000.0 / (5.0 * velocity + 100.0) - 0.01 * gain * gain)
        return basic

    def _advance(self, command: Floats) -> None:
        self.steering = _bounded(self.steering + self._reach * _bounded(command.T, -1.0, 1.0), 0.0, 100.0)
        self.fatigue = self._worn()
        self.costs[:, :-1] = self.costs[:, 1:]
        self.costs[:, -1] = self._operational_cost()
        shift = self.effective_shift
        self.direction = goldstone.next_states(self.direction, shift)
        self.calibration = -goldstone.potential(self.direction, shift)
        mean = self.delayed_cost + 25.0 * (1.0 - self.calibration)
        self.consumption = mean - self._draws.consumption() * (1.0 + 0.005 * mean)

    def _operational_cost(self) -> Floats:
        velocity, gain, _ = self.steering
        cost: Floats = np.exp((2.0 * self.params.setpoint + 4.0 * velocity + 2.5 * gain) / 100.0)
        return cost

    def _worn(self) -> Floats:
        """The fatigue (B,) of this step; moves its two hidden states."""
        velocity, gain, _ = self.steering
        share = effective_shares(velocity, gain, self.params.setpoint)  # (2, B)
        exponential, uniform, success = self._draws.fatigue(_bounded(share, LEAST_CHANCE, 1.0 - LEAST_CHANCE))
        noise = 2.0 / (1.0 + np.exp(-exponential)) - 1.0
        noise += (1.0 - noise) * uniform * success * share
        grown = np.where(
            self.wear >= GROWTH_START, np.minimum(MOST, GROWTH * self.wear), FORGETTING * self.wear + noise / 3.0
        )
        self.wear = np.where(share <= RESET_SHARE, share, grown)
        broken_in = self.wear.max(axis=0) == MOST  # (B,)
        needed = bool(broken_in.any())
        burst = self._draws.burst(needed)
        size = noise.max(axis=0)
        if needed:
            size = np.where(broken_in, 1.0 / (1.0 + np.exp(-burst)), size)
        fatigue: Floats = self.basic_fatigue * (1.0 + 2.0 * size) / 3.0
        return fatigue


def _bounded(values: Floats, low: float, high: float) -> Floats:
    bounded: Floats = np.minimum(np.maximum(values, low), high)  # np.clip takes twice as long for few copies
    return bounded
