"""A module's parameters in one vector, and Adam (arXiv 1412.6980) over such a vector in one kernel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Flat:
    """A module's parameters, and their gradients, laid end to end in one tensor each.

    Optimiser, polyak averaging and weight averaging then are one kernel each. The parameters become views: whatever is
    written into them in place (`load_state_dict` included) is written into `weights`.

    Attributes:
        weights: (P,); gradient: (P,).
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        held = list(parameters)
        self.weights = torch.cat([parameter.detach().reshape(-1) for parameter in held])
        self.gradient = torch.zeros_like(self.weights)
        begin = 0
        for parameter in held:
            end = begin + parameter.numel()
            parameter.data = self.weights[begin:end].view_as(parameter)
            parameter.grad = self.gradient[begin:end].view_as(parameter)
            begin = end


class FlatAdam:
    """Adam over one vector, by PyTorch's fused kernel without the optimiser object around it, whose bookkeeping costs
    as much as the arithmetic of a small network.

    Args:
        weights: (P,) trained in place.
        gradient: (P,) read at every step.
    """

    def __init__(self, weights: Tensor, gradient: Tensor) -> None:
        self.weights, self.gradient = weights, gradient
        self.mean, self.square = torch.zeros_like(weights), torch.zeros_like(weights)
        self.steps = torch.zeros((), device=weights.device, dtype=torch.float32)

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """One step; `rate` is a number, or a tensor that a captured CUDA graph reads anew at every replay."""
        adam(
            [self.weights],
            [self.gradient],
            [self.mean],
            [self.square],
            [],
            [self.steps],
            foreach=False,
            capturable=self.weights.is_cuda,
            differentiable=False,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs."""
        return {name: getattr(self, name).clone() for name in _MOMENTS}

    def load_state_dict(self, content: dict[str, Tensor]) -> None:
        """Reads what `state_dict` wrote."""
        for name in _MOMENTS:
            getattr(self, name).copy_(content[name])


_MOMENTS = ("mean", "square", "steps")
