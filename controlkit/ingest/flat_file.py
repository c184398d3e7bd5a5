"""Flat files: one row per transition, as benchmarks publish them (`.npz` with obs, action, next_obs, reward, ...).

Known arrays, (N, ...) each:

- `obs` (N, O), `action` (N, m), `next_obs` (N, O): needed;
- `reward` (N,) or (N, 1);
- `done` or `terminated`, `truncated` (N,): the last step of an episode, by a true end or by a cut;
- `index` (E,), rising: rows at which episodes begin, or, as NeoRL's files have it, the rows after their last steps (its
  reader puts a 0 before them and calls the result the beginnings): both set the same borders; or `episode` (N,): its
  number;
- `timestamp` (N,): ISO 8601, UTC; `frame_tags`, `action_tags`: names of the columns, whose values are then in
  engineering units (what `controlkit collect` writes). Without names, commands lie in [-1, 1].

An episode ends where one of these says so, and wherever `next_obs` is not the `obs` of the next row. A file with `done`
and without `truncated` may mark its time limit as `done`: `cuts_are_marked` says which kind of file it is.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError, nearest
from controlkit.files import sha256_of

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

SUFFIX = ".npz"
_NEEDED = ("obs", "action", "next_obs")
_KNOWN = (*_NEEDED, "reward", "done", "terminated", "truncated", "index", "episode", "timestamp")
# What numpy and zipfile raise on archives that were cut or changed.
_DAMAGE = (
    OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, KeyError, MemoryError, OverflowError,
    SyntaxError, TypeError, NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class FlatFile:
    """N transitions as they stand in the file.

    Attributes:
        path, sha256: the file.
        observation, next_observation: (N, O). action: (N, m).
        reward: (N,), or None where the file has none.
        terminated: (N,) true ends. last: (N,) last steps of episodes.
        time_ns: (N,) UTC, or None.
        frame_tags, action_tags: names of the columns; empty where the file names none.
        cuts_are_marked: whether the file tells a true end from a time limit.
    """

    path: Path
    sha256: str
    observation: Float32
    action: Float32
    next_observation: Float32
    reward: Float32 | None
    terminated: Bool
    last: Bool
    time_ns: Int64 | None
    frame_tags: tuple[str, ...]
    action_tags: tuple[str, ...]
    cuts_are_marked: bool = True

    def __len__(self) -> int:
        return len(self.observation)

    @property
    def episode(self) -> Int64:
        """(N,) number of each row's episode, from 0."""
        return np.cumsum(np.append(False, self.last[:-1])).astype(np.int64)

    @property
    def duplicates(self) -> Int64:
        """Rows that repeat an earlier row in every number."""
        rows = np.ascontiguousarray(np.hstack([self.observation, self.action, self.next_observation]))
        keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        _, first = np.unique(keys, return_index=True)
        again = np.ones(len(rows), dtype=np.bool_)
        again[first] = False
        return np.flatnonzero(again)


def read_flat(path: Path) -> FlatFile:
    """Reads a flat npz file.

    Raises:
        DataError: it is missing or damaged; an array is missing, has another length, or a number that is not finite;
            no row follows from the one before it.
    """
    return flat_from_arrays(_arrays(path), path, sha256_of(path))


def flat_from_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], path: Path, sha256: str, keys: Mapping[str, str] | None = None
) -> FlatFile:
    """Checks arrays of the names above, from whatever file they came.

    Args:
        arrays: name -> array.
        path, sha256: the file.
        keys: what the file calls an array that has another name here, for the messages.

    Raises:
        DataError: as for `read_flat`.
    """
    called = {name: name for name in _KNOWN} | dict(keys or {})
    for name in _NEEDED:
        if name not in arrays:
            there = ", ".join(sorted(called.get(key, key) for key in arrays))
            raise DataError(
                f"the array '{called[name]}' is missing (there are: {there})", where=str(path), cure=_hint(arrays)
            )
    observation, action, following = (_matrix(arrays[name], called[name], path) for name in _NEEDED)
    rows = len(observation)
    if not rows:
        raise DataError("the arrays are empty", where=str(path), cure="Export it again.")
    if observation.shape != following.shape:
        raise DataError(
            f"{called['obs']} has the shape {observation.shape}, {called['next_obs']} {following.shape}",
            where=str(path),
            cure="Export it again.",
        )
    for name, values in (("obs", observation), ("action", action), ("next_obs", following)):
        _require_rows(values, called[name], rows, called["obs"], path)
        _require_finite(values, called[name], path)
    reward = _column(arrays, "reward", rows, path, called)
    if reward is not None:
        _require_finite(reward[:, None], called["reward"], path)
    ends = [_column(arrays, name, rows, path, called) for name in ("done", "terminated", "truncated")]
    for name, end in zip(("done", "terminated", "truncated"), ends, strict=True):
        if end is not None:
            _require_finite(end[:, None], called[name], path)
    done, terminated, truncated = (np.zeros(rows, np.bool_) if end is None else end > 0.5 for end in ends)
    done = done | terminated
    broken = np.append((following[:-1] != observation[1:]).any(axis=1), True)  # (N,)
    if rows > 1 and broken.all() and not (done | truncated)[:-1].all():
        raise DataError(
            f"no {called['next_obs']} is the {called['obs']} of the next row, so that no episode can be found",
            where=str(path),
            cure="Bring the rows in the order in which they were recorded.",
        )
    return FlatFile(
        path=path,
        sha256=sha256,
        observation=observation,
        action=action,
        next_observation=following,
        reward=reward,
        terminated=done,
        last=done | truncated | broken | _numbered(arrays, rows, path, called),
        time_ns=_stamps(arrays, rows, path),
        frame_tags=_names(arrays, "frame_tags", observation.shape[1], path),
        action_tags=_names(arrays, "action_tags", action.shape[1], path),
        cuts_are_marked="truncated" in arrays or "done" not in arrays,
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    key = ""
    try:
        # allow_pickle=False: nothing in the file is run.
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            arrays = {}
            for name in archive.files:
                key = f", in the array '{name}'"
                arrays[name] = archive[name]
            return arrays
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), cure="Check the path.") from None
    except _DAMAGE as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(
            f"is no npz file that can be read ({reason[:80]}{key})", where=str(path), cure="Fetch or export it again."
        ) from None


