"""Rewards and ends of the MuJoCo tasks, as functions of a plant file: now and after are tag -> values.

From NeoRL (arXiv 2102.00714) and NeoRL-2 (arXiv 2503.19267), all from x alone: v = (x' - x) / period is the mean
velocity of a step, a the commands as given, not as the motors saturate.

    HalfCheetah            v - 0.1 |a|^2
    Hopper, Walker2d       v - 0.001 |a|^2 + 1 for every step, the last one too
    RandomFrictionHopper   v - 0.001 |a|^2
    SafetyHalfCheetah      as HalfCheetah, but -100 where v > 3.2096, and an end there

Numpy arrays and torch tensors alike, with any leading dimensions. In float32 v is known to 2e-4 m/s at x = 100 m.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.neorl.mujoco_plants import HALF_CHEETAH, HOPPER, WALKER2D

CHEETAH_PERIOD_S, WALKER_PERIOD_S = 0.05, 0.008
CHEETAH_EFFORT_COST, WALKER_EFFORT_COST, STANDING_REWARD = 0.1, 1e-3, 1.0
SPEED_LIMIT_M_PER_S, SPEEDING_REWARD = 3.2096, -100.0

Values = Mapping[str, Any]


def half_cheetah(now: Values, after: Values) -> Any:
    """NeoRL's HalfCheetah-v3."""
    return _speed(now, after, CHEETAH_PERIOD_S) - CHEETAH_EFFORT_COST * _effort(now, HALF_CHEETAH.action_tags)


def hopper(now: Values, after: Values) -> Any:
    """NeoRL's Hopper-v3."""
    return random_friction_hopper(now, after) + STANDING_REWARD


def walker2d(now: Values, after: Values) -> Any:
    """NeoRL's Walker2d-v3."""
    effort = _effort(now, WALKER2D.action_tags)
    return _speed(now, after, WALKER_PERIOD_S) - WALKER_EFFORT_COST * effort + STANDING_REWARD


def random_friction_hopper(now: Values, after: Values) -> Any:
    """NeoRL-2's RandomFrictionHopper: nothing for standing."""
    return _speed(now, after, WALKER_PERIOD_S) - WALKER_EFFORT_COST * _effort(now, HOPPER.action_tags)


def safety_half_cheetah(now: Values, after: Values) -> Any:
    """NeoRL-2's SafetyHalfCheetah."""
    return _where(speeding(now, after), SPEEDING_REWARD, half_cheetah(now, after))


def speeding(now: Values, after: Values) -> Any:
    """Whether SafetyHalfCheetah was too fast."""
    return _speed(now, after, CHEETAH_PERIOD_S) > SPEED_LIMIT_M_PER_S


def _speed(now: Values, after: Values, period_s: float) -> Any:
    return (after["x"] - now["x"]) / period_s


def _effort(now: Values, commands: tuple[str, ...]) -> Any:
    return sum(now[command] * now[command] for command in commands)


def _where(condition: Any, value: float, otherwise: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(condition, torch.Tensor):
        return torch.where(condition, value, otherwise)
    return np.where(condition, value, otherwise)
