"""Layers for many networks at once: one batched matrix product moves all members of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from controlkit.scaling import Scaler

Activation = Literal["silu", "relu", "leaky_relu", "smooth_leaky"]


class SmoothLeaky(nn.Module):
    """0.1 x + 0.9 softplus(4 x) / 4: a leaky ReLU without its kink, which extrapolates along straight lines."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return 0.1 * x + 0.225 * nn.functional.softplus(4.0 * x)
        # The same in fewer passes over memory, which is what large activations wait for.
        return nn.functional.softplus(4.0 * x).mul_(0.225).add_(x, alpha=0.1)


def activation(name: Activation) -> nn.Module:
    """The activation of that name."""
    kinds: dict[str, type[nn.Module]] = {
        "silu": nn.SiLU,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "smooth_leaky": SmoothLeaky,
    }
    return kinds[name]()


class BatchedLinear(nn.Module):
    """E linear layers in one product: (E, B, in) -> (E, B, out)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> None:
        super().__init__()
        bound = gain / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class LayerNorm(nn.Module):
    """Every row to mean 0 and variance 1 over its features (Ba, Kiros, Hinton 2016, arXiv 1607.06450), without a gain
    and an offset that are learned."""

    EPSILON = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], eps=self.EPSILON)


class BatchedMLP(nn.Module):
    """E multilayer perceptrons with a linear path around them: (E, B, in) -> (E, B, out).

    Plants are near linear where they are operated: the linear path learns that part (and carries it beyond the data),
    the perceptron the rest.

    Args:
        skip: whether there is a linear path.
        norm: a `LayerNorm` before every activation, which bounds the last layer's inputs: without a linear path the
            result is bounded, too.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        act: Activation,
        generator: torch.Generator,
        output_gain: float = 0.1,
        skip: bool = True,
        norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [inputs, *hidden]
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers.append(BatchedLinear(members, size, following, generator))
            layers += [LayerNorm(), activation(act)] if norm else [activation(act)]
        layers.append(BatchedLinear(members, sizes[-1], outputs, generator, output_gain))
        self.body = nn.Sequential(*layers)
        self.skip = BatchedLinear(members, inputs, outputs, generator, output_gain) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y if self.skip is None else y + self.skip(x)


class Affine(nn.Module):
    """A `Scaler` inside a network, so that the artifact carries it: engineering units to scaled and back."""

    centre: Tensor
    spread: Tensor

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        self.register_buffer("centre", torch.from_numpy(scaler.centre.copy()))
        self.register_buffer("spread", torch.from_numpy(scaler.spread.copy()))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.spread

    def invert(self, x: Tensor) -> Tensor:
        """Scaled to engineering units."""
        return x * self.spread + self.centre


def identity_scaler(size: int) -> Scaler:
    """A scaler that changes nothing; what a freshly built network holds until its weights are loaded."""
    import numpy as np

    return Scaler(np.zeros(size, dtype=np.float32), np.ones(size, dtype=np.float32))
