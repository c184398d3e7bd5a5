"""Operating regimes: the start states in groups, and the policy's gain, support and limits in each of them.

A regime is told by a tag that the user names (its values where they are few, quarters of its values otherwise), or is
found by clustering the measured tags at the start states. Every regime is judged by the rules of the verdict, with its
own gain, support, limits and self-checks; the back-test and the scale of differences are those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from controlkit.evaluation.bootstrap import Estimate, jackknife, moving_block, refits, t_interval, union
from controlkit.evaluation.clusters import SEPARATED, find_clusters
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.limits import judge_limit, limits_of
from controlkit.evaluation.model_rollouts import values
from controlkit.evaluation.support import SupportFound
from controlkit.evaluation.verdict import MIN_BLOCKS, decide
from controlkit.spec import PlantSpec

# A tag with more values than this is cut into `PARTS` parts of equal size.
FEW_VALUES, PARTS = 6, 4
# Tags that a cluster is named by.
NAMED_BY = 2
TOO_LITTLE = "TOO LITTLE DATA"
WHOLE = "all operation"


@dataclass(frozen=True)
class Regime:
    """A group of start states.

    Attributes:
        name: what tells it from the others.
        starts: (N',) which of the start states, in order of time.
        ranges: measured tag -> the middle 90 % of its values at these states.
    """

    name: str
    starts: Tensor
    ranges: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Regimes:
    """All of them: every start state is in exactly one.

    Attributes:
        tag: the tag that tells them; empty where they were found by clustering.
        rule: how they were told apart, in a sentence.
        silhouette: of the clusters; NaN where a tag tells the regimes.
        members: at least one.
    """

    tag: str
    rule: str
    silhouette: float
    members: tuple[Regime, ...]


@dataclass(frozen=True)
class RegimeFindings:
    """One policy in one regime; gains in plant units per period, over the operator from the same states.

    Attributes:
        name: the regime's.
        word: a verdict by the same rules, or `TOO LITTLE DATA`; a regime's GO TO SHADOW is worth nothing where the
            whole has another verdict.
        starts, share: start states in it, and their share of all; stretches: independent stretches of the log.
        gain: by model rollouts, the interval joined with FQE's; gain_model, gain_fqe: each alone. `None` where there is
            too little data. Intervals are widened for the number of regimes.
        support, late: share of supported steps, and in the last quarter of the horizon.
        reasons: sentences behind the word.
    """

    name: str
    word: str
    starts: int
    share: float
    stretches: float
    gain: Estimate | None
    gain_model: Estimate | None
    gain_fqe: Estimate | None
    support: float
    late: float
    reasons: tuple[str, ...]


def find_regimes(found: Findings, tag: str | None) -> Regimes:
    """Groups the start states by a measured tag, or by clusters where none is given."""
    names = found.log.layout.frame_tags
    frames = found.log.frames[found.starts.rows].double().numpy()  # (N, n)
    if tag is not None:
        labels, rule = _by_tag(tag, frames[:, names.index(tag)])
        labelled: list[tuple[str, ...]] = [(tag,)] * (int(labels.max()) + 1)
        silhouette = float("nan")
    else:
        labels, silhouette, rule = _by_clusters(frames, np.random.default_rng(found.seed))
        labelled = [_telling(frames, labels == each, names) for each in range(int(labels.max()) + 1)]
    members: list[Regime] = []
    for each, by in enumerate(labelled):
        mine = np.flatnonzero(labels == each)
        inner = {name: _middle(frames[mine, column]) for column, name in enumerate(names)}
        # Parts of one tag touch: they are named by all that is in them, clusters by what is usual in them.
        shown = {name: _ends(frames[mine, names.index(name)]) if tag else inner[name] for name in by}
        title = ", ".join(_named(name, *shown[name], found.units[name]) for name in by) or WHOLE
        if title in {other.name for other in members}:  # apart by less than the digits that are shown
            title = f"{title} ({each + 1})"
        members.append(Regime(title, torch.from_numpy(mine), inner))
    return Regimes(tag or "", rule, silhouette, tuple(members))


def judge_regimes(c: CandidateFindings, found: Findings, regimes: Regimes, spec: PlantSpec) -> list[RegimeFindings]:
    """The policy in every regime, in their order."""
    rng = np.random.default_rng(found.seed)
    level = 1.0 - (1.0 - c.gain.level) / len(regimes.members)
    return [_judge(c, found, regime, spec, level, rng) for regime in regimes.members]


def _judge(
    c: CandidateFindings,
    found: Findings,
    regime: Regime,
    spec: PlantSpec,
    level: float,
    rng: np.random.Generator,
) -> RegimeFindings:
    at, starts = regime.starts, found.starts
    share = len(at) / len(starts.rows)
    stretches = starts.blocks * share
    support, late = _support(c.support, at, found.estimand.horizon)
    if stretches < MIN_BLOCKS:
        reason = f"It holds {stretches:.1f} independent stretches of the log (at least {MIN_BLOCKS})."
        return RegimeFindings(
            regime.name, TOO_LITTLE, len(at), share, stretches, None, None, None, support, late, (reason,)
        )
    block = starts.block(found.estimand)
    operator, mine = values(found.operator_rolled)[:, at], values(c.rolled)[:, at]  # (K, N')
    q_operator, q_mine = found.operator_fqe_by_start[:, at], c.fqe_by_start[:, at]  # (M, N')
    clone_error = jackknife(found.clones_by_start[:, at].mean(dim=1).numpy())
    difference, q_difference = mine - operator, q_mine - q_operator
    gain_model = t_interval(
        float(difference.mean()),
        [jackknife(difference.mean(dim=1).numpy()), moving_block(difference.mean(dim=0).numpy(), block, rng)],
        level,
    )
    gain_fqe = t_interval(
        float(q_difference.mean()),
        [
            refits(q_difference.mean(dim=1).numpy()),
            moving_block(q_difference.mean(dim=0).numpy(), block, rng),
            clone_error,
        ],
        level,
    )
    gain = union(gain_model, gain_fqe)
    objective = found.model.folds[0].world.objective
    logged = float(starts.returns[at.numpy()].mean())
    decision = decide(
        replace(
            c.evidence,
            blocks=stretches,
            self_check_model=float(operator.mean()) - logged,
            self_check_fqe=float(q_operator.mean()) - logged,
            support=support,
            late_support=late,
            gain_model=gain_model.value,
            gain_fqe=gain_fqe.value,
            gain_low=gain.low,
            gain_high=gain.high,
            limits=tuple(
                judge_limit(limit, objective, c.rolled, found.operator_rolled, block, level, rng, at)
                for limit in limits_of(spec)
            ),
        )
    )
    return RegimeFindings(
        regime.name,
        decision.verdict,
        len(at),
        share,
        stretches,
        gain,
        gain_model,
        gain_fqe,
        support,
        late,
        decision.reasons,
    )


def _support(support: SupportFound, at: Tensor, horizon: int) -> tuple[float, float]:
    """Weighted share of supported steps of rollouts from these starts, and the share in the last quarter."""
    mine = torch.isin(support.start, at) & (support.weight > 0)
    if not bool(mine.any()):
        return float("nan"), float("nan")
    weight, inside = support.weight[mine].double(), support.supported[mine].double()
    last = support.step[mine] >= horizon - -(-horizon // 4)
    late = float(inside[last].mean()) if bool(last.any()) else 1.0
    return float((weight * inside).sum() / weight.sum()), late


def _by_tag(tag: str, column: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], str]:
    distinct, labels = np.unique(column, return_inverse=True)
    if len(distinct) <= FEW_VALUES:
        return labels.astype(np.int64), f"Start states with the same value of {tag} are one regime."
    inner = np.unique(np.quantile(column, np.linspace(0, 1, PARTS + 1)[1:-1]))
    _, labels = np.unique(np.searchsorted(inner, column, side="right"), return_inverse=True)
    return labels.astype(np.int64), f"Start states are cut into {PARTS} parts of equal size by their value of {tag}."


def _by_clusters(frames: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], float, str]:
    spread = frames.std(axis=0)
    moving = spread > 0.0
    labels, silhouette = find_clusters((frames[:, moving] - frames[:, moving].mean(axis=0)) / spread[moving], rng)
    count = int(labels.max()) + 1
    known = "no figure" if np.isnan(silhouette) else f"{silhouette:.2f}"
    rule = "The measured tags at the start states, scaled by their spread, "
    if count > 1:
        rule += f"fall into {count} clusters (k-means; mean silhouette {known}, at least {SEPARATED:g} is asked for)."
    else:
        rule += (
            f"do not fall into clusters (k-means; best mean silhouette {known}, at least {SEPARATED:g} is asked for): "
            "all operation is one regime. Name a tag to cut by (--regime)."
        )
    return labels, silhouette, rule


def _telling(frames: npt.NDArray[np.float64], mine: npt.NDArray[np.bool_], names: tuple[str, ...]) -> tuple[str, ...]:
    """The tags by which these states differ most from the others: distance of the means in spreads of both."""
    if mine.all():
        return ()
    ours, others = frames[mine], frames[~mine]
    spread = np.sqrt(ours.var(axis=0) + others.var(axis=0))
    apart = np.abs(ours.mean(axis=0) - others.mean(axis=0)) / np.maximum(spread, 1e-12)
    order = np.argsort(-apart, kind="stable")[:NAMED_BY]
    return tuple(names[column] for column in order if apart[column] > 1.0 or column == order[0])


def _named(tag: str, low: float, high: float, unit: str) -> str:
    tail = "" if unit == "1" else f" {unit}"
    return f"{tag} {low:.3g}{tail}" if f"{low:.3g}" == f"{high:.3g}" else f"{tag} {low:.3g} to {high:.3g}{tail}"


def _ends(column: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(column.min()), float(column.max())


def _middle(column: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(column, [0.05, 0.95])
    return float(low), float(high)
