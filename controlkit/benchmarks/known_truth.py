"""The refrigerator with its truth at hand: what a transition filter picks, and how far from the plant that is.

The plant is measured without history, so that an observation is a state: temperature and door. A log of 2000 samples of
the operator is all that anything is fitted to. What is picked is judged by the noise-free next temperature: at the
states and commands of another log (in), and far outside any log (out): temperature in -15 .. 20, power in 0 .. 10,
evenly, the door open or shut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlkit.dataset import TransitionDataset
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.ranks import spearman
from controlkit.spec import PlantSpec
from envs.refrigerator import Noise, VectorRefrigerator, next_temperature
from envs.simulation import Floats, spawned_seeds
from envs.tasks import get_task

TASK = "refrigerator"
ROWS, POINTS = 2000, 2000
PERIOD_NS = 10**9
# Seeds of the points that methods are judged at, apart from those of any log.
INSIDE_SEED, OUTSIDE_SEED, ROLLOUT_SEED = 910_000, 920_000, 930_000
COPIES, STEPS = 50, 100
# Outcomes around the truth by which a reward is ranked, beside the real candidates: decades, in typical changes.
DISPLACEMENTS = torch.linspace(-1.5, 0.5, 16)

# (observation (B, O), command (B, m), candidates (C, B, S)) -> scores (C, B), the higher the better
Score = Callable[[Tensor, Tensor, Tensor], Tensor]
# (observation (B, O), command (B, m)) -> next state tags (B, S)
Predict = Callable[[Tensor, Tensor], Tensor]


def plain_spec() -> PlantSpec:
    """The refrigerator's plant file without history."""
    content = get_task(TASK).spec().to_dict()
    for tag in content["tags"].values():
        tag["history"] = 0
    return PlantSpec.from_dict(content)


def operator_log(noise: Noise, seed: int, rows: int = ROWS) -> TransitionDataset:
    """One episode of the logged operator."""
    return _logged(noise, seed, rows)[0]


@dataclass(frozen=True)
class Points:
    """States and commands with what the plant makes of them: (B, 2), (B, 1), (B, 1)."""

    observation: Tensor
    action: Tensor
    truth: Tensor

    @classmethod
    def of(cls, temperature: Floats, door: Floats, power: Floats) -> Points:
        """From (B,) each."""
        following = next_temperature(temperature, power, door)
        columns = (np.stack([temperature, door], axis=1), power[:, None], following[:, None])
        observation, action, truth = (torch.tensor(x, dtype=torch.float32) for x in columns)
        return cls(observation, action, truth)

    @classmethod
    def inside(cls, noise: Noise) -> Points:
        """True states and commands along another log of the operator."""
        data, temperature = _logged(noise, INSIDE_SEED, POINTS)
        return cls.of(temperature[:-1], data.frames[:-1, 1].astype(float), data.actions[:-1, 0].astype(float))

    @classmethod
    def outside(cls) -> Points:
        """Evenly over temperatures and powers that no log holds."""
        rng = np.random.default_rng(OUTSIDE_SEED)
        door = (rng.random(POINTS) < 0.5).astype(float)
        return cls.of(rng.uniform(-15.0, 20.0, POINTS), door, rng.uniform(0.0, 10.0, POINTS))


@dataclass(frozen=True)
class Picked:
    """What a score picks among an ensemble's candidates.

    Attributes:
        error: mean distance of the pick to the truth, kelvin; ratio: that, to the ensemble mean's.
        rank: mean over states and commands of the rank correlation of the score with minus the candidates' error.
        rank_displaced: the same among outcomes displaced from the truth.
    """

    error: float
    ratio: float
    rank: float
    rank_displaced: float


@torch.no_grad()
def candidates(
    ensemble: GaussianEnsemble, observation: Tensor, action: Tensor, generator: torch.Generator, samples: int = 2
) -> Tensor:
    """Two samples of each elite, the elites' means and their mean, which comes last: (C, B, S)."""
    means, stds = ensemble(observation, action)
    drawn = [means + stds * torch.empty_like(means).normal_(generator=generator) for _ in range(samples)]
    return torch.cat([*drawn, means, means.mean(dim=0, keepdim=True)])


