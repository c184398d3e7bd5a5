"""From findings to the report's content: plain values, every one that is printed or plotted, and the words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from controlkit.dataset import Split, TransitionDataset
from controlkit.evaluation.actuators import distributions, spans
from controlkit.evaluation.advice import next_steps, shadow_plan
from controlkit.evaluation.bootstrap import Estimate
from controlkit.evaluation.candidates import Candidate
from controlkit.evaluation.envelope import find_envelope, recorded_actions
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.in_sample import InSampleFound
from controlkit.evaluation.limits import ActuatorUse, actuator_use
from controlkit.evaluation.model_rollouts import values
from controlkit.evaluation.provenance import provenance
from controlkit.evaluation.regimes import RegimeFindings, Regimes, find_regimes, judge_regimes
from controlkit.evaluation.report import SCHEMA, Report
from controlkit.evaluation.risks import rank_risks
from controlkit.evaluation.support import SupportFound
from controlkit.evaluation.trajectories import draw_trajectories
from controlkit.evaluation.verdict import AMBER_SUPPORT, EXIT_CODES, MIN_SUPPORT
from controlkit.objective import CommandLimits
from controlkit.spec import CostTerm, FunctionTerm, PlantSpec, RangeTerm, RecordedTerm, TrackTerm

POINTS = 1200
DIGITS = 6


def describe(
    found: Findings,
    policies: Sequence[Candidate],
    split: Split,
    data: TransitionDataset,
    regime: str | None = None,
) -> Report:
    """The report of an evaluation; its verdict is that of the best candidate (by verdict, then by gain).

    Args:
        found: the evaluation.
        policies: what was evaluated, in the order of its candidates.
        split: of the data set; data: the whole of it.
        regime: the measured tag that tells operating regimes; `None`: they are looked for.
    """
    order = list(EXIT_CODES)
    best = min(found.candidates, key=lambda c: (order.index(c.decision.verdict), -c.gain.low))
    spec = data.spec
    regimes = find_regimes(found, regime)
    recorded = recorded_actions(found)
    ends = spans([recorded, *(r.actions for c in found.candidates for r in c.rolled)])
    content = {
        "schema": SCHEMA,
        "verdict": best.decision.verdict,
        "reasons": list(best.decision.reasons),
        "warnings": list(best.decision.warnings),
        "missing": list(best.decision.missing),
        "best": best.name,
        "plant": {
            "name": spec.name,
            "description": spec.description,
            "period_s": spec.period_s,
            "units": found.units,
            "descriptions": {tag: described.description for tag, described in spec.tags.items()},
            "reward_unit": reward_unit(spec),
        },
        "estimand": {
            "gamma": found.estimand.gamma,
            "horizon": found.estimand.horizon,
            "weight_inside": found.estimand.weight,
            "starts": len(found.starts.rows),
            "spread": float(found.starts.returns.std()),
            "independent_stretches": found.starts.blocks,
        },
        "operator": {
            "logged": _estimate(found.logged),
            "model": _estimate(found.operator_model),
            "fqe": _estimate(found.operator_fqe),
            "doubly_robust": _estimate(found.operator_doubly_robust),
            "unexplained_autocorrelation": found.candidates[0].evidence.unexplained,
            "actuators": [asdict(use) for use in _recorded_use(found, spec)],
            "distributions": distributions(spec, recorded, _recorded_alive(found), ends),
            "terms": {
                name: {
                    "realised": float(realised.mean()),
                    "model": float(values(found.operator_rolled, name).mean()),
                }
                for name, realised in found.starts.terms.items()
            },
        },
        "regimes": _regimes(regimes, found),
        "back_test": _back_test(found, spec),
        "candidates": [_candidate(candidate, found, data, regimes, ends) for candidate in found.candidates],
        "provenance": provenance(found, policies, split, data),
    }
    plain = _plain(content)
    return Report(best.decision.verdict, best.decision.reasons, plain)


def reward_unit(spec: PlantSpec) -> str:
    """The unit of a reward per period: the tags' own where all terms share one and none is weighted."""
    units = set()
    for term in spec.objective:
        if isinstance(term, FunctionTerm | RecordedTerm) or term.weight != 1.0:
            return "objective units"
        squared = isinstance(term, TrackTerm | RangeTerm) and term.error == "squared"
        unit = spec.tags[term.tag].unit
        if isinstance(term, TrackTerm | CostTerm | RangeTerm):
            units.add(f"({unit})²" if squared else unit)
    return units.pop() if len(units) == 1 else "objective units"


