"""A plant of any size for measurements of speed: random, stable, near linear, with a log of random commands."""

from __future__ import annotations

from typing import Any

import numpy as np

from controlkit.dataset import TransitionDataset
from controlkit.spec import PlantSpec

PERIOD_NS = 1_000_000_000


def synthetic_spec(states: int, exogenous: int, actions: int) -> PlantSpec:
    """Tags s0.., x0.. and a0.., no history; the first state is to be kept at 0."""
    tags: dict[str, Any] = {f"s{i}": {"role": "state", "unit": "1", "range": [-10, 10]} for i in range(states)}
    tags |= {f"x{i}": {"role": "exogenous", "unit": "1", "range": [-1, 1]} for i in range(exogenous)}
    command = {"role": "action", "unit": "1", "range": [-1, 1], "safe": 0, "fallback": {"kind": "hold"}}
    tags |= {f"a{i}": command for i in range(actions)}
    objective = [{"kind": "track", "tag": "s0", "setpoint": 0}]
    return PlantSpec.from_dict({"name": "synthetic", "period_s": 1, "tags": tags, "objective": objective})


def synthetic_log(spec: PlantSpec, *, episodes: int, steps: int, seed: int = 0) -> TransitionDataset:
    """`episodes` of `steps` steps: s' = A s + B a + C x + 0.1 sin(s) + noise, exogenous tags constant for 50 steps."""
    rng = np.random.default_rng(seed)
    counts = [len(spec.names(role)) for role in ("state", "exogenous", "action")]
    states, exogenous, actions = counts
    drawn = rng.normal(size=(states, states))
    own = 0.85 * drawn / np.abs(np.linalg.eigvals(drawn)).max()
    by_command, by_known = rng.normal(size=(states, actions)) / 4, rng.normal(size=(states, exogenous)) / 4
    state = rng.normal(size=(episodes, states))
    frames = np.empty((episodes, steps + 1, states + exogenous), dtype=np.float32)
    commands = rng.uniform(-1, 1, size=(episodes, steps + 1, actions)).astype(np.float32)
    known = np.zeros((episodes, exogenous))
    for step in range(steps + 1):
        if step % 50 == 0:
            known = rng.uniform(-1, 1, size=(episodes, exogenous))
        frames[:, step] = np.concatenate([state, known], axis=1)
        state = state @ own.T + commands[:, step] @ by_command.T + known @ by_known.T + 0.1 * np.sin(state)
        state = np.clip(state + 0.02 * rng.normal(size=state.shape), -10, 10)
    episode = np.repeat(np.arange(episodes), steps + 1)
    time_ns = (np.arange(steps + 1)[None] + 10 * steps * np.arange(episodes)[:, None]).reshape(-1) * PERIOD_NS
    return TransitionDataset.from_frames(
        spec,
        frames=frames.reshape(-1, states + exogenous),
        actions=commands.reshape(-1, actions),
        episode=episode,
        time_ns=time_ns.astype(np.int64),
        sources={"synthetic": f"{seed:064d}"},
    )
