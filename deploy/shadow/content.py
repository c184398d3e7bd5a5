"""From sums to the report's content: plain values, every one that is printed or plotted, and the verdict."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import controlkit
from controlkit.evaluation.bootstrap import LEVEL, moving_block, t_interval
from deploy.bundle.store import Bundle
from deploy.runtime.audit_reader import AuditCheck
from deploy.runtime.snapshot import MODES
from deploy.shadow.comparison import SHADOW
from deploy.shadow.operation import SERIES, Events
from deploy.shadow.reading import Read
from deploy.shadow.timeline import Stretches
from deploy.shadow.trend import MIN_BLOCKS, block_length, find_changes, find_trend
from deploy.shadow.verdict import Decision, Evidence, Rules, decide

if TYPE_CHECKING:
    from deploy.shadow.report import Measures

SCHEMA = 1
# Points of a plotted line, and columns of the sensors' map.
POINTS, MAP_POINTS = 300, 120
# Blocks that the trend and the changes of level are looked for in.
TREND_BLOCKS = 96
DRAWN_COMMANDS = 6
DIGITS = 6
# The largest disagreements are apart by this share of the whole time, or by so many periods, whichever is longer.
APART_SHARE, APART_PERIODS = 0.01, 20

Floats = npt.NDArray[np.float64]


def describe(
    bundle: Bundle, measures: Measures, events: Events, read: Read, chain: AuditCheck, rules: Rules, seed: int
) -> tuple[dict[str, Any], Decision]:
    """The content of `shadow.json`, and the decision in it."""
    manifest, spec = bundle.manifest, bundle.spec
    drift = _drift(bundle, measures, events)
    prediction, sensors = measures.prediction.summary(), measures.sensors.summary()
    evidence = _evidence(measures, events, read, chain, drift, prediction, sensors, manifest.period_s)
    decision = decide(evidence, rules)
    units = {tag: described.unit for tag, described in spec.tags.items()}
    content = {
        "schema": SCHEMA,
        "verdict": decision.verdict,
        "reasons": decision.reasons,
        "missing": decision.missing,
        "warnings": _warnings(measures, read, chain),
        "checks": [asdict(check) for check in decision.checks],
        "rules": asdict(rules),
        "plant": {
            "name": spec.name,
            "description": spec.description,
            "period_s": manifest.period_s,
            "units": units,
            "reward_unit": measures.baseline.unit,
        },
        "coverage": _coverage(measures, evidence),
        "commands": _commands(measures),
        "baseline": _baseline(measures, seed),
        "prediction": {"tags": prediction, "near_pairs": max((tag["steps"] for tag in prediction), default=0)},
        "drift": drift,
        "sensors": {"tags": sensors, "over_time": _usable(measures)},
        "runtime": _runtime(measures, events),
        "provenance": {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "controlkit": controlkit.__version__,
            "python": platform.python_version(),
            "bundle": {
                "controller": manifest.model.sha256,
                "spec_sha256": manifest.training.spec_sha256,
                "data_sha256": manifest.training.data_sha256,
                "evaluation": manifest.evaluation.verdict,
                "override": manifest.evaluation.override,
                "signer": manifest.signer,
                "controlkit": manifest.controlkit,
            },
            "log": {
                "controlkit": read.versions,
                "addresses": read.addresses,
                "rows": chain.rows,
                "first_seq": chain.first_seq,
                "last_seq": chain.last_seq,
                "last_hash": chain.last_hash,
                "segments": chain.segments,
                "problem": evidence.chain_problem,
                "cycles": read.cycles,
                "malformed": read.malformed,
                "examples": read.examples,
                "other_controllers": read.others,
            },
            "seed": seed,
        },
    }
    plain: dict[str, Any] = _plain(content)
    return plain, decision


def _evidence(
    measures: Measures,
    events: Events,
    read: Read,
    chain: AuditCheck,
    drift: Mapping[str, Any],
    prediction: list[dict[str, Any]],
    sensors: list[dict[str, Any]],
    period_s: float,
) -> Evidence:
    o = measures.operation
    shadow, cycles = int(o.modes[SHADOW]), o.cycles
    span = o.last_ns - o.first_ns + round(period_s * 1e9)
    ranked = ranked_flags(o.doubted, o.flag_names, shadow - o.trusted)
    least = min(sensors, key=lambda tag: float(tag["usable"]))
    return Evidence(
        chain_problem=chain.problem or read.damage,
        lost_rows="audit_rows_lost" in events.alarms,
        malformed=read.malformed / (read.cycles + read.malformed),
        shadow_days=shadow * period_s / 86_400,
        coverage=min(cycles * period_s * 1e9 / span, 1.0),
        trusted=_share(o.trusted, shadow),
        scored=_share(o.scored, shadow),
        faulty=_share(o.faulty, cycles),
        late=_share(o.late, cycles),
        alarmed=_share(max(o.ewma_high, o.cusum_high), o.watched),
        doubt=", ".join(f"{flag['name']} ({100 * flag['share']:.3g} %)" for flag in ranked[:3]),
        least_usable=(least["tag"], least["usable"]),
        unsafe=o.outside,
        active_alarms=tuple(a["name"] for a in events.alarms.values() if a["active"] and a["severity"] == "alarm"),
        trend_known=drift["trend"]["blocks"] >= MIN_BLOCKS,
        trend_found=drift["trend"]["found"],
        trend_change=drift["trend"]["change"],
        level_change=drift["changes"][-1]["after"] - drift["changes"][0]["before"] if drift["changes"] else 0.0,
        mean_shortfall=drift["mean_shortfall"],
        errors=tuple((tag["tag"], tag["ratio"], tag["steps"]) for tag in prediction),
    )


def _warnings(measures: Measures, read: Read, chain: AuditCheck) -> list[str]:
    found, o = [], measures.operation
    if read.others:
        count = sum(read.others.values())
        found.append(
            f"{count} cycles of other controllers ({', '.join(sorted(read.others)[:3])}) are in the log and left out: "
            "this report is about the newest one."
        )
    if chain.first_seq > 1:
        found.append(f"The log begins at row {chain.first_seq}: older segments were dropped, or taken away.")
    if read.malformed:
        found.append(f"{read.malformed} rows could not be used, such as {'; '.join(read.examples[:2])}.")
    if o.stepped_back:
        found.append(f"The clock was set back {o.stepped_back} times; times on the plots overlap there.")
    return found


def _coverage(measures: Measures, evidence: Evidence) -> dict[str, Any]:
    o = measures.operation
    presence, scores = (line.stretches().coarse(POINTS) for line in (o.presence, o.scores))
    full = presence.width_ns / o.period_ns
    shadow = int(o.modes[SHADOW])
    return {
        "first_ns": o.first_ns,
        "last_ns": o.last_ns,
        "cycles": o.cycles,
        "by_mode": {mode: int(count) for mode, count in zip(MODES, o.modes, strict=True)},
        "coverage": evidence.coverage,
        "gap_count": o.gap_count,
        "gap_ns": o.gap_ns,
        "gaps": o.gaps(),
        "over_time": {
            "time_ms": _milliseconds(presence),
            "shares": {
                mode: np.minimum(presence.count[:, i] / full, 1.0).tolist()
                for i, mode in enumerate(MODES)
                if o.modes[i]
            },
        },
        "trusted": evidence.trusted,
        "trust": {"time_ms": _milliseconds(scores), **_columns(scores, SERIES.index("trust"))},
        "flags": ranked_flags(o.flags, o.flag_names, shadow),
        "doubts": ranked_flags(o.doubted, o.flag_names, shadow - o.trusted),
    }


def ranked_flags(counts: npt.NDArray[np.int64], names: tuple[str, ...], cycles: int) -> list[dict[str, Any]]:
    """Flags that were raised, most often first, with their share of `cycles`."""
    order = np.argsort(-counts, kind="stable")
    return [{"name": names[i], "share": int(counts[i]) / max(cycles, 1)} for i in order if counts[i]]


def _commands(measures: Measures) -> dict[str, Any]:
    comparison, o = measures.comparison, measures.operation
    apart = max(round(APART_SHARE * (o.last_ns - o.first_ns)), APART_PERIODS * o.period_ns)
    tables = comparison.summary(apart)
    found = comparison.over_time.stretches().coarse(POINTS)
    m = len(comparison.tags)
    # Where the difference is largest, an engineer looks first; the others are in the tables.
    order = sorted(range(m), key=lambda i: -tables[i]["absolute"] if tables[i]["steps"] else 1.0)
    over_time = {
        comparison.tags[i]: {
            name: _columns(found, part * m + i)
            for part, name in enumerate(("done", "policy", "difference", "agreement"))
        }
        for i in sorted(order[:DRAWN_COMMANDS])
    }
    return {
        "pairs": comparison.pairs,
        "apart_s": apart / 1e9,
        "tags": tables,
        "time_ms": _milliseconds(found),
        "over_time": over_time,
        "together": found.mean[:, 4 * m],
    }


def _baseline(measures: Measures, seed: int) -> dict[str, Any]:
    baseline = measures.baseline
    fine = baseline.over_time.stretches()
    count, mean = fine.count[:, 0], fine.mean[:, 0]
    known = count > 0
    estimate: dict[str, Any] = dict.fromkeys(("value", "low", "high", "stderr"), math.nan) | {"level": LEVEL}
    block = 0
    if known.any():
        weights, values = count[known].astype(np.float64), mean[known]
        block = block_length(values)
        error = moving_block(values, block, np.random.default_rng(seed), weights=weights)
        estimate = asdict(t_interval(float(np.average(values, weights=weights)), [error]))
    coarse = fine.coarse(POINTS)
    return {
        "whole": baseline.whole,
        "missing": [{"term": name, "why": why} for name, why in baseline.missing.items()],
        "terms": baseline.terms(),
        "estimate": estimate,
        "steps": int(count.sum()),
        "block_s": block * fine.width_ns / 1e9,
        "over_time": {"time_ms": _milliseconds(coarse), **_columns(coarse, 0)},
        "limits": baseline.limits(),
    }


def _drift(bundle: Bundle, measures: Measures, events: Events) -> dict[str, Any]:
    t, o = bundle.manifest.thresholds, measures.operation
    fine = o.scores.stretches()
    column = SERIES.index("shortfall")
    blocks = fine.coarse(TREND_BLOCKS)
    count, mean = blocks.count[:, column], blocks.mean[:, column]
    # A block of a few steps is as loud as one of thousands: only those that are at least a quarter full count.
    used = np.flatnonzero((count > 0) & (count >= 0.25 * count.max(initial=0)))
    trend, changes = find_trend(mean[used]), find_changes(mean[used])
    total = int(fine.count[:, column].sum())
    coarse = fine.coarse(POINTS)
    return {
        "time_ms": _milliseconds(coarse),
        "series": {name: _columns(coarse, i) for i, name in enumerate(SERIES) if name != "trust"},
        "limits": {
            # As recalibrated on this plant; what was learned is subtracted before the check.
            "shortfall": events.shift + (1.0 + events.stretch) * t.shortfall_limit,
            "ewma": t.ewma_limit,
            "cusum": t.cusum_limit,
        },
        "calibration": {"shift": events.shift, "stretch": events.stretch, "time_ns": events.calibrated_ns or None},
        "mean_shortfall": (
            float(np.nansum(fine.mean[:, column] * fine.count[:, column]) / total) - events.shift if total else math.nan
        ),
        "beyond": {name: _share(count, o.watched) for name, count in (("ewma", o.ewma_high), ("cusum", o.cusum_high))},
        "trend": asdict(trend) | {"block_s": blocks.width_ns / 1e9},
        "blocks": {"time_ms": [_milliseconds(blocks)[i] for i in used], "mean": mean[used]},
        "changes": [
            {"time_ns": blocks.start_ns + int(used[each.block]) * blocks.width_ns, **asdict(each)} for each in changes
        ],
    }


def _runtime(measures: Measures, events: Events) -> dict[str, Any]:
    o = measures.operation
    found = o.scores.stretches().coarse(POINTS)
    return {
        "deadline_ms": o.deadline_ms,
        "latency_ms": {
            **{f"p{100 * share:g}": o.latency_ms(share) for share in (0.5, 0.9, 0.99, 0.999)},
            "largest": o.slowest_ms,
        },
        "late": o.late,
        "over_time": {"time_ms": _milliseconds(found), **_columns(found, len(SERIES))},
        "faulty": o.faulty,
        "faults": sorted(o.faults.values(), key=lambda fault: -fault["cycles"]),
        "alarms": sorted(events.alarms.values(), key=lambda alarm: (not alarm["active"], -alarm["last_ns"])),
        "events": [asdict(event) for event in reversed(events.listed)],
        "counts": dict(events.counts),
    }


def _usable(measures: Measures) -> dict[str, Any]:
    found = measures.operation.sensors.stretches().coarse(MAP_POINTS)
    shares = {tag: found.mean[:, i] for i, tag in enumerate(measures.sensors.tags)}
    return {"time_ms": _milliseconds(found), "shares": shares}


def _columns(found: Stretches, column: int) -> dict[str, Floats]:
    return {"mean": found.mean[:, column], "low": found.low[:, column], "high": found.high[:, column]}


def _milliseconds(found: Stretches) -> list[int]:
    return [int(time) for time in found.middle_ns // 1_000_000]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become null. Six digits are more than any figure here deserves."""
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
