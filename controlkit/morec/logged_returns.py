"""What a log's steps were worth: the discounted sums of the rewards that followed them."""

from __future__ import annotations

import torch
from torch import Tensor

from controlkit.replay import LoggedTransitions


def logged_returns(log: LoggedTransitions, gamma: float, spread: float, centre: float = 0.0) -> Tensor:
    """Discounted returns of the recorded commands, in scaled rewards: (N,), NaN where a step cannot be used.

    Where a record breaks off without a true end, what would have followed is taken to be worth the log's mean reward
    for ever: the farther from the break, the less that says.

    Args:
        log: recorded transitions.
        gamma: discount of a step.
        spread: rewards are divided by it.
        centre: is taken from rewards before.
    """
    reward = ((log.rewards.double() - centre) / spread)[log.rows]
    going_on = reward.mean() / (1.0 - gamma)
    terminated = log.terminated[log.rows].bool()
    cut = torch.ones_like(terminated)  # nothing of the same record follows
    cut[:-1] = log.rows[1:] != log.rows[:-1] + 1
    last = cut | terminated
    value = reward + gamma * going_on * (last & ~terminated)
    # value_i = own_i + weight_i value_(i + 1) for all at once: every pass doubles how many steps a sum reaches.
    weight, reach = gamma * (~last).double(), 1
    while reach < len(value) and bool(weight.any()):
        value[:-reach] += weight[:-reach] * value[reach:].clone()
        weight[:-reach] *= weight[reach:].clone()  # those of the last rows have come to 0: a record ends there
        reach *= 2
    found = torch.full((len(log.rewards),), torch.nan, device=reward.device)
    found[log.rows] = value.float()
    return found
