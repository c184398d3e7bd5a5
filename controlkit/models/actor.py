"""Policies: a tanh-squashed Gaussian (SAC, arXiv 1801.01290) whose mean is what goes on the plant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import Activation, Affine, BatchedMLP, identity_scaler

MIN_LOG_STD, MAX_LOG_STD = -7.0, 1.0
# A command that never moved keeps this share of its reach: distances are measured in it.
NARROWEST = 1e-6
LOG_STD_REACH = 0.5 * (MAX_LOG_STD - MIN_LOG_STD)
# A recorded command this close to a limit, as a share of the span, stands for every wish there and beyond.
AT_LIMIT = 1e-4
# Spreads below the mean beyond which a tail is taken from its asymptote.
FAR_OUT = -10.0


class Actor(nn.Module):
    """A stochastic policy over commands in engineering units, inside [low, high] by construction.

    Args:
        observation_size: O.
        inputs: positions of the observation that the policy may see (all of them, or the current samples alone).
        belief: a fitted world model through whose eyes the policy sees the rest of the observation: what the state tags
            would become if the last commands stayed. It is carried along and never trained here.
        previous: positions of the last commands; needed with a belief.
        low, high: (m,) absolute limits of the commands.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.
    """

    inputs: Tensor
    previous: Tensor
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
        belief: GaussianEnsemble | None = None,
        previous: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("inputs", torch.as_tensor(list(inputs), dtype=torch.int64))
        self.register_buffer("previous", torch.as_tensor(list(previous), dtype=torch.int64))
        self.belief = None if belief is None else belief.requires_grad_(False)
        seen = len(inputs) + (0 if belief is None else len(belief.state_slots))
        self.register_buffer("centre", (low + high) / 2)
        self.register_buffer("reach", (high - low) / 2)
        self.input_scaler = Affine(identity_scaler(observation_size))
        self.net = BatchedMLP(1, seen, hidden, 2 * len(low), act=act, generator=generator, output_gain=0.1)

    def confine(self, low: Tensor, high: Tensor) -> None:
        """Narrows the commands to [low, high], (m,) each, wherever that lies inside what they were."""
        least = NARROWEST * self.reach
        low = torch.maximum(low, self.centre - self.reach)
        high = torch.minimum(high, self.centre + self.reach)
        self.centre.copy_((low + high) / 2)
        self.reach.copy_(torch.maximum((high - low) / 2, least))

    def features(self, observation: Tensor) -> Tensor:
        """What the network sees of an observation: (B, O) -> (B, F)."""
        x: Tensor = self.input_scaler(observation).index_select(-1, self.inputs)
        if self.belief is not None:
            x = torch.cat([x, self._expected(observation, self.belief)], dim=-1)
        return x

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the tanh: (B, O) -> (B, m), (B, m)."""
        mean, raw = self.net(self.features(observation).unsqueeze(0)).squeeze(0).chunk(2, dim=-1)
        return mean, bounded_log_std(torch.tanh(raw))

    def _expected(self, observation: Tensor, belief: GaussianEnsemble) -> Tensor:
        """The next state tags if the last commands stay, scaled as the current ones are: (B, O) -> (B, S)."""
        scaled, _ = belief.scaled_change(observation, observation.index_select(-1, self.previous))
        change = belief.change_scaler.invert(scaled).mean(dim=0)
        slots = belief.state_slots
        expected = observation.index_select(-1, slots) + change
        centre, spread = self.input_scaler.centre, self.input_scaler.spread
        return (expected - centre.index_select(0, slots)) / spread.index_select(0, slots)

    def forward(self, observation: Tensor) -> Tensor:
        """The deterministic command: (B, O) -> (B, m), engineering units."""
        mean, _ = self.distribution(observation)
        return self.centre + self.reach * torch.tanh(mean)

    def sample(self, observation: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A command and the log density of its scaled value in [-1, 1]: (B, O) -> (B, m), (B,)."""
        mean, log_std = self.distribution(observation)
        noise = torch.empty_like(mean).normal_(generator=generator)
        raw = mean + log_std.exp() * noise
        return self.centre + self.reach * torch.tanh(raw), squashed_log_density(raw, log_std, noise)


def bounded_log_std(squashed: Tensor) -> Tensor:
    """From the tanh of a network's output to a log standard deviation in its bounds."""
    return MIN_LOG_STD + LOG_STD_REACH * (squashed + 1.0)


def squashed_log_density(raw: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Log density of tanh(raw), raw = mean + exp(log_std) noise: (B, m) three times -> (B,)."""
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not lose digits far out.
    log_slope = 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
    each = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - log_slope
    return each.sum(dim=-1)


def hazard(under: Tensor) -> Tensor:
    """How far a standard normal number below `under` lies below 0 on average."""
    far, near = under.clamp(max=FAR_OUT), under.clamp(min=FAR_OUT)
    tail = torch.exp(-0.5 * near.square() - torch.special.log_ndtr(near)) / math.sqrt(2.0 * math.pi)
    # Far out it is the quotient of two vanishing numbers, and -u - 1/u to two parts in u^4.
    return torch.where(under < FAR_OUT, -far - 1.0 / far, tail)


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

    def cut(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Which recorded commands (B, m) the lower and the upper limit have cut."""
        near = AT_LIMIT * (self.high - self.low)
        return action <= self.low + near, action >= self.high - near

    def log_likelihood(self, observation: Tensor, action: Tensor, *, cut: bool = True) -> Tensor:
        """Of recorded commands, each by itself: (B, O), (B, m) -> (B, m), less a constant.

        At a limit it is the probability of a wish there or beyond (Tobin 1958, Econometrica 26): taken at its word,
        which it is with `cut=False`, a command that was cut would teach a weaker operator.
        """
        mean, log_std = self.distribution(observation)
        inside: Tensor = -0.5 * ((self.action_scaler(action) - mean) * torch.exp(-log_std)).square() - log_std
        if not cut:
            return inside
        low, high = self.cut(action)
        under, over = self._outwards(mean, log_std)
        outside = torch.special.log_ndtr(torch.where(low, under, over))
        return torch.where(low | high, outside, inside)

    def residual(self, observation: Tensor, action: Tensor) -> Tensor:
        """Recorded commands less their mean, in spreads: (B, O), (B, m) -> (B, m).

        At a limit the expected one of the wishes there and beyond, the generalised residual of Gourieroux, Monfort,
        Renault and Trognon (1987, J. Econometrics 34): as far as the operator is the one described, neither its mean
        nor its neighbours' products differ from 0.
        """
        mean, log_std = self.distribution(observation)
        inside = (self.action_scaler(action) - mean) * torch.exp(-log_std)
        low, high = self.cut(action)
        under, over = self._outwards(mean, log_std)
        return torch.where(low, -hazard(under), torch.where(high, hazard(over), inside))

    def _outwards(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """How far the lower and the upper limit lie outwards of the mean, negative, in spreads: (B, m) twice."""
        inverse = torch.exp(-log_std)
        return (self.action_scaler(self.low) - mean) * inverse, (mean - self.action_scaler(self.high)) * inverse

    def forward(self, observation: Tensor) -> Tensor:
        """The operator's mean command: (B, O) -> (B, m), engineering units."""
        mean, _ = self.distribution(observation)
        return torch.minimum(torch.maximum(self.action_scaler.invert(mean), self.low), self.high)

    def sample(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """A command as the operator might give it: (B, O) -> (B, m), engineering units."""
        mean, log_std = self.distribution(observation)
        raw = mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)
        return torch.minimum(torch.maximum(self.action_scaler.invert(raw), self.low), self.high)
