"""What an evaluation has found, before it is put into words: frozen records that the report is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from controlkit.evaluation.back_test import BackTest
from controlkit.evaluation.bootstrap import Estimate
from controlkit.evaluation.doubly_robust import DoublyRobust
from controlkit.evaluation.estimand import Estimand, Starts
from controlkit.evaluation.evaluation_model import EvaluationModel
from controlkit.evaluation.in_sample import InSampleFound
from controlkit.evaluation.model_rollouts import RolledOut
from controlkit.evaluation.support import RecordedSteps, SupportFound
from controlkit.evaluation.verdict import Decision, Evidence
from controlkit.replay import LoggedTransitions

if TYPE_CHECKING:
    from controlkit.evaluation.assessment import Effort


@dataclass(frozen=True)
class CandidateFindings:
    """One policy; values and gains in plant units per period.

    Attributes:
        name: as in the report.
        decision, evidence: verdict and what it rests on.
        by_model, by_fqe: its value; by_filter: by rollouts with MOREC's filter, `None` where its run has none.
        fqe_by_start: (M, N) its value by each member of the FQE ensemble, from each start state.
        gain_model, gain_fqe: policy minus cloned operator; gain: the model's, with both intervals joined.
        ridge: share of its features' variance by which FQE's gain was shrunk because it was too noisy; 0 where not.
        doubly_robust: FQE, corrected by what its Q functions get wrong where the policy goes.
        outside_fqe: per limit the discounted share of samples outside by FQE; `None` for trips.
        terms: gain per term of the objective, by model rollouts.
        support: where its rollouts leave the log.
        rolled: its rollouts, per fold.
        bellman: what remains of the Bellman error of its Q functions, in spreads of the reward.
        effective: steps ahead -> effective sample size of trajectory importance sampling.
        in_sample: the estimate from recorded commands alone, or why there is none.
    """

    name: str
    decision: Decision
    evidence: Evidence
    by_model: Estimate
    by_fqe: Estimate
    fqe_by_start: Tensor
    by_filter: Estimate | None
    gain_model: Estimate
    gain_fqe: Estimate
    gain: Estimate
    ridge: float
    doubly_robust: DoublyRobust
    outside_fqe: tuple[Estimate | None, ...]
    terms: dict[str, Estimate]
    support: SupportFound
    rolled: list[RolledOut]
    bellman: float
    effective: dict[int, float]
    in_sample: InSampleFound


@dataclass(frozen=True)
class Findings:
    """An evaluation.

    Attributes:
        estimand, starts: what is estimated, and from where.
        logged: the realised value of the logged operator.
        model, back_test: the evaluation model, and how it predicts what it has not seen.
        operator_model, operator_fqe, operator_doubly_robust: the cloned operator's value by each estimator.
        operator_rolled: its rollouts; operator_fqe_by_start: (M, N) as of a candidate; clones_by_start: (K, N) of each
            clone by plain FQE, for the error of cloning.
        candidates: the policies.
        recorded: the log's steps; log: the evaluation log; first_row: where it begins in the data set.
        units: unit of every tag.
        effort, seed, quick, seconds: how it was computed.
    """

    estimand: Estimand
    starts: Starts
    logged: Estimate
    model: EvaluationModel
    back_test: BackTest
    operator_model: Estimate
    operator_fqe: Estimate
    operator_doubly_robust: Estimate
    operator_rolled: list[RolledOut]
    operator_fqe_by_start: Tensor
    clones_by_start: Tensor
    candidates: tuple[CandidateFindings, ...]
    recorded: RecordedSteps
    log: LoggedTransitions
    first_row: int
    units: dict[str, str]
    effort: Effort
    seed: int
    quick: bool
    seconds: float
