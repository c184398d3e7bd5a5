"""Exports of the historians, as they write them, staged by their preset."""

from __future__ import annotations

import sqlite3

import pyarrow as pa
import pytest

from controlkit.errors import DataError
from controlkit.ingest.sources.presets import IGNITION, IP21, PI, PI_STATES, PRESETS, find_roles, with_flags
from controlkit.ingest.sources.sql import SqlSource
from controlkit.ingest.stage import Code
from controlkit.log_rules import LogColumns, LogRules

OTHERS = "2024-03-01T00:00:00Z,door,0\n2024-03-01T00:00:00Z,power,1\n"


@pytest.fixture
def others(tmp_path):
    """The tags that a test says nothing about."""
    path = tmp_path / "others.csv"

    def make(header="timestamp,tag,value"):
        path.write_text(f"{header}\n{OTHERS}")
        return path

    return make


@pytest.mark.parametrize(
    ("preset", "code", "worth"),
    [
        (PI, "0", Code.GOOD),
        (PI, " -254 ", Code.BAD),  # the number of a digital state, as OLE DB gives it
        (PI, "254.0", Code.BAD),
        (PI, "I/O Timeout", Code.BAD),
        (PI, "Questionable", Code.UNCERTAIN),
        (PI, "Substituted", Code.SUBSTITUTED),
        (PI, "hm", None),
        (IP21, "Good", Code.GOOD),
        (IP21, "Suspect", Code.UNCERTAIN),
        (IP21, "4", Code.SUBSTITUTED),
        (IP21, "6", Code.BAD),
        (IGNITION, "192", Code.GOOD),
        (IGNITION, "300", Code.BAD),
        (IGNITION, "0", Code.BAD),
    ],
)
def test_what_a_code_is_worth(preset, code, worth):
    assert preset.code(code) == worth


def test_which_column_plays_which_role():
    def roles(names, preset=None, **columns):
        return find_roles(names, LogRules(preset=preset, columns=LogColumns(**columns)))

    assert roles(["IP_TREND_TIME", "NAME", "IP_TREND_VALUE", "IP_TREND_QSTATUS", "IP_DESCRIPTION"], "ip21") == {
        "timestamp": "IP_TREND_TIME", "tag": "NAME", "value": "IP_TREND_VALUE", "quality": "IP_TREND_QSTATUS"
    }  # fmt: skip
    # The plant file comes first, then the preset, then the usual names; no column plays two roles.
    names = ["time", "t_stamp", "name", "value", "status"]
    assert roles(names) == {"timestamp": "time", "tag": "name", "value": "value", "quality": "status"}
    assert roles(names, "ignition")["timestamp"] == "t_stamp"
    assert roles(names, "ignition", timestamp="TIME")["timestamp"] == "time"
    assert roles(names, tag="status") == {"timestamp": "time", "tag": "status", "value": "value"}
    assert roles(names, value="nope")["value"] == "nope"


def test_every_name_is_in_small_letters():
    for name, preset in PRESETS.items():
        words = [*preset.timestamp, *preset.tag, *preset.value, *preset.quality, *preset.unit]
        words += [*preset.flags, *preset.aside, *preset.codes, *preset.states]
        assert words == [word.lower().strip() for word in words], name
    assert {"bad", "no data", "i/o timeout", "pt created", "comm fail", "shutdown"} <= PI_STATES


def test_flags_only_make_worse_what_is_good():
    quality = pa.array(["0", "-254", "Good", None, "0"])
    flags = [(pa.array([1, 1, 0, 1, 0]), "substituted"), (pa.array(["True", "1", "true", "1", "0"]), "questionable")]
    assert with_flags(quality, flags).to_pylist() == ["substituted", "-254", "questionable", None, "0"]
    assert with_flags(None, flags).to_pylist() == [
        "substituted", "substituted", "questionable", "substituted", "good"
    ]  # fmt: skip


def test_pi(make_spec, read, others, tmp_path):
    path = tmp_path / "picomp2.csv"
    path.write_text(
        "tag,time,_index,value,status,questionable,substituted,annotated\n"
        "TT-101,01-Mar-24 00:00:00.5,1,5.25,0,False,False,False\n"
        "TT-101,01-Mar-24 00:00:01,1,Bad Input,-255,False,False,False\n"
        "TT-101,01-Mar-24 00:00:02,1,I/O Timeout,-246,False,False,False\n"
        "TT-101,01-Mar-24 00:00:03,1,5.5,0,True,False,True\n"
        "TT-101,01-Mar-24 00:00:04,1,5.75,0,False,True,False\n"
        "TT-101,01-Mar-24 00:00:05,1,12.5,-254,False,False,False\n"
    )
    found = read(path, others(), plant=make_spec(log={"preset": "pi"}))
    assert found.samples("temperature") == [
        ("2024-03-01T00:00:00.5Z", 5.25, "good"),
        ("2024-03-01T00:00:01Z", None, "bad"),
        ("2024-03-01T00:00:02Z", None, "bad"),
        ("2024-03-01T00:00:03Z", 5.5, "uncertain"),
        ("2024-03-01T00:00:04Z", 5.75, "substituted"),
        ("2024-03-01T00:00:05Z", 12.5, "bad"),
    ]
    assert found.quarantined() == []
    assert found.adds_up()


