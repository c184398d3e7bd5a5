"""The policy's training: model rollouts and gradient steps in turn, for a run and for a study alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlkit.artifacts import Models, build_critics
from controlkit.baselines.bc import BCLearner
from controlkit.baselines.log_learner import LogLearner
from controlkit.baselines.td3_bc import TD3BCLearner
from controlkit.config import PolicyConfig, RunConfig
from controlkit.models.actor import Actor
from controlkit.models.critic import Critics
from controlkit.morec.bellman_doubt import BellmanDoubt
from controlkit.morec.constraints import AT_A_TIME, Constraints
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.exogenous import sequence
from controlkit.morec.fixed_rollout import make_roller
from controlkit.morec.logged_returns import logged_returns
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import Rollouts, StartRows, training_reward
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.morec.update_blocks import UpdateBlocks, sensible_threads
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions, ModelTransitions
from controlkit.spec import PlantSpec

Learner = PolicyLearner | LogLearner
# Those that have critics.
WithValues = PolicyLearner | TD3BCLearner


class Epoch(NamedTuple):
    """What one epoch gave: the rollouts are `None` for algorithms that learn from the log alone."""

    losses: Any  # a named tuple of tensors
    rolled: Rollouts | None


class PolicyTraining:
    """Trains the actor of `models`, which takes its scaling from the cloned operator, in place.

    Args:
        models: the world and the cloned operator are fitted, and scaled to the log.
        chooser: predicts and chooses in rollouts.
        spec: the plant.
        log: recorded transitions.
        config: of rollouts and policy.

    Attributes:
        constraints: multipliers of the plant's constraints.
        epochs: how many there are in all.
    """

    def __init__(
        self, models: Models, chooser: TransitionFilter, spec: PlantSpec, log: LoggedTransitions, config: RunConfig
    ) -> None:
        self._log, self._rollout, self._policy = log, config.rollout, config.policy
        self.epochs = -(-config.policy.updates // config.rollout.every)
        self._imagines = config.policy.algorithm == "sac"  # the others learn from the log alone
        rollout, batch = config.rollout, config.policy.batch_size
        self._world = WorldModel(models.dynamics, spec, config.device, models.reward_model)
        self._spread = max(float(log.rewards[log.rows].std()), 1e-6)
        self._behaviour = models.behaviour
        _prepare_actor(models, log, config)
        critics = _scaled_critics(models, spec, config)
        self._learner = _learner(models, critics, log, config, self._spread, self._world)
        self.constraints = Constraints(self._world.objective, rollout, log, self._spread)
        capacity = rollout.keep * rollout.starts * rollout.length if self._imagines else 0
        self._ring = ModelTransitions(log.layout, capacity, config.device, len(self.constraints.names))
        self._generator = generator = stage_generator(config, "policy")
        exogenous = sequence(log, spec, config.dynamics, generator)
        self._starts = StartRows(log, rollout)
        self._roll = make_roller(
            self._world,
            chooser,
            lambda observation: models.actor.sample(observation, generator)[0],
            log,
            rollout,
            generator,
            models.residuals if rollout.residual_noise else None,
            exogenous,
            self.ruin(),
            graphs=config.cuda_graphs,
        )
        self._blocks = UpdateBlocks(
            self._learner,
            log,
            self._ring,
            round(config.policy.real_ratio * batch),
            batch,
            generator,
            graphs=config.cuda_graphs,
            threads=sensible_threads(config.policy, torch.get_num_threads()),
        )

    @property
    def learner(self) -> Learner:
        """What is trained."""
        return self._learner

    @property
    def updates(self) -> int:
        """Gradient steps so far."""
        return self._learner.updates

    @property
    def finished(self) -> bool:
        """Whether all gradient steps are done."""
        return self.updates >= self._policy.updates

    def warm_start(self) -> None:
        """Brings the actor near the operator, the one that it is anchored to, and the critics to what the log's steps
        were worth; nothing where training has begun."""
        for _ in range(self._policy.warm_start if not self.updates else 0):
            rows = self._log.sample(self._policy.batch_size, self._generator)
            observation = self._log.observe(rows)
            if self._policy.anchor_to == "log":
                command = self._log.actions[rows]
            else:
                with torch.no_grad():
                    command = self._behaviour(observation)
            self._learner.warm_start(observation, command)
        worth = self._start_values()  # the scale is no weight: a resumed run needs it, too
        if worth is None or self.updates:
            return
        assert isinstance(self._learner, WithValues)
        for _ in range(self._policy.critic_returns):
            rows = self._log.sample(self._policy.batch_size, self._generator)
            self._learner.fit_values(self._log.observe(rows), self._log.actions[rows], worth[rows])

    def epoch(self) -> Epoch:
        """Rollouts, then `rollout.every` gradient steps, or as many as are left.

        Raises:
            TrainingError: a loss is no number; says at which update.
        """
        rolled: Rollouts | None = None
        if self._imagines:
            rolled = self._roll(self._starts.draw(self._generator))
            reward = training_reward(rolled, self._world, self._rollout, self._spread)
            # A rejected prediction is no state that the plant was in.
            violations = self.constraints.violations(rolled.next_frame) * rolled.accepted.unsqueeze(1)
            self._ring.extend(
                rolled.observation, rolled.action, rolled.next_frame, reward, rolled.terminated, violations
            )
            self.constraints.update(violations, self._ring)
        losses = self._blocks.run(min(self._rollout.every, self._policy.updates - self.updates))
        self._learner.require_finite(losses)
        return Epoch(losses, rolled)

    def ruin(self) -> float | None:
        """The reward of a rejected transition, an end: what the plant would earn ever after; `None` where those are
        discarded."""
        worth, rewards = self._rollout.rejected, self._log.rewards[self._log.rows]
        if worth == "bootstrap":
            return None
        centre = self._reward_centre
        if self._rollout.rejected_unit == "return":
            known = logged_returns(self._log, self._policy.gamma, self._spread, centre)[self._log.rows]
            return centre + self._spread * float(known.mean() - worth * known.std())
        per_step = float(rewards.mean()) - worth * self._spread - centre
        return centre + per_step / (1.0 - self._policy.gamma)

    @property
    def largest_value(self) -> float:
        """What the log's largest reward, in absolute value, is worth for ever, as the critics count it."""
        rewards = self._log.rewards[self._log.rows]
        centre = self._reward_centre
        return float((rewards - centre).abs().max()) / self._spread / (1.0 - self._policy.gamma)

    @property
    def _reward_centre(self) -> float:
        return self._learner.reward_centre if isinstance(self._learner, PolicyLearner) else 0.0

    def _start_values(self) -> Tensor | None:
        """What the log's steps were worth (N,), where the critics begin there; scales what they say by it."""
        if not self._policy.critic_returns or not isinstance(self._learner, WithValues):
            return None
        found = logged_returns(self._log, self._policy.gamma, self._spread, self._reward_centre)
        known = found[self._log.rows]
        for critics in (self._learner.critics, self._learner.targets):
            # A log whose steps are all worth the same leaves the unit as it is.
            critics.scale_values(float(known.mean()), float(known.std()) or 1.0)
        return found

    def final_actor(self) -> Actor:
        """The actor to keep."""
        return self._learner.final_actor()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the models."""
        parts = {name: getattr(self, f"_{name}").state_dict() for name in ("learner", "ring")}
        return parts | {"constraints": self.constraints.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Reads what `state_dict` wrote."""
        self._learner.load_state_dict(content["learner"])
        self._ring.load_state_dict(content["ring"])
        self.constraints.load_state_dict(content["constraints"])
        self._generator.set_state(content["generator"])


