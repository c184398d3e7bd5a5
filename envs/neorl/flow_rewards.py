"""Reward formulas of Pipeline, RocketRecovery, Simglucose and Fusion (NeoRL-2, arXiv 2503.19267).

As `function` terms of a plant file: now and after are tag -> values.

Numpy arrays and torch tensors alike, with any leading dimensions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np


def pipeline(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """((200 - |flow' - target'|) / 100)^2 - 3: at most 1 a step, the target being the one that the step leads to."""
    del now
    return ((200.0 - abs(after["flow"] - after["target"])) / 100.0) ** 2 - 3.0


def _library(values: Any) -> ModuleType:
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(values, torch.Tensor) else np
