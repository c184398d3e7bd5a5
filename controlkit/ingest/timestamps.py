"""Time stamps of a log as int64 nanoseconds since 1970-01-01 UTC.

What a clock on the wall shows is read in the plant's time zone; a time that a change of the clock skips or repeats
there has no meaning of its own: the plant file says what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

NS = 1_000_000_000
NAIVE = -32768  # stands for "no zone" among offsets in minutes
FORMS = "Write ISO 8601 such as 2024-05-01T10:00:00Z, or seconds, ms, us or ns since 1970."

_LAST_SECOND = 9.2e9  # in the year 2261; int64 nanoseconds end in 2262
_DAY = 86_400


def epoch_unit_ns(largest: float) -> int | None:
    """Nanoseconds per unit of numeric stamps of which `largest` is the largest in size; None where none fits."""
    for unit, factor in ((NS, 1.0), (1_000_000, 1e3), (1_000, 1e6), (1, 1e9)):
        if largest <= _LAST_SECOND * factor:
            return unit
    return None


@dataclass(frozen=True)
class ClockTimes:
    """What a clock on the wall showed, as UTC.

    Attributes:
        utc_ns: (K,) the only meaning; of a time that the clock showed twice the earlier one, and of a time that it
            skipped the one it would have had if the clock had not been changed.
        skipped, twice: (K,) whether it is one of those.
        change: (K,) which change of the clock, a number; only for those.
        later_ns: (K,) what lies between the earlier and the later meaning; 0 where there is but one.
    """

    utc_ns: Int64
    skipped: npt.NDArray[np.bool_]
    twice: npt.NDArray[np.bool_]
    change: Int64
    later_ns: Int64


def clock_times(local_ns: Int64, zone: str) -> ClockTimes:
    """Times (K,) on the clocks of a zone (IANA name)."""
    no = np.zeros(len(local_ns), dtype=np.bool_)
    zero = np.zeros(len(local_ns), dtype=np.int64)
    if zone == "UTC" or not len(local_ns):
        return ClockTimes(local_ns, no, no, zero, zero)
    first, last = (datetime.fromtimestamp(int(ns) // NS, UTC).year for ns in (local_ns.min(), local_ns.max()))
    changes, offsets = _changes_of_years(zone, first, last)
    before, after = offsets[:-1], offsets[1:]
    # On the local clock each change covers [low, high): skipped where the clock goes forward, shown twice where back.
    low, high = (changes + np.minimum(before, after)) * NS, (changes + np.maximum(before, after)) * NS
    passed = np.searchsorted(high, local_ns, side="right")
    inside = np.searchsorted(low, local_ns, side="right") > passed
    utc = local_ns - offsets[passed] * NS
    if not inside.any():
        return ClockTimes(utc, no, no, zero, zero)
    ahead = np.where(inside, np.append(after - before, 0)[passed], 0)  # by how much the clock is put forward
    return ClockTimes(
        utc, ahead > 0, ahead < 0, np.where(inside, changes[passed * inside], 0), np.maximum(-ahead, 0) * NS
    )


def to_utc(local_ns: Int64, offset_min: Int64, zone: str) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """UTC stamps (K,), and which of them (K,) have no meaning because the clock was changed then.

    Args:
        local_ns: (K,) what the clock showed.
        offset_min: (K,) minutes ahead of UTC, `NAIVE` where the stamp has no zone.
        zone: IANA name of the zone for those.
    """
    naive = offset_min == NAIVE
    utc = local_ns - np.where(naive, 0, offset_min).astype(np.int64) * 60 * NS
    wrong = np.zeros(len(local_ns), dtype=np.bool_)
    if zone != "UTC" and naive.any():
        times = clock_times(local_ns[naive], zone)
        utc[naive], wrong[naive] = times.utc_ns, times.skipped | times.twice
    return utc, wrong


def iso(time_ns: int) -> str:
    """A UTC stamp for messages and reports: `2024-05-01T10:00:00.250Z`, with as many digits as it needs."""
    seconds, rest = divmod(int(time_ns), NS)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}Z"


@lru_cache(maxsize=64)
def _changes_of_years(zone: str, first: int, last: int) -> tuple[Int64, Int64]:
    start, end = datetime(first, 1, 1, tzinfo=UTC), datetime(last, 12, 31, tzinfo=UTC)
    return _clock_changes(int(start.timestamp()), int(end.timestamp()) + _DAY, ZoneInfo(zone))


def _clock_changes(first_s: int, last_s: int, zone: ZoneInfo) -> tuple[Int64, Int64]:
    """UTC seconds (C,) at which the offset of a zone changes around a span, and the offsets (C + 1,) between them."""

    def offset(second: int) -> int:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
        ahead = moment.astimezone(zone).utcoffset()
        return round(ahead.total_seconds()) if ahead is not None else 0

    start = first_s - 2 * _DAY
    changes, offsets = [], [offset(start)]
    for day in range(start, last_s + 2 * _DAY, _DAY):
        old, new = offsets[-1], offset(day + _DAY)
        if new == old:
            continue
        low, high = day, day + _DAY
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == old else (low, middle)
        changes.append(high)
        offsets.append(new)
    return np.array(changes, dtype=np.int64), np.array(offsets, dtype=np.int64)
