"""Logs in SQLite, and addresses of databases: what is read, in which order, and what a mistake says."""

from __future__ import annotations

import builtins
import importlib
import sqlite3

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import DataError
from controlkit.ingest.sources import sql_driver
from controlkit.ingest.sources.sql import SqlSource
from controlkit.ingest.sources.sql_address import is_address, parse
from controlkit.ingest.sources.sql_cells import cells_of

pytest.importorskip("adbc_driver_sqlite", reason='needs the extra: pip install "controlkit[sql]"')

LOG = [
    ("2024-01-01T00:00:02Z", "door", 1, 192),
    ("2024-01-01T00:00:00Z", "TT-101", 5.5, 192),
    ("2024-01-01T00:00:01Z", "TT-101", None, 0),
    ("2024-01-01T00:00:00.500Z", "door", 0, 192),
    ("2024-01-01T00:00:01Z", "power", 2.25, 192),
    ("2024-01-01T00:00:01Z", "PI-999", 7.0, 192),  # no tag of the plant
]


@pytest.fixture
def database(tmp_path):
    """Makes an SQLite file of statements and rows."""

    def make(create="CREATE TABLE log (time TEXT, tag TEXT, value REAL, quality INTEGER)", rows=LOG, name="plant.db"):
        path = tmp_path / name
        with sqlite3.connect(path) as connection:
            connection.execute(create)
            if rows:
                table = create.split()[2]
                connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        connection.close()
        return f"sqlite:///{path}"

    return make


def read(source):
    """All rows of a source."""
    batches = list(source.batches())
    assert all(batch.records.num_columns == len(source.columns.names) for batch in batches)
    counted = [int(row) for batch in batches for row in batch.row]
    assert counted == list(range(len(counted)))
    return pa.Table.from_batches([batch.records for batch in batches]).to_pylist() if batches else []


def test_a_long_table_comes_in_order_of_time_and_only_the_plants_tags(database, spec):
    source = SqlSource(f"{database()}?table=log", spec)
    assert source.columns.form == "long"
    assert source.columns.names == ("timestamp", "tag", "value", "quality")
    assert source.name == "plant.db:log"
    assert [(row["timestamp"][11:], row["tag"], row["value"], row["quality"]) for row in read(source)] == [
        ("00:00:00Z", "TT-101", 5.5, 192),
        ("00:00:00.500Z", "door", 0.0, 192),  # as text it would come before 00:00:00Z
        ("00:00:01Z", "TT-101", None, 0),
        ("00:00:01Z", "power", 2.25, 192),
        ("00:00:02Z", "door", 1.0, 192),
    ]
    assert source.place(4).endswith("plant.db?table=log, row 5")


def test_a_query_is_taken_as_it_is(database, spec):
    query = "SELECT time AS ts, tag, value * 2 + 1 AS value FROM log\nWHERE tag LIKE 'P%' ;"
    rows = read(SqlSource(f"{database()}?query={query}", spec))
    assert [(row["tag"], row["value"]) for row in rows] == [("PI-999", 15.0), ("power", 5.5)]


def test_a_wide_table_gives_the_plants_columns(database, spec):
    create = 'CREATE TABLE wide (time INTEGER, "TT-101" REAL, door INTEGER, "power [kW]" REAL, note TEXT)'
    source = SqlSource(f"{database(create, [(2, 1.5, 0, 3.0, 'b'), (1, None, 1, 4.0, 'a')])}?table=wide", spec)
    assert source.columns.form == "wide"
    assert source.columns.tags == {"temperature": 1, "door": 2, "power": 3}
    assert [tuple(row.values()) for row in read(source)] == [(1, None, 1, 4.0), (2, 1.5, 0, 3.0)]


def test_columns_of_the_plant_file_come_first(database, make_spec):
    create = "CREATE TABLE t (time TEXT, moment TEXT, tag TEXT, sensor TEXT, value REAL, reading REAL)"
    rows = [("x", "2024-01-01T00:00:00Z", "y", "door", 1.0, 9.0)]
    spec = make_spec(log={"columns": {"timestamp": "moment", "tag": "Sensor", "value": "reading"}})
    (row,) = read(SqlSource(f"{database(create, rows)}?table=t", spec))
    assert row == {"timestamp": "2024-01-01T00:00:00Z", "tag": "door", "value": 9.0}


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.sampled_from(["Bad", "No Data", "", "1,234.5", "12.5"]),
)


