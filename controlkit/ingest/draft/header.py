"""What the columns of an unknown log mean: from their names, and where these do not tell, from what stands in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controlkit.errors import DataError
from controlkit.ingest import columns as known
from controlkit.ingest.sources.codes import is_word

# Share of a column's cells that must look alike.
MOST = 0.9
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}[./-](\d{1,2}|[A-Za-z]{3})[./-]\d{2,4}( .*)?")
# Numeric stamps: seconds, ms, us or ns of the years 2000 to 2060.
_EPOCH = tuple((946_684_800 * 10**k, 2_840_140_800 * 10**k) for k in (0, 3, 6, 9))
_BRACKETED = re.compile(r"(?P<name>.*?)\s*(?P<open>[\[(])(?P<unit>[^\[\]()]*)[\])]")


@dataclass(frozen=True)
class Meaning:
    """Which column of a log holds what; names as in the header.

    Attributes:
        form: `long` (one sample a row) or `wide` (one column a tag).
        timestamp, quality, tag, value, unit: names of columns; tag and value of a long log only.
        tags: columns of a wide log.
        reasons: how columns were told whose name did not tell: field of `log.columns` -> why.
    """

    form: Literal["long", "wide"]
    timestamp: str
    quality: str | None = None
    tag: str | None = None
    value: str | None = None
    unit: str | None = None
    tags: tuple[str, ...] = ()
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def unusual(self) -> dict[str, str]:
        """The columns that only the plant file can name: field of `log.columns` -> column."""
        usual = {"timestamp": known.TIMESTAMP, "tag": known.TAG, "value": known.VALUE}
        found = {"timestamp": self.timestamp, "tag": self.tag, "value": self.value}
        return {field: name for field, name in found.items() if name and name.strip().lower() not in usual[field]}


def meaning_of(names: Sequence[str], cells: Mapping[str, Sequence[str]], where: str) -> Meaning:
    """The meaning of a log's columns.

    Args:
        names: the header.
        cells: some cells of each column as text; empty cells left out.
        where: the log, for messages.

    Raises:
        DataError: no column holds time stamps, or none holds numbers.
    """
    lower = {name.strip().lower(): name for name in reversed(names)}
    timestamp = next((lower[word] for word in known.TIMESTAMP if word in lower), None)
    reasons: list[tuple[str, str]] = []
    if timestamp is None:
        timestamp = next((name for name in names if share(cells[name], is_stamp) >= MOST), None)
        if timestamp is None:
            raise DataError(
                f"no column holds time stamps; found: {', '.join(names[:8])}",
                where=where,
                cure="Export with a time stamp such as 2024-05-01T10:00:00Z in each row, and a header line.",
            )
        reasons.append(("timestamp", f"the cells of '{timestamp}' are dates"))
    quality = next((lower[word] for word in known.QUALITY if word in lower), None)
    rest = [name for name in names if name not in (timestamp, quality)]
    tag = next((lower[word] for word in known.TAG if word in lower and lower[word] in rest), None)
    value = next((lower[word] for word in known.VALUE if word in lower and lower[word] in rest), None)
    if quality is None:
        quality = next((name for name in rest if share(cells[name], is_word) >= MOST), None)
        rest = [name for name in rest if name != quality]
    if tag is None or value is None:
        tag, value = _long_columns(rest, cells, tag, value, reasons)
    if tag is not None and value is not None:
        unit = next((lower[word] for word in known.UNIT if word in lower and lower[word] in rest), None)
        return Meaning("long", timestamp, quality, tag, value, unit, reasons=tuple(reasons))
    if not any(share(cells[name], is_number) >= 0.5 for name in rest):
        raise DataError("no column holds numbers", where=where, cure="Export the tags' values, not a summary of them.")
    return Meaning("wide", timestamp, quality, tags=tuple(rest), reasons=tuple(reasons))


def split_unit(name: str) -> tuple[str, str | None, bool]:
    """A wide header's name, the unit in brackets behind it if there is one, and whether ingest takes it apart too."""
    found = _BRACKETED.fullmatch(name)
    if found is None or not found["name"]:
        return name, None, False
    return found["name"], found["unit"], found["open"] == "["


def is_number(text: str) -> bool:
    """Whether a cell is a number, with a decimal point or comma."""
    return _NUMBER.fullmatch(text.strip()) is not None


def is_stamp(text: str) -> bool:
    """Whether a cell is a date, or a number that counts from 1970 to this century."""
    text = text.strip()
    if _DATE.fullmatch(text):
        return True
    return text.replace(".", "", 1).isdigit() and any(low <= float(text) <= high for low, high in _EPOCH)


def share(cells: Sequence[str], looks: object) -> float:
    """Share of cells of which `looks` is true; 0 of none."""
    assert callable(looks)
    return sum(bool(looks(cell)) for cell in cells) / len(cells) if cells else 0.0


def _long_columns(
    rest: Sequence[str],
    cells: Mapping[str, Sequence[str]],
    tag: str | None,
    value: str | None,
    reasons: list[tuple[str, str]],
) -> tuple[str | None, str | None]:
    """Columns of tag and value of a log whose header does not say that it is long; None where it is not."""
    texts = [name for name in rest if cells[name] and share(cells[name], is_number) < 1 - MOST]
    numbers = [name for name in rest if share(cells[name], is_number) >= 0.5]
    if tag is None:
        # Names that come again and again: of the text columns the one with most of them.
        repeated = [name for name in texts if 1 < len(set(cells[name])) <= len(cells[name]) / 2]
        tag = max(repeated, key=lambda name: len(set(cells[name])), default=None)
        if tag is None or len(numbers) != 1:
            return None, None
        reasons.append(("tag", f"'{tag}' holds names that come again and again"))
    if value is None:
        if len(numbers) != 1:
            return None, None
        value = numbers[0]
        reasons.append(("value", f"'{value}' is the only column of numbers"))
    return tag, value
