"""D4RL's HDF5 files of the MuJoCo tasks (arXiv 2004.07219), read like any flat file.

Arrays: `observations` (N, O), `actions` (N, m) in [-1, 1], `next_observations` (N, O), `rewards` (N,), `terminals` (N,)
true ends, `timeouts` (N,) cuts. The observations leave out the position x, so that no reward formula that pays for the
speed can be recomputed: the plant files say `objective: [{kind: recorded}]`. Files of version v2 hold
`next_observations`; without it the state after an episode's last step is unknown, and the file is refused.

Not every end is marked as a cut where it is one: medium-replay ends episodes where a training iteration ended, and the
HalfCheetah files have a terminal though that task never ends (github.com/Farama-Foundation/D4RL/issues/107).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError, DataError, nearest
from controlkit.files import sha256_of
from controlkit.ingest.flat_file import FlatFile, flat_from_arrays

SUFFIXES = (".hdf5", ".h5")
# What the reader calls an array -> what the file calls it.
KEYS: Mapping[str, str] = {
    "obs": "observations",
    "action": "actions",
    "next_obs": "next_observations",
    "reward": "rewards",
    "terminated": "terminals",
    "truncated": "timeouts",
}
# Returns of a random policy and of a trained SAC, score 0 and 100: REF_MIN_SCORE and REF_MAX_SCORE in d4rl/infos.py of
# github.com/Farama-Foundation/D4RL, one pair for all data sets of a task.
RETURN_BOUNDS: Mapping[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}


def d4rl_score(task: str, episode_return: float) -> float:
    """An episode's return on D4RL's scale: 100 (R - random) / (trained - random).

    Raises:
        ControlkitError: another task than halfcheetah, hopper or walker2d; names the nearest.
    """
    if task not in RETURN_BOUNDS:
        raise ControlkitError(f"D4RL has no scale for '{task}' here", cure=nearest(task, RETURN_BOUNDS))
    low, high = RETURN_BOUNDS[task]
    return 100.0 * (episode_return - low) / (high - low)


def read_d4rl(path: Path) -> FlatFile:
    """Reads a D4RL file.

    Raises:
        DataError: it is missing or damaged, h5py is not installed, an array is missing, or `flat_from_arrays` refuses.
    """
    arrays = _arrays(path)
    missing = [key for key in KEYS.values() if key not in arrays]
    if missing:
        raise DataError(
            f"the array '{missing[0]}' is missing (there are: {', '.join(sorted(arrays)) or 'none'})",
            where=str(path),
            cure="D4RL's files of version v2 hold all of: " + ", ".join(KEYS.values()) + ".",
        )
    file = flat_from_arrays({name: arrays[key] for name, key in KEYS.items()}, path, sha256_of(path), KEYS)
    return replace(file, cuts_are_marked=False)


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays at the top of the file; what lies in groups (`infos`, `metadata`) is not needed."""
    try:
        import h5py
    except ImportError:
        raise DataError(
            "reading HDF5 needs h5py, which is not installed", where=str(path), cure="Install controlkit[data]."
        ) from None
    key = ""
    try:
        arrays = {}
        with path.open("rb") as stream, h5py.File(stream, "r") as file:
            for name in file:
                key = f", in the array '{name}'"
                if name in KEYS.values() and isinstance(file[name], h5py.Dataset):
                    arrays[name] = np.asarray(file[name][()])
        return arrays
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), cure="Check the path.") from None
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, MemoryError, OverflowError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(
            f"is no HDF5 file that can be read ({reason[:80]}{key})", where=str(path), cure="Fetch it again."
        ) from None
