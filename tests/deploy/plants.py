"""A small linear plant, its log, and quickly fitted networks: enough for a controller that knows what it does.

    level'       = level + 0.1 (inflow - 0.5 valve) + 0.02 pump          (state)
    temperature' = temperature + 0.2 (heater - 0.05 (temperature - 20))  (state)

`inflow` is exogenous, `setpoint` is exogenous, `grade` is static. The valve is rate-limited and falls back to a PI, the
heater falls back to a ramp, the pump holds.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlkit.artifacts import Models, RunFolder, build_models
from controlkit.config import RunConfig
from controlkit.dataset import TransitionDataset
from controlkit.files import read_json, write_json
from controlkit.models.layers import Affine
from controlkit.morec.dynamics_reward import fit_behaviour
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.scaling import Scaler
from controlkit.spec import PlantSpec

PERIOD_S = 2.0
NOISE = 0.02
CONFIG = {
    "dynamics": {"members": 3, "elites": 2, "hidden": [16]},
    "reward": {"networks": 2, "snapshots": 1, "hidden": [24]},
    "policy": {"hidden": [16]},
    "split": {"training": 0.5, "calibration": 0.4, "evaluation": 0.1},
}


def plant_description() -> dict[str, object]:
    """The plant, with every kind of role, limit and fallback that the graph knows."""
    return {
        "name": "tank",
        "period_s": PERIOD_S,
        "tags": {
            "level": {"role": "state", "unit": "m", "range": [0, 10], "limits": [0.5, 9.5], "history": 2},
            "setpoint": {"role": "exogenous", "unit": "m", "range": [0, 10]},
            "temperature": {"role": "state", "unit": "degC", "range": [-20, 120]},
            "inflow": {"role": "exogenous", "unit": "m^3/s", "range": [0, 4], "history": 1},
            "grade": {"role": "static", "unit": "1", "range": [0, 5]},
            "valve": {
                "role": "action",
                "unit": "m^3/s",
                "range": [0, 8],
                "limits": [0.1, 7.7],
                "max_rate_per_s": 0.3,
                "history": 3,
                "safe": 2.0,
                "fallback": {
                    "kind": "pi",
                    "measured": "level",
                    "setpoint": "setpoint",
                    "gain": 0.8,
                    "reset_time_s": 20,
                },
            },
            "heater": {
                "role": "action",
                "unit": "kW",
                "range": [-1, 5],
                "max_rate_per_s": 0.2,
                "safe": 0.0,
                "fallback": {"kind": "ramp", "rate_per_s": 0.05},
            },
            "pump": {"role": "action", "unit": "%", "range": [0, 3], "safe": 1.0, "fallback": {"kind": "hold"}},
        },
        "objective": [{"kind": "track", "tag": "level", "setpoint": "setpoint"}],
    }


def operated_plant() -> PlantSpec:
    """The same plant, whose valve (rate-limited) and pump (not) fall back on the cloned operator."""
    description: dict[str, Any] = plant_description()
    for tag in ("valve", "pump"):
        description["tags"][tag]["fallback"] = {"kind": "operator"}
    return PlantSpec.from_dict(description)


def next_states(frame: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The plant without noise: (..., 5) frame, (..., 3) action -> (..., 2) level and temperature."""
    level, temperature, inflow = frame[..., 0], frame[..., 2], frame[..., 3]
    valve, heater, pump = action[..., 0], action[..., 1], action[..., 2]
    return np.stack(
        [
            level + 0.1 * (inflow - 0.5 * valve) + 0.02 * pump,
            temperature + 0.2 * (heater - 0.05 * (temperature - 20.0)),
        ],
        axis=-1,
    )


class TankEnv:
    """The plant behind the part of a gymnasium environment that a simulation needs."""

    def __init__(self, horizon: int = 10_000) -> None:
        self.horizon = horizon

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, object]]:
        self._rng, self._time = np.random.default_rng(seed), 0
        self._true = np.array([4.0, 5.0, 30.0, 1.2, 2.0])
        return self._measured(), {"true_level": 4.0, "note": "text is no number"}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self._true[[0, 2]] = next_states(self._true, np.asarray(action, dtype=np.float64))
        self._true[3] = np.clip(self._true[3] + 0.05 * self._rng.standard_normal(), 0.5, 2.5)
        if self._rng.random() < 0.02:  # an exogenous step
            self._true[1] = self._rng.uniform(3.0, 7.0)
        self._time += 1
        reward = -abs(self._true[0] - self._true[1])
        return self._measured(), reward, False, self._time >= self.horizon, {"true_level": float(self._true[0])}

    def _measured(self) -> np.ndarray:
        noise = np.array([NOISE, 0.0, 10 * NOISE, 0.0, 0.0]) * self._rng.standard_normal(5)
        return (self._true + noise).astype(np.float32)


