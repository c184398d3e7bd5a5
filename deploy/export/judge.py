"""The networks that judge transitions inside the controller graph: the elites and the dynamics reward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.artifacts import Models
from controlkit.models.discriminator import MAX_PROBABILITY
from deploy.export.networks import ExpectedDeviation, LeanDiscriminator, LeanDynamics
from deploy.export.stages import take

# Beyond these odds (1 to 5e8) nothing is told apart; the evidence stays within +-20.
MAX_LOGIT = 20.0


class Expected(NamedTuple):
    """What the elites expect of a step.

    Attributes:
        change: (B, S) their mean scaled change.
        spread: (B, 1) their own, of the scaled changes: next states would bring their own rounding.
        deviation: (B, S) what the dynamics reward sees of the change.
    """

    change: Tensor
    spread: Tensor
    deviation: Tensor


class Judge(nn.Module):
    """Expected transitions and their dynamics reward, as the graph computes them.

    Args:
        models: the run's networks; only the elites of the ensemble are taken along.
    """

    def __init__(self, models: Models) -> None:
        super().__init__()
        self.dynamics = LeanDynamics(models.dynamics.elites_only())
        self.reward = LeanDiscriminator(models.judge)
        theirs, ours = self.dynamics.change_scaler, self.reward.change_scaler
        self.one_scale = torch.equal(theirs.centre, ours.centre) and torch.equal(theirs.spread, ours.spread)
        self.expected_deviation = None
        if self.one_scale and ExpectedDeviation.fits(models.dynamics, models.judge):
            self.expected_deviation = ExpectedDeviation(models.dynamics.elites_only(), models.judge)
        self.eval().requires_grad_(False)

    def expect(self, observation: Tensor, action: Tensor) -> Expected:
        """What the elites expect: (B, O), (B, m)."""
        if self.expected_deviation is None:
            scaled = self.dynamics(observation, action)  # (B, E, S)
            mean, spread = _spread(scaled)
            return Expected(mean, spread, self.deviation_of(observation, action, mean))
        scaled, body = self.dynamics.parts(observation, action)
        mean, spread = _spread(scaled)
        return Expected(mean, spread, self.expected_deviation(observation, action, body.mean(dim=1)))

    def after(self, observation: Tensor, change: Tensor) -> Tensor:
        """The state tags after a scaled change: (B, O), (B, S) -> (B, S)."""
        return take(observation, self.dynamics.state_slots) + self.dynamics.change_scaler.invert(change)

    def change(self, observation: Tensor, next_state: Tensor) -> Tensor:
        """The scaled change to some next state tags: (B, O), (B, S) -> (B, S)."""
        change: Tensor = self.dynamics.change_scaler(next_state - take(observation, self.dynamics.state_slots))
        return change

    def deviation_of(self, observation: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """What the dynamics reward sees of a scaled change: (B, O), (B, m), (B, S) -> (B, S)."""
        return self.reward.deviation(observation, action, self._rescaled(change))

    def score_of(self, observation: Tensor, action: Tensor, next_state: Tensor) -> tuple[Tensor, Tensor]:
        """As `score`, of the next state tags in engineering units."""
        change = self.change(observation, next_state)
        return self.score(observation, action, self.deviation_of(observation, action, change))

    def score(self, observation: Tensor, action: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """The dynamics reward of a transition and its evidence: (B, O), (B, m), (B, S) -> (B, 1), (B, 1).

        The reward -log(1 - D) is the network's own, from 1 - D = mean 1 / (1 + exp(logit)): computed as one minus D it
        loses its digits where D is near 1, and two runtimes would disagree. The evidence is the log odds of D, the
        logarithm of how much likelier the transition is real than false: it rises with the reward, but does not flatten
        out at 0 where the reward does. Of one network alone it is the logit.
        """
        logits = self.reward(observation, action, deviation)  # (B, K)
        # NaN fails both comparisons and stays NaN, so that a broken network is seen.
        logits = torch.where(logits > MAX_LOGIT, MAX_LOGIT, torch.where(logits < -MAX_LOGIT, -MAX_LOGIT, logits))
        # Written out: onnxruntime's Sigmoid is exact to 1e-7, which is nothing near 1 and everything near 0.
        odds, most = 1.0 + torch.exp(logits), 1.0 / (1.0 - MAX_PROBABILITY)
        if self.reward.members == 1:
            return torch.log(torch.where(odds > most, most, odds)), logits
        belief = torch.reciprocal(1.0 + torch.exp(-logits)).mean(dim=-1, keepdim=True)  # (B, 1)
        doubt = torch.reciprocal(odds).mean(dim=-1, keepdim=True)  # (B, 1)
        least = 1.0 - MAX_PROBABILITY
        reward = -torch.log(torch.where(doubt < least, least, doubt))
        return reward, torch.log(belief) - torch.log(doubt)

    def _rescaled(self, change: Tensor) -> Tensor:
        """From the scale of the dynamics to the reward's, which nearly always is the same."""
        if self.one_scale:
            return change
        rescaled: Tensor = self.reward.change_scaler(self.dynamics.change_scaler.invert(change))
        return rescaled


def _spread(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread over members: (B, E, S) -> (B, S), (B, 1)."""
    mean = scaled.mean(dim=1, keepdim=True)
    away = scaled - mean
    return mean.squeeze(1), torch.sqrt((away * away).mean(dim=(1, 2))).unsqueeze(-1)
