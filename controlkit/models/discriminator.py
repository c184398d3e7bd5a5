"""The dynamics reward's networks (MOREC, arXiv 2310.05422): snapshots of a discriminator, averaged.

D_t(s, a, ds) is near 1 where the change ds of the state tags is what the plant does; the dynamics reward is
r_D = -log(1 - mean_t D_t). Inputs are scaled; only the state tags' change is judged, so that an exogenous change (a
door) is never called false.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedMLP, identity_scaler

# The reward's ceiling, -log(1e-6) = 13.8: mean D = 1 must not give an infinite reward.
MAX_PROBABILITY = 1.0 - 1e-6


class DiscriminatorEnsemble(nn.Module):
    """K discriminators (snapshots, or independent networks) in one batched network.

    Args:
        observation_size: O.
        action_size: m.
        state_slots: (S,) positions of the current state tags in the observation.
        inputs: positions of the observation that are judged with the command: all of them, or the current ones alone.
        members: K.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.
    """

    inputs: Tensor
    state_slots: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        state_slots: Sequence[int],
        inputs: Sequence[int],
        *,
        members: int,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = members
        self.register_buffer("state_slots", torch.as_tensor(list(state_slots), dtype=torch.int64))
        self.input_scaler = Affine(identity_scaler(observation_size + action_size))
        self.change_scaler = Affine(identity_scaler(len(state_slots)))
        # The command stands behind the observation, where the scaler has it.
        seen = [*inputs, *range(observation_size, observation_size + action_size)]
        self.register_buffer("inputs", torch.as_tensor(seen, dtype=torch.int64))
        sizes = len(seen) + len(state_slots)
        self.net = BatchedMLP(members, sizes, hidden, 1, act=act, generator=generator, output_gain=1.0, skip=False)

    def logits(self, observation: Tensor, action: Tensor, scaled_change: Tensor) -> Tensor:
        """(B, O), (B, m), (B, S) scaled change -> (K, B). A leading member dimension (K, B, ...) is taken as it is."""
        scaled = self.input_scaler(torch.cat([observation, action], dim=-1)).index_select(-1, self.inputs)
        x = torch.cat([scaled, scaled_change], dim=-1)
        if x.dim() == 2:
            x = x.expand(self.members, *x.shape)
        logits: Tensor = self.net(x).squeeze(-1)
        return logits

    def forward(self, observation: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """The dynamics reward, 0 .. 13.8: (B, O), (B, m), (B, S) next state tags -> (B,)."""
        change = self.change_scaler(next_state - observation[..., self.state_slots])
        probability = torch.sigmoid(self.logits(observation, action, change)).mean(dim=0)
        return -torch.log1p(-probability.clamp(max=MAX_PROBABILITY))
