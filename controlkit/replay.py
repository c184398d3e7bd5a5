"""Transitions as tensors on one device: the log itself, and a ring of model transitions.

Windows of history are built per batch by one gather, so that a log is held once and nothing goes through numpy inside a
training loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controlkit.dataset import TransitionDataset
from controlkit.layout import Layout

# Bytes of the frames and actions that are gathered at once to look at a whole log.
OVERVIEW = 1 << 28
STRETCHES = 200


class Batch(NamedTuple):
    """B transitions: observation (B, O), action (B, m), reward (B,), next observation (B, O), terminated (B,) float.

    The last `modelled` of them come from a world model.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    modelled: int = 0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but the count."""
        return tuple(field for field in self if isinstance(field, Tensor))

    @classmethod
    def of(cls, tensors: Iterable[Tensor], modelled: int) -> Batch:
        """From its `tensors`."""
        observation, action, reward, next_observation, terminated = tensors
        return cls(observation, action, reward, next_observation, terminated, modelled)


class LoggedTransitions:
    """A data set on a device.

    Attributes:
        rows: (T,) rows of the data set from which a step can be used.
        frames: (N, n); actions: (N, m); rewards: (N,).
        remaining: (N,) how many rows of the same episode follow each row.
    """

    def __init__(self, data: TransitionDataset, device: torch.device | str = "cpu") -> None:
        self.layout = data.layout
        self.rows = torch.from_numpy(data.require_transitions()).to(device)
        self.frames, self.actions = _wide(data.frames).to(device), _wide(data.actions).to(device)
        self.rewards = torch.from_numpy(data.rewards).to(device)
        self.terminated = torch.from_numpy(data.terminated).to(device)
        self.position = torch.from_numpy(data.position).to(device)
        usable = data.usable
        last = np.append(data.episode[1:] != data.episode[:-1], True) | ~np.append(usable[1:], True)
        ends = np.flatnonzero(last)
        following = ends[np.searchsorted(ends, np.arange(len(data)))] - np.arange(len(data))
        self.remaining = torch.from_numpy(following).to(device)
        lags, columns, commands = (torch.from_numpy(index).to(device) for index in self.layout.window_index())
        self._lags, self._columns = lags, columns + commands * len(self.layout.frame_tags)
        # Commands of an episode's last row are NaN and are never reached: a window holds past commands only.
        self._table: Tensor | None = None
        if not data.is_mapped:
            self._table = torch.cat([self.frames, self.actions], dim=1)  # (N, n + m)
        # Of a log on disk no table is made: the two kinds of slots are read one after the other.
        self._kinds = tuple((kind, lags[kind], columns[kind]) for kind in (~commands.bool(), commands.bool()))
        self._state_columns = torch.from_numpy(self.layout.state_columns).to(device)

    def observe(self, rows: Tensor) -> Tensor:
        """Observations at `rows` (any shape): (...,) -> (..., O)."""
        if self._table is not None:
            return self._table[rows.unsqueeze(-1) - self._lags, self._columns]
        observation = torch.empty(*rows.shape, len(self._lags), device=rows.device)
        for source, (kind, lags, columns) in zip((self.frames, self.actions), self._kinds, strict=True):
            observation[..., kind] = source[rows.unsqueeze(-1) - lags, columns]
        return observation

    def next_state(self, rows: Tensor) -> Tensor:
        """The state tags one step later: (...,) -> (..., S)."""
        return self.frames[rows + 1][..., self._state_columns]

    def batch(self, rows: Tensor) -> Batch:
        """The transitions that start at `rows`: (B,)."""
        return Batch(
            self.observe(rows),
            self.actions[rows],
            self.rewards[rows],
            self.observe(rows + 1),
            self.terminated[rows].float(),
        )

    def sample(self, size: int, generator: torch.Generator) -> Tensor:
        """`size` usable rows, drawn uniformly: (B,)."""
        drawn = torch.randint(len(self.rows), (size,), generator=generator, device=self.rows.device)
        return self.rows[drawn]

    @property
    def overview(self) -> Tensor:
        """Usable rows that stand for all of them where something is computed from many at once: all, or, of a log too
        long for that, as many as take `OVERVIEW` bytes, evenly spaced: (T',)."""
        width = 4 * (len(self.layout.frame_tags) + len(self.layout.action_tags))
        return thinned(self.rows, max(1, OVERVIEW // width))


def thinned(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows (T,), evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]


def stretches(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the rows (T,): the first of each of `STRETCHES` parts of the log, so that neighbours stay."""
    if len(rows) <= most:
        return rows
    parts = rows.tensor_split(min(STRETCHES, most))
    return torch.cat([part[: max(1, most // len(parts))] for part in parts])


def _wide(values: npt.NDArray[np.float32]) -> Tensor:
    """Frames or actions as a tensor on the same memory, which must not be written to where it is a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(values)


class ModelTransitions:
    """A ring of model transitions; the next observation is rebuilt from the next frame, which halves the memory.

    Args:
        layout: of the observations.
        capacity: transitions held at most.
        device: where they live.
        costs: K, how many costs whose price changes over time stand beside each reward; see `set_prices`.
    """

    def __init__(self, layout: Layout, capacity: int, device: torch.device | str = "cpu", costs: int = 0) -> None:
        n, m = len(layout.frame_tags), len(layout.action_tags)
        self._shift = torch.from_numpy(layout.shift_index).to(device)
        self.observation = torch.zeros(capacity, layout.size, device=device)
        self.action = torch.zeros(capacity, m, device=device)
        self.next_frame = torch.zeros(capacity, n, device=device)
        self.reward = torch.zeros(capacity, device=device)  # less the costs at their prices
        self.free_reward = torch.zeros(capacity if costs else 0, device=device)  # as it was given
        self.cost = torch.zeros(capacity if costs else 0, costs, device=device)
        self.terminated = torch.zeros(capacity, device=device)
        self.next, self.size, self.capacity = 0, 0, capacity
        self._rings = _RINGS + (("free_reward", "cost") if costs else ())

    def extend(
        self,
        observation: Tensor,
        action: Tensor,
        next_frame: Tensor,
        reward: Tensor,
        terminated: Tensor,
        cost: Tensor | None = None,
    ) -> None:
        """Appends transitions; the oldest are overwritten where the ring is full. A `cost` (B, K) is charged from the
        next `set_prices` on."""
        count = min(len(reward), self.capacity)
        at = (self.next + torch.arange(count, device=reward.device)) % self.capacity
        for ring, values in (
            (self.observation, observation),
            (self.action, action),
            (self.next_frame, next_frame),
            (self.reward, reward),
            (self.terminated, terminated.float()),
        ):
            ring[at] = values[:count]
        if cost is not None and cost.shape[1]:
            self.free_reward[at], self.cost[at] = reward[:count], cost[:count]
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """`size` transitions, drawn uniformly."""
        at = torch.randint(self.size, (size,), generator=generator, device=self.reward.device)
        observation, action = self.observation[at], self.action[at]
        following = torch.cat([self.next_frame[at], action, observation], dim=1)[:, self._shift]
        return Batch(observation, action, self.reward[at], following, self.terminated[at])

    def set_prices(self, prices: Tensor) -> None:
        """Charges the costs of all held transitions at these prices (K,), so that no reward is of an older epoch."""
        if len(self.free_reward):
            torch.sub(self.free_reward, self.cost @ prices, out=self.reward)

    def state_dict(self) -> dict[str, Tensor | int]:
        """What a checkpoint needs."""
        held = {name: getattr(self, name)[: self.size] for name in self._rings}
        return {name: ring.clone() for name, ring in held.items()} | {"next": self.next}

    def load_state_dict(self, content: dict[str, Tensor | int]) -> None:
        """Reads what `state_dict` wrote."""
        for name in self._rings:
            values = content[name]
            assert isinstance(values, Tensor)
            getattr(self, name)[: len(values)] = values
            self.size = len(values)
        self.next = int(content["next"])


_RINGS = ("observation", "action", "next_frame", "reward", "terminated")
