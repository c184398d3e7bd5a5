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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlkit.align import AlignedLog
from controlkit.ingest.gaps import Gap
from controlkit.layout import Layout
from controlkit.objective import Objective
from controlkit.spec import PlantSpec

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


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
    """Which rows of the grid are kept.

    Attributes:
        number: (T,) number of the episode that a row belongs to, from 0; -1 where it is left out.
        rules: what was left out.
    """

    number: Int64 = field(repr=False)
    rules: Rules


@dataclass(frozen=True)
class Seen:
    """What a cutter has seen of some rows: flags of each row by name, and for each measured tag the unusable rows."""

    flags: Mapping[str, Bool]
    unusable: Int64


class EpisodeCutter:
    """Looks at the aligned rows block by block; only a few flags of each row are kept until all have been seen.

    Args:
        spec: the plant.
    """

    def __init__(self, spec: PlantSpec) -> None:
        self._spec, self._objective = spec, Objective(spec)
        self._static = [i for i, tag in enumerate(spec.frame_tags) if spec.tags[tag].role == "static"]
        self._flags: dict[str, list[Bool]] = {name: [] for name in _FLAGS}
        self._unusable = np.zeros(len(spec.frame_tags), dtype=np.int64)
        self._before: tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32], bool] | None = None

    def add(self, stretch: int, block: AlignedLog, now: Bool, after: Bool) -> None:
        """Takes the next rows.

        Args:
            stretch: number of the stretch between gaps that they lie in.
            block: the rows, one period apart.
            now: (T,) whether all modes are accepted at each sample time.
            after: (T,) and throughout the period after it.
        """
        if not len(block.time_ns):
            return
        usable = np.asarray(block.mask.all(axis=1))
        alive = now & usable
        frames, actions, living = block.frames, block.actions, alive
        follows = np.ones(len(alive) - 1, dtype=np.bool_)  # whether the next row is one period later
        if self._before is not None:
            number, frame, action, was_alive = self._before
            frames, actions = np.concatenate([frame, frames]), np.concatenate([action, actions])
            living, follows = np.append(was_alive, alive), np.append(number == stretch, follows)
        both = living[:-1] & living[1:] & follows
        tripped: Bool = np.asarray(self._objective.tripped_rows(frames, actions, both))[-len(alive) :] & alive
        moved = both & (np.diff(frames[:, self._static], axis=0) != 0).any(axis=1)
        self._unusable += (now[:, None] & ~block.mask).sum(axis=0)
        for name, flag in zip(
            _FLAGS, (now, after, usable, block.action_mask.all(axis=1), tripped, follows, moved), strict=True
        ):
            self._flags[name].append(flag)
        self._remember(stretch, block, alive)

    def follow(self, stretch: int, row: AlignedLog, now: Bool) -> None:
        """Begins after a row that another cutter has taken: what is added next is added as if this one had."""
        self._remember(stretch, row, now & np.asarray(row.mask.all(axis=1)))

    def seen(self) -> Seen:
        """What was seen of the rows that were added."""
        return Seen({name: _joined(parts) for name, parts in self._flags.items()}, self._unusable)

    def join(self, seen: Seen) -> None:
        """Takes over what a cutter has seen that followed the last row of this one."""
        for name, flag in seen.flags.items():
            self._flags[name].append(flag)
        self._unusable += seen.unusable

    def _remember(self, stretch: int, block: AlignedLog, alive: Bool) -> None:
        self._before = stretch, block.frames[-1:].copy(), block.actions[-1:].copy(), bool(alive[-1])

    def finish(self, gaps: tuple[Gap, ...]) -> Episodes:
        """Cuts what was added."""
        flags = {name: _joined(parts) for name, parts in self._flags.items()}
        rows = len(flags["usable"])
        # Flags between two rows have none for the last one.
        follows, moved = (np.append(flags[name], False)[:rows] for name in ("follows", "moved"))
        in_mode, mode_kept, usable, known, tripped = (flags[name] for name in _FLAGS[:5])
        alive = in_mode & usable
        both = alive & np.append(alive[1:], False)[:rows] & follows
        # (T,) whether the row and the next are one step of an episode
        joined = both & mode_kept & known & ~moved & ~tripped

        starts = np.flatnonzero(alive & ~np.append(False, joined[:-1])[:rows])
        length = np.flatnonzero(alive & ~joined) - starts + 1
        needed = max(self._spec.episodes.min_steps + 1, Layout.from_spec(self._spec).depth + 2)
        long_enough = length >= needed
        numbers = np.where(long_enough, np.cumsum(long_enough) - 1, -1)
        number = np.full(rows, -1, dtype=np.int64)
        number[alive] = np.repeat(numbers, length)
        stay_tripped = tripped[starts] & ~long_enough & (length == 1)
        leaves_mode = follows & alive & ~(mode_kept & np.append(in_mode[1:], True)[:rows])
        kept = int(length[long_enough].sum())
        rules = Rules(
            rows=rows,
            rows_kept=kept,
            rows_removed={
                "mode not accepted": int((~in_mode).sum()),
                "measurement unknown": int((in_mode & ~usable).sum()),
                "plant stays tripped": int(stay_tripped.sum()),
                "piece too short": int(alive.sum()) - kept - int(stay_tripped.sum()),
            },
            cuts={
                "gap": len(gaps),
                "mode not accepted": int(leaves_mode.sum()),
                "measurement unknown": int((follows & alive & ~np.append(usable[1:], True)[:rows]).sum()),
                "command unknown": int((both & ~known).sum()),
                "static tag changes": int(moved.sum()),
                "trip": int((both & tripped).sum()),
            },
            unusable=dict(zip(self._spec.frame_tags, self._unusable.tolist(), strict=True)),
            gaps=gaps,
            longest=int(length.max(initial=0)),
            needed=needed,
        )
        return Episodes(number, rules)


_FLAGS = ("in_mode", "mode_kept", "usable", "known", "tripped", "follows", "moved")


def _joined(parts: Sequence[Bool]) -> Bool:
    return np.concatenate([np.zeros(0, dtype=np.bool_), *parts])
