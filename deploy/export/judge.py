"""The networks that judge transitions inside the controller graph: the elites and the dynamics reward."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from controlkit.artifacts import Models
from controlkit.models.discriminator import MAX_PROBABILITY
from deploy.export.lean import lean

# Beyond these odds (1 to 5e8) nothing is told apart; the evidence stays within +-20.
MAX_LOGIT = 20.0


class Judge(nn.Module):
    """Expected transitions and their dynamics reward, as the graph computes them.

    Args:
        models: the run's networks; only the elites of the ensemble are taken along.
    """

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.dynamics = lean(copy.deepcopy(models.dynamics.elites_only()))
        self.reward = lean(copy.deepcopy(models.judge))
        self.eval().requires_grad_(False)

    def expect(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The elites' mean next state tags and their spread: (B, O), (B, m) -> (B, S), (B, 1)."""
        scaled, _ = self.dynamics.scaled_change(observation, action)  # (E, B, S)
        change = self.dynamics.change_scaler.invert(scaled)
        means = observation.index_select(-1, self.dynamics.state_slots) + change
        return means.mean(dim=0), self.dynamics.spread(means).unsqueeze(-1)

    def score(self, observation: Tensor, action: Tensor, next_state: Tensor) -> tuple[Tensor, Tensor]:
        """The dynamics reward and its evidence: (B, O), (B, m), (B, S) -> (B, 1), (B, 1).

        The reward -log(1 - D) is the network's own, from 1 - D = mean 1 / (1 + exp(logit)): computed as one minus D it
        loses its digits where D is near 1, and two runtimes would disagree. The evidence is the log odds of D, the
        logarithm of how much likelier the transition is real than false: it rises with the reward, but does not flatten
        out at 0 where the reward does.
        """
        change = self.reward.change_scaler(next_state - observation.index_select(-1, self.reward.state_slots))
        logits = self.reward.logits(observation, action, change)  # (K, B)
        # NaN fails both comparisons and stays NaN, so that a broken network is seen.
        logits = torch.where(logits > MAX_LOGIT, MAX_LOGIT, torch.where(logits < -MAX_LOGIT, -MAX_LOGIT, logits))
        # Written out: onnxruntime's Sigmoid is exact to 1e-7, which is nothing near 1 and everything near 0.
        belief = (1.0 / (1.0 + torch.exp(-logits))).mean(dim=0)  # (B,)
        doubt = (1.0 / (1.0 + torch.exp(logits))).mean(dim=0)  # (B,)
        least = 1.0 - MAX_PROBABILITY
        reward = -torch.log(torch.where(doubt < least, least, doubt))
        return reward.unsqueeze(-1), (torch.log(belief) - torch.log(doubt)).unsqueeze(-1)
