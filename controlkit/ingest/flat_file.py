"""Flat files: one row per transition, as benchmarks publish them (`.npz` with obs, action, next_obs, reward, ...).

Known arrays, (N, ...) each:

- `obs` (N, O), `action` (N, m), `next_obs` (N, O): needed;
- `reward` (N,) or (N, 1);
- `done` or `terminated`, `truncated` (N,): the last step of an episode, by a true end or by a cut;
- `index` (E,): rows at which episodes begin; or `episode` (N,): its number;
- `timestamp` (N,): ISO 8601, UTC; `frame_tags`, `action_tags`: names of the columns, whose values are then in
  engineering units (what `controlkit collect` writes). Without names, commands lie in [-1, 1].

An episode ends where one of these says so, and wherever `next_obs` is not the `obs` of the next row.
"""

from __future__ import annotations

import zipfile
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
    """Reads a flat file.

    Raises:
        DataError: it is missing or damaged; an array is missing, has another length, or a number that is not finite;
            no row follows from the one before it.
    """
    arrays = _arrays(path)
    for name in _NEEDED:
        if name not in arrays:
            there = ", ".join(sorted(arrays))
            raise DataError(f"the array '{name}' is missing (there are: {there})", where=str(path), cure=_hint(arrays))
    observation, action, following = (_matrix(arrays[name], name, path) for name in _NEEDED)
    rows = len(observation)
    if not rows:
        raise DataError("the arrays are empty", where=str(path), cure="Export it again.")
    if observation.shape != following.shape:
        raise DataError(f"obs has the shape {observation.shape}, next_obs {following.shape}", where=str(path))
    for name, values in (("obs", observation), ("action", action), ("next_obs", following)):
        _require_rows(values, name, rows, path)
        _require_finite(values, name, path)
    reward = _column(arrays, "reward", rows, path)
    if reward is not None:
        _require_finite(reward[:, None], "reward", path)
    ends = [_column(arrays, name, rows, path) for name in ("done", "terminated", "truncated")]
    done, terminated, truncated = (np.zeros(rows, np.bool_) if end is None else end > 0.5 for end in ends)
    done = done | terminated
    broken = np.append((following[:-1] != observation[1:]).any(axis=1), True)  # (N,)
    if rows > 1 and broken.all() and not (done | truncated)[:-1].all():
        raise DataError(
            "no next_obs is the obs of the next row, so that no episode can be found",
            where=str(path),
            cure="Bring the rows in the order in which they were recorded.",
        )
    last = done | truncated | broken | _numbered(arrays, rows, path)
    return FlatFile(
        path=path,
        sha256=sha256_of(path),
        observation=observation,
        action=action,
        next_observation=following,
        reward=reward,
        terminated=done,
        last=last,
        time_ns=_stamps(arrays, rows, path),
        frame_tags=_names(arrays, "frame_tags", observation.shape[1], path),
        action_tags=_names(arrays, "action_tags", action.shape[1], path),
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        # allow_pickle=False: nothing in the file is run.
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), cure="Check the path.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(f"is no npz file that can be read ({reason[:80]})", where=str(path)) from None


def _hint(arrays: dict[str, Any]) -> str:
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


def _column(arrays: dict[str, Any], name: str, rows: int, path: Path) -> Float32 | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape not in ((rows,), (rows, 1)) or values.dtype.kind not in "fiub":
        raise DataError(
            f"the array '{name}' has the shape {values.shape} of {values.dtype}, not ({rows},) numbers", where=str(path)
        )
    return np.asarray(values.reshape(rows), dtype=np.float32)


def _require_rows(values: Float32, name: str, rows: int, path: Path) -> None:
    if len(values) != rows:
        raise DataError(f"obs has {rows} rows, {name} has {len(values)}", where=str(path), cure="Export it again.")


def _require_finite(values: Float32, name: str, path: Path) -> None:
    if not np.isfinite(values).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise DataError(
            f"{name} holds {values[row, column]} in row {row}, column {column}",
            where=str(path),
            cure="Leave that episode out, or cut it there.",
        )


def _numbered(arrays: dict[str, Any], rows: int, path: Path) -> Bool:
    """(N,) last steps by `index` (first rows of episodes) or `episode` (its number)."""
    last = np.zeros(rows, dtype=np.bool_)
    if "index" in arrays:
        begins = arrays["index"].reshape(-1)
        if begins.dtype.kind not in "iu" or ((begins < 0) | (begins >= rows)).any():
            raise DataError(f"'index' must hold row numbers of 0 .. {rows - 1}", where=str(path))
        last[begins[begins > 0] - 1] = True
    number = _column(arrays, "episode", rows, path)
    if number is not None:
        last[:-1] |= number[1:] != number[:-1]
    return last


def _stamps(arrays: dict[str, Any], rows: int, path: Path) -> Int64 | None:
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


def _names(arrays: dict[str, Any], name: str, count: int, path: Path) -> tuple[str, ...]:
    if name not in arrays:
        return ()
    names = tuple(str(entry) for entry in arrays[name].reshape(-1))
    if len(names) != count:
        raise DataError(f"'{name}' has {len(names)} names for {count} columns", where=str(path))
    return names
