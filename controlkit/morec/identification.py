"""Closed-form and second-order fits of the linear parts of a world model: where system identification beats descent.

A stochastic descent needs hundreds of epochs to find what ridge regression or a quasi-Newton method finds at once; and
it is the linear part that decides how a model extrapolates to commands that the log hardly holds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from controlkit.errors import TrainingError
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import BatchedLinear
from controlkit.models.observer import ObserverEnsemble
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

# The share of the residual variance that shrinks the coefficients (of inputs and changes in scaled units): Bayes'
# estimate for coefficients of about 30, which is to say that the ridge decides only between columns that the log cannot
# tell apart. Where there is no noise there is nothing to shrink for, but rounding.
RIDGE, LEAST_RIDGE = 1e-3, 1e-7
RIDGE_PASSES = 4


@torch.no_grad()
def start_linear(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor, bootstrap: Tensor) -> None:
    """Sets each member's linear path to the ridge solution on its bootstrap rows, the spread to its residual's.

    The ridge of each state tag is `RIDGE` times its residual variance, found by a few passes: a narrow log of a plant
    without noise must not be shrunk by what a noisy one needs.
    """
    skip, last = ensemble.net.skip, ensemble.net.body[-1]
    assert skip is not None
    assert isinstance(last, BatchedLinear)
    states = len(ensemble.state_slots)
    size = skip.weight.shape[1] + 1
    for member in range(ensemble.members):
        gram = torch.zeros(size, size, dtype=torch.float64, device=rows.device)
        moment = torch.zeros(size, states, dtype=torch.float64, device=rows.device)
        square = torch.zeros(states, dtype=torch.float64, device=rows.device)
        for part in rows[bootstrap[member]].split(16384):
            observation = log.observe(part)
            x = ensemble.input_scaler(torch.cat([observation, log.actions[part]], dim=1)).double()
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
            y = ensemble.change_scaler(log.next_state(part) - observation[:, ensemble.state_slots]).double()
            gram += x.T @ x
            moment += x.T @ y
            square += y.square().sum(dim=0)
        require_finite(float(gram.sum() + moment.sum()), "dynamics, linear start")
        solution, variance = _ridge(gram, moment, square)
        skip.weight[member].zero_()
        skip.weight[member, :, :states] = solution[:-1].float()
        skip.bias[member].zero_()
        last.weight[member].zero_()
        last.bias[member, 0, :states] = solution[-1].float()
        last.bias[member, 0, states:] = variance.sqrt().clamp(min=1e-3).log().float()


def _ridge(gram: Tensor, moment: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression from sums over rows, all float64.

    Args:
        gram: (F + 1, F + 1) products of the features, the last of which is 1.
        moment: (F + 1, S) products of features and targets.
        square: (S,) squares of the targets.

    Returns:
        (F + 1, S) coefficients, the intercept last and not shrunk; (S,) variance of the residual.
    """
    rows = gram[-1, -1]
    mean, target = gram[-1, :-1] / rows, moment[-1] / rows
    # About the means the intercept is gone, and one eigendecomposition serves every ridge.
    centred = gram[:-1, :-1] - rows * torch.outer(mean, mean)
    cross, power = moment[:-1] - rows * torch.outer(mean, target), square - rows * target.square()
    values, vectors = torch.linalg.eigh(centred)  # (F,), (F, F)
    values, along = values.clamp(min=0.0).unsqueeze(1), vectors.T @ cross  # (F, 1), (F, S)
    variance = torch.ones_like(power)
    for _ in range(RIDGE_PASSES):
        weight = along / (values + (RIDGE * variance).clamp(LEAST_RIDGE, RIDGE))  # (F, S)
        variance = ((power - (weight * (2.0 * along - values * weight)).sum(dim=0)) / rows).clamp(min=0.0)
    coefficients = vectors @ weight
    return torch.cat([coefficients, (target - mean @ coefficients).unsqueeze(0)]), variance


