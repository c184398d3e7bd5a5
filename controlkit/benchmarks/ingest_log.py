"""A plant of fifty tags and its log in long form, of any length: what the speed of the ingest is measured on.

One sample a second and tag, jittered; 1 % of bad quality, 0.1 % repeated, 0.01 % out of range; commands that change
inside a period, modes that come and go, and gaps. Made chunk by chunk, always the same numbers for the same length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from controlkit.files import read_json, write_json
from controlkit.spec import PlantSpec

Form = Literal["csv", "parquet"]

STATES, EXOGENOUS, ACTIONS, TAGS = 30, 10, 8, 50
START_S = 1_704_067_200  # 2024-01-01T00:00:00Z
CHUNK_S = 6000
# The last seconds of each of these are missing, or run without the controller.
GAP_EVERY_S, GAP_S = 12_000, 300
MANUAL_EVERY_S, MANUAL_S = 9_000, 120
# How long a command stays the same.
HELD_S = 30
_FROZEN_EVERY_S, _FROZEN_S = 6_000, 90


@dataclass(frozen=True)
class Log:
    """A log on disk: its file, and how many rows there are."""

    path: Path
    rows: int


def plant(frozen: bool = True) -> PlantSpec:
    """The plant's description; `frozen` tells whether one tag has a rule for a dead sensor."""
    tags: dict[str, dict[str, Any]] = {}
    for i in range(STATES + EXOGENOUS):
        role = "state" if i < STATES else "exogenous"
        tags[f"t{i:02}"] = {"role": role, "unit": "degC", "range": [-100, 200]}
        if i % 5 == 1:
            tags[f"t{i:02}"] |= {"interpolation": "linear", "max_age_s": 5}
    if frozen:
        tags["t04"]["frozen"] = {"after_s": 30}
    tags["area"] = {"role": "static", "unit": "m^2", "range": [0, 10]}
    for i in range(ACTIONS):
        tags[f"u{i}"] = {"role": "action", "unit": "%", "range": [0, 100], "safe": 0, "fallback": {"kind": "hold"}}
    tags["auto"] = {"role": "mode", "unit": "1", "range": [0, 1], "accept": [1]}
    objective = [{"kind": "track", "tag": "t00", "setpoint": 50}]
    return PlantSpec.from_dict({"name": "fifty-tags", "period_s": 1, "tags": tags, "objective": objective})


def write_log(folder: Path, rows: int, form: Form) -> Log:
    """Writes about so many rows, or finds them written."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    path = folder / f"log-{rows}.{form}"
    count = folder / f"{path.name}.json"
    if count.is_file():
        return Log(path, int(read_json(count)["rows"]))
    folder.mkdir(parents=True, exist_ok=True)
    names = pa.array(list(plant().tags))
    written = 0
    writer: Any = None
    length = round(rows / TAGS / (1 - GAP_S / GAP_EVERY_S))  # seconds
    for start in range(0, length, CHUNK_S):
        time_ms, tag, value, good = _chunk(start // CHUNK_S, min(CHUNK_S, length - start))
        table = pa.table(
            {
                "timestamp": pa.array(time_ms, pa.timestamp("ms", "UTC")),
                "tag": names.take(pa.array(tag)),
                "value": value,
                "quality": pa.array(["bad", "good"]).take(pa.array(good.astype(np.int8))),
            }
        )
        if writer is None:
            kind = pa.csv.CSVWriter if form == "csv" else pa.parquet.ParquetWriter
            writer = kind(path, table.schema)
        writer.write_table(table)
        written += len(time_ms)
    writer.close()
    write_json(count, {"rows": written})
    return Log(path, written)


def _chunk(
    chunk: int, seconds: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Time stamps in ms, number of the tag, value and quality of a chunk's rows, in order of time."""
    rng = np.random.default_rng([7, chunk])
    second = chunk * CHUNK_S + np.arange(seconds)  # (S,)
    time_ms = 1000 * (START_S + second)[:, None] + rng.integers(1, 900, (seconds, TAGS))  # (S, tags)
    measured = STATES + EXOGENOUS
    value = np.empty((seconds, TAGS))
    periods = 600.0 + 37.0 * np.arange(measured)
    value[:, :measured] = 50 + 20 * np.sin(2 * np.pi * second[:, None] / periods)
    value[:, :measured] += rng.normal(scale=0.5, size=(seconds, measured))
    frozen = second % _FROZEN_EVERY_S >= _FROZEN_EVERY_S - _FROZEN_S
    value[frozen, 4] = 47.5
    value[:, :measured][rng.random((seconds, measured)) < 1e-4] = 1e4
    value[:, measured] = 2.5
    steps = rng.uniform(5, 95, (CHUNK_S // HELD_S, ACTIONS))
    value[:, measured + 1 : -1] = np.repeat(steps, HELD_S, axis=0)[:seconds]
    value[:, -1] = second % MANUAL_EVERY_S < MANUAL_EVERY_S - MANUAL_S
    good = rng.random((seconds, TAGS)) >= 0.01
    good[:, -1] |= rng.random(seconds) < 0.99  # each mode that is not known cuts an episode
    there = np.repeat((second % GAP_EVERY_S < GAP_EVERY_S - GAP_S), TAGS)
    rows = np.flatnonzero(there)
    rows = np.sort(np.concatenate([rows, rows[rng.random(len(rows)) < 1e-3]]))  # some are said twice
    rows = rows[np.argsort(time_ms.ravel()[rows], kind="stable")]
    return time_ms.ravel()[rows], rows % TAGS, np.round(value.ravel()[rows], 3), good.ravel()[rows]
