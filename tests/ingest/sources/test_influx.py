"""Exports of InfluxDB: annotated CSV and line protocol."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import DataError
from controlkit.ingest.sources.influx import InfluxFile, is_influx
from controlkit.ingest.sources.influx_lines import read_point, taken_apart
from controlkit.ingest.sources.influx_series import Naming
from controlkit.ingest.sources.text_file import Lines

ANNOTATED = """#group,false,false,true,true,false,false,true,true,true
#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string,string
#default,_result,,,,,,,,
,result,table,_start,_stop,_time,_value,_field,_measurement,site
,,0,2024-01-01T00:00:00Z,2024-06-01T00:00:00Z,2024-03-01T00:00:00Z,5.25,TT-101,cold,north
,,0,2024-01-01T00:00:00Z,2024-06-01T00:00:00Z,2024-03-01T00:00:01.5Z,5.5,TT-101,cold,north
,,0,2024-01-01T00:00:00Z,2024-06-01T00:00:00Z,2024-03-01T00:00:02Z,,TT-101,cold,north
,,0,2024-03-01T00:00:03Z,7,cold
,,1,2024-01-01T00:00:00Z,2024-06-01T00:00:00Z,2024-03-01T00:00:00Z,2.5,value,power,north

#group,false,false,false,false,true,true,true
#datatype,string,long,dateTime:RFC3339,boolean,string,string,string
#default,_result,,,,,,door
,result,table,_time,_value,_measurement,site,_field
,,2,2024-03-01T00:00:00Z,true,cold,"north, left",
,,2,2024-03-01T00:00:01Z,false,cold,"north, left",
"""

LINES = r"""# INFLUXDB EXPORT: 1677-09-21T00:12:43Z - 2262-04-11T23:47:16Z
# DDL
CREATE DATABASE plant WITH NAME autogen
# DML
# CONTEXT-DATABASE:plant

