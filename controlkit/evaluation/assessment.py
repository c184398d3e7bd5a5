"""The evaluation, from runs and data to a report: one screen that names the stages.

Policies are judged on the evaluation part of the split, from its recorded states. Models and Q functions are fitted
on the calibration and evaluation parts, which no policy was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from controlkit.config import ScalingConfig, SplitConfig
from controlkit.dataset import Split, TransitionDataset
from controlkit.errors import ControlkitError
from controlkit.evaluation.back_test import back_test
from controlkit.evaluation.bootstrap import LEVEL, jackknife, moving_block, t_interval
from controlkit.evaluation.borders import require_formula, require_regime_tag, require_same_plant
from controlkit.evaluation.candidates import Candidate
from controlkit.evaluation.content import describe
from controlkit.evaluation.doubly_robust import ratios
from controlkit.evaluation.estimand import MAX_GAMMA, Estimand, choose_estimand, choose_starts
from controlkit.evaluation.evaluation_model import EvaluationModel, fit_evaluation_model
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.fqe import fit_values
from controlkit.evaluation.in_sample import InSample
from controlkit.evaluation.judging import Shared, by_fqe, by_model, doubly_robust, judge_candidate
from controlkit.evaluation.limits import limits_of
from controlkit.evaluation.model_rollouts import roll_out_folds, values
from controlkit.evaluation.model_values import ModelValues
from controlkit.evaluation.policies import EvaluatedPolicy, fit_operator, operator_policy, unexplained
from controlkit.evaluation.recorded_reward import learned_reward
from controlkit.evaluation.report import Report
from controlkit.evaluation.support import RecordedSteps
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.evaluation.verdict import AGREEMENT
from controlkit.objective import CommandLimits, Objective
from controlkit.progress import Progress, Silent
from controlkit.replay import LoggedTransitions

# Fewer rows than this cannot be cut into blocks of time and fitted.
MIN_ROWS = 100


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        folds: evaluation models and clones of the operator, each fitted without one block of time.
        model_updates, clone_updates: gradient steps; fqe_updates: of the model's values, which FQE starts from.
        fqe_members: bootstrap samples of the log that Q functions are fitted on.
        starts: start states at most.
        reward_updates: gradient steps of a recorded reward's network.
    """

    folds: int = 8
    model_updates: int = 1200
    clone_updates: int = 500
    fqe_updates: int = 400
    fqe_members: int = 20
    starts: int = 256
    reward_updates: int = 4000


FULL = Effort()
QUICK = Effort(
    folds=3, model_updates=300, clone_updates=300, fqe_updates=200, fqe_members=10, starts=96, reward_updates=1500
)


def evaluate(
    candidates: Sequence[Candidate],
    data: TransitionDataset,
    *,
    quick: bool = False,
    progress: Progress,
    seed: int = 0,
    gamma: float | None = None,
    regime: str | None = None,
) -> Report:
    """Judges policies against the logged operator.

    Args:
        candidates: one or more; the runs among them were made from `data` with the same split. The first run's dynamics
            reward also judges the support of policies that bring none.
        data: the whole data set.
        quick: less of everything; intervals are wider.
        progress: stages.
        seed: of everything that is drawn.
        gamma: discount; the largest of the runs' where it is `None`, 0.99 where there is no run.
        regime: the tag that tells the plant's operating regimes; `None`: they are looked for.

    Raises:
        ArtifactError: a run belongs to another plant, another data set or another split, or is not trained.
        DataError: rewards that contradict the objective, too little data, or a log shorter than the horizon.
        ControlkitError: a policy whose output is no number.
    """
    require_regime_tag(data.spec, regime)
    if not candidates:
        raise ControlkitError("there is no policy to evaluate", cure="Name one or more.")
    runs = [candidate.run for candidate in candidates if candidate.run is not None]
    for run in runs:
        require_same_plant(run, runs[0], data)
    if runs:
        split, scaling = runs[0].split, runs[0].config.scaling
        gamma = max(run.config.policy.gamma for run in runs) if gamma is None else gamma
    else:  # nobody was trained, so that nothing was seen by anybody
        share = SplitConfig()
        split, scaling = Split.by_time(data, (share.training, share.calibration, share.evaluation)), ScalingConfig()
        gamma = MAX_GAMMA if gamma is None else gamma
    split.part(data, "evaluation")  # raises where the split belongs to another data set
    effort = QUICK if quick else FULL
    found = assess(
        _judged([candidate.policy for candidate in candidates]),
        data,
        evaluation_rows=(split.bounds["calibration"][0], split.bounds["evaluation"][0]),
        gamma=gamma,
        scaling=scaling,
        effort=effort,
        progress=progress,
        seed=seed,
    )
    return describe(replace(found, quick=quick), candidates, split, data, regime)


def _judged(policies: Sequence[EvaluatedPolicy]) -> list[EvaluatedPolicy]:
    """The policies, each with a dynamics reward if any of them has one."""
    judge = next((policy.dynamics_reward for policy in policies if policy.dynamics_reward is not None), None)
    return [
        policy if policy.dynamics_reward is not None else replace(policy, dynamics_reward=judge) for policy in policies
    ]


