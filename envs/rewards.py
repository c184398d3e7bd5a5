"""Rewards of simulated steps, from the plant file's objective and nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from controlkit.objective import Objective
from controlkit.spec import PlantSpec
from envs.simulation import Floats, VectorSimulator


def ended(simulator: VectorSimulator, meter: RewardMeter) -> npt.NDArray[np.bool_]:
    """(B,) whether the last step ended an episode: an `EndingSimulator` says so itself, else the plant file's rules."""
    # What isinstance would tell, without its 40 microseconds a step.
    own: npt.NDArray[np.bool_] | None = getattr(simulator, "ended", None)
    return meter.ended if own is None else own


class RewardMeter:
    """Follows B copies of a plant and values each of their steps by the objective.

    An objective reads the current frame and, where a change of a command costs something, the previous command. Only
    these slots of the observation are filled here; every other one is NaN, so that a formula that reads it shows.

    Args:
        spec: the plant.

    Attributes:
        ended: (B,) whether the plant file's rules ended the episode in the last step.
    """

    def __init__(self, spec: PlantSpec) -> None:
        self._objective = Objective(spec)
        layout = self._objective.layout
        self._frame_size = len(layout.frame_tags)
        self._observation_size = layout.size
        self._previous = [(column, slot) for column, slot in enumerate(layout.previous_command()) if slot is not None]
        self._first_command = np.array([spec.tags[tag].safe for tag in layout.action_tags], dtype=np.float64)  # (m,)
        self._observation = np.empty((0, layout.size))
        self.ended: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def reset(self, frame: Floats) -> None:
        """Starts with the frame (B, N) at time 0; before it, the safe values are taken to have been in force."""
        self.ended = np.zeros(len(frame), dtype=np.bool_)
        self._observation = np.full((len(frame), self._observation_size), np.nan)  # (B, O)
        self._remember(frame, np.broadcast_to(self._first_command, (len(frame), len(self._first_command))))

    def step(self, command: Floats, next_frame: Floats) -> Floats:
        """The rewards (B,) of the step that the command (B, m) led to the frame (B, N)."""
        reward = self._objective.reward(self._observation, command, next_frame)
        self.ended = np.asarray(self._objective.terminated(self._observation, command, next_frame), dtype=np.bool_)
        self._remember(next_frame, command)
        return np.asarray(reward, dtype=np.float64)

    def _remember(self, frame: Floats, command: Floats) -> None:
        self._observation[:, : self._frame_size] = frame
        for column, slot in self._previous:
            self._observation[:, slot] = command[:, column]
