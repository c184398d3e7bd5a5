"""Structure-aware world model: an ensemble predicts the state tags; everything that is known is not learned.

The networks see the whole observation and predict the change of the state tags alone. Exogenous tags come from the
record, static tags stay, history shifts, the reward and the command limits come from the plant description.
Training follows PETS (arXiv 1805.12114) as MOREC does: bootstrap per member, Gaussian likelihood, hold-out early stopping,
elites by hold-out error. Deviations: the hold-out is cut in blocks of time (neighbouring rows share their history, so random
rows would leak), the learning rate falls along a cosine, each member's linear path starts at its ridge solution (so that
the perceptron learns what is left, and a linear plant is learned in closed form), and each keeps its best hold-out weights,
that start included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlkit.config import DynamicsConfig, ScalingConfig
from controlkit.errors import TrainingError
from controlkit.layout import Layout
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import Affine, BatchedLinear
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
    _start_linear(ensemble, log, train_rows, bootstrap)
    optimiser = torch.optim.AdamW(
        [
            {"params": ensemble.net.body.parameters(), "weight_decay": config.weight_decay},
            {"params": ensemble.net.skip.parameters() if ensemble.net.skip else [], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    per_epoch = math.ceil(len(train_rows) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.max_epochs, config.learning_rate * 0.01)
    best = _member_error(ensemble, log, holdout_rows).cpu()  # (E,)
    kept = {name: value.clone() for name, value in ensemble.net.state_dict().items()}
    stale, epoch = 0, 0
    progress.start("dynamics", config.max_epochs)
    for epoch in range(1, config.max_epochs + 1):
        order = torch.argsort(
            torch.rand(bootstrap.shape, generator=generator, device=bootstrap.device), dim=1
        )  # (E, T) a permutation per member
        total = 0.0
        for step in range(per_epoch):
            chosen = order[:, step * config.batch_size : (step + 1) * config.batch_size]
            rows = train_rows[bootstrap.gather(1, chosen)]  # (E, B)
            loss = _likelihood_loss(ensemble, log, rows)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise TrainingError(
                "the dynamics' loss is not a number",
                where=f"dynamics, epoch {epoch}",
                cure="Lower dynamics.learning_rate, or look for extreme values in the data.",
            )
        schedule.step()
        error = _member_error(ensemble, log, holdout_rows).cpu()  # (E,)
        # Every improvement is kept; only a gain of 1 % counts as a reason to go on.
        stale = 0 if bool((error < 0.99 * best).any()) else stale + 1
        _keep(ensemble, kept, error < best)
        best = torch.minimum(best, error)
        progress.advance(note=f"hold-out {best.mean():.4f}")
        if stale >= config.patience:
            break
    ensemble.net.load_state_dict(kept)
    ensemble.elites.copy_(torch.argsort(best)[: len(ensemble.elites)])
    residuals = torch.cat([_residuals(ensemble, log, rows) for rows in holdout_rows.split(4096)])
    return DynamicsFit(
        residuals.square().mean(dim=0).sqrt(), best.sqrt(), residuals - residuals.mean(dim=0), epoch, holdout_rows
    )


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


RIDGE = 1e-3


@torch.no_grad()
def _start_linear(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor, bootstrap: Tensor) -> None:
    """Sets each member's linear path to the ridge solution on its bootstrap rows, the spread to its residual's."""
    skip, last = ensemble.net.skip, ensemble.net.body[-1]
    assert skip is not None and isinstance(last, BatchedLinear)
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


def _likelihood_loss(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    observation = log.observe(rows)
    target = ensemble.change_scaler(log.next_state(rows) - observation[..., ensemble.state_slots])
    mean, log_std = ensemble.scaled_change(observation, log.actions[rows])
    # Members do not share parameters: the sum over members trains each as if it were alone.
    return (0.5 * ((target - mean) * torch.exp(-log_std)).square() + log_std).mean(dim=(1, 2)).sum()


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


def _keep(ensemble: GaussianEnsemble, kept: dict[str, Tensor], better: Tensor) -> None:
    for name, value in ensemble.net.state_dict().items():
        kept[name][better] = value[better]


def _blocks(rows: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cuts rows into blocks of time and holds out a random share of the blocks, at least one."""
    blocks = min(HOLDOUT_BLOCKS, max(2, len(rows) // 2))
    number = torch.arange(len(rows), device=rows.device) * blocks // len(rows)
    held = torch.randperm(blocks, generator=generator, device=rows.device)[: max(1, round(share * blocks))]
    out = torch.isin(number, held)
    return rows[~out], rows[out]


def _floored(values: np.ndarray, half_range: np.ndarray, min_spread: float) -> Scaler:  # type: ignore[type-arg]
    fitted = Scaler.fit(values)
    constant = values.std(axis=0) <= 1e-7
    spread = np.where(constant, 0.0, fitted.spread)
    return Scaler(fitted.centre, np.maximum(spread, min_spread * half_range).astype(np.float32))


def _sampled(log: LoggedTransitions) -> np.ndarray:  # type: ignore[type-arg]
    every = math.ceil(len(log.rows) / 100_000)
    return np.asarray(log.observe(log.rows[::every]).cpu().numpy())
