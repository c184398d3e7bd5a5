"""A linear parameter-varying prediction of one step: what linear identification expects the plant to do.

The scaled change of the state tags is linear in the scaled observation and command, and in the products of the current
exogenous and static tags with them: a door or a load changes a plant's gains (Toth, Modeling and Identification of
Linear Parameter-Varying Systems, 2010). What a transition deviates from it by, in units of the deviations that the log
shows, is its innovation: the coordinate in which a discriminator sees at once what a raw change hides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Products with the whole window are taken as long as there are at most so many of them, else with the current samples,
# and none on plants where even those are more.
MAX_PRODUCTS = 1024


class LinearPrediction(nn.Module):
    """Ridge weights, kept with the network that uses them. `controlkit.morec.innovation` fits them.

    Args:
        inputs: I, scaled observation and command together.
        known: positions among the inputs of the current exogenous and static tags.
        current: positions among the inputs of the current state tags and the command.
        outputs: S.

    Attributes:
        products: P, products of the current known tags with the current state tags and the command.
        weight: (F, S), F features; bias: (S,); spread: (S,) the scaled change that counts as one innovation.
    """

    weight: Tensor
    bias: Tensor
    spread: Tensor
    known: Tensor
    factors: Tensor
    current: Tensor

    def __init__(self, inputs: int, known: Sequence[int], current: Sequence[int], outputs: int) -> None:
        super().__init__()
        apart = set(known)
        others = [i for i in range(inputs) if i not in apart]
        chosen = list(current) if len(current) * len(known) <= MAX_PRODUCTS else []
        factors = others if len(others) * len(known) <= MAX_PRODUCTS else chosen
        self.products = len(known) * len(chosen)
        self.register_buffer("current", torch.as_tensor(chosen, dtype=torch.int64))
        self.register_buffer("known", torch.as_tensor(list(known), dtype=torch.int64))
        self.register_buffer("factors", torch.as_tensor(factors, dtype=torch.int64))
        self.register_buffer("weight", torch.zeros(inputs + len(known) * len(factors), outputs))
        self.register_buffer("bias", torch.zeros(outputs))
        self.register_buffer("spread", torch.ones(outputs))

    def features(self, scaled: Tensor) -> Tensor:
        """Scaled inputs and their products, as a regression sees them: (..., I) -> (..., F)."""
        return torch.cat([scaled, self._products(scaled, self.factors)], dim=-1)

    def current_products(self, scaled: Tensor) -> Tensor:
        """Products of the current known tags with the current state tags and the command: (..., I) -> (..., P)."""
        return self._products(scaled, self.current)

    def _products(self, scaled: Tensor, at: Tensor) -> Tensor:
        known, factors = scaled.index_select(-1, self.known), scaled.index_select(-1, at)
        return (known.unsqueeze(-1) * factors.unsqueeze(-2)).flatten(-2)

    def forward(self, scaled: Tensor) -> Tensor:
        """The scaled change that is expected: (..., I) -> (..., S)."""
        return self.features(scaled) @ self.weight + self.bias

    def innovation(self, scaled: Tensor, scaled_change: Tensor) -> Tensor:
        """A change's distance from what is expected, in units of the log's: (..., I), (..., S) -> (..., S)."""
        return (scaled_change - self.forward(scaled)) / self.spread
