"""A data set on disk: written in row groups, read whole, or mapped where it is larger than the memory.

The folder holds Parquet, the plant file, the layout and a record with hashes. Parquet cannot be read row by row, so a
data set that is to be mapped is unpacked once into plain arrays: into a folder beside the table, or, where that cannot
be written, into a temporary one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.dataset.transitions import LAYOUT, RECORD, SCHEMA, SPEC, TABLE, TransitionDataset
from controlkit.errors import ArtifactError, ControlkitError
from controlkit.files import folder_written_aside, read_json, sha256_of, write_json
from controlkit.layout import Layout
from controlkit.spec import PlantSpec

Array = npt.NDArray[Any]

ROW_GROUP = 1 << 17
MEMORY = "CONTROLKIT_MEMORY_GB"
# Share of the memory that a data set may take before it is mapped: training holds it about twice, and its own things.
SHARE = 0.25
ARRAYS, MARKER = "arrays", "arrays.json"
_PER_ROW = {
    "time_ns": np.int64,
    "episode": np.int64,
    "reward": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
}


class DatasetWriter:
    """Writes a data set of any length, a stretch of rows at a time.

    Rewards and ends of episodes follow from the plant's description, as in `TransitionDataset.from_frames`, whatever
    the cuts between the stretches.

    Args:
        spec: the plant.
        folder: a folder that is being written, see `writing`.

    Attributes:
        rows, transitions, episodes: written so far.
    """

    def __init__(self, spec: PlantSpec, folder: Path) -> None:
        import pyarrow.parquet as pq

        self._spec, self._folder = spec, folder
        self._layout = Layout.from_spec(spec)
        self._parquet = pq
        self._writer: Any = None
        self._held: dict[str, Array] | None = None  # a window of history, and rows not written
        self._unwritten = 0  # how many of them at their end are not written
        self.rows = self.transitions = self.episodes = 0
        self._episode = -1

    def append(self, **rows: Array) -> None:
        """Takes the next rows: `frames`, `mask`, `age_s`, `actions`, `changed`, `episode`, `time_ns`."""
        if self._held is not None:
            rows = {name: np.concatenate([self._held[name], part]) for name, part in rows.items()}
        self._write(rows, final=False)

    def close(self, sources: Mapping[str, str]) -> None:
        """Writes what is held, the plant file, the layout and the record.

        Raises:
            DataError: there is no step in the rows.
        """
        if self._held is not None and self._unwritten:
            self._write(self._held, final=True)
        if self._writer is not None:
            self._writer.close()
        _write_beside(self._folder, self._spec, sources, self.rows, self.transitions, self.episodes)

    def _write(self, rows: dict[str, Array], final: bool) -> None:
        """Writes the rows of which all is known: a step ends its episode where the row after the next is another's."""
        count, depth = len(rows["time_ns"]), self._layout.depth
        known = count if final else count - 2
        first = 0 if self._held is None else len(self._held["time_ns"]) - self._unwritten
        if known > first:
            data = TransitionDataset.from_stretch(self._spec, sources=None, **rows)
            part = slice(first, known)
            self._put({name: column[part] for name, column in columns_of(data).items()})
            usable = data.transitions
            self.transitions += int(((usable >= first) & (usable < known)).sum())
            episode = rows["episode"][part]
            self.episodes += int((np.diff(episode, prepend=self._episode) != 0).sum())
            self._episode = int(episode[-1])
        known = max(known, first)
        keep = slice(max(0, known - depth - 1), count)
        self._held, self._unwritten = {name: part[keep].copy() for name, part in rows.items()}, count - known

    def _put(self, columns: dict[str, Array]) -> None:
        import pyarrow as pa

        table = pa.table(columns)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._folder / TABLE, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self.rows += table.num_rows


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A folder for a data set, which takes its place at `path` once it is complete."""
    with folder_written_aside(path, RECORD) as aside:
        yield aside


def write(data: TransitionDataset, path: Path, extra: Mapping[str, bytes]) -> None:
    """What `TransitionDataset.save` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing(path) as aside:
        writer = None
        try:
            for start in range(0, len(data), ROW_GROUP):
                table = pa.table(columns_of(data, slice(start, start + ROW_GROUP)))
                writer = writer or pq.ParquetWriter(aside / TABLE, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        for name, content in extra.items():
            (aside / name).write_bytes(content)
        episodes = len(np.unique(data.episode))
        _write_beside(aside, data.spec, data.sources, len(data), len(data.transitions), episodes)


def columns_of(data: TransitionDataset, rows: slice = slice(None)) -> dict[str, Array]:
    """Column of the table -> its values in `rows`."""
    columns: dict[str, Array] = {"time_ns": data.time_ns[rows], "episode": data.episode[rows]}
    for i, tag in enumerate(data.layout.frame_tags):
        columns |= {
            tag: data.frames[rows, i], f"{tag}:mask": data.mask[rows, i], f"{tag}:age_s": data.age_s[rows, i],
        }  # fmt: skip
    for i, tag in enumerate(data.layout.action_tags):
        columns |= {tag: data.actions[rows, i], f"{tag}:changed": data.changed[rows, i]}
    columns |= {"reward": data.rewards[rows], "terminated": data.terminated[rows], "truncated": data.truncated[rows]}
    return columns


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


def read(path: Path, mapped: bool | None) -> TransitionDataset:
    """What `TransitionDataset.load` does."""
    spec, record = _checked(path)
    frame, actions = spec.frame_tags, spec.action_tags
    size = int(record["rows"]) * (9 * len(frame) + 5 * len(actions))
    if mapped is None:
        mapped = size > SHARE * memory_bytes()
    if mapped:
        return _mapped(path, spec, record)
    import pyarrow.parquet as pq

    table = pq.read_table(path / TABLE)

    def stacked(names: Sequence[str], kind: Any) -> Array:
        out = np.empty((table.num_rows, len(names)), dtype=kind)
        for i, name in enumerate(names):
            out[:, i] = table[name].to_numpy()
        return out

    per_row: dict[str, Array] = {name: table[name].to_numpy().astype(kind) for name, kind in _PER_ROW.items()}
    return TransitionDataset(
        spec=spec,
        frames=stacked(frame, np.float32),
        mask=stacked([f"{tag}:mask" for tag in frame], np.bool_),
        age_s=stacked([f"{tag}:age_s" for tag in frame], np.float32),
        actions=stacked(actions, np.float32),
        changed=stacked([f"{tag}:changed" for tag in actions], np.bool_),
        rewards=per_row["reward"],
        terminated=per_row["terminated"],
        truncated=per_row["truncated"],
        episode=per_row["episode"],
        time_ns=per_row["time_ns"],
        sources=record["sources"],
    )


# Mapped -------------------------------------------------------------------------------------------------------------


def _mapped(path: Path, spec: PlantSpec, record: Mapping[str, Any]) -> TransitionDataset:
    """The data set with its wide arrays on disk; frames and actions are columns of one table there."""
    folder = path / ARRAYS
    whole = (folder / MARKER).is_file() and read_json(folder / MARKER) == {"data_sha256": record["data_sha256"]}
    own: Path | None = None
    if not whole:
        folder, own = _unpacked(path, spec, record)
    rows, n, m = int(record["rows"]), len(spec.frame_tags), len(spec.action_tags)

    def mapped(name: str, kind: Any, width: int) -> Array:
        return np.memmap(folder / name, dtype=kind, mode="r", shape=(rows, width))

    table = mapped("values", np.float32, n + m)
    per_row: dict[str, Array] = {name: np.fromfile(folder / name, dtype=kind) for name, kind in _PER_ROW.items()}
    data = TransitionDataset(
        spec=spec,
        frames=table[:, :n],
        mask=mapped("mask", np.bool_, n),
        age_s=mapped("age_s", np.float32, n),
        actions=table[:, n:],
        changed=mapped("changed", np.bool_, m),
        rewards=per_row["reward"],
        terminated=per_row["terminated"],
        truncated=per_row["truncated"],
        episode=per_row["episode"],
        time_ns=per_row["time_ns"],
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
            for name, kind in _PER_ROW.items():
                _append(folder / name, got[name].astype(kind))


def _append(path: Path, rows: Array) -> None:
    with path.open("ab") as stream:
        rows.tofile(stream)


# Records ------------------------------------------------------------------------------------------------------------


def _write_beside(
    folder: Path, spec: PlantSpec, sources: Mapping[str, str], rows: int, transitions: int, episodes: int
) -> None:
    import yaml

    (folder / SPEC).write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False), encoding="utf-8")
    write_json(folder / LAYOUT, Layout.from_spec(spec).to_dict())
    record = {
        "schema": SCHEMA,
        "plant": spec.name,
        "rows": rows,
        "transitions": transitions,
        "episodes": episodes,
        "sources": dict(sources),
        "spec_sha256": spec.sha256(),
        "data_sha256": sha256_of(folder / TABLE),
    }
    write_json(folder / RECORD, record)


def _checked(path: Path) -> tuple[PlantSpec, Mapping[str, Any]]:
    """The plant and the record of a data set whose files match their hashes."""
    if not (path / RECORD).is_file():
        raise ArtifactError("is no data set", where=str(path), cure="Make one with 'controlkit ingest'.")
    record = read_json(path / RECORD)
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(f"has schema {schema}, this version reads {SCHEMA}", where=str(path), cure="Ingest again.")
    if not (path / TABLE).is_file() or sha256_of(path / TABLE) != record.get("data_sha256"):
        raise ArtifactError("does not match its hash", where=str(path / TABLE), cure="Ingest again.")
    spec = PlantSpec.load(path / SPEC)
    if spec.sha256() != record.get("spec_sha256"):
        raise ArtifactError("does not match its hash", where=str(path / SPEC), cure="Ingest again.")
    stored = Layout.from_dict(read_json(path / LAYOUT), str(path / LAYOUT))
    Layout.from_spec(spec).require_same(stored, str(path))
    return spec, record
