"""Questions far from a log: states and commands at all distances from it, with the truth of what follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from controlkit.dataset import TransitionDataset
from controlkit.studies.plants import KnownPlant
from envs.simulation import Floats

QUESTION_SEED, ROLLOUT_SEED = 950_000, 960_000
STEEPER = 4.0  # a controller's gain is up to so many times the operator's above it


@dataclass(frozen=True)
class Distance:
    """Mahalanobis' distance from some points (Mahalanobis 1936): `centre` (d,), `whitening` (d, d)."""

    centre: Floats
    whitening: Floats

    @classmethod
    def fit(cls, points: Floats) -> Distance:
        """From (N, d); directions in which the points hardly differ count as if they differed by a thousandth of
        their size."""
        covariance = np.cov(points.T) + np.diag((1e-3 * np.abs(points).max(axis=0)) ** 2)
        return cls(points.mean(axis=0), np.linalg.cholesky(np.linalg.inv(covariance)))

    def __call__(self, points: Floats) -> Floats:
        """(..., d) -> (...)."""
        return np.asarray(np.linalg.norm((points - self.centre) @ self.whitening, axis=-1))


@dataclass(frozen=True)
class Questions:
    """States and commands with what the plant makes of them: (B, n), (B, m), (B, S) without and with its noise, and
    the distance from the log (B,)."""

    frame: Tensor
    command: Tensor
    truth: Tensor
    happened: Tensor
    distance: Floats

    @classmethod
    def draw(cls, plant: KnownPlant, data: TransitionDataset, distance: Distance, count: int) -> Questions:
        """Logged ones, moved a random share of the way to anywhere between the plant's far ends."""
        rng = np.random.default_rng(QUESTION_SEED)
        frame, command, _ = _drawn(plant, data, count, rng)
        truth = plant.step(frame, command)
        happened = truth + plant.noise * rng.standard_normal(truth.shape)
        columns = (frame, command, truth, happened)
        asked, given, true, noisy = (torch.tensor(x, dtype=torch.float32) for x in columns)
        return cls(asked, given, true, noisy, distance(np.concatenate([frame, command], axis=1)))


@dataclass(frozen=True)
class Trajectories:
    """What B controllers do on the plant, without noise.

    They are the operator's law made steeper and moved to another operating point, each by a share of its own: the
    larger the share, the farther they go from the log.

    Attributes:
        frames: (H + 1, B, n).
        distance: (B,) mean along each.
        plant: the plant.
        usual: (m,) the log's mean command.
        gain: (B, 1) factor of the operator's gain.
        shift: (B, S) by how much the operating point is moved.
    """

    frames: Floats
    distance: Floats
    plant: KnownPlant
    usual: Floats
    gain: Floats
    shift: Floats

    @classmethod
    def draw(
        cls, plant: KnownPlant, data: TransitionDataset, distance: Distance, count: int, steps: int
    ) -> Trajectories:
        """`count` of them, from logged states moved away from the log as questions are."""
        rng = np.random.default_rng(ROLLOUT_SEED)
        frame, _, share = _drawn(plant, data, count, rng)
        centre = data.frames[:, : plant.states].mean(axis=0)
        low, high = plant.low[: plant.states], plant.high[: plant.states]
        shift = share * (rng.uniform(low, high, (count, plant.states)) - centre)
        gain = 1.0 + STEEPER * share * rng.uniform(size=(count, 1))
        usual = np.nanmean(data.actions, axis=0).astype(np.float64)
        known = plant.exogenous(steps + 1, count, rng)
        first = np.concatenate([frame[:, : plant.states], known[0]], axis=1)
        unrolled = cls(first[None], np.zeros(count), plant, usual, gain, shift)
        frames, along = [first], []
        for step in range(steps):
            command = unrolled.act(frames[-1])
            along.append(distance(np.concatenate([frames[-1], command], axis=1)))
            frames.append(np.concatenate([plant.step(frames[-1], command), known[step + 1]], axis=1))
        return replace(unrolled, frames=np.array(frames), distance=np.mean(along, axis=0))

    def act(self, frame: Floats) -> Floats:
        """The controllers' commands, on the plant or in a model: (B, n) -> (B, m)."""
        moved = frame.copy()
        moved[:, : self.plant.states] -= self.shift
        return self.plant.clipped(self.usual + self.gain * (self.plant.law(moved) - self.usual))


def _drawn(
    plant: KnownPlant, data: TransitionDataset, count: int, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Frames (B, n) and commands (B, m) of the log, moved by a share (B, 1) of the way to anywhere; small shares are
    drawn more often, so that near distances are not left empty."""
    rows = rng.choice(data.transitions, count)
    frame, command = data.frames[rows].astype(np.float64), data.actions[rows].astype(np.float64)
    share = rng.uniform(size=(count, 1)) ** 2
    wish = rng.uniform(plant.low, plant.high, (count, len(plant.low)))
    frame[:, : plant.states] += share * (wish[:, : plant.states] - frame[:, : plant.states])
    return frame, command + share * (wish[:, plant.states :] - command), share
