"""Fits the prediction from which the dynamics reward measures a transition's innovation."""

from __future__ import annotations

import torch
from torch import Tensor

from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.linear_prediction import LinearPrediction, ObserverPrediction
from controlkit.morec.identification import MAX_ROWS as MAX_OBSERVER_ROWS
from controlkit.morec.identification import fit_observers, require_finite
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

# Ridge strengths that blocked cross-validation chooses from, for features of unit size, per row.
STRENGTHS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
BLOCKS = 5
MAX_ROWS = 50_000
# A plant without noise leaves no deviation to measure by: candidates still differ by about this share of a change.
LEAST_SPREAD = 0.01


def fit_prediction(target: DiscriminatorEnsemble, log: LoggedTransitions, progress: Progress) -> None:
    """Fits the prediction of a dynamics reward whose scalers are set, in place; nothing is done where it has none.

    Raises:
        TrainingError: the log holds what is no number.
    """
    if isinstance(target.prediction, ObserverPrediction):
        _fit_observer(target, target.prediction, log, progress)
    else:
        fit_linear_prediction(target, log)


def _fit_observer(
    target: DiscriminatorEnsemble, prediction: ObserverPrediction, log: LoggedTransitions, progress: Progress
) -> None:
    observer = prediction.observer
    observer.input_scaler.load_state_dict(target.input_scaler.state_dict())
    observer.change_scaler.load_state_dict(target.change_scaler.state_dict())
    rows = log.rows[:: -(-len(log.rows) // MAX_OBSERVER_ROWS)]
    observer.requires_grad_(True)
    fit_observers(observer, log, rows, torch.arange(len(rows), device=rows.device)[None], progress, "dynamics reward")
    observer.requires_grad_(False)
    # What the fit leaves over is its log spread.
    prediction.spread.copy_(observer.log_std.detach().exp().flatten().clamp(min=LEAST_SPREAD))


@torch.no_grad()
def fit_linear_prediction(target: DiscriminatorEnsemble, log: LoggedTransitions) -> None:
    """Ridge regression of the scaled change, its strength by cross-validation over blocks of time; in place.

    Args:
        target: its scalers are set; nothing is done where it judges the change by itself.
        log: recorded transitions; more than `MAX_ROWS` are thinned evenly.

    Raises:
        TrainingError: the log holds what is no number.
    """
    prediction = target.prediction
    if prediction is None:
        return
    assert isinstance(prediction, LinearPrediction)
    rows = log.rows[:: -(-len(log.rows) // MAX_ROWS)]
    size = prediction.weight.shape[0] + 1
    states = prediction.weight.shape[1]
    blocks = torch.tensor_split(rows, min(BLOCKS, len(rows)))
    grams, moments, squares = [], [], []
    for block in blocks:
        gram = torch.zeros(size, size, dtype=torch.float64, device=rows.device)
        moment = torch.zeros(size, states, dtype=torch.float64, device=rows.device)
        square = torch.zeros(states, dtype=torch.float64, device=rows.device)
        for part in block.split(8192):
            x, y = _regression(target, log, part)
            gram += x.T @ x
            moment += x.T @ y
            square += y.square().sum(dim=0)
        grams.append(gram)
        moments.append(moment)
        squares.append(square)
    whole, total = torch.stack(grams).sum(dim=0), len(rows)
    moment, square = torch.stack(moments).sum(dim=0), torch.stack(squares).sum(dim=0)
    require_finite(float(whole.sum() + moment.sum()), "linear prediction of the dynamics reward")

    def solved(gram: Tensor, right: Tensor, strength: float) -> Tensor:
        # The constant's own square counts the rows.
        shrink = strength * gram[-1, -1] * torch.eye(size, dtype=torch.float64, device=rows.device)
        shrink[-1, -1] = 0.0  # the constant is not shrunk
        solution: Tensor = torch.linalg.solve(gram + shrink, right)
        return solution

    def held_out(strength: float) -> float:
        error = 0.0
        for gram, right, own in zip(grams, moments, squares, strict=True):
            w = solved(whole - gram, moment - right, strength)
            error += float((own - 2.0 * (w * right).sum(dim=0) + (w * (gram @ w)).sum(dim=0)).sum())
        return error

    # A log too short to cut is fitted with the strongest ridge.
    best = min(STRENGTHS, key=held_out) if len(blocks) == BLOCKS else STRENGTHS[-1]
    solution = solved(whole, moment, best)
    square = square - (solution * (2.0 * moment - whole @ solution)).sum(dim=0)
    prediction.weight.copy_(solution[:-1].float())
    prediction.bias.copy_(solution[-1].float())
    prediction.spread.copy_((square / total).clamp(min=LEAST_SPREAD**2).sqrt().float())


def _regression(target: DiscriminatorEnsemble, log: LoggedTransitions, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Features with a constant (B, F + 1) and scaled changes (B, S), float64."""
    assert isinstance(target.prediction, LinearPrediction)
    observation = log.observe(rows)
    x = target.prediction.features(target.input_scaler(torch.cat([observation, log.actions[rows]], dim=1)))
    y = target.change_scaler(log.next_state(rows) - observation[:, target.state_slots])
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1).double(), y.double()
