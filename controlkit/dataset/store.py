"""A data set on disk: written in row groups, read whole, or mapped (`mapped.py`) where it is larger than the memory.

The folder holds Parquet, the plant file, the layout and a record with hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.dataset.mapped import PER_ROW, SHARE, as_fields, mapped_dataset, memory_bytes
from controlkit.dataset.transitions import LAYOUT, RECORD, SCHEMA, SPEC, TABLE, TransitionDataset
from controlkit.errors import ArtifactError
from controlkit.files import folder_written_aside, read_json, sha256_of, write_json
from controlkit.layout import Layout
from controlkit.spec import PlantSpec

Array = npt.NDArray[Any]

ROW_GROUP = 1 << 17


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


def read(path: Path, mapped: bool | None) -> TransitionDataset:
    """What `TransitionDataset.load` does."""
    spec, record = _checked(path)
    frame, actions = spec.frame_tags, spec.action_tags
    size = int(record["rows"]) * (9 * len(frame) + 5 * len(actions))
    if mapped is None:
        mapped = size > SHARE * memory_bytes()
    if mapped:
        return mapped_dataset(path, spec, record)
    import pyarrow.parquet as pq

    table = pq.read_table(path / TABLE)

    def stacked(names: Sequence[str], kind: Any) -> Array:
        out = np.empty((table.num_rows, len(names)), dtype=kind)
        for i, name in enumerate(names):
            out[:, i] = table[name].to_numpy()
        return out

    per_row: dict[str, Array] = {name: table[name].to_numpy().astype(kind) for name, kind in PER_ROW.items()}
    return TransitionDataset(
        spec=spec,
        frames=stacked(frame, np.float32),
        mask=stacked([f"{tag}:mask" for tag in frame], np.bool_),
        age_s=stacked([f"{tag}:age_s" for tag in frame], np.float32),
        actions=stacked(actions, np.float32),
        changed=stacked([f"{tag}:changed" for tag in actions], np.bool_),
        **as_fields(per_row),
        sources=record["sources"],
    )


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
