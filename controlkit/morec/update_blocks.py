"""Policy updates by the block: minibatches drawn and gathered for many updates at once.

Drawing rows and gathering their windows costs a dozen small operations whatever their number, so that a block of
updates pays for them once. On a CUDA device a whole block is one graph (`graphs.py`): minibatches, noise and learning
rates are written into tensors that stay where they are, and the updates follow without a word from Python.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from controlkit.config import PolicyConfig
from controlkit.morec.graphs import Repeated
from controlkit.morec.policy_update import PolicyLearner, PolicyLosses, Rates
from controlkit.replay import Batch, LoggedTransitions, ModelTransitions

# Updates in a block: enough that drawing its minibatches costs little, few enough that they stay in the cache.
BLOCK = 25


# Multiplications per layer and minibatch from which a second thread pays: less, and the threads wait for each other.
WORTH_THREADS = 8_000_000


def sensible_threads(policy: PolicyConfig, threads: int) -> int:
    """How many of `threads` the updates of a policy's networks can use: one where the networks are small."""
    return threads if policy.batch_size * max(policy.hidden, default=1) ** 2 >= WORTH_THREADS else 1


class Learner(Protocol):
    """What learns from minibatches; see `PolicyLearner`."""

    updates: int

    def update(self, batch: Batch, generator: torch.Generator) -> Any:
        """One gradient step."""
        ...


class UpdateBlocks:
    """Makes a learner's updates.

    Args:
        learner: soft actor-critic, or a baseline.
        log: recorded transitions.
        ring: model transitions; while it is empty, all are recorded ones.
        real: recorded transitions in a minibatch.
        size: transitions in a minibatch.
        generator: draws the minibatches, and whatever an update draws.
        graphs: one CUDA graph per block of a `PolicyLearner`.
        threads: of the processor, during the updates; as many as there are where it is `None`.
    """

    def __init__(
        self,
        learner: Learner,
        log: LoggedTransitions,
        ring: ModelTransitions,
        real: int,
        size: int,
        generator: torch.Generator,
        graphs: bool = False,
        threads: int | None = None,
    ) -> None:
        self.learner, self.log, self.ring, self.threads = learner, log, ring, threads
        self.real, self.size, self.generator = real, size, generator
        self.graphs = graphs and log.rows.is_cuda and isinstance(learner, PolicyLearner)
        self._recorded: dict[int, _RecordedBlock] = {}

    def run(self, count: int) -> Any:
        """Makes `count` updates; returns the last one's losses."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            return self._run(count)
        finally:
            torch.set_num_threads(before)

    def _run(self, count: int) -> Any:
        losses: Any = None
        for begin in range(0, count, BLOCK):
            block = self._minibatches(min(BLOCK, count - begin))
            if self.graphs and len(block.reward) == BLOCK:
                losses = self._replay(block)
            else:
                for minibatch in _unstacked(block):
                    losses = self.learner.update(minibatch, self.generator)
        return losses

    def _minibatches(self, count: int) -> Batch:
        """`count` minibatches, stacked: (K, B, ...)."""
        real = self.real if self.ring.size else self.size
        parts = [self.log.batch(self.log.sample(count * real, self.generator))] if real else []
        if real < self.size:
            parts.append(self.ring.sample(count * (self.size - real), self.generator))
        stacked = [
            torch.cat([part.unflatten(0, (count, -1)) for part in field], dim=1)
            for field in zip(*(part.tensors for part in parts), strict=True)
        ]
        return Batch.of(stacked, self.size - real)

    def _replay(self, block: Batch) -> PolicyLosses:
        assert isinstance(self.learner, PolicyLearner)
        if block.modelled not in self._recorded:
            self._recorded[block.modelled] = _RecordedBlock(self.learner, block)
        return self._recorded[block.modelled].run(block, self.generator)


class _RecordedBlock:
    """One graph of as many updates as `like` holds minibatches."""

    def __init__(self, learner: PolicyLearner, like: Batch) -> None:
        self.learner, self.count = learner, len(like.reward)
        self.block = Batch.of((field.clone() for field in like.tensors), like.modelled)
        self.minibatches = list(_unstacked(self.block))
        self.noise = torch.empty(
            self.count, 2, like.reward.shape[1], like.action.shape[-1], device=like.reward.device
        )  # (K, 2, B, m)
        self.rates = torch.zeros(self.count, len(Rates._fields), device=like.reward.device)
        self.losses: PolicyLosses | None = None
        self.updates = Repeated(self._update, graphs=True)

    def run(self, block: Batch, generator: torch.Generator) -> PolicyLosses:
        for held, values in zip(self.block.tensors, block.tensors, strict=True):
            held.copy_(values)
        self.noise.normal_(generator=generator)
        first = self.learner.updates
        rates = [self.learner.rates(first + number) for number in range(self.count)]
        self.rates.copy_(torch.tensor(rates).pin_memory(), non_blocking=True)
        self.updates()
        self.learner.updates += self.count
        assert self.losses is not None
        return self.losses

    def _update(self) -> None:
        for number, minibatch in enumerate(self.minibatches):
            rates = Rates(*self.rates[number].unbind())
            self.losses = self.learner.step(minibatch, self.noise[number], rates)


def _unstacked(block: Batch) -> list[Batch]:
    return [Batch.of((field[k] for field in block.tensors), block.modelled) for k in range(len(block.reward))]
