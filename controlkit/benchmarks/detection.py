"""The suite `detection`: what the checks in the exported graph find, how soon, and how often they cry wolf.

Every plant's controller is trained, exported and then shown trajectories that neither training nor calibration saw:
healthy ones for false trips, and paired ones with an injected fault for detection. Each is seen twice: in SHADOW, where
the operator acts, and in closed loop with the controller's own action. No threshold is tuned here: they are those that
the export calibrated. Figures are kept in `parts/`, trained runs in `data/`, so that an interrupted benchmark goes on
where it was.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import commit
from controlkit.benchmarks.detection_faults import (
    Fault,
    Injector,
    Ints,
    Signals,
    all_faults,
    columns_of,
    compressed,
    starts_of,
)
from controlkit.benchmarks.detection_loop import Lane, Trace, watch
from controlkit.benchmarks.detection_plants import PLANTS, DetectionPlant, Prepared, get_plant, prepare
from controlkit.benchmarks.detection_scores import (
    SCALES,
    SCORE_RULES,
    TRIPS,
    Found,
    false_trips,
    find,
    recalibrated,
    tail_beyond,
)
from controlkit.benchmarks.detection_sources import CHANGES, RecordedOperator, RecordedPlant, source
from controlkit.benchmarks.detection_table import SOON, records_of, table_of
from controlkit.benchmarks.results import write_results
from controlkit.errors import ControlkitError
from controlkit.files import read_json, write_json, write_text
from controlkit.progress import Progress

MODES = ("shadow", "closed loop")
# Deadbands of the historian, in multiples of a tag's noise; 0 is the stream as it is.
DEADBANDS = (0.0, 1.0, 2.0, 4.0)
AHEAD = 10
# Draws of their own for each kind of trajectory.
HEALTHY_SEED, FAULTY_SEED, TAIL_SEED = 910_000, 920_000, 930_000

Part = dict[str, Any]


def run_suite(out: Path, seeds: int, progress: Progress, *, tasks: Sequence[str] = ()) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md`, the figures in `parts/` and the trained runs in `data/`.
        seeds: training seeds; a plant that takes long to train takes fewer.
        progress: is told of each plant.
        tasks: which plants; all where none is named, but for those whose released data are not there.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown plant, or a named one whose data are not there.
    """
    jobs = [
        (name, get_plant(name), seed) for name in tasks or PLANTS for seed in range(min(seeds, get_plant(name).seeds))
    ]
    progress.start("plants", len(jobs))
    parts: list[Part] = []
    for name, plant, seed in jobs:
        try:
            plant.require_data()
        except ControlkitError as problem:
            if tasks:
                raise
            progress.message(f"{name} is left out: {problem}")
            progress.advance()
            continue
        prepared = prepare(plant, seed, out / "data" / f"{name}-{seed}")
        for mode in MODES:
            kept = out / "parts" / f"{name}-{seed}-{mode.replace(' ', '-')}.json"
            part = _kept(kept, plant, prepared)
            if part is None:
                part = measure(name, plant, prepared, seed, mode)
                write_json(kept, part)
            parts.append(part)
        progress.advance(note=f"{name} seed {seed}")
    write_results(out, records_of(parts))
    table = table_of(parts)
    write_text(out / "table.md", table)
    return table


def measure(name: str, plant: DetectionPlant, prepared: Prepared, seed: int, mode: str) -> Part:
    """Everything about one controller in one mode.

    Args:
        name: of the plant.
        plant: how it is watched.
        prepared: its controller.
        seed: of training, and of the trajectories.
        mode: one of `MODES`.
    """
    began = time.monotonic()
    layout, manifest = prepared.bundle.layout, prepared.bundle.manifest
    signals = Signals.of(prepared.bundle.spec, prepared.sigma)
    lane = _lane(plant, signals, mode, HEALTHY_SEED + seed, plant.healthy)
    (healthy,) = watch(prepared.graph, [lane], plant.healthy_steps, judged=True)
    part: Part = {
        "plant": name,
        "seed": seed,
        "mode": mode,
        "commit": commit(),
        "settings": settings_of(plant),
        "config": prepared.config.to_dict(),
        "model_sha256": manifest.model.sha256,
        "data_sha256": prepared.data_sha256,
        "sigma": {tag: float(prepared.sigma[layout.frame_tags.index(tag)]) for tag in layout.state_tags},
        "frozen_repeats": manifest.thresholds.frozen_repeats,
        "train_seconds": round(prepared.seconds, 1),
        "healthy": _healthy(healthy, prepared, seed),
        "streams": _streams(plant, prepared, signals, healthy) if mode == "shadow" and plant.recalibration else [],
        "faults": _faults(plant, prepared, signals, mode, seed) if plant.faulty else [],
    }
    return part | {"seconds": round(time.monotonic() - began, 1)}


