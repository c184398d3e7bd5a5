"""Random generators, one of its own for each stage of a run: a stage that is repeated draws the same numbers."""

from __future__ import annotations

import torch

from controlkit.config import RunConfig

# The order is part of what a seed means.
STAGES = (
    "weights",
    "critics",
    "dynamics",
    "behaviour",
    "reward",
    "policy",
    "reward model",
    "distilled reward",
    "reward health",
    "regressor",
)


def stage_generator(config: RunConfig, stage: str) -> torch.Generator:
    """A generator of the stage's own. Networks are always initialised on the CPU, whatever trains them."""
    device = "cpu" if stage in ("weights", "critics") else config.device
    generator = torch.Generator(device)
    return generator.manual_seed(config.seed * len(STAGES) + STAGES.index(stage))
