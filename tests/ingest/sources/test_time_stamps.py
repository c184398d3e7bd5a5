"""Time stamps in every form, against known answers; changes of the clock; what cannot be told is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlkit.errors import DataError
from controlkit.ingest.sources.fold import FIRST, SECOND, FoldOrder
from controlkit.ingest.sources.stamp_text import parsed
from controlkit.ingest.timestamps import NAIVE, iso

NS = 1_000_000_000


def utc(text, day_first=None):
    """What a stamp without a zone, or with one, means on a clock that shows UTC."""
    stamps = parsed(pa.array([text], pa.string()), day_first)
    if not stamps.readable[0]:
        return None
    offset = int(stamps.offset_min[0])
    return iso(int(stamps.local_ns[0]) - (0 if offset == NAIVE else offset) * 60 * NS)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-01-01", "2024-01-01T00:00:00Z"),
        ("2024-1-5 9:05", "2024-01-05T09:05:00Z"),
        ("2024/01/05 09:05:10.5", "2024-01-05T09:05:10.500Z"),
        (" 2024-01-01t10:20:30.123456789z ", "2024-01-01T10:20:30.123456789Z"),
        ("2024-01-01T10:20:30,25Z", "2024-01-01T10:20:30.250Z"),
        ("2024-01-01 10:20:30 UTC", "2024-01-01T10:20:30Z"),
        ("2024-01-01T10:20:30-02", "2024-01-01T12:20:30Z"),
        ("2024-01-01T10:20:30.5+0530", "2024-01-01T04:50:30.5Z"),
        ("20240229T102030Z", "2024-02-29T10:20:30Z"),
        ("31.05.2024 10:20:30", "2024-05-31T10:20:30Z"),
        ("1.5.24 10:20", "2024-05-01T10:20:00Z"),
        ("05-Jan-24 10:20:30.25", "2024-01-05T10:20:30.250Z"),
        ("5-sep-1999 10:20:30", "1999-09-05T10:20:30Z"),
        ("05 December 2024 10:20:30 PM", "2024-12-05T22:20:30Z"),
        ("31-Dec-99 12:00:00 AM", "1999-12-31T00:00:00Z"),
        ("2024-02-30 00:00:00", None),
        ("2023-02-29", None),
        ("2024-13-01T00:00:00Z", None),
        ("2024-01-01T25:00:00Z", None),
        ("2024-01-01T10:60:00Z", None),
        ("2024-01-01 13:00:00 PM", None),
        ("2024-01-01 10:20:30 CET", None),
        ("2024-01-01+02:00", None),
        ("0001-01-01T00:00:00Z", None),
        ("05-Foo-24 10:20", None),
        ("5/6/2024 10:20", None),
        ("infinity", None),
        ("", None),
        (None, None),
        ("x" * 100, None),
    ],
)
def test_known_stamps(text, time):
    found = utc(text)
    assert found == (time.replace(".500", ".5").replace(".250", ".25") if time else None)


@pytest.mark.parametrize(("day_first", "time"), [(True, "2024-06-05T22:20:00Z"), (False, "2024-05-06T22:20:00Z")])
def test_the_day_or_the_month_first(day_first, time):
    assert utc("5/6/2024 10:20 PM", day_first) == time


@settings(max_examples=200)
@given(
    st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)), min_size=1, max_size=20),
    st.lists(
        st.sampled_from(
            ["%Y-%m-%dT%H:%M:%S.%f", "%d.%m.%Y %H:%M:%S.%f", "%d-%b-%Y %H:%M:%S.%f", "%d/%m/%Y %I:%M:%S.%f %p",
             "%Y/%m/%d %H:%M:%S.%f", "%d-%B-%Y %H:%M:%S.%f"]
        ),
        min_size=20, max_size=20,
    ),
)  # fmt: skip
def test_stamps_of_many_forms_in_one_column_agree_with_the_standard_library(moments, forms):
    texts = [moment.strftime(form) for moment, form in zip(moments, forms, strict=False)]
    stamps = parsed(pa.array(texts), day_first=True)
    assert stamps.readable.all()
    since = [moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) for moment in moments]
    expected = [((s.days * 86_400 + s.seconds) * 10**6 + s.microseconds) * 1000 for s in since]
    np.testing.assert_array_equal(stamps.local_ns, expected)


def wide(stamps, value=lambda k: k):
    return ["timestamp,TT-101,door,power", *(f"{stamp},{value(k)},0,1" for k, stamp in enumerate(stamps))]


def times(read, write, stamps, plant=None, **log):
    found = read(write(wide(stamps)), plant=plant, **log)
    return found.times("temperature")


@pytest.mark.parametrize(
    ("stamps", "time"),
    [
        (["1704067200", "1704067201"], "2024-01-01T00:00:01Z"),
        (["1704067200.25", "1704067201.123456789"], "2024-01-01T00:00:01.123456789Z"),
        (["1704067200000", "1704067201500"], "2024-01-01T00:00:01.5Z"),
        (["1704067200000000", "1704067201500001"], "2024-01-01T00:00:01.500001Z"),
        (["1704067200000000001", "1704067201000000003"], "2024-01-01T00:00:01.000000003Z"),
        (["0", "1"], "1970-01-01T00:00:01Z"),
    ],
)
def test_numbers_since_1970(stamps, time, read, write):
    assert times(read, write, stamps)[1] == time


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64(), pa.decimal128(20, 3), pa.float32()])
def test_numbers_that_are_no_text(kind, read, tmp_path):
    import pyarrow.parquet as pq

    stamps = pa.array([0, 1, 2] if kind == pa.float32() else [1704067200, 1704067201, 1704067202], kind)
    table = pa.table({"timestamp": stamps, "TT-101": [1.0, 2, 3], "door": [0, 0, 0], "power": [1, 2, 3]})
    pq.write_table(table, tmp_path / "log.parquet")
    start = "1970-01-01" if kind == pa.float32() else "2024-01-01"
    assert read(tmp_path / "log.parquet").times("door")[2] == f"{start}T00:00:02Z"


@pytest.mark.parametrize("stray", ["17040672020000000000", "1" * 20, "1" * 30, "9" * 19, "1704067202000"])
def test_a_stray_number_is_quarantined_and_decides_nothing(stray, read, write):
    stamps = ["1704067200", "1704067201", stray, "1704067203"]
    found = read(write(wide(stamps)))
    assert found.times("door") == [f"2024-01-01T00:00:0{k}Z" for k in (0, 1, 3)]
    assert {text for _, _, text, _ in found.quarantined()} == {stray}
    with pytest.raises(DataError, match="beyond the year 2261"):
        read(write(wide(["1" * 20, "1" * 20, "1704067203"]), "most.csv"))


def test_a_stray_number_among_unsigned_ones(read, tmp_path):
    import pyarrow.parquet as pq

    stamps = pa.array([1704067200, 2**64 - 1704067200, 1704067202], pa.uint64())  # 64 bits with a sign: far too small
    table = pa.table({"timestamp": stamps, "TT-101": [1.0, 2, 3], "door": [0, 0, 0], "power": [1, 2, 3]})
    pq.write_table(table, tmp_path / "log.parquet")
    found = read(tmp_path / "log.parquet")
    assert found.times("door") == ["2024-01-01T00:00:00Z", "2024-01-01T00:00:02Z"]


def test_days_of_a_spreadsheet_are_on_the_plant_s_clocks(read, make_spec, write):
    plant = make_spec(time_zone="Europe/Berlin")
    found = read(write(wide(["45292", "45292.5", "45292.50001157407"])), plant=plant)
    assert found.times("door") == ["2023-12-31T23:00:00Z", "2024-01-01T11:00:00Z", "2024-01-01T11:00:01Z"]
    assert "spreadsheet's days" in found.log.sources[0].warnings[0]
    german = read(write([line.replace(",", ";") for line in wide(["45292", "45292.5"])], "g.csv"), plant=plant)
    assert german.times("door")[1] == "2024-01-01T11:00:00Z"


def test_offsets_may_differ(read, write):
    stamps = ["2024-01-01T00:00:00Z", "2024-01-01T02:00:01+02:00", "2023-12-31 19:00:02-0500"]
    assert times(read, write, stamps) == [f"2024-01-01T00:00:0{k}Z" for k in range(3)]


def test_the_whole_column_tells_the_day_from_the_month(read, write):
    many = [f"0{1 + k % 9}/02/2024 {k // 3600 % 24:02d}:{k // 60 % 60:02d}:{k % 60:02d}" for k in range(20_000)]
    assert times(read, write, [*many, "13/02/2024 00:00:00"])[0] == "2024-02-01T00:00:00Z"
    assert times(read, write, [*many, "02/13/2024 00:00:00"])[0] == "2024-01-02T00:00:00Z"
    with pytest.raises(DataError, match=r"may have the day or the month first, and no other tells.*ISO 8601"):
        read(write(wide(many)))
    with pytest.raises(DataError, match="some time stamps have the day first and others the month"):
        read(write(wide(["13/02/2024 00:00:00", "02/13/2024 00:00:00"])))


def test_any_source_tells_the_day_from_the_month(read, write):
    first = write(wide(["03/02/2024 00:00:00", "03/02/2024 00:00:01"]), "a.csv")
    later, american = write(wide(["13/02/2024 00:00:00"]), "b.csv"), write(wide(["02/14/2024 00:00:00"]), "c.csv")
    assert read(first, later).times("door")[0] == "2024-02-03T00:00:00Z"
    assert read(first, american).times("door")[-1] == "2024-03-02T00:00:01Z"
    with pytest.raises(DataError, match=r"a\.csv.*other files tell either.*log\.day_first"):
        read(first, later, american)
    with pytest.raises(DataError, match=r"no other tells.*log\.day_first"):
        read(first)
    assert read(first, day_first=True).times("door")[0] == "2024-02-03T00:00:00Z"
    assert read(first, day_first=False).times("door")[0] == "2024-03-02T00:00:00Z"
    assert read(american, day_first=True).times("door")[0] == "2024-02-14T00:00:00Z"


# The clock -----------------------------------------------------------------------------------------------------------

BERLIN = {"time_zone": "Europe/Berlin"}
FOLD = ["2024-10-27 01:59:00", "2024-10-27 02:30:00", "2024-10-27 02:45:00", "2024-10-27 02:30:00",
        "2024-10-27 02:45:00", "2024-10-27 03:00:00"]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "hours"),
    [
        ("earlier", ["00:30", "00:45", "00:30", "00:45"]),
        ("later", ["01:30", "01:45", "01:30", "01:45"]),
        ("by_order", ["00:30", "00:45", "01:30", "01:45"]),
    ],
)
def test_an_hour_that_is_shown_twice(rule, hours, read, make_spec, write):
    found = times(read, write, FOLD, make_spec(**BERLIN), on_fold=rule)
    day = "2024-10-27T"
    assert found == [
        "2024-10-26T23:59:00Z", *(f"{day}{hour}:00Z" for hour in hours), f"{day}02:00:00Z",
    ]  # fmt: skip


def test_an_hour_that_is_shown_twice_is_refused_without_a_rule(read, make_spec, write):
    found = read(write(wide(FOLD)), plant=make_spec(**BERLIN))
    assert found.times("door") == ["2024-10-26T23:59:00Z", "2024-10-27T02:00:00Z"]
    assert [(place.rsplit(" ", 1)[1], text) for place, tag, text, _ in found.quarantined() if tag == "door"] == [
        (str(k + 2), FOLD[k]) for k in range(1, 5)
    ]
    assert {reason for *_, reason in found.quarantined()} == {"time shown twice when the clock is put back"}


def test_the_order_of_an_hour_is_told_tag_by_tag(read, make_spec, write):
    lines = ["timestamp,tag,value", *(f"{stamp},TT-101,1" for stamp in FOLD), *(f"{stamp},door,1" for stamp in FOLD)]
    lines.append("2024-10-27 12:00:00,power,1")
    found = read(write(lines), plant=make_spec(**BERLIN), on_fold="by_order")
    assert found.times("door") == found.times("temperature")
    assert np.diff(found.log.stage.read("door")["time_ns"]).min() > 0


def long_of(stamps, tags=("TT-101", "door", "power")):
    return [f"{stamp},{tag},1" for stamp in stamps for tag in tags]


def test_the_order_of_all_rows_tells_of_a_tag_that_comes_seldom(read, make_spec, write):
    rows = [*long_of(FOLD[:3]), *long_of(FOLD[3:4], ["door", "power"]), f"{FOLD[4]},TT-101,7", *long_of(FOLD[5:])]
    rows = [row for row in rows if not (row.startswith(tuple(FOLD[1:3])) and "TT-101" in row) or row.endswith("7")]
    found = read(write(["timestamp,tag,value", *rows]), plant=make_spec(**BERLIN), on_fold="by_order")
    day = "2024-10-27T"
    assert found.times("temperature") == ["2024-10-26T23:59:00Z", f"{day}01:45:00Z", f"{day}02:00:00Z"]
    assert found.times("door")[1:4] == [f"{day}00:30:00Z", f"{day}00:45:00Z", f"{day}01:30:00Z"]
    assert not found.quarantined()


def test_tags_one_after_the_other_that_end_and_begin_in_such_an_hour(read, make_spec, write):
    rows = [f"{stamp},door,1" for stamp in FOLD[:3]]  # ends the first time it is 02:45
    rows += [f"{FOLD[1]},TT-101,1", f"{FOLD[5]},TT-101,1", f"{FOLD[5]},power,1"]
    found = read(write(["timestamp,tag,value", *rows]), plant=make_spec(**BERLIN), on_fold="by_order")
    assert found.times("door")[1:] == ["2024-10-27T00:30:00Z", "2024-10-27T00:45:00Z"]
    assert found.times("temperature") == ["2024-10-27T02:00:00Z"]
    assert [(tag, text) for _, tag, text, _ in found.quarantined()] == [("temperature", FOLD[1])]


@pytest.mark.parametrize("form", ["wide", "long"])
def test_the_next_file_goes_on_where_the_last_one_ended(form, read, make_spec, write):
    make = wide if form == "wide" else lambda stamps: ["timestamp,tag,value", *long_of(stamps)]
    plant, day = make_spec(**BERLIN), "2024-10-27T"
    first, second = write(make(FOLD[:3]), "a.csv"), write(make(FOLD[3:]), "b.csv")
    found = read(first, second, plant=plant, on_fold="by_order")
    assert found.times("door")[1:] == [f"{day}{time}:00Z" for time in ("00:30", "00:45", "01:30", "01:45", "02:00")]
    alone = read(second, plant=plant, on_fold="by_order")  # nothing tells
    assert alone.times("door") == [f"{day}02:00:00Z"]
    assert {(text, reason) for *_, text, reason in alone.quarantined()} == {
        (stamp, "time shown twice when the clock is put back") for stamp in FOLD[3:5]
    }
    told = read(write(make(FOLD[1:]), "c.csv"), plant=plant, on_fold="by_order")  # from where it goes back on
    assert told.times("door") == [f"{day}01:30:00Z", f"{day}01:45:00Z", f"{day}02:00:00Z"]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_an_hour_over_many_batches(size):
    local = np.array([0, 10, 20, 10, 20, 30]).repeat(3)
    change = np.array([0, 7, 7, 7, 7, 0]).repeat(3)
    tag = np.tile([0, 1, 2], 6)
    order, found = FoldOrder(), []
    order.begin(None)
    for k in range(0, len(local), size):
        found += order.times(local[k : k + size], change[k : k + size], tag[k : k + size]).tolist()
    assert found == np.array([0, FIRST, FIRST, SECOND, SECOND, 0]).repeat(3).tolist()


def test_an_hour_that_is_skipped(read, make_spec, write):
    stamps = ["2024-03-31 01:59:00", "2024-03-31 02:30:00", "2024-03-31 03:00:00"]
    plant = make_spec(**BERLIN)
    assert times(read, write, stamps, plant, on_skip="shift") == [
        "2024-03-31T00:59:00Z", "2024-03-31T01:30:00Z", "2024-03-31T01:00:00Z",
    ]  # fmt: skip
    found = read(write(wide(stamps)), plant=plant)
    assert found.times("door") == ["2024-03-31T00:59:00Z", "2024-03-31T01:00:00Z"]
    assert {(place.rsplit(" ", 1)[1], text, reason) for place, _, text, reason in found.quarantined()} == {
        ("3", "2024-03-31 02:30:00", "time skipped when the clock is put forward")
    }


def test_stamps_with_a_zone_do_not_mind_the_clock(read, make_spec, write):
    stamps = [f"{stamp}+0{2 - k // 3}:00" for k, stamp in enumerate(FOLD)]
    assert len(times(read, write, stamps, make_spec(**BERLIN))) == 6


def test_a_zone_that_changes_by_half_an_hour(read, make_spec, write):
    stamps = ["2024-04-07 01:20:00", "2024-04-07 01:40:00", "2024-04-07 01:40:00", "2024-04-07 02:10:00"]
    found = times(read, write, stamps, make_spec(time_zone="Australia/Lord_Howe"), on_fold="by_order")
    assert found[1:3] == ["2024-04-06T14:40:00Z", "2024-04-06T14:40:00Z"]  # not told: the clock never goes back
    stamps[2] = "2024-04-07 01:35:00"
    found = times(read, write, stamps, make_spec(time_zone="Australia/Lord_Howe"), on_fold="by_order")
    assert found[1:] == ["2024-04-06T14:40:00Z", "2024-04-06T15:05:00Z", "2024-04-06T15:40:00Z"]


def test_stamps_in_the_future(read, write):
    stamps = ["2024-12-31T23:59:59Z", "2025-01-01T00:04:59Z", "2025-01-01T00:05:01Z"]  # now is midnight
    found = read(write(wide(stamps)))
    assert found.times("door") == stamps[:2]
    assert {(text, reason) for *_, text, reason in found.quarantined()} == {(stamps[2], "time stamp in the future")}
    assert read(write(wide(stamps), "again.csv"), future_s=400).times("door") == stamps
