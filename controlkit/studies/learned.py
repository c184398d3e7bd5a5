"""What a study learns from a log, stage by stage and without a run folder, so that variants can share stages.

The stages, their functions and their random streams are those of a training run (`morec/learn_world.py`,
`morec/train.py`); health checks, checkpoints and constraints are left out.
"""

from __future__ import annotations

from dataclasses import replace

from controlkit.artifacts import Models, build_critics, build_dynamics, build_models, regressor_config
from controlkit.config import RunConfig
from controlkit.models.actor import Actor
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.bellman_doubt import BellmanDoubt
from controlkit.morec.distil import distil
from controlkit.morec.dynamics import (
    WorldModel,
    action_scaler,
    fit_dynamics,
    observation_scaler,
    set_scaler,
)
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.morec.exogenous import sequence
from controlkit.morec.fixed_rollout import make_roller
from controlkit.morec.learn_world import scale_to_log
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import StartRows, training_reward
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter, calibrate_threshold, recorded_scores
from controlkit.morec.update_blocks import UpdateBlocks
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions, ModelTransitions
from controlkit.spec import PlantSpec


def learn_models(spec: PlantSpec, log: LoggedTransitions, config: RunConfig) -> Models:
    """Dynamics, cloned operator and dynamics reward (distilled where the configuration says so) of a log.

    Raises:
        TrainingError: a loss is no number.
    """
    models, limits = build_models(config, spec, stage_generator(config, "weights")), CommandLimits(spec)
    generator = stage_generator(config, "dynamics")
    fit = fit_dynamics(models.dynamics, log, config.dynamics, config.scaling, limits, generator, Silent())
    scale_to_log(models, log, config, limits)
    settings, generator = config.reward, stage_generator(config, "behaviour")
    fit_behaviour(models.behaviour, log, settings.behaviour_updates, generator, Silent())
    generator = stage_generator(config, "reward")
    fit_dynamics_reward(models.reward, log, models.behaviour, spec, settings, generator, Silent())
    if models.distilled is not None:
        generator = stage_generator(config, "distilled reward")
        distil(models.distilled, models.reward, log, limits, settings.distil_updates, generator, Silent())
    return replace(models, residuals=fit.residuals, regressor=None)


def fit_regressor(spec: PlantSpec, log: LoggedTransitions, config: RunConfig) -> GaussianEnsemble:
    """The network of another activation that `filter.choose: regressor` picks by.

    Raises:
        TrainingError: a loss is no number.
    """
    settings, generator = regressor_config(config.dynamics), stage_generator(config, "regressor")
    regressor = build_dynamics(settings, spec, generator)
    fit_dynamics(regressor, log, settings, config.scaling, CommandLimits(spec), generator, Silent())
    return regressor


def threshold_of(models: Models, held_out: LoggedTransitions, config: RunConfig) -> float:
    """The threshold that a configuration asks for, calibrated on held-out trajectories where it says `auto`."""
    wish = config.filter.threshold
    if not config.filter.enabled or wish == "off":
        return float("-inf")
    if wish == "auto":
        scores = recorded_scores(models.judge, held_out, held_out.rows)
        return calibrate_threshold(scores, held_out.rows, config.rollout.length, config.filter.survival)
    return wish


def train_policy(
    models: Models, chooser: TransitionFilter, spec: PlantSpec, log: LoggedTransitions, config: RunConfig
) -> tuple[Actor, float]:
    """Soft actor-critic on logged and model transitions, as in a training run.

    Args:
        models: the dynamics and the cloned operator are fitted, and the residuals where rollouts add them; the actor is
            not touched: a new one is trained.
        chooser: predicts and chooses in rollouts.
        spec: the plant.
        log: recorded transitions.
        config: of rollouts and policy.

    Returns:
        The actor, and the share of the model rollouts that the threshold ended before their last step.

    Raises:
        TrainingError: a loss is no number.
    """
    rollout, generator = config.rollout, stage_generator(config, "policy")
    world, limits = WorldModel(models.dynamics, spec, learned=models.reward_model), CommandLimits(spec)
    actor = build_models(config, spec, stage_generator(config, "weights")).actor
    critics = build_critics(config, spec, stage_generator(config, "critics"))
    observation, action = observation_scaler(log, config.scaling), action_scaler(log, limits, config.scaling)
    set_scaler(actor.input_scaler, observation)
    set_scaler(critics.input_scaler, observation, action)
    if actor.belief is not None:
        actor.belief.load_state_dict(models.dynamics.elites_only(1).state_dict())
    spread = max(float(log.rewards[log.rows].std()), 1e-6)
    doubt = BellmanDoubt(world, rollout.penalty_coefficient) if rollout.penalty == "mobile" else None
    centred = config.policy.centre_rewards and not spec.episodes.terminated
    centre = float(log.rewards[log.rows].mean()) if centred else 0.0
    learner = PolicyLearner(actor, critics, models.behaviour, limits, config.policy, spread, doubt, centre)
    ring = ModelTransitions(log.layout, rollout.keep * rollout.starts * rollout.length)
    batch = config.policy.batch_size
    blocks = UpdateBlocks(learner, log, ring, round(config.policy.real_ratio * batch), batch, generator)
    starts = StartRows(log, rollout)
    roll = make_roller(
        world,
        chooser,
        lambda observation: actor.sample(observation, generator)[0],
        log,
        rollout,
        generator,
        models.residuals if rollout.residual_noise else None,
        sequence(log, spec, config.dynamics, generator),
        graphs=False,
    )
    for _ in range(config.policy.warm_start):
        learner.warm_start(log.observe(log.sample(batch, generator)))
    ended = begun = 0
    while learner.updates < config.policy.updates:
        rolled = roll(starts.draw(generator))
        ended, begun = ended + rolled.rejected, begun + rollout.starts
        reward = training_reward(rolled, world, rollout, spread)
        ring.extend(rolled.observation, rolled.action, rolled.next_frame, reward, rolled.terminated)
        losses = blocks.run(min(rollout.every, config.policy.updates - learner.updates))
        learner.require_finite(losses)
    return learner.final_actor(), ended / max(1, begun)