def assess(
    policies: Sequence[EvaluatedPolicy],
    data: TransitionDataset,
    *,
    evaluation_rows: tuple[int, int],
    gamma: float,
    scaling: ScalingConfig,
    effort: Effort,
    progress: Progress,
    seed: int,
) -> Findings:
    """The same for any policies.

    Args:
        policies: what is evaluated.
        data: the data set.
        evaluation_rows: where the evaluation log begins (models are fitted from there on), and where its evaluation
            part begins (policies start from there on).
        gamma: discount.
        scaling: floors of the inputs' scaling.
        effort: how much is computed.
        progress: stages.
        seed: of everything that is drawn.
    """
    began = time.monotonic()
    begin, first_start = evaluation_rows
    part = data.slice(begin, len(data))
    part.require_transitions("calibration and evaluation parts of the split", at_least=MIN_ROWS)
    log, limits = LoggedTransitions(part), CommandLimits(data.spec)
    generator = torch.Generator().manual_seed(seed)
    learned = learned_reward(log, data.spec, scaling, limits, effort.reward_updates, generator, progress)
    objective = Objective(data.spec, learned)
    require_formula(part, objective)
    estimand = choose_estimand(gamma, log, first_start - begin)
    starts = choose_starts(log, first_start - begin, estimand, effort.starts, objective)
    rng = np.random.default_rng(seed)

    model = fit_evaluation_model(
        log, data.spec, scaling, effort.folds, effort.model_updates, generator, progress, learned
    )
    progress.start("cloned operators", effort.folds)
    clones = []
    for fold in model.folds:
        clones.append(fit_operator(fold.rest, limits, scaling, effort.clone_updates, generator))
        progress.advance()
    habits = [unexplained(clone, log, fold.left_out) for clone, fold in zip(clones, model.folds, strict=True)]
    rest = torch.stack(habits).mean(dim=0)  # (m,)
    operators = [operator_policy([clone]) for clone in clones]
    tested = back_test(model, operators, log, estimand, seed)

    progress.start("model rollouts", 2)
    in_folds = [operators, *([policy] * effort.folds for policy in policies)]
    rolled = roll_out_folds(model, in_folds, log, starts.rows, estimand, seed, judged=True)
    progress.advance()
    filtered = _roll_out_filtered(model, policies, log, starts.rows, estimand, seed)
    progress.advance()
    limited, every = limits_of(data.spec), [operator_policy(clones), *policies]
    features = ValueFeatures(log, objective, scaling, limited)
    baseline = ModelValues(rolled, every, model, log, features, estimand, objective, effort.fqe_updates, generator)
    members = effort.fqe_members
    fitted = fit_values(
        every,
        log,
        starts.rows,
        estimand,
        features,
        baseline,
        members,
        generator,
        progress,
        limited,
        exact=0.5 * AGREEMENT * float(starts.returns.std()),  # two of these are what the estimators may differ by
    )
    # All Q functions of the operator share its clones, whose error the members' spread cannot show: their own does.
    # Differences of near policies are all that counts here, so that no baseline is needed.
    alone = fit_values(
        [operator_policy([clone]) for clone in clones],
        log,
        starts.rows,
        estimand,
        features,
        None,
        1,
        generator,
        Silent(),
    )
    clone_error = jackknife(alone.values.mean(dim=(1, 2)).numpy())
    in_sample = InSample(log, model.folds, clones, starts.rows, estimand, features, members, generator)
    recorded = RecordedSteps(log, model, limits, scaling)
    shared = Shared(
        rolled,
        filtered,
        fitted,
        clone_error,
        in_sample,
        model,
        tested,
        log,
        starts,
        estimand,
        objective,
        limited,
        recorded,
        ratios(rolled[0], model, recorded, log, fitted.rows, estimand),
        clones[0],
        float(rest[rest.abs().argmax()]),
    )
    level = 1.0 - (1.0 - LEVEL) / len(policies)  # Bonferroni: the best of many looks better than it is
    progress.start("support and limits", len(policies))
    candidates = []
    for number, policy in enumerate(policies, start=1):
        candidates.append(judge_candidate(policy, number, shared, level, rng))
        progress.advance()
    block = starts.block(estimand)
    logged = t_interval(float(starts.returns.mean()), [moving_block(starts.returns, block, rng)])
    return Findings(
        estimand=estimand,
        starts=starts,
        logged=logged,
        model=model,
        back_test=tested,
        operator_model=by_model(values(rolled[0]), block, LEVEL, rng),
        operator_fqe=by_fqe(fitted.values[0], block, LEVEL, rng, clone_error),
        operator_doubly_robust=doubly_robust(0, shared, LEVEL, rng).value,
        operator_rolled=rolled[0],
        operator_fqe_by_start=fitted.values[0],
        clones_by_start=alone.values.mean(dim=1),
        candidates=tuple(candidates),
        recorded=recorded,
        log=log,
        first_row=begin,
        units={tag: described.unit for tag, described in data.spec.tags.items()},
        effort=effort,
        seed=seed,
        quick=False,
        seconds=time.monotonic() - began,
    )


def _roll_out_filtered(
    model: EvaluationModel,
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    rows: torch.Tensor,
    estimand: Estimand,
    seed: int,
) -> dict[int, torch.Tensor]:
    """Values (K, N) by rollouts with the filter, of the policies that have a dynamics reward: by their place from 1."""
    found = {}
    for number, policy in enumerate(policies, start=1):  # one at a time: the rollouts themselves are not kept
        if policy.dynamics_reward is not None:
            each = [[policy] * len(model.folds)]
            found[number] = values(roll_out_folds(model, each, log, rows, estimand, seed, filtered=True)[0])
    return found
