"""The networks that judge transitions inside the controller graph: the elites and the dynamics reward."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from controlkit.artifacts import Models
from controlkit.models.discriminator import MAX_PROBABILITY

# Probabilities below this are not told apart: the evidence stays within +-27.6.
LEAST = 1e-12


class Judge(nn.Module):
    """Expected transitions and their dynamics reward, as the graph computes them.

    Args:
        models: the run's networks; only the elites of the ensemble are taken along.
    """

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.dynamics = models.dynamics.elites_only()
        self.reward = copy.deepcopy(models.reward)
        self.eval().requires_grad_(False)

    def expect(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The elites' mean next state tags and their spread: (B, O), (B, m) -> (B, S), (B, 1)."""
        scaled, _ = self.dynamics.scaled_change(observation, action)  # (E, B, S)
        change = self.dynamics.change_scaler.invert(scaled)
        means = observation.index_select(-1, self.dynamics.state_slots) + change
        return means.mean(dim=0), self.dynamics.spread(means).unsqueeze(-1)

    def score(self, observation: Tensor, action: Tensor, next_state: Tensor) -> tuple[Tensor, Tensor]:
        """The dynamics reward and its evidence: (B, O), (B, m), (B, S) -> (B, 1), (B, 1).

        The reward -log(1 - D) is the network's own, from 1 - D = mean sigmoid(-logit): 1 - D loses its digits where D
        is near 1, and two runtimes would then disagree. The evidence is the log odds of D, the logarithm of how much
        likelier
        the transition is real than false: it rises with the reward, but does not flatten out at 0 where the reward
            does.
        """
        change = self.reward.change_scaler(next_state - observation.index_select(-1, self.reward.state_slots))
        logits = self.reward.logits(observation, action, change)  # (K, B)
        belief, doubt = torch.sigmoid(logits).mean(dim=0), torch.sigmoid(-logits).mean(dim=0)  # (B,), (B,)
        reward = -torch.log(_at_least(doubt, 1.0 - MAX_PROBABILITY))
        evidence = torch.log(_at_least(belief, LEAST)) - torch.log(_at_least(doubt, LEAST))
        return reward.unsqueeze(-1), evidence.unsqueeze(-1)


def _at_least(x: Tensor, least: float) -> Tensor:
    """x, or `least` where it is below; NaN stays NaN, so that a broken network is seen."""
    return torch.where(x < least, least, x)
