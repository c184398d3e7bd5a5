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

RIDGE = 1e-3


@torch.no_grad()
def start_linear(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor, bootstrap: Tensor) -> None:
    """Sets each member's linear path to the ridge solution on its bootstrap rows, the spread to its residual's."""
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
        # A small ridge decides only between columns that the log cannot tell apart.
        shrink = RIDGE * torch.eye(size, dtype=torch.float64, device=rows.device)
        shrink[-1, -1] = 0.0
        solution = torch.linalg.solve(gram + shrink, moment)
        variance = (square - (solution * moment).sum(dim=0)).clamp(min=0.0) / bootstrap.shape[1]
        skip.weight[member].zero_()
        skip.weight[member, :, :states] = solution[:-1].float()
        skip.bias[member].zero_()
        last.weight[member].zero_()
        last.bias[member, 0, :states] = solution[-1].float()
        last.bias[member, 0, states:] = variance.sqrt().clamp(min=1e-3).log().float()


# Rows per member beyond which a quasi-Newton fit gains nothing: its few parameters are known to a fraction of a
# percent.
MAX_ROWS = 20_000
ITERATIONS, CALLS = 200, 10
CONVERGED = 3e-4  # relative gain of a call's iterations below which the fit is done


def fit_observers(
    ensemble: ObserverEnsemble, log: LoggedTransitions, rows: Tensor, bootstrap: Tensor, progress: Progress
) -> None:
    """Fits the bilinear parts and gains of all members by the prediction-error method (Ljung, ch. 7): least squares of
    the one-step innovations through the whole window, by L-BFGS from the ridge solution for one step.

    Args:
        ensemble: trained in place.
        log: recorded transitions.
        rows: (T,) training rows.
        bootstrap: (E, T) each member's draws of them.
        progress: is told of the iterations.

    Raises:
        TrainingError: the error is no number.
    """
    chosen = rows[bootstrap[:, :MAX_ROWS]]  # (E, T)
    observation, action = log.observe(chosen), log.actions[chosen]
    change = log.next_state(chosen) - observation[..., ensemble.state_slots]
    target = ensemble.change_scaler(change)  # (E, T, S)
    _start_bilinear(ensemble, observation, action, target)
    # The perceptron starts at zero: computing it here would cost memory and time for nothing.
    perceptron, ensemble.perceptron = ensemble.perceptron, None
    fitted = [ensemble.bilinear.weight, ensemble.bilinear.bias, ensemble.gains]
    progress.start("dynamics (observers)", CALLS)
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
        require_finite(error, "dynamics (observers)")
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
