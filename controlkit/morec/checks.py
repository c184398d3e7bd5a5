"""What a log can spoil without any step failing: said aloud before training begins.

Nothing here stops a run; what must stop it (a number that is none, no usable step) stops where it happens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from controlkit.config import RunConfig
from controlkit.morec.exogenous import goes_on
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

# Steady states of coarse sensors repeat themselves; beyond this share it is rather the log that does.
DUPLICATES = 0.05


def training_warnings(log: LoggedTransitions, spec: PlantSpec, config: RunConfig) -> list[str]:
    """One line for each thing in the training part that a user should know of: tags that never move, transitions that
    are there twice, episodes too short for the rollouts. Empty where all is well."""
    return [*_constant(log, spec), *_duplicated(log), *_short(log, spec, config)]


def duplicate_share(log: LoggedTransitions) -> float:
    """Share of the usable transitions that repeat an earlier one exactly: observation with its history, command and
    next state tags."""
    keys = torch.cat([_hashes(log, part) for part in log.rows.split(4096)])
    return 1.0 - len(torch.unique(keys)) / len(keys)


def _hashes(log: LoggedTransitions, rows: Tensor) -> Tensor:
    """(B,) int64: equal transitions have equal ones, and others almost surely have not (a random linear hash modulo
    2^64, whose keys are the same at every call)."""
    values = torch.cat([log.observe(rows), log.actions[rows], log.next_state(rows)], dim=1)
    bits = (values + 0.0).contiguous().view(torch.int32).to(torch.int64)  # + 0.0: -0 and 0 are the same number
    keys = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=torch.Generator().manual_seed(0))
    return (bits * keys.to(bits.device)).sum(dim=1)


def _duplicated(log: LoggedTransitions) -> list[str]:
    share = duplicate_share(log)
    if share <= DUPLICATES:
        return []
    return [
        f"Warning: {share:.0%} of the training transitions repeat an earlier one exactly. Copies on both sides of a "
        f"hold-out flatter its errors: look for rows or files that were logged or ingested twice."
    ]


def _constant(log: LoggedTransitions, spec: PlantSpec) -> list[str]:
    warnings = []
    rows = log.overview
    frames = torch.cat([log.frames[rows], log.frames[rows + 1]])
    columns = dict(zip(log.layout.frame_tags, frames.T, strict=True))
    columns |= dict(zip(log.layout.action_tags, log.actions[rows].T, strict=True))
    still = [tag for tag, values in columns.items() if bool((values == values[0]).all())]
    for tag in still:
        role = spec.tags[tag].role
        if role == "action":
            text = "no effect of it can be learned, and a policy that moves it leaves the log at once"
        elif role == "state":
            text = "nothing that moves it can be learned"
        elif role == "exogenous":
            text = "its effect cannot be learned; what is trained holds for this value alone"
        else:
            continue  # a static tag may well be the same in all episodes
        warnings.append(f"Warning: '{tag}' ({role}) never changes in the training part ({columns[tag][0]:g}): {text}.")
    return warnings


def _short(log: LoggedTransitions, spec: PlantSpec, config: RunConfig) -> list[str]:
    """Rollouts follow the record: where it is shorter than they should be, they end early."""
    length = config.rollout.length
    if goes_on(spec, config.dynamics) or config.policy.algorithm != "sac":
        return []
    cut = float((log.remaining[log.rows] < length).float().mean())
    if cut <= 0.5:
        return []
    return [
        f"Warning: from {cut:.0%} of the training rows fewer than rollout.length = {length} steps remain to the end of "
        f"their episode, and rollouts end there. Set dynamics.exogenous to splice, or rollout.length lower."
    ]