@torch.no_grad()
def judge_picks(score: Score, ensemble: GaussianEnsemble, points: Points, seed: int) -> Picked:
    """Scores the candidates for all points and looks at the ones with the highest scores."""
    generator = torch.Generator().manual_seed(seed)
    offered = candidates(ensemble, points.observation, points.action, generator)  # (C, B, S)
    error = (offered - points.truth).norm(dim=-1)  # (C, B)
    scores = score(points.observation, points.action, offered)
    picked = error.gather(0, scores.argmax(dim=0, keepdim=True)).mean()
    noise = torch.empty(len(DISPLACEMENTS), *points.truth.shape).normal_(generator=generator)
    displaced = points.truth + ensemble.change_scaler.spread * 10.0 ** DISPLACEMENTS[:, None, None] * noise
    of_displaced = score(points.observation, points.action, displaced)
    return Picked(
        float(picked),
        float(picked / error[-1].mean()),
        float(spearman(scores.T, -error.T).mean()),
        float(spearman(of_displaced.T, -(displaced - points.truth).norm(dim=-1).T).mean()),
    )


def rollout_mae(predict: Predict, controller: str, *, copies: int = COPIES, steps: int = STEPS) -> float:
    """Mean |T - true T| over rollouts of a controller in a model, door as in the true one; without noise, kelvin."""
    task = get_task(TASK)
    simulator = VectorRefrigerator(copies, np.random.default_rng(ROLLOUT_SEED), noise="none")
    law = task.controller(controller, np.random.default_rng(ROLLOUT_SEED))
    law.reset(copies)
    measured, true, doors = simulator.reset(), [], []
    for _ in range(steps):
        doors.append(measured[:, 1].copy())
        measured = simulator.step(law.act(measured))
        true.append(simulator.true_temperature.copy())
    law.reset(copies)
    low, high = plain_spec().tags["temperature"].range
    temperature, total = np.full(copies, simulator.start_c), 0.0
    for step in range(steps):
        frame = np.stack([temperature, doors[step]], axis=1)
        command = law.act(frame)
        following = predict(torch.tensor(frame, dtype=torch.float32), torch.tensor(command, dtype=torch.float32))
        temperature = following[:, 0].double().clamp(low, high).numpy()
        total += float(np.abs(temperature - true[step]).mean())
    return total / steps


def picking(score: Score, ensemble: GaussianEnsemble, seed: int) -> Predict:
    """A model that moves to the candidate with the highest score."""
    generator = torch.Generator().manual_seed(seed)

    def predict(observation: Tensor, action: Tensor) -> Tensor:
        with torch.no_grad():
            offered = candidates(ensemble, observation, action, generator)
            choice = score(observation, action, offered).argmax(dim=0)
        return offered[choice, torch.arange(len(observation))]

    return predict


def _logged(noise: Noise, seed: int, rows: int) -> tuple[TransitionDataset, Floats]:
    """The data set of one episode of `rows` steps, and its true temperatures (rows + 1,)."""
    plant, operator = (np.random.default_rng(s) for s in spawned_seeds(seed, 2))
    simulator, task = VectorRefrigerator(1, plant, noise=noise), get_task(TASK)
    law = task.controller(task.behaviour, operator)
    law.reset(1)
    measured = simulator.reset()
    frames, actions, true = [measured[0]], [], [simulator.true_temperature[0]]
    for _ in range(rows):
        actions.append(law.act(measured)[0])
        measured = simulator.step(actions[-1][None])
        frames.append(measured[0])
        true.append(simulator.true_temperature[0])
    data = TransitionDataset.from_frames(
        plain_spec(),
        frames=np.array(frames, dtype=np.float32),
        actions=np.array([*actions, actions[-1]], dtype=np.float32),
        episode=np.zeros(rows + 1, dtype=np.int64),
        time_ns=np.arange(rows + 1, dtype=np.int64) * PERIOD_NS,
        sources={f"simulated, seed {seed}": "0" * 64},
    )
    return data, np.array(true)
