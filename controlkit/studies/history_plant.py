"""The partially observed refrigerator: its plant files with any history, its logs, and what models of it are judged by.

The sensor is noisy in all of them (0.1 °C); the door is seen or hidden. A log is the same whether the door is seen or
not: the operator looks at the temperature alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from controlkit.dataset import TransitionDataset
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.dynamics import WorldModel
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from envs.refrigerator import Door, VectorRefrigerator
from envs.simulation import Floats, spawned_seeds
from envs.tasks import get_task

TASK = "refrigerator"
DOORS: tuple[Door, ...] = ("seen", "hidden")
PERIOD_NS = 10**9
# Seeds of the judging logs, apart from those of any training log.
JUDGED_SEED = 940_000
# The longest history; every model is judged at the same times, which have as many samples before them.
WARM_UP = 20


def windowed_spec(history: int, door: Door) -> PlantSpec:
    """The refrigerator's plant file with so many earlier samples (and commands) in an observation, door or no door."""
    content = get_task(TASK).spec().to_dict()
    if door == "hidden":
        del content["tags"]["door"]
    for tag in content["tags"].values():
        tag["history"] = history
    return PlantSpec.from_dict(content)


@dataclass(frozen=True)
class Logged:
    """B closed loops of K steps: measured temperature and door (B, K + 1, 2), commands (B, K, 1), and the true
    temperature (B, K + 1)."""

    frames: Floats
    actions: Floats
    true: Floats

    def dataset(self, history: int, door: Door) -> TransitionDataset:
        """As a data set: copy b's step t is row b (K + 1) + t."""
        copies, rows = self.true.shape
        spec = windowed_spec(history, door)
        frames = self.frames[..., : len(spec.frame_tags)].reshape(copies * rows, -1)
        return TransitionDataset.from_frames(
            spec,
            frames=frames.astype(np.float32),
            actions=np.concatenate([self.actions, self.actions[:, -1:]], axis=1).reshape(-1, 1).astype(np.float32),
            episode=np.repeat(np.arange(copies), rows),
            time_ns=np.arange(copies * rows, dtype=np.int64) * PERIOD_NS,
            sources={"simulated": "0" * 64},
        )


def record(controller: str, seed: int, *, copies: int = 1, steps: int) -> Logged:
    """Runs one of the task's controllers that need no door, with sensor noise, from T = 10."""
    plant, hand = (np.random.default_rng(s) for s in spawned_seeds(seed, 2))
    simulator = VectorRefrigerator(copies, plant, noise="measurement")
    law = get_task(TASK).controller(controller, hand)
    law.reset(copies)
    measured = simulator.reset()
    frames, actions, true = [measured], [], [simulator.true_temperature.copy()]
    for _ in range(steps):
        actions.append(law.act(measured))
        measured = simulator.step(actions[-1])
        frames.append(measured)
        true.append(simulator.true_temperature.copy())
    return Logged(np.stack(frames, axis=1), np.stack(actions, axis=1), np.stack(true, axis=1))


@lru_cache(maxsize=8)
def judging_log(controller: str, copies: int, steps: int) -> Logged:
    """A log that no model was fitted to."""
    return record(controller, JUDGED_SEED, copies=copies, steps=steps)


@dataclass(frozen=True)
class ModelErrors:
    """How far from the true temperature a world model is, kelvin.

    Attributes:
        one_step: root mean square after one step; one_step_open: the same where the door stood open.
        rollout: mean absolute error over the steps of rollouts along recorded commands (and doors, where seen).
    """

    one_step: float
    one_step_open: float
    rollout: float


@torch.no_grad()
def judge_model(
    ensemble: GaussianEnsemble, history: int, door: Door, logged: Logged, steps: int, every: int
) -> ModelErrors:
    """Judges the elites' mean on a log whose true temperatures are known.

    Args:
        ensemble: predicts the next temperature.
        history, door: what it observes.
        logged: the closed loops.
        steps: of a rollout; one begins at every `every`-th step, the first at `WARM_UP`.
    """
    data = logged.dataset(history, door)
    log, world = LoggedTransitions(data), WorldModel(ensemble, data.spec)
    true = torch.from_numpy(logged.true.reshape(-1)).float()
    copies, rows = logged.true.shape
    first = torch.arange(copies).unsqueeze(1) * rows
    at = (first + torch.arange(WARM_UP, rows - 1)).flatten()
    error = _mean(ensemble, log.observe(at), log.actions[at])[:, 0] - true[at + 1]
    is_open = torch.from_numpy(logged.frames[..., 1].reshape(-1))[at] > 0.5
    started = (first + torch.arange(WARM_UP, rows - steps, every)).flatten()
    observation, total = log.observe(started), 0.0
    for step in range(steps):
        now = started + step
        state = _mean(ensemble, observation, log.actions[now])
        frame = world.next_frame(state, log.frames[now + 1])
        total += float((frame[:, 0] - true[now + 1]).abs().mean())
        observation = world.next_observation(observation, log.actions[now], frame)
    return ModelErrors(_rms(error), _rms(error[is_open]), total / steps)


def _mean(ensemble: GaussianEnsemble, observation: Tensor, action: Tensor) -> Tensor:
    mean: Tensor = ensemble(observation, action)[0].mean(dim=0)
    return mean


def _rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())
