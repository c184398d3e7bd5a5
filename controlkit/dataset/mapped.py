"""A data set that stays on disk, for one that is larger than the memory.

Parquet cannot be read row by row, so that the table is unpacked once into plain arrays: into a folder beside it, or,
where that cannot be written, into a temporary one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.dataset.transitions import TABLE, TransitionDataset
from controlkit.errors import ArtifactError, ControlkitError
from controlkit.files import folder_written_aside, read_json, write_json
from controlkit.spec import PlantSpec

Array = npt.NDArray[Any]

MEMORY = "CONTROLKIT_MEMORY_GB"
# Share of the memory that a data set may take before it is mapped: training holds it about twice, and its own things.
SHARE = 0.25
ARRAYS, MARKER = "arrays", "arrays.json"
PER_ROW: Mapping[str, Any] = {
    "time_ns": np.int64,
    "episode": np.int64,
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
}


def memory_bytes() -> int:
    """Memory that may be used: what the environment's `CONTROLKIT_MEMORY_GB` says, else the machine's or container's.

    Raises:
        ControlkitError: the environment says no number above 0.
    """
    if given := os.environ.get(MEMORY):
        try:
            size = float(given) * 1e9
        except ValueError:
            size = 0.0
        if not size > 0:
            raise ControlkitError(
                f"is '{given}', not a number above 0", where=MEMORY, cure="Give gigabytes, such as 8."
            )
        return int(size)
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(size, int(text)) if text.isdigit() else size


def as_fields(per_row: Mapping[str, Array]) -> dict[str, Array]:
    """The columns of one value a row, as the data set's fields are called."""
    return {"rewards" if name == "reward" else name: values for name, values in per_row.items()}


def mapped_dataset(path: Path, spec: PlantSpec, record: Mapping[str, Any]) -> TransitionDataset:
    """The data set with its wide arrays on disk; frames and actions are columns of one table there."""
    folder = path / ARRAYS
    whole = (folder / MARKER).is_file() and read_json(folder / MARKER) == {"data_sha256": record["data_sha256"]}
    own: Path | None = None
    if not whole:
        folder, own = _unpacked(path, spec, record)
    rows, n, m = int(record["rows"]), len(spec.frame_tags), len(spec.action_tags)

    def on_disk(name: str, kind: Any, width: int) -> Array:
        return np.memmap(folder / name, dtype=kind, mode="r", shape=(rows, width))

    table = on_disk("values", np.float32, n + m)
    per_row: dict[str, Array] = {name: np.fromfile(folder / name, dtype=kind) for name, kind in PER_ROW.items()}
    data = TransitionDataset(
        spec=spec,
        frames=table[:, :n],
        mask=on_disk("mask", np.bool_, n),
        age_s=on_disk("age_s", np.float32, n),
        actions=table[:, n:],
        changed=on_disk("changed", np.bool_, m),
        **as_fields(per_row),
        sources=record["sources"],
    )
    if own is not None:
        weakref.finalize(data.mask, shutil.rmtree, own, ignore_errors=True)
    return data


def _unpacked(path: Path, spec: PlantSpec, record: Mapping[str, Any]) -> tuple[Path, Path | None]:
    """The table as plain arrays: their folder, and that folder again if it goes with the process."""
    try:
        with folder_written_aside(path / ARRAYS, MARKER) as aside:
            _unpack(path / TABLE, aside, spec)
            write_json(aside / MARKER, {"data_sha256": record["data_sha256"]})
        return path / ARRAYS, None
    except ControlkitError:
        pass  # a data set on a medium that cannot be written
    own = Path(tempfile.mkdtemp(prefix="controlkit-"))
    try:
        _unpack(path / TABLE, own, spec)
    except OSError as problem:
        shutil.rmtree(own, ignore_errors=True)
        raise ArtifactError(
            f"is larger than the memory, and there is no room to unpack it ({problem})",
            where=str(path),
            cure=f"Free some space, set TMPDIR, or allow more memory with {MEMORY}.",
        ) from None
    return own, own


def _unpack(table: Path, folder: Path, spec: PlantSpec) -> None:
    import pyarrow.parquet as pq

    frame, actions = spec.frame_tags, spec.action_tags
    wide = {
        "values": ([*frame, *actions], np.float32),
        "mask": ([f"{tag}:mask" for tag in frame], np.bool_),
        "age_s": ([f"{tag}:age_s" for tag in frame], np.float32),
        "changed": ([f"{tag}:changed" for tag in actions], np.bool_),
    }
    with pq.ParquetFile(table) as source:
        for batch in source.iter_batches(1 << 15):
            got = {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names}
            for name, (columns, kind) in wide.items():
                out = np.empty((batch.num_rows, len(columns)), dtype=kind)
                for i, column in enumerate(columns):
                    out[:, i] = got[column]
                _append(folder / name, out)
            for name, kind in PER_ROW.items():
                _append(folder / name, got[name].astype(kind))


def _append(path: Path, rows: Array) -> None:
    with path.open("ab") as stream:
        rows.tofile(stream)
