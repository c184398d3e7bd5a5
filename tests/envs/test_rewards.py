"""The reward meter follows the objective, previous commands included."""

from __future__ import annotations

from typing import Any

import numpy as np

from controlkit.spec import PlantSpec
from envs.rewards import RewardMeter


def plant(objective: list[dict[str, Any]]) -> PlantSpec:
    pump = {"role": "action", "unit": "1", "range": [0, 5], "safe": 1.0, "fallback": {"kind": "hold"}}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {
                "level": {"role": "state", "unit": "m", "range": [0, 9], "history": 2},
                "inflow": {"role": "exogenous", "unit": "1", "range": [0, 9]},
                "valve": {**pump, "history": 3},
                "pump": pump,
            },
            "objective": objective,
        }
    )


def test_tracking_and_changes_of_commands_by_hand() -> None:
    meter = RewardMeter(
        plant(
            [
                {"kind": "track", "tag": "level", "setpoint": "inflow"},
                {"kind": "cost", "tag": "pump", "of": "change", "weight": 10},
            ]
        )
    )
    meter.reset(np.array([[5.0, 5.0], [1.0, 1.0]]))
    # before the first command the safe value 1 is in force
    first = meter.step(np.array([[0.0, 1.5], [0.0, 1.0]]), np.array([[4.0, 5.0], [3.0, 1.0]]))
    np.testing.assert_allclose(first, [-1.0 - 5.0, -2.0 - 0.0])
    second = meter.step(np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([[5.0, 5.0], [1.0, 1.0]]))
    np.testing.assert_allclose(second, [-5.0, -20.0])


def test_a_change_of_a_tag_is_from_frame_to_frame() -> None:
    meter = RewardMeter(plant([{"kind": "cost", "tag": "level", "of": "change"}]))
    meter.reset(np.array([[5.0, 0.0]]))
    np.testing.assert_allclose(meter.step(np.zeros((1, 2)), np.array([[7.0, 0.0]])), [-2.0])
    np.testing.assert_allclose(meter.step(np.zeros((1, 2)), np.array([[6.5, 0.0]])), [-0.5])
