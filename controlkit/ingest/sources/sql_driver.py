"""Databases as streams of Arrow batches: ADBC for SQLite and PostgreSQL, ODBC for the others (extra [sql]).

Everything is read in a session that cannot write. What a driver says becomes one clear line without passwords.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from controlkit.errors import DataError, nearest
from controlkit.ingest.sources.opened import BATCH
from controlkit.ingest.sources.sql_address import ODBC_PASSWORD, ODBC_USER, Address

if TYPE_CHECKING:
    import pyarrow as pa

_MODULES = {"sqlite": "adbc_driver_sqlite.dbapi", "postgresql": "adbc_driver_postgresql.dbapi", "odbc": "arrow_odbc"}
# PostgreSQL's driver counts a batch in bytes: about so many a row of a long log.
_ROW_BYTES = 64
_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')",
    "postgresql": "SELECT CASE table_schema WHEN 'public' THEN '' ELSE table_schema || '.' END || table_name "
    "FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')",
}
_NO_TABLE = re.compile(
    r"no such table: (?P<a>\S+)|relation \"(?P<b>[^\"]+)\" does not exist|Invalid object name '(?P<c>[^']+)'"
)
_NO_COLUMN = re.compile(r"no such column: (?P<a>\S+)|column (?P<b>\S+) does not exist")


def stream(address: Address, query: str, rows: int = BATCH) -> Iterator[pa.RecordBatch]:
    """What a query gives, about `rows` at a time; of an empty result one batch without rows, for its columns.

    Raises:
        DataError: the driver is missing, the database cannot be reached or refuses the query.
    """
    driver = _driver(address)
    with _explained(address):
        if address.dialect == "odbc":
            yield from _odbc_batches(address, driver, query, rows)
            return
        with _session(address, driver) as connection, connection.cursor() as cursor:
            if address.dialect == "sqlite":
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(rows)})
            else:
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(rows * _ROW_BYTES)})
            cursor.execute(query)
            yield from _with_one(cursor.fetch_record_batch())


def table(address: Address, query: str) -> pa.Table:
    """What a query gives, all of it: for small answers."""
    import pyarrow as pa

    return pa.Table.from_batches(list(stream(address, query)))


def schema(address: Address, query: str) -> pa.Schema:
    """The columns of a query's result."""
    return table(address, f"SELECT * FROM ({query}) AS asked WHERE 1 = 0").schema


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever it holds."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def literal(text: str) -> str:
    """A text as SQL takes it."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def relation(address: Address) -> str:
    """The address's table, quoted part by part (`public.log`), or its query in brackets."""
    if address.query is not None:
        return f"({address.query})"
    assert address.table is not None
    parts = [address.table] if address.dialect == "sqlite" else address.table.split(".")
    return ".".join(quoted(part) for part in parts)


def missing_driver(address: Address, reason: str) -> DataError:
    """The error for a driver that is not installed."""
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "odbc": "ODBC"}[address.dialect]
    cure = 'Install it: pip install "controlkit[sql]".'
    if address.dialect == "odbc" and "odbc.so" in reason:
        cure = "Install the system's ODBC driver manager (Debian: apt install unixodbc)."
    return DataError(f"the driver for {kind} is not installed", where=address.shown, cure=cure)


def _driver(address: Address) -> Any:
    try:
        return import_module(_MODULES[address.dialect])
    except (ImportError, OSError) as problem:  # OSError: the system's own library is missing
        raise missing_driver(address, str(problem)) from None


@contextmanager
def _session(address: Address, driver: Any) -> Iterator[Any]:
    """A connection that cannot write."""
    if address.dialect == "sqlite":
        if not Path(address.target).is_file():  # the driver calls it a lack of memory
            raise DataError("no such file", where=address.shown, cure="Check the path; four slashes begin at the root.")
        with closing(driver.connect(f"file:{quote(address.target)}?mode=ro")) as connection:
            yield connection
        return
    with closing(driver.connect(address.target)) as connection:
        with connection.cursor() as cursor:
            # One snapshot, and times with a zone in UTC whatever the server's is.
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()
        yield connection


