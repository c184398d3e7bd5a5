"""What is selected for a column of a database, so that every batch has the same type and no number is bent.

SQLite's columns hold values of any type side by side (https://www.sqlite.org/datatype3.html), and its driver takes the
type of the first batch for all. So the values are looked at first, and a column of several types is fetched in parts.
PostgreSQL's numeric becomes a float, and its infinite stamps become null: no other system could write them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controlkit.errors import DataError
from controlkit.ingest.sources import sql_driver
from controlkit.ingest.sources.sql_address import Address
from controlkit.ingest.sources.sql_driver import quoted

if TYPE_CHECKING:
    import pyarrow as pa

Assemble = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Cell:
    """One column: what is selected for it, how these arrays (K,) become one (K,), and whether that is text."""

    expressions: tuple[str, ...]
    assemble: Assemble
    is_text: bool


def cells_of(address: Address, rows: str, fields: Sequence[pa.Field]) -> tuple[Cell, ...]:
    """A cell for each column of the query `rows`.

    Raises:
        DataError: a column holds binary data.
    """
    if address.dialect == "sqlite":
        names = [field.name for field in fields]
        return tuple(
            _sqlite_cell(name, kinds, address) for name, kinds in zip(names, _kinds(address, rows, names), strict=True)
        )
    return tuple((_postgresql_cell if address.dialect == "postgresql" else _plain_cell)(field) for field in fields)


def _plain_cell(field: pa.Field) -> Cell:
    import pyarrow as pa

    def assemble(parts: Sequence[Any]) -> Any:
        return parts[0].cast(pa.float64()) if pa.types.is_decimal(parts[0].type) else parts[0]

    return Cell((quoted(field.name),), assemble, pa.types.is_string(field.type) or pa.types.is_large_string(field.type))


def _postgresql_cell(field: pa.Field) -> Cell:
    import pyarrow as pa

    name = quoted(field.name)
    kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if pa.types.is_timestamp(field.type):
        return Cell((f"CASE WHEN isfinite({name}) THEN {name} END",), _first, False)
    if kind == "numeric":
        return Cell((f"CAST({name} AS double precision)",), _first, False)
    if isinstance(field.type, pa.BaseExtensionType):
        return Cell((f"CAST({name} AS text)",), _first, True)
    return _plain_cell(field)


def _kinds(address: Address, rows: str, names: Sequence[str]) -> list[set[str]]:
    """The types of value that each column holds; reads all rows once."""
    types = ", ".join(f"typeof({quoted(name)})" for name in names)
    found = sql_driver.table(address, f"SELECT DISTINCT {types} FROM ({rows}) AS log")
    return [{str(kind) for kind in column.to_pylist()} for column in found.columns]


def _sqlite_cell(name: str, kinds: set[str], address: Address) -> Cell:
    column, has_null = quoted(name), "null" in kinds
    if "blob" in kinds:
        cure = "Leave it out of a query=, or CAST it there."
        raise DataError(f"column '{name}' holds binary data", where=address.shown, cure=cure)
    held = kinds - {"null"}
    # No expression is ever null, and each has one type: what the driver makes of the first batch holds for all.
    null = (f"{column} IS NULL",) if has_null else ()
    if not held:
        return Cell(("1",), _nothing, True)
    if held == {"integer"}:
        return Cell((f"coalesce({column}, 0)", *null), _masked, False)
    if held <= {"integer", "real"}:
        return Cell((f"CAST(coalesce({column}, 0.0) AS REAL)", *null), _masked, False)
    if held == {"text"}:
        return Cell((f"coalesce({column}, '')", *null), _masked, True)
    number, zero = (f"CAST({column} AS REAL)", "0.0") if "real" in held else (column, "0")
    return Cell(
        (
            f"typeof({column})",
            f"CASE WHEN typeof({column}) = 'text' THEN {column} ELSE '' END",
            f"CASE WHEN typeof({column}) IN ('integer', 'real') THEN {number} ELSE {zero} END",
        ),
        _mixed,
        True,
    )


def _first(parts: Sequence[Any]) -> Any:
    return parts[0]


def _nothing(parts: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.nulls(len(parts[0]), pa.string())


def _masked(parts: Sequence[Any]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    values, *null = parts
    return pc.if_else(pc.equal(null[0], 1), pa.scalar(None, values.type), values) if null else values


def _mixed(parts: Sequence[Any]) -> Any:
    """Numbers among text as text: the shortest that reads back as the same number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, text, number = parts
    said = pc.if_else(pc.equal(kind, "text"), text, pc.cast(number, pa.string()))
    return pc.if_else(pc.equal(kind, "null"), pa.scalar(None, pa.string()), said)
