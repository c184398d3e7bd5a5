"""How commands are distributed, and how fast they move: the record beside a policy's rollouts, for the plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from controlkit.evaluation.envelope import changes_of
from controlkit.replay import thinned
from controlkit.spec import PlantSpec

BINS = 40
SHARES = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
ENDS = (0.005, 0.995)
MAX_VALUES = 100_000


def spans(commands: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Per actuator the middle 99 % of commands (..., m) from several sources, of which each counts alike: m ends."""
    shares = torch.tensor(ENDS, dtype=torch.float64)
    found = [torch.quantile(thinned(each.flatten(0, -2).double(), MAX_VALUES), shares, dim=0) for each in commands]
    ends = torch.stack(found)  # (sources, 2, m)
    return list(zip(ends[:, 0].amin(dim=0).tolist(), ends[:, 1].amax(dim=0).tolist(), strict=True))


def distributions(
    spec: PlantSpec, actions: Tensor, alive: Tensor, ends: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    """Per actuator, from commands along time (H, B, m) with (H, B) whether each counts.

    Args:
        spec: the plant.
        actions, alive: the commands.
        ends: per actuator where the bins begin and end; what lies beyond counts in the last ones.

    Returns:
        For each: `edges` of `BINS` equal bins and the `share` of periods in each, and `rates`: the speed (unit per
        second) that a share of the periods (`SHARES`) does not exceed.
    """
    found = []
    for column, tag in enumerate(spec.action_tags):
        low, high = ends[column]
        if not low < high:  # a command that never moves
            low, high = low - 0.5, high + 0.5
        values = actions[..., column][alive].double()
        counts = torch.histc(values.clamp(low, high), bins=BINS, min=low, max=high)
        changes = changes_of(actions[..., column], alive).abs() / spec.period_s
        changes = thinned(changes, MAX_VALUES)
        shares = torch.tensor(SHARES, dtype=torch.float64)
        found.append(
            {
                "tag": tag,
                "unit": spec.tags[tag].unit,
                "edges": torch.linspace(low, high, BINS + 1, dtype=torch.float64).tolist(),
                "share": (counts / max(1, len(values))).tolist(),
                "rates": torch.quantile(changes, shares).tolist() if len(changes) else [0.0] * len(SHARES),
            }
        )
    return found
