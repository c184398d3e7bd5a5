"""Support in rollouts: does the log know this state and command?

The dynamics reward tells whether an outcome looks like the plant's, given a state and a command. It says little of
states that the log never visited: its discriminators never saw a true outcome there. A policy that finds a part of the
state space where the world model is wrong is then not stopped by the threshold. The distance to the nearest recorded
steps does stop it, and it is what the evaluation refuses by, too.

This is a deviation from MOREC, off by default (`filter.support`); its relative is the unknown-state detector of MOReL
(arXiv 2005.05951), which asks the ensemble's disagreement instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from controlkit.config import ScalingConfig
from controlkit.morec.dynamics import action_scaler, observation_scaler
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions

NEIGHBOURS = 5
# Recorded steps that distances are measured to, evenly over the log.
REFERENCE = 4096
AT_A_TIME = 1024
# Share of held-out recorded steps that lie inside.
PASS = 0.995


def thin(values: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly."""
    if len(values) <= most:
        return values
    return values[torch.linspace(0, len(values) - 1, most, dtype=torch.float64, device=values.device).round().long()]


def nearest_recorded(points: Tensor, reference: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the fifth nearest reference, and which is the nearest: (Q, D), (R, D), (D,) -> (Q,), (Q,) indices."""
    distances, nearest = [], []
    for part in points.split(AT_A_TIME):
        every = torch.cdist(part / spread, reference / spread)  # (q, R)
        found = every.topk(min(NEIGHBOURS, len(reference)), dim=1, largest=False)
        distances.append(found.values[:, -1])
        nearest.append(found.indices[:, 0])
    return torch.cat(distances), torch.cat(nearest)


class LogSupport:
    """Which steps (measured tags, command) lie as near to the log as nearly all held-out steps do.

    The cut is per step, not per trajectory as the threshold's is: over hundreds of steps every trajectory has a rare
    one, and a cut that lets those pass stops nobody.

    Args:
        log: recorded transitions that distances are measured to.
        held_out: whose steps calibrate the cut.
        scaling: floors of the scaling, and tags that do not count.
        limits: scale of the commands.

    Attributes:
        cut: the largest distance inside.
    """

    def __init__(
        self,
        log: LoggedTransitions,
        held_out: LoggedTransitions,
        scaling: ScalingConfig,
        limits: CommandLimits,
    ) -> None:
        self._frame_size = n = len(log.layout.frame_tags)
        spreads = (observation_scaler(log, scaling).spread[:n], action_scaler(log, limits, scaling).spread)
        self._spread = torch.cat([torch.from_numpy(part.copy()) for part in spreads]).to(log.rows.device)
        rows = thin(log.rows, REFERENCE)
        self._reference = self._steps(log, rows)
        tried = self._steps(held_out, thin(held_out.rows, REFERENCE))
        self.cut = float(torch.quantile(nearest_recorded(tried, self._reference, self._spread)[0], PASS))

    @torch.no_grad()
    def inside(self, observation: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, m) -> (B,) bool."""
        points = torch.cat([observation[:, : self._frame_size], action], dim=1)
        return nearest_recorded(points, self._reference, self._spread)[0] <= self.cut

    @staticmethod
    def _steps(log: LoggedTransitions, rows: Tensor) -> Tensor:
        return torch.cat([log.frames[rows], log.actions[rows]], dim=1)