# Rows per member beyond which a quasi-Newton fit gains nothing: its few parameters are known to a fraction of a
# percent.
MAX_ROWS = 20_000
ITERATIONS, CALLS = 200, 10
CONVERGED = 3e-4  # relative gain of a call's iterations below which the fit is done


def fit_observers(
    ensemble: ObserverEnsemble,
    log: LoggedTransitions,
    rows: Tensor,
    bootstrap: Tensor,
    progress: Progress,
    whose: str = "dynamics",
) -> None:
    """Fits the bilinear parts and gains of all members by the prediction-error method (Ljung, ch. 7): least squares of
    the one-step innovations through the whole window, by L-BFGS from the ridge solution for one step.

    Args:
        ensemble: trained in place.
        log: recorded transitions.
        rows: (T,) training rows.
        bootstrap: (E, T) each member's draws of them.
        progress: is told of the iterations.
        whose: names the stage that they belong to, for progress and errors.

    Raises:
        TrainingError: the error is no number.
    """
    stage = f"{whose} (observers)"
    chosen = rows[bootstrap[:, :MAX_ROWS]]  # (E, T)
    observation, action = log.observe(chosen), log.actions[chosen]
    change = log.next_state(chosen) - observation[..., ensemble.state_slots]
    target = ensemble.change_scaler(change)  # (E, T, S)
    _start_bilinear(ensemble, observation, action, target)
    # The perceptron starts at zero: computing it here would cost memory and time for nothing.
    perceptron, ensemble.perceptron = ensemble.perceptron, None
    fitted = [ensemble.bilinear.weight, ensemble.bilinear.bias, ensemble.gains]
    progress.start(stage, CALLS)
    optimiser = torch.optim.LBFGS(
        fitted, max_iter=ITERATIONS // CALLS, history_size=40, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        mean, _ = ensemble.scaled_change(observation, action)
        error: Tensor = (mean - target).square().mean(dim=(1, 2)).sum()
        error.backward()
        return error

    before = math.inf
    for _ in range(CALLS):
        error = float(optimiser.step(closure).detach())  # before this call's iterations
        require_finite(error, stage)
        progress.advance(note=f"error {error / ensemble.members:.4f}")
        if before - error < CONVERGED * error:
            break
        before = error
    with torch.no_grad():
        mean, _ = ensemble.scaled_change(observation, action)
        ensemble.log_std.copy_((mean - target).square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-3).log())
    ensemble.perceptron = perceptron


@torch.no_grad()
def _start_bilinear(ensemble: ObserverEnsemble, observation: Tensor, action: Tensor, target: Tensor) -> None:
    state = observation.index_select(-1, ensemble.states_at[-1])
    known = observation.index_select(-1, ensemble.known_at[-1])
    x = ensemble.features(state, known, action)
    x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1).double()  # (E, T, F + 1)
    # The step adds the typical change's mean by itself (`Affine.invert`), and the target has it taken off.
    gram, moment = x.transpose(1, 2) @ x, x.transpose(1, 2) @ target.double()
    shrink = RIDGE * torch.eye(x.shape[-1], dtype=torch.float64, device=x.device)
    shrink[-1, -1] = 0.0
    solution = torch.linalg.solve(gram + shrink, moment).float()
    ensemble.bilinear.weight.copy_(solution[:, :-1])
    ensemble.bilinear.bias.copy_(solution[:, -1:])


def require_finite(loss: float, where: str) -> None:
    """Stops on a loss that is no number.

    Raises:
        TrainingError: says where.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            "the loss is not a number",
            where=where,
            cure="Lower the learning rate, or look for extreme values in the data.",
        )


def require_all_finite(losses: Tensor, where: str) -> None:
    """Stops on the first of many losses (K,) that is no number; one host synchronisation for all.

    Raises:
        TrainingError: says where, and at which update.
    """
    if not bool(torch.isfinite(losses).all()):
        first = int((~torch.isfinite(losses)).nonzero()[0, 0])
        require_finite(float(losses[first]), f"{where}, update {first + 1}")