def _odbc_batches(address: Address, driver: Any, query: str, rows: int) -> Iterator[pa.RecordBatch]:
    reader = driver.read_arrow_batches_from_odbc(
        query=query,
        connection_string=address.target,
        user=os.environ.get(ODBC_USER),
        password=os.environ.get(ODBC_PASSWORD),
        batch_size=rows,
        max_text_size=4096,  # drivers that do not know how long a text can be would ask for gigabytes
    )
    yield from _with_one(reader)


def _with_one(reader: Any) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    empty = True
    for batch in reader:
        empty = False
        yield batch
    if empty:
        yield pa.RecordBatch.from_pylist([], schema=reader.schema)


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Turns what a driver says into one clear line.

    Raises:
        DataError: anything went wrong in the block.
    """
    import pyarrow as pa

    try:
        yield
    except (DataError, GeneratorExit):
        raise
    except (pa.ArrowException, OSError, MemoryError) as problem:
        raise _error(address, str(problem)) from None
    except Exception as problem:
        # The drivers' errors are classes of modules that may not be there to name.
        if type(problem).__module__.split(".")[0] not in ("adbc_driver_manager", "arrow_odbc"):
            raise
        raise _error(address, str(problem)) from None


def _error(address: Address, message: str) -> DataError:
    where, text = (
        address.shown,
        " ".join(address.hidden(message).split("\nquery:")[0].split("\n\nQuery was")[0].split()),
    )
    if found := _NO_TABLE.search(text):
        return _no_table(address, found["a"] or found["b"] or found["c"])
    if found := _NO_COLUMN.search(text):
        what = f"there is no column {(found['a'] or found['b']).strip(',;')}"
        return DataError(what, where=where, cure="Mend the query, or 'log.columns' in the plant file.")
    refused = ("authentication failed", "no password supplied", "Login failed", "(28000)")
    if any(sign in text for sign in refused):
        cure = "Check the user, and set PGPASSWORD (or a line in ~/.pgpass)."
        if address.dialect == "odbc":
            cure = f"Check the user, and set {ODBC_USER} and {ODBC_PASSWORD}."
        return DataError("the database refuses the login", where=where, cure=cure)
    if any(sign in text for sign in ("Failed to connect", "failed to open", "SQLDriverConnect")):
        reason = text.rsplit("failed: ", 1)[-1].split("Failed to connect: ")[-1].split("Message: ")[-1].strip()
        return DataError(f"cannot be reached ({_short(reason)})", where=where, cure="Check host, port and database.")
    if "is not a database" in text:
        return DataError("is no SQLite file", where=where, cure="Check the path.")
    reason = re.sub(r"^[A-Z_]+: ", "", text.split("Message: ")[-1])
    reason = re.sub(
        r"\[(libpq|SQLite)\] |Failed to (prepare|execute|step) query: |could not begin COPY: |ERROR: +", "", reason
    )
    return DataError(f"the database refuses the query ({_short(reason)})", where=where, cure="Mend the query.")


def _no_table(address: Address, name: str) -> DataError:
    names: list[str] = []
    if address.dialect in _TABLES:
        try:
            names = [str(name) for name in table(address, _TABLES[address.dialect]).column(0).to_pylist()]
        except DataError:
            pass  # the first error is the one to tell
    hint = nearest(name, names[:200]) or "check its name, and that this user may read it"
    cure = f"{hint[0].upper()}{hint[1:]}" + ("" if hint.endswith("?") else ".")
    return DataError(f"there is no table '{name}'", where=address.shown, cure=cure)


def _short(text: str) -> str:
    text = text.strip().rstrip(".")
    return text if len(text) <= 160 else f"{text[:156]} ..."
