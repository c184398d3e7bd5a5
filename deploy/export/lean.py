"""The same arithmetic from operators that runtimes compute fast."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from controlkit.models.layers import SmoothLeaky

Network = TypeVar("Network", bound=nn.Module)


class LeanSmoothLeaky(nn.Module):
    """`SmoothLeaky` with log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)), z = 4 x, to 1e-7.

    onnxruntime computes Softplus number by number, and the exporter adds a case distinction to it; Exp and Log go by
    vectors: a fourth of the time. NaN stays NaN, and nothing overflows.
    """

    def forward(self, x: Tensor) -> Tensor:
        z = 4.0 * x
        return 0.1 * x + 0.225 * (torch.relu(z) + torch.log(1.0 + torch.exp(-z.abs())))


def lean(network: Network) -> Network:
    """A network, changed in place: every `SmoothLeaky` in it becomes its lean form."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, SmoothLeaky):
                setattr(parent, name, LeanSmoothLeaky())
    return network
