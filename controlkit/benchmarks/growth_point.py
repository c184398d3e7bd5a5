"""One point of the growth curves in a process of its own, so that its memory and its bytes are its own.

    python -m controlkit.benchmarks.growth_point ingest ROWS TAGS WORKERS FOLDER
    python -m controlkit.benchmarks.growth_point train ROWS TAGS WORKERS FOLDER

prints a JSON object: for each stage its seconds, processor seconds, bytes read and written (by the process, and of them
on the disk) and units of work; and the process' peak of memory. Of other processes (workers) nothing but time is seen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from controlkit.benchmarks.ingest_log import plant, write_log
from controlkit.benchmarks.synthetic import synthetic_log, synthetic_spec
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from controlkit.studies.memory import peak_mib

MB_PER_MIB = 2**20 / 1e6
EPISODE = 5000  # steps
# The synthetic plant has so many exogenous tags and commands beside its states.
EXOGENOUS, COMMANDS = 2, 2
# Networks and batches of the defaults, and so many updates that a stage takes seconds.
UPDATES, FITTED = 500, 20_000
TRAIN = {
    "threads": 1,
    "dynamics": {"max_rows": FITTED, "max_epochs": 2},
    "reward": {"updates": 200, "behaviour_updates": 200, "distil_updates": 200},
    "rollout": {"starts": 200, "every": 250},
    "policy": {"updates": UPDATES},
}


class Stages(Silent):
    """Notes what has been used up whenever a stage begins."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._clock = clock
        self._noted: list[tuple[str, dict[str, float]]] = []

    def start(self, stage: str, total: int) -> None:
        """A stage begins, and the one before it is over."""
        self._noted.append((stage, self._used()))

    def finish(self) -> dict[str, dict[str, float]]:
        """What each stage took; of several of one name, together."""
        self._noted.append(("", self._used()))
        found: dict[str, dict[str, float]] = {}
        for (stage, before), (_, after) in zip(self._noted, self._noted[1:], strict=False):
            sums = found.setdefault(stage, dict.fromkeys(after, 0.0))
            for name in after:
                sums[name] += after[name] - before[name]
        return found

    def _used(self) -> dict[str, float]:
        lines = (line.split(":") for line in Path("/proc/self/io").read_text().splitlines())
        io = {name: float(value) for name, value in lines}
        return {
            "seconds": self._clock(),
            "cpu_s": time.process_time(),
            "bytes": io["rchar"] + io["wchar"],
            "disk_bytes": io["read_bytes"] + io["write_bytes"],
        }


def wide_log(folder: Path, rows: int, tags: int) -> tuple[PlantSpec, Path]:
    """A wide log of the synthetic plant in Parquet, with so many cells of tags in all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec = synthetic_spec(tags - EXOGENOUS - COMMANDS, EXOGENOUS, COMMANDS)
    path = folder / f"wide-{rows}-{tags}.parquet"
    if not path.is_file():
        data = synthetic_log(spec, episodes=1, steps=max(2, rows // tags))
        columns = {"timestamp": pa.array(data.time_ns, pa.timestamp("ns", "UTC"))}
        columns |= {tag: pa.array(data.frames[:, i]) for i, tag in enumerate(spec.frame_tags)}
        columns |= {tag: pa.array(data.actions[:, i]) for i, tag in enumerate(spec.action_tags)}
        pq.write_table(pa.table(columns), path, row_group_size=1 << 16)
    return spec, path


def ingest_point(rows: int, tags: int, workers: int, folder: Path) -> dict[str, Any]:
    """An ingest of about so many samples: a long log of fifty tags, or where `tags` is not 0 a wide one of so many."""
    from controlkit.ingest import ingest
    from controlkit.ingest.on_ray import hands_on_ray

    spec, path, count = plant(), folder, rows
    if tags:
        spec, path = wide_log(folder, rows, tags)
    else:
        log = write_log(folder, rows, "parquet")
        path, count = log.path, log.rows
    with hands_on_ray(workers) if workers > 1 else nullcontext() as hands:
        stages = Stages()
        stages.start("open", 1)
        ingest(spec, [path], folder / f"data-{rows}-{tags}-{workers}", progress=stages, hands=hands)
        found = stages.finish()
    return {"stages": found, "units": dict.fromkeys(found, count), "peak_mb": peak_mib() * MB_PER_MIB}


def train_point(rows: int, tags: int, workers: int, folder: Path) -> dict[str, Any]:
    """A short training from a data set of so many rows; units are rows, but updates of the policy."""
    from controlkit.artifacts import RunFolder
    from controlkit.config import RunConfig
    from controlkit.dataset import RECORD, TransitionDataset
    from controlkit.files import read_json
    from controlkit.morec.train import train

    path = folder / f"set-{rows}-{tags}"
    if not path.is_dir():
        spec = synthetic_spec((tags or 10) - EXOGENOUS - COMMANDS, EXOGENOUS, COMMANDS)
        synthetic_log(spec, episodes=max(4, rows // EPISODE), steps=EPISODE).save(path)
        return {}  # what making it took does not count: asked again, the point is measured
    stages = Stages()
    stages.start("load", 1)
    data = TransitionDataset.load(path)
    record = read_json(path / RECORD)
    stages.start("run folder", 1)
    run = RunFolder.create(folder / f"run-{rows}-{tags}", RunConfig.from_dict(TRAIN), data, record, replace=True)
    stages.start("prepare", 1)
    train(run, data, stages)
    found = stages.finish()
    units = {stage: UPDATES if stage == "policy" else rows for stage in found}
    return {"stages": found, "units": units, "peak_mb": peak_mib() * MB_PER_MIB}


def main(kind: str, rows: str, tags: str, workers: str, folder: str) -> None:
    """Measures a point and prints it."""
    point = {"ingest": ingest_point, "train": train_point}[kind]
    print(json.dumps(point(int(rows), int(tags), int(workers), Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
