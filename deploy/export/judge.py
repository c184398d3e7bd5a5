"""The networks that judge transitions inside the controller graph: the elites and the dynamics reward."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from controlkit.artifacts import Models
from controlkit.models.discriminator import MAX_PROBABILITY
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import BatchedLinear


class Judge(nn.Module):
    """Expected transitions and their dynamics reward, as the graph computes them.

    Args:
        models: the run's networks; only the elites of the ensemble are taken along.
    """

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.dynamics = elites_only(models.dynamics)
        self.reward = copy.deepcopy(models.reward)
        self.eval().requires_grad_(False)

    def expect(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The elites' mean next state tags and their spread: (B, O), (B, m) -> (B, S), (B, 1)."""
        scaled, _ = self.dynamics.scaled_change(observation, action)  # (E, B, S)
        change = self.dynamics.change_scaler.invert(scaled)
        means = observation.index_select(-1, self.dynamics.state_slots) + change
        return means.mean(dim=0), self.dynamics.spread(means).unsqueeze(-1)

    def score(self, observation: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """The dynamics reward: (B, O), (B, m), (B, S) -> (B, 1).

        Equal to the network's own, but from the probabilities of the opposite, mean(1 - D) = mean sigmoid(-logit): 1 -
        D loses its digits where D is near 1, and two runtimes would then disagree.
        """
        change = self.reward.change_scaler(next_state - observation.index_select(-1, self.reward.state_slots))
        doubt = torch.sigmoid(-self.reward.logits(observation, action, change)).mean(dim=0)  # (B,)
        least = 1.0 - MAX_PROBABILITY
        return -torch.log(torch.where(doubt >= least, doubt, torch.full_like(doubt, least))).unsqueeze(-1)


def elites_only(dynamics: GaussianEnsemble) -> GaussianEnsemble:
    """A copy that holds the elites alone, so that the bundle is small and the edge computes nothing in vain."""
    pruned = copy.deepcopy(dynamics)
    for layer in pruned.modules():
        if isinstance(layer, BatchedLinear):
            layer.weight = nn.Parameter(layer.weight[dynamics.elites].detach().clone())
            layer.bias = nn.Parameter(layer.bias[dynamics.elites].detach().clone())
    pruned.members = len(dynamics.elites)
    pruned.elites = torch.arange(pruned.members)
    return pruned
