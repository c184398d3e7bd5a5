"""Structure-aware world model: an ensemble predicts the state tags; everything that is known is not learned.

The networks see the whole observation and predict the change of the state tags alone. Exogenous tags come from the
record, static tags stay, history shifts, the reward and the command limits come from the plant description.
Training follows PETS (arXiv 1805.12114) as MOREC does: bootstrap per member, Gaussian likelihood, hold-out early
stopping, elites by hold-out error. Deviations: the hold-out is cut in blocks of time (neighbouring rows share their
history, so random rows would leak), the learning rate falls along a cosine, each member's linear path starts at its
ridge solution (so that the perceptron learns what is left, and a linear plant is learned in closed form), and each
keeps its best hold-out weights, that start included. Some members may be linear altogether, and the elites are those
with the smallest error over open-loop rollouts of many steps, which is what they are used for.
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
from controlkit.errors import ConfigError, DataError, nearest
from controlkit.layout import Layout
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import Affine
from controlkit.models.observer import ObserverEnsemble
from controlkit.morec.holdout import blocks, one_step_error, open_loop_errors, relative_errors
from controlkit.morec.identification import fit_observers, require_all_finite, require_finite, start_linear
from controlkit.objective import CommandLimits, LearnedReward, Objective
from controlkit.progress import Progress
from controlkit.replay import OVERVIEW, LoggedTransitions, stretches, thinned
from controlkit.scaling import Scaler
from controlkit.spec import PlantSpec

# Divided by this a value of any unit is nothing; a number all the same, which graphs and files can hold.
UNSEEN_SPREAD = 1e30
# Observations that scalers are fitted to.
SCALED_BY = 100_000
# A prediction is a sum of a handful of rounded numbers: so many roundings are as good as none.
ROUNDING = 4.0 * torch.finfo(torch.float32).eps


def observation_scaler(log: LoggedTransitions, scaling: ScalingConfig) -> Scaler:
    """(O,) mean and spread of the observation's slots over the log; the spread has a floor from the tags' ranges, and
    at a floor of the whole range centre and spread are the ranges' own.

    Raises:
        ConfigError: an unseen tag that the plant does not have.
    """
    layout = log.layout
    hidden = _unseen(layout, scaling)
    if scaling.min_spread == 1:
        return _blinded(Scaler.from_range(layout.low, layout.high), hidden)
    rows = thinned(log.rows, max(1, min(SCALED_BY, OVERVIEW // (4 * layout.size))))
    values = torch.cat([log.observe(part) for part in rows.split(4096)]).cpu().numpy()
    return _blinded(_floored(values, (layout.high - layout.low) / 2, scaling.min_spread), hidden)


def action_scaler(log: LoggedTransitions, limits: CommandLimits, scaling: ScalingConfig) -> Scaler:
    """(m,) mean and spread of the commands over the log, with the same floor."""
    if scaling.min_spread == 1:
        return Scaler.from_range(limits.low, limits.high)
    return _floored(log.actions[log.overview].cpu().numpy(), (limits.high - limits.low) / 2, scaling.min_spread)


def change_scaler(log: LoggedTransitions) -> Scaler:
    """(S,) mean and spread of the state tags' change in one step."""
    columns = torch.from_numpy(log.layout.state_columns).to(log.rows.device)
    rows = log.overview
    change = log.next_state(rows) - log.frames[rows][:, columns]
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
        open_loop_rmse: (H, E) each member's error after 1 .. H steps of open-loop rollouts through the hold-out, by
            which the elites are chosen; in units of the spread by which state tags are scaled.
        linear: (E,) which members are linear, by design or because no descent bettered their start.
        residuals: (R, S) recorded minus predicted, hold-out rows, engineering units, mean removed.
        epochs: epochs trained.
        holdout_rows: (R,) rows of the log that were held out.
    """

    holdout_rmse: Tensor
    member_rmse: Tensor
    open_loop_rmse: Tensor
    linear: Tensor
    residuals: Tensor
    epochs: int
    holdout_rows: Tensor

    def figures(self, elites: Tensor) -> dict[str, float]:
        """What `metrics.csv` keeps: epochs, the one-step hold-out error, the elites' mean error at the end of the
        open-loop rollouts and their length, and how many of the elites are linear."""
        elites = elites.cpu()
        return {
            "dynamics_epochs": float(self.epochs),
            "holdout_rmse": float(self.holdout_rmse.mean()),
            "open_loop_rmse": float(self.open_loop_rmse[-1, elites].mean()),
            "open_loop_steps": float(len(self.open_loop_rmse)),
            "linear_elites": float(self.linear[elites].sum()),
        }

    def describe(self, elites: Tensor) -> str:
        """One line for the user: which kind of member won."""
        linear = int(self.linear[elites.cpu()].sum())
        return (
            f"Of {len(self.linear)} world models the best {len(elites)} over {len(self.open_loop_rmse)}-step hold-out "
            f"rollouts: {linear} linear, {len(elites) - linear} with a perceptron."
        )


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
        TrainingError: the loss is no number; says at which update.
        DataError: fewer than two usable transitions.
    """
    if len(log.rows) < 2:
        raise DataError(
            "one usable transition is too few to fit a world model and hold some out",
            where="training part",
            cure="Bring a longer log, or ask for less history in the plant file.",
        )
    set_scaler(ensemble.input_scaler, observation_scaler(log, scaling), action_scaler(log, limits, scaling))
    set_scaler(ensemble.change_scaler, change_scaler(log))
    train_rows, holdout_rows = blocks(stretches(log.rows, config.max_rows), config.holdout, generator)
    bootstrap = torch.randint(
        len(train_rows), (config.members, len(train_rows)), generator=generator, device=train_rows.device
    )
    if isinstance(ensemble, ObserverEnsemble):
        fit_observers(ensemble, log, train_rows, bootstrap, progress)
    else:
        start_linear(ensemble, log, train_rows, bootstrap)
    best = one_step_error(ensemble, log, holdout_rows).cpu()  # (E,)
    epoch = 0
    # The last members stay linear, as they were started; and where that start leaves nothing but the rounding of stored
    # numbers, there is nothing for a perceptron to learn.
    networks = torch.arange(config.members - config.linear_count)
    networks = networks[best[networks] > _rounding(ensemble, log)]
    if len(networks) and ensemble.decayed_parameters():
        trained, draws = ensemble.subset(networks), train_rows[bootstrap[networks]]
        best[networks], epoch = _descend(trained, log, config, draws, holdout_rows, best[networks], generator, progress)
        ensemble.put(networks, trained)
    spread = None
    if scaling.unseen:  # tags that networks do not see are predicted, and judged, all the same
        seen = observation_scaler(log, scaling.model_copy(update={"unseen": ()}))
        spread = torch.from_numpy(seen.spread).to(log.rows.device)[ensemble.state_slots]
    open_loop = open_loop_errors(ensemble, log, holdout_rows, config.holdout_steps, spread)  # (H, E)
    ensemble.elites.copy_(torch.argsort(relative_errors(open_loop))[: len(ensemble.elites)])
    residuals = torch.cat([_residuals(ensemble, log, rows) for rows in holdout_rows.split(4096)])
    return DynamicsFit(
        holdout_rmse=residuals.square().mean(dim=0).sqrt(),
        member_rmse=best.sqrt(),
        open_loop_rmse=open_loop.sqrt().cpu(),
        linear=ensemble.linear().cpu(),
        residuals=residuals - residuals.mean(dim=0),
        epochs=epoch,
        holdout_rows=holdout_rows,
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
        losses = []
        for step in range(per_epoch):
            batch = rows.gather(1, order[:, step * config.batch_size : (step + 1) * config.batch_size])  # (E, B)
            loss = _likelihood_loss(ensemble, log, batch, config.beta)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        require_all_finite(torch.stack(losses), f"dynamics, epoch {epoch}")
        schedule.step()
        error = one_step_error(ensemble, log, holdout_rows).cpu()  # (E,)
        require_finite(float(error.sum()), f"dynamics, hold-out error after epoch {epoch}")
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
        learned: the reward where the plant's is recorded without a formula.
    """

    def __init__(
        self,
        ensemble: GaussianEnsemble,
        spec: PlantSpec,
        device: torch.device | str = "cpu",
        learned: LearnedReward | None = None,
    ) -> None:
        self.ensemble = ensemble
        self.layout = Layout.from_spec(spec)
        self.objective = Objective(spec, learned)
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


def _likelihood_loss(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor, beta: float) -> Tensor:
    """The beta-NLL of the rows (E, B): see `DynamicsConfig.beta`."""
    observation = log.observe(rows)
    target = ensemble.change_scaler(log.next_state(rows) - observation[..., ensemble.state_slots])
    mean, log_std = ensemble.scaled_change(observation, log.actions[rows])
    # Members do not share parameters: the sum over members trains each as if it were alone.
    each: Tensor = 0.5 * ((target - mean) * torch.exp(-log_std)).square() + log_std
    if beta:
        each = each * torch.exp(2.0 * beta * log_std.detach())
    return each.mean(dim=(1, 2)).sum()


@torch.no_grad()
def _residuals(ensemble: GaussianEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    means, _ = ensemble(log.observe(rows), log.actions[rows])
    residuals: Tensor = log.next_state(rows) - means.mean(dim=0)
    return residuals


def _rounding(ensemble: GaussianEnsemble, log: LoggedTransitions) -> float:
    """The mean square, in units of the typical change, of what rounding to single precision does to the state tags."""
    size = log.frames[log.overview][:, torch.from_numpy(log.layout.state_columns).to(log.rows.device)].abs().amax(dim=0)
    return float((ROUNDING * size / ensemble.change_scaler.spread).square().mean())


def _unseen(layout: Layout, scaling: ScalingConfig) -> npt.NDArray[np.bool_]:
    """(O,) which slots show a tag that networks must not see."""
    for tag in scaling.unseen:
        if tag in layout.action_tags:
            raise ConfigError(f"'{tag}' is a command, which no network can do without", where="scaling.unseen")
        if tag not in layout.frame_tags:
            raise ConfigError(f"unknown tag '{tag}'", where="scaling.unseen", cure=nearest(tag, layout.frame_tags))
    return np.array([slot.tag in scaling.unseen for slot in layout.slots])


def _blinded(scaler: Scaler, hidden: npt.NDArray[np.bool_]) -> Scaler:
    """The same, but that whatever stands in the hidden slots is scaled to (nearly) 0."""
    return Scaler(
        np.where(hidden, 0.0, scaler.centre).astype(np.float32),
        np.where(hidden, UNSEEN_SPREAD, scaler.spread).astype(np.float32),
    )


def _floored(values: npt.NDArray[np.float32], half_range: npt.NDArray[np.floating[Any]], min_spread: float) -> Scaler:
    fitted = Scaler.fit(values)
    constant = values.std(axis=0) <= 1e-7
    spread = np.where(constant, 0.0, fitted.spread)
    return Scaler(fitted.centre, np.maximum(spread, min_spread * half_range).astype(np.float32))