def _prepare_actor(models: Models, log: LoggedTransitions, config: RunConfig) -> None:
    """Gives the actor the cloned operator's scaling, which was fitted on the log, the best elite's belief, and its
    range."""
    if config.policy.commands == "logged":
        parts = [log.actions[rows].aminmax(dim=0) for rows in log.rows.split(AT_A_TIME)]
        low, high = (torch.stack(ends).to(log.actions.device) for ends in zip(*parts, strict=True))
        models.actor.confine(low.amin(dim=0), high.amax(dim=0))
    if models.actor.belief is not None:
        models.actor.belief.load_state_dict(models.dynamics.elites_only(1).state_dict())
    models.actor.input_scaler.load_state_dict(models.behaviour.input_scaler.state_dict())


def _scaled_critics(models: Models, spec: PlantSpec, config: RunConfig) -> Critics:
    """Fresh critics with the scaling of the dynamics reward, which was fitted on the log."""
    critics = build_critics(config, spec, stage_generator(config, "critics"))
    critics.input_scaler.load_state_dict(models.reward.input_scaler.state_dict())
    return critics.to(config.device)


def _learner(
    models: Models, critics: Critics, log: LoggedTransitions, config: RunConfig, spread: float, world: WorldModel
) -> Learner:
    """What the configuration trains the policy with."""
    policy, limits = config.policy, CommandLimits(world.objective.spec)
    if policy.algorithm == "bc":
        return BCLearner(models.actor, policy)
    if policy.algorithm == "td3_bc":
        return TD3BCLearner(models.actor, critics, limits, policy, spread)
    mobile = config.rollout.penalty == "mobile"
    doubt = BellmanDoubt(world, config.rollout.penalty_coefficient) if mobile else None
    centred = policy.centre_rewards and not world.objective.spec.episodes.terminated
    rewards = log.rewards[log.rows]
    centre = float(rewards.mean()) if centred else 0.0
    unit = _anchor_unit(log, policy, spread, centre)
    return PolicyLearner(models.actor, critics, models.behaviour, limits, policy, spread, doubt, centre, unit)


def _anchor_unit(log: LoggedTransitions, policy: PolicyConfig, spread: float, centre: float) -> float:
    """What the behaviour anchor's weight counts, in scaled rewards."""
    if policy.anchor_unit == "value":
        return float((log.rewards[log.rows] - centre).abs().mean()) / spread / (1.0 - policy.gamma)
    if policy.anchor_unit == "return":
        return float(logged_returns(log, policy.gamma, spread, centre)[log.rows].std())
    return 1.0