cold,site=north TT-101=5.25,door=true 1709251200000000000
cold,site=north TT-101=5.5 1709251201500000000
power,site=north value=2i 1709251200000000000
power,site=north value=3u 1709251201000000000
cold,site=north TT-101="No Data",door=F 1709251202000000000
nonsense
cold,site=north door=t
cold,site=north door 1709251203000000000
"""


@pytest.fixture
def influx_spec(make_spec):
    return lambda tag=None: make_spec(log={"preset": "influxdb", "columns": {"tag": tag} if tag else {}})


def test_annotated_csv(influx_spec, read, tmp_path):
    path = tmp_path / "influx.csv"
    path.write_text(ANNOTATED.replace("\n", "\r\n"))
    found = read(path, plant=influx_spec())
    assert found.samples("temperature") == [
        ("2024-03-01T00:00:00Z", 5.25, "good"),
        ("2024-03-01T00:00:01.5Z", 5.5, "good"),
        ("2024-03-01T00:00:02Z", None, "empty"),
    ]
    assert found.values("power") == [2.5]
    assert found.values("door") == [1, 0]
    assert found.quarantined() == [
        (f"{path}, line 8", "", ",,0,2024-03-01T00:00:03Z,7,cold", "6 cells where the table's header has 10")
    ]
    assert found.adds_up()


def test_line_protocol(influx_spec, read, tmp_path):
    path = tmp_path / "influx.lp.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    found = read(path, plant=influx_spec())
    assert found.samples("temperature") == [
        ("2024-03-01T00:00:00Z", 5.25, "good"),
        ("2024-03-01T00:00:01.5Z", 5.5, "good"),
        ("2024-03-01T00:00:02Z", None, "bad"),
    ]
    assert found.values("door") == [1, 0]
    assert found.values("power") == [2, 3]
    assert [(place.rsplit(" ", 1)[1], reason) for place, _, _, reason in found.quarantined()] == [
        ("12", "no line of InfluxDB's line protocol"),
        ("13", "a point without a time stamp"),
        ("14", "no line of InfluxDB's line protocol"),
    ]
    assert found.adds_up()


@pytest.mark.parametrize("form", ["csv", "lp"])
def test_series_of_one_name_are_refused_and_told_apart(influx_spec, read, tmp_path, form):
    path = tmp_path / f"influx.{form}"
    if form == "csv":
        head = "#group,false,false,false,false,true,true,true\n,result,table,_time,_value,_measurement,_field,site\n"
        rows = [("t", "5", "north"), ("t", "6", "south"), ("door", "1", "north"), ("power", "2", "north")]
        path.write_text(head + "".join(f",,0,2024-03-01T00:00:00Z,{v},cold,{f},{s}\n" for f, v, s in rows))
        line = 4
    else:
        path.write_text(
            "cold,site=north t=5,door=1,power=2 1709251200000000000\ncold,site=south t=6 1709251200000000000\n"
        )
        line = 2
    message = (
        rf"line {line}: two series of the name 't', which differ in site\. Tell them apart .* such as '\{{site\}}\."
    )
    with pytest.raises(DataError, match=message):
        read(path, plant=influx_spec())
    spec = influx_spec("{site}/{_field}").to_dict()
    for tag, column in (("temperature", "north/t"), ("door", "north/door"), ("power", "north/power")):
        spec["tags"][tag]["column"] = column
    spec["tags"]["other"] = {"role": "ignore", "unit": "1", "range": [0, 1], "column": "south/t"}
    found = read(path, plant=type(influx_spec()).from_dict(spec))
    assert [found.values(tag) for tag in ("temperature", "door", "power")] == [[5], [1], [2]]
    assert found.log.sources[0].ignored == 1


def test_a_key_as_the_name(influx_spec, read, tmp_path):
    path = tmp_path / "influx.lp"
    tags = ("TT-101", "door", "power")
    path.write_text("".join(f"plant,sensor={tag} value={i} 1709251200000000000\n" for i, tag in enumerate(tags)))
    found = read(path, plant=influx_spec("sensor"))
    assert [found.values(tag) for tag in ("temperature", "door", "power")] == [[0], [1], [2]]
    with pytest.raises(DataError, match=r"line 1: a series without 'site'\. Mend 'log\.columns\.tag' .* 'sensor'"):
        read(path, plant=influx_spec("site"))
    with pytest.raises(DataError, match=r"log\.columns\.tag of the plant file: '\{site' is no pattern of keys"):
        read(path, plant=influx_spec("{site"))


def test_a_pivoted_table_is_refused(influx_spec, read, tmp_path):
    path = tmp_path / "influx.csv"
    head = "#datatype,string,long,dateTime:RFC3339,double\n,result,table,_time,TT-101\n"
    path.write_text(f"{head},,0,2024-03-01T00:00:00Z,5\n")
    with pytest.raises(DataError, match=r"line 2: a table without a column '_value'\. Export it without pivot\(\)"):
        read(path, plant=influx_spec())


def test_an_ordinary_file_is_read_as_one(influx_spec, read, tmp_path):
    path = tmp_path / "log.csv"
    rows = "".join(f"2024-03-01T00:00:00Z,{tag},{i}\n" for i, tag in enumerate(("TT-101", "door", "power")))
    path.write_text("time,tag,value\n" + rows)
    assert not is_influx(path)
    assert read(path, plant=influx_spec()).values("power") == [2]


def test_blocks_of_any_size_give_the_same(influx_spec, tmp_path, monkeypatch):
    monkeypatch.setattr("controlkit.ingest.sources.influx._SMALLEST", 64)
    for name, content in (("a.csv", ANNOTATED), ("a.lp", LINES)):
        path = tmp_path / name
        path.write_text(content)

        def rows(path, size):
            found = [
                (int(row), *record.values())
                for batch in InfluxFile(path, influx_spec()).batches(size)
                for row, record in zip(batch.row, batch.records.to_pylist(), strict=True)
            ]
            rejected = [line.row for batch in InfluxFile(path, influx_spec()).batches(size) for line in batch.rejected]
            return found, rejected

        assert rows(path, 1) == rows(path, 1 << 19)
        assert len(list(InfluxFile(path, influx_spec()).batches(1))) > 3
        assert [row for row, *_ in rows(path, 1)[0]] == sorted(row for row, *_ in rows(path, 1)[0])


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters='\\"\n#'), min_size=1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=8)


def escaped(text, signs=",= "):
    return "".join(f"\\{sign}" if sign in signs else sign for sign in text)


@given(
    measurement=st.tuples(NAMES, NAMES).map(" ".join),
    keys=st.dictionaries(NAMES, st.tuples(NAMES, NAMES).map(", ".join), max_size=3),
    fields=st.dictionaries(
        NAMES, st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), TEXTS), min_size=1
    ),
    time=st.integers(-(2**62), 2**62),
)
def test_a_point_round_trips(measurement, keys, fields, time):
    def written(value):
        if isinstance(value, str):
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{quoted}"'
        return repr(value)

    line = escaped(measurement, ", ") + "".join(f",{escaped(key)}={escaped(value)}" for key, value in keys.items())
    line += " " + ",".join(f"{escaped(key)}={written(value)}" for key, value in fields.items()) + f" {time}"
    expected = [
        (key, str(int(value)) if isinstance(value, bool) else value if isinstance(value, str) else repr(value))
        for key, value in fields.items()
    ]
    assert read_point(line) == ({"_measurement": measurement, **keys}, expected, time)


@given(
    st.sampled_from([("m,a=1", "m,a=2", "n,a="), ("n", "m", "n,"), ("n,b=x,c=y", "n,b=z,c=y")]),
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["v=1", "v=1.5,w=2i", "w=t,v=-3e-5", 'v="Bad"', "v=1,w", "v==1", "v\\ 2=5", ""]),
            st.sampled_from([" 17", " -5", "", " x"]),
        ),
        max_size=12,
    ),
)
def test_lines_all_at_once_are_as_lines_one_by_one(series, points):
    lines = [f"{series[i % len(series)]} {fields}{time}" for i, fields, time in points]
    keys = read_point(f"{series[0]} v=1 1")[0]
    pattern = ".".join(f"{{{key}}}" for key in (*keys, "_field"))
    batch = taken_apart(Lines("\n".join(lines).encode(), 3), Naming(pattern, "x"), "x")
    expected, rejected = [], []
    for row, line in enumerate(lines, 3):
        point = read_point(line)
        if point is None or point[2] is None:
            rejected.append(row)
            continue
        expected += [(row, point[2], pattern.format(**point[0], _field=key), value) for key, value in point[1]]
    got = [(int(row), *record.values()) for row, record in zip(batch.row, batch.records.to_pylist(), strict=True)]
    assert got == expected
    assert [line.row for line in batch.rejected] == rejected
