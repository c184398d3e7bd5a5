"""A log as the reading leaves it, made of samples that a test writes down."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sources.staged import StagedLog, StagedSource
from controlkit.ingest.stage import SAMPLE, USABLE, Code, Stage

NS = 1_000_000_000
START = 1_704_067_200 * NS  # 2024-01-01T00:00:00Z


def log_of(stage: Stage, *rows: int) -> StagedLog:
    """A log of files with so many rows."""
    sources = [
        StagedSource(f"log{i}.csv", f"log{i}.csv", "", "long", count, count, 0, None, None)
        for i, count in enumerate(rows)
    ]
    return StagedLog(stage, tuple(sources), Quarantine(), tuple(partial(_line, i) for i in range(len(rows))))


def _line(source: int, row: int) -> str:
    return f"log{source}.csv, line {row + 2}"


def staged(folder: Path, tag: str, *files: Iterable[tuple], rows: int | None = None) -> StagedLog:
    """A log of one tag; samples of a file are (second, value) or (second, value, code)."""
    stage = Stage(folder / "staged", (tag,))
    counts = []
    for number, samples in enumerate(files):
        made = np.zeros(len(found := list(samples)), dtype=SAMPLE)
        for i, (second, value, *code) in enumerate(found):
            made[i] = (START + round(second * NS), value, i, number, code[0] if code else Code.GOOD, (0,) * 5)
        stage.append_tag(tag, made)
        counts.append(len(made) if rows is None else rows)
    return log_of(stage, *counts)


def usable_stage(folder: Path, **tags: Iterable[tuple[float, float]]) -> Stage:
    """Usable samples (second, value) by tag."""
    stage = Stage(folder / "usable", tuple(tags), USABLE)
    for tag, samples in tags.items():
        stage.append_tag(tag, np.array([(START + round(s * NS), value) for s, value in samples], dtype=USABLE))
    return stage


def pairs(usable: Stage, tag: str) -> list[tuple[float, float]]:
    """(second, value) of every usable sample of a tag."""
    return [((int(time) - START) / NS, float(value)) for time, value in usable.read(tag).tolist()]
