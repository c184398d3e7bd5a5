"""The way to an MLflow store: checked within seconds, before any long work, since MLflow itself would try for minutes.

`local` is an SQLite file, `mlflow.db`, in the folder that holds the run folder, with `mlartifacts/` beside it. Anything
else is an address as MLflow takes it: `http://host:5000`, `sqlite:////data/mlflow.db`, `postgresql://...`.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controlkit.errors import ControlkitError
from controlkit.tracking.tracker import Tracker

LOCAL, VARIABLE = "local", "MLFLOW_TRACKING_URI"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
ANSWER_S = 5.0

_WHERE = f"--track or {VARIABLE}"
_ADDRESS = re.compile(r"[a-z][a-z0-9+-]*://", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What MLflow reads as it works: no reports to its makers, no minutes of repeated requests, no lines of its own.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def open_tracker(where: str, run: Path, *, clock: Callable[[], float] = time.time) -> Tracker:
    """Opens a store and sees that it answers.

    Args:
        where: `local`, or an address.
        run: a run folder, there or not, beside which `local` is.
        clock: seconds since 1970, for the times of metrics.

    Raises:
        ControlkitError: mlflow is not installed, this is no address, or nothing usable answers there.
    """
    if where != LOCAL and not _ADDRESS.match(where):
        raise ControlkitError(
            f"'{where[:80]}' is no address of a store",
            where=_WHERE,
            cure=f"Write {LOCAL}, http://HOST:PORT, or sqlite:///FILE.",
        )
    beside, address = run.resolve().parent, address_of(where, run)
    shown = without_secrets(address)
    artifacts = _checked(address, shown, beside)
    with quiet():
        client, problems = _client(address)
        try:
            client.search_experiments(max_results=1)
        except problems as problem:
            raise ControlkitError(
                f"the store cannot be used ({one_line(problem, address)})", where=shown, cure="See that it runs."
            ) from None
    return Tracker(client, shown, artifacts, problems, clock)


def address_of(where: str, run: Path) -> str:
    """What MLflow takes for `local`, or the address as it was given."""
    return f"sqlite:///{run.resolve().parent / DATABASE}" if where == LOCAL else where


@contextmanager
def quiet() -> Iterator[None]:
    """Settings that MLflow reads from the environment, for the length of a block; a user's own win."""
    missing = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    os.environ.update(missing)
    loggers = {logger: logger.level for logger in (logging.getLogger("mlflow"), logging.getLogger("alembic"))}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
        for name in missing:
            os.environ.pop(name, None)


def without_secrets(address: str) -> str:
    """An address as it may be shown and kept: without user, password and parameters."""
    scheme, _, rest = address.partition("://")
    place = rest.split("?")[0].split("#")[0]
    before, slash, after = place.partition("/")
    return f"{scheme}://{before.rpartition('@')[2]}{slash}{after}"


def one_line(problem: BaseException, address: str = "") -> str:
    """The first line of a message of MLflow or its database, without what may be secret."""
    text = next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
    return (text.replace(address, without_secrets(address)) if address else text)[:200]


def _checked(address: str, shown: str, beside: Path) -> Path | None:
    """Sees whether something answers; where artifacts go, `None` where the server decides."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ControlkitError("is no address of a store", where=shown, cure="Write http://HOST:PORT.") from None
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        path = Path(address.partition("://")[2].split("?")[0].removeprefix("/"))
        _require_sqlite(path, shown)
        return path.resolve().parent / ARTIFACTS
    if host is not None and (port is not None or kind in _PORTS):
        try:
            socket.create_connection((host, port or _PORTS[kind]), timeout=ANSWER_S).close()
        except (OSError, UnicodeError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
            raise ControlkitError(
                f"the store does not answer ({reason})",
                where=shown,
                cure=f"Start it, or train without --track and without {VARIABLE}.",
            ) from None
    return None if kind in ("http", "https", "databricks") else beside / ARTIFACTS


def _require_sqlite(path: Path, shown: str) -> None:
    """A file of SQLite's, or a place where one can be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        connection = sqlite3.connect(path, timeout=ANSWER_S)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
            if not existed and path.is_file() and path.stat().st_size == 0:
                path.unlink()
    except (OSError, sqlite3.Error) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise ControlkitError(
            f"the store cannot be written ({reason})", where=shown, cure="Choose another place for it."
        ) from None


def _client(address: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client of MLflow, and what it may raise."""
    try:
        mlflow = importlib.import_module("mlflow")
        database = importlib.import_module("sqlalchemy.exc")
        importlib.import_module("alembic")
    except ImportError as problem:
        raise ControlkitError(
            f"tracking needs MLflow, and '{problem.name}' is not installed",
            where=_WHERE,
            cure="Install it: pip install 'controlkit[mlflow]'.",
        ) from None
    # A driver of a database that is missing is an ImportError; requests' errors are OSErrors.
    problems = (mlflow.exceptions.MlflowException, database.SQLAlchemyError, OSError, ImportError)
    try:
        return mlflow.MlflowClient(tracking_uri=address, registry_uri=address), problems
    except problems as problem:
        raise ControlkitError(
            f"is no store that MLflow can use ({one_line(problem, address)})", where=without_secrets(address)
        ) from None
