"""Logs in PostgreSQL, against a real server that the tests start on loopback and stop again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from controlkit.errors import DataError
from controlkit.ingest import ingest
from controlkit.ingest.sources import sql_driver
from controlkit.ingest.sources.sql import SqlSource
from controlkit.ingest.sources.sql_address import parse

driver = pytest.importorskip("adbc_driver_postgresql.dbapi", reason='needs the extra: pip install "controlkit[sql]"')

PASSWORD = "s3cr et/@"


def binaries():
    """Debian keeps the server's programs off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


@pytest.fixture(scope="module")
def server():
    """Starts a server with one user and one database; the address without what to read."""
    programs = binaries()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: apt install postgresql")
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="controlkit-postgresql-"))
    try:
        folder.chmod(0o755)
        data, secret = folder / "data", folder / "password"
        data.mkdir(mode=0o700)
        secret.write_text(f"{PASSWORD}\n")
        for path in (data, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
        as_user = {"cwd": folder, "env": {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(folder)}}
        if os.getuid() == 0:
            as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        init = [programs / "initdb", "-D", data, "-U", "plant", "--auth=scram-sha-256", f"--pwfile={secret}"]
        made = subprocess.run([*init, "-E", "UTF8", "--no-sync"], capture_output=True, text=True, **as_user)
        assert made.returncode == 0, made.stderr
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "timezone=Asia/Tokyo"]
        command = [programs / "postgres", "-D", data, "-p", str(port), *(part for o in options for part in ("-c", o))]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log, **as_user)
        try:
            _wait(process, port, folder / "log")
            yield f"postgresql://plant@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown: open sessions are ended
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process, port, log):
    for _ in range(150):
        assert process.poll() is None, log.read_text()
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server does not answer: {log.read_text()}")


