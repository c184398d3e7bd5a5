"""The world model's networks: an ensemble of Gaussian predictors of the next state tags (PETS, arXiv 1805.12114).

Only the change of the state tags is predicted, in scaled units; exogenous tags, static tags and history are known and
are nobody's business here. Deviations from the MOREC authors' ensemble: a linear path around each member, and an
activation without a kink that extrapolates along straight lines.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from controlkit.models.layers import Activation, Affine, BatchedLinear, BatchedMLP, identity_scaler

MIN_LOG_STD, MAX_LOG_STD = -7.0, 1.0


class GaussianEnsemble(nn.Module):
    """E members that predict the next value of S state tags.

    Args:
        observation_size: O.
        action_size: m.
        state_slots: (S,) positions of the current state tags in the observation.
        members: E.
        hidden: sizes of the hidden layers.
        act: activation.
        generator: draws the initial weights.

    The scalers and the list of elites are buffers: they travel with the weights.
    """

    elites: Tensor
    state_slots: Tensor

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        state_slots: Sequence[int],
        *,
        members: int,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.members = members
        self.register_buffer("state_slots", torch.as_tensor(list(state_slots), dtype=torch.int64))
        self.register_buffer("elites", torch.arange(members))
        self.input_scaler = Affine(identity_scaler(observation_size + action_size))
        self.change_scaler = Affine(identity_scaler(len(state_slots)))
        self.net = BatchedMLP(
            members, observation_size + action_size, hidden, 2 * len(state_slots), act=act, generator=generator
        )

    def decayed_parameters(self) -> list[nn.Parameter]:
        """What weight decay acts on: the perceptrons, not the linear path around them."""
        return list(self.net.body.parameters())

    def elites_only(self, count: int | None = None) -> Self:
        """A copy that holds the best `count` elites alone (all of them where none is given), in order of their hold-out
        error, for places where nothing may be computed in vain."""
        return self.subset(self.elites[:count])

    def subset(self, chosen: Tensor) -> Self:
        """A copy that holds the members `chosen` (K,) alone, in that order, all of them elites."""
        pruned = copy.deepcopy(self)
        with torch.no_grad():
            for parameter in pruned.parameters():  # every parameter's first dimension counts members
                parameter.data = parameter.data[chosen].clone()
        pruned.members = len(chosen)
        pruned.elites = torch.arange(pruned.members, device=self.elites.device)
        return pruned

    def lean(self) -> Self:
        """`elites_only`, and where all of them are linear, without their perceptrons: for rollouts, which call it
        millions of times. Its weights no longer fit `state_dict`s of the others."""
        elites = self.elites_only()
        elites.drop_idle_perceptrons()
        return elites

    @torch.no_grad()
    def drop_idle_perceptrons(self) -> None:
        """Folds the constants that perceptrons without weights add into the linear path, if all members are linear."""
        skip, last = self.net.skip, self.net.body[-1]
        if skip is None or not bool(self.linear().all()):
            return
        assert isinstance(last, BatchedLinear)
        skip.bias.add_(last.bias)
        self.net.body, self.net.skip = nn.Sequential(skip), None

    @torch.no_grad()
    def put(self, chosen: Tensor, members: GaussianEnsemble) -> None:
        """Writes the members of a `subset` back to where they came from: the inverse of `subset(chosen)`."""
        for mine, theirs in zip(self.parameters(), members.parameters(), strict=True):
            mine[chosen] = theirs

    def linear(self) -> Tensor:
        """(E,) whether a member is linear: its perceptron's last layer has no weights, so that it adds a constant."""
        last = self.net.body[-1]
        assert isinstance(last, BatchedLinear)
        return (last.weight == 0).flatten(1).all(dim=1)

    def scaled_change(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the scaled change: (B, O), (B, m) -> (E, B, S), (E, B, S).

        Inputs may also carry a leading member dimension (E, B, ...), for bootstrap batches.
        """
        x = self.input_scaler(torch.cat([observation, action], dim=-1))
        if x.dim() == 2:
            x = x.expand(self.members, *x.shape)
        mean, raw = self.net(x).chunk(2, dim=-1)
        # Soft bounds: the gradient never vanishes, the exponential never overflows.
        log_std = MAX_LOG_STD - nn.functional.softplus(MAX_LOG_STD - raw)
        return mean, MIN_LOG_STD + nn.functional.softplus(log_std - MIN_LOG_STD)

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the next state tags by the elites, engineering units: (elites, B, S) each."""
        mean, log_std = self.scaled_change(observation, action)
        mean, log_std = mean[self.elites], log_std[self.elites]
        change = self.change_scaler.invert(mean)
        return observation[..., self.state_slots] + change, log_std.exp() * self.change_scaler.spread

    def spread(self, means: Tensor) -> Tensor:
        """Disagreement of the elites: root mean square over state tags of their standard deviation, in units of the
        log's typical change of each tag: (elites, B, S) -> (B,)."""
        return (means.std(dim=0, correction=0) / self.change_scaler.spread).square().mean(dim=-1).sqrt()
