"""Small readers of a run folder's files, which may come from anywhere: sizes and types first, nothing is executed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from controlkit.errors import ArtifactError

MAX_SMALL, MAX_LARGE = 1 << 20, 1 << 26  # bytes: of records and settings, of metrics and reports
MAX_COLUMNS = 500


def require_file(path: Path, limit: int = MAX_SMALL) -> Path:
    """The same path, if a plain file of at most `limit` bytes is there.

    Raises:
        ArtifactError: it is missing, something else, or too large.
    """
    if not path.is_file():
        raise ArtifactError("no such file", where=str(path), cure="Copy the folder again.")
    if path.stat().st_size > limit:
        raise ArtifactError(f"is larger than {limit >> 20} MiB", where=str(path), cure="Look at what it is.")
    return path


def read_object(path: Path, limit: int = MAX_SMALL) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ArtifactError: it is missing, too large, damaged, or holds something else.
    """
    try:
        content = json.loads(require_file(path, limit).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        reason = str(problem).splitlines()[0][:80] if str(problem) else type(problem).__name__
        raise ArtifactError(f"is damaged ({reason})", where=str(path), cure="Make it again.") from None
    if not isinstance(content, dict):
        raise ArtifactError("holds no record", where=str(path), cure="Make it again.")
    return content


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`: column -> finite value, cells without one left out.

    Raises:
        ArtifactError: it is missing, too large, or not such a table.
    """
    rows: list[dict[str, float]] = []
    try:
        with require_file(path, MAX_LARGE).open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            names = next(reader, [])
            if len(names) > MAX_COLUMNS:
                raise ArtifactError(f"has {len(names)} columns", where=str(path), cure="Train again.")
            for number, cells in enumerate(reader, start=2):
                if len(cells) != len(names):
                    cure = "Resume the run, or train again."
                    raise ArtifactError("is cut off or damaged", where=f"{path}, line {number}", cure=cure)
                values = {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell}
                rows.append({name: value for name, value in values.items() if math.isfinite(value)})
    except (OSError, ValueError, csv.Error) as problem:
        raise ArtifactError(f"is no table of numbers ({problem})", where=str(path), cure="Train again.") from None
    return rows
