"""A linear plant with process noise of known size, measured exactly, so that the density of every step is known.

    level'       = 0.9 level + 0.5 valve + 0.2 load + noise             (state, m)
    temperature' = 0.8 temperature + 0.3 valve + 2 noise                (state, degC; where there are two states)

`load` is exogenous and can be left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from controlkit.artifacts import build_reward
from controlkit.config import RunConfig
from controlkit.dataset import TransitionDataset
from controlkit.layout import Layout
from controlkit.models.actor import BehaviourClone
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.dynamics import action_scaler, change_scaler, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

NOISE = 0.1
NS = 1_000_000_000


def spec(history: int = 0, *, states: int = 1, load: bool = True) -> PlantSpec:
    """The plant's description."""
    tags: dict[str, Any] = {"level": {"role": "state", "unit": "m", "range": [-10, 10], "history": history}}
    if states == 2:
        tags["temperature"] = {"role": "state", "unit": "degC", "range": [-20, 20], "history": history}
    if load:
        tags["load"] = {"role": "exogenous", "unit": "1", "range": [-1, 2], "history": history}
    tags["valve"] = {"role": "action", "unit": "%", "range": [-2, 2], "safe": 0, "fallback": {"kind": "hold"}}
    objective = [{"kind": "track", "tag": "level", "setpoint": 0}]
    return PlantSpec.from_dict({"name": "noisy-tank", "period_s": 1, "tags": tags, "objective": objective})


def expected(frames: Any, valve: Any, plant: PlantSpec) -> Any:
    """Mean of the next state tags: (B, n) frames, (B,) commands -> (B, S)."""
    at = {tag: frames[:, i] for i, tag in enumerate(plant.frame_tags)}
    level = 0.9 * at["level"] + 0.5 * valve + (0.2 * at["load"] if "load" in at else 0.0)
    columns = [level, 0.8 * at["temperature"] + 0.3 * valve] if "temperature" in at else [level]
    return torch.stack(columns, dim=1) if isinstance(frames, torch.Tensor) else np.stack(columns, axis=1)


def log(
    plant: PlantSpec | None = None, *, episodes: int = 6, steps: int = 200, noise: float = NOISE, seed: int = 0
) -> LoggedTransitions:
    """A log of a restless proportional operator."""
    plant = plant or spec()
    rng, states = np.random.default_rng(seed), len(plant.state_tags)
    sizes = noise * np.array([1.0, 2.0])[:states]
    frames, actions = [], []
    for _ in range(episodes):
        frame = np.append(rng.normal(size=states), [0.0] if "load" in plant.tags else [])[None]  # (1, n)
        for step in range(steps + 1):
            if "load" in plant.tags and step % 10 == 0:
                frame[0, -1] = float(rng.random() < 0.5)
            valve = np.clip(-0.6 * frame[:, 0] + 0.5 * rng.normal(size=1), -2, 2)
            frames.append(frame[0].copy())
            actions.append(valve)
            frame[:, :states] = expected(frame, valve, plant) + sizes * rng.normal(size=states)
    number = np.repeat(np.arange(episodes), steps + 1)
    times = number * 10_000 + np.tile(np.arange(steps + 1), episodes)
    data = TransitionDataset.from_frames(
        plant,
        frames=np.array(frames, dtype=np.float32),
        actions=np.array(actions, dtype=np.float32),
        episode=number,
        time_ns=times * NS,
        sources={"synthetic": "0" * 64},
    )
    return LoggedTransitions(data)


def config(**reward: Any) -> RunConfig:
    """A run with a small dynamics reward; `reward` changes its settings."""
    small = {
        "networks": 1,
        "snapshots": 1,
        "hidden": [24],
        "updates": 60,
        "behaviour_updates": 100,
        "distil_updates": 50,
        "generator_hidden": [16],
        "generator_starts": 64,
        "generator_steps": 3,
    }
    return RunConfig.from_dict({"threads": 1, "reward": small | reward})


def untrained(
    logged: LoggedTransitions, plant: PlantSpec, settings: RunConfig, members: int | None = None, seed: int = 0
) -> DiscriminatorEnsemble:
    """A dynamics reward with its scalers and fresh weights; as many networks as snapshots will be kept."""
    reward = settings.reward
    found = build_reward(
        reward,
        Layout.from_spec(plant),
        members or reward.networks * reward.snapshots,
        torch.Generator().manual_seed(seed),
    )
    set_scaler(
        found.input_scaler,
        observation_scaler(logged, settings.scaling),
        action_scaler(logged, CommandLimits(plant), settings.scaling),
    )
    set_scaler(found.change_scaler, change_scaler(logged))
    return found


def operator(logged: LoggedTransitions, plant: PlantSpec, settings: RunConfig, seed: int = 0) -> BehaviourClone:
    """The cloned operator."""
    limits = CommandLimits(plant)
    low, high = torch.from_numpy(limits.low), torch.from_numpy(limits.high)
    generator = torch.Generator().manual_seed(seed)
    clone = BehaviourClone(logged.layout.size, low, high, hidden=(16,), act="silu", generator=generator)
    set_scaler(clone.input_scaler, observation_scaler(logged, settings.scaling))
    set_scaler(clone.action_scaler, action_scaler(logged, limits, settings.scaling))
    fit_behaviour(clone, logged, settings.reward.behaviour_updates, generator, Silent())
    return clone


def trained(
    logged: LoggedTransitions, plant: PlantSpec, seed: int = 0, **reward: Any
) -> tuple[DiscriminatorEnsemble, list[dict[str, float]]]:
    """A trained dynamics reward, and what its training recorded."""
    settings = config(**reward)
    found = untrained(logged, plant, settings, seed=seed)
    clone = operator(logged, plant, settings, seed)
    generator = torch.Generator().manual_seed(seed)
    history = fit_dynamics_reward(found, logged, clone, plant, settings.reward, generator, Silent())
    return found, history
