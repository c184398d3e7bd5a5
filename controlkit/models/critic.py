"""Action-value networks: several critics in one batched network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedMLP, identity_scaler


class Critics(nn.Module):
    """C critics Q_c(s, a), in units of the scaled reward.

    Args:
        observation_size: O.
        action_size: m.
        members: C; two for SAC's clipped double Q.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.
        norm: layer normalisation instead of the linear path.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        members: int,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.members = members
        self.input_scaler = Affine(identity_scaler(observation_size + action_size))
        self.net = BatchedMLP(
            members, observation_size + action_size, hidden, 1, act=act, generator=generator, skip=not norm, norm=norm
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, m) -> (C, B)."""
        x = self.input_scaler(torch.cat([observation, action], dim=-1))
        values: Tensor = self.net(x.expand(self.members, *x.shape)).squeeze(-1)
        return values
