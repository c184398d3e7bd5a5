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

from envs.neorl.rocket import main_power, side_power


def pipeline(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """((200 - |flow' - target'|) / 100)^2 - 3: at most 1 a step, the target being the one that the step leads to."""
    del now
    return ((200.0 - abs(after["flow"] - after["target"])) / 100.0) ** 2 - 3.0


def rocket_recovery(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """What a step brought nearer to rest at the pad, less fuel; or 100 for a safe landing and -100 for any other.

    100 (|position| + |velocity| + |angle|) before the step, less the same after it, less 0.3 and 0.03 times the power
    of the main and the side engines. Safe is an angle below 0.3 and velocities below 0.5 (wide) and 2 (high), in the
    units of a frame.
    """
    library = _library(after["angle"])

    def away(at: Mapping[str, Any]) -> Any:
        pairs = ((at[f"{name}_x"], at[f"{name}_y"]) for name in ("position", "velocity"))
        return 100.0 * (sum(library.sqrt(x * x + y * y) for x, y in pairs) + abs(at["angle"]))

    fuel = 0.3 * main_power(now["main_engine"]) + 0.03 * side_power(now["side_engine"])
    slow = (abs(after["velocity_x"]) < 0.5) & (abs(after["velocity_y"]) < 2.0)
    landing = 200.0 * (slow & (abs(after["angle"]) < 0.3)) - 100.0
    return library.where(rocket_landed(now, after), landing, away(now) - away(after) - fuel)


def rocket_landed(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """An episode of RocketRecovery ends, well or badly, within 0.05 of the ground."""
    del now
    return abs(after["position_y"]) <= 0.05


def simglucose(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """1 + (risk - risk') / 100 with the risk 10 (1.509 (log(glucose)^1.084 - 5.381))^2, by the sensor, in mg/dL.

    -15 where the glucose comes to 40 or less, 0 where it comes to 600 or more. (Risk of blood glucose: Kovatchev et
    al., Diabetes Care 20(11), 1997.)
    """
    reached, library = after["glucose"], _library(after["glucose"])

    def risk(glucose: Any) -> Any:
        # A model may predict what no sensor shows: below 2 mg/dL the power has no real value.
        return 10.0 * (1.509 * (library.log(glucose.clip(2.0, None)) ** 1.084 - 5.381)) ** 2

    reward = 1.0 + (risk(now["glucose"]) - risk(reached)) / 100.0
    reward = library.where(reached <= 40.0, -15.0 + 0.0 * reward, reward)
    return library.where(reached >= 600.0, 0.0 * reward, reward)


def simglucose_ended(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """Whether the mean glucose of the step's three minutes lies below 40 or above 600 mg/dL, estimated by the sensor.

    The sensor is read every third minute and held: it shows a mean that is a minute older. A third of its change over
    the step makes up for that where the glucose rises or falls steadily.
    """
    mean = after["glucose"] + (after["glucose"] - now["glucose"]) / 3.0
    return (mean < 40.0) | (mean > 600.0)


# What one unit of error is measured in, by output.
FUSION_SCALES = {"beta_p": 0.2, "q95": 0.5, "internal_inductance": 0.05}
# Keeps the logarithm of perfectly met targets finite; the original has none.
FUSION_FLOOR = 1e-6


def fusion(now: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """-log of the root mean square of the scaled errors: outputs after the step against the targets before it."""
    library = _library(after["q95"])
    square = sum(((after[name] - now[f"{name}_target"]) / scale) ** 2 for name, scale in FUSION_SCALES.items()) / 3.0
    return -0.5 * library.log(square.clip(FUSION_FLOOR**2, None))


def _library(values: Any) -> ModuleType:
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(values, torch.Tensor) else np
