"""The reward in the evaluation of a plant whose rewards come without a formula.

It is learned from the evaluation log alone, like the evaluation's world models: a policy that found a flaw of the
reward that it was trained on must not be judged by the same flaw.
"""

from __future__ import annotations

import torch

from controlkit.artifacts import build_reward_network
from controlkit.config import RewardModelConfig, ScalingConfig
from controlkit.models.reward_network import RewardNetwork
from controlkit.morec.reward_model import fit_reward
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec


def learned_reward(
    log: LoggedTransitions,
    spec: PlantSpec,
    scaling: ScalingConfig,
    limits: CommandLimits,
    updates: int,
    generator: torch.Generator,
    progress: Progress,
) -> RewardNetwork | None:
    """A network of the log's recorded rewards, or None where the plant file gives the formula.

    Args:
        log: the evaluation log.
        spec: the plant.
        scaling: floors of the inputs' scaling.
        limits: of the commands.
        updates: gradient steps at most.
        generator: initial weights, hold-out, batches.
        progress: is told how well the rewards are explained.

    Raises:
        TrainingError: the loss is no number.
    """
    if not spec.reward_is_recorded:
        return None
    config = RewardModelConfig(updates=updates)
    network = build_reward_network(config, spec, generator)
    fit = fit_reward(network, log, config, scaling, limits, generator, progress)
    progress.message(f"Evaluation: {fit.describe()}")
    return network.requires_grad_(False)
