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
from controlkit.evaluation.back_test import BackTest, back_test
from controlkit.evaluation.bootstrap import (
    LEVEL,
    Estimate,
    StandardError,
    jackknife,
    moving_block,
    refits,
    t_interval,
    union,
)
from controlkit.evaluation.borders import require_formula, require_regime_tag, require_same_plant
from controlkit.evaluation.candidates import Candidate
from controlkit.evaluation.content import describe
from controlkit.evaluation.doubly_robust import correct, ratios
from controlkit.evaluation.estimand import MAX_GAMMA, Estimand, Starts, choose_estimand, choose_starts
from controlkit.evaluation.evaluation_model import EvaluationModel, fit_evaluation_model
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.fqe import FittedValues, fit_values
from controlkit.evaluation.importance import effective_samples
from controlkit.evaluation.in_sample import InSample, InSampleFound, InSampleValues
from controlkit.evaluation.limits import Limit, judge_limit, limits_of
from controlkit.evaluation.model_rollouts import RolledOut, roll_out_folds, values
from controlkit.evaluation.model_values import ModelValues
from controlkit.evaluation.policies import EvaluatedPolicy, fit_operator, operator_policy, unexplained
from controlkit.evaluation.recorded_reward import learned_reward
from controlkit.evaluation.report import Report
from controlkit.evaluation.support import RecordedSteps, find_support
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.evaluation.verdict import AGREEMENT, Evidence, decide
from controlkit.models.actor import BehaviourClone
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
    common = _Common(
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
        seed,
    )
    level = 1.0 - (1.0 - LEVEL) / len(policies)  # Bonferroni: the best of many looks better than it is
    progress.start("support and limits", len(policies))
    candidates = []
    for number, policy in enumerate(policies, start=1):
        candidates.append(_candidate(policy, number, common, level, rng))
        progress.advance()
    block = starts.block(estimand)
    logged = t_interval(float(starts.returns.mean()), [moving_block(starts.returns, block, rng)])
    return Findings(
        estimand=estimand,
        starts=starts,
        logged=logged,
        model=model,
        back_test=tested,
        operator_model=_by_model(values(rolled[0]), block, LEVEL, rng),
        operator_fqe=_by_fqe(fitted.values[0], block, LEVEL, rng, clone_error),
        operator_rolled=rolled[0],
        operator_fqe_by_start=fitted.values[0],
        clones_by_start=alone.values.mean(dim=1),
        candidates=tuple(candidates),
        recorded=common.recorded,
        log=log,
        first_row=begin,
        units={tag: described.unit for tag, described in data.spec.tags.items()},
        effort=effort,
        seed=seed,
        quick=False,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Common:
    """What all candidates share; entry 0 of `rolled` and `fitted` is the cloned operator."""

    rolled: list[list[RolledOut]]
    filtered: dict[int, torch.Tensor]
    fitted: FittedValues
    clone_error: StandardError
    in_sample: InSample
    model: EvaluationModel
    tested: BackTest
    log: LoggedTransitions
    starts: Starts
    estimand: Estimand
    objective: Objective
    limits: tuple[Limit, ...]
    recorded: RecordedSteps
    operator_ratios: torch.Tensor
    clone: BehaviourClone
    unexplained: float
    seed: int


def _candidate(
    policy: EvaluatedPolicy, number: int, common: _Common, level: float, rng: np.random.Generator
) -> CandidateFindings:
    """Everything about one policy, and its verdict; `number` is its place in `rolled` and `fitted`."""
    starts, estimand, objective, tested = common.starts, common.estimand, common.objective, common.tested
    rolled, fitted = common.rolled, common.fitted
    block, logged = starts.block(estimand), float(starts.returns.mean())
    operator, mine = values(rolled[0]), values(rolled[number])  # (K, N)
    gain_model = _by_model(mine - operator, block, level, rng)
    clone_error = common.clone_error
    gain_fqe = _by_fqe(fitted.values[number] - fitted.values[0], block, level, rng, clone_error)
    gain = union(gain_model, gain_fqe)
    preferred = common.filtered.get(number)
    filtered = None if preferred is None else _by_model(preferred, block, level, rng)
    support = find_support(rolled[number], common.recorded, policy.dynamics_reward, estimand)
    judged_limits = tuple(
        judge_limit(limit, objective, rolled[number], rolled[0], block, level, rng) for limit in common.limits
    )
    outside_fqe = tuple(
        _by_fqe(fitted.outside[number, ..., column], block, level, rng) if limit.tag else None
        for column, limit in enumerate(common.limits)
    )
    robust = correct(
        fitted,
        number,
        ratios(rolled[number], common.model, common.recorded, common.log, fitted.rows, estimand),
        common.operator_ratios,
        block,
        max(1, estimand.block * len(fitted.rows) // len(common.log.rows)),
        estimand,
        rng,
        level,
        clone_error,
    )
    evidence = Evidence(
        spread=float(starts.returns.std()),
        blocks=starts.blocks,
        weight=estimand.weight,
        back_test_bias=tested.bias,
        fan_coverage=tested.fan_coverage,
        self_check_model=float(operator.mean()) - logged,
        self_check_fqe=float(fitted.values[0].mean()) - logged,
        unexplained=common.unexplained,
        support=support.share,
        late_support=support.late,
        gain_model=gain_model.value,
        gain_fqe=gain_fqe.value,
        gain_low=gain.low,
        gain_high=gain.high,
        limits=judged_limits,
    )
    terms = {
        name: _by_model(values(rolled[number], name) - values(rolled[0], name), block, level, rng)
        for name in objective.term_names
    }
    return CandidateFindings(
        name=policy.name,
        decision=decide(evidence),
        evidence=evidence,
        by_model=_by_model(mine, block, level, rng),
        by_fqe=_by_fqe(fitted.values[number], block, level, rng),
        fqe_by_start=fitted.values[number],
        by_filter=filtered,
        gain_model=gain_model,
        gain_fqe=gain_fqe,
        gain=gain,
        doubly_robust=robust,
        outside_fqe=outside_fqe,
        terms=terms,
        support=support,
        rolled=rolled[number],
        bellman=float(fitted.bellman[number]),
        effective=effective_samples(
            policy, common.clone, common.log, starts.rows, estimand.horizon, CommandLimits(objective.spec)
        ),
        in_sample=_in_sample(common.in_sample.of(policy), block, level, rng),
    )


def _in_sample(found: InSampleValues, block: int, level: float, rng: np.random.Generator) -> InSampleFound:
    """The third estimate of a policy, with its interval, or why there is none."""
    if found.reason:
        return InSampleFound(None, None, found.effective, found.needed, found.bandwidth, found.reason)
    value, gain = (_by_fqe(each, block, level, rng) for each in (found.values, found.gains))
    return InSampleFound(value, gain, found.effective, found.needed, found.bandwidth)


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


def _by_model(found: torch.Tensor, block: int, level: float, rng: np.random.Generator) -> Estimate:
    """Interval from (K, N) values by fold and start: refits without a block, and blocks of start states."""
    per_fold, per_start = found.mean(dim=1).numpy(), found.mean(dim=0).numpy()
    return t_interval(float(found.mean()), [jackknife(per_fold), moving_block(per_start, block, rng)], level)


def _by_fqe(found: torch.Tensor, block: int, level: float, rng: np.random.Generator, *more: StandardError) -> Estimate:
    """Interval from (M, N) values by member and start: bootstrap refits, and blocks of start states."""
    per_member, per_start = found.mean(dim=1).numpy(), found.mean(dim=0).numpy()
    return t_interval(float(found.mean()), [refits(per_member), moving_block(per_start, block, rng), *more], level)
