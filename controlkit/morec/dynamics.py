"""Structure-aware world model: an ensemble predicts the state tags; everything that is known is not learned.

The networks see the whole observation and predict the change of the state tags alone. Exogenous tags come from the
record, static tags stay, history shifts, the reward and the command limits come from the plant description.
Training follows PETS (arXiv 1805.12114) as MOREC does: bootstrap per member, Gaussian likelihood, hold-out early
stopping, elites by hold-out error. Deviations: the hold-out is cut in blocks of time (neighbouring rows share their
history, so random rows would leak), the learning rate falls along a cosine, each member's linear path starts at its
ridge solution (so that the perceptron learns what is left, and a linear plant is learned in closed form), and each
keeps its best hold-out weights, that start included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controlkit.config import DynamicsConfig, ScalingConfig
from controlkit.layout import Layout
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import Affine
from controlkit.models.observer import ObserverEnsemble
from controlkit.morec.identification import fit_observers, require_finite, start_linear
from controlkit.objective import CommandLimits, Objective
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from controlkit.scaling import Scaler
from controlkit.spec import PlantSpec

HOLDOUT_BLOCKS = 50


def observation_scaler(log: LoggedTransitions, scaling: ScalingConfig) -> Scaler:
    """(O,) mean and spread of the observation's slots over the log; the spread has a floor from the tags' ranges."""
    layout = log.layout
    values = log.observe(log.rows).cpu().numpy() if len(log.rows) <= 100_000 else _sampled(log)
    return _floored(values, (layout.high - layout.low) / 2, scaling.min_spread)


def action_scaler(log: LoggedTransitions, limits: CommandLimits, scaling: ScalingConfig) -> Scaler:
    """(m,) mean and spread of the commands over the log, with the same floor."""
    return _floored(log.actions[log.rows].cpu().numpy(), (limits.high - limits.low) / 2, scaling.min_spread)


def change_scaler(log: LoggedTransitions) -> Scaler:
    """(S,) mean and spread of the state tags' change in one step."""
    columns = torch.from_numpy(log.layout.state_columns).to(log.rows.device)
    change = log.next_state(log.rows) - log.frames[log.rows][:, columns]
    half_range = (log.layout.high - log.layout.low)[log.layout.state_columns] / 2
    return Scaler.fit(change.cpu().numpy(), fallback_spread=1e-3 * half_range)


def set_scaler(target: Affine, *parts: Scaler) -> None:
    """Writes the scalers of neighbouring columns into a network's buffers."""
    target.centre.copy_(torch.from_numpy(np.concatenate([part.centre for part in parts])))
    target.spread.copy_(torch.from_numpy(np.concatenate([part.spread for part in parts])))


@dataclass(frozen=True)
class DynamicsFit:
    """What became of a fit.

    Attributes:
        holdout_rmse: (S,) one-step error of the elites' mean on hold-out rows, engineering units.
        member_rmse: (E,) the same per member, in units of the log's typical change.
        residuals: (R, S) recorded minus predicted, hold-out rows, engineering units, mean removed.
        epochs: epochs trained.
        holdout_rows: (R,) rows of the log that were held out.
    """

    holdout_rmse: Tensor
    member_rmse: Tensor
    residuals: Tensor
    epochs: int
    holdout_rows: Tensor


def fit_dynamics(
    ensemble: GaussianEnsemble,
    log: LoggedTransitions,
    config: DynamicsConfig,
    scaling: ScalingConfig,
    limits: CommandLimits,
    generator: torch.Generator,
    progress: Progress,
) -> DynamicsFit:
    """Trains `ensemble` in place on a log.

    Raises:
        TrainingError: the loss is no number; says at which step.
    """
    set_scaler(ensemble.input_scaler, observation_scaler(log, scaling), action_scaler(log, limits, scaling))
    set_scaler(ensemble.change_scaler, change_scaler(log))
    train_rows, holdout_rows = _blocks(log.rows, config.holdout, generator)
    bootstrap = torch.randint(
        len(train_rows), (config.members, len(train_rows)), generator=generator, device=train_rows.device
    )
    if isinstance(ensemble, ObserverEnsemble):
        fit_observers(ensemble, log, train_rows, bootstrap, progress)
    else:
        start_linear(ensemble, log, train_rows, bootstrap)
    best = _member_error(ensemble, log, holdout_rows).cpu()  # (E,)
    epoch = 0
    if ensemble.decayed_parameters():
        best, epoch = _descend(ensemble, log, config, train_rows[bootstrap], holdout_rows, best, generator, progress)
    ensemble.elites.copy_(torch.argsort(best)[: len(ensemble.elites)])
    residuals = torch.cat([_residuals(ensemble, log, rows) for rows in holdout_rows.split(4096)])
    return DynamicsFit(
        residuals.square().mean(dim=0).sqrt(), best.sqrt(), residuals - residuals.mean(dim=0), epoch, holdout_rows
    )


