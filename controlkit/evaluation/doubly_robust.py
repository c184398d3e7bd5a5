"""A doubly robust estimate: fitted Q evaluation, corrected by what its Q functions get wrong where the policy goes.

    V = V by FQE + 1 / (1 - gamma) * mean over the log of w(s, a) e(s, a, r, s')

with e the temporal-difference errors that FQE leaves (`FittedValues.errors`) and w = d_pi / d_log, the ratio of
discounted occupancies (Kallus and Uehara 2020, arXiv 1909.05850; values in units of a mean reward). It is right where
either the Q functions or the ratio are. Both are cross-fitted: a recorded step's error comes from members of the
ensemble that were not fitted on it, and its ratio from rollouts in the model that has not seen its block of time. The
ratio is a classifier's odds (logistic regression on current tags, commands and their products) between rolled out and
recorded steps; ratios are self-normalised and cut at `LARGEST` times the mean.

It shares its rollouts with the model-based estimate and its Q functions with FQE, so that it is no third witness: the
report shows it beside them, and verdicts do not rest on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlkit.evaluation.bootstrap import LEVEL, Estimate, StandardError, moving_block, refits, t_interval
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import EvaluationModel
from controlkit.evaluation.fqe import FittedValues
from controlkit.evaluation.model_rollouts import RolledOut
from controlkit.evaluation.support import RecordedSteps
from controlkit.morec.log_support import thin
from controlkit.replay import LoggedTransitions

# Samples of each kind that a classifier is fitted on, at most.
SAMPLES = 4096
RIDGE, ITERATIONS = 1e-2, 25
# In means of all ratios.
LARGEST = 20.0


@dataclass(frozen=True)
class DoublyRobust:
    """What the correction found.

    Attributes:
        value: the policy's value; gain: over the operator.
        effective: share of recorded steps that the ratios leave, (sum w)^2 / (R sum w^2): 1 for the operator itself.
    """

    value: Estimate
    gain: Estimate
    effective: float


def ratios(
    rolled: list[RolledOut],
    model: EvaluationModel,
    recorded: RecordedSteps,
    log: LoggedTransitions,
    rows: Tensor,
    estimand: Estimand,
) -> Tensor:
    """(R,) how much more often the policy takes each recorded step than the log does, mean 1 over `rows` (R,)."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    for fold, mine in zip(model.folds, rolled, strict=True):
        inside = (rows >= fold.left_out[0]) & (rows <= fold.left_out[-1])
        if not bool(inside.any()):
            continue
        theirs = torch.cat([mine.frames[:-1], mine.actions], dim=2)  # (H, B, n + m)
        weight = estimand.weights.unsqueeze(1) * mine.alive
        generator = torch.Generator().manual_seed(0)
        drawn = torch.multinomial(weight.flatten(), SAMPLES, replacement=True, generator=generator)
        policy = theirs.flatten(0, 1)[drawn]
        operator = _steps(log, thin(fold.rest.rows, SAMPLES))
        coefficients, centre, spread = _classifier(policy, operator, recorded.spread)
        odds = _features(_steps(log, rows[inside]), recorded.spread, centre, spread) @ coefficients
        found[inside] = odds.clamp(max=30.0).exp() * len(operator) / len(policy)
    found = found / found.mean().clamp(min=1e-12)
    found = found.clamp(max=LARGEST)
    return found / found.mean().clamp(min=1e-12)


def correct(
    fitted: FittedValues,
    number: int,
    weights: Tensor,
    operator_weights: Tensor,
    block: int,
    rows_block: int,
    estimand: Estimand,
    rng: np.random.Generator,
    level: float = LEVEL,
    of_operator: StandardError | None = None,
) -> DoublyRobust:
    """The estimate for policy `number` of the fitted ones; 0 is the operator.

    Args:
        fitted: Q functions and their errors.
        number: the policy.
        weights, operator_weights: (R,) ratios of the policy and of the operator.
        block, rows_block: length of a block of the bootstrap, in starts and in kept rows.
        estimand: gives the discount.
        rng: draws blocks.
        level: of the intervals.
        of_operator: what the operator's clones add to the gain's error, which all Q functions share.
    """
    known = torch.isfinite(fitted.errors[number])
    scale = 1.0 / (1.0 - estimand.gamma)
    mine = scale * (weights * fitted.errors[number])[known]
    theirs = scale * (operator_weights * fitted.errors[0])[known]

    def estimate(values: Tensor, correction: Tensor, *more: StandardError) -> Estimate:
        errors = [
            *more,
            refits(values.mean(dim=1).numpy()),
            moving_block(values.mean(dim=0).numpy(), block, rng),
            moving_block(correction.numpy(), rows_block, rng),
        ]
        return t_interval(float(values.mean() + correction.mean()), errors, level)

    return DoublyRobust(
        estimate(fitted.plain[number], mine),
        estimate(fitted.plain[number] - fitted.plain[0], mine - theirs, *([of_operator] if of_operator else [])),
        float(weights.sum() ** 2 / (len(weights) * weights.square().sum()).clamp(min=1e-12)),
    )


def _steps(log: LoggedTransitions, rows: Tensor) -> Tensor:
    return torch.cat([log.frames[rows], log.actions[rows]], dim=1)


def _features(steps: Tensor, scale: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """(R, n + m) -> (R, F): tags and commands, their products, and one."""
    x = ((steps / scale).double() - centre) / spread
    one, other = torch.triu_indices(x.shape[1], x.shape[1]).unbind()
    return torch.cat([x, x[:, one] * x[:, other], torch.ones_like(x[:, :1])], dim=1)


def _classifier(policy: Tensor, operator: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients (F,) of the log odds that a step is the policy's, by Newton's method with a ridge; the scaling."""
    both = (torch.cat([policy, operator]) / scale).double()
    centre, spread = both.mean(dim=0), both.std(dim=0).clamp(min=1e-6)
    x = _features(torch.cat([policy, operator]), scale, centre, spread)
    label = torch.cat([torch.ones(len(policy)), torch.zeros(len(operator))]).double()
    held = torch.full((x.shape[1],), RIDGE * len(x), dtype=torch.float64)
    held[-1] = 0.0
    coefficients = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(ITERATIONS):
        chance = torch.sigmoid(x @ coefficients)
        slope = x.T @ (label - chance) - held * coefficients
        curve = (x * (chance * (1.0 - chance)).clamp(min=1e-6).unsqueeze(1)).T @ x + torch.diag(held)
        step = torch.linalg.solve(curve + 1e-9 * torch.eye(len(curve), dtype=torch.float64), slope)
        coefficients = coefficients + step
        if float(step.abs().max()) < 1e-8:
            break
    return coefficients, centre, spread
