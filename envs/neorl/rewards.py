"""Reward formulas of the NeoRL-2 tasks, as `function` terms of a plant file: now and after are tag -> values.

Numpy arrays and torch tensors alike, with any leading dimensions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

# Keeps the logarithm of a perfectly met target finite, metres.
DMSD_FLOOR_M = 0.01


def dmsd(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """-sum over both masses of log(|position' - target'| + 0.01): at most 9.2 a step."""
    del now
    reward: Any = 0.0
    for mass in (1, 2):
        error = abs(after[f"position_{mass}"] - after[f"target_{mass}"])
        reward = reward - _log(error + DMSD_FLOOR_M)
    return reward


def _log(values: Any) -> Any:
    torch = sys.modules.get("torch")
    return torch.log(values) if torch is not None and isinstance(values, torch.Tensor) else np.log(values)
