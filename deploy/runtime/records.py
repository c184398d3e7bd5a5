"""What a cycle leaves behind: a row of the audit log, and the snapshot that is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import controlkit
from deploy.runtime.clock import Tick
from deploy.runtime.modes import ModeState
from deploy.runtime.sensing import Inputs
from deploy.runtime.session import StepResult
from deploy.runtime.slots import Slot, Slots
from deploy.runtime.snapshot import CommandView, Mode, Notice, Snapshot, TagView


def start_record(slot: Slot, address: str) -> dict[str, Any]:
    """The first row of a run: what the numbers of the following ones mean, and what it knows of the plant already."""
    manifest = slot.bundle.manifest
    kept = None if slot.recalibrator is None else slot.recalibrator.result
    return {
        "plant": manifest.plant,
        "controller": slot.controller,
        "spec_sha256": manifest.training.spec_sha256,
        "controlkit": controlkit.__version__,
        "tags": list(slot.session.tags),
        "commands": list(slot.session.commands),
        "flags": list(slot.session.flag_names),
        "period_s": manifest.period_s,
        "address": address,
        "shift": None if kept is None else kept.shift,
        "stretch": None if kept is None else kept.stretch,
    }


def cycle_record(
    number: int,
    mode: Mode,
    tick: Tick,
    inputs: Inputs,
    result: StepResult | None,
    slot: Slot,
    faults: Mapping[str, str],
    written: bool,
    compute_ms: float,
) -> dict[str, Any]:
    """A row of one cycle; what was not computed is null."""
    scored = result is not None and "observed_unscored" not in result.raised
    foreseen = result is not None and slot.warm
    ewma, cusum = slot.sums
    return {
        "cycle": number,
        "mode": mode,
        "time_ns": tick.time_ns,
        "controller": slot.controller[:12],
        "obs": _plain(inputs.obs),
        "ok": [int(value) for value in inputs.ok],
        "age": _plain(inputs.age_s),
        "act_prev": _plain(inputs.act_prev),
        "action": None if result is None else _plain(result.action),
        "policy": None if result is None else _plain(result.action_policy),
        "fallback": None if result is None else _plain(result.action_fallback),
        "predicted": _plain(result.obs_next) if result is not None and foreseen else None,
        "trust": None if result is None else _short(result.trust),
        "score_observed": _short(result.score_observed) if result is not None and scored else None,
        "score_predicted": _short(result.score_predicted) if result is not None and foreseen else None,
        "spread": _short(result.spread) if result is not None and foreseen else None,
        "shortfall": None if result is None or slot.shortfall is None else _short(slot.shortfall),
        "ewma": _short(ewma),
        "cusum": _short(cusum),
        "flags": [] if result is None else list(result.raised),
        "faults": dict(faults),
        "written": written,
        "compute_ms": round(compute_ms, 3),
    }


def notice_record(notice: Notice) -> dict[str, Any]:
    """A row of an alarm that begins or ends, or of an event."""
    return {"name": notice.name, "severity": notice.severity, "text": notice.text, "active": notice.active}


def snapshot_of(
    slots: Slots,
    state: ModeState,
    tick: Tick,
    inputs: Inputs,
    result: StepResult | None,
    faults: Mapping[str, str],
    *,
    now_ns: int,
    since_ns: int,
    notices: tuple[Notice, ...],
    counters: Mapping[str, int],
    compute_ms: float,
    cycle_ms: float,
    lease: str,
) -> Snapshot:
    """The cycle as the status page shows it."""
    slot = slots.active
    spec, session, limits = slot.bundle.spec, slot.session, slot.bundle.manifest.thresholds
    scored = result is not None and "observed_unscored" not in result.raised
    foreseen = result is not None and slot.warm
    tags = tuple(
        TagView(
            name=tag,
            unit=spec.tags[tag].unit,
            value=_number(inputs.obs[i]),
            usable=bool(inputs.ok[i]),
            age_s=_number(inputs.age_s[i]),
            low=spec.tags[tag].range[0],
            high=spec.tags[tag].range[1],
            description=spec.tags[tag].description,
        )
        for i, tag in enumerate(session.tags)
    )
    commands = tuple(
        CommandView(
            name=tag,
            unit=spec.tags[tag].unit,
            in_force=_number(inputs.act_prev[i]),
            action=None if result is None else _number(result.action[i]),
            policy=None if result is None else _number(result.action_policy[i]),
            fallback=None if result is None else _number(result.action_fallback[i]),
            low=float(session.low[i]),
            high=float(session.high[i]),
            description=spec.tags[tag].description,
        )
        for i, tag in enumerate(session.commands)
    )
    ewma, cusum = slot.sums
    recalibrator = slot.recalibrator
    return Snapshot(
        plant=spec.name,
        controller=slot.controller[:12],
        mode=state.mode,
        wanted=state.wanted,
        why=state.why,
        mode_since_ns=since_ns,
        time_ns=now_ns,
        cycle=counters["cycles"],
        period_s=spec.period_s,
        tags=tags,
        commands=commands,
        trust=0.0 if result is None else result.trust,
        score_observed=result.score_observed if result is not None and scored else None,
        score_predicted=result.score_predicted if result is not None and foreseen else None,
        spread=result.spread if result is not None and foreseen else None,
        shortfall=None if result is None else slot.shortfall,
        ewma=ewma,
        cusum=cusum,
        limits={
            "shortfall": limits.shortfall_limit,
            "ewma": limits.ewma_limit,
            "cusum": limits.cusum_limit,
            "spread": limits.spread_soft,
            "score_predicted": limits.score_soft,
        },
        flags={} if result is None else {name: session.meaning(name) for name in result.raised},
        faults=dict(faults),
        notices=notices,
        counters=dict(counters),
        compute_ms=compute_ms,
        cycle_ms=cycle_ms,
        calibration="" if recalibrator is None else recalibrator.progress,
        lease=lease,
        slots=slots.describe(),
        change_record=state.change_record,
        operator=state.operator,
    )


def _plain(values: npt.NDArray[np.float32]) -> list[float | None]:
    # The shortest text that reads back as the same float32.
    return [float(str(value)) if np.isfinite(value) else None for value in values]


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None


def _number(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
