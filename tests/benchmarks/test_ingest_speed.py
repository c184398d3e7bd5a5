"""The comparison of ingests at sizes that take no time: same log, same result, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from controlkit.align import frozen_samples
from controlkit.benchmarks import ingest_pandas, ingest_speed, run_suite, speed
from controlkit.benchmarks.ingest_log import ACTIONS, TAGS, plant, write_log
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.ingest import ingest
from controlkit.progress import Silent

ROWS = 14_000 * TAGS  # long enough for a gap, a manual stretch and a frozen sensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


def test_a_log_has_what_makes_an_ingest_hard(folder: Path) -> None:
    log = write_log(folder, ROWS, "parquet")
    table = pd.read_parquet(log.path)
    assert len(table) == log.rows
    assert abs(log.rows - ROWS) < 0.03 * ROWS
    assert set(table["tag"]) == set(plant().tags)
    assert table["timestamp"].is_monotonic_increasing
    assert 0.005 < (table["quality"] == "bad").mean() < 0.015
    assert 0.0005 < table.duplicated(["tag", "timestamp"]).mean() < 0.002
    assert (table["value"] == 1e4).sum() > 0
    assert table["timestamp"].diff().max() > pd.Timedelta("290s")
    assert set(table.loc[table["tag"] == "auto", "value"]) == {0.0, 1.0}
    assert ingest_speed.write_log(folder, ROWS, "parquet") == log  # found, not made again


def test_pandas_finds_the_samples_of_a_frozen_sensor(folder: Path) -> None:
    log = ingest_pandas.read(write_log(folder, ROWS, "parquet").path)
    with_rule = ingest_pandas.usable(plant(), log)["t04"]
    without = ingest_pandas.usable(plant(frozen=False), log)["t04"]
    rule = plant().tags["t04"].frozen
    assert rule is not None
    frozen, _ = frozen_samples(without["t"].to_numpy(), without["value"].to_numpy(), rule)
    assert 50 < frozen.sum() < 1000
    np.testing.assert_array_equal(with_rule["t"], without["t"][~frozen])


def test_pandas_and_controlkit_make_the_same_of_a_log(folder: Path, tmp_path: Path) -> None:
    spec = plant()
    log = write_log(folder, ROWS, "parquet")
    result = ingest(spec, [log.path], tmp_path / "data")
    frame = ingest_pandas.dataset(spec, ingest_pandas.usable(spec, ingest_pandas.read(log.path)))
    assert 12_000 < len(frame) < 13_000  # the steps of bad commands are left out
    assert frame["episode"].max() >= 2
    assert result.dataset.changed.any(axis=0).sum() == ACTIONS
    frame.to_parquet(tmp_path / "frame.parquet")
    ingest_speed.require_same(tmp_path / "data", tmp_path / "frame.parquet")
    # The smallest difference shows.
    for name, change in (("frames", 1e-4), ("actions", 1e-3)):
        values = getattr(result.dataset, name).copy()
        values[100, 0] += change
        replace(result.dataset, **{name: values}).save(tmp_path / "other")
        with pytest.raises(ControlkitError, match=f"differ in '{name}'"):
            ingest_speed.require_same(tmp_path / "other", tmp_path / "frame.parquet")


def test_csv_and_parquet_hold_the_same_log(folder: Path) -> None:
    csv, parquet = (ingest_pandas.read(write_log(folder, 10_000, form).path) for form in ("csv", "parquet"))
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False, check_categorical=False)


def test_every_method_runs_in_a_process_of_its_own_and_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ingest_speed.SIZES, "ingest-quick", {"csv": 50_000, "parquet": 50_000})
    for method in ("controlkit", "duckdb_asof", "pandas"):
        run_suite("speed", tmp_path, 1, Silent(), tasks=["ingest-quick"], methods=[method])
    records = read_json(tmp_path / "results.json")
    found = {(record["method"], record["metric"]): record["value"] for record in records}
    metrics = ("ingest_csv_rows_per_s", "ingest_grid_rows_per_s", "ingest_peak_mb")
    assert set(found) == {(method, metric) for method in ingest_speed.METHODS for metric in metrics}
    assert all(value > 0 for value in found.values())
    assert all(found[method, "ingest_peak_mb"] < 5000 for method in ingest_speed.METHODS)
    assert not (tmp_path / "logs").exists()


def test_a_method_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ingest_speed.SIZES, "ingest-quick", {"csv": 1000})
    path = write_log(tmp_path, 1000, "csv").path
    path.write_text("nothing\n")
    with pytest.raises(ControlkitError, match="pandas failed: KeyError"):
        ingest_speed.measure_ingest(tmp_path, "ingest-quick", "pandas", 1, Silent())


def test_the_edge_form_is_measured() -> None:
    found = ingest_speed.measure_online(tags=20, samples=30, rounds=2)
    assert len(found) == 2
    assert all(0 < value < 1e6 for value in found)
    assert "online" in speed.TASKS
