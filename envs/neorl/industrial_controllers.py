"""Reference controllers of the Industrial Benchmark, for B copies at once.

`Steered` brings velocity, gain and shift to fixed values and holds them there: the operator slowly and unsteadily, the
static optimum at once. Where that optimum lies was found by a search on the simulator: 12 000 settings in two rounds,
whose best has the reward -184.8 a step, 25 around it lie within 1. It is a fact about this simulator, not about a log.

`Swinging` knows more: the direction that the goldstone hides follows from the shifts, which are measured exactly, so it
keeps count of it; and it moves the shift by a plan that is optimal for 25 (1 + V), by dynamic programming over the 52
hidden states and a grid of shifts. It is the reference for what the shift is worth.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from envs.neorl import industrial_goldstone as goldstone
from envs.neorl.industrial import DEFAULT_PARAMS, EFFECTIVE_SHIFT_SCALE, LARGEST_STEP, SHIFT_BOUND, IndustrialParams
from envs.neorl.industrial_goldstone import Ints
from envs.simulation import Floats

# Velocity, gain and shift of the best constant setting for the setpoint 70.
STATIC_OPTIMUM = (38.0, 47.0, 60.5)
# An operator's: a safe setting, approached slowly, with an unsteady hand.
OPERATOR_SETTING, OPERATOR_GAIN, OPERATOR_NOISE = (50.0, 60.0, 50.0), 0.05, 0.5
# Of the plan: steps of the grid that the largest move of the shift spans, discount, sweeps.
MOVE, PLAN_DISCOUNT, SWEEPS = 4, 0.98, 400


class Still:
    """No command: the plant stays where an episode finds it."""

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 6) -> (B, 3)."""
        return np.zeros((len(measurement), 3))


class Random:
    """Uniform commands.

    Args:
        rng: draws them.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 6) -> (B, 3)."""
        return self._rng.uniform(-1.0, 1.0, (len(measurement), 3))


class Steered:
    """command = gain (setting - steering) / largest move + noise, in [-1, 1].

    Args:
        setting: wanted velocity, gain and shift.
        gain: share of the way taken in a step.
        noise_std: of what a hand adds to a command.
        rng: draws that noise; needed only where there is some.
    """

    def __init__(
        self,
        setting: tuple[float, float, float] = STATIC_OPTIMUM,
        gain: float = 1.0,
        noise_std: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        if noise_std > 0 and rng is None:
            raise ValueError("a noisy controller needs a generator")
        self.setting, self.gain, self.noise_std, self._rng = np.array(setting), gain, noise_std, rng
        self._reach = np.array(LARGEST_STEP)

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, 6) -> (B, 3)."""
        command: Floats = self.gain * (self.setting - measurement[:, 1:4]) / self._reach
        if self._rng is not None and self.noise_std > 0:
            command = command + self.noise_std * self._rng.standard_normal(command.shape)
        return np.clip(command, -1.0, 1.0, out=command)


class Swinging(Steered):
    """Velocity and gain at their static optimum, the shift by the plan for the hidden direction.

    Args:
        params: the plant's; the plan is for its setpoint.
    """

    def __init__(self, params: IndustrialParams = DEFAULT_PARAMS) -> None:
        super().__init__()
        self._offset = 0.02 * params.setpoint + SHIFT_BOUND
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Starts to count the hidden direction anew."""
        self._direction = np.full(batch, goldstone.start_state())

    def act(self, measurement: Floats) -> Floats:
        """(B, 6) -> (B, 3)."""
        shift = measurement[:, 3]
        effective = np.clip(EFFECTIVE_SHIFT_SCALE * shift / 100.0 - self._offset, -SHIFT_BOUND, SHIFT_BOUND)
        self._direction = goldstone.next_states(self._direction, effective)
        grid, plan = shift_plan()
        nearest = np.abs(effective[:, None] - grid).argmin(axis=1)
        wanted = 100.0 * (grid[nearest + plan[self._direction, nearest]] + self._offset) / EFFECTIVE_SHIFT_SCALE
        command = super().act(measurement)
        command[:, 2] = np.clip((wanted - shift) / LARGEST_STEP[2], -1.0, 1.0)
        return command


@cache
def shift_plan() -> tuple[Floats, Ints]:
    """The best move of the shift: grid (G,) of effective shifts, (52, G) steps of the grid to take, -4 .. 4.

    Value iteration for the discounted sum of 1 + V; the largest move is 4 steps of the grid.
    """
    step = EFFECTIVE_SHIFT_SCALE * LARGEST_STEP[2] / 100.0 / MOVE
    half = int(SHIFT_BOUND / step)
    grid: Floats = np.linspace(-half * step, half * step, 2 * half + 1)
    states, size = np.arange(goldstone.STATES), len(grid)
    pair = np.repeat(states, size), np.tile(grid, len(states))
    # Where a state goes when the shift is at g next, and what that costs.
    following = goldstone.next_states(*pair)
    cost = (1.0 + goldstone.potential(following, pair[1])).reshape(-1, size)
    following = following.reshape(-1, size)
    moves = np.arange(-MOVE, MOVE + 1)
    target = np.clip(np.arange(size)[:, None] + moves, 0, size - 1)  # (G, 9)
    value = np.zeros((len(states), size))
    for _ in range(SWEEPS):
        arriving = cost + PLAN_DISCOUNT * value[following, np.arange(size)]  # (52, G), at the shift arrived at
        value = arriving[:, target].min(axis=2)
    best = arriving[:, target].argmin(axis=2)  # (52, G)
    plan: Ints = target[np.arange(size), best] - np.arange(size)
    return grid, plan


def operator(rng: np.random.Generator) -> Steered:
    """The slow, unsteady hand whose logs `collect` writes; NeoRL's data come from other policies."""
    return Steered(OPERATOR_SETTING, OPERATOR_GAIN, OPERATOR_NOISE, rng)
