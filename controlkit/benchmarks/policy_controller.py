"""A trained policy as a controller of a simulated plant: the command that would go on the plant, before any safety."""

from __future__ import annotations

import torch

from controlkit.models.actor import Actor
from controlkit.objective import CommandLimits
from controlkit.spec import PlantSpec
from envs.simulation import Floats
from envs.window import ObservationWindow


class PolicyController:
    """Commands of a policy for B copies, clamped and rate limited as the exported controller's are.

    Until an episode is as old as the observation's window, its first measurement and the actions' safe values stand for
    what was before it.

    Args:
        actor: gives the command, without noise.
        spec: the plant, all of whose frame tags are measured.
    """

    def __init__(self, actor: Actor, spec: PlantSpec) -> None:
        self._actor, self._limits = actor, CommandLimits(spec)
        self._window = ObservationWindow(spec)
        self._command: Floats | None = None  # (B, m)

    def reset(self, batch: int) -> None:
        """Forgets the window."""
        self._command = None

    @torch.no_grad()
    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        # As stored data has them: float32.
        frame, last = measurement.astype("float32"), self._command
        seen = self._window.reset(frame) if last is None else self._window.step(last, frame)
        observation = torch.from_numpy(seen).float()
        wish = self._actor(observation).numpy()
        self._command = self._limits.apply(wish, observation.numpy()).astype("float32").astype("float64")
        return self._command
