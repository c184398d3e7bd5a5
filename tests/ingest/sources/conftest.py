"""Logs of a small plant: how they are read, and what of them is staged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.ingest.sources import StagedLog, stage_sources
from controlkit.ingest.stage import Code
from controlkit.ingest.timestamps import iso
from controlkit.spec import PlantSpec

NS = 1_000_000_000
NOW = 1_735_689_600 * NS  # 2025-01-01T00:00:00Z

Sample = tuple[str, float, str]  # stamp in UTC, value, code


class Read:
    """A staged log in words."""

    def __init__(self, log: StagedLog) -> None:
        self.log = log

    def samples(self, tag: str) -> list[Sample]:
        """(stamp, value, code) of every staged sample of a tag; NaN as None."""
        found = []
        for sample in self.log.stage.read(tag):
            value = float(sample["value"])
            found.append(
                (iso(int(sample["time_ns"])), None if np.isnan(value) else value, Code(sample["code"]).name.lower())
            )
        return found

    def values(self, tag: str) -> list[float]:
        return [value for _, value, _ in self.samples(tag)]

    def times(self, tag: str) -> list[str]:
        return [time for time, _, _ in self.samples(tag)]

    def quarantined(self) -> list[tuple[str, str, str, str]]:
        """(place, tag, text, reason) of what is in quarantine."""
        return [
            (self.log.place(entry.source, entry.row), entry.tag, entry.text, entry.reason)
            for entry in self.log.quarantine.listed
        ]

    def adds_up(self) -> bool:
        """Whether every cell is staged, quarantined or ignored."""
        codes = [self.log.stage.read(tag)["code"] for tag in self.log.stage.tags]
        staged = sum(int((code != Code.UNREADABLE).sum()) for code in codes)
        cells = sum(source.samples for source in self.log.sources)
        return cells == staged + len(self.log.quarantine) + sum(source.ignored for source in self.log.sources)


@pytest.fixture
def read(spec: PlantSpec, tmp_path: Path) -> Callable[..., Read]:
    """Reads sources with the plant of `make_spec`, or another one."""
    calls = 0

    def call(*sources: Path | str, plant: PlantSpec | None = None, now_ns: int = NOW, **log: Any) -> Read:
        nonlocal calls
        calls += 1
        used = plant or spec
        if log:
            used = used.model_copy(update={"log": used.log.model_validate(log)})
        found = Read(stage_sources(used, sources, tmp_path / f"scratch{calls}", now_ns=now_ns))
        assert found.adds_up()
        return found

    return call


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines as they are; the first one is line 1."""

    def make(lines: Sequence[str] | str, name: str = "log.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        text = lines if isinstance(lines, str) else "\n".join(lines) + "\n"
        path.write_bytes(text.encode(encoding))
        return path

    return make


LONG = "timestamp,tag,value,quality"
WIDE = "timestamp,TT-101,door,power"


@pytest.fixture
def long_lines() -> list[str]:
    """A header and four good samples of every tag, one a second: lines 2, 3 and 4 are those at 00:00:00."""
    lines = [LONG]
    for k in range(4):
        for tag, value in (("TT-101", 5 - k), ("door", 0), ("power", k)):
            lines.append(f"2024-01-01T00:00:0{k}Z,{tag},{value},good")
    return lines


@pytest.fixture
def wide_lines() -> list[str]:
    """A header and four rows, one a second."""
    return [WIDE, *(f"2024-01-01T00:00:0{k}Z,{5 - k},0,{k}" for k in range(4))]
