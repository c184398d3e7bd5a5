"""The files that a collected log is written to: long CSV, long Parquet, npz.

The long table has one row per value: `timestamp` (ISO 8601, UTC), `tag`, `value`, `quality` ("good" throughout: a
simulator's sensors do not fail), sorted by time, then by tag in the order of the plant file. Tags have the names that
the plant file gives their columns in the log.

The npz has one row per step: `timestamp` (N,) ISO 8601 text of the step's beginning, `obs` (N, n), `action` (N, m),
`next_obs` (N, n), `episode` (N,) counted from 0, `terminated` and `truncated` (N,), and the names `frame_tags` (n,) and
`action_tags` (m,). Of a task whose published files hold whole windows of the plant file's observation, `obs` and
`next_obs` are those (N, O), in single precision, and nothing is named: the columns are the layout's. Until an episode
is as old as the window, its first frame and the actions' safe values stand for what was before it, so that a policy can
learn from an episode's first steps, too.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from controlkit.layout import Layout
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    from envs.collect import LoggedEpisode

SUFFIXES = (".csv", ".parquet", ".npz")
COLUMNS = ("timestamp", "tag", "value", "quality")
GOOD = "good"


class LogFile(Protocol):
    """A log being written, episode by episode; complete once its context is left without an exception."""

    rows: int
    samples: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, episode: LoggedEpisode) -> None: ...


def open_log(path: Path, suffix: str, windows_of: PlantSpec | None = None) -> LogFile:
    """A log of the kind that the suffix names, one of `SUFFIXES`, at a path of any name.

    Args:
        path: of the file.
        suffix: its kind.
        windows_of: the plant whose whole windows an npz is to hold; single frames where it is `None`.

    Raises:
        ControlkitError: Parquet is asked for and pyarrow is not installed.
    """
    if suffix == ".npz" and windows_of is not None:
        return _WindowNpzLog(path, windows_of)
    kinds: dict[str, type[_CsvLog] | type[_ParquetLog] | type[_NpzLog]] = {
        ".csv": _CsvLog,
        ".parquet": _ParquetLog,
        ".npz": _NpzLog,
    }
    return kinds[suffix](path)


def long_rows(
    episode: LoggedEpisode,
) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.str_], npt.NDArray[np.float64]]:
    """Time, tag and value of every row of an episode's long table, sorted: (R,), (R,), (R,)."""
    steps, samples = len(episode.commands), len(episode.frames)
    tags = np.array([*episode.frame_tags, *episode.action_tags])  # (n + m,)
    values = np.full((samples, len(tags)), np.nan)  # (K + 1, n + m)
    values[:, : len(episode.frame_tags)] = episode.frames
    values[:steps, len(episode.frame_tags) :] = episode.commands
    stands = np.ones(values.shape, dtype=np.bool_)
    stands[steps:, len(episode.frame_tags) :] = False  # no command leads away from the last sample
    sample, column = np.nonzero(stands)
    return episode.times[sample], tags[column], values[sample, column]


class _Closing:
    """A context that closes on success and only lets go of the file on failure."""

    rows = 0
    samples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(complete=kind is None)

    def _close(self, complete: bool) -> None:
        raise NotImplementedError


class _CsvLog(_Closing):
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii", newline="\n")
        self._file.write(",".join(COLUMNS) + "\n")

    def write(self, episode: LoggedEpisode) -> None:
        times, tags, values = long_rows(episode)
        rows = zip(_iso(times).tolist(), tags.tolist(), values.tolist(), strict=True)
        # repr is the shortest text that reads back as the same number
        self._file.writelines(f"{time},{tag},{value!r},{GOOD}\n" for time, tag, value in rows)
        self.rows += len(values)
        self.samples += len(episode.commands)

    def _close(self, complete: bool) -> None:
        self._file.close()


