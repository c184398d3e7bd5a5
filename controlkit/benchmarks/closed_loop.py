"""An exported bundle in closed loop on a simulated task, scored on the true state beside the task's own controllers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from controlkit.progress import Progress
from deploy.bundle import load_bundle
from deploy.runtime.loop import run_simulation
from deploy.runtime.session import ControllerSession
from envs.closed_loop import score
from envs.tasks import Task


@dataclass(frozen=True)
class BundleScore:
    """A bundle on B fresh episodes.

    Attributes:
        cost: (B,) mean cost per step by the task's objective on the true (noise-free) state.
        limit_violations: commands outside limits or rates, over all episodes.
        fallback_share: share of the steps at which the fallback acted alone.
        step_ms: (B * steps,) time per step of the controller.
    """

    cost: npt.NDArray[np.float64]
    limit_violations: int
    fallback_share: float
    step_ms: npt.NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean cost over the episodes."""
        return float(self.cost.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean."""
        return float(self.cost.std(ddof=1) / np.sqrt(len(self.cost))) if len(self.cost) > 1 else 0.0


def score_bundle(bundle: Path, task: Task, seed: int, copies: int, steps: int, progress: Progress) -> BundleScore:
    """Runs a bundle on `copies` episodes of fresh seeds, `seed`, `seed + 1`, ...

    Raises:
        ControlkitError: the task's environment does not tell the true reward.
    """
    session = ControllerSession(load_bundle(bundle))
    env = task.make()
    progress.start("closed loop", copies)
    records = []
    for copy in range(copies):
        record = run_simulation(session, env, seed=seed + copy, steps=steps)
        if "true_reward" not in record.info:
            raise ControlkitError("the environment does not tell its true reward", where=f"task {task.name}")
        records.append(record)
        progress.advance(note=f"cost {-record.info['true_reward'].mean():.4f}")
    return BundleScore(
        np.array([-record.info["true_reward"].mean() for record in records]),
        sum(record.limit_violations for record in records),
        float(np.mean([record.fallback_share for record in records])),
        np.concatenate([record.step_ms for record in records]),
    )


def score_references(task: Task, seed: int, copies: int, steps: int) -> dict[str, tuple[float, float]]:
    """Mean cost and standard error of the logged behaviour and of every reference controller: name -> (mean, error)."""
    scores = {name: score(name, task, seed, copies, steps) for name in (task.behaviour, *task.references)}
    return {name: (result.mean, result.stderr) for name, result in scores.items()}
