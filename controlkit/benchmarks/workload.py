"""What the speed suite measures: policy updates and model rollouts of given sizes, on untrained networks.

Speed does not depend on what the weights are, so nothing is fitted; everything else is what training runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from controlkit.artifacts import build_critics, build_models
from controlkit.benchmarks.synthetic import synthetic_log, synthetic_spec
from controlkit.config import FilterConfig, RunConfig
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.exogenous import Record
from controlkit.morec.fixed_rollout import Roller, make_roller
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import training_reward
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.morec.update_blocks import UpdateBlocks, sensible_threads
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions, ModelTransitions


@dataclass(frozen=True)
class Sizes:
    """A task's: how many state tags, exogenous tags and commands."""

    states: int
    exogenous: int
    actions: int


class Workload:
    """Updates and rollouts of a configuration on a synthetic plant.

    Args:
        sizes: of the plant.
        config: as a run's; `reward` gives the dynamics reward that the filter asks.
        judges: members of the dynamics reward: snapshots, or 1 for the distilled one.
        seed: of everything.
    """

    def __init__(self, sizes: Sizes, config: RunConfig, judges: int, seed: int = 0) -> None:
        self.config, self.device = config, config.device
        self.spec = synthetic_spec(sizes.states, sizes.exogenous, sizes.actions)
        data = synthetic_log(self.spec, episodes=40, steps=max(500, 2 * config.rollout.length), seed=seed)
        self.log = LoggedTransitions(data, config.device)
        self.generator = torch.Generator(config.device).manual_seed(seed)
        weights = torch.Generator().manual_seed(seed)
        self.models = build_models(config, self.spec, weights)
        for network in (self.models.dynamics, self.models.actor, self.models.behaviour):
            network.to(config.device)
        critics = build_critics(config, self.spec, weights).to(config.device)
        layout = self.log.layout
        self.reward = DiscriminatorEnsemble(
            layout.size,
            len(layout.action_tags),
            layout.state_columns.tolist(),
            range(layout.size),
            members=judges,
            hidden=config.reward.hidden,
            act=config.reward.activation,
            generator=weights,
        ).to(config.device)
        self.world = WorldModel(self.models.dynamics, self.spec, config.device)
        limits = CommandLimits(self.spec)
        policy = config.policy
        self.learner = PolicyLearner(self.models.actor, critics, self.models.behaviour, limits, policy, 1.0)
        rollout = config.rollout
        self.ring = ModelTransitions(layout, rollout.keep * rollout.starts * rollout.length, config.device)
        real = round(policy.real_ratio * policy.batch_size)
        self.blocks = UpdateBlocks(
            self.learner,
            self.log,
            self.ring,
            real,
            policy.batch_size,
            self.generator,
            graphs=config.cuda_graphs,
            threads=sensible_threads(policy, torch.get_num_threads()),
        )
        # Rollouts that no end of the record cuts short.
        self.starts = self.log.rows[self.log.remaining[self.log.rows] > rollout.length]

    def fill(self, count: int) -> None:
        """Puts `count` recorded transitions into the ring, as if a model had made them."""
        rows = self.log.sample(min(count, self.ring.capacity), self.generator)
        frames, rewards = self.log.frames[rows + 1], self.log.rewards[rows]
        ended = torch.zeros_like(rewards, dtype=torch.bool)
        self.ring.extend(self.log.observe(rows), self.log.actions[rows], frames, rewards, ended)

    def roller(self, filtering: FilterConfig) -> Roller:
        """Rolls out as training does, with this filter."""
        elites = self.models.dynamics.elites_only()
        chooser = TransitionFilter(elites, self.reward, filtering, float("-inf"))
        actor, generator = self.models.actor, self.generator
        return make_roller(
            self.world,
            chooser,
            lambda observation: actor.sample(observation, generator)[0],
            self.log,
            self.config.rollout,
            generator,
            None,
            Record(self.log),
            None,
            graphs=self.config.cuda_graphs,
        )

    def roll(self, roller: Roller) -> int:
        """One batch of rollouts into the ring; returns how many transitions it gave."""
        count = self.config.rollout.starts
        drawn = torch.randint(len(self.starts), (count,), generator=self.generator, device=self.starts.device)
        rolled = roller(self.starts[drawn])
        reward = training_reward(rolled, self.world, self.config.rollout, 1.0)
        self.ring.extend(rolled.observation, rolled.action, rolled.next_frame, reward, rolled.terminated)
        return len(rolled.reward)

    def transitions_per_s(self, roller: Roller) -> float:
        """Of one batch of rollouts."""
        counted: list[int] = []
        spent = self.timed(lambda: counted.append(self.roll(roller)))
        return counted[0] / spent

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds that some work takes, to its very end on the device."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
