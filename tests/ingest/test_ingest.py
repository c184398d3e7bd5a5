"""What an ingest makes of good logs, in every form they come in."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controlkit.dataset import TransitionDataset
from controlkit.ingest import ingest
from controlkit.progress import Silent

ROOT = Path(__file__).parents[2]
NS = 1_000_000_000


def same_rows(one: TransitionDataset, other: TransitionDataset) -> None:
    for name in (
        "frames",
        "actions",
        "mask",
        "age_s",
        "changed",
        "rewards",
        "terminated",
        "truncated",
        "episode",
        "time_ns",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_long_csv_becomes_the_rows_that_were_written(spec, rows, write_long, tmp_path):
    path = write_long(rows)
    result = ingest(spec, [path], tmp_path / "data")
    data = result.dataset
    seconds = np.arange(20)
    np.testing.assert_array_equal(data.time_ns, (1_704_067_200 + seconds) * NS)
    np.testing.assert_array_equal(data.frames[:, 0], (5 - 0.25 * seconds).astype(np.float32))
    np.testing.assert_array_equal(data.frames[:, 1], seconds % 7 // 5)
    np.testing.assert_array_equal(data.actions[:-1, 0], (seconds % 5)[:-1])
    assert np.isnan(data.actions[-1, 0])
    np.testing.assert_allclose(data.rewards[:-1], -np.abs(data.frames[1:, 0] + 2))
    assert data.mask.all()
    assert not data.age_s.any()
    assert data.truncated[-2]
    assert data.sources == {"log.csv": hashlib.sha256(path.read_bytes()).hexdigest()}
    same_rows(TransitionDataset.load(tmp_path / "data"), data)


def wide_lines(rows, head):
    by_time: dict[str, list[str]] = {}
    for time, _, value, _ in rows:
        by_time.setdefault(time, []).append(value)
    return [head, *(",".join([time, *values]) for time, values in by_time.items())]


def test_every_form_of_the_same_log_gives_the_same_rows(spec, rows, write_long, tmp_path):
    expected = ingest(spec, [write_long(rows)], None).dataset
    wide = wide_lines(rows, "Time,TT-101 [°C],door,power [kW]")
    files = {
        "wide.csv": "\n".join(wide) + "\n",
        "bom_crlf.csv": "\ufeff" + "\r\n".join(wide) + "\r\n",
        "semicolon.csv": "\n".join(wide).replace(",", ";"),
        "tabs.tsv": "\n".join(wide).replace(",", "\t"),
        "blank lines.csv": "\n\n".join(wide) + "\n\n",
        "long [1]*.csv": "\n".join(["DateTime;TagName;Value", *(";".join(row[:3]) for row in rows)]),
        "units.csv": "\n".join(
            [
                "ts,tag,value,uom",
                *(f"{t},{g},{v},{'' if g == 'door' else 'kW' if g == 'power' else 'degC'}" for t, g, v, _ in rows),
            ]
        ),
        "quoted.csv": "\n".join([wide[0], *(",".join(f'"{cell}"' for cell in line.split(",")) for line in wide[1:])]),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        same_rows(ingest(spec, [tmp_path / name], None).dataset, expected)
    packed = tmp_path / "wide.csv.gz"
    packed.write_bytes(gzip.compress(files["wide.csv"].encode()))
    same_rows(ingest(spec, [packed], None).dataset, expected)


@pytest.mark.parametrize("kind", ["timestamp[ns]", "timestamp[us]", "timestamp[ms, UTC]", "int64", "double", "string"])
def test_parquet_of_any_time_type_gives_the_same_rows(kind, spec, rows, write_long, tmp_path):
    expected = ingest(spec, [write_long(rows)], None).dataset
    stamps = pa.array(np.repeat(expected.time_ns, 3).astype("M8[ns]"))
    columns = {
        "timestamp[ns]": stamps,
        "timestamp[us]": stamps.cast(pa.timestamp("us")),
        "timestamp[ms, UTC]": stamps.cast(pa.timestamp("ms", tz="Europe/Berlin")),
        "int64": stamps.cast(pa.int64()),
        "double": pa.array(np.repeat(expected.time_ns, 3) / NS),
        "string": pa.array([row[0] for row in rows]),
    }
    table = {
        "timestamp": columns[kind],
        "tag": pa.array([row[1] for row in rows]).dictionary_encode(),
        "value": pa.array([float(row[2]) for row in rows], pa.float32() if kind == "int64" else pa.float64()),
        "quality": pa.array([192] * len(rows)),
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    same_rows(ingest(spec, [tmp_path / "log.parquet"], None).dataset, expected)


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_numbers_since_1970_in_any_unit_give_the_same_rows(unit, spec, rows, write_long):
    expected = ingest(spec, [write_long(rows)], None).dataset
    counted = [(str(int(expected.time_ns[i // 3]) // NS * unit), *row[1:]) for i, row in enumerate(rows)]
    same_rows(ingest(spec, [write_long(counted, "epoch.csv")], None).dataset, expected)


def test_seconds_with_a_fraction_count_to_the_nanosecond(make_spec, write_long):
    spec = make_spec()
    rows = []
    for k in range(12):
        rows += [(f"{1_700_000_000 + k}.000000001", tag, str(k % 2), "good") for tag in ("TT-101", "door", "power")]
    result = ingest(spec, [write_long(rows)], None)
    assert result.quality.first == "2023-11-14T22:13:20.000000001Z"
    # One nanosecond after the grid's point, each sample is seen one period later.
    np.testing.assert_allclose(result.dataset.age_s, 1 - 1e-9)


def test_sources_are_put_in_order_of_time_and_tags_may_come_in_files_of_their_own(spec, rows, write_long):
    whole = ingest(spec, [write_long(rows)], None).dataset
    late, early = write_long(rows[30:], "a.csv"), write_long(rows[:30], "b.csv")
    both = ingest(spec, [late, early], None)
    same_rows(both.dataset, whole)
    assert list(both.dataset.sources) == ["b.csv", "a.csv"]
    by_tag = [write_long([row for row in rows if row[1] == tag], f"{tag}.csv") for tag in ("power", "door", "TT-101")]
    same_rows(ingest(spec, by_tag, None).dataset, whole)


def test_files_of_one_name_keep_their_own_hashes(spec, rows, write_long, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [write_long(rows[:30]), write_long(rows[30:], "other/log.csv")]
    assert list(ingest(spec, paths, None).dataset.sources) == ["log.csv", "log.csv (2)"]


def test_overlapping_files_merge_samples_that_agree(spec, rows, write_long):
    whole = ingest(spec, [write_long(rows)], None).dataset
    result = ingest(spec, [write_long(rows[:36], "a.csv"), write_long(rows[24:], "b.csv")], None)
    same_rows(result.dataset, whole)
    assert {name: tag.counts.merged for name, tag in result.quality.tags.items()} == dict.fromkeys(
        result.quality.tags, 4
    )


def test_a_stamp_without_zone_is_read_in_the_plants_zone(make_spec, rows, write_long):
    local = [(time[:-1].replace("T", " "), *rest) for time, *rest in rows]
    utc = ingest(make_spec(), [write_long(local)], None).dataset
    berlin = ingest(make_spec(time_zone="Europe/Berlin"), [write_long(local)], None).dataset
    assert set((utc.time_ns - berlin.time_ns).tolist()) == {3600 * NS}
    zoned = [(f"{time[:-1]}+05:30", *rest) for time, *rest in rows]
    india = ingest(make_spec(time_zone="Europe/Berlin"), [write_long(zoned)], None).dataset
    assert set((utc.time_ns - india.time_ns).tolist()) == {19_800 * NS}


def test_importing_ingest_loads_nothing_heavy():
    script = "import sys, controlkit.ingest; print([m for m in ('duckdb', 'pyarrow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_nothing_is_written_without_a_place(spec, rows, write_long, tmp_path):
    path = write_long(rows)
    before = sorted(tmp_path.rglob("*"))
    ingest(spec, [path], None)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_holds_the_data_set_and_the_report(spec, rows, write_long, tmp_path):
    bar = Silent()
    result = ingest(spec, [write_long(rows)], tmp_path / "out", progress=bar)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"data.parquet", "dataset.json", "layout.json", "spec.yaml", "quality.json", "quality.html"}
    stored = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert stored == json.loads(json.dumps(result.quality.to_dict()))
    assert (tmp_path / "out" / "quality.html").read_text() == result.quality.to_html()


def test_an_ingest_over_an_earlier_one_replaces_it_whole(spec, rows, write_long, tmp_path):
    out = tmp_path / "out"
    ingest(spec, [write_long(rows)], out)
    (out / "stray").write_text("left from before")
    second = ingest(spec, [write_long(rows[:45])], out).dataset
    same_rows(TransitionDataset.load(out), second)
    assert not (out / "stray").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_log_by_exception_is_held_and_its_share_told(make_spec, write_long, at):
    spec = make_spec({"door": {"max_age_s": 100}})
    rows = [(at(k), "TT-101", str(k % 4), "good") for k in range(20)]
    rows += [(at(0), "door", "0", "good"), (at(10), "door", "1", "good")]
    rows += [(at(0), "power", "1", "good"), (at(5.25), "power", "3", "good")]
    result = ingest(spec, [write_long(rows)], None)
    data = result.dataset
    np.testing.assert_array_equal(data.frames[:, 1], [0] * 10 + [1] * 10)
    np.testing.assert_array_equal(data.age_s[:, 1], [*range(10), *range(10)])
    np.testing.assert_allclose(data.actions[:-1, 0], [1] * 5 + [2.5] + [3] * 13)
    assert data.changed[:, 0].tolist() == [k == 5 for k in range(20)]
    assert result.quality.tags["door"].held_share == pytest.approx(18 / 20)
    assert result.quality.tags["power"].changed_share == pytest.approx(1 / 20)
    assert any("power: its last sample is" in one.text for one in result.quality.advice)


def test_the_reports_sum_is_right_and_its_page_is_closed_to_the_outside(make_spec, rows, write_long, at):
    spec = make_spec({"noise": {"role": "ignore", "unit": "1", "range": [0, 1], "column": "<script>"}})
    rows[6] = (rows[6][0], "TT-101", "Bad", "bad")
    rows[9] = (rows[9][0], "TT-101", "999", "good")
    rows[12] = (rows[12][0], "TT-101", "", "good")
    rows.insert(16, rows[15])
    rows.append((at(20), "<script>", "text that nobody reads", "good"))
    result = ingest(spec, [write_long(rows)], None)
    totals = result.quality.totals()
    assert {name: count for name, count in totals.items() if count} == {
        "in": 62, "used": 57, "bad_quality": 1, "empty": 1, "out_of_range": 1, "merged": 1, "ignored": 1,
    }  # fmt: skip
    assert 2 * totals["in"] == sum(totals.values())
    text, page = result.quality.to_text(), result.quality.to_html()
    assert "samples in 62 = used 57" in text
    assert "temperature" in page
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "src=" not in page
    assert any("outside its range" in one.text for one in result.quality.advice)
