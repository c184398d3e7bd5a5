"""Gradient steps per second of this package's policy stages, model rollouts included, on networks of a run's sizes.

Speed does not depend on what the weights are, so nothing is fitted: the plant is synthetic, of DMSD's dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from controlkit.artifacts import build_critics
from controlkit.baselines.bc import BCLearner
from controlkit.baselines.log_learner import LogLearner
from controlkit.baselines.settings import as_overrides
from controlkit.baselines.td3_bc import TD3BCLearner
from controlkit.benchmarks.workload import Sizes, Workload
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.morec.update_blocks import UpdateBlocks
from controlkit.objective import CommandLimits
from controlkit.studies.cost_runs import OURS, TASK

DMSD = Sizes(states=4, exogenous=2, actions=2)
# Gradient steps of the peers in a block: some seconds.
BLOCKS = {"d3rlpy TD3+BC": 200, "d3rlpy CQL": 40}
LOG_BLOCK = 400


class OurUpdates:
    """The policy stage of one of our contenders.

    Args:
        method: a contender of ours.
        settings: overrides of DMSD's run configuration.
    """

    def __init__(self, method: str, settings: Sequence[str] = ()) -> None:
        name, _ = OURS[method]
        self.config = RunConfig.load(config_path("runs", TASK), [*as_overrides(name), *settings, "threads=1"])
        self.work = Workload(DMSD, self.config, 1)
        self.blocks = self.work.blocks
        policy = self.config.policy
        self.imagines = policy.algorithm == "sac"
        if self.imagines:
            self.work.fill(self.work.ring.capacity)
            self.roller = self.work.roller(self.config.filter)
        else:
            size = policy.batch_size
            self.blocks = UpdateBlocks(
                _learner(self.work), self.work.log, self.work.ring, size, size, self.work.generator
            )

    def steps_per_s(self) -> float:
        """Of one epoch: a batch of rollouts and the gradient steps that follow it; of gradient steps alone where there
        are no rollouts. One thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            count = self.config.rollout.every if self.imagines else LOG_BLOCK
            return count / self.work.timed(lambda: self._epoch(count))
        finally:
            torch.set_num_threads(before)

    def _epoch(self, count: int) -> None:
        if self.imagines:
            self.work.roll(self.roller)
        self.blocks.run(count)


def _learner(work: Workload) -> LogLearner:
    models, policy = work.models, work.config.policy
    if policy.algorithm == "bc":
        return BCLearner(models.actor, policy)
    critics: Any = build_critics(work.config, work.spec, torch.Generator().manual_seed(0))
    return TD3BCLearner(models.actor, critics, CommandLimits(work.spec), policy, 1.0)
