"""MOREC from a data set to a policy: the loop.

Each stage draws from a generator of its own that follows from the seed, so that an interrupted run repeats at most the
stage (or the epochs since the last checkpoint) that was cut, and ends with the same numbers as an undisturbed one.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch

from controlkit.artifacts import Models, RunFolder, build_models
from controlkit.config import RunConfig
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError
from controlkit.morec.checkpoints import save_checkpoint
from controlkit.morec.constraints import Constraints
from controlkit.morec.learn_world import learn_world
from controlkit.morec.log_support import LogSupport
from controlkit.morec.policy_training import PolicyTraining
from controlkit.morec.rollout import Rollouts
from controlkit.morec.shared_world import take_over
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

Metrics = list[dict[str, float]]

# Mean values beyond this many times the largest that the log's rewards allow are no values.
IMPLAUSIBLE = 2.0


def train(folder: RunFolder, data: TransitionDataset, progress: Progress, world: RunFolder | None = None) -> Models:
    """Runs what is left to do in a run folder: dynamics, dynamics reward, policy.

    Args:
        folder: the run; a checkpoint in it is gone on with.
        data: the whole data set of the run.
        progress: stages, figures and warnings.
        world: a trained run whose dynamics and dynamics reward are taken over; they are learned where it is `None`.

    Raises:
        TrainingError: a loss is no number; the last good checkpoint stays.
        ArtifactError, ConfigError: the run that the world is to come from does not fit this one.
    """
    began, config = time.monotonic(), folder.config
    torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    parts = {name: folder.split.part(data, name) for name in ("training", "calibration")}
    log, held_out = (LoggedTransitions(part, config.device) for part in parts.values())
    parts["calibration"].save(folder.path / "calibration")

    checkpoint = folder.load_checkpoint() or {"stage": "start", "metrics": []}
    metrics: Metrics = checkpoint["metrics"]
    models = _to(build_models(config, folder.spec, stage_generator(config, "weights")), config.device)
    if checkpoint["stage"] == "policy":
        models = models.restored(checkpoint["models"])
    else:
        if world is not None:
            models = take_over(models, world, folder, held_out, progress, metrics)
        else:
            models = learn_world(models, log, held_out, folder, progress, metrics)
        stage_1 = {"stage": "policy", "models": models.state_dict(), "metrics": metrics}
        save_checkpoint(folder, stage_1, "stage 1")
        # What the world cost, wherever it was learned.
        cost = world.state.get("world_seconds") if world is not None else round(time.monotonic() - began, 1)
        folder.write_state("training", world_seconds=cost)
        checkpoint = {}

    policy_began = time.monotonic()
    elites = models.dynamics.lean()  # in rollouts nothing is computed in vain
    support = _support(log, held_out, folder, progress)
    chooser = TransitionFilter(elites, models.judge, config.filter, float(models.threshold), models.regressor, support)
    policy = PolicyTraining(models, chooser, folder.spec, log, config)
    _say_what_is_off(config, policy.constraints, chooser, progress)
    if "learner" in checkpoint:
        policy.load_state_dict(checkpoint)
    progress.start("policy", policy.epochs)
    progress.advance(policy.updates // config.rollout.every)
    policy.warm_start()
    warned, diverged, largest = False, False, policy.largest_value
    while not policy.finished:
        losses, rolled = policy.epoch()
        warned = warned or _warn_if_all_rejected(rolled, chooser, progress)
        diverged = diverged or _warn_if_diverged(losses, policy.updates, largest, progress)
        metrics.append(
            _policy_row(policy.updates, losses, rolled, config.rollout.starts) | policy.constraints.figures()
        )
        progress.advance(note=_note(metrics[-1]))
        if policy.updates // config.rollout.every % config.checkpoint_every == 0 or policy.finished:
            content = {"stage": "policy", "models": models.state_dict(), "metrics": metrics} | policy.state_dict()
            save_checkpoint(folder, content, f"policy, update {policy.updates}")
            folder.write_metrics(metrics)
    models = _to(replace(models, actor=policy.final_actor()), "cpu")
    folder.write_metrics(metrics)
    folder.save_models(models)
    done = time.monotonic()
    seconds = {"policy_seconds": round(done - policy_began, 1), "seconds": round(done - began, 1)}
    folder.write_state("trained", **{"world_seconds": folder.state.get("world_seconds")} | seconds)
    return models


def _support(
    log: LoggedTransitions, held_out: LoggedTransitions, folder: RunFolder, progress: Progress
) -> LogSupport | None:
    config = folder.config
    if not (config.filter.enabled and config.filter.support):
        return None
    found = LogSupport(log, held_out, config.scaling, CommandLimits(folder.spec))
    progress.message(f"Rollouts end beyond a distance of {found.cut:.3g} spreads from the log (filter.support).")
    return found


def _say_what_is_off(
    config: RunConfig, constraints: Constraints, chooser: TransitionFilter, progress: Progress
) -> None:
    algorithm = config.policy.algorithm
    if config.filter.support and not config.filter.enabled:
        progress.message("The filter is off in this run, and filter.support with it.")
    if config.rollout.rejected != "bootstrap" and chooser.support is None and chooser.threshold == -math.inf:
        progress.message(
            "Neither a threshold nor filter.support rejects anything, so rollout.rejected is off in this run."
        )
    if config.policy.centre_rewards and constraints.objective.spec.episodes.terminated:
        progress.message("The plant's episodes have true ends, so policy.centre_rewards is off in this run.")
    if algorithm != "sac":
        progress.message(f"{algorithm} learns from the log alone: the world model serves evaluation and safety only.")
    if config.rollout.constraints == "lagrangian" and not constraints.names:
        progress.message("The plant has no constraints, so rollout.constraints: lagrangian is off in this run.")


def _policy_row(updates: int, losses: Any, rolled: Rollouts | None, starts: int) -> dict[str, float]:
    row = {"updates": float(updates)} | {name: float(value) for name, value in losses._asdict().items()}
    if rolled is None:
        return row
    return row | {
        # NaN where the threshold ended every rollout at once
        "model_reward": float(rolled.reward[rolled.accepted].mean()),
        "model_steps": float(rolled.accepted.sum()),
        "rejected_share": rolled.rejected / starts,
        "disagreement": float(rolled.disagreement.mean()),
    }


def _note(row: dict[str, float]) -> str:
    name = "model_reward" if "model_reward" in row else "actor_loss"
    return f"{name.replace('_', ' ')} {row[name]:.4g}"


def _warn_if_all_rejected(rolled: Rollouts | None, chooser: TransitionFilter, progress: Progress) -> bool:
    """Warns where no transition was accepted, and says whether it did."""
    if rolled is None or bool(rolled.accepted.any()):
        return False
    progress.message(
        f"Warning: the threshold {chooser.threshold:.3g}{'' if chooser.support is None else ' or the support'} ended "
        f"every rollout at its first step, so the policy learns from the log alone. Lower filter.threshold or raise "
        f"filter.survival."
    )
    return True


def _warn_if_diverged(losses: Any, update: int, largest: float, progress: Progress) -> bool:
    """Warns where values are beyond anything that the log's rewards allow, and says whether it did."""
    value = float(getattr(losses, "mean_q", 0.0))
    if value <= IMPLAUSIBLE * largest or not largest:
        return False
    progress.message(
        f"Warning: the critics diverge (policy, update {update}: a mean value of {value:.3g}, where the log's largest "
        f"reward for ever is worth {largest:.3g}). Set policy.critic_norm, or lower policy.critic_learning_rate and "
        f"policy.tau."
    )
    return True


def _to(models: Models, device: str) -> Models:
    for network in models.networks.values():
        network.to(device)
    return replace(models, residuals=models.residuals.to(device))


def require_resumable(folder: RunFolder) -> None:
    """Checks that there is something to go on with.

    Raises:
        ArtifactError: the run has come to its end.
    """
    if folder.trained:
        raise ArtifactError("is trained to its end", where=str(folder.path), cure="Start over with --overwrite.")
