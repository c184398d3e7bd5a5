"""Run folders below a folder: whatever holds a `run.json`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from controlkit.errors import ArtifactError

MARKER = "run.json"
MAX_DEPTH = 8  # below the folder that was named


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders at or below some folders, each once, sorted by their path.

    Hidden folders are passed by, links to folders are not followed, and nothing is looked for inside a run.

    Raises:
        ArtifactError: one of the folders is not there.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError("no such folder", where=str(folder), cure="Check the path.")
        for path in _below(folder):
            found.setdefault(path.resolve(), path)
    return sorted(found.values())


def _below(folder: Path) -> list[Path]:
    found = []
    for here, folders, files in os.walk(folder):
        place = Path(here)
        if MARKER in files:
            found.append(place)
            folders.clear()
        depth = len(place.relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < MAX_DEPTH)
    return found