def _candidate(
    c: CandidateFindings,
    found: Findings,
    data: TransitionDataset,
    regimes: Regimes,
    ends: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    spec, unit = data.spec, reward_unit(data.spec)
    actions = torch.cat([r.actions for r in c.rolled], dim=1)
    alive = torch.cat([r.alive for r in c.rolled], dim=1)
    uses, recorded = actuator_use(spec, CommandLimits(spec), actions, alive), _recorded_use(found, spec)
    judged = judge_regimes(c, found, regimes, spec)
    envelope = find_envelope(c, found, judged, spec)
    plan = shadow_plan(c, found, envelope, recorded, unit, spec.period_s)
    return {
        "name": c.name,
        "verdict": c.decision.verdict,
        "reasons": list(c.decision.reasons),
        "warnings": list(c.decision.warnings),
        "missing": list(c.decision.missing),
        "checks": [asdict(check) for check in c.decision.checks],
        "gain": _estimate(c.gain),
        "gain_model": _estimate(c.gain_model),
        "gain_fqe": _estimate(c.gain_fqe),
        "gain_doubly_robust": _estimate(c.doubly_robust.gain),
        "model": _estimate(c.by_model),
        "fqe": _estimate(c.by_fqe),
        "fqe_ridge": c.ridge,
        "doubly_robust": _estimate(c.doubly_robust.value),
        "doubly_robust_effective": c.doubly_robust.effective,
        "model_filtered": None if c.by_filter is None else _estimate(c.by_filter),
        "terms": {name: _estimate(gain) for name, gain in c.terms.items()},
        "term_values": {name: float(values(c.rolled, name).mean()) for name in c.terms},
        "bellman_error": c.bellman,
        "in_sample": _in_sample(c.in_sample),
        "effective_samples": [{"steps": steps, "size": size} for steps, size in c.effective.items()],
        "support": _support(c.support, found),
        "limits": [
            asdict(limit)
            | {"holds": limit.holds, "broken": limit.broken, "fqe": None if fqe is None else _estimate(fqe)}
            for limit, fqe in zip(c.evidence.limits, c.outside_fqe, strict=True)
        ],
        "regimes": [_regime(each) for each in judged],
        "actuators": [asdict(use) for use in uses],
        "distributions": distributions(spec, actions, alive, ends),
        "trajectories": draw_trajectories(
            c.rolled, found.operator_rolled, found.starts, found.log, found.first_row, data
        ),
        "risks": [
            asdict(risk)
            for risk in rank_risks(c, found, judged, envelope, list(zip(uses, recorded, strict=True)), unit)
        ],
        "envelope": asdict(envelope),
        "shadow_plan": None if plan is None else asdict(plan),
        "next_steps": next_steps(c, found, plan, unit),
    }


def _in_sample(found: InSampleFound) -> dict[str, Any]:
    return {
        "value": None if found.value is None else _estimate(found.value),
        "gain": None if found.gain is None else _estimate(found.gain),
        "effective": found.effective,
        "needed": found.needed,
        "bandwidth": found.bandwidth,
        "reason": found.reason,
    }


def _regimes(regimes: Regimes, found: Findings) -> dict[str, Any]:
    return {
        "tag": regimes.tag or None,
        "rule": regimes.rule,
        "silhouette": regimes.silhouette,
        "members": [
            {
                "name": each.name,
                "starts": len(each.starts),
                "share": len(each.starts) / len(found.starts.rows),
                "ranges": {tag: list(ends) for tag, ends in each.ranges.items()},
            }
            for each in regimes.members
        ],
    }


def _regime(each: RegimeFindings) -> dict[str, Any]:
    gains = {"gain": each.gain, "gain_model": each.gain_model, "gain_fqe": each.gain_fqe}
    return {
        "name": each.name,
        "outcome": each.word,
        "starts": each.starts,
        "share": each.share,
        "independent_stretches": each.stretches,
        **{name: None if gain is None else _estimate(gain) for name, gain in gains.items()},
        "support": each.support,
        "late_support": each.late,
        "reasons": list(each.reasons),
    }


def _support(support: SupportFound, found: Findings) -> dict[str, Any]:
    """The support with a map: recorded and own steps along two tags, one of which the policy leaves the log along."""
    names = found.recorded.names
    actions, states = found.log.layout.action_tags, found.log.layout.state_tags
    chief = support.outside[0].tag if support.outside else actions[0]
    other = states[0] if chief in actions else actions[0]
    x, y = (names.index(other), names.index(chief)) if chief in actions else (names.index(chief), names.index(other))
    chosen = _thin(len(support.points), POINTS)
    recorded = found.recorded.recorded[_thin(len(found.recorded.recorded), POINTS)]
    points, inside = support.points[chosen], support.supported[chosen]
    return {
        "share": support.share,
        "late": support.late,
        "by_distance": support.by_distance,
        "by_dynamics_reward": support.by_reward,
        "held_out_share": support.held_out,
        "auroc": {"distance": support.auroc_distance, "dynamics_reward": support.auroc_reward},
        "cuts": {"distance": support.distance_cut, "dynamics_reward": support.reward_cut},
        "needed": MIN_SUPPORT,
        "comfortable": AMBER_SUPPORT,
        "by_step": support.by_step.tolist(),
        "outside": [asdict(tag) for tag in support.outside],
        "map": {
            "x": names[x],
            "y": names[y],
            "recorded": recorded[:, [x, y]].T.tolist(),
            "inside": points[inside][:, [x, y]].T.tolist(),
            "outside": points[~inside][:, [x, y]].T.tolist(),
        },
    }


def _back_test(found: Findings, spec: PlantSpec) -> dict[str, Any]:
    test, model = found.back_test, found.model
    return {
        "windows": test.windows,
        "steps": len(test.rmse),
        "bias": test.bias,
        "fan_coverage": test.fan_coverage,
        "predicted": test.predicted.tolist(),
        "realised": test.realised.tolist(),
        "tags": [
            {
                "tag": tag,
                "unit": spec.tags[tag].unit,
                "one_step_rmse": float(model.one_step_rmse[i]),
                "residual_autocorrelation": float(model.autocorrelation[i]),
                "rmse": test.rmse[:, i].tolist(),
                "low": test.low[:, i].tolist(),
                "high": test.high[:, i].tolist(),
                "persistence_rmse": test.persistence[:, i].tolist(),
                "coverage": test.coverage[:, i].tolist(),
            }
            for i, tag in enumerate(spec.state_tags)
        ],
    }


def _recorded_use(found: Findings, spec: PlantSpec) -> list[ActuatorUse]:
    """Of the recorded commands from the same start states, over the same horizon."""
    return list(actuator_use(spec, CommandLimits(spec), recorded_actions(found), _recorded_alive(found)))


def _recorded_alive(found: Findings) -> torch.Tensor:
    return torch.ones(found.estimand.horizon, len(found.starts.rows), dtype=torch.bool)


def _estimate(estimate: Estimate) -> dict[str, float]:
    return asdict(estimate)


def _thin(count: int, most: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become null. Six digits are more than any figure here deserves."""
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value]
