"""The plant file's whole observation, history included, for B copies of a simulated plant that show single frames."""

from __future__ import annotations

import numpy as np

from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from envs.simulation import Floats


class ObservationWindow:
    """Remembers what the layout wants: O slots from the frames and commands so far.

    Until an episode is as old as the window, its first frame and the actions' safe values stand for what was before it.

    Args:
        spec: the plant.
    """

    def __init__(self, spec: PlantSpec) -> None:
        self.layout = Layout.from_spec(spec)
        self._safe = np.array([spec.tags[tag].safe for tag in spec.action_tags], dtype=np.float64)  # (m,)
        self._observation = np.empty((0, self.layout.size))

    def reset(self, frame: Floats) -> Floats:
        """The first observation: (B, n) -> (B, O)."""
        known = {"frame": frame, "action": np.broadcast_to(self._safe, (len(frame), len(self._safe)))}
        self._observation = np.stack([known[slot.source][:, slot.column] for slot in self.layout.slots], axis=1)
        return self._observation

    def step(self, command: Floats, frame: Floats) -> Floats:
        """The observation after a command (B, m) that led to the frame (B, n): (B, O)."""
        joined = np.concatenate([frame, command, self._observation], axis=1)
        self._observation = joined[:, self.layout.shift_index]
        return self._observation
