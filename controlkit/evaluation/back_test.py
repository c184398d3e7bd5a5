"""Back-test: held-out recorded trajectories, predicted by a model that has not seen them, under the recorded commands.

Each trajectory is simulated many times from its first observation, with recorded residuals as noise, as the policy's
rollouts are. If the recorded plant could be one of the simulated ones, the fan holds it as often as it says; and the
value that the model gives the recorded commands is what was realised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import MEMBERS, EvaluationModel, Fold
from controlkit.objective import Objective
from controlkit.replay import LoggedTransitions

# 39 simulations: the interval from the second lowest to the second highest holds a further one with 36 / 40 = 90 %.
DRAWS_PER_MEMBER = 13
STARTS_PER_FOLD = 24


@dataclass(frozen=True)
class BackTest:
    """Prediction of W held-out windows, H' steps each.

    Attributes:
        rmse: (H', S) error of the fan's mean, engineering units; low, high: the middle 90 % of it.
        persistence: (H', S) the error of saying that nothing changes, for comparison.
        coverage: (H', S) share of recorded values inside the 90 % fan.
        predicted, realised: (W,) value of the recorded commands.
        windows: W.
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
        """W."""
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
    model: EvaluationModel, log: LoggedTransitions, objective: Objective, estimand: Estimand, seed: int
) -> BackTest:
    """Predicts windows of every fold's left-out block.

    Args:
        model: the folds.
        log: the evaluation log.
        objective: of the plant.
        estimand: weights; the windows are as long as the horizon where the blocks are long enough.
        seed: of the noise.
    """
    reach = [_reach(fold, log) for fold in model.folds]  # per fold (R,): steps that stay inside block and record
    horizon = min(estimand.horizon, max(1, int(max(steps.max() for steps in reach)) // 2))
    weights = estimand.gamma ** torch.arange(horizon, dtype=torch.float64)
    weights = weights / weights.sum()
    errors, still, held, predicted, realised = [], [], [], [], []
    for fold, steps in zip(model.folds, reach, strict=True):
        eligible = fold.left_out[steps >= horizon]
        if not len(eligible):
            continue
        chosen = torch.linspace(0, len(eligible) - 1, min(STARTS_PER_FOLD, len(eligible))).round().long()
        rows = eligible[chosen]
        fan, value = _replay(fold, log, objective, rows, weights, model.residuals, seed)  # (H', D, W, S), (D, W)
        recorded = torch.stack([log.next_state(rows + step) for step in range(horizon)])  # (H', W, S)
        ordered = fan.sort(dim=1).values
        held.append((recorded >= ordered[:, 1]) & (recorded <= ordered[:, -2]))
        errors.append(fan.mean(dim=1) - recorded)
        still.append(log.frames[rows][:, fold.world.state_columns] - recorded)
        predicted.append(value.mean(dim=0))
        future = torch.stack([log.rewards[rows + step].double() for step in range(horizon)], dim=1)  # (W, H')
        over = log.terminated[rows.unsqueeze(1) + torch.arange(horizon)].double()
        alive = (torch.cumsum(over, dim=1) - over) == 0
        realised.append((weights * torch.where(alive, future, 0.0)).sum(dim=1))
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


def _replay(
    fold: Fold,
    log: LoggedTransitions,
    objective: Objective,
    rows: Tensor,
    weights: Tensor,
    residuals: Tensor,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Simulated state tags (H', D, W, S) and values (D, W) under recorded commands."""
    world, draws = fold.world, MEMBERS * DRAWS_PER_MEMBER
    generator = torch.Generator().manual_seed(seed)
    at = rows.repeat(draws)
    member = torch.arange(MEMBERS).repeat_interleave(DRAWS_PER_MEMBER * len(rows))
    flat = torch.arange(len(at))
    observation = log.observe(at)
    value, alive = torch.zeros(len(at), dtype=torch.float64), torch.ones(len(at), dtype=torch.bool)
    states = []
    for weight in weights:
        action = log.actions[at]
        means, _ = world.ensemble(observation, action)
        draw = torch.randint(len(residuals), (len(at),), generator=generator)
        frame = world.next_frame(means[member, flat] + residuals[draw], log.frames[at + 1])
        reward = torch.as_tensor(objective.reward(observation, action, frame), dtype=torch.float64)
        value += weight * torch.where(alive, reward, 0.0)
        alive = alive & ~objective.terminated(frame)
        states.append(frame[:, world.state_columns].reshape(draws, len(rows), -1))
        observation = world.next_observation(observation, action, frame)
        at = at + 1
    return torch.stack(states), value.reshape(draws, len(rows))
