"""Everything about one candidate, and its verdict, from what the stages of an assessment have computed for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from controlkit.evaluation.back_test import BackTest
from controlkit.evaluation.bootstrap import Estimate, StandardError, jackknife, moving_block, refits, t_interval, union
from controlkit.evaluation.doubly_robust import DoublyRobust, correct, ratios
from controlkit.evaluation.estimand import Estimand, Starts
from controlkit.evaluation.evaluation_model import EvaluationModel
from controlkit.evaluation.findings import CandidateFindings
from controlkit.evaluation.fqe import FittedValues
from controlkit.evaluation.importance import effective_samples
from controlkit.evaluation.in_sample import InSample, InSampleFound, InSampleValues
from controlkit.evaluation.limits import Limit, judge_limit
from controlkit.evaluation.model_rollouts import RolledOut, values
from controlkit.evaluation.policies import EvaluatedPolicy
from controlkit.evaluation.support import RecordedSteps, find_support
from controlkit.evaluation.verdict import Evidence, decide
from controlkit.models.actor import BehaviourClone
from controlkit.objective import CommandLimits, Objective
from controlkit.replay import LoggedTransitions


@dataclass(frozen=True)
class Shared:
    """What all candidates share.

    Attributes:
        rolled, fitted: rollouts and Q functions; entry 0 is the cloned operator.
        filtered: values by rollouts with MOREC's filter, (K, N), of the policies that have one.
        clone_error: what the operator's clones add to the error of FQE's gains.
        in_sample: estimates from recorded commands alone.
        model, tested: evaluation model and its back-test.
        log, starts, estimand, objective, limits: what is estimated, and from what.
        recorded: the log's steps, to judge support.
        operator_ratios: (R,) how much more often the cloned operator takes each recorded step than the log does.
        clone: of the operator, for importance weights.
        unexplained: the largest autocorrelation of commands that the clones leave.
    """

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


def judge_candidate(
    policy: EvaluatedPolicy, number: int, shared: Shared, level: float, rng: np.random.Generator
) -> CandidateFindings:
    """Everything about one policy, and its verdict; `number` is its place in `rolled` and `fitted`."""
    starts, estimand, objective, tested = shared.starts, shared.estimand, shared.objective, shared.tested
    rolled, fitted = shared.rolled, shared.fitted
    block, logged = starts.block(estimand), float(starts.returns.mean())
    operator, mine = values(rolled[0]), values(rolled[number])  # (K, N)
    gain_model = by_model(mine - operator, block, level, rng)
    gain_fqe = by_fqe(fitted.values[number] - fitted.values[0], block, level, rng, shared.clone_error)
    gain = union(gain_model, gain_fqe)
    preferred = shared.filtered.get(number)
    filtered = None if preferred is None else by_model(preferred, block, level, rng)
    support = find_support(rolled[number], shared.recorded, policy.dynamics_reward, estimand)
    judged_limits = tuple(
        judge_limit(limit, objective, rolled[number], rolled[0], block, level, rng) for limit in shared.limits
    )
    outside_fqe = tuple(
        by_fqe(fitted.outside[number, ..., column], block, level, rng) if limit.tag else None
        for column, limit in enumerate(shared.limits)
    )
    robust = doubly_robust(number, shared, level, rng)
    evidence = Evidence(
        spread=float(starts.returns.std()),
        blocks=starts.blocks,
        weight=estimand.weight,
        back_test_bias=tested.bias,
        fan_coverage=tested.fan_coverage,
        self_check_model=float(operator.mean()) - logged,
        self_check_fqe=float(fitted.values[0].mean()) - logged,
        unexplained=shared.unexplained,
        support=support.share,
        late_support=support.late,
        gain_model=gain_model.value,
        gain_fqe=gain_fqe.value,
        gain_low=gain.low,
        gain_high=gain.high,
        limits=judged_limits,
    )
    terms = {
        name: by_model(values(rolled[number], name) - values(rolled[0], name), block, level, rng)
        for name in objective.term_names
    }
    return CandidateFindings(
        name=policy.name,
        decision=decide(evidence),
        evidence=evidence,
        by_model=by_model(mine, block, level, rng),
        by_fqe=by_fqe(fitted.values[number], block, level, rng),
        fqe_by_start=fitted.values[number],
        by_filter=filtered,
        gain_model=gain_model,
        gain_fqe=gain_fqe,
        gain=gain,
        ridge=float(fitted.ridges[number]),
        doubly_robust=robust,
        outside_fqe=outside_fqe,
        terms=terms,
        support=support,
        rolled=rolled[number],
        bellman=float(fitted.bellman[number]),
        effective=effective_samples(
            policy, shared.clone, shared.log, starts.rows, estimand.horizon, CommandLimits(objective.spec)
        ),
        in_sample=_in_sample(shared.in_sample.of(policy), block, level, rng),
    )


def doubly_robust(number: int, shared: Shared, level: float, rng: np.random.Generator) -> DoublyRobust:
    """The doubly robust estimate of one policy; 0 is the cloned operator."""
    rolled, fitted, estimand = shared.rolled[number], shared.fitted, shared.estimand
    theirs = shared.operator_ratios
    mine = ratios(rolled, shared.model, shared.recorded, shared.log, fitted.rows, estimand) if number else theirs
    block = shared.starts.block(estimand)
    rows_block = max(1, estimand.block * len(fitted.rows) // len(shared.log.rows))
    return correct(fitted, number, mine, theirs, block, rows_block, estimand, rng, level, shared.clone_error)


def _in_sample(found: InSampleValues, block: int, level: float, rng: np.random.Generator) -> InSampleFound:
    """The third estimate of a policy, with its interval, or why there is none."""
    if found.reason:
        return InSampleFound(None, None, found.effective, found.needed, found.bandwidth, found.reason)
    value, gain = (by_fqe(each, block, level, rng) for each in (found.values, found.gains))
    return InSampleFound(value, gain, found.effective, found.needed, found.bandwidth)


def by_model(found: torch.Tensor, block: int, level: float, rng: np.random.Generator) -> Estimate:
    """Interval from (K, N) values by fold and start: refits without a block, and blocks of start states."""
    per_fold, per_start = found.mean(dim=1).numpy(), found.mean(dim=0).numpy()
    return t_interval(float(found.mean()), [jackknife(per_fold), moving_block(per_start, block, rng)], level)


def by_fqe(found: torch.Tensor, block: int, level: float, rng: np.random.Generator, *more: StandardError) -> Estimate:
    """Interval from (M, N) values by member and start: bootstrap refits, and blocks of start states."""
    per_member, per_start = found.mean(dim=1).numpy(), found.mean(dim=0).numpy()
    return t_interval(float(found.mean()), [refits(per_member), moving_block(per_start, block, rng), *more], level)
