"""Minari data sets (github.com/Farama-Foundation/Minari), read as a flat source and written from a data set.

Reading: an episode of K steps has K + 1 observations. The columns are those of the plant file, one frame or the whole
window. Commands are brought from the bounds of the data set's action space to [-1, 1], as in any flat file, and from
there to the limits of the plant's actions.

Writing is the way back: observations are whole windows, commands lie in [-1, 1], and the action space says so. What was
cut out of the middle of an episode ends a Minari episode as a truncation.

Only local data sets are read; Minari keeps them in `~/.minari/datasets`, or where MINARI_DATASETS_PATH says.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError, DataError
from controlkit.ingest.flat_file import Bool, FlatFile, Float32, flat_from_arrays

PREFIX = "minari:"
# minari.namespace and minari.dataset.minari_dataset: (namespace/)name-vN
_NAME = re.compile(r"([\w-]+/)*[\w-]+-v\d+")


def is_minari(source: Path) -> bool:
    """Whether a source is named as a Minari data set: `minari:NAME`."""
    return str(source).startswith(PREFIX)


def read_minari(source: Path) -> FlatFile:
    """Reads a local Minari data set, `minari:NAME`.

    Raises:
        DataError: Minari is not installed, there is no such data set, it is damaged, its spaces are no vectors, its
            actions are unbounded, or `flat_from_arrays` refuses.
    """
    minari, name, where = _minari(str(source)), str(source).removeprefix(PREFIX), str(source)
    folder = Path(minari.storage.get_dataset_path(name))
    if not _NAME.fullmatch(name) or not (folder / "data").is_dir():
        raise DataError(
            f"there is no local Minari data set of this name ({folder})",
            where=where,
            cure=f"'minari list local' names those that are there; 'minari download {name}' fetches a published one.",
        )
    try:
        data = minari.load_dataset(name)
        episodes = list(data.iterate_episodes())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, ImportError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(f"is damaged ({reason[:120]})", where=where, cure="Fetch or export it again.") from None
    low, high = _action_bounds(data.action_space, where)
    if not episodes:
        raise DataError("the data set holds no episode", where=where, cure="Fetch or export it again.")
    arrays = _stacked(episodes, where)
    span = high.astype(np.float64) - low
    same = (low == -1.0) & (high == 1.0)
    arrays["action"] = np.where(same, arrays["action"], (arrays["action"] - low) / span * 2.0 - 1.0)
    return flat_from_arrays(arrays, source, _sha256(folder / "data"))


def write_minari(data: TransitionDataset, name: str) -> int:
    """Writes the usable steps of a data set as a new local Minari data set.

    Args:
        data: the data set.
        name: `(namespace/)name-vN`, which must not be there yet.

    Returns:
        The number of episodes written.

    Raises:
        ControlkitError: Minari is not installed, the name is malformed or taken, or the disk is full. Nothing is left
            of a data set that could not be written whole.
    """
    from controlkit.ingest.flat import flat_arrays

    minari, where = _minari(name), f"Minari data set {name}"
    if not _NAME.fullmatch(name):
        raise ControlkitError("is no name of a Minari data set", where=name, cure="Write it as plant/log-v0.")
    folder = Path(minari.storage.get_dataset_path(name))
    if folder.exists():
        raise ControlkitError(f"is already there ({folder})", where=where, cure="Choose another name or version.")
    arrays = flat_arrays(data)
    buffers = _buffers(minari, arrays, _last(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about metadata that a plant's log does not have
            minari.create_dataset_from_buffers(
                name,
                buffers,
                observation_space=_box(-np.inf, np.inf, arrays["obs"].shape[1]),
                action_space=_box(-1.0, 1.0, arrays["action"].shape[1]),
                description=f"{data.spec.name}: {data.spec.description} Commands in [-1, 1] of their limits.",
            )
    except (OSError, ValueError, RuntimeError, ImportError) as problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise ControlkitError(f"cannot be written ({problem})", where=where, cure="Nothing was left behind.") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return len(buffers)


def _minari(where: str) -> ModuleType:
    try:
        import h5py
        import minari
        import PIL
    except ImportError:
        raise DataError(
            "Minari data sets need the packages minari, h5py and pillow", where=where, cure="Install controlkit[data]."
        ) from None
    del h5py, PIL  # only looked for: Minari imports them where it is too late for one clear line
    module: ModuleType = minari
    return module


def _stacked(episodes: list[Any], where: str) -> dict[str, npt.NDArray[Any]]:
    """The transitions of all episodes, one after the other."""
    for episode in episodes:
        shapes = [np.shape(part) if isinstance(part, np.ndarray) else None
                  for part in (episode.observations, episode.actions)]  # fmt: skip
        if any(shape is None or len(shape) != 2 for shape in shapes):
            raise DataError(
                f"episode {episode.id} holds observations or actions that are no vectors",
                where=where,
                cure="Flatten them before they are written.",
            )
        steps = len(episode.rewards)
        if len(episode.observations) != steps + 1 or len(episode.actions) != steps:
            raise DataError(
                f"episode {episode.id} has {len(episode.observations)} observations and {len(episode.actions)} actions "
                f"for {steps} rewards",
                where=where,
                cure="An episode of K steps has K + 1 observations.",
            )
    return {
        "obs": np.concatenate([episode.observations[:-1] for episode in episodes]),
        "action": np.concatenate([episode.actions for episode in episodes]),
        "next_obs": np.concatenate([episode.observations[1:] for episode in episodes]),
        "reward": np.concatenate([episode.rewards for episode in episodes]),
        "terminated": np.concatenate([episode.terminations for episode in episodes]),
        "truncated": np.concatenate([episode.truncations for episode in episodes]),
        "episode": np.repeat(np.arange(len(episodes)), [len(episode.rewards) for episode in episodes]),
    }


def _action_bounds(space: Any, where: str) -> tuple[Float32, Float32]:
    low, high = (np.asarray(getattr(space, name, None), dtype=np.float32) for name in ("low", "high"))
    if low.ndim != 1 or not np.isfinite([low, high]).all() or not (low < high).all():
        raise DataError(
            f"its action space is {space}, not a vector between finite bounds",
            where=where,
            cure="Give the actions bounds, which become the limits of the plant's actions.",
        )
    return low, high


def _last(data: TransitionDataset) -> Bool:
    """(T,) usable steps after which another one does not follow directly."""
    rows = data.transitions
    return np.append(np.diff(rows) != 1, True) | data.terminated[rows] | data.truncated[rows]


def _buffers(minari: ModuleType, arrays: dict[str, Any], last: Bool) -> list[Any]:
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    buffers = []
    for start, end in zip(starts, ends, strict=True):
        part = slice(start, end + 1)
        terminated = arrays["done"][part] > 0.5
        truncated = np.zeros(len(terminated), dtype=np.bool_)
        truncated[-1] = not terminated[-1]
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=np.concatenate([arrays["obs"][part], arrays["next_obs"][end : end + 1]]),
                actions=arrays["action"][part],
                rewards=arrays["reward"][part],
                terminations=terminated,
                truncations=truncated,
            )
        )
    return buffers


def _box(low: float, high: float, size: int) -> Any:
    from gymnasium.spaces import Box

    return Box(low, high, shape=(size,), dtype=np.float32)


def _sha256(folder: Path) -> str:
    """Of the names and contents of all files in a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
