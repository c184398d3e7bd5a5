"""Messy logs from a seed, and the stages of an ingest with what they made, for comparing one process with many."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from controlkit.align import AlignedLog
from controlkit.errors import ControlkitError
from controlkit.ingest import grid
from controlkit.ingest.partitions import Hands, Partitions
from controlkit.ingest.pipeline import _assessed
from controlkit.ingest.sources import stage_sources
from controlkit.progress import Silent
from controlkit.spec import PlantSpec

NOW = 1_900_000_000 * 10**9
# The clock goes back at 03:00 in Berlin, on 27 October 2024.
CHANGE_S = 1_729_990_800
BERLIN = 7200  # seconds ahead of UTC before the change, 3600 after it

TAGS: dict[str, dict[str, Any]] = {
    "level": {
        "role": "state", "unit": "m", "range": [-5, 5], "interpolation": "linear", "max_age_s": 20, "history": 2,
        "frozen": {"after_s": 12, "within": 0.1}, "spike_z": 6,
    },
    "inflow": {"role": "exogenous", "unit": "L/s", "range": [-5, 5], "max_age_s": 25, "frozen": {"after_s": 25}},
    "area": {"role": "static", "unit": "m^2", "range": [0, 10], "max_age_s": 500},
    "valve": {
        "role": "action", "unit": "%", "range": [-5, 5], "limits": [-4, 4], "safe": 0, "fallback": {"kind": "hold"},
        "history": 1,
    },
    "position": {"role": "feedback", "unit": "%", "range": [-5, 5], "of": "valve", "tolerance": 0.5},
    "auto": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1, 2], "max_age_s": 60},
    "note": {"role": "ignore", "unit": "1", "range": [0, 1]},
}  # fmt: skip


def plant(rng: np.random.Generator) -> PlantSpec:
    """A tank with rules of quality that remember, and a section `log` that the seed chooses."""
    log = {
        "on_fold": str(rng.choice(["reject", "earlier", "later", "by_order"], p=[0.3, 0.3, 0.3, 0.1])),
        "on_duplicate": str(rng.choice(["reject", "first", "last", "mean"])),
        "on_backward": str(rng.choice(["reject", "sort"])),
        "uncertain": str(rng.choice(["use", "leave_out"])),
        "max_quarantined": float(rng.choice([1.0, 1.0, 1.0, 0.02])),
    }
    return PlantSpec.from_dict(
        {
            "name": "tank", "period_s": 2, "time_zone": "Europe/Berlin", "tags": TAGS, "log": log,
            "episodes": {"max_gap_s": 40, "terminated": [{"tag": "level", "above": 4.2}]},
            "objective": [{"kind": "track", "tag": "level", "setpoint": 1}],
        }
    )  # fmt: skip


def write_logs(rng: np.random.Generator, spec: PlantSpec, folder: Path) -> list[Path]:
    """One to three overlapping sources, long or wide: CSV, or Parquet with small row groups.

    They lie across the change of the clock, or across the begin of the hour that it shows twice where such stamps are
    rejected.
    """
    files = []
    begin = CHANGE_S - (4000 if spec.log.on_fold == "reject" else 500)
    zone = bool(rng.random() < 0.5)
    for i in range(int(rng.integers(1, 4))):
        long, parquet = bool(rng.random() < 0.6), bool(rng.random() < 0.3)
        times = begin + 150 * i + _times(rng)
        lines = _long(rng, times, zone) if long else _wide(rng, times, zone)
        path = folder / f"log{i}.csv"
        if parquet:
            path = folder / f"log{i}.parquet"
            _write_parquet(path, lines)
        else:
            if rng.random() < 0.5:
                _spoil(rng, lines)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files.append(path)
    return files


def outcome(work: Callable[[], Any]) -> Any:
    """What a piece of work makes, or the message with which it stops."""
    try:
        return work()
    except ControlkitError as problem:
        return type(problem).__name__, str(problem)


def stages(spec: PlantSpec, files: Sequence[Path], scratch: Path, hands: Hands | None) -> dict[str, Any]:
    """Everything that the stages before the report make of a log."""
    parts = Partitions(spec, scratch / "parts", hands) if hands is not None else None
    read = parts.read if parts is not None else None
    log = stage_sources(spec, files, scratch / "read", now_ns=NOW, read=read)
    staged = {tag: log.stage.read(tag).tobytes() for tag in log.stage.tags}
    usable, found = _assessed(spec, log, scratch / "usable", 1.0, Silent(), parts)
    made = grid.align(spec, usable, scratch / "rows", Silent()) if parts is None else parts.align(usable, Silent())
    rows = made.rows.read(0, len(made.rows))
    return {
        "staged": staged,
        "sources": [(source.name, source.rows, source.samples, source.ignored, source.first_ns, source.last_ns)
                    for source in log.sources],
        "quarantine": (log.quarantine.listed, log.quarantine.counts(), log.quarantine.rows),
        "usable": {tag: usable.read(tag).tobytes() for tag in usable.tags},
        "found": repr(found),
        "rows": {field.name: np.ascontiguousarray(getattr(rows, field.name)).tobytes() for field in fields(AlignedLog)},
        "episodes": (made.episodes.number.tobytes(), made.episodes.rules, made.stretches, made.time_ns.tobytes()),
    }  # fmt: skip


def pickling_hands(workers: int, rng: np.random.Generator) -> Hands:
    """Workers in this process, one after the other in any order; payload and result pass as they would to another."""

    def run(
        work: Callable[[Mapping[str, Any]], Any], payloads: Sequence[Mapping[str, Any]], done: Callable[[], None]
    ) -> list[Any]:
        results: dict[int, Any] = {}
        for i in rng.permutation(len(payloads)).tolist():
            results[i] = pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(payloads[i])))))
            done()
        return [results[i] for i in range(len(payloads))]

    return Hands(workers, run)


def _times(rng: np.random.Generator) -> np.ndarray:
    """(K,) seconds at which there are samples, with gaps; a few out of order or twice."""
    count = int(rng.integers(200, 340))
    step = np.where(rng.random(count) < 0.01, rng.integers(50, 120, count), rng.choice([1, 2, 3, 5], count))
    times = np.cumsum(step)
    swap = np.flatnonzero(rng.random(count - 1) < 0.01)
    times[swap], times[swap + 1] = times[swap + 1], times[swap].copy()
    again = np.flatnonzero(rng.random(count - 1) < 0.02)
    times[again + 1] = times[again]
    return times


def _stamp(second: int, zone: bool) -> str:
    if zone:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ahead = BERLIN if second < CHANGE_S else BERLIN - 3600
    return datetime.fromtimestamp(second + ahead, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _values(rng: np.random.Generator, tag: str, times: np.ndarray) -> np.ndarray:
    """(K,) a tag's values: some stand still for long, some stick out."""
    count = len(times)
    if tag == "area":
        return np.where(times > times[0] + 700, 3.0, 2.0)
    if tag == "auto":
        return np.where(rng.random(count) < 0.02, 3.0, 1.0)
    value = np.round(np.sin(times / 40.0) * 3 + rng.normal(0, 0.2, count), 3)
    for start in rng.integers(0, count, 4):
        value[start : start + int(rng.integers(5, 30))] = value[start]
    value[rng.random(count) < 0.003] = 4.5
    value[rng.random(count) < 0.003] = 99.0
    return value


