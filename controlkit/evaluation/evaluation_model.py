"""The evaluation model: world models that share neither data nor weights with the ones that trained the policy.

The evaluation log (the calibration and evaluation parts of the split) is cut into K blocks of time. One ensemble is
fitted without each block, and judged on it: every figure of the back-test, and every residual that rollouts add,
comes from a block that the model has not seen. How much the K models differ says how much the data leaves open
(delete-a-block jackknife).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from controlkit.config import DynamicsConfig, ScalingConfig
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.dynamics import WorldModel, fit_dynamics
from controlkit.objective import LearnedReward
from controlkit.progress import Progress, Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

MEMBERS = 3
HIDDEN = (64, 64)
BATCH = 256


@dataclass(frozen=True)
class Fold:
    """A model fitted without one block of time.

    Attributes:
        world: the model.
        left_out: (R,) rows of the evaluation log that it has not seen.
        rest: the evaluation log with all other usable rows.
        residuals: (R, S) recorded minus predicted on the left-out rows, engineering units.
        noise: (T, S) what rollouts in this model draw from: residuals of all blocks but the left-out one, mean removed.
            Equal draws give equal noise in all folds, wherever their blocks allow it.
    """

    world: WorldModel
    left_out: Tensor
    rest: LoggedTransitions
    residuals: Tensor
    noise: Tensor


@dataclass(frozen=True)
class EvaluationModel:
    """K folds over one log.

    Attributes:
        folds: K models.
        one_step_rmse: (S,) error of the left-out one-step predictions, engineering units.
        autocorrelation: (S,) of neighbouring residuals; far from 0 means that a cause is not in the observation.
    """

    folds: tuple[Fold, ...]
    one_step_rmse: Tensor
    autocorrelation: Tensor


def fit_evaluation_model(
    log: LoggedTransitions,
    spec: PlantSpec,
    scaling: ScalingConfig,
    folds: int,
    updates: int,
    generator: torch.Generator,
    progress: Progress,
    learned: LearnedReward | None = None,
) -> EvaluationModel:
    """Fits K world models, each without one block of time.

    Args:
        log: the evaluation log.
        spec: the plant.
        scaling: floors of the inputs' scaling.
        folds: K.
        updates: gradient steps of each at most, about.
        generator: initial weights, batches.
        progress: one unit per fold.
        learned: the reward where the plant's is recorded without a formula.
    """
    progress.start("evaluation models", folds)
    fitted = []
    for number in range(folds):
        fitted.append(_fold(log, spec, scaling, number, folds, updates, generator, learned))
        progress.advance()
    residuals = torch.cat([fold.residuals for fold in fitted])
    centred = residuals - residuals.mean(dim=0)
    rows = torch.cat([fold.left_out for fold in fitted])
    neighbours = (rows[1:] - rows[:-1] == 1).nonzero().squeeze(1)
    variance = centred.square().mean(dim=0).clamp(min=1e-30)
    autocorrelation = (centred[neighbours] * centred[neighbours + 1]).mean(dim=0) / variance
    first = 0
    for number, fold in enumerate(fitted):
        # The left-out block's own residuals give way to those of the next block in the circle.
        size = len(fold.residuals)
        stand_in = (first + size + torch.arange(size)) % len(centred)
        noise = centred.clone()
        noise[first : first + size] = centred[stand_in]
        fitted[number] = replace(fold, noise=noise)
        first += size
    return EvaluationModel(tuple(fitted), residuals.square().mean(dim=0).sqrt(), autocorrelation)


def _fold(
    log: LoggedTransitions,
    spec: PlantSpec,
    scaling: ScalingConfig,
    number: int,
    folds: int,
    updates: int,
    generator: torch.Generator,
    learned: LearnedReward | None,
) -> Fold:
    layout, count = log.layout, len(log.rows)
    left_out = log.rows[number * count // folds : (number + 1) * count // folds]
    # Windows of history overlap: rows that share one with the block are not trained on either.
    apart = (log.rows < left_out[0] - 1) | (log.rows > left_out[-1] + layout.depth)
    rest = copy.copy(log)
    rest.rows = log.rows[apart]
    config = DynamicsConfig(
        members=MEMBERS,
        elites=MEMBERS,
        hidden=HIDDEN,
        batch_size=BATCH,
        weight_decay=0.1,
        max_epochs=max(4, math.ceil(updates / math.ceil(len(rest.rows) / BATCH))),
        patience=20,
    )
    ensemble = GaussianEnsemble(
        layout.size,
        len(layout.action_tags),
        layout.state_columns.tolist(),
        members=MEMBERS,
        hidden=HIDDEN,
        act=config.activation,
        generator=generator,
    )
    world = WorldModel(ensemble, spec, learned=learned)
    fit_dynamics(ensemble, rest, config, scaling, world.limits, generator, Silent())
    ensemble.eval().requires_grad_(False)
    residuals = []
    for part in left_out.split(4096):
        means, _ = ensemble(log.observe(part), log.actions[part])
        residuals.append(log.next_state(part) - means.mean(dim=0))
    found = torch.cat(residuals)
    world = WorldModel(ensemble.lean(), spec, learned=learned)  # rollouts call it millions of times
    return Fold(world, left_out, rest, found, found)
