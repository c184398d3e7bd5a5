"""The alignment of `controlkit.align` sample by sample, for the edge: push what arrives, ask what is known; numpy only.

What a log's ingest does with a sample is done here as it comes, and gives the same numbers to the last bit:

- one that is not good, not finite, out of its tag's range, or frozen never becomes a value;
- one older than its tag's newest came too late;
- of good ones with the same stamp `log.on_duplicate` of the plant file says which counts (for `mean`, a sample that is
  pushed twice counts twice);
- a command outside its limits never was one, beyond a rounding.

Whether a sample is good is for the caller to say: `log.uncertain` and `log.substituted` of the plant file tell what
these are worth.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from controlkit.align import NS, Bool, Float64, Int64, in_force, value_at
from controlkit.spec import PlantSpec

Float32 = npt.NDArray[np.float32]

# Commands are written with 7 to 9 significant digits: this share of their span beyond a limit is a rounding.
ROUNDING = 1e-6
_NEVER = np.iinfo(np.int64).min
# Rows of the state.
_BEFORE, _AT, _RUN = range(3)


class OnlineAligner:
    """The measured tags of `align_log`, n of them in the order of `spec.frame_tags`.

    A sample stamped after the time that is asked about waits for its time. (Of several such of one tag the newest
    counts, and until the time of the second-newest the tag is unknown.)
    """

    def __init__(self, spec: PlantSpec) -> None:
        tags = [spec.tags[name] for name in spec.frame_tags]
        n = len(tags)
        self._column = {name: i for i, name in enumerate(spec.frame_tags)}
        self._rule = spec.log.on_duplicate
        self._low, self._high = np.array([tag.range for tag in tags], dtype=np.float64).reshape(n, 2).T
        self._linear: bool | Bool = np.array([tag.interpolation == "linear" for tag in tags], dtype=np.bool_)
        if not self._linear.any():
            self._linear = False
        self._max_age = np.array([spec.max_age_s(name) for name in spec.frame_tags], dtype=np.float64)
        rules = [tag.frozen for tag in tags]
        self._freezes = any(rules)
        self._within = np.array([np.inf if rule is None else rule.within for rule in rules])
        self._after = np.array(
            [np.iinfo(np.int64).max if rule is None else round(rule.after_s * NS) for rule in rules], dtype=np.int64
        )
        self._waiting: dict[int, tuple[int, float, bool]] = {}  # what was pushed one by one, to be taken in all at once
        self._newest = np.full(n, _NEVER)  # stamp of the newest sample of any quality
        self._stamp = np.full(n, _NEVER)  # of the newest good one
        # Of the good values of that stamp: the first, their sum and number, and whether they differ.
        self._first, self._sum, self._count, self._differs = (
            np.zeros(n),
            np.zeros(n),
            np.zeros(n),
            np.zeros(n, np.bool_),
        )
        # The last two usable samples and the first of the run of equal ones, as they are and before the newest stamp.
        self._time, self._value = np.zeros((3, n), dtype=np.int64), np.full((3, n), np.nan)
        self._earlier_time, self._earlier_value = self._time.copy(), self._value.copy()

    def push(self, tag: str, time_ns: int, value: float, good: bool = True) -> None:
        """Takes one raw sample of a frame tag.

        Raises:
            KeyError: the tag is no frame tag of the plant.
        """
        i = self._column[tag]
        if i in self._waiting:
            self._take_waiting()
        self._waiting[i] = (time_ns, value, good)

    def push_many(self, time_ns: Int64, value: Float64, good: Bool) -> None:
        """Takes one raw sample of every frame tag: (n,), (n,), (n,); NaN, not good, where there is none."""
        self._take_waiting()
        self._take(time_ns, value, good)

    def frame(self, now_ns: int) -> tuple[Float32, Bool, Float32]:
        """Values (n,), usable (n,) and ages in seconds (n,) at `now_ns`."""
        self._take_waiting()
        time, value = self._time, self._value
        ahead = self._stamp > now_ns
        if ahead.any():
            time, value = np.where(ahead, self._earlier_time, time), np.where(ahead, self._earlier_value, value)
        now = np.array([now_ns], dtype=np.int64)
        found, age = value_at(now, time[_BEFORE], value[_BEFORE], time[_AT], value[_AT], self._linear, self._max_age)
        known = ~np.isnan(value[_AT]) & (age >= 0)
        found, age = np.where(known, found, np.nan), np.where(known, age, np.inf)
        return found.astype(np.float32), known & (age <= self._max_age), age.astype(np.float32)

    def _take_waiting(self) -> None:
        if not self._waiting:
            return
        n, at = len(self._column), list(self._waiting)
        time_ns, value, good = np.full(n, _NEVER), np.full(n, np.nan), np.zeros(n, dtype=np.bool_)
        time_ns[at], value[at], good[at] = zip(*self._waiting.values(), strict=True)
        self._waiting.clear()
        self._take(time_ns, value, good)

    def _take(self, time_ns: Int64, value: Float64, good: Bool) -> None:
        on_time = time_ns >= self._newest
        self._newest = np.maximum(self._newest, time_ns)
        taken = on_time & good & np.isfinite(value)
        again = taken & (time_ns == self._stamp)
        if again.any():
            value, taken = self._merged(value, taken, again)
            again &= taken
        elif self._rule == "mean":
            self._note(value, taken, again)
        if not taken.any():
            return
        self._stamp = np.where(taken, time_ns, self._stamp)
        # What a stamp adds is added to what was known before it, however often it says something else.
        base = taken & ~again
        self._earlier_time = np.where(base, self._time, self._earlier_time)
        self._earlier_value = np.where(base, self._value, self._earlier_value)
        if again.any():
            self._time = np.where(again, self._earlier_time, self._time)
            self._value = np.where(again, self._earlier_value, self._value)
        self._add(time_ns, value, taken & (value >= self._low) & (value <= self._high))

    def _merged(self, value: Float64, taken: Bool, again: Bool) -> tuple[Float64, Bool]:
        """The values (n,) by `on_duplicate`, and for which tags (n,) they are news."""
        if self._rule == "last":
            return value, taken
        if self._rule == "mean":
            self._note(value, taken, again)
            taken = taken & (self._differs | ~again)
            return np.where(self._differs & taken, self._sum / np.maximum(self._count, 1.0), value), taken
        return value, taken & ~again

    def _note(self, value: Float64, taken: Bool, again: Bool) -> None:
        fresh = taken & ~again
        self._differs = np.where(fresh, False, self._differs | (again & (value != self._first)))
        self._first = np.where(fresh, value, self._first)
        self._sum = np.where(fresh, value, np.where(again, self._sum + value, self._sum))
        self._count = np.where(fresh, 1.0, np.where(again, self._count + 1.0, self._count))

    def _add(self, time_ns: Int64, value: Float64, inside: Bool) -> None:
        if self._freezes:
            run_time, run_value = self._time[_RUN], self._value[_RUN]
            starts = inside & ~(np.abs(value - run_value) <= self._within)  # also where there is no run yet
            self._time[_RUN] = run_time = np.where(starts, time_ns, run_time)
            self._value[_RUN] = np.where(starts, value, run_value)
            inside = inside & (time_ns - run_time <= self._after)
        first = np.isnan(self._value[_AT])
        for state, new in ((self._time, time_ns), (self._value, value)):
            state[_BEFORE] = np.where(inside, np.where(first, new, state[_AT]), state[_BEFORE])
            state[_AT] = np.where(inside, new, state[_AT])


class OnlineCommands:
    """The commands of `align_log`, m of them in the order of `spec.action_tags`: what was in force over a period."""

    def __init__(self, spec: PlantSpec) -> None:
        self._period = round(spec.period_s * NS)
        self._rule = spec.log.on_duplicate
        self._column = {name: i for i, name in enumerate(spec.action_tags)}
        self._max_age = np.array([spec.max_age_s(name) for name in spec.action_tags], dtype=np.float64)
        limits = [spec.limits(name) for name in spec.action_tags]
        self._limits = [(low, high, ROUNDING * (high - low)) for low, high in limits]
        # Of each command its stamps and values, from the one in force at the start of the period asked for last.
        self._times: list[list[int]] = [[] for _ in limits]
        self._values: list[list[float]] = [[] for _ in limits]
        self._newest = [_NEVER] * len(limits)
        self._said: list[tuple[int, list[float]]] = [(_NEVER, [])] * len(limits)  # good values of the newest stamp

    def push(self, tag: str, time_ns: int, value: float, good: bool = True) -> None:
        """Takes one command.

        Raises:
            KeyError: the tag is no action of the plant.
        """
        i = self._column[tag]
        late = time_ns < self._newest[i]
        self._newest[i] = max(self._newest[i], time_ns)
        if late or not good or not np.isfinite(value):
            return
        if self._said[i][0] != time_ns:
            self._said[i] = (time_ns, [])
        said = self._said[i][1]
        said.append(float(value))
        times, values = self._times[i], self._values[i]
        if times and times[-1] == time_ns:
            del times[-1], values[-1]
        command = self._merged(said)
        low, high, slack = self._limits[i]
        if low - slack <= command <= high + slack:
            times.append(int(time_ns))
            values.append(min(max(command, low), high))

    def _merged(self, said: list[float]) -> float:
        if self._rule == "last":
            return said[-1]
        differ = self._rule == "mean" and any(value != said[0] for value in said)
        return sum(said[1:], said[0]) / len(said) if differ else said[0]

    def over_period(self, now_ns: int) -> tuple[Float32, Bool, Bool]:
        """What was in force over (now - period, now]: mean (m,), whether it changed inside (m,), known (m,).

        At the next sample time this is the action that ended at it: the observation's newest past command. Times that
        are asked about never fall.
        """
        start, m = now_ns - self._period, len(self._times)
        last, end, offset = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64), 0
        for i, (times, values) in enumerate(zip(self._times, self._values, strict=True)):
            past = bisect_right(times, start) - 1
            if past > 0:
                del times[:past], values[:past]
                past = 0
            last[i], end[i] = offset + past, offset + bisect_left(times, now_ns)
            offset += len(times)
        time = np.array([stamp for times in self._times for stamp in times], dtype=np.int64)
        value = np.array([command for values in self._values for command in values], dtype=np.float64)
        known = np.array([bool(times) and times[0] <= start for times in self._times], dtype=np.bool_)
        mean, age, changed = np.full(m, np.nan), np.full(m, np.inf), np.zeros(m, dtype=np.bool_)
        if known.any():
            mean[known], age[known] = value[last[known]], (start - time[last[known]]) / NS
        rows = np.flatnonzero(known & (end > last + 1))
        if rows.size:
            starts = np.full(len(rows), start)
            mean[rows], changed[rows] = in_force(time, value, last[rows], end[rows], starts, self._period)
        return mean.astype(np.float32), changed, known & (age <= self._max_age)