def _hint(arrays: Mapping[str, Any]) -> str:
    strange = [name for name in arrays if name not in _KNOWN]
    return f"'{strange[0]}': {nearest(strange[0], _KNOWN)}" if strange else "Export it again with all of them."


def _matrix(values: npt.NDArray[Any], name: str, path: Path) -> Float32:
    if values.dtype.kind not in "fiub":
        raise DataError(f"the array '{name}' holds {values.dtype}, not numbers", where=str(path))
    if values.ndim != 2:
        raise DataError(
            f"the array '{name}' has the shape {values.shape}, not (rows, columns)", where=str(path), cure="Reshape it."
        )
    return values.astype(np.float32)


def _column(arrays: Mapping[str, Any], name: str, rows: int, path: Path, called: Mapping[str, str]) -> Float32 | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape not in ((rows,), (rows, 1)) or values.dtype.kind not in "fiub":
        raise DataError(
            f"the array '{called[name]}' has the shape {values.shape} of {values.dtype}, not ({rows},) numbers",
            where=str(path),
            cure="Export it again.",
        )
    return np.asarray(values.reshape(rows), dtype=np.float32)


def _require_rows(values: Float32, name: str, rows: int, first: str, path: Path) -> None:
    if len(values) != rows:
        raise DataError(f"{first} has {rows} rows, {name} has {len(values)}", where=str(path), cure="Export it again.")


def _require_finite(values: Float32, name: str, path: Path) -> None:
    if not np.isfinite(values).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise DataError(
            f"{name} holds {values[row, column]} in row {row}, column {column}",
            where=str(path),
            cure="Leave that episode out, or cut it there.",
        )


def _numbered(arrays: Mapping[str, Any], rows: int, path: Path, called: Mapping[str, str]) -> Bool:
    """(N,) last steps by `index` (first rows of episodes, or the rows after their last) or `episode` (its number)."""
    last = np.zeros(rows, dtype=np.bool_)
    if "index" in arrays:
        borders = _borders(arrays["index"].reshape(-1), rows, path)
        last[borders[borders > 0] - 1] = True
    number = _column(arrays, "episode", rows, path, called)
    if number is not None:
        last[:-1] |= number[1:] != number[:-1]
    return last


def _borders(index: npt.NDArray[Any], rows: int, path: Path) -> Int64:
    """(E,) rows 0 .. N before which an episode ends."""
    cure = "It lists the first rows of the episodes, or the rows after their last."
    if index.dtype.kind not in "fiu" or not ((index >= 0) & (index <= rows) & (index == np.floor(index))).all():
        raise DataError(f"'index' must hold row numbers of 0 .. {rows}", where=str(path), cure=cure)
    borders = index.astype(np.int64)
    still = np.flatnonzero(np.diff(borders) <= 0)
    if still.size:
        at = int(still[0]) + 1
        raise DataError(
            f"'index' must rise, and its entry {at} is {borders[at]} after {borders[at - 1]}",
            where=str(path),
            cure=cure,
        )
    return borders


def _stamps(arrays: Mapping[str, Any], rows: int, path: Path) -> Int64 | None:
    if "timestamp" not in arrays:
        return None
    texts = np.char.rstrip(arrays["timestamp"].astype(np.str_), "Z")
    try:
        stamps = texts.astype("datetime64[ns]").astype(np.int64)
    except ValueError:
        raise DataError(
            "'timestamp' holds text that is no time", where=str(path), cure="Write ISO 8601, UTC."
        ) from None
    if stamps.shape != (rows,) or (np.diff(stamps) <= 0).any():
        raise DataError("'timestamp' must rise from row to row", where=str(path), cure="Sort the rows by time.")
    return np.asarray(stamps, dtype=np.int64)


def _names(arrays: Mapping[str, Any], name: str, count: int, path: Path) -> tuple[str, ...]:
    if name not in arrays:
        return ()
    names = tuple(str(entry) for entry in arrays[name].reshape(-1))
    if len(names) != count:
        raise DataError(f"'{name}' has {len(names)} names for {count} columns", where=str(path))
    return names