def test_pi_words_without_a_status(make_spec, read, others, tmp_path):
    path = tmp_path / "pi.csv"
    words = ["Pt Created", "No Data", "Shutdown", "Calc Failed", "Arc Off-line", "Scan Off", "5.5", "Uncalibrated"]
    path.write_text("tag,time,value\n" + "".join(f"TT-101,2024-03-01 00:00:0{i},{w}\n" for i, w in enumerate(words)))
    found = read(path, others(), plant=make_spec(log={"preset": "pi"}))
    assert [code for _, _, code in found.samples("temperature")] == [*["bad"] * 6, "good"]
    assert [text for _, _, text, _ in found.quarantined()] == ["Uncalibrated"]  # not a state of the system's set


def test_ip21(make_spec, read, others, tmp_path):
    path = tmp_path / "ip21.csv"
    path.write_text(
        "NAME,IP_TREND_TIME,IP_TREND_VALUE,IP_TREND_QSTATUS,IP_DESCRIPTION\n"
        "TT-101,01-MAR-24 00:00:00.5,5.25,Good,inlet\n"
        "TT-101,01-MAR-24 00:00:01.0,5.50,Suspect,inlet\n"
        "TT-101,01-MAR-24 00:00:02.0,????,Bad,inlet\n"
        "TT-101,01-MAR-24 00:00:03.0,5.75,No Status,inlet\n"
    )
    found = read(path, others(), plant=make_spec(log={"preset": "ip21"}))
    assert found.samples("temperature") == [
        ("2024-03-01T00:00:00.5Z", 5.25, "good"),
        ("2024-03-01T00:00:01Z", 5.5, "uncertain"),
        ("2024-03-01T00:00:02Z", None, "bad"),
        ("2024-03-01T00:00:03Z", 5.75, "bad"),
    ]
    assert found.adds_up()


# Ignition -----------------------------------------------------------------------------------------------------------

MARCH, APRIL, MAY = 1_709_251_200_000, 1_711_929_600_000, 1_714_521_600_000
SAMPLES = (
    "(tagid INTEGER, intvalue BIGINT, floatvalue DOUBLE PRECISION, stringvalue VARCHAR(255), datevalue TIMESTAMP, \
dataintegrity INTEGER, t_stamp BIGINT)"
)
IGNITION_TABLES = f"""
CREATE TABLE sqlth_te (id INTEGER, tagpath VARCHAR(255), scid INTEGER, datatype INTEGER,
    created BIGINT, retired BIGINT);
INSERT INTO sqlth_te VALUES (1, 'area 1/tt-101', 1, 1, 0, {APRIL}), (2, 'door', 1, 0, 0, NULL);
INSERT INTO sqlth_te VALUES (3, 'power', 2, 1, 0, NULL), (5, 'x', 1, 1, 0, 0);
INSERT INTO sqlth_te VALUES (4, 'area 1/tt-101', 1, 1, {APRIL}, NULL);
CREATE TABLE sqlth_partitions (pname VARCHAR(255), drvid INTEGER, start_time BIGINT, end_time BIGINT,
    blocksize INTEGER);
INSERT INTO sqlth_partitions VALUES ('sqlt_data_1_2024_04', 1, {APRIL}, {MAY}, 0);
INSERT INTO sqlth_partitions VALUES ('sqlt_data_1_2024_03', 1, {MARCH}, {APRIL}, 0);
INSERT INTO sqlth_partitions VALUES ('sqlt_data_2_2024_03', 2, {MARCH}, {APRIL}, 0);
INSERT INTO sqlth_partitions VALUES ('sqlt_data_1_60s_2024_03', 1, {MARCH}, {APRIL}, 60);
CREATE TABLE sqlt_data_1_2024_03 {SAMPLES};
CREATE TABLE sqlt_data_2_2024_03 {SAMPLES};
CREATE TABLE sqlt_data_1_2024_04 {SAMPLES};
CREATE TABLE sqlt_data_1_60s_2024_03 {SAMPLES};
INSERT INTO sqlt_data_1_2024_03 VALUES (1, NULL, 5.25, NULL, NULL, 192, {MARCH + 1500});
INSERT INTO sqlt_data_1_2024_03 VALUES (2, 1, NULL, NULL, NULL, 192, {MARCH}), (5, NULL, 9, NULL, NULL, 192, {MARCH});
INSERT INTO sqlt_data_1_2024_03 VALUES (1, NULL, NULL, NULL, NULL, 500, {MARCH + 2500});
INSERT INTO sqlt_data_2_2024_03 VALUES (3, NULL, 2.5, NULL, NULL, 192, {MARCH + 1000});
INSERT INTO sqlt_data_1_2024_04 VALUES (4, NULL, 6.5, NULL, NULL, 192, {APRIL});
INSERT INTO sqlt_data_1_2024_04 VALUES (2, 0, NULL, NULL, NULL, 192, {APRIL + 1});
INSERT INTO sqlt_data_1_60s_2024_03 VALUES (1, NULL, 77, NULL, NULL, 192, {MARCH})
"""


