"""What a behaviour policy sees of a plant while it is trained, as a gymnasium environment for any task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError, nearest
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from envs.neorl.behaviour.settings import TrainingSettings
from envs.rewards import RewardMeter, ended
from envs.simulation import Floats, VectorSimulator
from envs.tasks import Task
from envs.window import ObservationWindow

Frame = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """(observation - offset) x scale: what the networks see; the scale of an unseen slot is 0.

    Attributes:
        offset, scale: (O,) float32.
    """

    offset: Frame
    scale: Frame

    @classmethod
    def of(cls, spec: PlantSpec, settings: TrainingSettings) -> View:
        """The view that the settings ask for.

        Raises:
            ControlkitError: an unseen tag that the plant has not; names the nearest.
        """
        layout = Layout.from_spec(spec)
        for tag in settings.unseen:
            if tag not in layout.frame_tags:
                raise ControlkitError(
                    f"unknown tag '{tag}'", where=f"plant {spec.name}", cure=nearest(tag, layout.frame_tags)
                )
        slots = layout.slots if settings.window else layout.slots[: len(layout.frame_tags)]
        low, high = (np.array([getattr(slot, end) for slot in slots]) for end in ("low", "high"))
        seen = np.array([slot.tag not in settings.unseen for slot in slots])
        if settings.scaled:
            return cls(((low + high) / 2.0).astype(np.float32), (seen * 2.0 / (high - low)).astype(np.float32))
        return cls(np.zeros(len(slots), dtype=np.float32), seen.astype(np.float32))

    def __call__(self, observation: Floats) -> Frame:
        """(..., O) -> (..., O)."""
        seen: Frame = (observation.astype(np.float32) - self.offset) * self.scale
        return seen


class TrainingEnv(gymnasium.Env[Frame, Frame]):
    """One copy of a task's simulator: views of frames or windows, commands in [-1, 1], shifted and scaled rewards.

    Args:
        task: the task.
        settings: what is seen, and how rewards are shown.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, task: Task, settings: TrainingSettings) -> None:
        spec = task.spec()
        self._task, self._settings = task, settings
        self._plant: VectorSimulator | None = None
        self._meter, self._view = RewardMeter(spec), View.of(spec, settings)
        self._window = ObservationWindow(spec) if settings.window else None
        limits = np.array([spec.limits(tag) for tag in spec.action_tags], dtype=np.float64)
        self._low, self._span = limits[:, 0], limits[:, 1] - limits[:, 0]
        self._time = 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape=self._view.scale.shape, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, shape=(len(limits),), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts an episode, going on with the generator's stream; a seed starts that anew."""
        super().reset(seed=seed)
        if self._plant is None or seed is not None:
            self._plant = self._task.simulator(1, self.np_random)
        frame, self._time = self._plant.reset(), 0
        self._meter.reset(self._plant.true_frame)
        observation = self._window.reset(frame) if self._window else frame
        return self._view(observation[0]), {}

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """One period."""
        assert self._plant is not None, "reset comes first"
        share = (np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) + 1.0) / 2.0
        command = (self._low + share * self._span)[None]  # (1, m)
        frame = self._plant.step(command)
        self._time += 1
        reward = float(self._meter.step(command, self._plant.true_frame)[0])
        shown = (reward + self._settings.reward_offset) * self._settings.reward_scale
        observation = self._window.step(command, frame) if self._window else frame
        terminated = bool(ended(self._plant, self._meter)[0])
        return self._view(observation[0]), shown, terminated, self._time >= self._task.steps, {"true_reward": reward}
