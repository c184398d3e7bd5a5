"""A policy in a world model that is already fitted: what a study trains many of, and keeps none (see `learned.py`)."""

from __future__ import annotations

from controlkit.artifacts import Models
from controlkit.config import RunConfig
from controlkit.models.actor import Actor
from controlkit.morec.dynamics_reward import fit_behaviour
from controlkit.morec.learn_world import scale_to_log
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from controlkit.studies.learned import train_policy


def train_small_policy(models: Models, log: LoggedTransitions, spec: PlantSpec, config: RunConfig) -> Actor:
    """Soft actor-critic in a fitted world model.

    Args:
        models: the dynamics is fitted; so are the dynamics reward and its threshold, where the filter is on, and the
            residuals, where rollouts add them. The cloned operator is fitted here.
        log: recorded transitions.
        spec: the plant.
        config: of the run; its threads are not set here.

    Returns:
        The actor to keep.

    Raises:
        TrainingError: a loss is no number.
    """
    limits = CommandLimits(spec)
    scale_to_log(models, log, config, limits)
    updates = config.reward.behaviour_updates
    fit_behaviour(models.behaviour, log, updates, stage_generator(config, "behaviour"), Silent())
    threshold = float(models.threshold)
    chooser = TransitionFilter(models.dynamics.lean(), models.judge, config.filter, threshold, models.regressor)
    return train_policy(models, chooser, spec, log, config)[0]
