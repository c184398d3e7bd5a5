"""A first plant file for a flat file: what the columns show is filled in, what only the user knows is marked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from controlkit.errors import DataError
from controlkit.ingest.flat_file import FlatFile
from controlkit.ingest.flat_sources import KINDS, is_flat, read_source
from controlkit.ingest.flat_structure import FlatStructure, find_structure
from controlkit.ingest.sources.sql_address import redacted

# A range beyond the smallest and largest value seen, so that a new value is no bad measurement at once.
MARGIN = 0.25


def describe_flat(sources: Sequence[Path]) -> tuple[str, str]:
    """What a flat file holds, in words, and a plant file for it (YAML).

    Raises:
        DataError: it cannot be read, or there are several.
    """
    if len(sources) > 1 or not is_flat(sources[0]):
        raise DataError(
            "without a plant file, one flat file is looked at at a time",
            where=", ".join(redacted(str(source)) for source in sources),
            cure=f"Give one of: {KINDS}.",
        )
    file = read_source(sources[0])
    structure = find_structure(file)
    return structure.to_text(), draft_plant(file, structure, plant_name(sources[0].stem))


def draft_plant(file: FlatFile, structure: FlatStructure, name: str) -> str:
    """YAML of a plant file whose layout is the file's columns, in their order.

    Args:
        file: the file.
        structure: what was found in it.
        name: of the plant; letters, digits and '_'.

    Columns that no layout can place (histories with gaps, or in another order than a layout's) are named in a comment.
    """
    lines = [
        f"# Drafted from {file.path.name} by 'controlkit ingest --check'. Complete what is marked with '<-'.",
        *(f"# {message}" for message in structure.messages),
        f"name: {name}",
        "period_s: 1  # <- seconds between two rows",
        "tags:",
    ]
    for finding in structure.columns:
        if finding.kind in ("history", "past action"):
            continue
        role = "static" if finding.kind == "constant" else finding.kind
        history = structure.history(finding.column)
        same = [
            finding.column,
            *(f.column for f in structure.columns if f.kind == "history" and f.of == finding.column),
        ]
        values = np.concatenate([file.observation[:, same], file.next_observation[:, same]])
        entries = [f"role: {role}", 'unit: "1"', f"range: {_range(float(values.min()), float(values.max()))}"]
        entries += [f"history: {history}"] if history else []
        lines.append(f"  {column_name(file, finding.column)}: {{{', '.join(entries)}}}  # <- {finding.evidence}")
    for action in range(structure.actions):
        history = structure.past_commands(action)
        kept = f", history: {history}" if history else ""
        limits = _limits(file, action)
        lines.append(
            f'  {action_name(file, action)}: {{role: action, unit: "1", range: {limits}{kept}, safe: {_safe(limits)}, '
            "fallback: {kind: hold}}  # <- limits, safe value, fallback"
        )
    if file.reward is None:
        lines += ["objective: []  # <- the file has no rewards: write what is wanted"]
    else:
        lines += [
            "objective:",
            "  - {kind: recorded}  # <- or the reward's formula, which is better than a learned one",
        ]
    unplaced = _unplaced(file, structure)
    if unplaced:
        lines.append(f"# The layout of a plant has no place for: {', '.join(f'column {i}' for i in unplaced)}")
    return "\n".join(lines) + "\n"


def plant_name(text: str) -> str:
    """A plant's name from a file's: letters, digits, '_' and '-' alone, a letter first."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")
    return kept if kept[:1].isalpha() else f"plant_{kept}".rstrip("_")


def column_name(file: FlatFile, column: int) -> str:
    """The column's name in the file, or one by its number."""
    return file.frame_tags[column] if file.frame_tags else f"column_{column}"


def action_name(file: FlatFile, action: int) -> str:
    """The action's name in the file, or one by its number."""
    return file.action_tags[action] if file.action_tags else f"action_{action}"


def _unplaced(file: FlatFile, structure: FlatStructure) -> list[int]:
    """Columns that do not stand where a layout with these histories has them."""
    roots = [f for f in structure.columns if f.kind not in ("history", "past action")]
    wanted = [(f.kind in ("past action",), f.column, 0) for f in roots]
    deepest = max((structure.history(f.column) for f in roots), default=0)
    for lag in range(1, deepest + 1):
        wanted += [(False, f.column, lag) for f in roots if structure.history(f.column) >= lag]
    commands = max((structure.past_commands(a) for a in range(structure.actions)), default=0)
    for lag in range(1, commands + 1):
        wanted += [(True, a, lag) for a in range(structure.actions) if structure.past_commands(a) >= lag]
    found = [
        (f.kind == "past action", f.column if f.of is None else f.of, f.lag) for f in structure.columns
    ]  # in the file's order
    return [structure.columns[i].column for i, place in enumerate(found) if i >= len(wanted) or place != wanted[i]]


def _limits(file: FlatFile, action: int) -> str:
    if not file.action_tags:
        return "[-1, 1]"
    return _range(float(file.action[:, action].min()), float(file.action[:, action].max()))


def _safe(limits: str) -> str:
    low, high = (float(end) for end in limits.strip("[]").split(","))
    return f"{min(max(0.0, low), high):g}"


def _range(low: float, high: float) -> str:
    """Rounded outward to three digits, a margin wider."""
    margin = MARGIN * (high - low) or max(1.0, abs(low))
    ends = low - margin, high + margin
    step = 10.0 ** (math.floor(math.log10(ends[1] - ends[0])) - 1)
    return f"[{math.floor(ends[0] / step) * step:.6g}, {math.ceil(ends[1] / step) * step:.6g}]"
