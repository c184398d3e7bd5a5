"""StatusBoard: where the control loop leaves its newest record, and the trend of the last hour, for whoever looks."""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from deploy.runtime.metrics import Histogram
from deploy.runtime.snapshot import MODES, Mode, Snapshot

MAX_POINTS = 10_000
MAX_NOTICES = 200
STALE_PERIODS, STALE_S = 3.0, 5.0


@dataclass(frozen=True)
class Reading:
    """What the board shows at one moment.

    Attributes:
        run: a name of this board; another one means that the runtime was started again.
        snapshot: the newest record; `None` before the first cycle.
        age_s: time since it was published, by the monotonic clock; 0 before the first cycle.
        compute, cycle: latencies of every cycle since the start.
    """

    run: str
    snapshot: Snapshot | None
    age_s: float
    compute: Histogram
    cycle: Histogram

    @property
    def stale(self) -> bool:
        """Whether there is no record, or it is older than three periods (and than 5 s)."""
        return self.snapshot is None or not self.age_s <= stale_after_s(self.snapshot.period_s)


def stale_after_s(period_s: float) -> float:
    """Age from which a record is no longer what the plant does: three periods, at least 5 s."""
    return max(STALE_PERIODS * period_s, STALE_S)


class StatusBoard:
    """The newest record and the trend of the last hour; may be used by several threads.

    A record goes into the bucket of the moment at which it is published, by a clock that nobody can set: a wall clock
    that jumps neither loses a record nor counts one twice. The wall clock is only noted beside each bucket, for people
    to read. What is kept is bounded by the number of buckets and of tags, however fast the cycle. Where the tags or
    commands change (another bundle), the trend starts anew.

    Args:
        trend_s: how far back the trend goes, in seconds.
        points: how many buckets that is.
        clock: seconds since some moment; never jumps.

    Raises:
        ControlkitError: no time to look back on, or no or too many buckets.
    """

    def __init__(self, trend_s: float = 3600.0, points: int = 720, clock: Callable[[], float] = time.monotonic) -> None:
        if not (0.0 < trend_s < math.inf and 1 <= points <= MAX_POINTS):
            raise ControlkitError(
                f"{points} points over {trend_s} s are no trend",
                where="status page",
                cure=f"Give 1 to {MAX_POINTS} points and a positive time.",
            )
        self.trend_s, self.points = float(trend_s), int(points)
        self._width = self.trend_s / self.points
        self._clock, self._began = clock, clock()
        self._lock = threading.Lock()
        self._run = secrets.token_hex(8)
        self._snapshot: Snapshot | None = None
        self._published = self._began
        self._compute, self._cycle = Histogram(), Histogram()
        self._series: tuple[tuple[str, str], ...] = ()
        self._open: _Bucket | None = None
        self._closed: deque[tuple[int, str]] = deque(maxlen=self.points)

    def publish(self, snapshot: Snapshot) -> None:
        """Shows a record, and adds it to the trend. Costs tens of microseconds; readers hold it up for a few more."""
        series, values = _trended(snapshot)
        with self._lock:
            now = self._clock()
            index = int((now - self._began) / self._width)
            if series != self._series:
                self._series, self._open = series, None
                self._closed.clear()
            bucket = self._open
            if bucket is None or index > bucket.index:
                if bucket is not None:
                    self._closed.append((bucket.index, bucket.to_json()))
                bucket = self._open = _Bucket(index, len(series))
            bucket.add(snapshot, values)
            self._snapshot, self._published = snapshot, now
            self._compute = self._compute.with_value(snapshot.compute_ms / 1e3)
            self._cycle = self._cycle.with_value(snapshot.cycle_ms / 1e3)

    def latest(self) -> Snapshot | None:
        """The newest record; `None` before the first cycle."""
        return self._snapshot

    def read(self) -> Reading:
        """The newest record, its age, and the latencies, all of one moment."""
        with self._lock:
            age = 0.0 if self._snapshot is None else max(0.0, self._clock() - self._published)
            return Reading(self._run, self._snapshot, age, self._compute, self._cycle)

    def trend(self, since: int = 0) -> dict[str, Any]:
        """The trend as plain numbers, oldest bucket first; a bucket without a record is missing.

        Args:
            since: leaves out buckets before this one.

        Returns:
            `run` as in `Reading`; `trend_s` and `width_s`; `now`, the present in buckets since the start; `series`, a
            list of [kind, name]; and `rows`, one a bucket: [number, wall clock of its last record in ms, lowest mode
            in it, records in it, then minimum, mean and maximum of every series]. Values have 7 significant digits; a
            series that had no finite value in a bucket has `None`.
        """
        plain: dict[str, Any] = json.loads(self.trend_json(since))
        return plain

    def trend_json(self, since: int = 0) -> str:
        """`trend` as JSON. Finished buckets are kept as text, so that a reader hardly holds up the control loop."""
        with self._lock:
            now = (self._clock() - self._began) / self._width
            rows = list(self._closed)
            unfinished = None if self._open is None else self._open.copy()
            series, run = self._series, self._run
        if unfinished is not None:
            rows.append((unfinished.index, unfinished.to_json()))
        oldest = max(since, math.floor(now) - self.points + 1)
        head = {"run": run, "trend_s": self.trend_s, "width_s": self._width, "now": now, "series": series}
        body = ",".join(text for index, text in rows if index >= oldest)
        return f'{json.dumps(head, allow_nan=False)[:-1]}, "rows": [{body}]}}'