def settings_of(plant: DetectionPlant) -> dict[str, Any]:
    """What a plant's figures depend on, as `read_json` gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(plant)))
    return plain


def _kept(path: Path, plant: DetectionPlant, prepared: Prepared) -> Part | None:
    part: Part = read_json(path) if path.is_file() else {}
    same = part.get("settings") == settings_of(plant)
    return part if same and part.get("model_sha256") == prepared.bundle.manifest.model.sha256 else None


def _lane(
    plant: DetectionPlant,
    signals: Signals,
    mode: str,
    seed: int,
    copies: int,
    fault: tuple[Fault, Ints, Ints] | None = None,
) -> Lane:
    """A plant in a mode; with a fault, its start and its tag in each copy."""
    simulator, operator = source(plant, mode == "shadow", seed, copies)
    nothing = np.zeros(simulator.copies, dtype=np.int64)
    what, start, column = (None, nothing, nothing) if fault is None else fault
    rng = np.random.default_rng([seed, zlib.crc32(what.name.encode()) if what else 0])
    noise = np.where(np.isfinite(signals.sigma), plant.noise, 0.0) if plant.noise else None
    injector = Injector(what, start, column, signals, rng)
    return Lane(simulator, operator, injector, CHANGES.get(plant.changed), noise, seed)


def _healthy(trace: Trace, prepared: Prepared, seed: int) -> Part:
    full, thresholds = trace.full, prepared.bundle.manifest.thresholds
    rng = np.random.default_rng(TAIL_SEED + seed)
    limits = {
        "shortfall": (trace.shortfall, thresholds.shortfall_limit),
        "ewma": (trace.ewma, thresholds.ewma_limit),
        "cusum": (trace.cusum, thresholds.cusum_limit),
    }
    return {
        "trips": asdict(false_trips(trace.up(*TRIPS), full)),
        "by_rule": {rule: false_trips(trace.up(rule), full).trips for rule in (*TRIPS, *SCALES)},
        "trust": float(trace.trust[full].mean()),
        "unscored_share": float(trace.up("observed_unscored")[full].mean()),
        "unfamiliar_share": float(trace.up("observed_unfamiliar")[full].mean()),
        "tails": {
            name: asdict(tail_beyond(values.astype(np.float64), limit, rng)) for name, (values, limit) in limits.items()
        },
    }


def _streams(plant: DetectionPlant, prepared: Prepared, signals: Signals, healthy: Trace) -> list[Part]:
    """Healthy logs as a historian with a deadband would hand them on, before and after a recalibration."""
    manifest, columns = prepared.bundle.manifest, signals.columns
    commands = healthy.commands[1:, : plant.streams].transpose(1, 0, 2)
    nothing = np.zeros(len(commands), dtype=np.int64)
    streams, lanes = [], []
    for size in DEADBANDS:
        deadband = np.zeros(len(signals.sigma))
        deadband[columns] = size * signals.sigma[columns]
        streams.append(compressed(healthy.frames[:, : plant.streams], deadband))
        replayed = RecordedPlant(streams[-1].transpose(1, 0, 2), prepared.bundle.layout.frame_tags)
        injector = Injector(None, nothing, nothing, signals, np.random.default_rng(0))
        lanes.append(Lane(replayed, RecordedOperator(commands), injector))
    rows = []
    for size, frames, trace in zip(
        DEADBANDS, streams, watch(prepared.graph, lanes, len(healthy.frames), judged=True), strict=True
    ):
        again = recalibrated(trace, plant.recalibration, manifest.thresholds, manifest.safety)
        z = trace.shortfall[~np.isnan(trace.shortfall)]
        rows.append(
            {
                "deadband": size,
                "repeat_share": float((frames[1:, :, columns] == frames[:-1, :, columns]).mean()),
                "unscored_share": float(trace.up("observed_unscored")[trace.full].mean()),
                "mean": float(z.mean()) if len(z) else None,
                "std": float(z.std()) if len(z) else None,
                "frozen": asdict(false_trips(trace.up("input_frozen"), trace.full)),
                "before": asdict(false_trips(trace.up(*SCORE_RULES), trace.full)),
                "after": asdict(false_trips(again.up, again.counted)),
                "accepted": int(again.accepted.sum()),
                "trajectories": len(again.accepted),
            }
        )
    return rows


def _faults(plant: DetectionPlant, prepared: Prepared, signals: Signals, mode: str, seed: int) -> list[Part]:
    """Every fault, and the healthy run that it is paired with, in one batch; starts that depend on how the plant moves
    need the healthy run first."""
    window, stream = (plant.warm_up, plant.warm_up + plant.starts), FAULTY_SEED + seed
    (alone,) = watch(prepared.graph, [_lane(plant, signals, mode, stream, plant.faulty)], plant.steps)
    copies = alone.flags.shape[1]
    draws: Ints = np.asarray(np.random.default_rng(stream).integers(*window, copies), dtype=np.int64)
    faults = all_faults(
        plant=not (mode == "shadow" and plant.held_out),
        dynamics=bool(plant.changed),
        swappable=bool((signals.partner >= 0).any()),
    )
    placed, moves = [], []
    for fault in faults:
        column = columns_of(signals, fault, copies)
        start, moved = starts_of(fault, draws, alone.frames, column, AHEAD, window)
        placed.append((fault, start, column))
        moves.append(float(np.median(moved / signals.sigma[column])))
    lanes = [_lane(plant, signals, mode, stream, plant.faulty, each) for each in (None, *placed)]
    healthy, *faulty = watch(prepared.graph, lanes, plant.steps)
    return [
        _row(fault, plant, find(trace, healthy, start, plant.horizon), column, prepared.bundle.layout.frame_tags)
        | {"moved_sigma": moved}
        for (fault, start, column), trace, moved in zip(placed, faulty, moves, strict=True)
    ]


def _row(fault: Fault, plant: DetectionPlant, found: Found, column: Ints, tags: tuple[str, ...]) -> Part:
    hit = found.delay >= 0
    return {
        "fault": fault.name,
        "label": fault.label(plant.changed),
        "runs": len(hit),
        "found": int(hit.sum()),
        "found_soon": int((hit & (found.delay <= SOON)).sum()),
        "found_by_score": int(found.scored.sum()),
        "delays": {str(delay): count for delay, count in sorted(Counter(found.delay[hit].tolist()).items())},
        "rules": dict(Counter(rule for rule in found.rule if rule).most_common()),
        "by_tag": {tags[c]: [int(hit[column == c].sum()), int((column == c).sum())] for c in np.unique(column)},
    }
