"""The growth curves' points: what a stage took, and the figures made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlkit.benchmarks import growth
from controlkit.benchmarks.growth import measure_growth, records_of
from controlkit.benchmarks.growth_point import Stages, ingest_point
from controlkit.files import write_json
from controlkit.progress import Silent


def test_stages_of_one_name_are_summed_up():
    times = iter([0.0, 1.0, 5.0, 7.0])
    stages = Stages(clock=lambda: next(times))
    for name in ("read", "write", "read"):
        stages.start(name, 1)
    found = stages.finish()
    assert {name: used["seconds"] for name, used in found.items()} == {"read": 3.0, "write": 4.0}
    assert all(used["cpu_s"] >= 0 for used in found.values())


def test_figures_are_per_row_and_of_the_policy_per_update():
    used = {"seconds": 2.0, "cpu_s": 1.0, "bytes": 300.0, "disk_bytes": 4e6}
    found = {
        "stages": {"load": used, "policy": used}, "units": {"load": 100, "policy": 50}, "peak_mb": 7.0,
        "wall": 5.0, "commit": "abc", "machine": "m",
    }  # fmt: skip
    records = records_of(("train", 100, 0, 1), found)
    figures = {(one.method, one.metric): one.value for one in records}
    assert figures["load", "cpu_us_per_row"] == 1e4
    assert figures["policy", "cpu_us_per_update"] == 2e4
    assert figures["all", "cpu_us_per_row"] == 2e4
    assert figures["load", "processors"] == 0.5
    assert figures["load", "bytes_per_row"] == 3
    assert figures["load", "disk_mb_per_s"] == 2
    assert figures["all", "peak_mb"] == 7
    assert {one.task for one in records} == {"train rows=100"}


def test_a_point_that_is_measured_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    point = ("ingest", 10, 0, 1)
    monkeypatch.setattr(growth, "TASKS", {"growth": (point,)})
    content = {"stages": {}, "units": {}, "peak_mb": 3.0, "wall": 1.0, "commit": "", "machine": ""}
    write_json(tmp_path / "growth" / "ingest-rows=10.json", content | {"stages": {"read": _used()}})
    records = measure_growth(tmp_path, ["growth"], Silent())
    assert ("all", "peak_mb", 3.0) in {(one.method, one.metric, one.value) for one in records}
    assert measure_growth(tmp_path, [], Silent()) == []


def _used() -> dict[str, float]:
    return {"seconds": 1.0, "cpu_s": 1.0, "bytes": 1.0, "disk_bytes": 1.0}


def test_a_wide_log_of_so_many_tags_is_ingested(tmp_path: Path):
    found = ingest_point(6000, 10, 1, tmp_path)
    assert {"read", "check samples", "align", "write", "report"} <= set(found["stages"])
    assert found["stages"]["write"]["bytes"] > 0
    assert set(found["units"].values()) == {6000}
