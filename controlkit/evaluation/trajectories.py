"""Rollouts to look at: the policy and the operator beside what was recorded, the worst ones first."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlkit.dataset import TransitionDataset
from controlkit.evaluation.estimand import Starts
from controlkit.evaluation.model_rollouts import RolledOut
from controlkit.replay import LoggedTransitions
from controlkit.spec import FunctionTerm, PlantSpec, RecordedTerm, TrackTerm

WORST = 10
MAX_TAGS = 6
TAILS = (0.05, 0.5, 0.95)


def draw_trajectories(
    policy: list[RolledOut],
    operator: list[RolledOut],
    starts: Starts,
    log: LoggedTransitions,
    first_row: int,
    data: TransitionDataset,
) -> dict[str, Any]:
    """Bands of every drawn tag over all rollouts of the first fold, a typical rollout and the ten worst of it.

    Args:
        policy, operator: rollouts per fold, under the same noise.
        starts: start states.
        log: the evaluation log, which begins at `first_row` of the data set.
        data: gives time stamps and the plant.
    """
    mine, theirs = policy[0], operator[0]
    tags = drawn_tags(data.spec)
    horizon = len(mine.actions)
    recorded_rows = starts.rows + torch.arange(horizon + 1).unsqueeze(1)  # (H + 1, N)
    # The first member's rollouts are the first N of the batch.
    returns = mine.returns[0]
    order = returns.argsort()
    middle = int(order[len(order) // 2])
    chosen = [("typical", middle)] + [(f"worst {i + 1}", int(at)) for i, at in enumerate(order[:WORST].tolist())]
    bands, series = {}, {}
    for tag in tags:
        sources = {
            "policy": _column(mine.frames, mine.actions, tag, log),
            "operator": _column(theirs.frames, theirs.actions, tag, log),
            "recorded": _column(log.frames[recorded_rows], log.actions[recorded_rows[:-1]], tag, log),
        }
        tails = torch.tensor(TAILS)
        bands[tag] = {name: values.quantile(tails, dim=1).tolist() for name, values in sources.items()}
        series[tag] = {
            name: {label: values[:, at].tolist() for label, at in chosen} for name, values in sources.items()
        }
    return {
        "tags": list(tags),
        "commands": list(log.layout.action_tags),
        "tails": list(TAILS),
        "setpoints": _setpoints(data.spec),
        "bands": bands,
        "chosen": [
            {
                "label": label,
                "time": _stamp(data, first_row + int(starts.rows[at])),
                "policy": float(returns[at]),
                "operator": float(theirs.returns[0][at]),
                "recorded": float(starts.returns[at]),
            }
            for label, at in chosen
        ],
        "series": series,
    }


def drawn_tags(spec: PlantSpec) -> tuple[str, ...]:
    """The tags to draw, at most six: those of the objective first, then state tags, commands, exogenous tags."""
    wanted = [term.tag for term in spec.objective if not isinstance(term, FunctionTerm | RecordedTerm)]
    constrained = [constraint.tag for constraint in spec.constraints]
    known = (*wanted, *constrained, *spec.state_tags[:2], *spec.action_tags[:2], *spec.names("exogenous"))
    found = list(dict.fromkeys(known))[:MAX_TAGS]
    # A plant without its command in the picture explains nothing.
    if not any(tag in spec.action_tags for tag in found):
        found[-1] = spec.action_tags[0]
    return tuple(found)


def _column(frames: Tensor, actions: Tensor, tag: str, log: LoggedTransitions) -> Tensor:
    """(H + 1, B) of a measured tag, (H, B) of a command."""
    if tag in log.layout.action_tags:
        return actions[..., log.layout.action_tags.index(tag)]
    return frames[..., log.layout.frame_tags.index(tag)]


def _setpoints(spec: PlantSpec) -> dict[str, float]:
    """Constant setpoints of tracked tags."""
    tracked = [term for term in spec.objective if isinstance(term, TrackTerm)]
    return {term.tag: float(term.setpoint) for term in tracked if not isinstance(term.setpoint, str)}


def _stamp(data: TransitionDataset, row: int) -> str:
    return f"{np.datetime64(int(data.time_ns[row]), 'ns').astype('datetime64[s]')} UTC"
