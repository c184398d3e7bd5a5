"""A run that takes over what another run learned before its policy, so that other policies cost no new world.

Each stage of training draws from a generator of its own, so that the policy comes out with the same numbers as if its
run had learned that world again (provided its actor has the same size: the distilled reward's first weights are drawn
after the actor's).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

from controlkit.artifacts import Models, RunFolder, first_difference
from controlkit.config import RunConfig
from controlkit.errors import ConfigError
from controlkit.files import write_json
from controlkit.morec.learn_world import HEALTH, Metrics, threshold_of
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

# What the world depends on, beside the data and the seed.
SECTIONS = ("split", "scaling", "dynamics", "reward", "reward_model")
WORLD = "world.json"


def world_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that everything which is learned before the policy depends on, the seed apart."""
    content = config.to_dict()
    return {name: content[name] for name in SECTIONS} | {"filter": {"regressor": config.filter.choose == "regressor"}}


def take_over(
    models: Models,
    source: RunFolder,
    folder: RunFolder,
    held_out: LoggedTransitions,
    progress: Progress,
    metrics: Metrics,
) -> Models:
    """The networks of a run with the world of another, whose rows of metrics are appended to this run's.

    The threshold is calibrated anew, for this run's filter and rollouts. Writes `world.json`, which tells where the
    world is from, and copies `reward_health/`.

    Args:
        models: freshly built for this run; its actor stays.
        source: the run that learned the world, trained to its end.
        folder: this run.
        held_out: the calibration part.
        progress: is told where the world is from and what is off.
        metrics: of this run.

    Raises:
        ArtifactError: the other run is not trained to its end, is damaged, or learned from other data.
        ConfigError: it learned its world with other settings; names the first.
    """
    source.require_data(folder.data, str(folder.path))
    difference = first_difference(world_settings(source.config), world_settings(folder.config))
    if difference is not None:
        name, theirs, mine = difference
        raise ConfigError(
            f"its world was learned with {name}={theirs}, not {mine}",
            where=str(source.path),
            cure="Keep those settings, or train without --world.",
        )
    content = source.load_models().state_dict() | {"actor": models.actor.state_dict()}
    models = models.restored(content)
    if models.reward_model is not None:
        models.reward_model.requires_grad_(False)
    models = replace(models, threshold=threshold_of(models, held_out, folder.config, progress))
    if (source.path / HEALTH).is_dir():
        shutil.copytree(source.path / HEALTH, folder.path / HEALTH, dirs_exist_ok=True)
    write_json(folder.path / WORLD, {"run": str(source.path), "seed": source.config.seed})
    progress.message(f"World model and dynamics reward are those of {source.path}.")
    checkpoint = source.load_checkpoint() or {"metrics": []}
    metrics += [row for row in checkpoint["metrics"] if "updates" not in row]
    return models
