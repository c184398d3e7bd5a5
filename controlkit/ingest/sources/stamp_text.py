"""Time stamps in words: ISO 8601 and what historians and spreadsheets write instead, a column at a time.

Known are `2024-05-31T10:00:00.25+02:00` (also with a blank, with slashes, without seconds, as `20240531T100000Z`),
`31.05.2024 10:00:00`, `31-May-24 10:00:00.25`, `31/05/2024 10:00` and `5/31/2024 10:00:00 AM`. Dots mean that the day
comes first; with slashes or dashes the whole column decides. The stamps of a column have few shapes: what is the same
but for the digits is taken apart at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from controlkit.ingest.timestamps import NAIVE, NS

if TYPE_CHECKING:
    import pyarrow as pa

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_LONGEST = 48
_TIME = (
    r"(?:(?:[T,]| +|, )(?P<H>00?):(?P<M>00)(?::(?P<S>00)(?:[.,](?P<f>0{1,9})0*)?)?(?: ?(?P<p>[AP])\.?M\.?)?"
    r"(?: ?(?:(?P<utc>Z|UTC|GMT)|(?P<sign>[+-])(?P<zh>00):?(?P<zm>00)?))?)?"
)
_DATES = (
    r"(?P<y>0000)[-/.](?P<m>00?)[-/.](?P<d>00?)",
    r"(?P<d>00?)\.(?P<m>00?)\.(?P<y>0000|00)",
    r"(?P<one>00?)[-/](?P<two>00?)[-/](?P<y>0000|00)",
    r"(?P<d>00?)[-/. ](?P<month>[A-Z]{3,9})[-/. ](?P<y>0000|00)",
)
_BASIC = (
    r"(?P<y>0000)(?P<m>00)(?P<d>00)T(?P<H>00)(?P<M>00)(?:(?P<S>00)(?:\.(?P<f>0{1,9}))?)?"
    r"(?:(?P<utc>Z)|(?P<sign>[+-])(?P<zh>00)(?P<zm>00)?)?"
)
_SHAPES = tuple(re.compile(shape) for shape in (*(date + _TIME for date in _DATES), _BASIC))
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_FULL = ("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE", "JULY", "AUGUST", "SEPTEMBER", "OCTOBER",
         "NOVEMBER", "DECEMBER")  # fmt: skip
_MONTH = {name: i + 1 for names in (_MONTHS, _FULL) for i, name in enumerate(names)}
_PIVOT = 69  # two digits of a year: 69 .. 99 are 19xx, as in POSIX
_FIRST_YEAR, _LAST_YEAR = 1678, 2261  # int64 nanoseconds reach no further
_DAY_S = 86_400


@dataclass(frozen=True)
class Stamps:
    """Time stamps of a column.

    Attributes:
        local_ns: (K,) what the clock showed, since 1970.
        offset_min: (K,) minutes ahead of UTC; `NAIVE` without a zone.
        readable: (K,) whether the cell is a time stamp.
    """

    local_ns: Int64
    offset_min: Int64
    readable: npt.NDArray[np.bool_]


def parsed(column: pa.Array, day_first: bool | None = None) -> Stamps:
    """The time stamps in text (K,).

    Args:
        column: strings; null and empty ones are not readable.
        day_first: whether 03/04 is the third of April; None: such stamps are not readable.
    """
    k = len(column)
    stamps = Stamps(np.zeros(k, dtype=np.int64), np.full(k, NAIVE, dtype=np.int64), np.zeros(k, dtype=np.bool_))
    for rows, digits, shape in _groups(column):
        _read(stamps, rows, digits, shape, day_first)
    return stamps


def order_seen(column: pa.Array) -> tuple[bool, bool, bool]:
    """Whether a column holds dates like 03/04/2024, any that shows the day to come first, and any the month."""
    found = day = month = False
    for _, digits, shape in _groups(column):
        if "one" in shape.re.groupindex:
            one, two = (_number(digits, shape, name) for name in ("one", "two"))
            found = True
            day, month = day or bool((one > 12).any()), month or bool((two > 12).any())
    return found, day, month


def _groups(column: pa.Array) -> Iterator[tuple[Int64, Bytes, re.Match[str]]]:
    """Rows (R,) of the same known shape, their text (R, L), and the shape: what stands where."""
    text = _matrix(column)
    shape = np.where((text >= ord("0")) & (text <= ord("9")), np.uint8(ord("0")), text)
    rows = np.arange(len(text))
    for _ in range(8):  # most columns have one shape
        if not len(rows):
            return
        same = (shape[rows] == shape[rows[0]]).all(axis=1)
        yield from _known(rows[same], text, shape[rows[0]])
        rows = rows[~same]
    if len(rows):
        width = shape.shape[1]
        packed = np.ascontiguousarray(shape[rows]).view(f"S{width}").ravel()
        _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        for i, part in enumerate(np.split(order, np.cumsum(np.bincount(inverse))[:-1])):
            yield from _known(rows[part], text, shape[rows[first[i]]])


def _known(rows: Int64, text: Bytes, shape: Bytes) -> Iterator[tuple[Int64, Bytes, re.Match[str]]]:
    written = shape.tobytes().decode("latin-1").rstrip()
    for pattern in _SHAPES:
        if match := pattern.fullmatch(written):
            yield rows, text[rows], match
            return


def _matrix(column: pa.Array) -> Bytes:
    """Text (K,) as bytes (K, L), in capitals, filled up with blanks; what is too long for a stamp is blank."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.fill_null(pc.utf8_trim_whitespace(column), "")
    text = pc.if_else(pc.less_equal(pc.binary_length(text), _LONGEST), text, "")
    length = pc.binary_length(text)
    width = max(1, pc.max(length).as_py() or 0)
    if pc.min(length).as_py() != width:
        text = pc.binary_join_element_wise(text, pc.binary_repeat(" ", pc.subtract(width, length)), "")
    text = pa.concat_arrays([pc.ascii_upper(text)])  # without an offset
    start, _ = np.frombuffer(text.buffers()[1], dtype=np.int32, count=2)
    return np.frombuffer(text.buffers()[2], dtype=np.uint8)[start : start + len(text) * width].reshape(-1, width)


