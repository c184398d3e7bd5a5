"""Trajectory importance sampling, as a diagnostic alone: how many recorded trajectories speak of a policy?

The weight of a recorded stretch is the product over its steps of how likely its commands are under the policy and
under the operator (Precup, Sutton, Singh 2000). The effective sample size (sum w)^2 / sum w^2 (Kish 1965) counts how
many stretches the weighted mean really rests on; after a few dozen steps it is a handful for any policy that is not
the operator. So no estimate is made from the weights here: the number only says how far ahead the record itself,
without any model, has a say.

A deterministic policy has no density: it gets the operator's own spread around its command, which flatters it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.models.actor import BehaviourClone
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions

# Steps at which the report states the effective sample size.
STEPS = (1, 2, 5, 10, 20, 50, 100)


@torch.no_grad()
def log_weights(
    policy: EvaluatedPolicy,
    clone: BehaviourClone,
    log: LoggedTransitions,
    rows: Tensor,
    steps: int,
    limits: CommandLimits,
) -> Tensor:
    """Logarithms of the weights after 1 .. `steps` steps from `rows` (N,), with as much record after each: (H, N)."""
    total, found = torch.zeros(len(rows), dtype=torch.float64), []
    for step in range(steps):
        observation, action = log.observe(rows + step), log.actions[rows + step]
        _, log_std = clone.distribution(observation)
        mean = clone.action_scaler(clone(observation))
        own = command(policy, observation, torch.zeros_like(action), limits)
        recorded = clone.action_scaler(action)
        # The spreads are the same, so that the normalising factors cancel.
        far = (recorded - clone.action_scaler(own)).square() - (recorded - mean).square()
        total = total - 0.5 * (far / (2.0 * log_std).exp()).sum(dim=1).double()
        found.append(total)
    return torch.stack(found)


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 from logarithms of weights: (..., N) -> (...,)."""
    return (2.0 * log_weight.logsumexp(dim=-1) - (2.0 * log_weight).logsumexp(dim=-1)).exp()


def effective_samples(
    policy: EvaluatedPolicy,
    clone: BehaviourClone,
    log: LoggedTransitions,
    rows: Tensor,
    horizon: int,
    limits: CommandLimits,
    steps: Sequence[int] = STEPS,
) -> dict[int, float]:
    """Steps ahead -> effective sample size of the recorded stretches from `rows` (N,)."""
    asked = [step for step in steps if step <= horizon]
    size = effective_sample_size(log_weights(policy, clone, log, rows, max(asked, default=1), limits))
    return {step: float(size[step - 1]) for step in asked}