class _ParquetLog(_Closing):
    def __init__(self, path: Path) -> None:
        try:
            pyarrow = import_module("pyarrow")
            parquet = import_module("pyarrow.parquet")
        except ImportError:
            raise ControlkitError(
                "writing Parquet needs pyarrow, which is not installed",
                cure="Install controlkit[train], or write .csv or .npz.",
            ) from None
        self._arrow = pyarrow
        kinds = (pyarrow.timestamp("us", tz="UTC"), pyarrow.string(), pyarrow.float64(), pyarrow.string())
        self._schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, episode: LoggedEpisode) -> None:
        times, tags, values = long_rows(episode)
        columns = (times, tags.tolist(), values, [GOOD] * len(values))
        arrays = [self._arrow.array(c, type=kind) for c, kind in zip(columns, self._schema.types, strict=True)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self.rows += len(values)
        self.samples += len(episode.commands)

    def _close(self, complete: bool) -> None:
        self._writer.close()


class _NpzLog(_Closing):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._episodes: list[LoggedEpisode] = []

    def write(self, episode: LoggedEpisode) -> None:
        self._episodes.append(episode)
        self.rows += len(episode.commands)
        self.samples += len(episode.commands)

    def _close(self, complete: bool) -> None:
        if not complete:
            return
        with self._path.open("wb") as file:  # given a path, numpy would append a suffix
            np.savez_compressed(file, allow_pickle=False, **self._arrays(self._episodes))

    def _arrays(self, episodes: list[LoggedEpisode]) -> dict[str, npt.NDArray[Any]]:
        observations = [self._observations(e) for e in episodes]
        lengths = [len(e.commands) for e in episodes]
        last = np.zeros(sum(lengths), dtype=np.bool_)  # (N,)
        last[np.cumsum(lengths) - 1] = True
        terminated = np.zeros_like(last)
        terminated[last] = [e.terminated for e in episodes]
        return {
            "obs": np.concatenate([o[:-1] for o in observations]),
            "action": np.concatenate([e.commands for e in episodes]),
            "next_obs": np.concatenate([o[1:] for o in observations]),
            "episode": np.repeat(np.arange(len(episodes)), lengths),
            "terminated": terminated,
            "truncated": last & ~terminated,
        } | self._names(episodes)

    def _observations(self, episode: LoggedEpisode) -> npt.NDArray[Any]:
        """What the K + 1 samples of an episode show: (K + 1, O)."""
        return episode.frames

    def _names(self, episodes: list[LoggedEpisode]) -> dict[str, npt.NDArray[Any]]:
        return {
            "timestamp": np.concatenate([_iso(e.times[:-1]) for e in episodes]),
            "frame_tags": np.array(episodes[0].frame_tags),
            "action_tags": np.array(episodes[0].action_tags),
        }


class _WindowNpzLog(_NpzLog):
    def __init__(self, path: Path, spec: PlantSpec) -> None:
        super().__init__(path)
        self._layout = Layout.from_spec(spec)
        self._safe = np.array([spec.tags[tag].safe for tag in spec.action_tags], dtype=np.float64)  # (m,)
        if any(spec.limits(tag) != (-1.0, 1.0) for tag in spec.action_tags):
            raise ValueError(f"{spec.name}: published windows hold commands in [-1, 1]")

    def _observations(self, episode: LoggedEpisode) -> npt.NDArray[Any]:
        depth = self._layout.depth
        frames = np.concatenate([np.repeat(episode.frames[:1], depth, axis=0), episode.frames])
        # No command leads away from the last sample, and no observation shows the one that would.
        before, after = np.tile(self._safe, (depth, 1)), self._safe[None]
        commands = np.concatenate([before, episode.commands, after])
        at = np.arange(depth, len(frames))
        return self._layout.observe(frames.astype(np.float32), commands.astype(np.float32), at)

    def _names(self, episodes: list[LoggedEpisode]) -> dict[str, npt.NDArray[Any]]:
        return {}


def _iso(times: npt.NDArray[np.datetime64]) -> npt.NDArray[np.str_]:
    """ISO 8601 with Z, as coarse as the times allow: whole seconds, or microseconds."""
    whole = bool((times == times.astype("datetime64[s]")).all())
    return np.datetime_as_string(times, unit="s" if whole else "us", timezone="UTC")