@pytest.fixture
def execute(server, monkeypatch):
    """Runs statements; the password is in the environment, as it should be."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)

    def run(*statements):
        for _ in range(50):  # the port answers before the server does
            try:
                connection = driver.connect(server)
                break
            except driver.OperationalError as problem:
                if "starting up" not in str(problem):
                    raise
                time.sleep(0.1)
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    return run


LOG = """CREATE TABLE log AS SELECT * FROM (VALUES
    (TIMESTAMPTZ '2024-07-01 02:00:01+02', 'TT-101', 5.25::numeric(8,3), 192::smallint),
    (TIMESTAMPTZ '2024-07-01 00:00:00Z', 'door', 1, 192),
    (TIMESTAMPTZ '2024-07-01 00:00:00Z', 'TT-101', 'NaN', 0),
    (NULL, 'TT-101', 4, 192),
    (TIMESTAMPTZ 'infinity', 'power', 3, 192),
    (TIMESTAMPTZ '2024-07-01 00:00:02Z', 'FI-999', 3, 192)
) AS rows (time, tag, value, quality)"""


def read(source):
    return pa.Table.from_batches([batch.records for batch in source.batches()]).to_pylist()


def at(second):
    return datetime(2024, 7, 1, 0, 0, second, tzinfo=UTC)


def test_a_table_comes_in_utc_and_in_order_of_time(server, execute, spec):
    execute("DROP TABLE IF EXISTS log", LOG)
    source = SqlSource(f"{server}?table=log", spec)
    assert source.columns.names == ("timestamp", "tag", "value", "quality")
    assert source.ordered
    assert source.name == "postgres:log"
    rows = read(source)
    assert [(row["timestamp"], row["tag"], row["quality"]) for row in rows] == [
        (at(0), "TT-101", 0),
        (at(0), "door", 192),
        (at(1), "TT-101", 192),
        (None, "power", 192),  # no other system could write infinity down
        (None, "TT-101", 192),
    ]
    assert [str(row["value"]) for row in rows] == ["nan", "1.0", "5.25", "3.0", "4.0"]
    asked = SqlSource(f"{server}?query=SELECT * FROM log WHERE tag <> 'FI-999'", spec)
    assert len(read(asked)) == 5
    assert source.sha256 == asked.sha256 != ""


def test_a_table_of_a_schema_and_a_wide_query(server, execute, spec):
    execute(
        'CREATE SCHEMA IF NOT EXISTS "Plant 1"',
        'DROP TABLE IF EXISTS "Plant 1"."Wide"',
        'CREATE TABLE "Plant 1"."Wide" ("Time" timestamp, "TT-101" real, door boolean, "power [kW]" bigint, note text)',
        """INSERT INTO "Plant 1"."Wide"
           VALUES ('2024-07-01 00:00:01', 1.5, true, 3, 'x'), ('2024-07-01', NULL, false, 4, '')""",
    )
    for asked in ("table=Plant 1.Wide", 'query=SELECT * FROM "Plant 1"."Wide" WHERE note <> \'100%25\''):
        source = SqlSource(f"{server}?{asked}", spec)
        assert source.columns.tags == {"temperature": 1, "door": 2, "power": 3}
        naive = [
            datetime(2024, 7, 1, 0, 0, second) for second in (0, 1)
        ]  # the plant file's time zone, not the server's
        assert [tuple(row.values()) for row in read(source)] == [(naive[0], None, False, 4), (naive[1], 1.5, True, 3)]


def test_iso_text_is_ordered_as_time_whatever_the_servers_language(server, execute, spec):
    execute(
        "DROP TABLE IF EXISTS stamps",
        "CREATE TABLE stamps (time text, tag text, value float8)",
        "INSERT INTO stamps SELECT '2024-07-01T00:00:0' || t, 'door', 1 FROM unnest(ARRAY['1Z', '0.5Z', '0Z']) AS t",
    )
    rows = read(SqlSource(f"{server}?table=stamps", spec))
    assert [row["timestamp"][18:] for row in rows] == ["0Z", "0.5Z", "1Z"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("?table=log", "?table=lgo"), r"there is no table 'lgo'\. Did you mean 'log'\?$"),
        (("?table=log", "?query=SELECT valeu FROM log"), r"there is no column \"valeu\"\. Mend the query"),
        (("?table=log", "?query=SELECT 1/0 AS time, tag, value FROM log"), r"refuses the query \(division by zero\)"),
        (("?table=log", "?query=DELETE FROM log"), r"the database refuses the query \(syntax error"),
        (("/postgres?", "/nodb?"), r'cannot be reached \(FATAL: database "nodb" does not exist\)'),
        (("plant@", "nobody@"), r"the database refuses the login\. Check the user, and set PGPASSWORD"),
        (("plant@", "plant:hush@"), r"the database refuses the login\. "),
        (("127.0.0.1", "nohost.invalid"), r"cannot be reached \(.*\)\. Check host, port and database\.$"),
    ],
)
def test_mistakes_are_one_clear_line_without_a_password(server, execute, spec, change, message):
    execute("DROP TABLE IF EXISTS log", LOG)
    address = f"{server}?table=log".replace(*change)
    with pytest.raises(DataError, match=message) as caught:
        read(SqlSource(address, spec))
    line = str(caught.value)
    assert "\n" not in line
    assert PASSWORD not in line
    assert "hush" not in line
    assert line.startswith(("postgresql://plant@", "postgresql://nobody@"))


def test_a_server_that_is_not_there(spec):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match=rf"127\.0\.0\.1:{port}/db\?table=log: cannot be reached \(Connection refused"):
        SqlSource(f"postgresql://plant:hush@127.0.0.1:{port}/db?table=log", spec)


def test_no_password_at_all(server, execute, spec, monkeypatch):
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    with pytest.raises(
        DataError, match=r"the database refuses the login\. .*set PGPASSWORD \(or a line in ~/\.pgpass\)"
    ):
        SqlSource(f"{server}?table=log", spec)
    # In the address it works too, quoted as addresses need it, and shows nowhere.
    quoted = server.replace("plant@", "plant:s3cr%20et%2F%40@")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    execute("DROP TABLE IF EXISTS log", LOG)
    monkeypatch.delenv("PGPASSWORD")
    source = SqlSource(f"{quoted}?table=log", spec)
    assert len(read(source)) == 5
    for text in (source.location, source.name, source.place(0)):
        assert "s3cr" not in text


def test_a_session_cannot_write(server, execute):
    execute("DROP TABLE IF EXISTS log", LOG)
    address = parse(f"{server}?table=log")
    with pytest.raises(DataError, match="read-only transaction"):
        list(sql_driver.stream(address, "DELETE FROM log RETURNING tag"))
    assert sql_driver.table(address, "SELECT count(*) AS n FROM log").to_pylist() == [{"n": 6}]


def test_an_ingest_is_that_of_the_same_file_and_keeps_no_password(server, execute, spec, rows, write_long, tmp_path):
    values = ", ".join(f"('{time}', '{tag}', {value}, '{quality}')" for time, tag, value, quality in rows)
    execute(
        "DROP TABLE IF EXISTS whole",
        "CREATE TABLE whole (time timestamptz, tag text, value float8, quality text)",
        f"INSERT INTO whole VALUES {values}",
    )
    address = server.replace("plant@", "plant:s3cr%20et%2F%40@")
    made = ingest(spec, [f"{address}?table=whole"], tmp_path / "data").dataset
    same = ingest(spec, [write_long(rows)], None).dataset
    for name in ("frames", "actions", "mask", "rewards", "episode", "time_ns"):
        np.testing.assert_array_equal(getattr(made, name), getattr(same, name), err_msg=name)
    assert list(made.sources) == ["postgres:whole"]
    written = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert any(b"postgres:whole" in content for content in written)
    assert not any(b"s3cr" in content for content in written)


STREAM = """
import resource, sys
from controlkit.ingest.sources.sql import SqlSource
from controlkit.spec import PlantSpec

spec = PlantSpec.from_dict({
    "name": "cold", "period_s": 1, "objective": [{"kind": "track", "tag": "temperature", "setpoint": 0}],
    "tags": {
        "temperature": {"role": "state", "unit": "degC", "range": [-30, 40], "column": "TT-101"},
        "power": {"role": "action", "unit": "kW", "range": [0, 9], "safe": 0, "fallback": {"kind": "hold"}},
    },
})
source = SqlSource(sys.argv[1], spec)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = batches = 0
last = None
for batch in source.batches():
    first = batch.records.column(0)[0].as_py()
    assert last is None or first >= last
    last = batch.records.column(0)[-1].as_py()
    rows, batches = rows + len(batch.row), batches + 1
print(rows, batches, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_table_streams(server, execute):
    execute(
        "DROP TABLE IF EXISTS large",
        "CREATE UNLOGGED TABLE large AS SELECT TIMESTAMPTZ '2024-01-01' + i * INTERVAL '1 s' AS time, "
        "CASE i % 2 WHEN 0 THEN 'TT-101' ELSE 'power' END AS tag, i * 0.1::float8 AS value "
        "FROM generate_series(1, 3000000) AS i",
    )
    command = [sys.executable, "-c", STREAM, f"{server}?table=large"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PGPASSWORD": PASSWORD})
    assert done.returncode == 0, done.stderr
    rows, batches, grown_kb = map(int, done.stdout.split())
    execute("DROP TABLE large")
    assert rows == 3_000_000
    assert batches >= 3
    # All of it in Arrow would be 80 MB at least, and as much again while it comes in; a few batches are 33 MB each.
    assert grown_kb < 110_000
