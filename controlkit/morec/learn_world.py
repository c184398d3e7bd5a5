"""All that is learned before the policy: the dynamics, the cloned operator, the dynamics reward and its threshold."""

from __future__ import annotations

from dataclasses import replace

import torch

from controlkit.artifacts import Models, RunFolder, regressor_config
from controlkit.config import RunConfig
from controlkit.files import write_json
from controlkit.morec.checks import training_warnings
from controlkit.morec.distil import LEAST_RANK, DistilFit, distil
from controlkit.morec.dynamics import action_scaler, change_scaler, fit_dynamics, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.morec.reward_health import examine
from controlkit.morec.reward_model import fit_reward
from controlkit.morec.reward_plots import plot_health
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import calibrate_threshold, recorded_scores
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

Metrics = list[dict[str, float]]
HEALTH = "reward_health"


def learn_world(
    models: Models,
    log: LoggedTransitions,
    held_out: LoggedTransitions,
    folder: RunFolder,
    progress: Progress,
    metrics: Metrics,
) -> Models:
    """Trains everything but the policy, in place; what is found is appended to `metrics` and told to `progress`.

    Writes `reward_health/` into the run folder: what was measured of the dynamics reward, and plots.

    Raises:
        TrainingError: a loss is no number.
    """
    config, limits = folder.config, CommandLimits(folder.spec)
    for warning in training_warnings(log, folder.spec, config):
        progress.message(warning)
    generator = stage_generator(config, "dynamics")
    fit = fit_dynamics(models.dynamics, log, config.dynamics, config.scaling, limits, generator, progress)
    metrics.append(fit.figures(models.dynamics.elites))
    progress.message(fit.describe(models.dynamics.elites))

    scale_to_log(models, log, config, limits)
    updates = config.reward.behaviour_updates
    fit_behaviour(models.behaviour, log, updates, stage_generator(config, "behaviour"), progress)
    metrics += _fit_recorded_reward(models, log, config, limits, progress)
    generator = stage_generator(config, "reward")
    metrics += fit_dynamics_reward(
        models.reward, log, models.behaviour, folder.spec, config.reward, generator, progress
    )
    models, found = distilled(models, log, limits, config, progress)
    models = replace(models, threshold=threshold_of(models, held_out, config, progress), residuals=fit.residuals)
    _examine(models, held_out, limits, folder, found, progress)
    if models.regressor is not None:
        settings, generator = regressor_config(config.dynamics), stage_generator(config, "regressor")
        fit_dynamics(models.regressor, log, settings, config.scaling, limits, generator, progress)
    return models


def scale_to_log(models: Models, log: LoggedTransitions, config: RunConfig, limits: CommandLimits) -> None:
    """Gives the cloned operator and the dynamics reward the scaling of a log, in place."""
    observation, action = observation_scaler(log, config.scaling), action_scaler(log, limits, config.scaling)
    set_scaler(models.behaviour.input_scaler, observation)
    set_scaler(models.behaviour.action_scaler, action)
    set_scaler(models.reward.input_scaler, observation, action)
    set_scaler(models.reward.change_scaler, change_scaler(log))


def distilled(
    models: Models, log: LoggedTransitions, limits: CommandLimits, config: RunConfig, progress: Progress
) -> tuple[Models, DistilFit | None]:
    """One network in place of the average where the configuration asks for it, unless it ranks otherwise; and how well
    it ranks."""
    if models.distilled is None:
        return models, None
    generator = stage_generator(config, "distilled reward")
    found = distil(models.distilled, models.reward, log, limits, config.reward.distil_updates, generator, progress)
    if found.faithful:
        return models, found
    progress.message(
        "Warning: the distilled dynamics reward ranks otherwise than the average (rank correlation "
        f"{found.rank_in:.3f} in the data, {found.rank_out:.3f} outside, {LEAST_RANK} is wanted); the average is used. "
        "Raise reward.distil_updates or reward.hidden."
    )
    return replace(models, distilled=None), found


def _examine(
    models: Models,
    held_out: LoggedTransitions,
    limits: CommandLimits,
    folder: RunFolder,
    distilled: DistilFit | None,
    progress: Progress,
) -> None:
    """The health check: figures, plots and warnings."""
    config = folder.config
    health = examine(models.reward, held_out, limits, stage_generator(config, "reward health"))
    for warning in health.warnings:
        progress.message(f"Warning: {warning}.")
    content: dict[str, object] = dict(health.to_dict())
    if distilled is not None:
        content["distilled"] = {"used": distilled.faithful} | vars(distilled)
    write_json(folder.path / HEALTH / "health.json", content)
    threshold = float(models.threshold)
    plot_health(folder.path / HEALTH, health, models.judge, held_out, folder.spec, config.reward, threshold)


def _fit_recorded_reward(
    models: Models, log: LoggedTransitions, config: RunConfig, limits: CommandLimits, progress: Progress
) -> Metrics:
    """The reward's own network, where the plant file gives no formula."""
    if models.reward_model is None:
        return []
    generator = stage_generator(config, "reward model")
    fit = fit_reward(models.reward_model, log, config.reward_model, config.scaling, limits, generator, progress)
    models.reward_model.requires_grad_(False)
    progress.message(fit.describe())
    return [{"reward_r2": fit.r2, "reward_mae": fit.mae, "reward_error_best": fit.error_best}]


def threshold_of(models: Models, held_out: LoggedTransitions, config: RunConfig, progress: Progress) -> torch.Tensor:
    """The threshold that the configuration asks for; what is off is said aloud."""
    wish, choose = config.filter.threshold, config.filter.choose
    if config.filter.enabled and choose in ("medoid", "regressor"):
        progress.message(f"The threshold is off in this run: filter.choose {choose} knows no dynamics reward.")
        return torch.tensor(-torch.inf)
    if not config.filter.enabled or wish == "off":
        progress.message(f"The {'filter' if not config.filter.enabled else 'threshold'} is off in this run.")
        return torch.tensor(-torch.inf)
    if wish == "auto":
        scores = recorded_scores(models.judge, held_out, held_out.rows)
        wish = calibrate_threshold(scores, held_out.rows, config.rollout.length, config.filter.survival)
    return torch.tensor(float(wish))
