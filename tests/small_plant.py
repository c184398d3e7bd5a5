"""A small linear plant whose answers are known: level' = 0.9 level + 0.5 valve + 0.2 load - 0.1, in metres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from controlkit.artifacts import Models, build_models
from controlkit.config import RunConfig
from controlkit.dataset import TransitionDataset
from controlkit.morec.dynamics import fit_dynamics
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

NS = 1_000_000_000

SMALL: Mapping[str, Any] = {
    "threads": 1,
    "dynamics": {"members": 3, "elites": 2, "hidden": [16], "max_epochs": 3},
    "reward": {
        "networks": 2,
        "snapshots": 2,
        "hidden": [16],
        "updates": 60,
        "behaviour_updates": 60,
        "distil_updates": 60,
        "generator_hidden": [16],
    },
    "rollout": {"length": 5, "starts": 30, "every": 20, "keep": 3},
    "policy": {"hidden": [16], "updates": 80, "batch_size": 32, "warm_start": 10, "gamma": 0.9},
}


def spec(history: int = 2, **changes: Any) -> PlantSpec:
    """The plant's description; `changes` replace whole sections."""
    content: dict[str, Any] = {
        "name": "tank",
        "period_s": 1,
        "tags": {
            "level": {"role": "state", "unit": "m", "range": [-10, 10], "history": history},
            "load": {"role": "exogenous", "unit": "1", "range": [-1, 2], "history": history},
            "valve": {
                "role": "action",
                "unit": "1",
                "range": [-2, 2],
                "history": history,
                "safe": 0,
                "fallback": {"kind": "hold"},
            },
        },
        "objective": [{"kind": "track", "tag": "level", "setpoint": 1}],
    }
    return PlantSpec.from_dict(content | changes)


def next_level(level: Any, valve: Any, load: Any) -> Any:
    """The plant itself."""
    return 0.9 * level + 0.5 * valve + 0.2 * load - 0.1


def dataset(
    plant: PlantSpec | None = None, *, episodes: int = 6, steps: int = 100, noise: float = 0.0, seed: int = 0
) -> TransitionDataset:
    """A log of a noisy proportional operator; `noise` is the sensor's standard deviation in metres."""
    plant = plant or spec()
    rng = np.random.default_rng(seed)
    frames, actions, number, times = [], [], [], []
    for episode in range(episodes):
        level, load = rng.normal(), 0.0
        for step in range(steps + 1):
            load = float(rng.random() < 0.5) if step % 10 == 0 else load
            measured = level + noise * rng.normal()
            valve = np.clip(-0.6 * (measured - 1.0) + 0.4 * rng.normal(), -2, 2)
            frames.append((measured, load))
            actions.append((valve,))
            number.append(episode)
            times.append((episode * 10_000 + step) * NS)
            level = next_level(level, valve, load)
    return TransitionDataset.from_frames(
        plant,
        frames=np.array(frames, dtype=np.float32),
        actions=np.array(actions, dtype=np.float32),
        episode=np.array(number),
        time_ns=np.array(times, dtype=np.int64),
        sources={"synthetic": "0" * 64},
    )


def config(**sections: Mapping[str, Any]) -> RunConfig:
    """A run of a second or so; `sections` are merged into `SMALL` field by field."""
    content: dict[str, Any] = {name: dict(v) if isinstance(v, Mapping) else v for name, v in SMALL.items()}
    for name, changes in sections.items():
        content[name] = content.get(name, {}) | changes if isinstance(changes, Mapping) else changes
    return RunConfig.from_dict(content)


def with_dynamics(log: LoggedTransitions) -> Models:
    """Networks of which the dynamics, bilinear alone, is fitted to a log."""
    settings, generator = config(dynamics={"hidden": []}), torch.Generator().manual_seed(0)
    built = build_models(settings, spec(), generator)
    draws = torch.Generator().manual_seed(0)
    fit_dynamics(built.dynamics, log, settings.dynamics, settings.scaling, CommandLimits(spec()), draws, Silent())
    return built
