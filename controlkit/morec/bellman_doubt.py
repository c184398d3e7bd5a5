"""MOBILE's penalty (Sun et al., ICML 2023): where the elites disagree about what a transition is worth.

For a model transition (s, a) every elite says where the plant goes; each of those next states has a value, the lowest
target critic's at the policy's command. Their standard deviation over the elites, the inconsistency of the Bellman
estimates, times a coefficient is taken from the target of that transition.

Deviations: each elite's mean stands for its Gaussian (the published code averages ten samples of each); the policy's
command is drawn with the same noise for all elites, so that their disagreement alone is measured; an elite under which
the plant trips gives 0, as the target itself does; and nothing is clamped at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from controlkit.models.actor import Actor, bounded_log_std
from controlkit.models.critic import Critics
from controlkit.morec.dynamics import WorldModel
from controlkit.objective import CommandLimits
from controlkit.replay import Batch


class BellmanDoubt:
    """The penalty of model transitions.

    Args:
        world: its elites judge.
        coefficient: what a standard deviation of one unit of value costs.
    """

    def __init__(self, world: WorldModel, coefficient: float) -> None:
        self.world, self.coefficient = world, coefficient
        self.elites = world.ensemble.lean()

    @torch.no_grad()
    def penalty(self, batch: Batch, noise: Tensor, actor: Actor, targets: Critics, limits: CommandLimits) -> Tensor:
        """Of the last `batch.modelled` = M transitions: (M,), in units of the scaled reward.

        Args:
            batch: transitions; exogenous and static tags of the next frame are taken from its next observations.
            noise: (B, m) standard normal, of the command at the next observation.
            actor: gives the command.
            targets: value it.
            limits: the plant's clamp and rate limit.
        """
        rows, count = slice(-batch.modelled, None), len(self.elites.elites)
        observation, action = batch.observation[rows], batch.action[rows]
        means, _ = self.elites(observation, action)  # (E, M, S)
        frame_size = len(self.world.layout.frame_tags)
        known = batch.next_observation[rows, :frame_size].repeat(count, 1)
        frame = self.world.next_frame(means.flatten(0, 1), known)  # (E M, n)
        following = self.world.next_observation(observation.repeat(count, 1), action.repeat(count, 1), frame)
        output = actor.net(actor.features(following).unsqueeze(0)).squeeze(0)
        mean, raw = output.chunk(2, dim=-1)
        squashed = torch.tanh(mean + bounded_log_std(torch.tanh(raw)).exp() * noise[rows].repeat(count, 1))
        command = limits.apply(actor.centre + actor.reach * squashed, following)
        ended = self.world.objective.terminated(observation.repeat(count, 1), action.repeat(count, 1), frame)
        value: Tensor = targets(following, command).amin(dim=0) * ~ended
        return self.coefficient * value.reshape(count, -1).std(dim=0)
