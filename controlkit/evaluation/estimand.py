"""What is estimated, the same for every estimator.

The value of a policy is (1 - gamma) times the expected discounted sum of rewards from the recorded start states: a
mean reward per period in plant units, near periods counting more. It is cut at a horizon and weighted so that the
weights add up to 1. After a trip (`terminated`) rewards are zero, as in training; trips are counted with the limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controlkit.errors import DataError
from controlkit.objective import Objective
from controlkit.replay import LoggedTransitions

Floats = npt.NDArray[np.float64]

# Longer views need more data than logs have, and errors of a model grow with every step.
MAX_GAMMA = 0.99
# Weight of the discounted sum that may lie beyond the horizon.
BEYOND = 0.02


@dataclass(frozen=True)
class Estimand:
    """Discount and horizon.

    Attributes:
        gamma: per period.
        horizon: H, steps of a rollout.
    """

    gamma: float
    horizon: int

    @property
    def weights(self) -> Tensor:
        """(H,) weights of the steps; they add up to 1."""
        raw = self.gamma ** torch.arange(self.horizon, dtype=torch.float64)
        return raw / raw.sum()

    @property
    def weight(self) -> float:
        """Share of the infinite sum's weight that lies inside the horizon."""
        return float(1.0 - self.gamma**self.horizon)

    @property
    def block(self) -> int:
        """Rows of a stretch of the log that is taken as independent of the next: twice the discount's time."""
        return max(2, math.ceil(2.0 / (1.0 - self.gamma)))


@dataclass(frozen=True)
class Starts:
    """Start states, in order of time, and what the log made of them.

    Attributes:
        rows: (N,) rows of the evaluation log.
        returns: (N,) realised value of the logged operator from each.
        terms: the same per term of the objective: name -> (N,).
        stride: rows between two starts; blocks: independent stretches of the evaluation part.
    """

    rows: Tensor
    returns: Floats
    terms: dict[str, Floats]
    stride: float
    blocks: float

    def block(self, estimand: Estimand) -> int:
        """Length of a block of the bootstrap, in starts."""
        return max(1, math.ceil(estimand.block / self.stride))


def choose_estimand(policy_gamma: float, log: LoggedTransitions, first_row: int) -> Estimand:
    """Discount of the run (0.99 at most) and the horizon that the log allows.

    Args:
        policy_gamma: the discount that the policy was trained for.
        log: the evaluation log.
        first_row: where the evaluation part begins in it.

    Raises:
        DataError: no recorded stretch is as long as the discount's time.
    """
    gamma = min(policy_gamma, MAX_GAMMA)
    wanted = max(1, math.ceil(math.log(BEYOND) / math.log(gamma))) if gamma > 0.0 else 1
    rows = log.rows[log.rows >= first_row]
    longest = int(log.remaining[rows].max()) if len(rows) else 0
    least = max(1, math.ceil(1.0 / (1.0 - gamma)))
    if longest < least:
        raise DataError(
            f"the log is shorter than the horizon: its longest unbroken stretch goes on for {longest} steps after a "
            f"full window of history, and a discount of {gamma:g} looks {least} steps ahead at least",
            where="evaluation part of the split",
            cure="Bring a longer log, or train with a smaller policy.gamma.",
        )
    # Half of the longest stretch is left for start states.
    return Estimand(gamma, min(wanted, max(least, longest // 2)))


def choose_starts(
    log: LoggedTransitions, first_row: int, estimand: Estimand, count: int, objective: Objective
) -> Starts:
    """Up to `count` start rows, evenly over the evaluation part, each with a whole horizon of record after it."""
    eligible = log.rows[(log.rows >= first_row) & (log.remaining[log.rows] >= estimand.horizon)]
    taken = torch.linspace(0, len(eligible) - 1, min(count, len(eligible)), dtype=torch.float64).round().long()
    rows = eligible[taken]
    weights = estimand.weights
    terms: dict[str, Floats] = {name: np.zeros(len(rows)) for name in objective.term_names}
    for step in range(estimand.horizon):
        at = rows + step
        parts = objective.terms(log.observe(at), log.actions[at], log.frames[at + 1])
        for name, value in parts.items():
            terms[name] += (weights[step] * _full(value, rows)).numpy()
    returns = realised_returns(log, rows, estimand).numpy()
    return Starts(rows, returns, terms, len(eligible) / len(rows), len(eligible) / estimand.block)


def realised_returns(log: LoggedTransitions, rows: Tensor, estimand: Estimand) -> Tensor:
    """What the logged operator realised from `rows` (N,), which have a whole horizon of record after them: (N,).

    A trip ends the record, so that it can only lie in a window's last step.
    """
    steps = rows.unsqueeze(1) + torch.arange(estimand.horizon)  # (N, H)
    return (estimand.weights * log.rewards[steps].double()).sum(dim=1)


def _full(value: object, like: Tensor) -> Tensor:
    """A term's values as (N,) doubles; a term may be a constant."""
    return torch.as_tensor(value, dtype=torch.float64).expand(len(like))
