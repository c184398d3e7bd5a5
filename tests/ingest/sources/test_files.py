"""Parquet and Arrow files, folders and patterns, several sources; logs made at random come back as they were."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from controlkit.ingest.sources import stage_sources
from controlkit.ingest.sources.table_file import TableFile
from controlkit.ingest.stage import Code
from controlkit.ingest.timestamps import iso
from controlkit.progress import Silent

NS = 1_000_000_000
START = 1_704_067_200 * NS


def table(start, rows, naive=False):
    stamps = pa.array(
        [START + (start + k) * NS for k in range(rows)], pa.timestamp("us" if naive else "ns", None if naive else "UTC")
    )
    k = np.arange(start, start + rows)
    return pa.table(
        {"timestamp": stamps, "TT-101": 5.0 - k, "door": pa.array(k % 2 == 1), "power": pa.array(k, pa.int16())}
    )


def test_parquet_and_arrow_files(read, tmp_path):
    pq.write_table(table(0, 3), tmp_path / "a.parquet", row_group_size=2)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_file(sink, table(3, 3).schema) as writer:
        writer.write_table(table(3, 3))
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table(6, 3).schema) as writer:
        writer.write_table(table(6, 3), max_chunksize=2)
    feather.write_feather(table(9, 3), tmp_path / "d.feather")
    found = read(*(tmp_path / name for name in ("d.feather", "b.arrow", "c.arrow", "a.parquet")))
    assert found.values("power") == list(range(12))
    assert found.values("door") == [k % 2 for k in range(12)]
    assert found.times("temperature") == [iso(START + k * NS) for k in range(12)]
    assert [source.name for source in found.log.sources] == ["a.parquet", "b.arrow", "c.arrow", "d.feather"]
    assert found.log.place(1, 0).endswith("b.arrow, row 1")


def test_stamps_of_every_resolution_mean_the_same(read, make_spec, tmp_path):
    plant = make_spec(time_zone="Europe/Berlin")
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "America/New_York"):
            path = tmp_path / f"{unit}{'' if zone is None else zone[:2]}.parquet"
            stamps = table(0, 2)["timestamp"].cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone))
            pa_table = table(0, 2).set_column(0, "timestamp", stamps)
            with (
                pa.OSFile(str(path.with_suffix(".arrow")), "wb") as sink,
                pa.ipc.new_file(sink, pa_table.schema) as writer,
            ):
                writer.write_table(pa_table)
            hour = "2023-12-31T23:00:00Z" if zone is None else "2024-01-01T00:00:00Z"
            assert read(path.with_suffix(".arrow"), plant=plant).times("door")[0] == hour


def test_a_long_log_with_categories_and_nulls(read, tmp_path):
    tags = pa.array(["TT-101", "door", "power", None, "TT-101"]).dictionary_encode()
    stamps = pa.array([START, START, START, START, None], pa.timestamp("ns", "UTC"))
    log = pa.table(
        {"time": stamps, "tagname": tags, "value": [None, 1.0, math.nan, 1.0, 1.0], "status": [192, 192, 192, 192, 0]}
    )
    pq.write_table(log, tmp_path / "log.parquet")
    found = read(tmp_path / "log.parquet")
    assert found.samples("temperature") == [("2024-01-01T00:00:00Z", None, "empty")]
    assert found.samples("power") == [("2024-01-01T00:00:00Z", None, "good")]  # contradicts itself: the assessment's
    assert [(place.rsplit(" ", 1)[1], tag, reason) for place, tag, _, reason in found.quarantined()] == [
        ("4", "", "no tag name"), ("5", "temperature", "time stamp cannot be read"),
    ]  # fmt: skip


def test_a_partitioned_folder(read, tmp_path):
    for tag, values in (("TT-101", [5.0, 4.0]), ("door", [0.0, 1.0]), ("power", [0.0, 1.0])):
        for day in (1, 2):
            folder = tmp_path / "log" / f"day={day}" / f"tag={tag}"
            folder.mkdir(parents=True)
            stamps = pa.array([START + ((day - 1) * 86_400 + k) * NS for k in range(2)], pa.timestamp("ns", "UTC"))
            pq.write_table(pa.table({"timestamp": stamps, "value": values}), folder / "part-0.parquet")
    (tmp_path / "log" / "_SUCCESS").touch()
    found = read(tmp_path / "log")
    assert found.values("temperature") == [5, 4, 5, 4]
    assert found.times("power")[2] == "2024-01-02T00:00:00Z"
    assert len(found.log.sources) == 6
    assert found.log.sources[0].name == "log/day=1/tag=TT-101/part-0.parquet"


def test_patterns_and_the_order_of_sources(read, tmp_path, write, wide_lines):
    for k, name in enumerate(("z.csv", "y.csv", "x.csv")):
        write([wide_lines[0], *(line.replace("T00:00", f"T0{k}:00") for line in wide_lines[1:])], name)
    found = read(tmp_path / "*.csv")
    assert [source.name for source in found.log.sources] == ["z.csv", "y.csv", "x.csv"]
    assert found.times("door") == sorted(found.times("door"))
    assert found.log.stage.read("door")["source"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.log.place(2, 3).endswith("x.csv, line 3")


def test_the_zone_of_a_naive_source_counts_in_the_order(read, make_spec, write, wide_lines):
    write([line.replace("Z", "").replace("T00", " 01") for line in wide_lines], "naive.csv")  # 00:00 in UTC
    write([line.replace("T00:00", "T00:30") for line in wide_lines], "zoned.csv")
    found = read(write("", "no.log").parent / "*.csv", plant=make_spec(time_zone="Europe/Berlin"))
    assert [source.name for source in found.log.sources] == ["naive.csv", "zoned.csv"]


def test_files_of_one_name_are_told_apart(read, tmp_path, write, wide_lines):
    for k in range(2):
        (tmp_path / f"{k}").mkdir()
        write([line.replace("T00:00", f"T0{k}:00") for line in wide_lines], f"{k}/log.csv")
    found = read(tmp_path / "[01]" / "log.csv")
    assert [source.name for source in found.log.sources] == ["log.csv", "log.csv (2)"]


def test_a_file_whose_name_looks_like_a_pattern(read, write, wide_lines):
    assert read(write(wide_lines, "log[1].csv")).values("power") == [0, 1, 2, 3]


def test_batches_start_anew(spec, tmp_path):
    pq.write_table(table(0, 10), tmp_path / "a.parquet")
    source = TableFile(tmp_path / "a.parquet", spec)
    for size in (3, 100):
        rows = np.concatenate([batch.row for batch in source.batches(size)])
        assert rows.tolist() == list(range(10))


def test_the_presets_names_flags_and_codes(read, make_spec, write):
    plant = make_spec(log={"preset": "pi"})
    rows = (
        ("TT-101", "00:00:00", "5.0", "0", "False", "False"), ("TT-101", "00:00:01", "5.1", "0", "True", "False"),
        ("TT-101", "00:00:02", "5.2", "0", "False", "True"), ("TT-101", "00:00:03", "Bad", "-248", "False", "False"),
        ("door", "00:00:00", "0", "0", "False", "False"), ("power", "00:00:00", "0", "0", "False", "False"),
    )  # fmt: skip
    lines = ["tag,time,value,status,questionable,substituted,annotated"]
    lines += [f"{tag},01-Jan-24 {clock},{','.join(rest)},False" for tag, clock, *rest in rows]
    found = read(write(lines), plant=plant)
    assert [code for *_, code in found.samples("temperature")] == ["good", "uncertain", "substituted", "bad"]
    assert not found.quarantined()


def test_the_reading_is_reported(spec, tmp_path, write, wide_lines):
    bar = Silent()
    write([line.replace("2024-01-01T00:00:0", "4529").replace("Z", "") for line in wide_lines], "days.csv")
    stage_sources(spec, [tmp_path / "days.csv"], tmp_path / "scratch", progress=bar)
    assert "spreadsheet" in bar.messages[0]


CELL = st.one_of(st.floats(-1e6, 1e6).map(repr), st.just(""), st.just("Bad"), st.integers(-99, 99).map(str))
ROWS = st.lists(
    st.tuples(
        st.integers(0, 10**6), st.sampled_from(["TT-101", "door", "power"]), CELL, st.sampled_from(["good", "bad"])
    ),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, mark=st.sampled_from([",", ";"]), quote=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_logs_made_at_random_come_back(rows, mark, quote, spec, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("random")
    rows = [*rows, *((10**6 + 1, tag, "0", "good") for tag in ("TT-101", "door", "power"))]
    with (folder / "log.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=mark, quoting=quote)
        writer.writerow(["timestamp", "tag", "value", "quality"])
        writer.writerows([iso(START + ms * 1_000_000), tag, value, quality] for ms, tag, value, quality in rows)
    log = stage_sources(spec, [folder / "log.csv"], folder / "scratch")
    for column, tag in (("TT-101", "temperature"), ("door", "door"), ("power", "power")):
        expected = []
        for i, (ms, name, cell, quality) in enumerate(rows):
            if name == column:
                code = {"": Code.EMPTY, "Bad": Code.BAD}.get(cell, Code.GOOD if quality == "good" else Code.BAD)
                expected.append((START + ms * 1_000_000, None if cell in ("", "Bad") else float(cell), i + 2, code))
        found = [
            (int(s["time_ns"]), None if np.isnan(s["value"]) else float(s["value"]), int(s["row"]), int(s["code"]))
            for s in log.stage.read(tag)
        ]
        assert found == expected
    assert not len(log.quarantine)
