"""Networks with the same arithmetic in operators that runtimes compute fast, without what the controller never reads.

Training moves a stack of networks by one product of a stack of matrices. Runtimes prepare plain matrices once and
compute a stack in twice the time: here it becomes plain matrices again, one for all networks where they see the same.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from controlkit.models.layers import BatchedLinear, BatchedMLP, SmoothLeaky

Network = TypeVar("Network", bound=nn.Module)


class LeanSmoothLeaky(nn.Module):
    """`SmoothLeaky` with log(1 + exp(z)) = max(z, 0) - log(sigmoid(|z|)), z = 4 x, to 1e-7.

    onnxruntime computes Softplus number by number; Sigmoid and Log go by vectors. NaN stays NaN, and nothing overflows.

    Args:
        folded: takes 4 x and gives four times the activation: the layers around it carry the factors, which as powers
            of two change no digit.
    """

    def __init__(self, folded: bool = False) -> None:
        super().__init__()
        self.folded = folded

    def forward(self, x: Tensor) -> Tensor:
        z = x if self.folded else 4.0 * x
        # 0.1 z + 0.9 max(z, 0) is z above 0 and a tenth of it below.
        y = nn.functional.leaky_relu(z, 0.1) - 0.9 * torch.log(torch.sigmoid(z.abs()))
        return y if self.folded else 0.25 * y


class Plain(nn.Module):
    """One linear layer: (B, in) -> (B, out)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous().clone())
        self.register_buffer("bias", bias.detach().contiguous().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class LeanMLP(nn.Module):
    """A `BatchedMLP` of E networks that see the same: (B, in) -> (B, E * outputs), one network after the other.

    Args:
        net: its weights are copied.
        outputs: how many of each network's outputs are wanted, the first ones.
    """

    def __init__(self, net: BatchedMLP, outputs: int) -> None:
        super().__init__()
        layers = [layer for layer in net.body if isinstance(layer, BatchedLinear)]
        acts = [layer for layer in net.body if not isinstance(layer, BatchedLinear)]
        self.members = len(layers[0].weight)
        smooth = bool(acts) and isinstance(acts[0], SmoothLeaky)
        self.act = LeanSmoothLeaky(folded=True) if smooth else (acts[0] if acts else nn.Identity())
        self.layers = nn.ModuleList()
        for number, layer in enumerate(layers):
            last = number == len(acts)
            before, behind = (0.25 if smooth and number else 1.0), (4.0 if smooth and not last else 1.0)
            weight, bias = before * behind * layer.weight, behind * layer.bias
            if last:
                weight, bias = weight[..., :outputs], bias[..., :outputs]
            self.layers.append(_together(weight, bias) if number == 0 else _apart(weight, bias))
        self.skip = None
        if net.skip is not None:
            self.skip = _together(net.skip.weight[..., :outputs], net.skip.bias[..., :outputs])

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y if self.skip is None else y + self.skip(x)

    def body(self, x: Tensor) -> Tensor:
        """The same without the linear path around the perceptrons."""
        y: Tensor = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            parts = self.act(y).chunk(self.members, dim=-1)
            assert isinstance(layer, nn.ModuleList)
            found = [one(part) for one, part in zip(layer, parts, strict=True)]
            y = found[0] if self.members == 1 else torch.cat(found, dim=-1)
        return y


def lean(network: Network) -> Network:
    """A network, changed in place: every `SmoothLeaky` in it becomes its lean form."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, SmoothLeaky):
                setattr(parent, name, LeanSmoothLeaky())
    return network


def _together(weight: Tensor, bias: Tensor) -> Plain:
    """Layers of E networks with one input as one: (E, in, out), (E, 1, out)."""
    return Plain(weight.transpose(0, 1).flatten(1), bias.flatten())


def _apart(weight: Tensor, bias: Tensor) -> nn.ModuleList:
    """Layers of E networks, each by itself."""
    return nn.ModuleList(Plain(one, offset[0]) for one, offset in zip(weight, bias, strict=True))
