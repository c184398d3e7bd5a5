"""A log in a database: a table, a view or a query, long or wide, read as a stream in order of time.

A database's rows have no order of their own, so they are asked for in order of time: cheap where the time column is
indexed, otherwise the database sorts (on its own disk; some 20 s for 10 million rows). Rows of one stamp come in order
of tag and value, so that the same content is always read in the same order. Stamps that are text are put in order only
where they are ISO 8601; others come as the database gives them (see `on_backward` in the plant file).

Of a table only the plant file's tags are asked for: a plant's database holds far more tags than one controller needs.
A query is taken as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from controlkit.errors import DataError, nearest
from controlkit.ingest.columns import Columns, log_names, recognise
from controlkit.ingest.sources import presets, sql_driver
from controlkit.ingest.sources.opened import BATCH, HEAD, Batch
from controlkit.ingest.sources.sql_address import Address, parse
from controlkit.ingest.sources.sql_cells import Cell, cells_of
from controlkit.ingest.sources.sql_driver import literal, quoted
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    import pyarrow as pa

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
_UNIT = re.compile(r"\s*\[[^\[\]]*\]$")


@dataclass(frozen=True)
class Plan:
    """How a log is asked for.

    Attributes:
        columns: what the columns of the batches mean.
        cells: one for each of `columns.names`: what is selected for it, and how that becomes one column.
        queries: one after the other; each gives the expressions of all cells in turn.
        ordered: whether the rows come in order of time.
    """

    columns: Columns
    cells: tuple[Cell, ...]
    queries: tuple[str, ...]
    ordered: bool


class SqlSource:
    """A log in a database; see `controlkit.ingest.sources.opened.Opened`.

    Args:
        address: see `controlkit.ingest.sources.sql_address`.
        spec: the plant.

    Raises:
        DataError: the address is none, the driver is missing, the database cannot be reached, there is no such table
            or column, or the login is refused.
    """

    def __init__(self, address: str, spec: PlantSpec) -> None:
        self._address = parse(address)
        self._plan = plan(self._address, spec)
        self._sha256 = ""

    @property
    def name(self) -> str:
        """Database and table."""
        return self._address.name

    @property
    def location(self) -> str:
        """The address without passwords."""
        return self._address.shown

    @property
    def columns(self) -> Columns:
        """What the columns mean."""
        return self._plan.columns

    @property
    def ordered(self) -> bool:
        """Whether the rows come in order of time."""
        return self._plan.ordered

    @property
    def sha256(self) -> str:
        """Hash of the content as it was last read to its end, however it came in batches: there is no file to hash."""
        return self._sha256

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All rows; each call asks the database anew."""
        import pyarrow as pa

        digest = _Digest(len(self._plan.columns.names))
        names = list(self._plan.columns.names)
        rows = 0
        for query in self._plan.queries:
            # Who wants the first rows only spares the database the sorting of the rest.
            few = f" LIMIT {size}" if size <= HEAD and self._address.dialect != "odbc" else ""
            for batch in sql_driver.stream(self._address, query + few, size):
                if batch.num_rows:
                    made = pa.RecordBatch.from_arrays(_assembled(batch, self._plan.cells), names=names)
                    digest.take(made)
                    yield Batch(made, np.arange(rows, rows + batch.num_rows, dtype=np.int64))
                    rows += batch.num_rows
        if size > HEAD:
            self._sha256 = digest.hexdigest()

    def place(self, row: int) -> str:
        """The row in the order in which they were asked for, counted from 1."""
        return f"{self._address.shown}, row {row + 1}"


def plan(address: Address, spec: PlantSpec) -> Plan:
    """How a log is to be asked for."""
    if spec.log.preset == "ignition" and address.table is None and address.query is None:
        from controlkit.ingest.sources.ignition import ignition_plan

        return ignition_plan(address, spec)
    if address.table is None and address.query is None:
        raise DataError(
            "names no table", where=address.shown, cure="End the address with ?table=NAME or ?query=SELECT ..."
        )
    if address.since is not None or address.until is not None:
        cure = "Only Ignition's own tables are cut so; write a query= with a WHERE."
        raise DataError("'from=' and 'to=' do not work on a table", where=address.shown, cure=cure)
    source = f"SELECT * FROM {sql_driver.relation(address)} AS source" if address.query is None else address.query
    found = sql_driver.schema(address, source)
    roles = presets.find_roles(found.names, spec.log)
    _check_named(roles, found.names, spec, address)
    chosen, columns = _chosen(found.names, roles, spec, address)
    where = ""
    if columns.form == "long" and address.query is None:
        wanted = ", ".join(literal(tag.column or name) for name, tag in spec.tags.items())
        where = f" WHERE {quoted(roles['tag'])} IN ({wanted})"
    rows = f"SELECT {', '.join(map(quoted, chosen))} FROM ({source}) AS log{where}"
    cells = cells_of(address, rows, [found.field(name) for name in chosen])
    order = _order(address, rows, cells, chosen, columns)
    selected = ", ".join(expression for cell in cells for expression in cell.expressions)
    query = f"SELECT {selected} FROM ({rows}) AS cells" + (f" ORDER BY {order}" if order else "")
    return Plan(columns, cells, (query,), bool(order))


