"""Action-value networks: several critics in one batched network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedMLP, identity_scaler


class Critics(nn.Module):
    """C critics Q_c(s, a), in units of the scaled reward.

    The networks' outputs are multiplied by `value_spread` and added to `value_centre` (1 and 0 until they are set).
    Discounted sums lie far from 0 and differ little, and a network that starts at 0 takes thousands of steps to get to
    where they begin to differ.

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
        # Settings rather than weights: whoever builds the critics gives them again.
        self.register_buffer("value_centre", torch.tensor(0.0), persistent=False)
        self.register_buffer("value_spread", torch.tensor(1.0), persistent=False)
        self.value_centre: Tensor
        self.value_spread: Tensor
        self.net = BatchedMLP(
            members, observation_size + action_size, hidden, 1, act=act, generator=generator, skip=not norm, norm=norm
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, m) -> (C, B)."""
        x = self.input_scaler(torch.cat([observation, action], dim=-1))
        values: Tensor = self.net(x.expand(self.members, *x.shape)).squeeze(-1)
        return values * self.value_spread + self.value_centre

    def scale_values(self, centre: float, spread: float) -> None:
        """Says where values lie, and how far apart, in units of the scaled reward."""
        self.value_centre.fill_(centre)
        self.value_spread.fill_(spread)
