"""From usable samples to the data set on disk: alignment, episodes, writing; block by block, whatever the length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from controlkit.align import AlignedLog
from controlkit.dataset import DatasetWriter, TransitionDataset
from controlkit.ingest.blocks import aligned_blocks, modes
from controlkit.ingest.episodes import EpisodeCutter, Episodes
from controlkit.ingest.gaps import find_gaps
from controlkit.ingest.rows import Rows
from controlkit.ingest.stage import Stage
from controlkit.ingest.statistics import LogStatistics
from controlkit.progress import Progress
from controlkit.spec import PlantSpec

Int64 = npt.NDArray[np.int64]

BLOCK = 1 << 16  # rows that are worked on at a time
# Rows of the data set that its report looks at in detail, and the stretches that they come in.
SAMPLED, STRETCHES = 300_000, 100


@dataclass(frozen=True)
class Grid:
    """All rows of a log on the grid, and what becomes of them.

    Attributes:
        rows: on disk.
        time_ns: (T,) sample times.
        episodes: number of the episode of each row, and what was left out.
        stretches: first and last measurement of each stretch between gaps.
    """

    rows: Rows
    time_ns: Int64
    episodes: Episodes
    stretches: tuple[tuple[int, int], ...]

    def blocks(self) -> Iterator[tuple[AlignedLog, Int64]]:
        """Rows and the numbers of their episodes (-1: left out), in order of time."""
        for start in range(0, len(self.rows), BLOCK):
            yield self.rows.read(start, start + BLOCK), self.episodes.number[start : start + BLOCK]


@dataclass(frozen=True)
class Kept:
    """What is kept of a log.

    Attributes:
        transitions: steps with a full window of history.
        rows: (E,) rows of each episode.
        first_ns, last_ns: (E,) stamps of its first and last row.
        sample: a part of the data set, or all of a short one, to look at in detail; its episodes may be cut.
    """

    transitions: int
    rows: Int64
    first_ns: Int64
    last_ns: Int64
    sample: TransitionDataset

    @classmethod
    def whole(cls, data: TransitionDataset) -> Kept:
        """All of a data set that is in memory."""
        return cls(len(data.transitions), *_episodes(data.episode, data.time_ns), data)


def align(spec: PlantSpec, usable: Stage, scratch: Path, progress: Progress) -> Grid:
    """Puts the usable samples of all tags on the grid and cuts it into episodes."""
    stretches, gaps = find_gaps(spec, usable)
    cutter, rows, times = EpisodeCutter(spec), Rows(scratch, spec), []
    period = spec.period_s * 1e9
    progress.start("align", 1 + round(sum(last - first for first, last in stretches) / period))
    for number, block in aligned_blocks(spec, usable, stretches, BLOCK):
        now, after = modes(spec, usable, block)
        cutter.add(number, block, now, after)
        rows.append(block)
        times.append(block.time_ns)
        progress.advance(len(block.time_ns))
    return Grid(rows, np.concatenate([np.empty(0, np.int64), *times]), cutter.finish(gaps), stretches)


def write(
    spec: PlantSpec, grid: Grid, folder: Path, sources: Mapping[str, str], statistics: LogStatistics, progress: Progress
) -> Kept:
    """Writes the kept rows as a data set into a folder that is being written; the statistics are told of all rows."""
    progress.start("write", len(grid.rows))
    writer, chosen = DatasetWriter(spec, folder), _Sample(spec, grid)
    for block, number in grid.blocks():
        kept = number >= 0
        statistics.add(block, kept)
        progress.advance(len(number))
        if not kept.any():
            continue
        rows = {
            "frames": block.frames[kept],
            "mask": block.mask[kept],
            "age_s": block.age_s[kept],
            "actions": block.actions[kept],
            "changed": block.changed[kept],
            "episode": number[kept],
            "time_ns": block.time_ns[kept],
        }
        writer.append(**rows)
        chosen.add(rows)
    writer.close(sources)
    kept = grid.episodes.number >= 0
    episodes = _episodes(grid.episodes.number[kept], grid.time_ns[kept])
    return Kept(writer.transitions, *episodes, chosen.dataset(sources))


def _episodes(number: Int64, time_ns: Int64) -> tuple[Int64, Int64, Int64]:
    """Rows, first and last stamp of each episode: (E,) three times."""
    begins = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    ends = np.append(begins[1:], len(number))
    return ends - begins, time_ns[begins], time_ns[ends - 1]


class _Sample:
    """Rows of stretches spread evenly over the data set, or all of a short one."""

    def __init__(self, spec: PlantSpec, grid: Grid) -> None:
        self._spec = spec
        kept = int((grid.episodes.number >= 0).sum())
        self._seen, self._parts = 0, list[Mapping[str, npt.NDArray[np.generic]]]()
        length = SAMPLED // STRETCHES
        starts = np.arange(STRETCHES) * (kept - length) // (STRETCHES - 1)
        self._spans = [(0, kept)] if kept <= SAMPLED else [(int(a), int(a) + length) for a in starts]

    def add(self, rows: Mapping[str, npt.NDArray[np.generic]]) -> None:
        count = len(rows["time_ns"])
        for number, (start, stop) in enumerate(self._spans):
            a, b = max(start - self._seen, 0), min(stop - self._seen, count)
            if b > a:
                part = {name: values[a:b].copy() for name, values in rows.items()}
                part["stretch"] = np.full(b - a, number)
                self._parts.append(part)
        self._seen += count

    def dataset(self, sources: Mapping[str, str]) -> TransitionDataset:
        whole = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        stretch = whole.pop("stretch").astype(np.int64)
        # A stretch begins an episode of its own, wherever it was cut out.
        begins = (np.diff(whole["episode"], prepend=-1) != 0) | (np.diff(stretch, prepend=-1) != 0)
        whole["episode"] = np.cumsum(begins) - 1
        return TransitionDataset.from_stretch(self._spec, sources=dict(sources), **whole)
