"""Linear parameter-varying predictions of one step: what linear identification expects the plant to do.

The scaled change of the state tags is linear in the scaled observation and command, and in the products of the current
exogenous and static tags with them: a door or a load changes a plant's gains (Toth, Modeling and Identification of
Linear Parameter-Varying Systems, 2010). What a transition deviates from it by, in units of the deviations that the log
shows, is its innovation: the coordinate in which a discriminator sees at once what a raw change hides.

Over a window of noisy samples a regression is a filter for the mixture of states that the log went through: once a
better controller holds the temperature with the door open, or the door changed within the window, it is wrong by many
innovations. There the prediction is an observer, whose innovations are Kalman's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.observer import ObserverEnsemble

# Products with the whole window are taken as long as there are at most so many of them, else with the current samples,
# and none on plants where even those are more.
MAX_PRODUCTS = 1024


class Prediction(nn.Module):
    """What innovations are measured from, kept with the network that uses it. `controlkit.morec.innovation` fits it.

    Args:
        known: positions among the inputs (observation, then command) of the current exogenous and static tags.
        current: positions among the inputs of the current state tags and the command.
        outputs: S.

    Attributes:
        products: P, products of the current known tags with the current state tags and the command.
        spread: (S,) the scaled change that counts as one innovation.
    """

    spread: Tensor
    known: Tensor
    current: Tensor

    def __init__(self, known: Sequence[int], current: Sequence[int], outputs: int) -> None:
        super().__init__()
        chosen = list(current) if len(current) * len(known) <= MAX_PRODUCTS else []
        self.products = len(known) * len(chosen)
        self.register_buffer("current", torch.as_tensor(chosen, dtype=torch.int64))
        self.register_buffer("known", torch.as_tensor(list(known), dtype=torch.int64))
        self.register_buffer("spread", torch.ones(outputs))

    def current_products(self, scaled: Tensor) -> Tensor:
        """Products of the current known tags with the current state tags and the command: (..., I) -> (..., P)."""
        return self._products(scaled, self.current)

    def _products(self, scaled: Tensor, at: Tensor) -> Tensor:
        known, factors = scaled.index_select(-1, self.known), scaled.index_select(-1, at)
        return (known.unsqueeze(-1) * factors.unsqueeze(-2)).flatten(-2)


class LinearPrediction(Prediction):
    """Ridge regression on the scaled inputs and their products with the known tags.

    Args:
        inputs: I, scaled observation and command together.
        known, current, outputs: as of `Prediction`.

    Attributes:
        weight: (F, S), F features; bias: (S,).
    """

    weight: Tensor
    bias: Tensor
    factors: Tensor

    def __init__(self, inputs: int, known: Sequence[int], current: Sequence[int], outputs: int) -> None:
        super().__init__(known, current, outputs)
        apart = set(known)
        others = [i for i in range(inputs) if i not in apart]
        factors = others if len(others) * len(known) <= MAX_PRODUCTS else self.current.tolist()
        self.register_buffer("factors", torch.as_tensor(factors, dtype=torch.int64))
        self.register_buffer("weight", torch.zeros(inputs + len(known) * len(factors), outputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def features(self, scaled: Tensor) -> Tensor:
        """Scaled inputs and their products, as a regression sees them: (..., I) -> (..., F)."""
        return torch.cat([scaled, self._products(scaled, self.factors)], dim=-1)

    def forward(self, observation: Tensor, action: Tensor, scaled: Tensor) -> Tensor:
        """The scaled change that is expected: (..., O), (..., m) and both scaled (..., I) -> (..., S)."""
        return self.features(scaled) @ self.weight + self.bias


class ObserverPrediction(Prediction):
    """One observer in innovations form, fitted apart from the world model's.

    Args:
        observer: a single member.
        known, current: as of `Prediction`.
    """

    def __init__(self, observer: ObserverEnsemble, known: Sequence[int], current: Sequence[int]) -> None:
        super().__init__(known, current, len(observer.state_slots))
        self.observer = observer.requires_grad_(False)

    def forward(self, observation: Tensor, action: Tensor, scaled: Tensor) -> Tensor:
        """As of `LinearPrediction`."""
        lead = observation.shape[:-1]
        flat = (observation.reshape(1, -1, observation.shape[-1]), action.reshape(1, -1, action.shape[-1]))
        change, _ = self.observer.scaled_change(*flat)  # (1, B, S)
        return change.reshape(*lead, change.shape[-1])
