"""The reward where data brings one without a formula: networks of its own on (s, a, s'), no head of the dynamics.

Rewards of controllers are often peaked where two measured tags meet (a value and its target), and a perceptron finds a
narrow peak slowly and blurs it. So for every two measured tags of one unit, how far apart they are after the step
enters also on several scales, d / (|d| + s) and |d| / (|d| + s) with s from the spread of d down to a thousandth of it.
A linear path around the perceptron reads them too: what is a sum of such distances is found in closed form, and the
perceptron learns what is left. Nothing here knows which tags belong together, nor any formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedMLP, identity_scaler

# Shares of a distance's spread at which it is resolved: five decades in half steps would add nothing that data shows.
SCALES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
MAX_PAIRS = 64


class RewardNetwork(nn.Module):
    """An ensemble of E regressions of the reward; calling it gives their mean.

    Args:
        observation_size: O.
        action_size: m.
        units: of the n measured tags, in the order of a frame; the frame's tags stand first in an observation.
        distances: whether tags of one unit are compared; without, the networks read (s, a, s') alone.
        members: E.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.

    Scalers are buffers: they travel with the weights. `distance_spread` (P,) belongs to the pairs of tags.
    """

    first: Tensor
    second: Tensor
    distance_spread: Tensor
    scales: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        units: Sequence[str],
        *,
        distances: bool = True,
        members: int,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = members
        pairs = [(i, j) for i, j in combinations(range(len(units)), 2) if distances and units[i] == units[j]]
        pairs = pairs[:MAX_PAIRS]
        for name, place in (("first", 0), ("second", 1)):
            self.register_buffer(name, torch.tensor([pair[place] for pair in pairs], dtype=torch.int64))
        self.register_buffer("distance_spread", torch.ones(len(pairs)))
        self.register_buffer("scales", torch.tensor(SCALES))
        plain = observation_size + action_size + len(units)
        self.input_scaler = Affine(identity_scaler(plain))
        self.reward_scaler = Affine(identity_scaler(1))
        size = plain + 2 * len(SCALES) * len(pairs)
        self.net = BatchedMLP(members, size, hidden, 1, act=act, generator=generator)

    def features(self, observation: Tensor, action: Tensor, next_frame: Tensor) -> Tensor:
        """What the networks read: (..., O), (..., m), (..., n) -> (..., F)."""
        plain = self.input_scaler(torch.cat([observation, action, next_frame], dim=-1))
        distance = self.distances(next_frame) / self.distance_spread  # (..., P)
        size = distance.abs().unsqueeze(-1)
        odd = distance.unsqueeze(-1) / (size + self.scales)  # (..., P, scales)
        even = size / (size + self.scales)
        return torch.cat([plain, odd.flatten(-2), even.flatten(-2)], dim=-1)

    def distances(self, next_frame: Tensor) -> Tensor:
        """How far apart tags of one unit are: (..., n) -> (..., P)."""
        return next_frame[..., self.first] - next_frame[..., self.second]

    def scaled(self, features: Tensor) -> Tensor:
        """Each member's reward in scaled units: (E, B, F) -> (E, B)."""
        result: Tensor = self.net(features).squeeze(-1)
        return result

    def forward(self, observation: Tensor, action: Tensor, next_frame: Tensor) -> Tensor:
        """The mean reward of the members, in the data's units: (..., O), (..., m), (..., n) -> (...)."""
        features = self.features(observation, action, next_frame)
        flat = features.reshape(-1, features.shape[-1]).expand(self.members, -1, -1)
        mean = self.scaled(flat).mean(dim=0).reshape(features.shape[:-1])
        return self.reward_scaler.invert(mean.unsqueeze(-1)).squeeze(-1)
