"""MOREC from a data set to a policy: the loop.

Each stage draws from a generator of its own that follows from the seed, so that an interrupted run repeats at most the
stage (or the epochs since the last checkpoint) that was cut, and ends with the same numbers as an undisturbed one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from controlkit.artifacts import Models, RunFolder, build_critics, build_models
from controlkit.config import RunConfig
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError
from controlkit.morec.dynamics import (
    WorldModel,
    action_scaler,
    change_scaler,
    fit_dynamics,
    observation_scaler,
    set_scaler,
)
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import StartRows, roll_out, training_reward
from controlkit.morec.transition_filter import TransitionFilter, calibrate_threshold, recorded_scores
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.replay import Batch, LoggedTransitions, ModelTransitions

Metrics = list[dict[str, float]]


def train(folder: RunFolder, data: TransitionDataset, progress: Progress) -> Models:
    """Runs what is left to do in a run folder: dynamics, dynamics reward, policy.

    Args:
        folder: the run; a checkpoint in it is gone on with.
        data: the whole data set of the run.
        progress: stages, figures and warnings.

    Raises:
        TrainingError: a loss is no number; the last good checkpoint stays.
    """
    began, config = time.monotonic(), folder.config
    torch.set_num_threads(config.threads)
    parts = {name: folder.split.part(data, name) for name in ("training", "calibration")}
    log, held_out = (LoggedTransitions(part, config.device) for part in parts.values())
    parts["calibration"].save(folder.path / "calibration")
    limits = CommandLimits(folder.spec)

    checkpoint = folder.load_checkpoint() or {"stage": "start", "metrics": []}
    metrics: Metrics = checkpoint["metrics"]
    models = _to(build_models(config, folder.spec, _generator(config, "weights")), config.device)
    if checkpoint["stage"] == "policy":
        models = _restored(models, checkpoint["models"])
    else:
        models = _fit_world(models, log, held_out, folder, limits, progress, metrics)
        folder.save_checkpoint({"stage": "policy", "models": models.state_dict(), "metrics": metrics})
        checkpoint = {}

    world = WorldModel(models.dynamics, folder.spec, config.device)
    chooser = TransitionFilter(models.dynamics, models.reward, config.filter, float(models.threshold))
    spread = max(float(log.rewards[log.rows].std()), 1e-6)
    critics = _scaled_policy(models, build_critics(config, folder.spec, _generator(config, "critics")), config)
    learner = PolicyLearner(models.actor, critics, models.behaviour, limits, config.policy, spread)
    rollout = config.rollout
    ring = ModelTransitions(log.layout, rollout.keep * rollout.starts * rollout.length, config.device)
    generator = _generator(config, "policy")
    if "learner" in checkpoint:
        learner.load_state_dict(checkpoint["learner"])
        ring.load_state_dict(checkpoint["ring"])
        generator.set_state(checkpoint["generator"])

    residuals = models.residuals if rollout.residual_noise else None
    real = round(config.policy.real_ratio * config.policy.batch_size)
    epochs = -(-config.policy.updates // rollout.every)
    starts = StartRows(log, rollout)
    progress.start("policy", epochs)
    progress.advance(learner.updates // rollout.every)
    for _ in range(config.policy.warm_start if not learner.updates else 0):
        learner.warm_start(log.observe(log.sample(config.policy.batch_size, generator)))
    while learner.updates < config.policy.updates:
        rows = starts.draw(generator)
        explore = _exploring(models, generator)
        rolled = roll_out(
            world, chooser, explore, log, rows, rollout.length, generator, residuals, rollout.member_per_rollout
        )
        reward = training_reward(rolled, world, rollout, spread)
        ring.extend(rolled.observation, rolled.action, rolled.next_frame, reward, rolled.terminated)
        for _ in range(min(rollout.every, config.policy.updates - learner.updates)):
            logged = log.batch(log.sample(real, generator))
            imagined = ring.sample(config.policy.batch_size - real, generator) if ring.size else logged
            losses = learner.update(Batch(*map(torch.cat, zip(logged, imagined, strict=True))), generator)
        learner.require_finite(losses)
        metrics.append(_policy_row(learner.updates, losses, rolled, len(rows)))
        _warn_if_all_rejected(rolled, rows, chooser, progress)
        progress.advance(note=f"reward {metrics[-1]['model_reward']:.4g}")
        done = learner.updates // rollout.every
        if done % config.checkpoint_every == 0 or learner.updates >= config.policy.updates:
            folder.write_metrics(metrics)
            folder.save_checkpoint(
                {
                    "stage": "policy",
                    "models": models.state_dict(),
                    "metrics": metrics,
                    "learner": learner.state_dict(),
                    "ring": ring.state_dict(),
                    "generator": generator.get_state(),
                }
            )
    models = _to(replace(models, actor=learner.final_actor()), "cpu")
    folder.write_metrics(metrics)
    folder.save_models(models)
    folder.write_state("trained", seconds=round(time.monotonic() - began, 1))
    return models


def _fit_world(
    models: Models,
    log: LoggedTransitions,
    held_out: LoggedTransitions,
    folder: RunFolder,
    limits: CommandLimits,
    progress: Progress,
    metrics: Metrics,
) -> Models:
    """Stage 1: dynamics, cloned operator, dynamics reward, and the threshold on held-out trajectories."""
    config = folder.config
    generator = _generator(config, "dynamics")
    fit = fit_dynamics(models.dynamics, log, config.dynamics, config.scaling, limits, generator, progress)
    metrics.append({"dynamics_epochs": float(fit.epochs), "holdout_rmse": float(fit.holdout_rmse.mean())})

    observation, action = observation_scaler(log, config.scaling), action_scaler(log, limits, config.scaling)
    set_scaler(models.behaviour.input_scaler, observation)
    set_scaler(models.behaviour.action_scaler, action)
    set_scaler(models.reward.input_scaler, observation, action)
    set_scaler(models.reward.change_scaler, change_scaler(log))
    updates = config.reward.behaviour_updates
    fit_behaviour(models.behaviour, log, updates, _generator(config, "behaviour"), progress)
    stages = _generator(config, "reward")
    metrics += fit_dynamics_reward(models.reward, log, models.behaviour, folder.spec, config.reward, stages, progress)
    return replace(models, threshold=_threshold(models, held_out, config, progress), residuals=fit.residuals)


def _threshold(models: Models, held_out: LoggedTransitions, config: RunConfig, progress: Progress) -> torch.Tensor:
    """The threshold that the configuration asks for; what is off is said aloud."""
    wish = config.filter.threshold
    if not config.filter.enabled or wish == "off":
        progress.message(f"The {'filter' if not config.filter.enabled else 'threshold'} is off in this run.")
        return torch.tensor(-torch.inf)
    if wish == "auto":
        scores = recorded_scores(models.reward, held_out, held_out.rows)
        wish = calibrate_threshold(scores, held_out.rows, config.rollout.length, config.filter.survival)
    return torch.tensor(float(wish))


def _scaled_policy(models: Models, critics: Any, config: RunConfig) -> Any:
    """Actor and critics take their scaling from the cloned operator, which was fitted on the log, and the actor its
    belief from the best elite."""
    if models.actor.belief is not None:
        models.actor.belief.load_state_dict(models.dynamics.elites_only(1).state_dict())
    models.actor.input_scaler.load_state_dict(models.behaviour.input_scaler.state_dict())
    critics.input_scaler.load_state_dict(models.reward.input_scaler.state_dict())
    return critics.to(config.device)


def _exploring(models: Models, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda observation: models.actor.sample(observation, generator)[0]


def _policy_row(updates: int, losses: Any, rolled: Any, starts: int) -> dict[str, float]:
    return {
        "updates": float(updates),
        "critic_loss": float(losses.critic_loss),
        "actor_loss": float(losses.actor_loss),
        "alpha": float(losses.alpha),
        "entropy": float(losses.entropy),
        "mean_q": float(losses.mean_q),
        "model_reward": float(rolled.reward.mean()) if len(rolled.reward) else float("nan"),
        "model_steps": float(len(rolled.reward)),
        "rejected_share": rolled.rejected / starts,
        "disagreement": float(rolled.disagreement.mean()) if len(rolled.reward) else float("nan"),
    }


def _warn_if_all_rejected(rolled: Any, rows: torch.Tensor, chooser: TransitionFilter, progress: Progress) -> None:
    if len(rolled.reward) == 0:
        progress.message(
            f"Warning: the threshold {chooser.threshold:.3g} ended every rollout at its first step, so the policy "
            f"learns from the log alone. Lower filter.threshold or raise filter.survival."
        )


def _restored(models: Models, content: dict[str, Any]) -> Models:
    for name in ("dynamics", "reward", "behaviour", "actor"):
        getattr(models, name).load_state_dict(content[name])
    device = models.actor.centre.device
    return replace(models, threshold=content["threshold"], residuals=content["residuals"].to(device))


def _to(models: Models, device: str) -> Models:
    for name in ("dynamics", "reward", "behaviour", "actor"):
        getattr(models, name).to(device)
    return replace(models, residuals=models.residuals.to(device))


_STAGES = ("weights", "critics", "dynamics", "behaviour", "reward", "policy")


def _generator(config: RunConfig, stage: str) -> torch.Generator:
    """A generator of the stage's own. Networks are always initialised on the CPU, whatever trains them."""
    device = "cpu" if stage in ("weights", "critics") else config.device
    generator = torch.Generator(device)
    return generator.manual_seed(config.seed * len(_STAGES) + _STAGES.index(stage))


def require_resumable(folder: RunFolder) -> None:
    """Checks that there is something to go on with.

    Raises:
        ArtifactError: the run has come to its end.
    """
    if folder.trained:
        raise ArtifactError("is trained to its end", where=str(folder.path), cure="Start over with --overwrite.")
