"""Cells of a log as numbers: what they hold, or what the historian writes there instead of a value.

A number has one decimal mark and no other. `1,234.5` is not read as anything, unless the plant file names the decimal
mark: then a number that is grouped in threes by the other one, and leaves no doubt, counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from controlkit.ingest.stage import Code

if TYPE_CHECKING:
    import pyarrow as pa

# What stands in a cell where there is no value, in small letters: no error, but a sample that is not good.
NO_VALUE = frozenset(
    {
        "bad", "bad input", "bad output", "bad quality", "no data", "nodata", "no value", "#n/a", "n/a", "na", "#na",
        "#value!", "#ref!", "#name?", "#div/0!", "#num!", "#null!", "i/o timeout", "comm fail", "pt created",
        "shutdown", "nan", "-nan", "null", "none", "(null)", "-", "--", "---", "?", "????", "not connect",
        "scan off", "scan timeout", "calc failed", "under range", "over range", "configure", "intf shut",
        "out of service", "no good data", "arc off-line", "not available", "invalid", "stale", "error",
    }
)  # fmt: skip
_COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")
# A decimal point, or commas that group thousands.
_POINT_NUMBER = re.compile(r"\s*[+-]?(\d*\.\d+([eE][+-]?\d+)?|\d+(,\d{3})+\.\d*|\d+(,\d{3}){2,})\s*")
# Where a comma cannot be the delimiter.
_NOT_COMMA = (";", "\t", "|")


@dataclass(frozen=True)
class Values:
    """The cells of a column.

    Attributes:
        value: (K,) NaN where there is no number.
        code: (K,) `Code`: GOOD, EMPTY, or BAD for a word that stands for no value.
        unreadable: (K,) neither a number nor such a word; None where there is none of them.
    """

    value: npt.NDArray[np.float64]
    code: npt.NDArray[np.uint8]
    unreadable: npt.NDArray[np.bool_] | None = None


def decimal_mark(cells: Iterable[str], delimiter: str) -> str:
    """The decimal mark of a file's cells: a comma where it could be one, some number has one, and none a point."""
    if delimiter not in _NOT_COMMA:
        return "."
    comma = False
    for cell in cells:
        if _POINT_NUMBER.fullmatch(cell):
            return "."
        comma = comma or _COMMA_NUMBER.fullmatch(cell) is not None
    return "," if comma else "."


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers (or bools)."""
    import pyarrow as pa

    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text."""
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def plain(column: pa.Array) -> pa.Array:
    """A column without a dictionary, its text as plain strings."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type) and not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    return column


def values(column: pa.Array, decimal: str = ".", *, grouped: bool = False, states: frozenset[str] = NO_VALUE) -> Values:
    """The numbers in a column (K,) of numbers, bools or text.

    Args:
        column: its cells.
        decimal: decimal mark of text.
        grouped: whether numbers that are grouped in threes by the other mark count; see the top of this file.
        states: words in small letters that stand for no value.
    """
    import pyarrow as pa

    column = plain(column)
    if not is_text(column.type):
        return _of_numbers(column)
    if decimal == ".":
        try:
            value = column.cast(pa.float64())
        except pa.ArrowInvalid:
            pass
        else:
            return _of_numbers(value, text=True)
    return _of_text(column, decimal, grouped, states)


def _of_numbers(column: pa.Array, text: bool = False) -> Values:
    import pyarrow as pa

    value = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    code = np.zeros(len(value), dtype=np.uint8)
    if column.null_count:
        code[column.is_null().to_numpy(zero_copy_only=False)] = Code.EMPTY
    if text:  # `NaN` as text is a word for no value; as a number, in a good sample, it contradicts itself
        code[np.isnan(value) & (code == Code.GOOD)] = Code.BAD
    return Values(value, code)


def _of_text(column: pa.Array, decimal: str, grouped: bool, states: frozenset[str]) -> Values:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.fill_null(pc.utf8_trim_whitespace(column), "")
    mark, other = ("[.]", ",") if decimal == "." else (",", "[.]")
    number = pc.match_substring_regex(text, rf"^[+-]?([0-9]+({mark}[0-9]*)?|{mark}[0-9]+)([eE][+-]?[0-9]+)?$")
    if grouped:
        groups = rf"^[+-]?[0-9]{{1,3}}(({other}[0-9]{{3}})+{mark}[0-9]+|({other}[0-9]{{3}}){{2,}})$"
        is_grouped = pc.match_substring_regex(text, groups)
        text = pc.if_else(is_grouped, pc.replace_substring_regex(text, other, ""), text)
        number = pc.or_(number, is_grouped)
    digits = pc.if_else(number, text, pa.scalar(None, pa.string()))
    if decimal != ".":
        digits = pc.replace_substring(digits, decimal, ".")
    value = _float64(digits.cast(pa.float64()))
    code = np.zeros(len(value), dtype=np.uint8)
    rest = np.flatnonzero(~_bools(number))
    unreadable = None
    if rest.size:
        words = pc.utf8_lower(text.take(pa.array(rest)))
        truth = pc.index_in(words, pa.array(["false", "true"]))
        known = truth.is_valid().to_numpy(zero_copy_only=False)
        value[rest[known]] = _float64(truth.cast(pa.float64()))[known]
        empty = _bools(pc.equal(words, ""))
        none = _bools(pc.is_in(words, pa.array(sorted(states), pa.string())))
        code[rest[empty]] = Code.EMPTY
        code[rest[none]] = Code.BAD
        strange = rest[~(empty | none | known)]
        if strange.size:
            unreadable = np.zeros(len(value), dtype=np.bool_)
            unreadable[strange] = True
    return Values(value, code, unreadable)


def _float64(column: pa.Array) -> npt.NDArray[np.float64]:
    return np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _bools(column: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.bool_)
