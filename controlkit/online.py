"""The alignment of `controlkit.align` sample by sample, for the edge: push what arrives, ask what is known; numpy only.

What a log's ingest does with a sample is done here as it comes, and gives the same numbers to the last bit:

- one that is not good, not finite, out of its tag's range, or frozen never becomes a value;
- one older than its tag's newest came too late, and one further ahead than `log.future_s` is not believed: it is left
  out at the first time that is asked about after it came;
- of good ones with the same stamp `log.on_duplicate` of the plant file says which counts (for `mean`, a sample that is
  pushed twice counts twice), and each of them before a doubtful one;
- a command that is not good, not finite, outside its limits beyond a rounding, or contradicted where `on_duplicate` is
  `reject`, leaves the command unknown until the next one.

Whether a sample is good is for the caller to say: where `log.uncertain` or `log.substituted` of the plant file is
`use`, such a sample is good and doubtful, else it is not good. An empty value is no sample: it is not pushed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import isfinite

import numpy as np
import numpy.typing as npt

from controlkit.align import NS, Bool, Float64, Int64, in_force, value_at
from controlkit.spec import PlantSpec

Float32 = npt.NDArray[np.float32]

# Commands are written with 7 to 9 significant digits: this share of their span beyond a limit is a rounding.
ROUNDING = 1e-6
_NEVER = np.iinfo(np.int64).min
# What a command is worth beside another of its stamp.
_GOOD, _DOUBTFUL, _USELESS = range(3)
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
        self._future = round(spec.log.future_s * NS)
        # What was pushed and not yet asked about; what was pushed one by one, to be taken in all at once.
        self._pushed: list[tuple[Int64, Float64, Bool, Bool | None]] = []
        self._waiting: dict[int, tuple[int, float, bool, bool]] = {}
        self._newest = np.full(n, _NEVER)  # stamp of the newest sample of any quality
        self._stamp = np.full(n, _NEVER)  # of the newest good one
        self._doubtful = np.zeros(n, np.bool_)  # whether what that one said was doubtful
        self._doubts = False  # whether any ever was
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

    def push(self, tag: str, time_ns: int, value: float, good: bool = True, doubtful: bool = False) -> None:
        """Takes one raw sample of a frame tag.

        Raises:
            KeyError: the tag is no frame tag of the plant.
        """
        i = self._column[tag]
        if i in self._waiting:
            self._gather()
        self._waiting[i] = (time_ns, value, good, doubtful)

    def push_many(self, time_ns: Int64, value: Float64, good: Bool, doubtful: Bool | None = None) -> None:
        """Takes one raw sample of every frame tag: (n,) each; NaN, not good, where there is none."""
        self._gather()
        doubts = None if doubtful is None else doubtful.copy()
        self._pushed.append((time_ns.copy(), value.copy(), good.copy(), doubts))

    def frame(self, now_ns: int) -> tuple[Float32, Bool, Float32]:
        """Values (n,), usable (n,) and ages in seconds (n,) at `now_ns`."""
        self._gather()
        for time_ns, values, good, doubtful in self._pushed:
            self._take(time_ns, values, good, doubtful, now_ns + self._future)
        self._pushed.clear()
        time, value = self._time, self._value
        ahead = self._stamp > now_ns
        if ahead.any():
            time, value = np.where(ahead, self._earlier_time, time), np.where(ahead, self._earlier_value, value)
        now = np.array([now_ns], dtype=np.int64)
        found, age = value_at(now, time[_BEFORE], value[_BEFORE], time[_AT], value[_AT], self._linear, self._max_age)
        known = ~np.isnan(value[_AT]) & (age >= 0)
        found, age = np.where(known, found, np.nan), np.where(known, age, np.inf)
        return found.astype(np.float32), known & (age <= self._max_age), age.astype(np.float32)

    def _gather(self) -> None:
        if not self._waiting:
            return
        n, at = len(self._column), list(self._waiting)
        time_ns, value, (good, doubtful) = np.full(n, _NEVER), np.full(n, np.nan), np.zeros((2, n), dtype=np.bool_)
        time_ns[at], value[at], good[at], doubtful[at] = zip(*self._waiting.values(), strict=True)
        self._waiting.clear()
        self._pushed.append((time_ns, value, good, doubtful))

    def _take(self, time_ns: Int64, value: Float64, good: Bool, doubtful: Bool | None, latest_ns: int) -> None:
        on_time = (time_ns >= self._newest) & (time_ns <= latest_ns)
        self._newest = np.where(on_time, time_ns, self._newest)
        taken = on_time & good & np.isfinite(value)
        again = taken & (time_ns == self._stamp)
        doubts = self._note_doubts(doubtful)
        if again.any():
            said = again
            if (
                self._doubts
            ):  # a better one takes the place of what its stamp has said so far, a worse one does not count
                worse = again & doubts & ~self._doubtful
                taken, again = taken & ~worse, again & ~worse
                said = again & (doubts == self._doubtful)
            value, taken = self._merged(value, taken, said)
            again = again & taken
        elif self._rule == "mean":
            self._note(value, taken, again)
        if not taken.any():
            return
        if self._doubts:
            self._doubtful = np.where(taken, doubts, self._doubtful)
        self._stamp = np.where(taken, time_ns, self._stamp)
        # What a stamp adds is added to what was known before it, however often it says something else.
        base = taken & ~again
        self._earlier_time = np.where(base, self._time, self._earlier_time)
        self._earlier_value = np.where(base, self._value, self._earlier_value)
        if again.any():
            self._time = np.where(again, self._earlier_time, self._time)
            self._value = np.where(again, self._earlier_value, self._value)
        self._add(time_ns, value, taken & (value >= self._low) & (value <= self._high))

    def _note_doubts(self, doubtful: Bool | None) -> Bool:
        if doubtful is None:
            return np.zeros_like(self._doubtful) if self._doubts else self._doubtful
        self._doubts = self._doubts or bool(doubtful.any())
        return doubtful

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
        self._future = round(spec.log.future_s * NS)
        self._pushed: list[tuple[int, int, float, int]] = []  # and not yet asked about: column, stamp, value, worth
        # Of each command its stamps and values (NaN where unknown), from the one in force at the start of the period
        # asked for last.
        self._times: list[list[int]] = [[] for _ in limits]
        self._values: list[list[float]] = [[] for _ in limits]
        self._newest = [_NEVER] * len(limits)
        # Of the newest stamp the worth of what counts, and its values.
        self._worth, self._said = [_USELESS] * len(limits), [[float("nan")]] * len(limits)

    def push(self, tag: str, time_ns: int, value: float, good: bool = True, doubtful: bool = False) -> None:
        """Takes one command.

        Raises:
            KeyError: the tag is no action of the plant.
        """
        worth = _USELESS if not good or not isfinite(value) else _DOUBTFUL if doubtful else _GOOD
        self._pushed.append((self._column[tag], int(time_ns), float(value), worth))

    def _take(self, i: int, time_ns: int, value: float, worth: int) -> None:
        value = value if worth < _USELESS else float("nan")
        times, values = self._times[i], self._values[i]
        if time_ns > self._newest[i]:
            times.append(time_ns)
            values.append(value)
        elif time_ns < self._newest[i] or worth > self._worth[i]:
            return
        if time_ns == self._newest[i] and worth == self._worth[i]:
            self._said[i].append(value)
        else:
            self._newest[i], self._worth[i], self._said[i] = time_ns, worth, [value]
        values[-1] = self._within_limits(i, self._merged(self._said[i]))

    def _merged(self, said: list[float]) -> float:
        if self._rule in ("first", "last"):
            return said[0 if self._rule == "first" else -1]
        if all(value == said[0] for value in said):
            return said[0]
        return sum(said[1:], said[0]) / len(said) if self._rule == "mean" else float("nan")

    def _within_limits(self, i: int, command: float) -> float:
        low, high, slack = self._limits[i]
        return min(max(command, low), high) if low - slack <= command <= high + slack else float("nan")

    def over_period(self, now_ns: int) -> tuple[Float32, Bool, Bool]:
        """What was in force over (now - period, now]: mean (m,), whether it changed inside (m,), known throughout (m,).

        At the next sample time this is the action that ended at it: the observation's newest past command. Times that
        are asked about never fall.
        """
        for i, time_ns, command, worth in self._pushed:
            if time_ns <= now_ns + self._future:
                self._take(i, time_ns, command, worth)
        self._pushed.clear()
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
        known &= ~np.isnan(mean)
        mean[~known] = np.nan
        return mean.astype(np.float32), changed, known & (age <= self._max_age)
