"""Causal alignment of raw samples to the sample period, in batch; `controlkit.online` is the edge's form. numpy only.

Time semantics, final for the whole project:

- `observation[t]` is what was known at t: it uses samples stamped at or before t and no others.
- `action[t]` is the command in force over (t, t + period]. A command stamped s is in force from s on; where it changes
  inside the period its time-weighted mean is taken and the step is flagged. A command that is not good, or no number,
  was still given: what is in force is unknown until the next one, and so is the action of every period that it reaches.

Time stamps are int64 nanoseconds since 1970-01-01 UTC. Both forms share `value_at` and `in_force`, so that their
numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from controlkit.log_rules import Frozen
from controlkit.spec import PlantSpec

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Interpolation = Literal["step", "linear"]

NS = 1_000_000_000


@dataclass(frozen=True)
class Samples:
    """Raw samples of one tag; time stamps never fall. Of samples with the same stamp the last one counts.

    Attributes:
        time_ns: (K,) time stamps.
        value: (K,) engineering units.
        good: (K,) quality; a sample that is not good never becomes a value, it only lets the last good one grow old.
            Nor does a value that is not finite, whatever its quality. A command of this kind is unknown instead.
    """

    time_ns: Int64
    value: Float64
    good: Bool


@dataclass(frozen=True)
class Aligned:
    """One tag on the grid of T sample times: value (T,), age in seconds (T,), usable (T,).

    A cell without any earlier good sample holds NaN, an infinite age and False.
    """

    value: Float64
    age_s: Float64
    ok: Bool


@dataclass(frozen=True)
class AlignedCommand:
    """One command over the periods that follow the T sample times: mean value, whether it changed inside, known."""

    value: Float64
    changed: Bool
    ok: Bool


def sample_times(first_ns: int, last_ns: int, period_s: float) -> Int64:
    """The grid: all multiples of the period since 1970 in [first_ns, last_ns], so that it never depends on the log."""
    period = round(period_s * NS)
    start = -(-first_ns // period) * period
    return np.arange(start, last_ns + 1, period, dtype=np.int64)


def align_signal(samples: Samples, grid_ns: Int64, interpolation: Interpolation, max_age_s: float) -> Aligned:
    """The measured tag at each grid time, from its good samples at or before that time.

    Args:
        samples: raw samples of the tag.
        grid_ns: (T,) sample times.
        interpolation: `step` holds the last value; `linear` extrapolates from the last two.
        max_age_s: a value older than this is not usable, and `linear` never reaches across more than this.
    """
    time, value = _good_samples(samples)
    if not time.size:
        empty = np.full(len(grid_ns), np.nan)
        return Aligned(empty, np.full(len(grid_ns), np.inf), np.zeros(len(grid_ns), dtype=np.bool_))
    last = np.searchsorted(time, grid_ns, side="right") - 1  # (T,), -1 where nothing came before
    known = last >= 0
    at, before = np.maximum(last, 0), np.maximum(last - 1, 0)
    linear = interpolation == "linear"
    found, age = value_at(grid_ns, time[before], value[before], time[at], value[at], linear, max_age_s)
    return Aligned(np.where(known, found, np.nan), np.where(known, age, np.inf), known & (age <= max_age_s))


def align_command(samples: Samples, grid_ns: Int64, period_s: float, max_age_s: float = np.inf) -> AlignedCommand:
    """The command in force over (t, t + period] for each grid time t, time-weighted where it changes inside.

    A period of which any part is unknown is not known.
    """
    period = round(period_s * NS)
    time, value = _commands(samples)
    if not time.size:
        nothing = np.zeros(len(grid_ns), dtype=np.bool_)
        return AlignedCommand(np.full(len(grid_ns), np.nan), nothing, nothing.copy())
    last = np.searchsorted(time, grid_ns, side="right") - 1  # in force at t
    end = np.searchsorted(time, grid_ns + period, side="left")  # samples [last + 1, end) lie inside (t, t + period)
    known = last >= 0
    at = np.maximum(last, 0)
    mean = value[at].copy()
    changed = np.zeros(len(grid_ns), dtype=np.bool_)
    # Only periods with a sample inside need weighting; a plant's commands mostly fall on the grid or stay put.
    rows = np.flatnonzero(known & (end > last + 1))
    if rows.size:
        mean[rows], changed[rows] = in_force(time, value, last[rows], end[rows], grid_ns[rows], period)
    age = (grid_ns - time[at]) / NS
    known &= ~np.isnan(mean)
    return AlignedCommand(np.where(known, mean, np.nan), changed, known & (age <= max_age_s))


class Run(NamedTuple):
    """A run of values that count as the same: stamp and value of its first sample."""

    start_ns: int
    value: float


def frozen_samples(time_ns: Int64, value: Float64, rule: Frozen, carry: Run | None = None) -> tuple[Bool, Run | None]:
    """Which samples come from a sensor that has said the same for too long: causal, block by block.

    A run of equal values starts at the first sample that differs by more than `rule.within` from the first value of the
    run before. A sample stamped more than `rule.after_s` after the start of its run is frozen.

    Args:
        time_ns: (K,) stamps that never fall.
        value: (K,) good values inside the tag's range, finite.
        rule: the tag's.
        carry: the run in which the block before ended; None at the start of a log.

    Returns:
        (K,) frozen, and the run in which this block ends.
    """
    if not len(value):
        return np.zeros(0, dtype=np.bool_), carry
    held = 0 if carry is None else 1  # the run that goes on stands before the block as a sample of its own
    if carry is not None:
        time_ns, value = np.append(np.int64(carry.start_ns), time_ns), np.append(carry.value, value)
    starts = _run_starts(value, rule.within)
    since = np.repeat(time_ns[starts], np.diff(starts, append=len(value)))  # (K,) start of each sample's run
    frozen = time_ns - since > round(rule.after_s * NS)
    return frozen[held:], Run(int(time_ns[starts[-1]]), float(value[starts[-1]]))


@dataclass(frozen=True)
class AlignedLog:
    """A stretch of a log on the grid: T sample times, n frame tags, m actions.

    Attributes:
        time_ns: (T,).
        frames, age_s: (T, n) float32; `mask` (T, n) says which cells are usable.
        actions: (T, m) float32; `changed`, `action_mask` (T, m).
    """

    time_ns: Int64
    frames: npt.NDArray[np.float32]
    mask: Bool
    age_s: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    changed: Bool
    action_mask: Bool


def align_log(spec: PlantSpec, samples: Mapping[str, Samples], grid_ns: Int64) -> AlignedLog:
    """All measured tags and commands of a plant on one grid.

    Args:
        spec: the plant. A measured value outside its tag's range counts as a bad sample.
        samples: every frame tag and action by name.
        grid_ns: (T,) sample times, rising; gaps in them are allowed.
    """
    # Column by column into float32, so that a long log of many tags is never held twice in double precision.
    shape, orders = (len(grid_ns), len(spec.frame_tags)), (len(grid_ns), len(spec.action_tags))
    log = AlignedLog(
        time_ns=grid_ns,
        frames=np.empty(shape, dtype=np.float32),
        mask=np.empty(shape, dtype=np.bool_),
        age_s=np.empty(shape, dtype=np.float32),
        actions=np.empty(orders, dtype=np.float32),
        changed=np.empty(orders, dtype=np.bool_),
        action_mask=np.empty(orders, dtype=np.bool_),
    )
    for i, name in enumerate(spec.frame_tags):
        tag, raw = spec.tags[name], samples[name]
        inside = raw.good & (raw.value >= tag.range[0]) & (raw.value <= tag.range[1])
        column = align_signal(Samples(raw.time_ns, raw.value, inside), grid_ns, tag.interpolation, spec.max_age_s(name))
        log.frames[:, i], log.mask[:, i], log.age_s[:, i] = column.value, column.ok, column.age_s
    for i, name in enumerate(spec.action_tags):
        command = align_command(samples[name], grid_ns, spec.period_s, spec.max_age_s(name))
        log.actions[:, i], log.changed[:, i], log.action_mask[:, i] = command.value, command.changed, command.ok
    return log


def _good_samples(samples: Samples) -> tuple[Int64, Float64]:
    usable = samples.good & np.isfinite(samples.value)
    return samples.time_ns[usable], samples.value[usable]


def _commands(samples: Samples) -> tuple[Int64, Float64]:
    """Stamps and values, NaN where unknown, of the commands that were ever in force: of those of a stamp the last."""
    value = np.where(samples.good & np.isfinite(samples.value), samples.value, np.nan)
    again = samples.time_ns[1:] == samples.time_ns[:-1]
    if not again.any():
        return samples.time_ns, value
    last = np.append(~again, True)
    return samples.time_ns[last], value[last]


def value_at(
    now: Int64 | np.int64,
    t0: Int64,
    v0: Float64,
    t1: Int64,
    v1: Float64,
    linear: bool | Bool,
    max_age_s: float | Float64,
) -> tuple[Float64, Float64]:
    """Value and age at `now` from the last two good samples (t0, v0), (t1, v1); t0 = t1 where there is only one.

    A linear value is extrapolated, but never to an age beyond `max_age_s`, nor from samples further apart than that.
    """
    age = (now - t1) / NS
    if linear is False:
        return v1.astype(np.float64), age
    between = (t1 - t0) / NS
    usable = linear & (between > 0) & (between <= max_age_s) & (age <= max_age_s)
    slope = (v1 - v0) / np.where(usable, between, 1.0)
    return np.where(usable, v1 + slope * age, v1), age


def in_force(
    time: Int64, value: Float64, last: Int64, end: Int64, start_ns: Int64, period: int
) -> tuple[Float64, Bool]:
    """Time-weighted mean of the commands in force over (start, start + period], and whether they differ: (R,), (R,).

    NaN, and no difference, where one of them is unknown.

    Args:
        time, value: (K,) stamps, no two the same, and commands; NaN is unknown.
        last: (R,) the command in force at the start of each of R periods.
        end: (R,) the commands [last + 1, end), one at least, are given inside the period.
        start_ns: (R,) starts of the periods.
        period: nanoseconds.
    """
    count = end - last  # (R,) commands in force during the period, the one at its start included
    first = np.concatenate(([0], np.cumsum(count)[:-1]))  # (R,) where each period's pieces begin
    piece = np.arange(count.sum()) - np.repeat(first - last, count)  # (P,) command of each piece
    start = np.maximum(time[piece], np.repeat(start_ns, count))
    stop = np.append(start[1:], 0)
    stop[first + count - 1] = start_ns + period
    held = value[piece]
    moved = np.minimum.reduceat(held, first) != np.maximum.reduceat(held, first)
    weighted = np.add.reduceat(held * (stop - start), first) / period
    # What was said again is no change, and is not rounded.
    return np.where(moved, weighted, held[first]), moved & ~np.isnan(weighted)


# Runs up to this long are found for all samples at once, longer ones one by one.
_SHORT_RUN = 8


def _run_starts(value: Float64, within: float) -> Int64:
    """(R,) where the runs of values (K,) start, see `frozen_samples`."""
    k = len(value)
    if within == 0.0:
        return np.flatnonzero(np.append(True, value[1:] != value[:-1]))
    # What follows from each sample if it starts a run; 0 where the run that it starts is longer than a short one.
    follows = np.zeros(k, dtype=np.int64)
    follows[-1] = k
    left = np.arange(k - 1)
    for ahead in range(1, _SHORT_RUN + 1):
        left = left[: np.searchsorted(left, k - ahead)]
        differs = np.abs(value[left + ahead] - value[left]) > within
        follows[left[differs]] = left[differs] + ahead
        left = left[~differs]
    steps, starts, at = follows.tolist(), [], 0
    while at < k:
        starts.append(at)
        at = steps[at] or _end_of_run(value, at, within)
    return np.array(starts, dtype=np.int64)


def _end_of_run(value: Float64, start: int, within: float) -> int:
    """The first sample after `start` that differs from it by more than `within`."""
    begin, width = start + _SHORT_RUN, 64
    while begin < len(value):
        differs = np.abs(value[begin : begin + width] - value[start]) > within
        if differs.any():
            return begin + int(differs.argmax())
        begin, width = begin + width, 2 * width
    return len(value)
