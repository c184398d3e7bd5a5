"""What the learners from logged transitions alone share: the actor, its average, the learning rates, checkpoints.

They have the interface of the policy stage's soft actor-critic, so that the training loop, evaluation and export work
with any of them.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlkit.config import PolicyConfig
from controlkit.errors import TrainingError
from controlkit.models.actor import Actor
from controlkit.replay import Batch


class LogLearner(ABC):
    """A learner whose `update` sees logged transitions only.

    Args:
        actor: trained in place; its mean command is the policy.
        config: settings.

    Attributes:
        updates: how many have been made.
        parts: names of the attributes that a checkpoint holds beside the counters; they have a `state_dict`.
    """

    parts: tuple[str, ...] = ("actor", "averaged", "actor_optimiser")

    def __init__(self, actor: Actor, config: PolicyConfig) -> None:
        self.actor, self.config = actor, config
        self.averaged = copy.deepcopy(actor).requires_grad_(False)
        self.actor_optimiser = torch.optim.Adam(actor.net.parameters(), lr=config.actor_learning_rate)
        self.updates = self.averages = 0

    @abstractmethod
    def update(self, batch: Batch, generator: torch.Generator) -> NamedTuple:
        """One gradient step; returns its losses as tensors."""

    def warm_start(self, observation: Tensor, command: Tensor) -> Tensor:
        """One step that brings the actor's command to the operator's: (B, O), (B, m) -> the loss."""
        loss = self.distance(observation, command)
        descend(loss, self.actor_optimiser)
        return loss.detach()

    def distance(self, observation: Tensor, action: Tensor) -> Tensor:
        """Mean squared distance of the actor's command to another, scaled to [-1, 1]: (B, O), (B, m) -> ()."""
        found: Tensor = ((self.actor(observation) - action) / self.actor.reach).square().sum(dim=-1).mean()
        return found

    def finish_update(self) -> None:
        """Counts an update and, in the last share of them, averages the actor's weights."""
        self.updates += 1
        if self.updates <= self.config.updates * (1.0 - self.config.average):
            return
        self.averages += 1
        with torch.no_grad():
            for mean, weight in zip(self.averaged.net.parameters(), self.actor.net.parameters(), strict=True):
                mean.lerp_(weight, 1.0 / self.averages)

    def set_rate(self, optimiser: torch.optim.Optimizer, rate: float) -> None:
        """The learning rate falls along a cosine to a hundredth."""
        done = min(1.0, self.updates / max(1, self.config.updates))
        optimiser.param_groups[0]["lr"] = rate * max(0.5 * (1.0 + math.cos(math.pi * done)), 0.01)

    def final_actor(self) -> Actor:
        """The actor to keep: the average over the last share of updates, or the last one where none was asked for."""
        return self.averaged if self.averages else self.actor

    def require_finite(self, losses: NamedTuple) -> None:
        """Stops training on a loss that is no number.

        Raises:
            TrainingError: says which loss and at which update.
        """
        for name, value in losses._asdict().items():
            if name.endswith("_loss") and not math.isfinite(float(value)):
                raise TrainingError(
                    f"the {name.replace('_', ' ')} is not a number",
                    where=f"policy, update {self.updates}",
                    cure="The last good checkpoint is kept. Lower the learning rates, or look for extreme rewards.",
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        held: dict[str, Any] = {name: getattr(self, name).state_dict() for name in self.parts}
        return held | {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Reads what `state_dict` wrote."""
        for name in self.parts:
            getattr(self, name).load_state_dict(content[name])
        self.updates, self.averages = content["updates"], content["averages"]


def descend(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """One step of an optimiser."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
