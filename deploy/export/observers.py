"""Bilinear observers as a runtime computes them fast: everything but the state at once, then two nodes a step.

Where a step function has no perceptron, each step of an observer (correction, then prediction) is affine in the state:

    s <- s M_k + d_k,    M_k = (1 - G_k) (1 + B(w_k)),    d_k = m_k G_k (1 + B(w_k)) + e(w_k, u_k),

with everything scaled: the state s, the measurement m_k, the known tags w_k, the commands u_k, the gain G_k. M_k and
d_k are linear in 1, m_k, w_k, u_k and the products of w_k with the other two: two products of matrices give them for
the whole window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controlkit.models.observer import ObserverEnsemble
from deploy.export.stages import take

# Numbers that the matrices of all steps may have: beyond, stepping costs less than reading them.
MOST_NUMBERS = 200_000


def lean_observers(ensemble: ObserverEnsemble) -> LeanObservers | None:
    """The observers in their fast form; `None` where they have perceptrons, or the window's matrices are too large."""
    depth, states = ensemble.depth, len(ensemble.state_slots)
    numbers = (depth + 1) * states * ensemble.members * ensemble.bilinear.weight.shape[1]
    numbers += depth * states * states * ensemble.members * (1 + ensemble.known_at.shape[1])
    return LeanObservers(ensemble) if ensemble.perceptron is None and numbers <= MOST_NUMBERS else None


class LeanObservers(nn.Module):
    """The mean scaled change of every member: (B, O), (B, m) -> (B, E, S).

    Args:
        ensemble: of observers without perceptrons.
    """

    window: Tensor
    centre: Tensor
    spread: Tensor
    known_factor: Tensor
    other_factor: Tensor
    move: Tensor
    stay: Tensor
    drive: Tensor
    offset: Tensor
    unit: Tensor
    shift: Tensor

    def __init__(self, ensemble: ObserverEnsemble) -> None:
        super().__init__()
        assert ensemble.perceptron is None
        depth, states = ensemble.depth, len(ensemble.state_slots)
        known, commands = ensemble.known_at.shape[1], ensemble.commands_at.shape[1]
        self.members, self.states, self.steps = ensemble.members, states, depth + 1
        scaler = ensemble.input_scaler
        size = len(scaler.centre) - commands
        # Along the window, the oldest first: state tags, known tags, commands; the last commands are the action.
        action = torch.arange(size, size + commands).unsqueeze(0)
        commanded = torch.cat([ensemble.commands_at, action])
        self.register_buffer("window", torch.cat([ensemble.states_at, ensemble.known_at, commanded], dim=1).flatten())
        kinds = torch.cat([ensemble.state_slots, ensemble.known_at[-1], action[0]])
        self.register_buffer("centre", scaler.centre[kinds])
        self.register_buffer("spread", scaler.spread[kinds])
        others = [*range(states), *range(states + known, states + known + commands)]
        self.register_buffer("known_factor", torch.arange(states, states + known).repeat_interleave(len(others)))
        self.register_buffer("other_factor", torch.tensor(others).repeat(known))

        own = scaler.spread[ensemble.state_slots].double()
        change = ensemble.change_scaler
        self.register_buffer("unit", (own / change.spread).float())
        self.register_buffer("shift", (change.centre.double() / change.spread).float())
        # One scaled change in the scale of the state.
        ratio, eye = change.spread.double() / own, torch.eye(states, dtype=torch.float64)
        weight = ensemble.bilinear.weight.double() * ratio  # (E, features, S)
        bias = (ensemble.bilinear.bias.double()[:, 0] * change.spread + change.centre) / own  # (E, S)
        first = states + known + commands
        bilinear = [weight[:, :states]]  # of the state, then of its product with each known tag: (E, S, S)
        bilinear += [weight[:, at : at + states] for at in range(first, weight.shape[1], states + commands)]
        bilinear[0] = bilinear[0] + eye
        # A window's first measurement is the state: its gain is one.
        gains = own.unsqueeze(-1) * ensemble.gains.double().transpose(2, 3) / own  # (E, D, S, S)
        gains = torch.cat([eye.expand(self.members, 1, states, states), gains], dim=1)
        # Of a step's features (measurement, known, commands, then products) and of 1: (E, K, features, S) and so on.
        drive = weight.unsqueeze(1).repeat(1, self.steps, 1, 1)
        move = torch.zeros(self.members, self.steps, weight.shape[1], states, states, dtype=torch.float64)
        for i, matrix in enumerate(bilinear):
            at = 0 if i == 0 else first + (i - 1) * (states + commands)
            drive[:, :, at : at + states] = gains @ matrix.unsqueeze(1)
            if i:
                move[:, :, states + i - 1] = (eye - gains) @ matrix.unsqueeze(1)
        stay = (eye - gains) @ bilinear[0].unsqueeze(1)  # (E, K, S, S)
        # A step's matrices side by side, one member after the other: (K, features, E * S) and so on.
        self.register_buffer("drive", drive.permute(1, 2, 0, 3).flatten(2).float().contiguous())
        self.register_buffer("offset", bias.flatten().float().contiguous())
        within = move[:, 1:, states : states + known]
        self.register_buffer("move", within.permute(1, 2, 0, 3, 4).flatten(2).float().contiguous())
        self.register_buffer("stay", stay[:, 1:].permute(1, 0, 2, 3).flatten(1).unsqueeze(1).float().contiguous())
        self.known = slice(states, states + known)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        batch, members, states = len(observation), self.members, self.states
        seen = take(torch.cat([observation, action], dim=-1), self.window).reshape(batch, self.steps, -1)
        scaled = ((seen - self.centre) / self.spread).transpose(0, 1)  # (K, B, kinds)
        products = take(scaled, self.known_factor) * take(scaled, self.other_factor)
        driven = torch.bmm(torch.cat([scaled, products], dim=-1), self.drive) + self.offset  # (K, B, E * S)
        parts = driven.reshape(self.steps, batch * members, 1, states).split(1)
        x = parts[0][0]  # (B * E, 1, S)
        if self.steps > 1:
            moved = torch.bmm(scaled[1:, :, self.known], self.move) + self.stay  # (K - 1, B, E * S * S)
            matrices = moved.reshape(self.steps - 1, batch * members, states, states).split(1)
            for matrix, part in zip(matrices, parts[1:], strict=True):
                x = torch.bmm(x, matrix[0]) + part[0]
        change = x.reshape(batch, members, states) - scaled[-1, :, :states].unsqueeze(1)
        result: Tensor = change * self.unit - self.shift
        return result
