"""One method of the ingest's comparison in a process of its own, so that its peak of memory is its own.

    python -m controlkit.benchmarks.ingest_methods METHOD LOG OUT

prints a JSON object: seconds up to the usable samples, seconds in all, and the process' peak of memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from controlkit.benchmarks.ingest_log import plant
from controlkit.progress import Silent
from controlkit.studies.memory import peak_mib

MB_PER_MIB = 2**20 / 1e6
MEMORY_LIMIT = "2GB"  # of DuckDB's
# The stages of `ingest` in which it reads and judges; what begins after them puts samples on the grid.
JUDGING = ("read", "check samples")


class _Stages(Silent):
    """Notes when each stage begins."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []

    def start(self, what: str, total: int) -> None:
        self.began.append((what, time.perf_counter()))


def controlkit(log: Path, out: Path) -> float:
    """What `controlkit ingest` does, all of it; returns when the samples were judged."""
    from controlkit.ingest import ingest

    stages = _Stages()
    ingest(plant(), [log], out, progress=stages)
    judging = [i for i, (what, _) in enumerate(stages.began) if what in JUDGING]
    return stages.began[judging[-1] + 1][1]


def pandas(log: Path, out: Path) -> float:
    """The straightforward version; returns when the samples were judged."""
    from controlkit.benchmarks import ingest_pandas

    spec = plant()
    samples = ingest_pandas.usable(spec, ingest_pandas.read(log))
    judged = time.perf_counter()
    ingest_pandas.dataset(spec, samples).to_parquet(out)
    return judged


def duckdb_asof(log: Path, out: Path) -> float:
    """No more than reading, and one ASOF join per tag onto the grid; returns when all was read."""
    import duckdb

    out.mkdir(parents=True, exist_ok=True)
    spec = plant()
    with duckdb.connect(str(out / "work.duckdb"), config={"memory_limit": MEMORY_LIMIT, "threads": 2}) as connection:
        connection.execute(f"CREATE TABLE log AS SELECT timestamp, tag, value, quality FROM '{log}'")
        judged = time.perf_counter()
        first, last = connection.execute(
            "SELECT epoch_ms(min(timestamp)), epoch_ms(max(timestamp)) FROM log"
        ).fetchall()[0]
        period = round(1000 * spec.period_s)
        connection.execute(
            "CREATE TABLE grid AS SELECT make_timestamptz(1000 * t) AS t "
            "FROM range(?::BIGINT, ?::BIGINT, ?::BIGINT) r(t)",
            [-(-first // period) * period, last + 1, period],
        )
        for name in (*spec.frame_tags, *spec.action_tags):
            connection.execute(
                f"COPY (SELECT g.t, s.timestamp, s.value FROM grid g ASOF LEFT JOIN (SELECT timestamp, value FROM log "
                f"WHERE tag = '{name}' AND quality = 'good') s ON g.t >= s.timestamp) TO '{out / name}.parquet'"
            )
    return judged


METHODS: dict[str, Callable[[Path, Path], float]] = {
    "controlkit": controlkit,
    "pandas": pandas,
    "duckdb_asof": duckdb_asof,
}


def main(method: str, log: str, out: str) -> None:
    """Runs a method and prints what it took."""
    began = time.perf_counter()
    judged = METHODS[method](Path(log), Path(out))
    ended = time.perf_counter()
    print(json.dumps({"judged_s": judged - began, "seconds": ended - began, "peak_mb": peak_mib() * MB_PER_MIB}))


if __name__ == "__main__":
    main(*sys.argv[1:])
