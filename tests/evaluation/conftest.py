"""A plant whose values are known in closed form, and logs of it.

x' = 0.9 x + 0.5 u + w with w ~ N(0, 0.2); the reward is -x'^2. Under u = -k x the second moment of x follows
m' = (0.9 - 0.5 k)^2 m + 0.04, from which every value follows by summing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import RunFolder, build_models
from controlkit.config import RunConfig, ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.evaluation.assessment import Effort, assess
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.policies import EvaluatedPolicy
from controlkit.progress import Silent
from controlkit.spec import PlantSpec

A, B, SIGMA = 0.9, 0.5, 0.2
OPERATOR_GAIN, OPERATOR_NOISE = 0.4, 0.4
GAMMA = 0.9

SMALL = Effort(folds=3, model_updates=60, clone_updates=300, fqe_updates=200, fqe_members=5, starts=150)
# Where only the machinery matters, not the figures.
TINY = Effort(folds=2, model_updates=10, clone_updates=20, fqe_updates=10, fqe_members=2, starts=40)


@dataclass(frozen=True)
class LinearPlant:
    """Builds specs, logs, policies, evaluations and true values of the plant."""

    def spec(self, **more: Any) -> PlantSpec:
        """`more` replaces parts of the description; `tags` are merged."""
        tags: dict[str, dict[str, Any]] = {
            "x": {"role": "state", "unit": "K", "range": [-20, 20]},
            "u": {"role": "action", "unit": "1", "range": [-6, 6], "safe": 0, "fallback": {"kind": "hold"}},
        }
        for name, changes in more.pop("tags", {}).items():
            tags[name] = tags.get(name, {}) | changes
        content = {
            "name": "linear",
            "period_s": 1,
            "tags": tags,
            "objective": [{"kind": "track", "tag": "x", "setpoint": 0, "error": "squared"}],
        }
        return PlantSpec.from_dict(content | more)

    def log(
        self, rows: int = 3000, seed: int = 0, spec: PlantSpec | None = None, noise: float = OPERATOR_NOISE
    ) -> TransitionDataset:
        """One episode under the operator u = -0.4 x + N(0, noise)."""
        spec = spec or self.spec()
        rng = np.random.default_rng(seed)
        x, u = np.zeros((rows, 1), dtype=np.float32), np.zeros((rows, 1), dtype=np.float32)
        for row in range(rows):
            u[row] = -OPERATOR_GAIN * x[row] + noise * rng.standard_normal()
            if row + 1 < rows:
                x[row + 1] = A * x[row] + B * u[row] + SIGMA * rng.standard_normal()
        return TransitionDataset.from_frames(
            spec,
            frames=x,
            actions=u,
            episode=np.zeros(rows, dtype=np.int64),
            time_ns=np.arange(rows, dtype=np.int64) * 10**9,
        )

    def policy(self, gain: float, offset: float = 0.0, name: str = "candidate") -> EvaluatedPolicy:
        """u = -gain x + offset."""
        return EvaluatedPolicy(name, lambda observation, noise: -gain * observation[:, :1] + offset)

    def assess(self, data: TransitionDataset, *policies: EvaluatedPolicy, seed: int = 0, **more: Any) -> Findings:
        """An evaluation whose log begins at row 0, with starts in the second half."""
        return assess(
            policies,
            data,
            evaluation_rows=(0, len(data) // 2),
            gamma=more.get("gamma", GAMMA),
            scaling=ScalingConfig(),
            effort=more.get("effort", SMALL),
            progress=Silent(),
            seed=seed,
        )

    def true_value(self, gain: float, starts: np.ndarray, estimand: Estimand, noise: float = 0.0) -> float:
        """Mean value over start states x: (N,), of u = -gain x + N(0, noise), cut at the horizon."""
        moment, total = np.square(starts.astype(np.float64)), 0.0
        for weight in estimand.weights.tolist():
            moment = (A - B * gain) ** 2 * moment + (B * noise) ** 2 + SIGMA**2
            total -= weight * float(moment.mean())
        return total


@pytest.fixture(scope="session")
def plant() -> LinearPlant:
    return LinearPlant()


@pytest.fixture(scope="session")
def linear_log(plant: LinearPlant) -> TransitionDataset:
    return plant.log()


@pytest.fixture(scope="session")
def found(plant: LinearPlant, linear_log: TransitionDataset) -> Findings:
    """Three policies: clearly better and inside the log, as good as the operator, and far outside the log."""
    return plant.assess(
        linear_log,
        plant.policy(1.0, name="better"),
        plant.policy(OPERATOR_GAIN, name="mean operator"),
        plant.policy(1.0, offset=5.0, name="far outside"),
    )


RunMaker = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def make_run() -> RunMaker:
    """A run folder that counts as trained; its networks are as they were initialised."""

    def make(path: Path, data: TransitionDataset, **changes: Any) -> RunFolder:
        settings = {"policy": {"gamma": GAMMA, "hidden": [8]}, "dynamics": {"hidden": [8]}, "reward": {"hidden": [8]}}
        config = RunConfig.from_dict(settings | changes)
        run = RunFolder.create(path, config, data, {"data_sha256": "0" * 64, "spec_sha256": data.spec.sha256()})
        run.save_models(build_models(config, data.spec, torch.Generator().manual_seed(1)))
        run.write_state("trained")
        return run

    return make
