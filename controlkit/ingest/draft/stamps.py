"""Time stamps of an unknown log: the DuckDB expression that reads them, found out from some of them.

A stamp without a zone counts as UTC here, as the session's zone is: for intervals and delays it makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from controlkit.ingest.draft.header import MOST, share
from controlkit.ingest.timestamps import epoch_unit_ns

_NUMBER = re.compile(r"\s*[+-]?\d+(\.\d+)?\s*")
# What historians and spreadsheets write beside ISO 8601; the day before the month where both could be meant.
_FORMS = tuple(
    f"{date} {time}"
    for date in (
        "%d.%m.%Y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y",
    )
    for time in ("%H:%M:%S", "%H:%M:%S.%f", "%I:%M:%S %p", "%H:%M")
)  # fmt: skip


@dataclass(frozen=True)
class Stamps:
    """How a column of stamps is read.

    Attributes:
        utc_ns: DuckDB expression; NULL where a stamp cannot be read.
        naive: whether the stamps have no zone.
    """

    utc_ns: str
    naive: bool


def stamps_of(kind: str, field: str, cells: Sequence[str]) -> Stamps | None:
    """How a column is read, from its type and some of its cells; None where it cannot be.

    Args:
        kind: DuckDB's type of the column.
        field: the column, quoted.
        cells: some stamps as text.
    """
    if kind.startswith(("TIMESTAMP", "DATE")):
        return Stamps(f"epoch_ns({field})", naive=not kind.endswith("TIME ZONE"))
    if kind != "VARCHAR" or share(cells, _is_number) >= MOST:
        numbers = [abs(float(cell)) for cell in cells if _is_number(cell)]
        unit = epoch_unit_ns(max(numbers, default=0.0))
        number = f"TRY_CAST({field} AS DECIMAL(38, 9))"
        return Stamps(f"round({number} * {unit})", naive=False) if unit is not None else None
    if share(cells, _is_iso) >= MOST:
        return Stamps(f"epoch_ns(TRY_CAST({field} AS TIMESTAMPTZ))", naive=share(cells, _has_zone) < MOST)
    form = next((form for form in _FORMS if share(cells, _reads(form)) >= MOST), None)
    return Stamps(f"epoch_ns(try_strptime(trim({field}), '{form}'))", naive=True) if form else None


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip().replace(" UTC", "Z"))
    except ValueError:
        return False
    return text.strip()[:4].isdigit()


def _has_zone(text: str) -> bool:
    return datetime.fromisoformat(text.strip().replace(" UTC", "Z")).tzinfo is not None if _is_iso(text) else False


def _reads(form: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            datetime.strptime(text.strip(), form)
        except ValueError:
            return False
        return True

    return fits
