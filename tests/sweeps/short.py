"""The shortest training that still goes through every stage."""

from __future__ import annotations

from typing import Any

SHORT: dict[str, Any] = {
    "dynamics": {"members": 2, "elites": 1, "max_epochs": 1},
    "reward": {"method": "noise", "networks": 1, "snapshots": 1, "updates": 10, "behaviour_updates": 10},
    "rollout": {"starts": 10, "every": 10},
    "policy": {"updates": 30, "warm_start": 2},
    "checkpoint_every": 1,
}
