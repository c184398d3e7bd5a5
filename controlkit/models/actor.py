"""Policies: a tanh-squashed Gaussian (SAC, arXiv 1801.01290) whose mean is what goes on the plant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedMLP, identity_scaler

MIN_LOG_STD, MAX_LOG_STD = -7.0, 1.0


class Actor(nn.Module):
    """A stochastic policy over commands in engineering units, inside [low, high] by construction.

    Args:
        observation_size: O.
        inputs: positions of the observation that the policy may see (all of them, or the current samples alone).
        low, high: (m,) absolute limits of the commands.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.
    """

    inputs: Tensor
    centre: Tensor
    reach: Tensor

    def __init__(
        self,
        observation_size: int,
        inputs: Sequence[int],
        low: Tensor,
        high: Tensor,
        *,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("inputs", torch.as_tensor(list(inputs), dtype=torch.int64))
        self.register_buffer("centre", (low + high) / 2)
        self.register_buffer("reach", (high - low) / 2)
        self.input_scaler = Affine(identity_scaler(observation_size))
        self.net = BatchedMLP(1, len(inputs), hidden, 2 * len(low), act=act, generator=generator, output_gain=0.1)

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the tanh: (B, O) -> (B, m), (B, m)."""
        x = self.input_scaler(observation)[..., self.inputs]
        mean, raw = self.net(x.unsqueeze(0)).squeeze(0).chunk(2, dim=-1)
        return mean, MIN_LOG_STD + 0.5 * (MAX_LOG_STD - MIN_LOG_STD) * (torch.tanh(raw) + 1.0)

    def forward(self, observation: Tensor) -> Tensor:
        """The deterministic command: (B, O) -> (B, m), engineering units."""
        mean, _ = self.distribution(observation)
        return self.centre + self.reach * torch.tanh(mean)

    def sample(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A command and the log density of its scaled value in [-1, 1]: (B, O) -> (B, m), (B,)."""
        mean, log_std = self.distribution(observation)
        noise = torch.empty_like(mean).normal_(generator=generator)
        raw = mean + log_std.exp() * noise
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not lose digits far out.
        log_slope = 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        log_density = (-0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - log_slope).sum(dim=-1)
        return self.centre + self.reach * torch.tanh(raw), log_density


class BehaviourClone(nn.Module):
    """The logged operator as a Gaussian policy fitted by maximum likelihood: mean and spread of the command.

    The Gaussian is over commands in engineering units and is clamped to the limits when sampled.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        observation_size: int,
        low: Tensor,
        high: Tensor,
        *,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())
        self.input_scaler = Affine(identity_scaler(observation_size))
        self.action_scaler = Affine(identity_scaler(len(low)))
        self.net = BatchedMLP(1, observation_size, hidden, 2 * len(low), act=act, generator=generator)

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the scaled command: (B, O) -> (B, m), (B, m)."""
        mean, raw = self.net(self.input_scaler(observation).unsqueeze(0)).squeeze(0).chunk(2, dim=-1)
        return mean, raw.clamp(MIN_LOG_STD, MAX_LOG_STD)

    def forward(self, observation: Tensor) -> Tensor:
        """The operator's mean command: (B, O) -> (B, m), engineering units."""
        mean, _ = self.distribution(observation)
        return torch.minimum(torch.maximum(self.action_scaler.invert(mean), self.low), self.high)

    def sample(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """A command as the operator might give it: (B, O) -> (B, m), engineering units."""
        mean, log_std = self.distribution(observation)
        raw = mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)
        return torch.minimum(torch.maximum(self.action_scaler.invert(raw), self.low), self.high)
