"""Time stamps of one kind, a column at a time: timestamps and dates, numbers since 1970, clean ISO 8601."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from controlkit.ingest.sources.stamp_text import Stamps
from controlkit.ingest.sources.values import is_text
from controlkit.ingest.timestamps import NAIVE, NS

if TYPE_CHECKING:
    import pyarrow as pa

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NUMBER = r"^[+-]?[0-9]+([.][0-9]*)?$"
_LARGEST = 2**63 - 1
_FEW = 100


def is_date(kind: pa.DataType) -> bool:
    """Whether a column holds dates or timestamps."""
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def of_iso(column: pa.Array) -> Stamps | None:
    """Stamps that are all ISO 8601 and all with a zone or all without: the usual case, and ten times as fast."""
    import pyarrow as pa

    if column.null_count:
        return None
    for zone, offset in (("UTC", 0), (None, NAIVE)):
        try:
            column.slice(0, _FEW).cast(pa.timestamp("ns", zone))  # a cast that fails takes ten times as long
            time = column.cast(pa.timestamp("ns", zone))
        except pa.ArrowInvalid:
            continue
        ns = np.array(time.cast(pa.int64()).to_numpy(zero_copy_only=False))
        return Stamps(ns, np.broadcast_to(np.int64(offset), len(ns)), np.ones(len(ns), dtype=np.bool_))
    return None


def of_dates(column: pa.Array) -> Stamps:
    """Timestamps and dates of any resolution."""
    import pyarrow as pa

    naive = not pa.types.is_timestamp(column.type) or column.type.tz is None
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    unit = {"s": NS, "ms": 1_000_000, "us": 1_000, "ns": 1}[column.type.unit]
    number, ok = _integers(column.cast(pa.int64()))
    ok &= np.abs(number) < _LARGEST // unit
    return Stamps(np.where(ok, number, 0) * unit, np.full(len(number), NAIVE if naive else 0, dtype=np.int64), ok)


def numbers_in(column: pa.Array) -> tuple[npt.NDArray[np.float64], Bool]:
    """Numbers, or text that may be some, as floats, and which of them are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(column.type):
        column = pc.if_else(pc.match_substring_regex(pc.fill_null(column, ""), NUMBER), column, None)
    numbers = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    ok = np.isfinite(numbers)
    return np.where(ok, numbers, 0.0), ok


def of_counts(column: pa.Array, ok: Bool | None, unit_ns: int) -> Stamps:
    """Numbers since 1970, exact to the nanosecond; `ok` (K,) says which are some, None: all of these integers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if ok is None:
        whole, ok = _integers(column)
        rest = np.zeros(len(whole), dtype=np.int64)
    else:
        exact = pc.if_else(pa.array(ok), column, None)
        try:
            exact = exact.cast(pa.decimal128(28, 9))
        except pa.ArrowInvalid:  # more digits than a nanosecond has
            exact = exact.cast(pa.float64()).cast(pa.decimal128(28, 9), safe=False)
        floor = pc.floor(exact)
        whole, _ = _integers(floor.cast(pa.int64(), safe=False))
        rest, _ = _integers(pc.multiply(pc.subtract(exact, floor).cast(pa.decimal128(10, 9)), 10**9).cast(pa.int64()))
    ok = ok & (np.abs(whole) < _LARGEST // unit_ns)
    whole = np.where(ok, whole, 0)
    return Stamps(whole * unit_ns + (rest * unit_ns + NS // 2) // NS, np.zeros(len(whole), dtype=np.int64), ok)


def _integers(column: pa.Array) -> tuple[Int64, Bool]:
    import pyarrow.compute as pc

    ok = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    return np.array(pc.fill_null(column, 0).to_numpy(zero_copy_only=False), dtype=np.int64), ok