def status_record(reading: Reading) -> dict[str, Any]:
    """What the page reads: only strings, finite numbers, booleans and `None`; every time in milliseconds since 1970."""
    snapshot = reading.snapshot
    if snapshot is not None:
        # What holds now comes first, and is never cut off.
        notices = sorted(snapshot.notices, key=lambda notice: (not notice.active, -notice.time_ns))
        keep = max(MAX_NOTICES, sum(notice.active for notice in notices))
        snapshot = replace(snapshot, notices=tuple(notices[:keep]))
    return {
        "run": reading.run,
        "age_s": _finite(reading.age_s),
        "stale_after_s": None if snapshot is None else _finite(stale_after_s(snapshot.period_s)),
        "snapshot": None if snapshot is None else _plain(snapshot),
    }


def _plain(record: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.name.endswith("_ns"):
            out[item.name.removesuffix("_ns") + "_ms"] = int(value) // 1_000_000
        elif isinstance(value, Mapping):
            out[item.name] = {str(name): _scalar(entry) for name, entry in value.items()}
        elif isinstance(value, tuple):
            out[item.name] = [_plain(entry) for entry in value]
        else:
            out[item.name] = _scalar(value)
    return out


def _scalar(value: object) -> object:
    if value is None or isinstance(value, bool | str | int):
        return value
    return _finite(value) if isinstance(value, float | np.floating) else str(value)


def _finite(value: float | np.floating[Any]) -> float | None:
    return float(value) if math.isfinite(value) else None


def _trended(snapshot: Snapshot) -> tuple[tuple[tuple[str, str], ...], npt.NDArray[np.float64]]:
    """Kind and name of every series, and its values; NaN where there is none."""
    pairs: list[tuple[tuple[str, str], float | None]] = []
    pairs += [(("value", tag.name), tag.value) for tag in snapshot.tags]
    for command in snapshot.commands:
        pairs.append((("in_force", command.name), command.in_force))
        pairs.append((("action", command.name), command.action))
    for name in ("trust", "score_observed", "score_predicted", "shortfall", "ewma", "cusum"):
        pairs.append(((name, ""), getattr(snapshot, name)))
    values = np.array([math.nan if value is None else value for _, value in pairs], dtype=np.float64)
    return tuple(key for key, _ in pairs), values


class _Bucket:
    """Minimum, mean and maximum of S series over the records of one stretch of time."""

    def __init__(self, index: int, size: int) -> None:
        self.index = index
        self._records, self._time_ms = 0, 0
        self._mode: Mode = MODES[-1]
        self._low = np.full(size, np.inf)  # (S,)
        self._high = np.full(size, -np.inf)  # (S,)
        self._mean = np.zeros(size)  # (S,)
        self._seen = np.zeros(size)  # (S,)

    def add(self, snapshot: Snapshot, values: npt.NDArray[np.float64]) -> None:
        """One more record; what is not finite does not count."""
        self._records += 1
        self._time_ms = snapshot.time_ns // 1_000_000
        self._mode = min(self._mode, snapshot.mode, key=MODES.index)
        fine = np.isfinite(values)
        self._seen += fine
        # Halves: the difference of two numbers near the end of double precision would overflow.
        step = (np.where(fine, values, self._mean) / 2 - self._mean / 2) / np.maximum(self._seen, 1.0)
        self._mean += step
        self._mean += step
        self._low = np.where(fine & (values < self._low), values, self._low)
        self._high = np.where(fine & (values > self._high), values, self._high)

    def copy(self) -> _Bucket:
        """As it is now."""
        other = _Bucket(self.index, len(self._seen))
        other._records, other._time_ms, other._mode = self._records, self._time_ms, self._mode
        other._low, other._high, other._mean = self._low.copy(), self._high.copy(), self._mean.copy()
        other._seen = self._seen.copy()
        return other

    def to_json(self) -> str:
        """One row, see `StatusBoard.trend`."""
        table = np.stack([self._low, self._mean, self._high], axis=1)  # (S, 3)
        numbers = [
            ",".join(format(value, ".7g") for value in row) if seen else "null,null,null"
            for row, seen in zip(table.tolist(), self._seen.tolist(), strict=True)
        ]
        return f'[{self.index},{self._time_ms},"{self._mode}",{self._records},{",".join(numbers)}]'