def _check_named(roles: dict[str, str], names: Sequence[str], spec: PlantSpec, address: Address) -> None:
    for role, name in roles.items():
        if name not in names:
            hint = nearest(name, names)
            cure = f"{hint[0].upper()}{hint[1:]}" + ("" if hint.endswith("?") else ".")
            raise DataError(f"there is no column '{name}' ('log.columns.{role}')", where=address.shown, cure=cure)
    if "timestamp" not in roles:
        cure = "Name it in the plant file: log: {columns: {timestamp: ...}}."
        raise DataError(f"no time stamp column among {_listed(names)}", where=address.shown, cure=cure)


def _chosen(
    names: Sequence[str], roles: dict[str, str], spec: PlantSpec, address: Address
) -> tuple[list[str], Columns]:
    """The columns to read, and what they mean."""
    if "tag" in roles and "value" in roles:
        ours = [role for role in presets.ROLES if role in roles]
        flags = presets.find_flags([name for name in names if name not in roles.values()], spec.log)
        at = {role: i for i, role in enumerate(ours)}
        columns = Columns(
            "long", (*ours, *flags), at["timestamp"], at.get("quality"), at["tag"], at["value"], at.get("unit"),
            flags=tuple((len(ours) + i, word) for i, word in enumerate(flags.values())),
        )  # fmt: skip
        return [*(roles[role] for role in ours), *flags], columns
    known = log_names(spec)
    row: dict[str, str] = {
        role: name for role, name in roles.items() if role in ("timestamp", "quality") and name not in known
    }
    wanted = [name for name in names if name in known or _UNIT.sub("", name) in known]
    wanted = [name for name in wanted if name not in row.values()]
    if not wanted:
        raise DataError(
            f"there is neither a tag and a value column nor a tag's among {_listed(names)}",
            where=address.shown,
            cure="Name the columns of time stamp, tag and value in the plant file (log: columns:), or each tag's.",
        )
    chosen = [*row.values(), *wanted]
    try:
        return chosen, recognise(chosen, spec, address.shown, row)
    except DataError as problem:  # a table has no line 1
        raise DataError(problem.what, where=address.shown, cure=problem.cure) from None


def _order(address: Address, rows: str, cells: Sequence[Cell], chosen: Sequence[str], columns: Columns) -> str:
    """What follows ORDER BY: stamp, tag, value; nothing where the stamps are text that does not sort in time."""
    time = quoted(chosen[columns.timestamp])
    if cells[columns.timestamp].is_text:
        query = f"SELECT {time} FROM ({rows}) AS log WHERE {time} IS NOT NULL"
        first = next((batch.column(0)[0].as_py() for batch in sql_driver.stream(address, query) if batch.num_rows), "")
        if not _ISO.match(str(first)):
            return ""
        # As text 10:00:00Z would come after 10:00:00.5Z; and a database's language has rules of its own for signs.
        collation = ' COLLATE "C"' if address.dialect == "postgresql" else ""
        time = f"RTRIM({time}, 'Z'){collation}" if address.dialect != "odbc" else time
    if columns.form == "wide":
        return time
    assert columns.tag is not None
    assert columns.value is not None
    return f"{time}, {quoted(chosen[columns.tag])}, {quoted(chosen[columns.value])}"


def _assembled(batch: pa.RecordBatch, cells: Sequence[Cell]) -> list[pa.Array]:
    """The columns of a batch of a query's result."""
    ends = np.cumsum([len(cell.expressions) for cell in cells])
    return [
        cell.assemble([batch.column(i) for i in range(end - len(cell.expressions), end)])
        for cell, end in zip(cells, ends.tolist(), strict=True)
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:8])


class _Digest:
    """Hash of columns that does not depend on where batches are cut."""

    def __init__(self, columns: int) -> None:
        self._parts = [[hashlib.sha256() for _ in range(3)] for _ in range(columns)]
        self._rows = 0

    def take(self, batch: pa.RecordBatch) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._rows += batch.num_rows
        for (valid, lengths, content), column in zip(self._parts, batch.columns, strict=True):
            if pa.types.is_null(column.type):
                continue
            valid.update(pc.cast(column.is_valid(), pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
            if pa.types.is_primitive(column.type) and not pa.types.is_boolean(column.type):
                content.update(_numbers(column).tobytes())
                continue
            text = pc.fill_null(pc.cast(column, pa.large_string()), "")
            lengths.update(pc.binary_length(text).to_numpy(zero_copy_only=False).tobytes())
            content.update(_content(text))

    def hexdigest(self) -> str:
        whole = hashlib.sha256(str(self._rows).encode())
        for parts in self._parts:
            for part in parts:
                whole.update(part.digest())
        return whole.hexdigest()


def _numbers(column: pa.Array) -> Any:
    """Values of a column of fixed width, zero where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    width = column.type.bit_width
    if not pa.types.is_floating(column.type):
        column = column.view({8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[width])
    return pc.fill_null(column, 0).to_numpy(zero_copy_only=False)


def _content(text: pa.Array) -> Any:
    """The text of all rows of a large_string column without nulls, one after the other."""
    _, offsets, content = text.buffers()
    if content is None or not len(text):
        return b""
    ends = np.frombuffer(offsets, dtype=np.int64)
    return memoryview(content)[ends[text.offset] : ends[text.offset + len(text)]]