def tank_log(rows: int = 2400, seed: int = 0) -> TransitionDataset:
    """A log of the plant under a restless operator, one episode."""
    spec, rng, env = PlantSpec.from_dict(plant_description()), np.random.default_rng(seed), TankEnv()
    frame, _ = env.reset(seed=seed)
    action = np.array([2.5, 0.5, 1.0])
    frames, actions = [frame], []
    for _ in range(rows - 1):
        error = frame[0] - frame[1]
        wanted = np.array([2.4 + 1.2 * error, 0.5 + 0.02 * (30 - frame[2]), 1.0]) + rng.normal(0, [0.4, 0.3, 0.3])
        step = np.array([0.6, 0.4, 3.0])
        action = np.clip(np.clip(wanted, action - step, action + step), [0.1, -1, 0], [7.7, 5, 3])
        actions.append(action)
        frame, *_ = env.step(action.astype(np.float32))
        frames.append(frame)
    return TransitionDataset.from_frames(
        spec,
        frames=np.array(frames, dtype=np.float32),
        actions=np.array([*actions, actions[-1]], dtype=np.float32),
        episode=np.zeros(rows, dtype=np.int64),
        time_ns=np.arange(rows, dtype=np.int64) * round(PERIOD_S * 1e9),
    )


@cache
def fitted() -> tuple[TransitionDataset, RunConfig, Models]:
    """The log, a configuration and networks that were fitted to it in a few seconds."""
    data, config = tank_log(), RunConfig.from_dict(CONFIG)
    generator = torch.Generator().manual_seed(0)
    models = build_models(config, data.spec, generator)
    rows = data.transitions
    observation, action = torch.from_numpy(data.observations(rows)), torch.from_numpy(data.actions[rows])
    columns = data.layout.state_columns
    state = torch.from_numpy(data.frames[rows][:, columns])
    following = torch.from_numpy(data.frames[rows + 1][:, columns])
    change = following - state
    # Scaling: inputs by the tags' ranges, changes by the log.
    inputs = Scaler.from_range(data.layout.low, data.layout.high)
    bounds = np.array([data.spec.limits(tag) for tag in data.layout.action_tags], dtype=np.float32)
    commands = Scaler.from_range(bounds[:, 0], bounds[:, 1])
    both = Scaler(np.append(inputs.centre, commands.centre), np.append(inputs.spread, commands.spread))
    changes = Scaler.fit(change.numpy())
    for network in (models.dynamics, models.reward):
        _set(network.input_scaler, both)
        _set(network.change_scaler, changes)
    _set(models.actor.input_scaler, inputs)

    def batch() -> torch.Tensor:
        return torch.randint(len(rows), (128,), generator=generator)

    optimiser = torch.optim.Adam(models.dynamics.parameters(), 5e-3)
    for _ in range(500):
        pick = batch()
        mean, _ = models.dynamics.scaled_change(observation[pick], action[pick])
        loss = (mean - models.dynamics.change_scaler(change[pick])).square().mean()
        _descend(optimiser, loss)
    optimiser = torch.optim.Adam(models.reward.parameters(), 5e-3)
    for _ in range(500):
        pick = batch()
        real = models.reward.change_scaler(change[pick])
        size = 10.0 ** (torch.rand(len(pick), 1, generator=generator) * 1.3 - 0.7)
        false = real + size * torch.randn(real.shape, generator=generator)
        logits = [models.reward.logits(observation[pick], action[pick], x) for x in (real, false)]
        loss = torch.nn.functional.softplus(-logits[0]).mean() + torch.nn.functional.softplus(logits[1]).mean()
        _descend(optimiser, loss)
    optimiser = torch.optim.Adam(models.actor.parameters(), 1e-2)
    for _ in range(300):
        pick = batch()
        seen = observation[pick]
        valve = 2.4 + 1.5 * (seen[:, 0] - seen[:, 1])
        wanted = torch.stack([valve, torch.full_like(valve, 0.5), torch.full_like(valve, 1.0)], dim=-1)
        _descend(optimiser, (models.actor(seen) - wanted).square().mean())
    _set(models.behaviour.input_scaler, inputs)
    _set(models.behaviour.action_scaler, commands)
    # A generator of its own: what is fitted beside it does not depend on how long this takes.
    fit_behaviour(models.behaviour, LoggedTransitions(data), 200, torch.Generator().manual_seed(1), Silent())
    for network in (models.dynamics, models.reward, models.behaviour, models.actor):
        network.eval().requires_grad_(False)
    models.dynamics.elites = torch.tensor([2, 0])
    means, _ = models.dynamics(observation, action)
    residuals = following - means.mean(dim=0)
    fitted_models = Models(
        models.dynamics, models.reward, models.behaviour, models.actor, torch.tensor(0.1), residuals[-500:]
    )
    return data, config, fitted_models


def write_run(path: Path, verdict: str | None = "GO TO SHADOW") -> RunFolder:
    """A trained and evaluated run folder of the plant, as training and evaluation leave it."""
    data, config, models = fitted()
    data.save(path / "data")
    run = RunFolder.create(path / "run", config, data, read_json(path / "data" / "dataset.json"))
    run.split.part(data, "calibration").save(run.path / "calibration")
    run.save_models(models)
    run.write_state("trained", seconds=1.0)
    if verdict is not None:
        write_json(run.path / "report.json", {"schema": 1, "verdict": verdict})
    return RunFolder.open(run.path)


def _set(affine: Affine, scaler: Scaler) -> None:
    affine.centre.copy_(torch.from_numpy(scaler.centre))
    affine.spread.copy_(torch.from_numpy(scaler.spread))


def _descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
