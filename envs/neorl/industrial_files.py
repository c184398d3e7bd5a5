"""The first edition of NeoRL's files of the Industrial Benchmark (arXiv 2102.00714), brought to the form of the second.

The second edition, in use since 2021 (`datasets.polixir.site/v2`), has 180 columns: the layout of the plant file. The
first has 182: fatigue and consumption of the newest frame stand once more at the end. They say nothing new, and a
layout has no place for them.

    python -m envs.neorl.industrial_files ib-low-999-train.npz ib-low.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError, DataError
from controlkit.files import written_aside

COLUMNS = 180
REPEATED_COLUMNS = (4, 5)  # fatigue and consumption in a frame


def without_repeats(observation: npt.NDArray[np.float32], where: str) -> npt.NDArray[np.float32]:
    """Leaves out the last two of 182 columns: (N, 182) -> (N, 180).

    Raises:
        DataError: another width, or a row in which they are not what they should repeat.
    """
    width = COLUMNS + len(REPEATED_COLUMNS)
    if observation.ndim != 2 or observation.shape[1] != width:
        raise DataError(
            f"has the shape {observation.shape}, not (rows, {width})",
            where=where,
            cure=f"A file with {COLUMNS} columns can be ingested as it is.",
        )
    wrong = np.argwhere(observation[:, COLUMNS:] != observation[:, list(REPEATED_COLUMNS)])
    if len(wrong):
        row, column = (int(i) for i in wrong[0])
        raise DataError(
            f"column {COLUMNS + column} of row {row} is {observation[row, COLUMNS + column]:.6g} and does not repeat "
            f"column {REPEATED_COLUMNS[column]}",
            where=where,
            cure="Check the source: this is no file of NeoRL's first edition.",
        )
    return observation[:, :COLUMNS]


def convert(source: Path, out: Path) -> None:
    """Writes the file with 180 columns; all other arrays stay as they are.

    Raises:
        DataError: the file is missing or damaged, or its observations are others.
    """
    try:
        with np.load(source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError("no such file", where=str(source), cure="Check the path.") from None
    except (OSError, ValueError, EOFError, AttributeError) as problem:
        raise DataError(f"is no npz file that can be read ({problem})", where=str(source)) from None
    for name in ("obs", "next_obs"):
        if name not in arrays:
            raise DataError(f"the array '{name}' is missing", where=str(source), cure="Export it again.")
        arrays[name] = without_repeats(arrays[name], f"{source}, {name}")
    with written_aside(out) as aside, aside.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def main(arguments: list[str]) -> int:
    """Source and target; 0 on success."""
    if len(arguments) != 2:
        print("usage: python -m envs.neorl.industrial_files SOURCE.npz OUT.npz", file=sys.stderr)
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except ControlkitError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
