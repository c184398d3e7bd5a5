"""Soft actor-critic (arXiv 1801.01290, 1812.05905) on a mixture of logged and model transitions.

Deviations: the critics judge the command after the plant's clamp and rate limit (with a straight-through gradient), so
that the policy is trained on what the plant will get; an optional anchor pulls the policy towards the cloned operator;
target values are never clamped (the published MOBILE clamps them at 0, which ruins tasks with negative rewards); the
actor that is kept may be the average over the last updates.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlkit.config import PolicyConfig
from controlkit.errors import TrainingError
from controlkit.models.actor import Actor, BehaviourClone
from controlkit.models.critic import Critics
from controlkit.objective import CommandLimits
from controlkit.replay import Batch


class PolicyLosses(NamedTuple):
    """One update's figures, as tensors (reading them is left to the caller)."""

    critic_loss: Tensor
    actor_loss: Tensor
    alpha: Tensor
    entropy: Tensor
    mean_q: Tensor


class PolicyLearner:
    """Actor, critics, temperature and their optimisers.

    Args:
        actor, critics: trained in place.
        behaviour: the cloned operator, for the anchor.
        limits: the plant's clamp and rate limit.
        config: settings.
        reward_spread: rewards are divided by it.
    """

    def __init__(
        self,
        actor: Actor,
        critics: Critics,
        behaviour: BehaviourClone,
        limits: CommandLimits,
        config: PolicyConfig,
        reward_spread: float,
    ) -> None:
        self.actor, self.critics, self.behaviour = actor, critics, behaviour
        self.limits, self.config, self.reward_spread = limits, config, reward_spread
        self.targets = copy.deepcopy(critics).requires_grad_(False)
        self.averaged = copy.deepcopy(actor).requires_grad_(False)
        device = actor.centre.device
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), device=device, requires_grad=True)
        self.target_entropy = config.target_entropy * len(actor.centre)
        self.actor_optimiser = torch.optim.Adam(actor.net.parameters(), lr=config.actor_learning_rate)
        self.critic_optimiser = torch.optim.Adam(critics.parameters(), lr=config.critic_learning_rate)
        self.alpha_optimiser = torch.optim.Adam([self.log_alpha], lr=config.actor_learning_rate)
        self.updates = self.averages = 0

    def warm_start(self, observation: Tensor) -> Tensor:
        """One step that brings the actor's mean command to the cloned operator's: (B, O) -> the loss."""
        with torch.no_grad():
            logged = self.behaviour(observation)
        loss: Tensor = ((self.actor(observation) - logged) / self.actor.reach).square().sum(dim=-1).mean()
        _step(loss, self.actor_optimiser)
        return loss.detach()

    def update(self, batch: Batch, generator: torch.Generator) -> PolicyLosses:
        """One gradient step of critics, actor and temperature."""
        self._schedule()
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            wish, log_density = self.actor.sample(batch.next_observation, generator)
            following = self.targets(batch.next_observation, self.limits.apply(wish, batch.next_observation)).amin(
                dim=0
            )
            value = following - alpha * log_density
            target = batch.reward / self.reward_spread + self.config.gamma * (1.0 - batch.terminated) * value
        critic_loss = (self.critics(batch.observation, batch.action) - target).square().mean(dim=1).sum()
        _step(critic_loss, self.critic_optimiser)

        wish, log_density = self.actor.sample(batch.observation, generator)
        with torch.no_grad():
            shift = self.limits.apply(wish, batch.observation) - wish
        self.critics.requires_grad_(False)
        q = self.critics(batch.observation, wish + shift).amin(dim=0)
        self.critics.requires_grad_(True)
        actor_loss = (alpha * log_density - q).mean()
        if self.config.behaviour_anchor:
            with torch.no_grad():
                logged = self.behaviour(batch.observation)
            distance = ((self.actor(batch.observation) - logged) / self.actor.reach).square().sum(dim=-1)
            actor_loss = actor_loss + self.config.behaviour_anchor * distance.mean()
        _step(actor_loss, self.actor_optimiser)

        alpha_loss = -(self.log_alpha * (log_density.detach() + self.target_entropy)).mean()
        _step(alpha_loss, self.alpha_optimiser)
        with torch.no_grad():
            for target_weight, weight in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target_weight.lerp_(weight, self.config.tau)
        self.updates += 1
        self._average()
        return PolicyLosses(
            critic_loss.detach(), actor_loss.detach(), alpha, -log_density.detach().mean(), q.detach().mean()
        )

    def final_actor(self) -> Actor:
        """The actor to keep: the average over the last share of updates, or the last one where none was asked for."""
        return self.averaged if self.averages else self.actor

    def require_finite(self, losses: PolicyLosses) -> None:
        """Stops training on a loss that is no number.

        Raises:
            TrainingError: says which loss and at which update.
        """
        for name in ("critic_loss", "actor_loss"):
            if not math.isfinite(float(getattr(losses, name))):
                raise TrainingError(
                    f"the {name.replace('_', ' ')} is not a number",
                    where=f"policy, update {self.updates}",
                    cure="The last good checkpoint is kept. Lower the learning rates, or look for extreme rewards.",
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {name: getattr(self, name).state_dict() for name in _PARTS} | {
            "log_alpha": self.log_alpha.detach().clone(),
            "updates": self.updates,
            "averages": self.averages,
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Reads what `state_dict` wrote."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(content[name])
        with torch.no_grad():
            self.log_alpha.copy_(content["log_alpha"])
        self.updates, self.averages = content["updates"], content["averages"]

    def _schedule(self) -> None:
        """The learning rates fall along a cosine (the authors' falls for the actor alone)."""
        done = min(1.0, self.updates / max(1, self.config.updates))
        factor = 0.5 * (1.0 + math.cos(math.pi * done))
        self.actor_optimiser.param_groups[0]["lr"] = self.config.actor_learning_rate * max(factor, 0.01)
        self.critic_optimiser.param_groups[0]["lr"] = self.config.critic_learning_rate * max(factor, 0.01)

    def _average(self) -> None:
        if self.updates <= self.config.updates * (1.0 - self.config.average):
            return
        self.averages += 1
        with torch.no_grad():
            for mean, weight in zip(self.averaged.net.parameters(), self.actor.net.parameters(), strict=True):
                mean.lerp_(weight, 1.0 / self.averages)


_PARTS = ("actor", "critics", "targets", "averaged", "actor_optimiser", "critic_optimiser", "alpha_optimiser")


def _step(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
