"""Addresses of logs in databases, and what of them may be shown.

    sqlite:///plant.db?table=log                    a file, relative; sqlite:////data/plant.db is absolute
    postgresql://reader@host:5432/plant?table=public.log
    postgresql://reader@host/plant?query=SELECT ...  percent-encoded where it holds & or #
    odbc:Driver={ODBC Driver 18 for SQL Server};Server=host;Database=plant?table=log

Passwords come from the environment: PGPASSWORD, PGPASSFILE and the other variables of libpq; CONTROLKIT_ODBC_USER and
CONTROLKIT_ODBC_PASSWORD. One that stands in the address works too, but is never shown again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote, urlencode, urlsplit

from controlkit.errors import DataError

Dialect = Literal["sqlite", "postgresql", "odbc"]

ODBC_USER, ODBC_PASSWORD = "CONTROLKIT_ODBC_USER", "CONTROLKIT_ODBC_PASSWORD"
_SCHEMES: dict[str, Dialect] = {"sqlite:": "sqlite", "postgresql:": "postgresql", "postgres:": "postgresql"}
_OURS = ("table", "query", "from", "to")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")  # one letter is a drive of Windows
_ASKS = re.compile(r"[?&](?=(?:table|query|from|to)=)")
_KEY = r"(?i)([\w-]*(?:password|passwd|pwd|secret|token)[\w-]*)\s*=\s*"
_SECRET = re.compile(_KEY + "([^&]*)")
# In braces, where a closing one is written twice.
_ODBC_SECRET = re.compile(_KEY + r"(\{(?:[^}]|\}\})*(?:\}|$)|.*?(?=;|\?(?:table|query|from|to)=|$))", re.DOTALL)
_ODBC_ASKS = re.compile(r"\?(?=(?:table|query|from|to)=)")
_LONGEST_SHOWN = 200  # a query may be as long as it likes


@dataclass(frozen=True)
class Address:
    """Where a log is in a database.

    Attributes:
        dialect: `odbc` stands for any database behind a driver of that kind.
        target: for the driver: a path, a URI of libpq, an ODBC connection string. Holds passwords: never show it.
        database: short name of the database.
        table, query: what to read; at most one is given.
        since, until: the stretch [since, until) to read, as written.
        shown: the address without passwords.
        secrets: what must not be shown.
    """

    dialect: Dialect
    target: str
    database: str
    table: str | None
    query: str | None
    since: str | None
    until: str | None
    shown: str
    secrets: tuple[str, ...]

    @property
    def name(self) -> str:
        """Short, for tables: `plant.db:log`."""
        return f"{self.database}:{self.table or ('query' if self.query else 'tags')}"

    def hidden(self, text: str) -> str:
        """Text of a driver without the passwords that it may repeat."""
        environment = (os.environ.get(name, "") for name in ("PGPASSWORD", ODBC_PASSWORD))
        for secret in {*self.secrets, *environment}:
            if secret:
                text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return text


def is_address(source: object) -> bool:
    """Whether a source is a database's address and not a file's path."""
    return isinstance(source, str) and source.lower().startswith((*_SCHEMES, "odbc:"))


def has_scheme(source: object) -> bool:
    """Whether a source looks like an address of any kind, such as `mysql://host`, known here or not."""
    found = _SCHEME.match(source) if isinstance(source, str) else None
    return found is not None and isinstance(source, str) and source[found.end() :].startswith("/")


def redacted(source: str) -> str:
    """A source as it may be shown, without passwords; works on any text, a proper address or not."""
    if source.lower().startswith("odbc:"):
        return _cut(_ODBC_SECRET.sub(r"\1=***", source))
    scheme = _SCHEME.match(source)
    if scheme is None:
        return source
    rest = source[scheme.end() :]
    place = rest.lstrip("/")
    slashes = rest[: len(rest) - len(place)]
    asks = _ASKS.search(place)
    before, after = (place[: asks.start()], place[asks.start() :]) if asks else (place, "")
    user, at, place = before.rpartition("@")  # a password may hold '/', '?' and '@': the last '@' ends it
    # Without an '@' what should be a port may be a password.
    place = place if at else re.sub(r"^([^/?:\[]*):(?!\d*(?:[/?]|$))[^/?]*", r"\1:***", place)
    place, after = _SECRET.sub(r"\1=***", place), _SECRET.sub(r"\1=***", after)
    return _cut(f"{scheme[0]}{slashes}{user.partition(':')[0]}{at}{place}{after}")


def parse(source: str) -> Address:
    """Takes an address apart.

    Raises:
        DataError: it names no database, both a table and a query, or a key twice.
    """
    source = " ".join(source.split("\n"))  # a query may have lines; an address has none
    if source.lower().startswith("odbc:"):
        return _odbc(source)
    dialect = next(kind for scheme, kind in _SCHEMES.items() if source.lower().startswith(scheme))
    shown = redacted(source)
    try:
        parts = urlsplit(source)
        _ = parts.port  # where a mistyped address shows
    except ValueError:
        raise DataError("is no address of a database", where=shown, cure=_example(dialect)) from None
    if dialect == "postgresql" and (not source.partition(":")[2].startswith("//") or "@" in parts.path):
        raise DataError("is no address of a database", where=shown, cure=_example(dialect))
    # A '#' in a query is part of it, as it would be in a database's own tools.
    text = parts.query + (f"#{parts.fragment}" if parts.fragment else "")
    asked, others = _asked(_pairs(text), shown)
    if dialect == "sqlite":
        path = unquote(parts.path[1:])
        if parts.netloc or not path or others:
            raise DataError("is no address of an SQLite file", where=shown, cure=_example(dialect))
        return Address(dialect, path, path.rsplit("/", 1)[-1], *asked, shown, ())
    secrets = tuple(value for key, value in others if _SECRET.fullmatch(f"{key}="))
    if parts.password:
        secrets += (unquote(parts.password), parts.password)
    defaults = [("connect_timeout", "10"), ("application_name", "controlkit")]
    others += [(key, value) for key, value in defaults if key not in dict(others)]
    database = unquote(parts.path[1:]) or os.environ.get("PGDATABASE", "") or parts.hostname or "postgresql"
    target = f"postgresql://{parts.netloc}{parts.path}?{urlencode(others, quote_via=quote)}"
    return Address(dialect, target, database, *asked, shown, secrets)


def _odbc(source: str) -> Address:
    connection, *rest = _ODBC_ASKS.split(source[len("odbc:") :], maxsplit=1)
    found = [match.group(2) for match in _ODBC_SECRET.finditer(connection)]
    # As it is written, and as the driver understands it.
    secrets = (*found, *(text[1:].removesuffix("}").replace("}}", "}") for text in found if text.startswith("{")))
    shown = redacted(source)
    asked, others = _asked(_pairs(rest[0] if rest else ""), shown)
    if others or "=" not in connection:
        raise DataError("is no ODBC connection string", where=shown, cure=_example("odbc"))
    keys = dict(part.partition("=")[::2] for part in connection.lower().split(";"))
    named = next((keys[key].strip(" {}") for key in ("database", "dsn", "server") if keys.get(key)), "odbc")
    return Address("odbc", connection, named, *asked, shown, secrets)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Key and value of `a=1&b=2`; unlike in a form, a '+' is a plus, as SQL has it."""
    split = [part.partition("=") for part in text.split("&") if part]
    return [(unquote(key), unquote(value)) for key, _, value in split]


