"""The policy stage of training without a run folder: what a study trains many of, and keeps none.

The same learner, rollouts and minibatches as `morec/train.py`; no checkpoints, no constraints.
"""

from __future__ import annotations

from controlkit.artifacts import Models, build_critics
from controlkit.config import RunConfig
from controlkit.models.actor import Actor
from controlkit.morec.dynamics import WorldModel, action_scaler, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_behaviour
from controlkit.morec.exogenous import Record
from controlkit.morec.fixed_rollout import make_roller
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import StartRows, training_reward
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.morec.update_blocks import UpdateBlocks
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions, ModelTransitions
from controlkit.spec import PlantSpec


def train_small_policy(models: Models, log: LoggedTransitions, spec: PlantSpec, config: RunConfig) -> Actor:
    """Soft actor-critic in a fitted world model.

    Args:
        models: the dynamics is fitted; so are the dynamics reward and its threshold, where the filter is on, and the
            residuals, where rollouts add them. The cloned operator is fitted here, and the actor trained in place.
        log: recorded transitions.
        spec: the plant.
        config: of the run; its threads are not set here.

    Returns:
        The actor to keep.

    Raises:
        TrainingError: a loss is no number.
    """
    limits, policy, rollout = CommandLimits(spec), config.policy, config.rollout
    observation, action = observation_scaler(log, config.scaling), action_scaler(log, limits, config.scaling)
    set_scaler(models.behaviour.input_scaler, observation)
    set_scaler(models.behaviour.action_scaler, action)
    updates = config.reward.behaviour_updates
    fit_behaviour(models.behaviour, log, updates, stage_generator(config, "behaviour"), Silent())
    critics = build_critics(config, spec, stage_generator(config, "critics"))
    set_scaler(critics.input_scaler, observation, action)
    set_scaler(models.actor.input_scaler, observation)
    if models.actor.belief is not None:
        models.actor.belief.load_state_dict(models.dynamics.elites_only(1).state_dict())
    spread = max(float(log.rewards[log.rows].std()), 1e-6)
    centred = policy.centre_rewards and not spec.episodes.terminated
    centre = float(log.rewards[log.rows].mean()) if centred else 0.0
    learner = PolicyLearner(models.actor, critics, models.behaviour, limits, policy, spread, None, centre)
    world = WorldModel(models.dynamics, spec, learned=models.reward_model)
    threshold = float(models.threshold)
    chooser = TransitionFilter(models.dynamics.lean(), models.judge, config.filter, threshold, models.regressor)
    ring = ModelTransitions(log.layout, rollout.keep * rollout.starts * rollout.length)
    generator = stage_generator(config, "policy")
    roll = make_roller(
        world,
        chooser,
        lambda seen: models.actor.sample(seen, generator)[0],
        log,
        rollout,
        generator,
        models.residuals if rollout.residual_noise else None,
        Record(log),
        graphs=False,
    )
    starts = StartRows(log, rollout)
    blocks = UpdateBlocks(
        learner, log, ring, round(policy.real_ratio * policy.batch_size), policy.batch_size, generator
    )
    for _ in range(policy.warm_start):
        learner.warm_start(log.observe(log.sample(policy.batch_size, generator)))
    while learner.updates < policy.updates:
        rolled = roll(starts.draw(generator))
        reward = training_reward(rolled, world, rollout, spread)
        ring.extend(rolled.observation, rolled.action, rolled.next_frame, reward, rolled.terminated)
        learner.require_finite(blocks.run(min(rollout.every, policy.updates - learner.updates)))
    return learner.final_actor()
