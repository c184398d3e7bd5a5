"""What a study learns from a log, stage by stage and without a run folder, so that variants can share stages.

The stages, their functions and their random streams are those of a training run (`morec/learn_world.py`,
`morec/policy_training.py`); health checks, checkpoints and recorded rewards (all plants here have a formula) are left
out.
"""

from __future__ import annotations

from dataclasses import replace

from controlkit.artifacts import Models, build_dynamics, build_models, regressor_config
from controlkit.config import RunConfig
from controlkit.models.actor import Actor
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.dynamics import fit_dynamics
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.morec.learn_world import distilled, scale_to_log
from controlkit.morec.policy_training import PolicyTraining
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter, calibrate_threshold, recorded_scores
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
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
    models, _ = distilled(models, log, limits, config, Silent())
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
        models: the dynamics and the cloned operator are fitted and scaled to the log, and the residuals are there where
            rollouts add them; the actor is not touched: a new one is trained.
        chooser: predicts and chooses in rollouts.
        spec: the plant.
        log: recorded transitions.
        config: of rollouts and policy.

    Returns:
        The actor, and the share of the model rollouts that the threshold ended before their last step.

    Raises:
        TrainingError: a loss is no number.
    """
    actor = build_models(config, spec, stage_generator(config, "weights")).actor
    policy = PolicyTraining(replace(models, actor=actor), chooser, spec, log, config)
    policy.warm_start()
    ended = begun = 0
    while not policy.finished:
        rolled = policy.epoch().rolled
        if rolled is not None:
            ended, begun = ended + rolled.rejected, begun + config.rollout.starts
    return policy.final_actor(), ended / max(1, begun)