def _descend(
    ensemble: GaussianEnsemble,
    log: LoggedTransitions,
    config: DynamicsConfig,
    rows: Tensor,
    holdout_rows: Tensor,
    best: Tensor,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[Tensor, int]:
    """Stochastic gradient descent over bootstrap rows (E, T) from where the ensemble stands; each member keeps its best
    hold-out weights. Returns the best hold-out errors (E,) and the epochs trained."""
    decayed = ensemble.decayed_parameters()
    chosen = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in ensemble.parameters() if id(parameter) not in chosen]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    per_epoch = math.ceil(rows.shape[1] / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.max_epochs, config.learning_rate * 0.01)
    kept = {name: value.detach().clone() for name, value in ensemble.named_parameters()}
    stale, epoch = 0, 0
    progress.start("dynamics", config.max_epochs)
    for epoch in range(1, config.max_epochs + 1):
        # A permutation per member.
        order = torch.argsort(torch.rand(rows.shape, generator=generator, device=rows.device), dim=1)  # (E, T)
        total = torch.zeros((), device=rows.device)
        for step in range(per_epoch):
            batch = rows.gather(1, order[:, step * config.batch_size : (step + 1) * config.batch_size])  # (E, B)
            loss = _likelihood_loss(ensemble, log, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach()
        require_finite(float(total), f"dynamics, epoch {epoch}")
        schedule.step()
        error = _member_error(ensemble, log, holdout_rows).cpu()  # (E,)
        # Every improvement is kept; only a gain of 1 % counts as a reason to go on.
        stale = 0 if bool((error < 0.99 * best).any()) else stale + 1
        better = error < best
        for name, value in ensemble.named_parameters():
            kept[name][better] = value.detach()[better]
        best = torch.minimum(best, error)
        progress.advance(note=f"hold-out {best.mean():.4f}")
        if stale >= config.patience:
            break
    with torch.no_grad():
        for name, value in ensemble.named_parameters():
            value.copy_(kept[name])
    return best, epoch


class WorldModel:
    """The plant as training and evaluation see it: next frame, reward, end and shifted observation of a step.

    Args:
        ensemble: predicts the state tags.
        spec: the plant.
        device: where the tensors live.
    """

    def __init__(self, ensemble: GaussianEnsemble, spec: PlantSpec, device: torch.device | str = "cpu") -> None:
        self.ensemble = ensemble
        self.layout = Layout.from_spec(spec)
        self.objective = Objective(spec)
        self.limits = CommandLimits(spec)
        self.state_columns = torch.from_numpy(self.layout.state_columns).to(device)
        self._shift = torch.from_numpy(self.layout.shift_index).to(device)
        self._low = torch.from_numpy(self.layout.low).to(device)[self.state_columns]
        self._high = torch.from_numpy(self.layout.high).to(device)[self.state_columns]

    def next_frame(self, state: Tensor, known: Tensor) -> Tensor:
        """The next frame: predicted state tags (B, S), clamped to their engineering range (a measurement can show no
        more), in the frame (B, n) that holds the known exogenous and static tags."""
        frame = known.clone()
        frame[:, self.state_columns] = torch.minimum(torch.maximum(state, self._low), self._high)
        return frame

    def next_observation(self, observation: Tensor, action: Tensor, next_frame: Tensor) -> Tensor:
        """History shifts by one sample: (B, O), (B, m), (B, n) -> (B, O)."""
        return torch.cat([next_frame, action, observation], dim=1)[:, self._shift]


def _likelihood_loss(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    observation = log.observe(rows)
    target = ensemble.change_scaler(log.next_state(rows) - observation[..., ensemble.state_slots])
    mean, log_std = ensemble.scaled_change(observation, log.actions[rows])
    # Members do not share parameters: the sum over members trains each as if it were alone.
    each: Tensor = 0.5 * ((target - mean) * torch.exp(-log_std)).square() + log_std
    return each.mean(dim=(1, 2)).sum()


@torch.no_grad()
def _member_error(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    """(E,) mean squared error in scaled units."""
    total = torch.zeros(ensemble.members, device=rows.device)
    for part in rows.split(4096):
        observation = log.observe(part)
        target = ensemble.change_scaler(log.next_state(part) - observation[:, ensemble.state_slots])
        mean, _ = ensemble.scaled_change(observation, log.actions[part])
        total += (mean - target).square().mean(dim=2).sum(dim=1)
    return total / len(rows)


@torch.no_grad()
def _residuals(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    means, _ = ensemble(log.observe(rows), log.actions[rows])
    residuals: Tensor = log.next_state(rows) - means.mean(dim=0)
    return residuals


def _blocks(rows: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cuts rows into blocks of time and holds out a random share of the blocks, at least one."""
    blocks = min(HOLDOUT_BLOCKS, max(2, len(rows) // 2))
    number = torch.arange(len(rows), device=rows.device) * blocks // len(rows)
    held = torch.randperm(blocks, generator=generator, device=rows.device)[: max(1, round(share * blocks))]
    out = torch.isin(number, held)
    return rows[~out], rows[out]


def _floored(values: npt.NDArray[np.float32], half_range: npt.NDArray[np.floating[Any]], min_spread: float) -> Scaler:
    fitted = Scaler.fit(values)
    constant = values.std(axis=0) <= 1e-7
    spread = np.where(constant, 0.0, fitted.spread)
    return Scaler(fitted.centre, np.maximum(spread, min_spread * half_range).astype(np.float32))


def _sampled(log: LoggedTransitions) -> npt.NDArray[np.float32]:
    every = math.ceil(len(log.rows) / 100_000)
    return np.asarray(log.observe(log.rows[::every]).cpu().numpy())
