"""The hidden, turning non-linearity of the Industrial Benchmark (arXiv 1709.09480): its miscalibration.

What an effective shift r costs is a linearly biased Goldstone potential, scaled so that its deepest point is -1:

    V(r, φ) = (r^4 - 2 r^2 - 8 sqrt(2/27) sin(φ) r) / λ

The direction φ = 15 degrees x index is hidden and turns with every step, between -90 and 90 degrees (index -6 .. 6):

- an effective shift inside the safe zone, |r| <= sin(15°)/2, lets it come back to 0, one index a step;
- outside, it turns towards the side of the shift, one index a step, as long as the plant responds advantageously. At
  90 degrees the plant has had enough: the response becomes disadvantageous, and a shift that stays on its side turns
  the direction back and over to the opposite one, where V is worst for it, and where it stays;
- a shift to the other side, or a rest at direction 0 inside the safe zone, makes the response advantageous again.

So the best shift swings from side to side. Its size follows the direction, too: the potential's minimum is moved to
r = max(|sin φ|, sin 15°) on the side of φ, by a stretch of r that leaves 0 and +-2 where they are.

Nothing here is drawn. The direction, the response and the side make 52 states; a table holds where each goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STEPS_PER_TURN = 24
STRONGEST = STEPS_PER_TURN // 4  # index of 90 degrees
STATES = 2 * 2 * (2 * STRONGEST + 1)
LEAST_RADIUS = math.sin(math.radians(15.0))
SAFE_ZONE = LEAST_RADIUS / 2.0
# Of the potential: the radius at which it is deepest for a direction of 90 degrees, and what scales that depth to -1.
_BIAS = 8.0 * math.sqrt(2.0 / 27.0)
_CUBE = (1.0 + math.sqrt(2.0)) ** (1.0 / 3.0) / math.sqrt(3.0)
_DEEPEST = _CUBE + 1.0 / (3.0 * _CUBE)
_DEPTH = 2.0 * _DEEPEST**2 - _DEEPEST**4 + _BIAS * _DEEPEST  # λ
# The stretch of r leaves +-2 where it is.
_FIXED_RADIUS = 2.0


@dataclass(frozen=True)
class Direction:
    """The hidden state: which side the shift was on last, how the plant responds, the index of the direction.

    Attributes:
        side: 1 or -1. response: 1 advantageous, -1 disadvantageous. index: -6 .. 6, each 15 degrees.
    """

    side: int = 1
    response: int = 1
    index: int = 0


START = Direction()


def turned(direction: Direction, zone: int) -> Direction:
    """The direction one step later; `zone` is 0 for a shift inside the safe zone, else the shift's side."""
    side = zone or direction.side
    response = 1 if side != direction.side else direction.response
    index = direction.index
    if zone == 0:
        index -= (index > 0) - (index < 0)
    elif index != -side * STRONGEST:
        index += response * zone
    if abs(index) >= STRONGEST:
        response = -1
    if abs(index) > STRONGEST:  # beyond 90 degrees the directions repeat in reverse
        index = int(math.copysign(2 * STRONGEST, index)) - index
    return START if zone == 0 and index == 0 else Direction(side, response, index)


def potential_minimum(angle_rad: float) -> float:
    """The radius at which the potential of a direction is deepest: the largest root of r^3 - r = b |sin φ|, signed."""
    bias = _BIAS * abs(math.sin(angle_rad)) / 4.0
    limit = 2.0 / math.sqrt(27.0)  # up to here the cubic has three real roots
    if bias >= limit:
        root = (bias / 2.0 + math.sqrt(max(bias**2 / 4.0 - 1.0 / 27.0, 0.0))) ** (1.0 / 3.0)
        radius = root + 1.0 / (3.0 * root)
    else:
        radius = 2.0 / math.sqrt(3.0) * math.cos(math.acos(bias / limit) / 3.0)
    return math.copysign(radius, math.sin(angle_rad)) if math.sin(angle_rad) else radius


@cache
def _tables() -> tuple[tuple[Direction, ...], Ints, Floats]:
    """The 52 states, (52, 3) the state after each for zones -1, 0, 1, and (6, 52) what the potential needs of each."""
    states = tuple(
        Direction(side, response, index)
        for side in (1, -1)
        for response in (1, -1)
        for index in range(-STRONGEST, STRONGEST + 1)
    )
    number = {state: i for i, state in enumerate(states)}
    following = np.array([[number[turned(state, zone)] for zone in (-1, 0, 1)] for state in states], dtype=np.int64)
    return states, following, np.array([_stretch(state.index) for state in states]).T.copy()


def _stretch(index: int) -> list[float]:
    """Best radius; slope below it; exponent, factor and offset beyond it; the bias of the potential."""
    angle = 2.0 * math.pi * index / STEPS_PER_TURN
    best = max(abs(math.sin(angle)), LEAST_RADIUS)
    deepest = abs(potential_minimum(angle))
    exponent = (_FIXED_RADIUS - best) / (_FIXED_RADIUS - deepest)
    factor = (_FIXED_RADIUS - deepest) / (_FIXED_RADIUS - best) ** exponent
    return [best, deepest / best, exponent, factor, deepest, _BIAS * math.sin(angle)]


def start_state() -> int:
    """Number of the state in which an episode begins."""
    return _tables()[0].index(START)


def next_states(state: Ints, shift: Floats) -> Ints:
    """Numbers of the states one step later: (B,) numbers, (B,) effective shifts -> (B,)."""
    zone = (shift > SAFE_ZONE).astype(np.int64) - (shift < -SAFE_ZONE)
    moved: Ints = _tables()[1][state, zone + 1]
    return moved


def potential(state: Ints, shift: Floats) -> Floats:
    """V of each state at an effective shift: (B,) numbers, (B,) -> (B,), -1 at best."""
    best, slope, exponent, factor, deepest, bias = _tables()[2][:, state]
    size = np.abs(shift)
    beyond = np.maximum(size - best, 0.0)
    stretched = np.where(beyond > 0.0, deepest + factor * beyond**exponent, slope * size)
    radius = np.copysign(stretched, shift)
    square = radius * radius
    value: Floats = (square * (square - 2.0) - bias * radius) / _DEPTH
    return value


def described(state: Ints) -> tuple[Floats, Floats, Floats]:
    """Side, response and index of numbered states: (B,) -> three (B,)."""
    chosen = [_tables()[0][int(number)] for number in state]
    side, response, index = np.array([(one.side, one.response, one.index) for one in chosen], dtype=np.float64).T
    return side, response, index
