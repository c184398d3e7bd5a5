"""A small plant and logs of it, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from controlkit.ingest.timestamps import iso
from controlkit.spec import PlantSpec

NS = 1_000_000_000
START = 1_704_067_200 * NS  # 2024-01-01T00:00:00Z

TAGS: dict[str, dict[str, Any]] = {
    "temperature": {"role": "state", "unit": "degC", "range": [-30, 40], "history": 2, "column": "TT-101"},
    "door": {"role": "exogenous", "unit": "1", "range": [-0.5, 1.5]},
    "power": {
        "role": "action", "unit": "kW", "range": [0, 12], "limits": [0, 10], "safe": 1, "fallback": {"kind": "hold"},
        "history": 1,
    },
}  # fmt: skip

Row = tuple[str, str, str, str]  # time stamp, tag, value, quality


@pytest.fixture
def make_spec() -> Callable[..., PlantSpec]:
    """The plant with further or changed tags (None takes one away) and fields."""

    def make(tags: dict[str, Any] | None = None, **fields: Any) -> PlantSpec:
        merged = {name: dict(tag) for name, tag in TAGS.items()}
        for name, change in (tags or {}).items():
            if change is None:
                del merged[name]
            else:
                merged[name] = {**merged.get(name, {}), **change}
        objective = [{"kind": "track", "tag": "temperature", "setpoint": -2}]
        return PlantSpec.from_dict({"name": "cold", "period_s": 1, "tags": merged, "objective": objective, **fields})

    return make


@pytest.fixture
def spec(make_spec: Callable[..., PlantSpec]) -> PlantSpec:
    return make_spec()


def stamp(second: float) -> str:
    """ISO time stamp so many seconds after the start."""
    return iso(START + round(second * NS))


@pytest.fixture
def rows() -> list[Row]:
    """Twenty good samples of every tag, one a second: row 3 k is the temperature at second k, then door, then power."""
    made: list[Row] = []
    for k in range(20):
        made.append((stamp(k), "TT-101", f"{5 - 0.25 * k}", "good"))
        made.append((stamp(k), "door", str(k % 7 // 5), "good"))
        made.append((stamp(k), "power", f"{k % 5}", "good"))
    return made


@pytest.fixture
def write_long(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a long CSV; the first row is line 2."""

    def write(
        rows: Sequence[Sequence[str]], name: str = "log.csv", header: str = "timestamp,tag,value,quality"
    ) -> Path:
        path = tmp_path / name
        path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def at() -> Callable[[float], str]:
    return stamp
