"""A trained policy as a controller of a simulated plant: the command that would go on the plant, before any safety."""

from __future__ import annotations

import numpy as np
import torch

from controlkit.layout import Layout
from controlkit.models.actor import Actor
from controlkit.objective import CommandLimits
from controlkit.spec import PlantSpec
from envs.simulation import Floats


class PolicyController:
    """Commands of a policy for B copies, clamped and rate limited as the exported controller's are.

    Until an episode is as old as the observation's window, its first measurement and the actions' safe values stand for
    what was before it.

    Args:
        actor: gives the command, without noise.
        spec: the plant, all of whose frame tags are measured.
    """

    def __init__(self, actor: Actor, spec: PlantSpec) -> None:
        self._actor, self._layout, self._limits = actor, Layout.from_spec(spec), CommandLimits(spec)
        self._safe = np.array([spec.tags[tag].safe for tag in spec.action_tags], dtype=np.float32)  # (m,)
        self._observation: np.ndarray | None = None  # (B, O)

    def reset(self, batch: int) -> None:
        """Forgets the window."""
        self._observation, self._command = None, np.tile(self._safe, (batch, 1))  # (B, m)

    @torch.no_grad()
    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        frame = measurement.astype(np.float32)
        if self._observation is None:
            parts = {"frame": frame, "action": self._command}
            self._observation = np.stack([parts[s.source][:, s.column] for s in self._layout.slots], axis=1)
        else:
            joined = np.concatenate([frame, self._command, self._observation], axis=1)
            self._observation = joined[:, self._layout.shift_index]
        wish = self._actor(torch.from_numpy(self._observation)).numpy()
        self._command = self._limits.apply(wish, self._observation).astype(np.float32)
        return self._command.astype(np.float64)
