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
from controlkit.baselines.bc import BCLearner
from controlkit.baselines.log_learner import LogLearner
from controlkit.baselines.td3_bc import TD3BCLearner
from controlkit.config import RunConfig
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError
from controlkit.morec.bellman_doubt import BellmanDoubt
from controlkit.morec.checkpoints import save_checkpoint
from controlkit.morec.constraints import Constraints
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.exogenous import sequence
from controlkit.morec.fixed_rollout import make_roller
from controlkit.morec.learn_world import learn_world
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import Rollouts, StartRows, training_reward
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.morec.update_blocks import UpdateBlocks, sensible_threads
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions, ModelTransitions

Metrics = list[dict[str, float]]
Learner = PolicyLearner | LogLearner


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
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    parts = {name: folder.split.part(data, name) for name in ("training", "calibration")}
    log, held_out = (LoggedTransitions(part, config.device) for part in parts.values())
    parts["calibration"].save(folder.path / "calibration")
    limits = CommandLimits(folder.spec)

    checkpoint = folder.load_checkpoint() or {"stage": "start", "metrics": []}
    metrics: Metrics = checkpoint["metrics"]
    models = _to(build_models(config, folder.spec, stage_generator(config, "weights")), config.device)
    if checkpoint["stage"] == "policy":
        models = models.restored(checkpoint["models"])
    else:
        models = learn_world(models, log, held_out, folder, progress, metrics)
        save_checkpoint(folder, {"stage": "policy", "models": models.state_dict(), "metrics": metrics}, "stage 1")
        checkpoint = {}

    world = WorldModel(models.dynamics, folder.spec, config.device, models.reward_model)
    elites = models.dynamics.lean()  # in rollouts nothing is computed in vain
    chooser = TransitionFilter(elites, models.judge, config.filter, float(models.threshold), models.regressor)
    spread = max(float(log.rewards[log.rows].std()), 1e-6)
    centred = config.policy.centre_rewards and not folder.spec.episodes.terminated
    centre = float(log.rewards[log.rows].mean()) if centred else 0.0
    critics = _scaled_policy(models, build_critics(config, folder.spec, stage_generator(config, "critics")), config)
    learner = _learner(models, critics, limits, config, spread, world, centre)
    rollout, imagines = config.rollout, config.policy.algorithm == "sac"
    constraints = Constraints(world.objective, rollout, log, spread)
    _say_what_is_off(config, constraints, progress)
    capacity = rollout.keep * rollout.starts * rollout.length if imagines else 0
    ring = ModelTransitions(log.layout, capacity, config.device, len(constraints.names))
    generator = stage_generator(config, "policy")
    exogenous = sequence(log, folder.spec, config.dynamics, generator)
    if "learner" in checkpoint:
        learner.load_state_dict(checkpoint["learner"])
        ring.load_state_dict(checkpoint["ring"])
        constraints.load_state_dict(checkpoint["constraints"])
        generator.set_state(checkpoint["generator"])

    residuals = models.residuals if rollout.residual_noise else None
    real = round(config.policy.real_ratio * config.policy.batch_size)
    epochs = -(-config.policy.updates // rollout.every)
    starts = StartRows(log, rollout)
    roll = make_roller(
        world,
        chooser,
        _exploring(models, generator),
        log,
        rollout,
        generator,
        residuals,
        exogenous,
        graphs=config.cuda_graphs,
    )
    blocks = UpdateBlocks(
        learner,
        log,
        ring,
        real,
        config.policy.batch_size,
        generator,
        graphs=config.cuda_graphs,
        threads=sensible_threads(config.policy, config.threads),
    )
    progress.start("policy", epochs)
    progress.advance(learner.updates // rollout.every)
    for _ in range(config.policy.warm_start if not learner.updates else 0):
        learner.warm_start(log.observe(log.sample(config.policy.batch_size, generator)))
    warned = False
    while learner.updates < config.policy.updates:
        rolled: Rollouts | None = None
        if imagines:
            rows = starts.draw(generator)
            rolled = roll(rows)
            reward = training_reward(rolled, world, rollout, spread)
            violations = constraints.violations(rolled.next_frame)
            ring.extend(rolled.observation, rolled.action, rolled.next_frame, reward, rolled.terminated, violations)
            constraints.update(violations, ring)
            warned = warned or _warn_if_all_rejected(rolled, chooser, progress)
        losses = blocks.run(min(rollout.every, config.policy.updates - learner.updates))
        learner.require_finite(losses)
        metrics.append(_policy_row(learner.updates, losses, rolled, rollout.starts) | constraints.figures())
        progress.advance(note=_note(metrics[-1]))
        done = learner.updates // rollout.every
        if done % config.checkpoint_every == 0 or learner.updates >= config.policy.updates:
            content = {
                "stage": "policy",
                "models": models.state_dict(),
                "metrics": metrics,
                "learner": learner.state_dict(),
                "ring": ring.state_dict(),
                "constraints": constraints.state_dict(),
                "generator": generator.get_state(),
            }
            save_checkpoint(folder, content, f"policy, update {learner.updates}")
            folder.write_metrics(metrics)
    models = _to(replace(models, actor=learner.final_actor()), "cpu")
    folder.write_metrics(metrics)
    folder.save_models(models)
    folder.write_state("trained", seconds=round(time.monotonic() - began, 1))
    return models


def _say_what_is_off(config: RunConfig, constraints: Constraints, progress: Progress) -> None:
    algorithm = config.policy.algorithm
    if config.policy.centre_rewards and constraints.objective.spec.episodes.terminated:
        progress.message("The plant's episodes have true ends, so policy.centre_rewards is off in this run.")
    if algorithm != "sac":
        progress.message(f"{algorithm} learns from the log alone: the world model serves evaluation and safety only.")
    if config.rollout.constraints == "lagrangian" and not constraints.names:
        progress.message("The plant has no constraints, so rollout.constraints: lagrangian is off in this run.")


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


def _learner(
    models: Models,
    critics: Any,
    limits: CommandLimits,
    config: RunConfig,
    spread: float,
    world: WorldModel,
    centre: float,
) -> Learner:
    """What the configuration trains the policy with."""
    if config.policy.algorithm == "bc":
        return BCLearner(models.actor, models.behaviour, config.policy)
    if config.policy.algorithm == "td3_bc":
        return TD3BCLearner(models.actor, critics, models.behaviour, limits, config.policy, spread)
    mobile = config.rollout.penalty == "mobile"
    doubt = BellmanDoubt(world, config.rollout.penalty_coefficient) if mobile else None
    return PolicyLearner(models.actor, critics, models.behaviour, limits, config.policy, spread, doubt, centre)


def _policy_row(updates: int, losses: Any, rolled: Rollouts | None, starts: int) -> dict[str, float]:
    row = {"updates": float(updates)} | {name: float(value) for name, value in losses._asdict().items()}
    if rolled is None:
        return row
    return row | {
        "model_reward": float(rolled.reward.mean()),  # NaN where the threshold ended every rollout at once
        "model_steps": float(len(rolled.reward)),
        "rejected_share": rolled.rejected / starts,
        "disagreement": float(rolled.disagreement.mean()),
    }


def _note(row: dict[str, float]) -> str:
    name = "model_reward" if "model_reward" in row else "actor_loss"
    return f"{name.replace('_', ' ')} {row[name]:.4g}"


def _warn_if_all_rejected(rolled: Rollouts, chooser: TransitionFilter, progress: Progress) -> bool:
    """Warns where no transition was accepted, and says whether it did."""
    if len(rolled.reward):
        return False
    progress.message(
        f"Warning: the threshold {chooser.threshold:.3g} ended every rollout at its first step, so the policy "
        f"learns from the log alone. Lower filter.threshold or raise filter.survival."
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