@given(st.lists(CELLS, min_size=1, max_size=30), st.sampled_from(["REAL", "TEXT", "", "NUMERIC", "INTEGER"]))
def test_every_kind_of_cell_survives(tmp_path_factory, cells, affinity):
    path = tmp_path_factory.mktemp("cells") / "c.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE log (n INTEGER, value {affinity})")
        connection.executemany("INSERT INTO log VALUES (?, ?)", list(enumerate(cells)))
        stored = [value for (value,) in connection.execute("SELECT value FROM log ORDER BY n")]
    connection.close()
    address = parse(f"sqlite:///{path}?query=SELECT n, value FROM log")
    fields = [pa.field("value", pa.int64())]
    (cell,) = cells_of(address, "SELECT n, value FROM log", fields)
    query = f"SELECT {', '.join(cell.expressions)} FROM (SELECT n, value FROM log) ORDER BY n"
    got = [
        value for batch in sql_driver.stream(address, query) for value in cell.assemble(list(batch.columns)).to_pylist()
    ]
    for one, other in zip(got, stored, strict=True):
        if isinstance(other, int | float) and isinstance(one, str):
            assert float(one) == float(other)
        else:
            assert one == other


def test_a_number_and_a_word_in_one_column_keep_their_places_over_many_batches(database, spec):
    # 300 000 rows are more than one of the driver's batches; the only word stands in the last one.
    rows = [(i, "TT-101", 0.1 * i, 192) for i in range(300_000)] + [(300_000, "TT-101", "Bad", 0)]
    create = "CREATE TABLE log (time INTEGER, tag TEXT, value, quality INTEGER)"
    batches = [batch.records for batch in SqlSource(f"{database(create, rows)}?table=log", spec).batches(100_000)]
    assert len(batches) > 1
    assert {str(batch.schema) for batch in batches} == {str(batches[0].schema)}
    values = pa.Table.from_batches(batches).column("value").to_pylist()
    assert [float(value) for value in values[:-1]] == [0.1 * i for i in range(300_000)]
    assert values[-1] == "Bad"


def hash_of(address, spec, size=1 << 19):
    source = SqlSource(address, spec)
    assert next(source.batches(100)).row[0] == 0
    assert source.sha256 == ""  # known once all of it has been read
    assert len(list(source.batches(size))) > (size < 20_000)
    return source.sha256


def test_the_hash_is_of_the_content_and_not_of_the_batches(database, spec):
    rows = [(i, "TT-101", 0.1 * i if i % 7 else None, 192) for i in range(40_000)]
    create = "CREATE TABLE log (time INTEGER, tag TEXT, value REAL, quality INTEGER)"
    first = hash_of(f"{database(create, rows)}?table=log", spec)
    assert len(first) == 64
    # Neither the batches nor the order of storing counts.
    assert hash_of(f"{database(create, rows[::-1], 'other.db')}?table=log", spec, 17_000) == first
    rows[500] = (500, "TT-101", 50.1, 192)
    assert hash_of(f"{database(create, rows, 'third.db')}?table=log", spec) != first
    # Letters that move from one cell to the next make another log.
    create = "CREATE TABLE log (time INTEGER, tag TEXT, value TEXT)"
    hashes = [
        hash_of(f"{database(create, [(1, 'door', a), (2, 'door', b)], f'{a}.db')}?table=log", spec)
        for a, b in (("ab", "c"), ("a", "bc"))
    ]
    assert hashes[0] != hashes[1]


def test_text_that_is_no_iso_date_stays_in_the_databases_order(database, spec):
    rows = [("31.01.2024 10:00:00", "door", 1, 192), ("01.02.2024 10:00:00", "door", 0, 192)]
    source = SqlSource(f"{database(rows=rows)}?table=log", spec)
    assert not source.ordered
    assert [row["timestamp"][:2] for row in read(source)] == ["31", "01"]


def test_an_empty_table_gives_no_batch(database, spec):
    source = SqlSource(f"{database(rows=[])}?table=log", spec)
    assert read(source) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("?table=lgo", r"plant\.db\?table=lgo: there is no table 'lgo'\. Did you mean 'log'\?$"),
        ("", r"plant\.db: names no table\. End the address with \?table=NAME or \?query=SELECT \.\.\.$"),
        ("?table=log&from=2024-01-01", r"'from=' and 'to=' do not work on a table\. .* write a query= with a WHERE\.$"),
        ("?query=SELECT tiem FROM log", r"there is no column tiem\. Mend the query"),
        ("?query=SELEC 1", r"the database refuses the query \(.*syntax error.*\)\. Mend the query\.$"),
        ("?query=SELECT tag, value FROM log", r"no time stamp column among 'tag', 'value'\. Name it in the plant file"),
        ("?query=SELECT time, quality FROM log", r"there is neither a tag and a value column nor a tag's among"),
        ("?query=SELECT time, tag, x'00' AS value FROM log", r"column 'value' holds binary data\. "),
        ("?query=DELETE FROM log", r"the database refuses the query"),
        ("?table=log&query=SELECT 1", r"asks for a table and a query\. Keep table= or query=\.$"),
        ("?table=", r"'table=' is empty\. Say which, or remove 'table='\.$"),
    ],
)
def test_mistakes_are_one_clear_line(database, spec, asked, message):
    address = database()
    with pytest.raises(DataError, match=message) as caught:
        read(SqlSource(f"{address}{asked}", spec))
    assert "\n" not in str(caught.value)
    with sqlite3.connect(address[len("sqlite:///") :]) as connection:
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (len(LOG),)
    connection.close()


