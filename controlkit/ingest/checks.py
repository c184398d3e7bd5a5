"""The samples of one tag from all its sources: checked, in order of time, with an account of every one of them.

Samples that come in = used + bad quality + empty + out of range + merged.

What stops an ingest, because using or dropping it silently would be a guess: text, NaN or an infinity in a sample whose
quality is good; stamps that fall inside one file; two good samples of one stamp with different values; a command
outside its limits; a state or action that never changes, from which nothing can be learned; a tag without any good
sample.

What is counted and reported instead, because every plant's log has it: samples that the historian itself marks as not
good, empty cells, and single measurements outside the tag's range. None of them ever becomes a value; the last good one
grows old instead, and the log is cut where it is too old. But when more than `max_bad_share` of a tag's samples, and
more than a handful, lie outside its range, then the plant file and the log mean different things (a wrong range,
another unit), and that stops the ingest too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from controlkit.align import Samples
from controlkit.errors import DataError
from controlkit.ingest.reader import RawSamples, Source
from controlkit.ingest.timestamps import iso
from controlkit.spec import FRAME_ROLES, PlantSpec

Bool = npt.NDArray[np.bool_]
Place = Callable[[int], str]

# Logs write 7 to 9 significant digits; a command this share of its span outside the limits is rounded, and clamped.
ROUNDING = 1e-6
# So few samples out of range are spikes of a sensor in any log, however short.
FEW = 10


@dataclass(frozen=True)
class Account:
    """What became of the samples of a tag; `samples` is the sum of the others."""

    samples: int
    used: int
    bad_quality: int
    empty: int
    out_of_range: int
    merged: int


@dataclass(frozen=True)
class Tagged:
    """The samples of one tag, ready to be aligned, and their account."""

    samples: Samples
    account: Account


def collect(spec: PlantSpec, tag: str, sources: Sequence[Source], max_bad_share: float) -> Tagged:
    """The samples of a tag from all sources that hold it.

    Args:
        spec: the plant.
        tag: its name in the plant file; not one with role `ignore`.
        sources: in order of time.
        max_bad_share: the largest share of samples outside the tag's range.

    Raises:
        DataError: see the top of this file; names file, line and cure.
    """
    parts = [source.samples(tag) for source in sources]
    for source, part in zip(sources, parts, strict=True):
        _check_cells(spec, tag, source, part)
        _check_order(tag, source, part)
    origin = np.repeat(np.arange(len(parts)), [len(part.row) for part in parts])
    row, time_ns, value = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "time_ns", "value")
    )
    good, empty = (np.concatenate([getattr(part, name) for part in parts]) for name in ("good", "empty"))

    def place(i: int) -> str:
        return sources[int(origin[i])].place(int(row[i]))

    total, kept = len(row), np.flatnonzero(~empty)
    # In order of time; of equal stamps the good samples first, then in the order of the sources.
    kept = kept[np.lexsort((~good[kept], time_ns[kept]))]
    kept = kept[~_repeated(tag, time_ns, value, good, kept, place)]
    time_ns, value, good = time_ns[kept], value[kept], good[kept]
    outside = _outside(spec, tag, value, good, kept, place)
    account = Account(
        samples=total,
        used=int((good & ~outside).sum()),
        bad_quality=int((~good).sum()),
        empty=int(empty.sum()),
        out_of_range=int(outside.sum()),
        merged=total - int(empty.sum()) - len(kept),
    )
    measured = account.used + account.out_of_range
    if account.out_of_range > max(FEW, max_bad_share * measured) and spec.tags[tag].role in (*FRAME_ROLES, "mode"):
        low, high = spec.tags[tag].range
        raise DataError(
            f"{account.out_of_range} of {measured} values of tag '{tag}' lie outside its range [{low:g}, {high:g}] "
            f"{spec.tags[tag].unit}, the first is {value[outside][0]:g}; the values reach from {value[good].min():g} "
            f"to {value[good].max():g}",
            where=place(int(kept[outside][0])),
            cure="Mend the range or the unit in the plant file, or mark these samples bad in a quality column.",
        )
    where = ", ".join(str(source.path) for source in sources)
    _check_usable(spec, tag, where, value[good & ~outside])
    return Tagged(Samples(time_ns, value, good & ~outside), account)


def _check_cells(spec: PlantSpec, tag: str, source: Source, part: RawSamples) -> None:
    wrong = part.good & ~part.empty & (part.text | ~np.isfinite(part.value))
    if not wrong.any():
        return
    i = int(np.flatnonzero(wrong)[0])
    row = int(part.row[i])
    if part.text[i]:
        text, cure = source.text_of(tag, row)
        if spec.tags[tag].role == "mode":
            cure = "Write modes as numbers, as in 'accept' of the plant file."
        what = f"'{text}' is no number, in the values of tag '{tag}'"
    else:
        what = f"{part.value[i]} is no measurement, in the values of tag '{tag}'"
        cure = "Leave the cell empty (null in Parquet), or mark the sample bad in a quality column."
    raise DataError(what, where=source.place(row), cure=cure)


def _check_order(tag: str, source: Source, part: RawSamples) -> None:
    falls = np.flatnonzero(part.time_ns[1:] < part.time_ns[:-1])
    if falls.size:
        i = int(falls[0]) + 1
        raise DataError(
            f"time stamps out of order: tag '{tag}' goes back from {iso(int(part.time_ns[i - 1]))} to "
            f"{iso(int(part.time_ns[i]))}",
            where=source.place(int(part.row[i])),
            cure="Sort the log by time stamp, or check its clock and time zone.",
        )


def _repeated(
    tag: str,
    time_ns: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    good: Bool,
    order: npt.NDArray[np.int64],
    place: Place,
) -> Bool:
    """(K,) which samples of `order` say again what the first one of their stamp has said."""
    time_ns, value, good = time_ns[order], value[order], good[order]
    again = np.append(False, time_ns[1:] == time_ns[:-1])[: len(order)]
    if not again.any():
        return again
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
    against = again & good & (value != value[first])
    if against.any():
        i = int(np.flatnonzero(against)[0])
        raise DataError(
            f"tag '{tag}' has two values at {iso(time_ns[i])}: {value[first[i]]:g} and {value[i]:g}",
            where=f"{place(int(order[first[i]]))} and {place(int(order[i]))}",
            cure="Keep one of them, or mark the other bad in a quality column.",
        )
    return again


def _outside(
    spec: PlantSpec,
    tag: str,
    value: npt.NDArray[np.float64],
    good: Bool,
    order: npt.NDArray[np.int64],
    place: Place,
) -> Bool:
    """(K,) good values outside the range; commands must lie inside their limits and are clamped within a rounding."""
    if spec.tags[tag].role != "action":
        low, high = spec.tags[tag].range
        return good & ~((value >= low) & (value <= high))
    low, high = spec.limits(tag)
    slack = ROUNDING * (high - low)
    wrong = good & ~((value >= low - slack) & (value <= high + slack))
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"command {value[i]:g} of action '{tag}' lies outside its limits [{low:g}, {high:g}] {spec.tags[tag].unit} "
            f"({int(wrong.sum())} such commands in all)",
            where=place(int(order[i])),
            cure="Mend 'limits' in the plant file, or remove that stretch of the log.",
        )
    value[good] = np.clip(value[good], low, high)
    return np.zeros(len(value), dtype=np.bool_)


def _check_usable(spec: PlantSpec, tag: str, where: str, value: npt.NDArray[np.float64]) -> None:
    role = spec.tags[tag].role
    if not value.size and role != "feedback":
        _refuse(f"tag '{tag}' has no good sample", where, "Check its values, quality codes and range.")
    if role in ("state", "action") and (value == value[0]).all():
        _refuse(
            f"{role} '{tag}' never changes: it is {value[0]:g} in all {len(value)} good samples",
            where,
            "Bring a log in which it moves; a measured tag that stands still by nature has role 'static'.",
        )


def _refuse(what: str, where: str, cure: str) -> NoReturn:
    raise DataError(what, where=where, cure=cure)
