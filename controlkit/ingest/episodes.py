"""Cuts an aligned log into episodes: stretches in which every sample, every command and the mode are known.

A row of the grid is left out while the plant's mode is not accepted, or while a measured tag is not usable. Two rows
that follow each other belong to one episode unless between them

- there is a gap: no sample of any measured tag for longer than `max_gap_s`;
- a mode tag shows a value that is not accepted, or is not good, even for a moment;
- the command is unknown;
- a static tag changes, as it is constant in an episode;
- the plant has tripped (`episodes.terminated`): the trip ends its episode, and a plant that stays tripped starts none.

Pieces too short for one observation and a step after it, or for `min_steps`, are left out at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlkit.align import NS, AlignedLog, Samples, align_log, sample_times
from controlkit.layout import Layout
from controlkit.objective import Objective
from controlkit.spec import PlantSpec

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Gap:
    """A stretch without any measurement, in nanoseconds UTC."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True)
class Rules:
    """What each rule removed; rows = rows_kept + the sum of `rows_removed`.

    Attributes:
        rows: sample times between the first and the last measurement, gaps left out.
        rows_kept: of them in episodes.
        rows_removed: rule -> rows that it removed, each row counted once, by the first rule of this order.
        cuts: rule -> how many times it ended an episode.
        unusable: measured tag -> rows in which it was unknown or too old.
        gaps: the gaps, in order of time.
        longest: rows of the longest piece, kept or not.
        needed: rows that a piece needs to be kept.
    """

    rows: int
    rows_kept: int
    rows_removed: Mapping[str, int]
    cuts: Mapping[str, int]
    unusable: Mapping[str, int]
    gaps: tuple[Gap, ...]
    longest: int
    needed: int


@dataclass(frozen=True)
class Episodes:
    """The rows that are kept.

    Attributes:
        log: the aligned rows, N of them.
        episode: (N,) number of the episode, from 0.
        rules: what was left out.
    """

    log: AlignedLog
    episode: Int64 = field(repr=False)
    rules: Rules


def cut_episodes(spec: PlantSpec, samples: Mapping[str, Samples]) -> Episodes:
    """Aligns the samples of every measured tag, command and mode (by name) and cuts the result."""
    grid, block, gaps = _grid(spec, samples)
    log = align_log(spec, samples, grid)
    follows = np.append(block[1:] == block[:-1], False)[: len(grid)]  # (T,) whether the next row is one period later
    in_mode, mode_kept = _modes(spec, samples, grid)
    usable: Bool = np.asarray(log.mask.all(axis=1))
    alive = in_mode & usable
    both = alive & np.append(alive[1:], False)[: len(grid)] & follows
    tripped: Bool = np.asarray(Objective(spec).tripped_rows(log.frames, log.actions, both[:-1])) & alive
    known = log.action_mask.all(axis=1)
    static = [i for i, tag in enumerate(spec.frame_tags) if spec.tags[tag].role == "static"]
    moved = both & np.append((np.diff(log.frames[:, static], axis=0) != 0).any(axis=1), False)[: len(grid)]
    # (T,) whether the row and the next are one step of an episode
    joined = both & mode_kept & known & ~moved & ~tripped

    starts = np.flatnonzero(alive & ~np.append(False, joined[:-1])[: len(grid)])
    ends = np.flatnonzero(alive & ~joined)
    length = ends - starts + 1
    needed = max(spec.episodes.min_steps + 1, Layout.from_spec(spec).depth + 2)
    long_enough = length >= needed
    piece = np.repeat(np.arange(len(starts)), length)  # (rows alive,)
    rows = np.flatnonzero(alive)
    keep = long_enough[piece]
    stay_tripped = tripped[rows] & ~keep & (length[piece] == 1)
    leaves_mode = follows & alive & ~(mode_kept & np.append(in_mode[1:], True)[: len(grid)])
    rules = Rules(
        rows=len(grid),
        rows_kept=int(keep.sum()),
        rows_removed={
            "mode not accepted": int((~in_mode).sum()),
            "measurement unknown": int((in_mode & ~usable).sum()),
            "plant stays tripped": int(stay_tripped.sum()),
            "piece too short": int((~keep & ~stay_tripped).sum()),
        },
        cuts={
            "gap": len(gaps),
            "mode not accepted": int(leaves_mode.sum()),
            "measurement unknown": int((follows & alive & ~np.append(usable[1:], True)[: len(grid)]).sum()),
            "command unknown": int((both & ~known).sum()),
            "static tag changes": int(moved.sum()),
            "trip": int((both & tripped).sum()),
        },
        unusable={tag: int((in_mode & ~log.mask[:, i]).sum()) for i, tag in enumerate(spec.frame_tags)},
        gaps=gaps,
        longest=int(length.max(initial=0)),
        needed=needed,
    )
    chosen = rows[keep]
    numbers = np.cumsum(long_enough) - 1
    return Episodes(_rows(log, chosen), numbers[piece[keep]].astype(np.int64), rules)


def _grid(spec: PlantSpec, samples: Mapping[str, Samples]) -> tuple[Int64, Int64, tuple[Gap, ...]]:
    """Sample times (T,), the number of the stretch between gaps each lies in (T,), and the gaps."""
    times = np.sort(np.concatenate([samples[tag].time_ns for tag in spec.frame_tags]), kind="stable")
    broken = np.flatnonzero(np.diff(times) > spec.max_gap_s * NS)
    first, last = times[np.append(0, broken + 1)], times[np.append(broken, len(times) - 1)]
    grids = [sample_times(int(a), int(b), spec.period_s) for a, b in zip(first, last, strict=True)]
    block = np.repeat(np.arange(len(grids)), [len(grid) for grid in grids])
    gaps = tuple(Gap(int(times[i]), int(times[i + 1])) for i in broken)
    return np.concatenate(grids), block, gaps


def _modes(spec: PlantSpec, samples: Mapping[str, Samples], grid: Int64) -> tuple[Bool, Bool]:
    """Whether all modes are accepted at each sample time, and throughout the period after it: (T,), (T,)."""
    now, after = np.ones(len(grid), dtype=np.bool_), np.ones(len(grid), dtype=np.bool_)
    for tag in spec.names("mode"):
        mode = samples[tag]
        # Here a sample that is not good is no reason to trust the one before it: the plant may be in any mode.
        accepted = mode.good & np.isin(mode.value, spec.tags[tag].accept)
        last = np.searchsorted(mode.time_ns, grid, side="right") - 1
        end = np.searchsorted(mode.time_ns, grid + round(spec.period_s * NS), side="right")
        refused = np.concatenate(([0], np.cumsum(~accepted)))
        age_s = (grid - mode.time_ns[np.maximum(last, 0)]) / NS
        now &= (last >= 0) & accepted[np.maximum(last, 0)] & (age_s <= spec.max_age_s(tag))
        after &= refused[end] == refused[last + 1]
    return now, after


def _rows(log: AlignedLog, rows: Int64) -> AlignedLog:
    return AlignedLog(
        log.time_ns[rows], log.frames[rows], log.mask[rows], log.age_s[rows], log.actions[rows], log.changed[rows],
        log.action_mask[rows],
    )  # fmt: skip
