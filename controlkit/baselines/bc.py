"""Behaviour cloning: the policy is the mean logged command, by least squares (no value function, no model).

Deviations from the usual baseline: the actor is MOREC's own (tanh-squashed, its mean is the policy), so that it is
evaluated and exported like any other; the error is measured in commands scaled to [-1, 1]; the learning rate falls
along a cosine; the actor that is kept may be an average of the last ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from controlkit.baselines.log_learner import LogLearner, descend
from controlkit.replay import Batch


class BCLosses(NamedTuple):
    """One update's figures, as tensors."""

    actor_loss: Tensor


class BCLearner(LogLearner):
    """Least-squares regression of the logged command; see `LogLearner` for the arguments."""

    def update(self, batch: Batch, generator: torch.Generator) -> BCLosses:
        """One gradient step of the actor; draws nothing."""
        self.set_rate(self.actor_optimiser, self.config.actor_learning_rate)
        loss = self.distance(batch.observation, batch.action)
        descend(loss, self.actor_optimiser)
        self.finish_update()
        return BCLosses(loss.detach())
