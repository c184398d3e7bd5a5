"""Samples and rows that several workers wrote, each into a folder of its own, read as if one had written them.

Nothing is copied together: what is read at a place comes from the file of the piece in which that place lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.ingest.rows import Rows
from controlkit.ingest.stage import SAMPLE, Stage
from controlkit.spec import PlantSpec


@dataclass(frozen=True)
class Piece:
    """`count` samples of one tag in a file that nobody writes to any more."""

    path: Path
    count: int


class PiecedStage(Stage):
    """A stage whose tags lie in pieces; it is only read from, and its pieces may be removed.

    Args:
        folder: for what is made while reading, such as sorted samples.
        pieces: tag -> its pieces, in order; the tags in the order of the plant file.
        kind: of the samples.
    """

    def __init__(self, folder: Path, pieces: Mapping[str, Sequence[Piece]], kind: np.dtype[np.void] = SAMPLE) -> None:
        super().__init__(folder, tuple(pieces), kind)
        self._pieces = {tag: tuple(of_tag) for tag, of_tag in pieces.items()}
        self._starts = {
            tag: np.cumsum([0, *(piece.count for piece in of_tag)]).tolist() for tag, of_tag in self._pieces.items()
        }

    def of_tag(self, tag: str, folder: Path) -> PiecedStage:
        """The stage of one tag alone, with a folder of its own."""
        return PiecedStage(folder, {tag: self._pieces[tag]}, self.kind)

    def pieces(self, tag: str) -> tuple[Piece, ...]:
        """The pieces of a tag, in order."""
        return self._pieces[tag]

    def count(self, tag: str) -> int:
        """How many samples of a tag there are."""
        return int(self._starts[tag][-1])

    def read(self, tag: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.void]:
        """Samples [start, stop) of a tag, in the order of its pieces."""
        end = self.count(tag) if stop is None else min(stop, self.count(tag))
        parts = [
            _records(piece.path, self.kind, max(start - first, 0), min(end - first, piece.count))
            for piece, first in zip(self._pieces[tag], self._starts[tag], strict=False)
            if first < end and first + piece.count > start
        ]
        if not parts:
            return np.empty(0, dtype=self.kind)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def remove(self, tag: str) -> None:
        """Frees the room of a tag's samples."""
        for piece in self._pieces[tag]:
            piece.path.unlink(missing_ok=True)
        self._pieces[tag], self._starts[tag] = (), [0]


class PiecedRows(Rows):
    """Rows of the grid in pieces, one after the other.

    Args:
        pieces: in order of time.
        spec: the plant.
        folder: a scratch folder.
    """

    def __init__(self, folder: Path, spec: PlantSpec, pieces: Sequence[Rows]) -> None:
        super().__init__(folder, spec)
        self._pieces = tuple(pieces)
        self._starts: list[int] = np.cumsum([0, *(len(piece) for piece in pieces)]).tolist()
        self._count = self._starts[-1]

    def _part(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        parts = [
            piece._part(name, max(start - first, 0), min(stop - first, len(piece)))
            for piece, first in zip(self._pieces, self._starts, strict=False)
            if first < stop and first + len(piece) > start
        ]
        if not parts:
            return super()._part(name, 0, 0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _records(path: Path, kind: np.dtype[np.void], start: int, stop: int) -> npt.NDArray[np.void]:
    with path.open("rb") as stream:
        stream.seek(start * kind.itemsize)
        return np.fromfile(stream, dtype=kind, count=stop - start)
