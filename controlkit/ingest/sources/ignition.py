"""The tables that Ignition's Tag Historian writes, in any database (preset `ignition`, an address without a table).

After Inductive Automation's "Ignition Database Table Reference": `sqlth_te` has the tags (`id`, `tagpath`),
`sqlth_partitions` the tables of samples (`pname`) with their stretches of time (`start_time`, `end_time`), and each of
these, such as `sqlt_data_1_2024_05`, the samples: `tagid`, `intvalue` or `floatvalue` or `stringvalue`, `dataintegrity`
(192 is good), `t_stamp` in milliseconds since 1970. A tag that was deleted and made again has several ids of one path.
Partitions with a `blocksize` hold what Ignition has summed up in advance: copies, not samples.

`from=` and `to=` in the address (ISO 8601, UTC where no zone is given) choose the partitions and cut their samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controlkit.errors import DataError
from controlkit.ingest.columns import Columns, log_names
from controlkit.ingest.sources import sql_driver
from controlkit.ingest.sources.sql import Plan
from controlkit.ingest.sources.sql_address import Address
from controlkit.ingest.sources.sql_cells import Cell
from controlkit.ingest.sources.sql_driver import quoted
from controlkit.spec import PlantSpec

# A provider that does not partition its samples writes them all here.
_SINGLE = "sqlth_1_data"
_NEVER_MS = 2**62


@dataclass(frozen=True)
class _Partition:
    table: str
    start_ms: int
    end_ms: int


def ignition_plan(address: Address, spec: PlantSpec) -> Plan:
    """How the samples of the plant file's tags are asked for.

    Raises:
        DataError: these are no tables of Ignition, none of the tags is in them, or nothing in the stretch asked for.
    """
    since, until = _milliseconds(address.since, address), _milliseconds(address.until, address)
    names = _ids(address, spec)
    partitions = [
        part
        for part in _partitions(address)
        if (until is None or part.start_ms < until) and (since is None or part.end_ms >= since)
    ]
    if not partitions:
        what = "Ignition has no partition of samples" + ("" if since is None and until is None else " in that stretch")
        raise DataError(what, where=address.shown, cure="Check 'from=' and 'to=', and the table sqlth_partitions.")
    conditions = [f"tagid IN ({', '.join(map(str, names))})"]
    conditions += [f"t_stamp >= {since}"] if since is not None else []
    conditions += [f"t_stamp < {until}"] if until is not None else []
    where = " AND ".join(conditions)
    groups = [_union(group, where) for group in _overlapping(partitions)]
    cells = _cells(address, names, groups)
    selected = ", ".join(expression for cell in cells for expression in cell.expressions)
    queries = tuple(f"SELECT {selected} FROM ({rows}) AS samples ORDER BY t_stamp, tagid" for rows in groups)
    return Plan(Columns("long", ("t_stamp", "tagpath", "value", "dataintegrity"), 0, 3, 1, 2), cells, queries, True)


def _ids(address: Address, spec: PlantSpec) -> dict[int, str]:
    """Ids of the plant file's tags -> their name in the log. Ignition writes paths in small letters."""
    wanted = {column.lower(): column for column in log_names(spec)}
    found = sql_driver.table(address, "SELECT id, tagpath FROM sqlth_te")
    paths = [str(path) for path in found.column(1).to_pylist()]
    ids = {
        int(number): wanted[path.lower()]
        for number, path in zip(found.column(0).to_pylist(), paths, strict=True)
        if path.lower() in wanted
    }
    if not ids:
        shown = ", ".join(f"'{path}'" for path in sorted(set(paths))[:4])
        cure = "Write each tag's path as its 'column' in the plant file."
        raise DataError(
            f"none of the plant file's tags is among Ignition's ({shown} ...)", where=address.shown, cure=cure
        )
    return ids


def _partitions(address: Address) -> list[_Partition]:
    """The tables of samples in order of time."""
    listed = sql_driver.table(address, "SELECT * FROM sqlth_partitions").to_pylist()
    found = {
        str(row["pname"]): _Partition(str(row["pname"]), int(row["start_time"] or 0), int(row["end_time"] or _NEVER_MS))
        for row in listed
        if not row.get("blocksize")
    }
    if not found and _has_single(address):
        return [_Partition(_SINGLE, 0, _NEVER_MS)]
    return sorted(found.values(), key=lambda part: (part.start_ms, part.end_ms, part.table))


def _has_single(address: Address) -> bool:
    try:
        sql_driver.schema(address, f"SELECT tagid FROM {_SINGLE}")
    except DataError:
        return False
    return True


def _overlapping(partitions: Sequence[_Partition]) -> list[list[_Partition]]:
    """Partitions, those together that overlap in time, such as several gateways' of one month."""
    groups: list[list[_Partition]] = []
    end = -1
    for part in partitions:
        if groups and part.start_ms < end:
            groups[-1].append(part)
        else:
            groups.append([part])
        end = max(end, part.end_ms)
    return groups


def _union(group: Sequence[_Partition], where: str) -> str:
    columns = "tagid, intvalue, floatvalue, stringvalue, dataintegrity, t_stamp"
    return " UNION ALL ".join(f"SELECT {columns} FROM {quoted(part.table)} WHERE {where}" for part in group)


def _cells(address: Address, names: dict[int, str], groups: Sequence[str]) -> tuple[Cell, ...]:
    # A column that is never null, for SQLite's driver: whether there is a number stands beside it.
    real = {"sqlite": "REAL", "postgresql": "double precision", "odbc": "FLOAT"}[address.dialect]
    number = f"CAST(COALESCE(floatvalue, intvalue, 0) AS {real})"
    has_number = "CASE WHEN floatvalue IS NULL AND intvalue IS NULL THEN 0 ELSE 1 END"
    has_text = any(_has_text(address, rows) for rows in groups)
    text = ("COALESCE(stringvalue, '')",) if has_text else ()
    return (
        Cell(("t_stamp",), _stamps, False),
        Cell(("tagid",), lambda parts: _paths(parts[0], names), True),
        Cell((number, has_number, *text), _value, has_text),
        Cell(("COALESCE(dataintegrity, 0)",), lambda parts: parts[0], False),
    )


def _has_text(address: Address, rows: str) -> bool:
    query = f"SELECT COUNT(*) FROM ({rows}) AS samples WHERE stringvalue IS NOT NULL"
    return bool(sql_driver.table(address, query).column(0)[0].as_py())


def _stamps(parts: Sequence[Any]) -> Any:
    import pyarrow as pa

    return parts[0].cast(pa.int64()).cast(pa.timestamp("ms", tz="UTC"))


def _value(parts: Sequence[Any]) -> Any:
    """Numbers; as text where a tag among them holds text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    number, has_number, *text = parts
    known = pc.if_else(pc.equal(has_number, 1), number, pa.scalar(None, pa.float64()))
    return pc.coalesce(pc.cast(known, pa.string()), text[0]) if text else known


def _paths(ids: Any, names: dict[int, str]) -> Any:
    """The tags' names (K,) of their ids (K,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array(list(names), pa.int64())
    return pc.take(pa.array(list(names.values()), pa.string()), pc.index_in(ids.cast(pa.int64()), value_set=known))


def _milliseconds(text: str | None, address: Address) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"'{text}' is no time", where=address.shown, cure="Write from=2024-05-01T00:00:00Z.") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
