"""Model rollouts at a fixed size, for devices that must not wait for the host.

A rollout that has ended stays in the batch, frozen, until the last step: shapes never change, nothing is read back
inside the loop, and one CUDA graph holds a step. What was accepted is gathered once, at the end. On a processor, where
looking costs nothing, `roll_out` drops ended rollouts instead; both give the same transitions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from controlkit.config import RolloutConfig
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.exogenous import Record
from controlkit.morec.graphs import Repeated
from controlkit.morec.rollout import Policy, Rollouts, Step, draw_members, roll_out, take_step
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.replay import LoggedTransitions

Roller = Callable[[Tensor], Rollouts]


def make_roller(
    world: WorldModel,
    transition_filter: TransitionFilter,
    policy: Policy,
    log: LoggedTransitions,
    config: RolloutConfig,
    generator: torch.Generator,
    residuals: Tensor | None,
    exogenous: Record,
    ruin: float | None,
    *,
    graphs: bool,
) -> Roller:
    """What rolls a policy out from rows of the log, as suits the device: (B,) rows -> transitions.

    For the arguments see `roll_out`; `graphs` turns CUDA graphs on where there is a CUDA device.
    """
    shared = (world, transition_filter, policy, log, config, generator, residuals, exogenous, ruin)
    return FixedRollout(*shared, graphs=graphs) if log.rows.is_cuda else partial(_on_processor, *shared)


def _on_processor(
    world: WorldModel,
    transition_filter: TransitionFilter,
    policy: Policy,
    log: LoggedTransitions,
    config: RolloutConfig,
    generator: torch.Generator,
    residuals: Tensor | None,
    exogenous: Record,
    ruin: float | None,
    rows: Tensor,
) -> Rollouts:
    return roll_out(
        world,
        transition_filter,
        policy,
        log,
        rows,
        config.length,
        generator,
        residuals,
        config.member_per_rollout,
        exogenous,
        ruin,
    )


class FixedRollout:
    """As `roll_out`, for `config.starts` rollouts at a time.

    The policy must be one whose weights stay in the same tensors, and draw from `generator` alone.
    """

    def __init__(
        self,
        world: WorldModel,
        transition_filter: TransitionFilter,
        policy: Policy,
        log: LoggedTransitions,
        config: RolloutConfig,
        generator: torch.Generator,
        residuals: Tensor | None = None,
        exogenous: Record | None = None,
        ruin: float | None = None,
        *,
        graphs: bool = False,
    ) -> None:
        self.world, self.filter, self.policy, self.log, self.config = world, transition_filter, policy, log, config
        self.generator, self.residuals, self.exogenous = generator, residuals, exogenous or Record(log)
        self.ruin = ruin
        layout, device, size = log.layout, log.rows.device, config.starts
        self.rows = torch.zeros(size, dtype=torch.int64, device=device)
        self.observation = torch.zeros(size, layout.size, device=device)
        self.alive = torch.zeros(size, dtype=torch.bool, device=device)
        self.member = torch.zeros(size, dtype=torch.int64, device=device) if config.member_per_rollout else None
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # rejected, ran out
        self.kept = torch.zeros(config.length, size, dtype=torch.bool, device=device)
        self.records: list[Tensor] = []  # (length, B, ...) each: the observation, then what a step records
        self._advance = Repeated(self._step, graphs and log.rows.is_cuda, (generator,))

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Rollouts:
        """Rolls out from `rows` (B,), B being `config.starts`."""
        self.rows.copy_(rows)
        self.observation.copy_(self.log.observe(rows))
        self.alive.fill_(True)
        self.number.zero_()
        self.counts.zero_()
        if self.member is not None:
            self.member.copy_(draw_members(self.filter, len(rows), self.generator))
        for _ in range(self.config.length):
            self._advance()
        number, start = self.kept.nonzero(as_tuple=True)  # the one place that waits for the device
        observation, *rest = (record[number, start] for record in self.records)
        rejected, ran_out = self.counts.tolist()
        return Rollouts._make([start, number, observation, *rest, rejected, ran_out])

    @torch.no_grad()
    def _step(self) -> None:
        step = take_step(
            self.world,
            self.filter,
            self.policy,
            self.exogenous,
            self.observation,
            self.rows,
            self.generator,
            residuals=self.residuals,
            member=self.member,
            ruin=self.ruin,
        )
        kept = self.alive & step.kept
        going = self.alive & step.accepted & ~step.terminated
        self._record(self.observation, kept, step)
        ended = torch.stack([self.alive & ~step.accepted, going & ~step.lasting])
        self.counts += ended.sum(dim=1)
        self.alive.copy_(going & step.lasting)
        # What has ended stays where it is: its numbers are thrown away, but must not run off.
        self.observation.copy_(torch.where(self.alive.unsqueeze(1), step.following, self.observation))
        self.rows.copy_(torch.where(self.alive, step.onward, self.rows))
        self.number += 1

    def _record(self, observation: Tensor, kept: Tensor, step: Step) -> None:
        values = (observation, *step.recorded())
        if not self.records:
            self.records = [value.new_zeros(self.config.length, *value.shape) for value in values]
        for record, value in zip((self.kept, *self.records), (kept, *values), strict=True):
            record.index_copy_(0, self.number, value.unsqueeze(0))
