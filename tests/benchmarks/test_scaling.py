"""The suite `scaling`: its figures, from times that are given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlkit.benchmarks import run_suite, scaling
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.progress import Silent

TIMES = {1: scaling.Timed(42.0, (10.0,) * 4, 8.0, 3.0), 2: scaling.Timed(24.0, (11.0,) * 4, 9.0, 4.0)}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sweeps that take as long as `TIMES` says; the numbers of workers that were asked for."""
    asked: list[int] = []

    def timed(folder: Path, data: Path, workers: int, sizes: scaling.Sizes) -> scaling.Timed:
        asked.append(workers)
        return TIMES[workers]

    monkeypatch.setattr(scaling, "_timed", timed)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return asked


def test_the_speedup_and_what_a_run_costs_beside_its_work(given: list[int], tmp_path: Path) -> None:
    table = run_suite("scaling", tmp_path, 2, Silent(), tasks=("sweep",))
    assert given == [1, 2, 1, 2]
    found = {(r["method"], r["metric"]): r["value"] for r in read_json(tmp_path / "results.json")}
    assert found["2 workers", "speedup"] == 42.0 / 24.0
    assert found["1 worker", "task_overhead_s"] == 0.5
    assert found["2 workers", "run_s"] == 11.0
    assert found["1 worker", "first_run_after_s"] == 3.0
    assert "| speedup | 2 workers | 1.75 ± 0 | at least 1.7 |" in table
    assert (tmp_path / "table.md").read_text() == table


def test_what_cannot_be_measured_is_said(given: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlkitError, match="did you mean 'sweep'"):
        run_suite("scaling", tmp_path, 1, Silent(), tasks=("sweeep",))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(ControlkitError, match="2 workers need as many cores"):
        run_suite("scaling", tmp_path, 1, Silent())
    assert not given
    assert not list(tmp_path.iterdir())
