"""The dynamics reward's networks (MOREC, arXiv 2310.05422): snapshots of a discriminator, averaged.

D_t(s, a, ds) is near 1 where the change ds of the state tags is what the plant does; the dynamics reward is
r_D = -log(1 - mean_t D_t). Inputs are scaled; only the state tags' change is judged, so that an exogenous change (a
door) is never called false.

A deviation, `coordinates="innovation"`: the change is judged by what it deviates from a linear prediction, or from an
observer's where the world model is made of observers, not by itself. It is the same information, but a network no
longer has to find a thin ridge across its inputs before it can judge at all. It then also sees the products of the
current known tags with the current state tags and the command, by which that prediction is wrong where a plant's gains
depend on a door or a load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedLinear, BatchedMLP, identity_scaler
from controlkit.models.linear_prediction import Prediction

# The reward's ceiling, -log(1e-6) = 13.8: mean D = 1 must not give an infinite reward.
MAX_PROBABILITY = 1.0 - 1e-6
MAX_REWARD = -math.log(1.0 - MAX_PROBABILITY)


class DiscriminatorEnsemble(nn.Module):
    """K discriminators (snapshots, or independent networks) in one batched network.

    Args:
        observation_size: O.
        action_size: m.
        state_slots: (S,) positions of the current state tags in the observation.
        inputs: positions of the observation that are judged with the command: all of them, or the current ones alone.
        prediction: what innovations are measured from; `None` where a change is judged by itself.
        members: K.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.
    """

    inputs: Tensor
    state_slots: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        state_slots: Sequence[int],
        inputs: Sequence[int],
        prediction: Prediction | None = None,
        *,
        members: int,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = members
        self.register_buffer("state_slots", torch.as_tensor(list(state_slots), dtype=torch.int64))
        self.input_scaler = Affine(identity_scaler(observation_size + action_size))
        self.change_scaler = Affine(identity_scaler(len(state_slots)))
        # The command stands behind the observation, where the scaler has it.
        command = range(observation_size, observation_size + action_size)
        self.register_buffer("inputs", torch.as_tensor([*inputs, *command], dtype=torch.int64))
        self.prediction = prediction
        products = 0 if prediction is None else prediction.products
        sizes = len(self.inputs) + products + len(state_slots)
        self.net = BatchedMLP(members, sizes, hidden, 1, act=act, generator=generator, output_gain=1.0, skip=False)

    @property
    def unit(self) -> Tensor:
        """(S,) the scaled change that counts as one: the log's deviation from the prediction, or its own."""
        return torch.ones_like(self.change_scaler.spread) if self.prediction is None else self.prediction.spread

    def logits(self, observation: Tensor, action: Tensor, scaled_change: Tensor) -> Tensor:
        """Log odds that a change is the plant's: (B, O), (B, m), (B, S) scaled change -> (K, B).

        Inputs may all carry a leading member dimension (K, B, ...). The change alone may carry a leading dimension of
        candidates (C, B, S): the rest is then computed once for all of them, and the result is (K, C, B).
        """
        scaled = self.input_scaler(torch.cat([observation, action], dim=-1))
        seen, judged = scaled.index_select(-1, self.inputs), scaled_change
        if self.prediction is not None:
            seen = torch.cat([seen, self.prediction.current_products(scaled)], dim=-1)
            judged = (scaled_change - self.prediction(observation, action, scaled)) / self.prediction.spread
        if judged.dim() > seen.dim():
            return self._of_candidates(seen, judged)
        x = torch.cat([seen, judged], dim=-1)
        if x.dim() == 2:
            x = x.expand(self.members, *x.shape)
        logits: Tensor = self.net(x).squeeze(-1)
        return logits

    def _of_candidates(self, seen: Tensor, judged: Tensor) -> Tensor:
        """As `logits`, the first layer split so that what candidates share is computed once: -> (K, C, B)."""
        first, *rest = self.net.body
        assert isinstance(first, BatchedLinear)
        count, batch, states = judged.shape
        shared = torch.matmul(seen, first.weight[:, :-states]) + first.bias  # (K, B, H)
        own = torch.matmul(judged.reshape(count * batch, states), first.weight[:, -states:])  # (K, C * B, H)
        x: Tensor = (own.unflatten(1, (count, batch)) + shared.unsqueeze(1)).flatten(1, 2)  # (K, C * B, H)
        for layer in rest:
            x = layer(x)
        return x.reshape(self.members, count, batch)

    def expected_change(self, observation: Tensor, action: Tensor) -> Tensor:
        """The scaled change that the prediction expects, 0 where there is none: (..., O), (..., m) -> (..., S)."""
        if self.prediction is None:
            return torch.zeros_like(observation[..., : len(self.state_slots)])
        scaled = self.input_scaler(torch.cat([observation, action], dim=-1))
        expected: Tensor = self.prediction(observation, action, scaled)
        return expected

    def log_odds(self, observation: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Log odds of the mean probability: (B, O), (B, m), (B, S) next state tags -> (B,).

        It rises with the dynamics reward, and goes on telling outcomes apart where that is 0 or at its ceiling. The
        next state tags may carry a leading dimension of candidates: (C, B, S) -> (C, B).
        """
        change = self.change_scaler(next_state - observation[..., self.state_slots])
        return mean_logit(self.logits(observation, action, change))

    def forward(self, observation: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """The dynamics reward, 0 .. 13.8: shapes as of `log_odds`."""
        return dynamics_reward(self.log_odds(observation, action, next_state))


def mean_logit(logits: Tensor) -> Tensor:
    """Log odds of the mean probability, exact where a probability rounds to 0 or 1: (K, ...) -> (...)."""
    log_belief = nn.functional.logsigmoid(logits).logsumexp(dim=0)
    log_doubt = nn.functional.logsigmoid(-logits).logsumexp(dim=0)
    return log_belief - log_doubt


def dynamics_reward(log_odds: Tensor) -> Tensor:
    """-log(1 - D) from the log odds of D: (...) -> (...)."""
    return nn.functional.softplus(log_odds).clamp(max=MAX_REWARD)
