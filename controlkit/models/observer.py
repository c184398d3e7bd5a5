"""State observers: world-model members in innovations form (Ljung, System Identification, 2nd ed., ch. 4.3 and 7).

A window of noisy measurements says two things: what the plant's state is now, and how the plant moves. A perceptron
over the whole window must learn both at once and extrapolates in all of the window's dimensions. An observer separates
them: one step function x' = f(x, known, command), applied along the window and corrected by every measurement with a
gain of its own,

    x <- x + K_k (y_k - x),    x <- f(x, known_k, command_k),    k = depth .. 0,

so that only f, which lives in a few dimensions, has to be learned and extrapolated. f is bilinear: linear in state,
known tags (exogenous and static) and commands, and in the products of the known tags with state and commands (a linear
parameter-varying model: a door or a load changes the plant's gains); an optional perceptron adds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import Activation, BatchedLinear, BatchedMLP


class ObserverEnsemble(GaussianEnsemble):
    """E observers with the interface of `GaussianEnsemble`.

    Args:
        observation_size: O.
        window: slots of the state tags (D + 1, S), of the other frame tags (D + 1, X) and of the commands (D, m) along
            the window, the oldest first (`Layout.observer_window`).
        members: E.
        hidden: hidden layers of the additional perceptron; empty for none.
        act: its activation.
        generator: draws the initial weights.
    """

    states_at: Tensor
    known_at: Tensor
    commands_at: Tensor

    def __init__(
        self,
        observation_size: int,
        window: tuple[Tensor, Tensor, Tensor],
        *,
        members: int,
        hidden: Sequence[int],
        act: Activation,
        generator: torch.Generator,
    ) -> None:
        states_at, known_at, commands_at = window
        (depth, commands), states, known = commands_at.shape, states_at.shape[1], known_at.shape[1]
        slots = states_at[-1].tolist()
        super().__init__(observation_size, commands, slots, members=members, hidden=(), act=act, generator=generator)
        del self.net  # the perceptron over the whole window, whose place the observer takes
        self.depth = depth
        for name, at in (("states_at", states_at), ("known_at", known_at), ("commands_at", commands_at)):
            self.register_buffer(name, at.clone())
        features = states + known + commands
        products = known * (states + commands)
        self.bilinear = BatchedLinear(members, features + products, states, generator, 0.0)
        self.perceptron = (
            BatchedMLP(members, features, hidden, states, act=act, generator=generator, output_gain=0.0, skip=False)
            if hidden
            else None
        )
        # The gains of a filter that averages: half of the second measurement, a third of the third, ...
        start = torch.zeros(members, depth, states, states)
        for k in range(depth):
            start[:, k] = torch.eye(states) / (k + 2)
        self.gains = nn.Parameter(start)
        self.log_std = nn.Parameter(torch.zeros(members, 1, states))

    def decayed_parameters(self) -> list[nn.Parameter]:
        """The perceptron's weights; what is linear is not decayed."""
        return list(self.perceptron.parameters()) if self.perceptron is not None else []

    def linear(self) -> Tensor:
        """(E,) whether a member is bilinear alone: it has no perceptron, or one that adds nothing."""
        if self.perceptron is None:
            return torch.ones(self.members, dtype=torch.bool, device=self.elites.device)
        last = self.perceptron.body[-1]
        assert isinstance(last, BatchedLinear)
        return (last.weight == 0).flatten(1).all(dim=1) & (last.bias == 0).flatten(1).all(dim=1)

    def drop_idle_perceptrons(self) -> None:
        """As `GaussianEnsemble.drop_idle_perceptrons`: here there is nothing to fold."""
        if bool(self.linear().all()):
            self.perceptron = None

    def scaled_change(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """As `GaussianEnsemble.scaled_change`: (B, O), (B, m) -> (E, B, S) twice."""
        if observation.dim() == 2:
            observation = observation.expand(self.members, *observation.shape)
            action = action.expand(self.members, *action.shape)
        known = self._along(observation, self.known_at)  # (E, B, D + 1, X)
        command = torch.cat([self._along(observation, self.commands_at), action.unsqueeze(-2)], dim=-2)
        measured = self._along(observation, self.states_at)  # (E, B, D + 1, S)
        # What does not depend on the state is computed for the whole window at once.
        known, command = self._scaled(known, self.known_at[-1]), self._scaled_command(command)
        drive = self._drive(known, command)  # (E, B, D + 1, S)
        from_state, parts = self._from_state(), known.unbind(dim=-1)
        x = measured[..., 0, :]  # (E, B, S)
        for k in range(self.depth + 1):
            if k:
                x = x + torch.matmul(measured[..., k, :] - x, self.gains[:, k - 1].transpose(1, 2))
            scaled = self._scaled(x, self.state_slots)
            products = torch.cat([scaled, *(part[..., k : k + 1] * scaled for part in parts)], dim=-1)
            change = torch.matmul(products, from_state) + drive[..., k, :]
            if self.perceptron is not None:
                change = change + self.perceptron(torch.cat([scaled, known[..., k, :], command[..., k, :]], dim=-1))
            x = x + self.change_scaler.invert(change)
        change = x - observation.index_select(-1, self.state_slots)
        return self.change_scaler(change), self.log_std.expand_as(change)

    def _along(self, observation: Tensor, slots: Tensor) -> Tensor:
        """The window's rows of some tags: (E, B, O) and slots (K, T) -> (E, B, K, T)."""
        gathered = observation.index_select(-1, slots.flatten())
        return gathered.reshape(*observation.shape[:-1], *slots.shape)

    def _scaled(self, value: Tensor, slots: Tensor) -> Tensor:
        centre, spread = self.input_scaler.centre, self.input_scaler.spread
        return (value - centre.index_select(0, slots)) / spread.index_select(0, slots)

    def _scaled_command(self, command: Tensor) -> Tensor:
        first = len(self.input_scaler.centre) - command.shape[-1]
        return (command - self.input_scaler.centre[first:]) / self.input_scaler.spread[first:]

    def _drive(self, known: Tensor, command: Tensor) -> Tensor:
        """The part of each step's scaled change that known tags and commands make: (E, B, D + 1, S)."""
        states, others, commands = len(self.state_slots), known.shape[-1], command.shape[-1]
        products = [known[..., i : i + 1] * command for i in range(others)]
        features = torch.cat([known, command, *products], dim=-1)  # (E, B, D + 1, F)
        rows = list(range(states, states + others + commands))
        for i in range(others):
            begin = states + others + commands + i * (states + commands) + states
            rows += range(begin, begin + commands)
        weight = self.bilinear.weight[:, rows]  # (E, F, S)
        shape = features.shape
        drive = torch.matmul(features.flatten(1, 2), weight) + self.bilinear.bias
        return drive.reshape(*shape[:-1], states)

    def _from_state(self) -> Tensor:
        """The rows of the bilinear weights that the state, and its products with the known tags, multiply."""
        states, others, commands = len(self.state_slots), self.known_at.shape[1], self.commands_at.shape[1]
        rows = list(range(states))
        for i in range(others):
            begin = states + others + commands + i * (states + commands)
            rows += range(begin, begin + states)
        return self.bilinear.weight[:, rows]

    def features(self, state: Tensor, known: Tensor, command: Tensor) -> Tensor:
        """Scaled state, known tags and command, then the products of the known tags with the other two: (E, B, F)."""
        x, w = self._scaled(state, self.state_slots), self._scaled(known, self.known_at[-1])
        u = self._scaled_command(command)
        moved = torch.cat([x, u], dim=-1)
        products = [w[..., i : i + 1] * moved for i in range(w.shape[-1])]
        return torch.cat([x, w, u, *products], dim=-1)
