"""Every log that cannot be used: one line that names file, place and cure; nothing written, nothing lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError, DataError, SpecError
from controlkit.ingest import ingest


def refused(spec, path, *parts, where=None):
    """Ingests, expects one line with all `parts`, and returns the error."""
    with pytest.raises(DataError) as caught:
        ingest(spec, path if isinstance(path, list) else [path], None)
    problem = caught.value
    message = str(problem)
    assert "\n" not in message
    assert problem.where.startswith(where if where is not None else f"{path}, ")
    assert len(problem.cure) > 8
    for part in parts:
        assert part in message, (part, message)
    return problem


def quarantined(spec, path, *parts, place):
    """As `refused`, where the only bad row is already more than one in a hundred."""
    return refused(spec, path, "cannot be used", "'log.max_quarantined'", f"in {place}", *parts, where=str(path))


def test_a_missing_file_or_a_folder_or_another_kind(spec, tmp_path):
    refused(spec, tmp_path / "none.csv", "no such file", "Check the path", where=str(tmp_path / "none.csv"))
    refused(spec, tmp_path, "folder without a log", where=str(tmp_path))
    (tmp_path / "log.xlsx").write_text("x")
    refused(spec, tmp_path / "log.xlsx", "neither CSV nor Parquet", where=str(tmp_path / "log.xlsx"))
    with pytest.raises(DataError, match="no log was named"):
        ingest(spec, [], None)


@pytest.mark.parametrize("text", ["", "\n", "timestamp,tag,value\n", "timestamp,TT-101,door,power\n"])
def test_an_empty_log(text, spec, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(text)
    refused(spec, path, "the log is empty", "Export it again", where=str(path))


def test_an_empty_parquet_log_and_a_damaged_one(spec, tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(
        pa.table({"timestamp": pa.array([], pa.timestamp("us")), "TT-101": pa.array([], pa.float64())}), path
    )
    refused(spec, path, "the log is empty", where=str(path))
    path.write_bytes(b"PAR1 and then nothing of the kind")
    refused(spec, path, "cannot be read", where=str(path))


def test_a_line_with_too_few_columns(spec, rows, write_long):
    rows[7] = rows[7][:2]
    path = write_long(rows)
    quarantined(spec, path, "cells", place=f"{path}, line 9")


@pytest.mark.parametrize("cell", ['"4', '"4"x', "4\r5"])
def test_a_quotation_mark_or_line_end_out_of_place(cell, spec, rows, write_long):
    rows[7] = (*rows[7][:2], cell, "good")
    path = write_long(rows)
    quarantined(spec, path, place=f"{path}, line 9")


def test_an_unknown_tag_names_the_nearest_and_the_cure(spec, rows, write_long, tmp_path):
    rows[4] = (rows[4][0], "dor", "1", "good")
    path = write_long(rows)
    refused(spec, path, "tag 'dor'", "Did you mean 'door'?", "role 'ignore'", where=f"{path}, line 6")
    wide = tmp_path / "wide.csv"
    wide.write_text("timestamp,TT-101,door,powr\n2024-01-01,1,0,1\n")
    refused(spec, wide, "tag 'powr'", "Did you mean 'power'?", "role 'ignore'", where=f"{wide}, line 1")


def test_a_missing_tag_names_the_nearest_column(spec, make_spec, rows, write_long):
    path = write_long([row for row in rows if row[1] != "power"])
    refused(spec, path, "tag 'power' of the plant file is not in the log", "door", where=str(path))
    spec = make_spec(
        {
            "temperature": {"column": "TT-102"},
            "spare": {"role": "ignore", "unit": "1", "range": [0, 1], "column": "TT-101"},
        }
    )
    refused(spec, write_long(rows), "tag 'temperature' (column 'TT-102')", "Did you mean 'TT-101'?", where=str(path))


def test_a_feedback_tag_must_be_there_too(make_spec, rows, write_long):
    spec = make_spec({"position": {"role": "feedback", "unit": "kW", "range": [0, 12], "of": "power"}})
    path = write_long(rows)
    refused(spec, path, "tag 'position'", where=str(path))


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("when,TT-101,door,power", ["no time stamp column", "'when'", "timestamp"]),
        ("timestamp,TT-101,door,door", ["column 'door' is there twice"]),
        ("timestamp,TT-101,,power", ["column 3 has no name"]),
        ("timestamp,tag,value,colour", ["unknown column 'colour'"]),
        ("timestamp,tag,amount,quality", ["column 'tag' but no column for the value", "'amount'"]),
        ("timestamp,point_id,value,quality", ["column 'value' but no column for the tag", "'point_id'"]),
        ("timestamp,quality", ["the header names no tag"]),
        ("timestamp,TT-101,TT-101 [degC],power", ["tag 'TT-101' has two columns"]),
        ("timestamp,TT-101 [degF],door,power", ["'degF'", "'degC'", "log_unit: degF"]),
    ],
)
def test_a_header_that_cannot_be_right(header, parts, spec, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"{header}\n2024-01-01,1,1,1\n")
    refused(spec, path, *parts, where=f"{path}, line 1")


def test_a_wrong_unit_names_both_and_the_line(spec, rows, write_long):
    units = {"TT-101": "°C", "door": "", "power": "kW"}
    stated = [(time, tag, value, units[tag]) for time, tag, value, _ in rows]
    ingest(spec, [write_long(stated, header="timestamp,tag,value,unit")], None)
    stated[8] = (*stated[8][:3], "W")
    path = write_long(stated, header="timestamp,tag,value,unit")
    refused(spec, path, "tag 'power' is in 'W'", "'kW'", "plant file", where=f"{path}, line 10")


def test_quality_words_that_nobody_knows_are_named(spec, rows, write_long):
    path = write_long([(time, name, value, "Fine") for time, name, value, _ in rows])
    refused(spec, path, "'fine'", "count as bad", where=str(path))
    some = [(time, name, value, "Fine" if k < 3 else q) for k, (time, name, value, q) in enumerate(rows)]
    assert (
        "'fine' is known to nobody here: its samples count as bad"
        in ingest(spec, [write_long(some)], None).quality.to_text()
    )


def test_text_in_a_number_column_names_the_line(spec, rows, write_long, tmp_path):
    rows[21] = (rows[21][0], "TT-101", "broken", "good")
    path = write_long(rows)
    quarantined(spec, path, "'broken' of tag 'temperature'", place=f"{path}, line 23")
    for cell, quality in (("broken", "Bad"), ("I/O Timeout", "good")):  # a historian's word for no value is no mistake
        rows[21] = (rows[21][0], "TT-101", cell, quality)
        assert ingest(spec, [write_long(rows)], None).quality.tags["temperature"].counts.bad_quality == 1
    wide = tmp_path / "wide.csv"
    # A quoted line break and blank lines: the line that an editor shows is meant, not the number of the record.
    wide.write_text(
        "timestamp,TT-101,door,power\n2024-01-01 00:00:00,1,0,1\n\n"
        '"2024-01-01 00:00:01",2,0,"\n3"\n\n2024-01-01 00:00:02,1,"1,5",1\n'
    )
    quarantined(spec, wide, "'1,5' of tag 'door'", place=f"{wide}, line 7")


@pytest.mark.parametrize("value", ["inf", "-Infinity"])
def test_an_infinity_of_good_quality_names_the_line(value, spec, rows, write_long):
    rows[30] = (rows[30][0], "TT-101", value, "good")
    path = write_long(rows)
    quarantined(spec, path, "no number in a good sample", "'temperature'", place=f"{path}, line 32")
    rows[30] = (rows[30][0], "TT-101", value, "bad")
    ingest(spec, [write_long(rows)], None)


def test_a_nan_in_parquet_names_the_row(spec, tmp_path):
    seconds = np.datetime64("2024-01-01", "ms") + np.arange(20) * np.timedelta64(1000, "ms")
    temperature = np.where(np.arange(20) == 7, np.nan, np.arange(20) % 3)
    table = {"timestamp": seconds, "TT-101": temperature, "door": np.zeros(20), "power": np.arange(20) % 2}
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(table), path)
    quarantined(spec, path, "nan", place=f"{path}, row 8")
    table["TT-101"] = pa.array(temperature, from_pandas=True)
    pq.write_table(pa.table(table), path)
    assert ingest(spec, [path], None).quality.tags["temperature"].counts.empty == 1
    table["TT-101"] = seconds
    pq.write_table(pa.table(table), path)
    refused(spec, path, "column 'TT-101' holds timestamp", where=str(path))


@pytest.mark.parametrize("tag", ["TT-101", "power"])
def test_a_constant_state_or_action(tag, spec, rows, write_long):
    path = write_long([(time, name, "3" if name == tag else value, q) for time, name, value, q in rows])
    refused(spec, path, "never changes", "it is 3 in all 20 good samples", "Bring a log", where=str(path))


def test_a_constant_exogenous_tag_is_a_warning_and_a_static_one_is_nothing(make_spec, rows, write_long, at):
    spec = make_spec({"insulation": {"role": "static", "unit": "1", "range": [0, 1]}})
    rows = [(time, name, "0" if name == "door" else value, q) for time, name, value, q in rows]
    quality = ingest(spec, [write_long([*rows, (at(0), "insulation", "0.5", "good")])], None).quality
    assert [one.text for one in quality.advice if "never changes" in one.text] == [
        "door: never changes (0); no model can learn what it does."
    ]


def test_a_tag_without_a_good_sample(spec, rows, write_long):
    path = write_long([(*row[:3], "bad" if row[1] == "door" else "good") for row in rows])
    refused(spec, path, "tag 'door' has no good sample", "quality codes", where=str(path))


def test_a_log_shorter_than_one_window(make_spec, rows, write_long):
    spec = make_spec({"temperature": {"history": 30}})
    path = write_long(rows)
    refused(spec, path, "20 samples", "need 32", "Bring a longer log", where=str(path))
    refused(make_spec({"door": {"max_age_s": 0.001}}, period_s=1.5), path, "'door'", "older than", where=str(path))


def test_a_tag_renamed_half_way_is_named_where_nothing_is_left(make_spec, write_long, at):
    new = {"role": "state", "unit": "degC", "range": [-30, 40], "column": "TI-101"}
    spec = make_spec({"renamed": new})
    rows = []
    for k in range(200):
        tag = "TT-101" if k < 100 else "TI-101"
        rows += [(at(k), tag, str(k % 4), "good"), (at(k), "door", "0", "good"), (at(k), "power", str(k % 3), "good")]
    path = write_long(rows)
    refused(spec, path, "longest stretch", "if this is one tag that was renamed", where=str(path))


def test_time_stamps_out_of_order_name_the_line(spec, rows, write_long, tmp_path):
    rows[30], rows[33] = rows[33], rows[30]
    path = write_long(rows)
    quarantined(spec, path, "goes back", "'temperature'", "Sort the log", place=f"{path}, line 35")
    wide = tmp_path / "wide.csv"
    wide.write_text("timestamp,TT-101,door,power\n2024-01-01 00:00:01,1,0,1\n2024-01-01 00:00:00,2,0,1\n")
    quarantined(spec, wide, "goes back", place=f"{wide}, line 3")


def test_tags_may_be_sorted_each_for_itself_in_a_long_log(spec, rows, write_long):
    by_tag = sorted(rows, key=lambda row: row[1])
    assert len(ingest(spec, [write_long(by_tag)], None).dataset) == 20


@pytest.mark.parametrize("text", ["yesterday", "2024-02-30T00:00:00Z", "2024-01-01 00:00:00 Europe/Paris", ""])
def test_a_time_stamp_that_cannot_be_read_names_the_line(text, spec, rows, write_long):
    rows[5] = (text, *rows[5][1:])
    path = write_long(rows)
    quarantined(spec, path, f"'{text}'", "time stamp", place=f"{path}, line 7")


def test_numbers_and_dates_in_one_column_are_refused(spec, rows, write_long):
    rows[0] = ("1704067200", *rows[0][1:])
    path = write_long(rows)
    quarantined(spec, path, "'1704067200'", place=f"{path}, line 2")
    path = write_long([("99999999999999999999", *row[1:]) for row in rows])
    refused(spec, path, "1e+20 lies beyond the year 2261", where=str(path))


@pytest.mark.parametrize(
    ("clock", "day", "rule"), [("02:30:00", "2024-03-31", "on_skip"), ("02:30:00", "2024-10-27", "on_fold")]
)
def test_a_stamp_that_a_change_of_the_clock_skips_or_repeats(clock, day, rule, make_spec, rows, write_long):
    spec = make_spec(time_zone="Europe/Berlin")
    path = write_long([(f"{day} {clock}", *row[1:]) for row in rows[:3]])
    quarantined(spec, path, f"{day} {clock}", f"log.{rule}", place=f"{path}, line 2")
    ingest(make_spec(), [write_long([(row[0].replace("2024-01-01T00", f"{day}T02"), *row[1:]) for row in rows])], None)


def test_two_values_at_one_time_name_the_line(spec, rows, write_long):
    rows.insert(31, (rows[30][0], "TT-101", "7.5", "good"))
    path = write_long(rows)
    quarantined(spec, path, "7.5", "'log.on_duplicate'", place=f"{path}, line 33")
    rows[31] = (*rows[31][:3], "bad")
    assert ingest(spec, [write_long(rows)], None).quality.tags["temperature"].counts.merged == 1


def test_an_action_outside_its_limits_names_the_line(spec, rows, write_long):
    rows[32] = (rows[32][0], "power", "10.5", "good")
    path = write_long(rows)
    quarantined(spec, path, "'10.5' of tag 'power'", "limits", place=f"{path}, line 34")
    rows[32] = (rows[32][0], "power", "10.0000001", "good")
    assert np.nanmax(ingest(spec, [write_long(rows)], None).dataset.actions) == 10


def test_a_range_that_does_not_fit_the_log_is_the_plant_files_mistake(make_spec, rows, write_long):
    spec = make_spec({"temperature": {"range": [1, 40]}})
    path = write_long([*rows[:54], *((t, g, "-9" if g == "TT-101" else v, q) for t, g, v, q in rows[54:])])
    assert ingest(spec, [path], None).quality.tags["temperature"].counts.out_of_range == 3
    spec = make_spec({"temperature": {"range": [4, 40]}})
    refused(
        spec,
        path,
        "15 of 20 values",
        "[4, 40] degC",
        "the first is 3.75",
        "reach from -9 to 5",
        where=f"{path}, line 17",
    )


def test_the_code_0_is_not_guessed(spec, rows, write_long):
    path = write_long([(*row[:3], "0") for row in rows])
    refused(spec, path, "quality code 0", "OPC DA", "OPC UA", where=str(path))


def test_the_same_file_twice(spec, rows, write_long):
    path = write_long(rows)
    refused(spec, [path, path], "given twice", where=str(path))


def test_an_unknown_key_or_tag_of_the_plant_file_names_line_and_nearest(tmp_path):
    from controlkit.spec import PlantSpec

    path = tmp_path / "plant.yaml"
    good = Path(__file__).parents[2].joinpath("configs/plants/refrigerator.yaml").read_text()
    for old, new, parts in (
        ("history: 20", "histroy: 20", ["histroy", "Did you mean 'history'?"]),
        ("tag: temperature", "tag: temprature", ["temprature", "did you mean 'temperature'?"]),
        ("unit: degC", "unit: degc", ["'degc'", "did you mean 'degC'?"]),
    ):
        path.write_text(good.replace(old, new, 1))
        line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if new in text)
        with pytest.raises(SpecError) as caught:
            PlantSpec.load(path)
        assert caught.value.where == f"{path}, line {line}"
        for part in parts:
            assert part in str(caught.value)


# Earlier artifacts stay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        "pyarrow.parquet.ParquetWriter.write_table",
        "controlkit.dataset.store.write_json",
        "controlkit.ingest.pipeline.write_json",
    ],
)
def test_a_full_disk_leaves_the_earlier_data_set(call, spec, rows, write_long, tmp_path, monkeypatch):
    out = tmp_path / "data"
    ingest(spec, [write_long(rows)], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(ControlkitError, match="No space left on device") as caught:
            ingest(spec, [write_long(rows[:45], "short.csv")], out)
    assert caught.value.where == str(out)
    assert "space" in caught.value.cure
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "log.csv", "short.csv"]


def test_a_bad_log_leaves_the_earlier_data_set(spec, rows, write_long, tmp_path):
    out = tmp_path / "data"
    ingest(spec, [write_long(rows)], out)
    rows[3] = (rows[3][0], "TT-101", "broken", "good")
    with pytest.raises(DataError):
        ingest(spec, [write_long(rows, "bad.csv")], out)
    assert len(TransitionDataset.load(out)) == 20


def test_a_folder_that_is_no_data_set_is_never_replaced(spec, rows, write_long, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ControlkitError, match=r"holds no dataset\.json.*another place"):
        ingest(spec, [write_long(rows)], out)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_kill_in_the_middle_of_the_write_leaves_the_earlier_data_set(spec, rows, write_long, tmp_path):
    out, plant = tmp_path / "data", tmp_path / "data" / "spec.yaml"
    ingest(spec, [write_long(rows)], out)
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import controlkit.dataset.store as store
        from controlkit.ingest import ingest
        from controlkit.spec import PlantSpec

        store.sha256_of = lambda path: os.kill(os.getpid(), signal.SIGKILL)  # the table is written, the record is not
        ingest(PlantSpec.load(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]))
        """
    )
    short = write_long(rows[:45], "short.csv")
    done = subprocess.run(
        [sys.executable, "-c", script, str(plant), str(short), str(out)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(TransitionDataset.load(out)) == 20
    assert len(ingest(spec, [short], out).dataset) == 15
    assert len(TransitionDataset.load(out)) == 15