def _asked(
    pairs: list[tuple[str, str]], shown: str
) -> tuple[tuple[str | None, str | None, str | None, str | None], list[tuple[str, str]]]:
    """What is asked for (table, query, from, to), and the rest of an address's parameters."""
    ours = {key: value.strip() for key, value in pairs if key in _OURS}
    if len(ours) < sum(key in _OURS for key, _ in pairs):
        raise DataError("asks for something twice", where=shown, cure="Keep one table= or query=.")
    if "table" in ours and "query" in ours:
        raise DataError("asks for a table and a query", where=shown, cure="Keep table= or query=.")
    for key, value in ours.items():
        if not value:
            raise DataError(f"'{key}=' is empty", where=shown, cure=f"Say which, or remove '{key}='.")
    query = ours.get("query", "").rstrip("; \n\t") or None
    return (ours.get("table"), query, ours.get("from"), ours.get("to")), [p for p in pairs if p[0] not in _OURS]


def _cut(shown: str) -> str:
    shown = " ".join(shown.split())
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[: _LONGEST_SHOWN - 4]} ..."


def _example(dialect: Dialect) -> str:
    example = {
        "sqlite": "sqlite:///plant.db?table=log (four slashes before an absolute path)",
        "postgresql": "postgresql://user@host:5432/database?table=log",
        "odbc": "odbc:Driver={...};Server=host;Database=plant?table=log",
    }
    return f"Write {example[dialect]}."
