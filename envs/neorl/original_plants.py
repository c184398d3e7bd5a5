"""Simglucose and Fusion of NeoRL-2 (arXiv 2503.19267): their simulators are in the benchmark's own package alone.

The data of both can be read and trained on without it (`configs/plants/simglucose.yaml`, `fusion.yaml`). To run a
controller on them, this module steps the package's environments: the package must be a checkout of polixir/NeoRL2,
installed in place, since what PyPI has by that name cannot be imported.

What these environments draw does not follow from the seed alone: Simglucose takes its patient and meals from numpy's
global generator.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from envs.neorl.original import NEORL2, require_original
from envs.simulation import Floats, checked_command


@dataclass(frozen=True)
class OriginalTask:
    """A task whose simulator is in the original package.

    Attributes:
        plant: name of the plant file, whose frame is the environment's observation.
        environment: id of the original environment.
        steps: of an episode.
    """

    plant: str
    environment: str
    steps: int

    def require(self) -> None:
        """Sees to it that the simulator is there.

        Raises:
            ControlkitError: the original package is not installed, or is another one of its name.
        """
        require_original(NEORL2, f"task {self.plant}: its simulator is in the package neorl2 alone")


SIMGLUCOSE = OriginalTask("simglucose", "Simglucose", 480)
FUSION = OriginalTask("fusion", "Fusion", 100)


class OriginalPlant:
    """B environments of the original package, in engineering units.

    Args:
        copies: B.
        rng: draws the seeds of the environments' resets.
        task: which.

    Raises:
        ControlkitError: no copy at all, or the original package is not there.

    Attributes:
        time: steps since the reset.
        true_frame: (B, n) observations; an environment that has ended shows its last one.
        ended: (B,) environments that have said that their episode truly ended.
    """

    def __init__(self, copies: int, rng: np.random.Generator, *, task: OriginalTask) -> None:
        if copies < 1:
            raise ControlkitError(f"{copies} copies cannot be simulated", where=task.plant, cure="Give 1 or more.")
        task.require()
        gymnasium = importlib.import_module("gymnasium")
        importlib.import_module(NEORL2.module)  # registers its environments
        spec = PlantSpec.load(config_path("plants", task.plant))
        limits = np.array([spec.limits(tag) for tag in spec.action_tags])
        self._low, self._high = limits[:, 0], limits[:, 1]
        self.copies, self.frame_tags, self._rng = copies, spec.frame_tags, rng
        self._environments = [gymnasium.make(task.environment, disable_env_checker=True) for _ in range(copies)]
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the generator's stream; returns the frame (B, n) at time 0."""
        seeds = self._rng.integers(2**31, size=self.copies).tolist()
        frames = [env.reset(seed=seed)[0] for env, seed in zip(self._environments, seeds, strict=True)]
        self.true_frame: Floats = np.array(frames, dtype=np.float64)
        self.ended: npt.NDArray[np.bool_] = np.zeros(self.copies, dtype=np.bool_)
        self._cut, self.time = np.zeros(self.copies, dtype=np.bool_), 0
        return self.true_frame

    def step(self, command: Any) -> Floats:
        """One period: commands (B, m) in engineering units, saturating at their limits -> frame (B, n).

        Raises:
            ValueError: another shape.
            ControlkitError: a command that is not finite.
        """
        values = np.clip(checked_command(command, self.copies, len(self._low), self.time), self._low, self._high)
        share = ((values - self._low) / (self._high - self._low) * 2.0 - 1.0).astype(np.float32)  # (B, m) in [-1, 1]
        self.true_frame = self.true_frame.copy()
        for copy in np.flatnonzero(~(self.ended | self._cut)):
            observation, _, terminated, truncated, _ = self._environments[copy].step(share[copy])
            self.true_frame[copy], self.ended[copy], self._cut[copy] = observation, terminated, truncated
        self.time += 1
        return self.true_frame


class Constant:
    """The same command all the time.

    Args:
        command: (m,) engineering units; the actions' safe values where it is not given.
        plant: name of the plant file.
    """

    def __init__(self, plant: str, command: tuple[float, ...] | None = None) -> None:
        spec = PlantSpec.load(config_path("plants", plant))
        safe = [spec.tags[tag].safe for tag in spec.action_tags]
        self.command = np.array(safe if command is None else command, dtype=np.float64)

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        return np.repeat(self.command[None], len(measurement), axis=0)
