"""A log as the reading leaves it, made of samples that a test writes down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.stage import SAMPLE, USABLE, Code, Stage

NS = 1_000_000_000
START = 1_704_067_200 * NS  # 2024-01-01T00:00:00Z


@dataclass(frozen=True)
class StagedFile:
    location: str
    rows: int


@dataclass(frozen=True)
class Log:
    stage: Stage
    sources: tuple[StagedFile, ...]
    quarantine: Quarantine

    def place(self, source: int, row: int) -> str:
        return f"{self.sources[source].location}, line {row + 2}"


def staged(folder: Path, tag: str, *files: Iterable[tuple], rows: int | None = None) -> Log:
    """A log of one tag; samples of a file are (second, value) or (second, value, code)."""
    stage = Stage(folder / "staged", (tag,))
    sources = []
    for number, samples in enumerate(files):
        made = np.zeros(len(found := list(samples)), dtype=SAMPLE)
        for i, (second, value, *code) in enumerate(found):
            made[i] = (START + round(second * NS), value, i, number, code[0] if code else Code.GOOD, (0,) * 5)
        stage.append_tag(tag, made)
        sources.append(StagedFile(f"log{number}.csv", len(made) if rows is None else rows))
    return Log(stage, tuple(sources), Quarantine())


def usable_stage(folder: Path, **tags: Iterable[tuple[float, float]]) -> Stage:
    """Usable samples (second, value) by tag."""
    stage = Stage(folder / "usable", tuple(tags), USABLE)
    for tag, samples in tags.items():
        stage.append_tag(tag, np.array([(START + round(s * NS), value) for s, value in samples], dtype=USABLE))
    return stage


def pairs(usable: Stage, tag: str) -> list[tuple[float, float]]:
    """(second, value) of every usable sample of a tag."""
    return [((int(time) - START) / NS, float(value)) for time, value in usable.read(tag).tolist()]
