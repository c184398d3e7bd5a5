"""The samples of a log on disk, tag by tag: where every source is read into, and everything after it reads from.

A log of any size passes through memory in blocks. `Stage.append` deals the samples of a block out to one file per tag,
in the order in which they come; `Stage.read` hands a stretch of one tag back. Plain reads and writes, no memory map:
what has been read does not stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError

# Rows of a tag that are worked on at a time: some 30 MB with everything that is derived from them.
BLOCK = 1 << 19


class NoRoom(DataError):
    """The disk on which working files lie is full."""


class Code(IntEnum):
    """What a log says about a sample."""

    GOOD = 0
    UNCERTAIN = 1
    SUBSTITUTED = 2
    BAD = 3
    EMPTY = 4  # no value, such as an empty cell of a wide log
    UNREADABLE = 5  # no sample: marks where one of a command or a mode stood that is in quarantine


SAMPLE = np.dtype(
    [("time_ns", "<i8"), ("value", "<f8"), ("row", "<i8"), ("source", "<i2"), ("code", "u1"), ("pad", "u1", (5,))]
)
USABLE = np.dtype([("time_ns", "<i8"), ("value", "<f8")])


class Stage:
    """One file of samples per tag, in a scratch folder.

    Args:
        folder: made if it is not there.
        tags: names, in the order of the codes that `append` is given.
        kind: of the samples: `SAMPLE` as read (time stamp in UTC, value in the plant file's unit, record in the source,
            number of the source, `Code`), or `USABLE` ones in order of time.
    """

    def __init__(self, folder: Path, tags: Sequence[str], kind: np.dtype[np.void] = SAMPLE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tags, self.kind, self.folder = tuple(tags), kind, folder
        self._number = {tag: i for i, tag in enumerate(self.tags)}
        self._count = np.zeros(len(self.tags), dtype=np.int64)

    def append(self, tag: npt.NDArray[np.integer], samples: npt.NDArray[np.void]) -> None:
        """Deals samples (K,) out to the tags (K,) that they belong to."""
        if not len(samples):
            return
        order = np.argsort(tag, kind="stable")
        ends = np.cumsum(np.bincount(tag, minlength=len(self.tags)))
        # As plain numbers: numpy moves records field by field, which takes twenty times as long.
        dealt = np.ascontiguousarray(samples).view(np.int64).reshape(len(samples), -1).take(order, axis=0)
        for i, (start, end) in enumerate(zip(np.append(0, ends[:-1]), ends, strict=True)):
            if end > start:
                self._write(i, dealt[start:end])

    def append_tag(self, tag: str, samples: npt.NDArray[np.void]) -> None:
        """Appends samples (K,) of one tag."""
        if len(samples):
            self._write(self._number[tag], samples)

    def count(self, tag: str) -> int:
        """How many samples of a tag there are."""
        return int(self._count[self._number[tag]])

    def read(self, tag: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.void]:
        """Samples [start, stop) of a tag, in the order in which they were appended."""
        stop = self.count(tag) if stop is None else min(stop, self.count(tag))
        if stop <= start:
            return np.empty(0, dtype=self.kind)
        with self._path(self._number[tag]).open("rb") as stream:
            stream.seek(start * self.kind.itemsize)
            return np.fromfile(stream, dtype=self.kind, count=stop - start)

    def blocks(self, tag: str, size: int = BLOCK) -> Iterator[npt.NDArray[np.void]]:
        """All samples of a tag, `size` at a time."""
        for start in range(0, self.count(tag), size):
            yield self.read(tag, start, start + size)

    def replace(self, tag: str, samples: npt.NDArray[np.void]) -> None:
        """Puts samples (K,) in the place of a tag's."""
        i = self._number[tag]
        self._path(i).unlink(missing_ok=True)
        self._count[i] = 0
        self.append_tag(tag, samples)

    def remove(self, tag: str) -> None:
        """Frees the room of a tag's samples."""
        self.replace(tag, np.empty(0, dtype=self.kind))

    def path(self, tag: str) -> Path:
        """The file of a tag's samples; it is not there while the tag has none."""
        return self._path(self._number[tag])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.samples"

    def _write(self, number: int, samples: npt.NDArray[Any]) -> None:
        try:
            with self._path(number).open("ab") as stream:
                samples.tofile(stream)
        except OSError as problem:
            raise NoRoom(
                f"no room for working files ({problem})",
                where=str(self.folder),
                cure="Free some space, or set TMPDIR to a folder with more.",
            ) from None
        self._count[number] += len(samples)
