"""What a set of evaluations with known truth is worth: errors, ranks, coverage, verdicts, and what refusing is for.

Errors are judged in units of the range of the plant's true policy values. Rates are of all policies of all data sets;
their upper bounds are clustered by data set, since policies of one data set share its errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from controlkit.evaluation.bootstrap import t_quantile
from controlkit.ranks import spearman
from envs.simulation import Floats

GIVEN = ("GO TO SHADOW", "NO-GO")
# A policy counts as truly better from this share of the range on, and as truly supported from this share of its steps.
BETTER, SUPPORTED = 0.10, 0.80
UPPER = 0.95

# Of one policy on one data set: see `ope.judge`.
Row = Mapping[str, Any]
DataSet = Sequence[Row]


def scores(sets: Sequence[DataSet]) -> dict[str, float]:
    """The figures over data sets of one plant and log size (each with the same policies).

    Returns:
        `abs_error_median`, `abs_error_p90`: of the gain, where GO or NO-GO was said; `*_refused`: where NO VERDICT was.
        `coverage`: of the gain's interval where GO or NO-GO was said; `coverage_all`: everywhere.
        `spearman`, `regret_at_1`: mean over data sets, by the estimated gain of all policies; `regret_given`: of the
        best among those with GO or NO-GO. `false_go`: share of the truly not better policies that got GO TO SHADOW;
        `power`: of the truly better and truly supported ones that did; `verdict_share`: of the truly supported ones
        that got GO or NO-GO. With each its upper bound (`_upper`) and how many policies it is a share of (`_of`).
    """
    rows = [row for each in sets for row in each]
    given = [row for row in rows if row["verdict"] in GIVEN]
    refused = [row for row in rows if row["verdict"] == "NO VERDICT"]
    found: dict[str, float] = {"sets": len(sets), "policies": len(rows) / len(sets), "given": len(given)}
    for name, chosen in (("", given), ("_refused", refused), ("_all", rows)):
        errors = np.array([row["error"] for row in chosen])
        found["abs_error_median" + name] = _quantile(errors, 0.5)
        found["abs_error_p90" + name] = _quantile(errors, 0.9)
    found["coverage"] = _mean([row["covered"] for row in given])
    found["coverage_all"] = _mean([row["covered"] for row in rows])
    found["spearman"] = _mean([float(spearman(_of(each, "gain"), _of(each, "true_gain"))) for each in sets])
    found["regret_at_1"] = _mean([_regret(each) for each in sets])
    spoken = [[row for row in each if row["verdict"] in GIVEN] for each in sets]
    found["regret_given"] = _mean([_regret(among) for among in spoken if among])
    found |= _rates("false_go", sets, lambda row: not _truly_better(row, 0.0), _goes)
    found |= _rates("power", sets, lambda row: _truly_better(row) and _known(row), _goes)
    found |= _rates("verdict_share", sets, _known, lambda row: row["verdict"] in GIVEN)
    return found


def risk_coverage(rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """The risk-coverage curve (El-Yaniv and Wiener 2010): shares accepted, most trusted first, and the median error of
    what is accepted, (N,) each. Trust is the smaller of support and late support, less the estimators' disagreement."""
    trust = np.array([row["trust"] for row in rows])
    errors = np.array([row["error"] for row in rows])[np.argsort(-trust, kind="stable")]
    share = np.arange(1, len(errors) + 1) / len(errors)
    return share, np.array([np.median(errors[: count + 1]) for count in range(len(errors))])


def clustered_upper(shares: Sequence[float]) -> float:
    """One-sided 95 % upper bound of a rate from its shares on independent data sets: a t bound, or the bound of a rate
    that was zero in all of them, 1 - 0.05^(1/D)."""
    count = len(shares)
    if not count:
        return math.nan
    none = float(1.0 - (1.0 - UPPER) ** (1.0 / count))
    if not any(shares):
        return none
    if count < 2:
        return 1.0
    error = float(np.std(shares, ddof=1)) / math.sqrt(count)
    return min(1.0, float(np.mean(shares)) + t_quantile(UPPER, count - 1.0) * error)


def _rates(
    name: str, sets: Sequence[DataSet], among: Callable[[Row], bool], hit: Callable[[Row], bool]
) -> dict[str, float]:
    """Share of hits among some rows, pooled; its upper bound, and how many rows it is of."""
    chosen = [[row for row in each if among(row)] for each in sets]
    pooled = [hit(row) for each in chosen for row in each]
    shares = [_mean([hit(row) for row in each]) for each in chosen if each]
    return {name: _mean(pooled), f"{name}_upper": clustered_upper(shares), f"{name}_of": float(len(pooled))}


def _goes(row: Row) -> bool:
    return bool(row["verdict"] == "GO TO SHADOW")


def _truly_better(row: Row, by: float = BETTER) -> bool:
    return bool(row["true_gain"] > by * row["range"])


def _known(row: Row) -> bool:
    return bool(row["true_support"] >= SUPPORTED)


def _regret(each: DataSet) -> float:
    """What choosing by the estimated gain gives away, in ranges."""
    chosen = max(each, key=lambda row: float(row["gain"]))
    best = max(float(row["true_gain"]) for row in each)
    return (best - float(chosen["true_gain"])) / float(chosen["range"])


def _of(each: DataSet, name: str) -> torch.Tensor:
    return torch.tensor([row[name] for row in each], dtype=torch.float64)


def _mean(values: Sequence[float] | Sequence[bool]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else math.nan
