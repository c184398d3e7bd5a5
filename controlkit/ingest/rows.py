"""Aligned rows on disk, between the alignment and the data set: which of them are kept is known once all are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.align import AlignedLog
from controlkit.ingest.stage import NoRoom
from controlkit.spec import PlantSpec


class Rows:
    """The rows of the grid, appended in order and read back in stretches.

    Args:
        folder: a scratch folder, made if it is not there.
        spec: the plant.
    """

    def __init__(self, folder: Path, spec: PlantSpec) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._count = folder, 0
        n, m = len(spec.frame_tags), len(spec.action_tags)
        self._arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
            "time_ns": (np.int64, ()),
            "frames": (np.float32, (n,)),
            "mask": (np.bool_, (n,)),
            "age_s": (np.float32, (n,)),
            "actions": (np.float32, (m,)),
            "changed": (np.bool_, (m,)),
            "action_mask": (np.bool_, (m,)),
        }

    def __len__(self) -> int:
        return self._count

    def append(self, block: AlignedLog) -> None:
        """Takes the next rows."""
        try:
            for name in self._arrays:
                with (self._folder / name).open("ab") as stream:
                    getattr(block, name).tofile(stream)
        except OSError as problem:
            raise NoRoom(
                f"no room for working files ({problem})",
                where=str(self._folder),
                cure="Free some space, or set TMPDIR to a folder with more.",
            ) from None
        self._count += len(block.time_ns)

    def read(self, start: int, stop: int) -> AlignedLog:
        """Rows [start, stop)."""
        return AlignedLog(**{name: self._part(name, start, min(stop, self._count)) for name in self._arrays})

    def times(self) -> npt.NDArray[np.int64]:
        """(T,) time stamps of all rows."""
        return self._part("time_ns", 0, self._count)

    def _part(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        kind, width = self._arrays[name]
        cells = int(np.prod(width, dtype=np.int64))
        with (self._folder / name).open("rb") as stream:
            stream.seek(start * cells * np.dtype(kind).itemsize)
            return np.fromfile(stream, dtype=kind, count=(stop - start) * cells).reshape(stop - start, *width)