def _quality(rng: np.random.Generator, count: int) -> list[str]:
    return rng.choice(["good", "bad", "uncertain", "strange"], count, p=[0.96, 0.02, 0.015, 0.005]).tolist()


def _long(rng: np.random.Generator, times: np.ndarray, zone: bool) -> list[str]:
    rows = []
    values = {tag: _values(rng, tag, times) for tag in TAGS}
    qualities = {tag: _quality(rng, len(times)) for tag in TAGS}
    for k, second in enumerate(times.tolist()):
        for tag in TAGS:
            if rng.random() < 0.9 or k < 5:
                text = "" if rng.random() < 0.01 else f"{values[tag][k]}"
                rows.append(f"{_stamp(second, zone)},{tag},{text},{qualities[tag][k]}")
    return ["timestamp,tag,value,quality", *rows]


def _wide(rng: np.random.Generator, times: np.ndarray, zone: bool) -> list[str]:
    values = {tag: _values(rng, tag, times) for tag in TAGS}
    rows = [
        ",".join([_stamp(second, zone), *(f"{values[tag][k]}" if rng.random() < 0.95 else "" for tag in TAGS)])
        for k, second in enumerate(times.tolist())
    ]
    return [f"timestamp,{','.join(TAGS)}", *rows]


def _spoil(rng: np.random.Generator, lines: list[str]) -> None:
    """Some lines that cannot be used, some that are blank."""
    for i in rng.integers(20, len(lines), 6).tolist():
        lines[i] = str(rng.choice([lines[i] + ",1", "", 'a,"b', lines[0], "yesterday" + lines[i][19:]]))


def _write_parquet(path: Path, lines: list[str]) -> None:
    names, *rows = (line.split(",") for line in lines)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    pq.write_table(pa.table(columns), path, row_group_size=61)
