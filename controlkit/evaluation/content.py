"""From findings to the report's content: plain values, every one that is printed or plotted, and the words."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import controlkit
from controlkit.artifacts import commit
from controlkit.dataset import Split, TransitionDataset
from controlkit.evaluation.advice import next_steps
from controlkit.evaluation.bootstrap import Estimate
from controlkit.evaluation.candidates import Candidate
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.limits import actuator_use
from controlkit.evaluation.report import SCHEMA, Report
from controlkit.evaluation.support import SupportFound
from controlkit.evaluation.trajectories import draw_trajectories
from controlkit.evaluation.verdict import AMBER_SUPPORT, EXIT_CODES, MIN_SUPPORT
from controlkit.objective import CommandLimits
from controlkit.spec import CostTerm, FunctionTerm, PlantSpec, RangeTerm, RecordedTerm, TrackTerm

POINTS = 1200
DIGITS = 6


def describe(found: Findings, policies: Sequence[Candidate], split: Split, data: TransitionDataset) -> Report:
    """The report of an evaluation; its verdict is that of the best candidate (by verdict, then by gain)."""
    order = list(EXIT_CODES)
    best = min(found.candidates, key=lambda c: (order.index(c.decision.verdict), -c.gain.low))
    spec = data.spec
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
            "unexplained_autocorrelation": found.candidates[0].evidence.unexplained,
            "actuators": _actuators_logged(found, spec),
        },
        "back_test": _back_test(found, spec),
        "candidates": [_candidate(candidate, found, data) for candidate in found.candidates],
        "provenance": _provenance(found, policies, split, data),
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


def _candidate(c: CandidateFindings, found: Findings, data: TransitionDataset) -> dict[str, Any]:
    spec = data.spec
    limits = CommandLimits(spec)
    actions = torch.cat([r.actions for r in c.rolled], dim=1)
    alive = torch.cat([r.alive for r in c.rolled], dim=1)
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
        "doubly_robust": _estimate(c.doubly_robust.value),
        "doubly_robust_effective": c.doubly_robust.effective,
        "model_filtered": None if c.by_filter is None else _estimate(c.by_filter),
        "terms": {name: _estimate(gain) for name, gain in c.terms.items()},
        "bellman_error": c.bellman,
        "effective_samples": [{"steps": steps, "size": size} for steps, size in c.effective.items()],
        "support": _support(c.support, found),
        "limits": [
            asdict(limit)
            | {"holds": limit.holds, "broken": limit.broken, "fqe": None if fqe is None else _estimate(fqe)}
            for limit, fqe in zip(c.evidence.limits, c.outside_fqe, strict=True)
        ],
        "actuators": [asdict(use) for use in actuator_use(spec, limits, actions, alive)],
        "trajectories": draw_trajectories(
            c.rolled, found.operator_rolled, found.starts, found.log, found.first_row, data
        ),
        "next_steps": next_steps(c, found, reward_unit(spec), spec.period_s),
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


def _actuators_logged(found: Findings, spec: PlantSpec) -> list[dict[str, Any]]:
    """The recorded commands from the same start states, over the same horizon."""
    steps = found.starts.rows + torch.arange(found.estimand.horizon).unsqueeze(1)  # (H, N)
    actions = found.log.actions[steps]
    alive = torch.ones(actions.shape[:2], dtype=torch.bool)
    return [asdict(use) for use in actuator_use(spec, CommandLimits(spec), actions, alive)]


def _provenance(
    found: Findings, policies: Sequence[Candidate], split: Split, data: TransitionDataset
) -> dict[str, Any]:
    start, stop = found.first_row, len(data)
    return {
        "version": controlkit.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": found.seed,
        "quick": found.quick,
        "effort": asdict(found.effort),
        "seconds": found.seconds,
        "rows": {"data set": len(data), "evaluation log": stop - start, "usable": len(found.log.rows)},
        "evaluation_log": [_stamp(data, start), _stamp(data, stop - 1)],
        "spec_sha256": data.spec.sha256(),
        "split": split.to_dict(),
        "policies": [
            {"name": each.policy.name, "kind": each.kind, "source": Path(each.source).name, "sha256": each.sha256}
            for each in policies
        ],
        "runs": [
            {
                "path": run.path.name,
                "data_sha256": run.data.get("data_sha256", ""),
                "split": run.split.to_dict(),
                "config": run.config.to_dict(),
            }
            for run in (each.run for each in policies)
            if run is not None
        ],
        "sources": dict(data.sources),
    }


def _stamp(data: TransitionDataset, row: int) -> str:
    return f"{np.datetime64(int(data.time_ns[row]), 'ns').astype('datetime64[s]')} UTC"


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
