"""Logs behind an ODBC driver: SQLite's, where the system has it (Debian: apt install libsqliteodbc)."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from controlkit.errors import DataError
from controlkit.ingest.sources.sql import SqlSource

try:
    import arrow_odbc
except (ImportError, OSError) as problem:  # OSError: the system has no driver manager
    pytest.skip(f"needs arrow-odbc and the system's ODBC ({problem})", allow_module_level=True)

assert arrow_odbc is not None


@pytest.fixture
def driver():
    given = os.environ.get("CONTROLKIT_TEST_ODBC_DRIVER")
    found = [Path(given)] if given else sorted(Path("/usr/lib").glob("*/odbc/libsqlite3odbc.so"))
    if not found:
        pytest.skip("needs SQLite's ODBC driver: apt install libsqliteodbc")
    return found[0]


def test_a_table_through_odbc(driver, spec, tmp_path, read):
    path = tmp_path / "plant.db"
    rows = [
        ("2024-03-01 00:00:01", "TT-101", 5.5),
        ("2024-03-01 00:00:00", "TT-101", None),
        ("2024-03-01 00:00:00", "door", 1.0),
        ("2024-03-01 00:00:00", "power", 2.25),
        ("2024-03-01 00:00:00", "FI-999", 2.25),
    ]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE log (time VARCHAR(32), tag VARCHAR(32), value DOUBLE)")
        connection.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
    connection.close()
    address = f"odbc:Driver={driver};Database={path};PWD=hush?table=log"
    found = read(address)
    assert found.samples("temperature") == [
        ("2024-03-01T00:00:00Z", None, "empty"),
        ("2024-03-01T00:00:01Z", 5.5, "good"),
    ]
    assert found.values("door") == [1]
    assert found.values("power") == [2.25]
    (source,) = found.log.sources
    assert "hush" not in f"{source.name} {source.location} {found.log.place(0, 0)}"
    for asked, message in (
        ("table=lgo", r"there is no table 'lgo'\. Check its name"),
        ("query=SELEC 1", r"the database refuses the query \(.*syntax error.*\)\. Mend the query\.$"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            SqlSource(address.replace("table=log", asked), spec)
        assert "hush" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_driver_that_the_system_lacks(spec):
    with pytest.raises(DataError, match=r"cannot be reached \(") as caught:
        SqlSource("odbc:Driver={No Such Driver};Server=h;PWD=hush?table=log", spec)
    assert str(caught.value).startswith("odbc:Driver={No Such Driver};Server=h;PWD=***?table=log: ")
    assert "hush" not in str(caught.value)
