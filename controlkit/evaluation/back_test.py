"""Back-test: withheld operation, predicted by models and clones that have not seen it.

Two questions. Do the recorded state tags stay inside the fan of predictions, when the model is given a window's
first observation and its recorded commands, and recorded residuals as noise? And is the value that the operator
realised found again, when a clone of it runs the model? (The recorded commands themselves cannot tell a value: they
answered the noise of the day, and do not answer the simulated one.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.evaluation.estimand import Estimand, realised_returns
from controlkit.evaluation.evaluation_model import MEMBERS, EvaluationModel, Fold
from controlkit.evaluation.model_rollouts import roll_out_paired
from controlkit.evaluation.policies import EvaluatedPolicy
from controlkit.replay import LoggedTransitions

# 39 simulations: the interval from the second lowest to the second highest holds a further one with 36 / 40 = 90 %.
DRAWS_PER_MEMBER = 13
FANS_PER_FOLD, VALUES_PER_FOLD = 24, 64


@dataclass(frozen=True)
class BackTest:
    """Prediction of W held-out windows, H' steps each.

    Attributes:
        rmse: (H', S) error of the fan's mean, engineering units; low, high: the middle 90 % of it.
        persistence: (H', S) the error of saying that nothing changes, for comparison.
        coverage: (H', S) share of recorded values inside the 90 % fan.
        predicted, realised: (V,) value of the operator from withheld start states, by the model and in the record.
    """

    rmse: Tensor
    low: Tensor
    high: Tensor
    persistence: Tensor
    coverage: Tensor
    predicted: Tensor
    realised: Tensor

    @property
    def windows(self) -> int:
        """V."""
        return len(self.realised)

    @property
    def bias(self) -> float:
        """Predicted minus realised value, plant units per period."""
        return float((self.predicted - self.realised).mean())

    @property
    def fan_coverage(self) -> float:
        """Share of recorded values inside the fan, of the state tag that fares worst."""
        return float(self.coverage.mean(dim=0).min())


@torch.no_grad()
def back_test(
    model: EvaluationModel, operators: Sequence[EvaluatedPolicy], log: LoggedTransitions, estimand: Estimand, seed: int
) -> BackTest:
    """Predicts windows of every fold's left-out block.

    Args:
        model: the folds.
        operators: the clone of the operator that was fitted with each fold.
        log: the evaluation log.
        estimand: weights; the windows are as long as the horizon where the blocks are long enough.
        seed: of the noise.
    """
    reach = [_reach(fold, log) for fold in model.folds]  # per fold (R,): steps that stay inside block and record
    horizon = min(estimand.horizon, max(1, int(max(steps.max() for steps in reach)) // 2))
    shorter = Estimand(estimand.gamma, horizon)
    errors, still, held, predicted, realised = [], [], [], [], []
    for fold, operator, steps in zip(model.folds, operators, reach, strict=True):
        eligible = fold.left_out[steps >= horizon]
        if not len(eligible):
            continue
        rows = _spread_out(eligible, FANS_PER_FOLD)
        fan = _fan(fold, log, rows, horizon, seed)  # (H', D, W, S)
        recorded = torch.stack([log.next_state(rows + step) for step in range(horizon)])  # (H', W, S)
        ordered = fan.sort(dim=1).values
        held.append((recorded >= ordered[:, 1]) & (recorded <= ordered[:, -2]))
        errors.append(fan.mean(dim=1) - recorded)
        still.append(log.frames[rows][:, fold.world.state_columns] - recorded)
        rows = _spread_out(eligible, VALUES_PER_FOLD)
        predicted.append(roll_out_paired(fold, operator, log, rows, shorter, seed).returns.mean(dim=0))
        realised.append(realised_returns(log, rows, shorter))
    error, persistence, inside = torch.cat(errors, dim=1), torch.cat(still, dim=1), torch.cat(held, dim=1)
    return BackTest(
        rmse=error.square().mean(dim=1).sqrt(),
        low=error.quantile(0.05, dim=1),
        high=error.quantile(0.95, dim=1),
        persistence=persistence.square().mean(dim=1).sqrt(),
        coverage=inside.double().mean(dim=1),
        predicted=torch.cat(predicted),
        realised=torch.cat(realised),
    )


def _reach(fold: Fold, log: LoggedTransitions) -> Tensor:
    return torch.minimum(log.remaining[fold.left_out], fold.left_out[-1] + 1 - fold.left_out)


def _spread_out(rows: Tensor, most: int) -> Tensor:
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=torch.float64).round().long()]


def _fan(fold: Fold, log: LoggedTransitions, rows: Tensor, horizon: int, seed: int) -> Tensor:
    """Simulated state tags under recorded commands: (H', D, W, S)."""
    world, draws = fold.world, MEMBERS * DRAWS_PER_MEMBER
    generator = torch.Generator().manual_seed(seed)
    at = rows.repeat(draws)
    member = torch.arange(MEMBERS).repeat_interleave(DRAWS_PER_MEMBER * len(rows))
    flat = torch.arange(len(at))
    observation = log.observe(at)
    states = []
    for _ in range(horizon):
        action = log.actions[at]
        means, _ = world.ensemble(observation, action)
        draw = torch.randint(len(fold.noise), (len(at),), generator=generator)
        frame = world.next_frame(means[member, flat] + fold.noise[draw], log.frames[at + 1])
        states.append(frame[:, world.state_columns].reshape(draws, len(rows), -1))
        observation = world.next_observation(observation, action, frame)
        at = at + 1
    return torch.stack(states)