@pytest.fixture
def ignition_spec(make_spec):
    return make_spec({"temperature": {"column": "Area 1/TT-101"}}, log={"preset": "ignition"})


@pytest.fixture
def ignition(tmp_path):
    def make(*more):
        path = tmp_path / "ignition.db"
        with sqlite3.connect(path) as connection:
            connection.executescript(";".join([IGNITION_TABLES, *more]))
        connection.close()
        return f"sqlite:///{path}"

    return make


def test_ignition(ignition, ignition_spec, read):
    found = read(ignition(), plant=ignition_spec)
    # Two ids of one path follow each other; what Ignition has summed up in advance is left out.
    assert found.samples("temperature") == [
        ("2024-03-01T00:00:01.5Z", 5.25, "good"),
        ("2024-03-01T00:00:02.5Z", None, "empty"),
        ("2024-04-01T00:00:00Z", 6.5, "good"),
    ]
    assert found.samples("door") == [("2024-03-01T00:00:00Z", 1, "good"), ("2024-04-01T00:00:00.001Z", 0, "good")]
    assert found.values("power") == [2.5]
    assert found.adds_up()


def test_ignition_with_text_among_the_numbers(ignition, ignition_spec, read):
    text = f"INSERT INTO sqlt_data_1_2024_03 VALUES (2, NULL, NULL, 'Comm Fail', NULL, 0, {MARCH + 5})"
    precise = f"INSERT INTO sqlt_data_1_2024_03 VALUES (1, NULL, 0.1, NULL, NULL, 192, {MARCH + 9000})"
    found = read(ignition(text, precise), plant=ignition_spec)
    assert found.samples("door")[1] == ("2024-03-01T00:00:00.005Z", None, "bad")
    assert found.values("temperature") == [5.25, None, 0.1, 6.5]


def test_ignition_chooses_partitions_by_time(ignition, ignition_spec):
    address = ignition("DROP TABLE sqlt_data_1_2024_04")  # would be asked for if it were chosen
    source = SqlSource(f"{address}?from=2024-03-01T00:00:01&to=2024-03-01T01:00:02%2B01:00", ignition_spec)
    rows = [row for batch in source.batches() for row in batch.records.to_pylist()]
    assert [(row["tagpath"], row["value"]) for row in rows] == [("power", 2.5), ("Area 1/TT-101", 5.25)]
    with pytest.raises(DataError, match=r"no partition of samples in that stretch\. Check 'from=' and 'to='"):
        SqlSource(f"{address}?from=2025-01-01", ignition_spec)
    with pytest.raises(DataError, match=r"'soon' is no time\. Write from=2024-05-01T00:00:00Z\.$"):
        SqlSource(f"{address}?to=soon", ignition_spec)


def test_ignition_without_partitions(ignition, ignition_spec, read):
    single = f"CREATE TABLE sqlth_1_data {SAMPLES}; INSERT INTO sqlth_1_data SELECT * FROM sqlt_data_1_2024_03; \
        INSERT INTO sqlth_1_data SELECT * FROM sqlt_data_2_2024_03; DELETE FROM sqlth_partitions"
    assert read(ignition(single), plant=ignition_spec).values("temperature") == [5.25, None]


def test_ignition_that_is_none_of_ours(ignition, make_spec, tmp_path):
    renamed = make_spec(
        {name: {"column": f"other/{name}"} for name in ("temperature", "door", "power")}, log={"preset": "ignition"}
    )
    with pytest.raises(DataError, match=r"none of the plant file's tags is among Ignition's \('area 1/tt-101', .*\)"):
        SqlSource(ignition(), renamed)
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE log (t)")
    connection.close()
    with pytest.raises(DataError, match=r"there is no table 'sqlth_te'\."):
        SqlSource(f"sqlite:///{tmp_path}/x.db", renamed)


def test_timescaledb(make_spec, read, tmp_path):
    path = tmp_path / "scale.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE conditions (time TEXT, sensor_name TEXT, value REAL)")
        rows = [("2024-03-01T00:00:00Z", tag, i) for i, tag in enumerate(("TT-101", "door", "power"))]
        connection.executemany("INSERT INTO conditions VALUES (?, ?, ?)", rows)
    connection.close()
    found = read(f"sqlite:///{path}?table=conditions", plant=make_spec(log={"preset": "timescaledb"}))
    assert [found.values(tag) for tag in ("temperature", "door", "power")] == [[0], [1], [2]]
    assert found.log.sources[0].name == "scale.db:conditions"
    assert len(found.log.sources[0].sha256) == 64
