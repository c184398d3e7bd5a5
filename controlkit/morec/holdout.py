"""What a world model is judged by without its plant: blocks of time held out, open-loop rollouts over them, and a cut
that asks for extrapolation.

One step ahead, a model that smears a dead time over its lags and one that has found it look nearly alike; rolled out
along recorded commands, they do not. And a policy leaves the log: which model carries on beyond it cannot be seen in
rows drawn evenly, but in the log's own fringe once a model was fitted without it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.models.ensemble import GaussianEnsemble
from controlkit.replay import LoggedTransitions

BLOCKS = 50
# Windows of an open-loop error at most: their mean is known to a few percent long before.
WINDOWS = 512


def blocks(rows: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cuts rows (T,) into blocks of time and holds out a random share of the blocks, at least one: what is left, and
    what is held out. Rows one by one would leak: neighbours share their history."""
    count = min(BLOCKS, max(2, len(rows) // 2))
    number = torch.arange(len(rows), device=rows.device) * count // len(rows)
    held = torch.randperm(count, generator=generator, device=rows.device)[: max(1, round(share * count))]
    out = torch.isin(number, held)
    return rows[~out], rows[out]


def one_step_error(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    """Each member's mean squared error one step ahead, in units of the log's typical change: (T,) rows -> (E,)."""
    total = torch.zeros(ensemble.members, device=rows.device)
    with torch.no_grad():
        for part in rows.split(4096):
            observation = log.observe(part)
            target = ensemble.change_scaler(log.next_state(part) - observation[:, ensemble.state_slots])
            mean, _ = ensemble.scaled_change(observation, log.actions[part])
            total += (mean - target).square().mean(dim=2).sum(dim=1)
    return total / len(rows)


def open_loop_windows(rows: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Where open-loop rollouts within held-out rows begin, and how many steps each can go.

    Args:
        rows: (T,) usable rows, rising; neighbouring numbers belong to one trajectory.
        steps: wished length.

    Returns:
        Rows to begin at (B,), evenly spread, at most `WINDOWS` of them; and their lengths (B,): `steps`, or less where
        the run of held-out rows ends.
    """
    last = torch.cat([rows[1:] - rows[:-1] != 1, torch.ones(1, dtype=torch.bool, device=rows.device)])
    index = torch.arange(len(rows), device=rows.device)
    ends = index[last][torch.searchsorted(index[last], index)]
    length = (ends - index + 1).clamp(max=steps)
    every = math.ceil(len(rows) / WINDOWS)
    return rows[::every], length[::every]


@torch.no_grad()
def open_loop_errors(
    ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor, steps: int, spread: Tensor | None = None
) -> Tensor:
    """Each member's mean squared error after 1, 2, ... steps on its own through held-out rows, with the recorded
    commands and the recorded exogenous and static tags.

    Args:
        ensemble: E members, every one of which sees its own predictions only.
        log: recorded transitions.
        rows: (T,) held-out rows, rising.
        steps: length of the rollouts; less where no run of held-out rows is that long.
        spread: (S,) units of the errors; what the state tags are scaled by as inputs where it is not given.

    Returns:
        (H, E), in units of `spread`, averaged over tags and windows;
        infinite for a member that leaves all numbers behind.
    """
    starts, length = open_loop_windows(rows, steps)
    layout, device = log.layout, rows.device
    columns = torch.from_numpy(layout.state_columns).to(device)
    shift = torch.from_numpy(layout.shift_index).to(device)
    low, high = (torch.from_numpy(bound).to(device)[columns] for bound in (layout.low, layout.high))
    spread = ensemble.input_scaler.spread[ensemble.state_slots] if spread is None else spread
    observation = log.observe(starts).expand(ensemble.members, -1, -1)  # (E, B, O)
    errors = []
    for step in range(int(length.max())):
        going = length > step
        starts, length, observation = starts[going], length[going], observation[:, going]
        action = log.actions[starts + step].expand(ensemble.members, -1, -1)  # (E, B, m)
        change, _ = ensemble.scaled_change(observation, action)
        state = observation[..., ensemble.state_slots] + ensemble.change_scaler.invert(change)
        state = torch.minimum(torch.maximum(state, low), high)  # as in rollouts; what is NaN stays so
        frame = log.frames[starts + step + 1].repeat(ensemble.members, 1, 1)  # (E, B, n)
        errors.append(((state - frame[..., columns]) / spread).square().mean(dim=(1, 2)))
        frame[..., columns] = state
        observation = torch.cat([frame, action, observation], dim=-1)[..., shift]
    return torch.nan_to_num(torch.stack(errors), nan=torch.inf)


def relative_errors(errors: Tensor) -> Tensor:
    """One figure per member from its errors after 1 .. H steps: their ratios to the members' median after as many
    steps, averaged with weights 1 / h. Errors grow with the steps, hence the ratios; and windows of h steps overlap, so
    that a log holds only a h-th as many independent ones, hence the weights: (H, E) -> (E,)."""
    middle = errors.median(dim=1, keepdim=True).values
    weight = 1.0 / torch.arange(1, len(errors) + 1, device=errors.device)
    return weight @ (errors / middle.clamp(min=1e-30)) / weight.sum()


def extrapolation_cut(log: LoggedTransitions, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Cuts a log's rows by their distance from the bulk of what the plant did: inner rows (I,) and outer rows (J,).

    The distance is Mahalanobis', over the current state tags and the command, whatever the exogenous tags (a door that
    is rarely open is rare, not far) and the history: it is in those that a policy leaves the log.

    Args:
        log: recorded transitions.
        share: of the rows that count as outer.
    """
    columns = torch.from_numpy(log.layout.state_columns).to(log.rows.device)
    rows = log.overview
    moved = torch.cat([log.frames[rows][:, columns], log.actions[rows]], dim=1).double()  # (T, S + m)
    centred = moved - moved.mean(dim=0)
    covariance = centred.T @ centred / len(centred)
    # Constant columns say nothing; a pseudo-inverse leaves them out.
    distance = (centred @ torch.linalg.pinv(covariance, hermitian=True) * centred).sum(dim=1)
    outer = distance > distance.sort().values[math.ceil((1.0 - share) * len(distance)) - 1]
    return rows[~outer], rows[outer]


@dataclass(frozen=True)
class ExtrapolationError:
    """One-step errors of the elites' mean, root mean square over rows and state tags, in units of the log's typical
    change: on the fringe that the fit did not see, and on the rows that it was fitted on."""

    outer: float
    inner: float


def extrapolation_holdout(
    log: LoggedTransitions, fit: Callable[[LoggedTransitions], GaussianEnsemble], share: float = 0.2
) -> ExtrapolationError:
    """How a way of fitting extrapolates, judged on the log alone: fits to its inner part, predicts its fringe.

    Choose activations, sizes and decay by this, not by a simulator that a plant does not have.

    Args:
        log: recorded transitions.
        fit: fits an ensemble to a log, such as a call of `fit_dynamics`.
        share: of the rows, the farthest from the bulk, that are kept from the fit; see `extrapolation_cut`.
    """
    inner, outer = extrapolation_cut(log, share)
    restricted = copy.copy(log)
    restricted.rows = inner
    ensemble = fit(restricted)
    return ExtrapolationError(_error_of_mean(ensemble, log, outer), _error_of_mean(ensemble, log, inner))


@torch.no_grad()
def _error_of_mean(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> float:
    total = torch.zeros((), device=rows.device)
    for part in rows.split(4096):
        mean = ensemble(log.observe(part), log.actions[part])[0].mean(dim=0)
        scaled = (mean - log.next_state(part)) / ensemble.change_scaler.spread
        total += scaled.square().mean(dim=1).sum()
    return float((total / len(rows)).sqrt())