def test_a_column_that_the_plant_file_names_and_the_table_lacks(database, make_spec):
    spec = make_spec(log={"columns": {"value": "val"}})
    with pytest.raises(
        DataError, match=r"there is no column 'val' \('log\.columns\.value'\)\. Did you mean 'value'\?$"
    ):
        SqlSource(f"{database()}?table=log", spec)


def test_no_file_and_no_database(tmp_path, spec):
    with pytest.raises(DataError, match=r"none\.db\?table=log: no such file\. Check the path"):
        SqlSource(f"sqlite:///{tmp_path}/none.db?table=log", spec)
    (tmp_path / "log.csv").write_text("time,tag,value\n" * 100)
    with pytest.raises(DataError, match=r"is no SQLite file\. Check the path\.$"):
        SqlSource(f"sqlite:///{tmp_path}/log.csv?table=log", spec)


@pytest.mark.parametrize(
    ("address", "missing", "message"),
    [
        ("sqlite:///x.db?table=log", "adbc_driver_sqlite", "the driver for SQLite is not installed"),
        ("postgresql://host/db?table=log", "adbc_driver_postgresql", "the driver for PostgreSQL is not installed"),
        ("odbc:DSN=x?table=log", "arrow_odbc", "the driver for ODBC is not installed"),
    ],
)
def test_a_driver_that_is_not_installed(monkeypatch, spec, address, missing, message):
    whole = importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return whole(name, *rest)

    monkeypatch.setattr(sql_driver, "import_module", without)
    with pytest.raises(DataError, match=message) as caught:
        SqlSource(address, spec)
    assert str(caught.value).endswith('Install it: pip install "controlkit[sql]".')


# Addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:hush@h:5432/db?table=log", "postgresql://u@h:5432/db?table=log"),
        ("postgres://u@h/db?password=hush&table=log", "postgres://u@h/db?password=***&table=log"),
        ("postgresql://u:hu%2Fsh@h:5432?table=log", "postgresql://u@h:5432?table=log"),
        ("odbc:Driver={X};PWD={hu;sh};Server=h?table=log", "odbc:Driver={X};PWD=***;Server=h?table=log"),
        ("odbc:DSN=x;uid=u;Password=hush?table=log", "odbc:DSN=x;uid=u;Password=***?table=log"),
    ],
)
def test_a_password_is_never_shown(address, shown):
    found = parse(address)
    assert found.shown == shown
    assert "hu" not in found.name
    assert found.hidden(f"refused {found.target}") != f"refused {found.target}"
    for secret in found.secrets:
        assert secret not in found.hidden(f"refused {found.target}")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:hush@h:port/db?table=log",
        "postgresql://u:a/hush?b@c@h/db?table=log",
        "postgresql://u:hush@h/db?table=",
        "odbc:PWD=hush;Server=h?table=",
    ],
)
def test_a_password_is_not_shown_of_an_address_that_is_wrong(address):
    with pytest.raises(DataError) as caught:
        parse(address)
    assert "hush" not in str(caught.value)


def test_a_password_of_the_environment_is_hidden_too(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "s3cr/et")
    assert parse("postgresql://h/db?table=x").hidden("got s3cr/et and s3cr%2Fet") == "got *** and ***"


def test_what_of_an_address_goes_where():
    found = parse("postgresql://u@h:5433/db?sslmode=require&query=SELECT 1+1 AS x -- # all&from=2024-01-01")
    assert found.query == "SELECT 1+1 AS x -- # all"
    assert found.since == "2024-01-01"
    assert found.target.startswith("postgresql://u@h:5433/db?sslmode=require&connect_timeout=10")
    assert parse("sqlite:///a%20b/x.db?table=t").target == "a b/x.db"
    assert parse("odbc:DSN=hist;Server=s;Database=d?table=t").database == "d"
    assert [is_address(x) for x in ("sqlite:///x", "odbc:DSN=x", "POSTGRES://h/d", "log.csv", "sqlite.csv")] == [
        True, True, True, False, False
    ]  # fmt: skip


def test_base_imports_need_no_driver(monkeypatch):
    whole = builtins.__import__

    def without(name, *rest, **others):
        assert not name.startswith(("adbc", "arrow_odbc", "pyarrow", "duckdb")), name
        return whole(name, *rest, **others)

    for module in ("sql", "sql_driver", "sql_cells", "sql_address", "presets", "ignition"):
        monkeypatch.delitem(
            importlib.import_module("sys").modules, f"controlkit.ingest.sources.{module}", raising=False
        )
    monkeypatch.setattr(builtins, "__import__", without)
    importlib.import_module("controlkit.ingest.sources.sql_driver")
    importlib.import_module("controlkit.ingest.sources.presets")
