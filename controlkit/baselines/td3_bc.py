"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): TD3 on logged transitions, its actor held at the logged commands.

The actor minimises -lambda mean Q_1(s, pi(s)) + mean |pi(s) - a|^2 with lambda = alpha / mean |Q_1(s, pi(s))|, commands
scaled to [-1, 1]; target commands are smoothed by clipped noise, the smaller of two target critics counts, the actor
moves every second update. Deviations from the paper:

- Commands are judged after the plant's clamp and rate limit, with a straight-through gradient, targets too.
- The actor is MOREC's own (a Gaussian whose mean is used), observations are scaled by the plant's ranges as everywhere,
  rewards are divided by the log's spread, and a linear path goes around each network.
- The actor starts at the operator (`policy.warm_start`), the critics, where asked to, at the log's discounted returns
  (`policy.critic_returns`), the learning rates are the configuration's and fall along a cosine, and the actor that is
  kept may be an average of the last ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlkit.baselines.log_learner import LogLearner, descend
from controlkit.config import PolicyConfig
from controlkit.models.actor import Actor
from controlkit.models.critic import Critics
from controlkit.objective import CommandLimits
from controlkit.replay import Batch


class TD3BCLosses(NamedTuple):
    """One update's figures, as tensors: both losses, the squared distance to the logged commands, the mean value."""

    critic_loss: Tensor
    actor_loss: Tensor
    imitation: Tensor
    mean_q: Tensor


class TD3BCLearner(LogLearner):
    """Actor, two critics, their targets and optimisers.

    Args:
        actor, critics: trained in place.
        limits: the plant's clamp and rate limit.
        config: settings.
        reward_spread: rewards are divided by it.
    """

    parts = ("actor", "critics", "target_actor", "targets", "averaged", "actor_optimiser", "critic_optimiser")

    def __init__(
        self,
        actor: Actor,
        critics: Critics,
        limits: CommandLimits,
        config: PolicyConfig,
        reward_spread: float,
    ) -> None:
        super().__init__(actor, config)
        self.critics, self.limits, self.reward_spread = critics, limits, reward_spread
        self.targets = copy.deepcopy(critics).requires_grad_(False)
        self.target_actor = copy.deepcopy(actor).requires_grad_(False)
        self.critic_optimiser = torch.optim.Adam(critics.parameters(), lr=config.critic_learning_rate)
        # Between the actor's updates its last figures are reported.
        self._last = (torch.zeros(()), torch.zeros(()), torch.zeros(()))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return super().state_dict() | {"last": self._last}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Reads what `state_dict` wrote."""
        super().load_state_dict(content)
        self._last = content["last"]

    def update(self, batch: Batch, generator: torch.Generator) -> TD3BCLosses:
        """One gradient step of the critics and, every `td3_delay`, of the actor and the targets."""
        if not self.updates:
            # The warm start has moved the actor; its target begins where it begins.
            self.target_actor.load_state_dict(self.actor.state_dict())
        self.set_rate(self.actor_optimiser, self.config.actor_learning_rate)
        self.set_rate(self.critic_optimiser, self.config.critic_learning_rate)
        critic_loss = (self.critics(batch.observation, batch.action) - self.target(batch, generator)).square()
        critic_loss = critic_loss.mean(dim=1).sum()
        descend(critic_loss, self.critic_optimiser)
        if (self.updates + 1) % self.config.td3_delay == 0:
            self._update_actor(batch)
        self.finish_update()
        return TD3BCLosses(critic_loss.detach(), *self._last)

    def fit_values(self, observation: Tensor, action: Tensor, value: Tensor) -> Tensor:
        """One step that brings the critics to known values, and the targets with them: (B, O), (B, m), (B,) in scaled
        rewards -> the loss."""
        self.set_rate(self.critic_optimiser, self.config.critic_learning_rate)
        loss: Tensor = (self.critics(observation, action) - value).square().mean(dim=1).sum()
        descend(loss, self.critic_optimiser)
        self.targets.load_state_dict(self.critics.state_dict())
        return loss.detach()

    @torch.no_grad()
    def target(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """What the critics are to say: (B,), in units of the scaled reward; never clamped."""
        config, observation = self.config, batch.next_observation
        noise = config.td3_noise * torch.empty_like(batch.action).normal_(generator=generator)
        noise = noise.clamp(-config.td3_noise_clip, config.td3_noise_clip)
        wish = self.target_actor(observation) + noise * self.actor.reach
        following = self.targets(observation, self.limits.apply(wish, observation)).amin(dim=0)  # (B,)
        target: Tensor = batch.reward / self.reward_spread + config.gamma * (1.0 - batch.terminated) * following
        return target

    def _update_actor(self, batch: Batch) -> None:
        wish = self.actor(batch.observation)
        with torch.no_grad():
            shift = self.limits.apply(wish, batch.observation) - wish
        self.critics.requires_grad_(False)
        q = self.critics(batch.observation, wish + shift)[0]  # (B,)
        self.critics.requires_grad_(True)
        imitation = ((wish - batch.action) / self.actor.reach).square().mean()
        weight = self.config.td3_alpha / q.detach().abs().mean().clamp(min=1e-8)
        loss = imitation - weight * q.mean()
        descend(loss, self.actor_optimiser)
        with torch.no_grad():
            for follower, leader in ((self.targets, self.critics), (self.target_actor.net, self.actor.net)):
                for target_weight, part in zip(follower.parameters(), leader.parameters(), strict=True):
                    target_weight.lerp_(part, self.config.tau)
        self._last = (loss.detach(), imitation.detach(), q.detach().mean())
