"""The methods of the filter suite: dynamics rewards, and choices that know none, as scores of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlkit.artifacts import Models, build_dynamics, build_models, regressor_config
from controlkit.benchmarks.known_truth import Points, Predict, Score, picking, plain_spec
from controlkit.config import RunConfig
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.distil import distil
from controlkit.morec.dynamics import fit_dynamics
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.morec.learn_world import scale_to_log
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions

# Chosen by the error on the farthest rows of other logs, once fitted without them (controlkit/morec/holdout.py).
DYNAMICS: Mapping[str, Any] = {"hidden": [128, 128], "activation": "silu", "patience": 10}
# Settings of the dynamics reward, by name of the method.
REWARDS: Mapping[str, Mapping[str, Any]] = {
    "noise": {"method": "noise"},
    "irl": {"method": "irl"},
    "irl, pathwise": {"method": "irl", "generator": "pathwise"},
    "irl, gail": {"method": "irl", "form": "gail"},
    "irl, gail, pathwise": {"method": "irl", "form": "gail", "generator": "pathwise"},
    "mixed": {"method": "mixed"},
    "noise, change": {"method": "noise", "coordinates": "change"},
    "irl, change": {"method": "irl", "coordinates": "change"},
}
# Choices and predictions without a dynamics reward.
OTHERS = ("ensemble_mean", "medoid", "regressor", "linear", "least_squares", "best")


def fit_ensemble(log: LoggedTransitions, seed: int, **changes: Any) -> tuple[GaussianEnsemble, float]:
    """The ensemble of the suite, or one with other settings, and its hold-out error in kelvin."""
    config = RunConfig.from_dict({"dynamics": {**DYNAMICS, **changes}, "seed": seed})
    generator = torch.Generator().manual_seed(seed)
    ensemble = build_dynamics(config.dynamics, plain_spec(), generator)
    limits = CommandLimits(plain_spec())
    fit = fit_dynamics(ensemble, log, config.dynamics, config.scaling, limits, generator, Silent())
    return ensemble, float(fit.holdout_rmse.square().mean().sqrt())


def fit_reward(log: LoggedTransitions, seed: int, settings: Mapping[str, Any]) -> Models:
    """Networks of a run of which the cloned operator and the dynamics reward are trained."""
    config, spec = RunConfig.from_dict({"reward": dict(settings), "seed": seed}), plain_spec()
    limits, generator = CommandLimits(spec), torch.Generator().manual_seed(seed)
    models = build_models(config, spec, generator)
    scale_to_log(models, log, config, limits)
    fit_behaviour(models.behaviour, log, config.reward.behaviour_updates, generator, Silent())
    fit_dynamics_reward(models.reward, log, models.behaviour, spec, config.reward, generator, Silent())
    return models


def reward_score(reward: Any) -> Score:
    """A dynamics reward as a score: its log odds, which do not flatten out where the reward does."""

    def score(observation: Tensor, action: Tensor, offered: Tensor) -> Tensor:
        with torch.no_grad():
            odds: Tensor = reward.log_odds(observation, action, offered)
        return odds

    return score


def get_method(
    method: str, log: LoggedTransitions, ensemble: GaussianEnsemble, seed: int, rewards: dict[str, Models]
) -> tuple[Score | None, Predict]:
    """The score by which a method picks (None where it does not pick), and the model it makes.

    Args:
        method: one of `OTHERS` or `REWARDS`, or `distilled`.
        log, ensemble, seed: what is learned from, what predicts, and the seed of everything that is trained here.
        rewards: trained ones by name; a new one is added, so that methods share them.
    """
    if method in REWARDS or method == "distilled":
        name = "noise" if method == "distilled" else method
        if name not in rewards:
            rewards[name] = fit_reward(log, seed, REWARDS[name])
        reward: Any = rewards[name].reward
        if method == "distilled":
            settings, reward = RunConfig.from_dict({"reward": dict(REWARDS[name])}).reward, rewards[name].distilled
            generator = torch.Generator().manual_seed(seed)
            limits = CommandLimits(plain_spec())
            distil(reward, rewards[name].reward, log, limits, settings.distil_updates, generator, Silent())
        score = reward_score(reward)
        return score, picking(score, ensemble, seed)
    if method == "ensemble_mean":

        def mean(observation: Tensor, action: Tensor) -> Tensor:
            with torch.no_grad():
                expected: Tensor = ensemble(observation, action)[0].mean(dim=0)
            return expected

        return _nearest(mean), mean
    if method in ("medoid", "regressor"):
        score = _without_reward(method, log, ensemble, seed)
        return score, picking(score, ensemble, seed)
    if method == "best":
        return _best, picking(_best, ensemble, seed)
    if "noise" not in rewards:
        rewards["noise"] = fit_reward(log, seed, REWARDS["noise"])
    linear = _linear(rewards["noise"].reward)
    if method == "least_squares":
        return None, linear
    return _nearest(linear), picking(_nearest(linear), ensemble, seed)


def _without_reward(choose: str, log: LoggedTransitions, ensemble: GaussianEnsemble, seed: int) -> Score:
    """The filter's own choices without a reward."""
    config = RunConfig.from_dict({"filter": {"choose": choose}, "dynamics": dict(DYNAMICS), "seed": seed})
    regressor = None
    if choose == "regressor":
        settings, generator = regressor_config(config.dynamics), torch.Generator().manual_seed(seed)
        regressor = build_dynamics(settings, plain_spec(), generator)
        fit_dynamics(regressor, log, settings, config.scaling, CommandLimits(plain_spec()), generator, Silent())
    models = build_models(config, plain_spec(), torch.Generator().manual_seed(seed))
    chooser = TransitionFilter(ensemble, models.reward, config.filter, -np.inf, regressor)

    def score(observation: Tensor, action: Tensor, offered: Tensor) -> Tensor:
        with torch.no_grad():
            distance: Tensor = chooser.without_reward(observation, action, offered)
        return -distance

    return score


def _nearest(predict: Predict) -> Score:
    """Prefers what lies nearest to a prediction."""

    def score(observation: Tensor, action: Tensor, offered: Tensor) -> Tensor:
        distance: Tensor = (offered - predict(observation, action)).norm(dim=-1)
        return -distance

    return score


def _linear(reward: Any) -> Predict:
    """The linear prediction from which the dynamics reward measures innovations, as a model of its own."""

    def predict(observation: Tensor, action: Tensor) -> Tensor:
        change = reward.expected_change(observation, action)
        state: Tensor = observation[:, reward.state_slots] + reward.change_scaler.invert(change)
        return state

    return predict


def _best(observation: Tensor, action: Tensor, offered: Tensor) -> Tensor:
    """Knows the plant: how good a filter of these candidates could be."""
    columns = (observation[:, 0].double().numpy(), observation[:, 1].double().numpy(), action[:, 0].double().numpy())
    distance: Tensor = (offered - Points.of(*columns).truth).norm(dim=-1)
    return -distance
