"""Time stamps of an unknown log: the DuckDB expression that reads them, found out from some of them.

A stamp without a zone counts as UTC here, as the session's zone is: for intervals and delays it makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlkit.ingest.draft.header import MOST, share
from controlkit.ingest.timestamps import epoch_unit_ns

_NUMBER = re.compile(r"\s*[+-]?\d+(\.\d+)?\s*")
# 03/04/2024, which may be in March or in April.
TWO_NUMBERS = r"^\s*(\d{1,2})[/-](\d{1,2})[/-]\d{2,4}"
_EITHER = re.compile(TWO_NUMBERS + r"(\D|$)")
# What historians and spreadsheets write beside ISO 8601.
_DATES = ("%d.%m.%Y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%Y/%m/%d")
_DAY_FIRST = ("%d/%m/%Y", "%d/%m/%y", "%d-%m-%Y", "%d-%m-%y")
_MONTH_FIRST = ("%m/%d/%Y", "%m/%d/%y", "%m-%d-%Y", "%m-%d-%y")
_TIMES = ("%H:%M:%S", "%H:%M:%S.%f", "%I:%M:%S %p", "%H:%M", "%I:%M %p")


@dataclass(frozen=True)
class Stamps:
    """How a column of stamps is read.

    Attributes:
        utc_ns: DuckDB expression; NULL where a stamp cannot be read.
        naive: whether the stamps have no zone.
    """

    utc_ns: str
    naive: bool


def stamps_of(kind: str, field: str, cells: Sequence[str], day_first: bool = True) -> Stamps | None:
    """How a column is read, from its type and some of its cells; None where it cannot be.

    Args:
        kind: DuckDB's type of the column.
        field: the column, quoted.
        cells: some stamps as text.
        day_first: whether 03/04/2024 is the third of April.
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
    form = _form(cells, day_first)
    return Stamps(f"epoch_ns(try_strptime(trim({field}), '{form}'))", naive=True) if form else None


def has_either_first(cells: Sequence[str]) -> bool:
    """Whether dates are written in a way that leaves open whether the day or the month comes first."""
    return share(cells, lambda text: _EITHER.match(text) is not None) >= MOST


def order_of(ones: Iterable[int], twos: Iterable[int]) -> tuple[bool, bool]:
    """Whether the first numbers of dates show the day to come first, and the second ones the month."""
    return any(one > 12 for one in ones), any(two > 12 for two in twos)


def numbers_of(cells: Sequence[str]) -> list[tuple[int, int]]:
    """The first two numbers of dates."""
    return [(int(found[1]), int(found[2])) for cell in cells if (found := _EITHER.match(cell))]


def shorter_with_day_first(cells: Sequence[str]) -> bool:
    """Whether the log is no longer if the day comes first: rows of one file follow each other closely."""

    def span(day_first: bool) -> timedelta:
        form = _form(cells, day_first)
        if form is None:
            return timedelta.max
        stamps = [datetime.strptime(cell.strip(), form) for cell in cells if _reads(form)(cell)]
        return max(stamps) - min(stamps)

    return span(True) <= span(False)


def _form(cells: Sequence[str], day_first: bool) -> str | None:
    dates = (*_DATES, *(_DAY_FIRST if day_first else _MONTH_FIRST))
    forms = (f"{date} {time}" for date in dates for time in _TIMES)
    return next((form for form in forms if share(cells, _reads(form)) >= MOST), None)


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