def _read(stamps: Stamps, rows: Int64, text: Bytes, shape: re.Match[str], day_first: bool | None) -> None:
    """Reads rows (R,) of one shape into their places."""
    named = shape.re.groupindex
    if "one" in named:
        if day_first is None:
            return
        day, month = (_number(text, shape, name) for name in (("one", "two") if day_first else ("two", "one")))
    else:
        day = _number(text, shape, "d")
        if "month" in named:
            month = np.full(len(rows), _MONTH.get(shape["month"], 0), dtype=np.int64)
        else:
            month = _number(text, shape, "m")
    year = _number(text, shape, "y")
    if len(shape["y"]) == 2:
        year = np.where(year < _PIVOT, year + 2000, year + 1900)
    hour, minute, second = (_number(text, shape, name) for name in "HMS")
    readable = (hour < 24) & (minute < 60) & (second < 60)
    if named.get("p") and shape["p"]:
        readable &= (hour >= 1) & (hour <= 12)
        hour = hour % 12 + (12 if shape["p"] == "P" else 0)
    readable &= (year >= _FIRST_YEAR) & (year <= _LAST_YEAR) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(readable, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    readable &= day <= (months + 1).astype("datetime64[D]").astype(np.int64) - first
    local = (((first + day - 1) * _DAY_S) + hour * 3600 + minute * 60 + second) * NS + _fraction(text, shape)
    offset, possible = _offset(text, shape)
    stamps.local_ns[rows], stamps.readable[rows] = local, readable & possible
    stamps.offset_min[rows] = offset


def _offset(text: Bytes, shape: re.Match[str]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    possible = np.ones(len(text), dtype=np.bool_)
    if shape["utc"]:
        return np.zeros(len(text), dtype=np.int64), possible
    if not shape["sign"]:
        return np.full(len(text), NAIVE, dtype=np.int64), possible
    hours, minutes = _number(text, shape, "zh"), _number(text, shape, "zm")
    offset = hours * 60 + minutes
    return (-offset if shape["sign"] == "-" else offset), (hours < 24) & (minutes < 60)


def _fraction(text: Bytes, shape: re.Match[str]) -> Int64:
    scale = np.int64(10 ** (9 - len(shape["f"] or "")))
    return _number(text, shape, "f") * scale


def _number(text: Bytes, shape: re.Match[str], name: str) -> Int64:
    """The number (R,) that stands at a named place; 0 where the shape lacks it."""
    number = np.zeros(len(text), dtype=np.int64)
    if name in shape.re.groupindex and shape[name] is not None:
        for i in range(*shape.span(name)):
            number *= 10
            number += text[:, i] - np.uint8(ord("0"))
    return number
