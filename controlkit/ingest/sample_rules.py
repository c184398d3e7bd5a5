"""What becomes of each sample of a tag: which one of a time stamp counts, and which values can be used.

Every sample ends in exactly one field of `Account`. Of the samples of one stamp a good one counts before one that is
uncertain or substituted (where the plant file lets those be used), and that before one that is not usable; of equals
the first. The others are merged into it, but for a value that contradicts it: `on_duplicate` says what becomes of that.

A command or a mode holds until the next one. Where one of them is in quarantine a mark of `Code.UNREADABLE` stands in
its place, which is in no account: what was said then is not known, and what was said before no longer holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from controlkit.ingest.quarantine import LISTED, Quarantine
from controlkit.ingest.stage import Code
from controlkit.ingest.timestamps import iso
from controlkit.log_rules import LogRules
from controlkit.spec import PlantSpec

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Text = Callable[["Block", int], str]

# Logs write 7 to 9 significant digits; a command this share of its span outside the limits is rounded, and clamped.
ROUNDING = 1e-6

BACKWARD = "time stamp goes back"
CONTRADICTION = "another value at the same time stamp"
OUTSIDE_LIMITS = "command outside its limits"
NO_MEASUREMENT = "no number in a good sample"

# Roles of what holds until the next sample: one that cannot be used leaves it unknown.
HELD_ROLES = ("action", "mode")
# How much a sample is worth beside another of its stamp; a mark is worth less than any.
GOOD, DOUBTFUL, USELESS, MARK = 0, 1, 2, 3


@dataclass(frozen=True)
class Account:
    """What became of the samples of a tag; `samples` is the sum of the others.

    `uncertain` and `substituted` count those that were left out; where the plant file lets them be used they are among
    the used ones. `quarantined` counts what the assessment put there, not what the reading did.
    """

    samples: int = 0
    used: int = 0
    bad_quality: int = 0
    uncertain: int = 0
    substituted: int = 0
    empty: int = 0
    out_of_range: int = 0
    frozen: int = 0
    quarantined: int = 0
    merged: int = 0


@dataclass(frozen=True)
class Block:
    """Samples of one tag by column, each (K,): stamp, value, `Code`, worth, and where it stands in the log."""

    time_ns: Int64
    value: Float64
    code: npt.NDArray[np.uint8]
    worth: npt.NDArray[np.uint8]
    row: Int64
    source: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.time_ns)

    def __getitem__(self, which: Bool | Int64) -> Block:
        return Block(
            self.time_ns[which], self.value[which], self.code[which], self.worth[which], self.row[which],
            self.source[which],
        )  # fmt: skip


def columns(samples: npt.NDArray[np.void], rules: LogRules) -> Block:
    """Samples (K,) of kind `SAMPLE` by column."""
    worth_of = np.full(len(Code), USELESS, dtype=np.uint8)
    worth_of[Code.GOOD] = GOOD
    worth_of[Code.UNCERTAIN] = DOUBTFUL if rules.uncertain == "use" else USELESS
    worth_of[Code.SUBSTITUTED] = DOUBTFUL if rules.substituted == "use" else USELESS
    worth_of[Code.UNREADABLE] = MARK
    time_ns, value, code, row, source = (
        np.ascontiguousarray(samples[name]) for name in ("time_ns", "value", "code", "row", "source")
    )
    return Block(time_ns, value, code, worth_of[code], row, source)


def quarantine(into: Quarantine, tag: str, block: Block, reason: str, text: Text) -> None:
    """Puts samples into quarantine; `text` says what stands in one of them."""
    for source in np.unique(block.source):
        mine = block[block.source == source]
        shown = [text(mine, i) for i in range(min(len(mine), LISTED))]
        into.add(int(source), reason, mine.row, shown, [tag] * len(mine))


def stamp_text(block: Block, i: int) -> str:
    """The time stamp of a sample."""
    return iso(int(block.time_ns[i]))


def value_text(block: Block, i: int) -> str:
    """The value of a sample, in the tag's unit."""
    return f"{block.value[i]:.10g}"


def marked(block: Block, which: Bool) -> Block:
    """The block with marks in the place of some of its samples (K,)."""
    code, worth = np.where(which, Code.UNREADABLE, block.code), np.where(which, MARK, block.worth)
    return replace(block, code=code.astype(np.uint8), worth=worth.astype(np.uint8))


def one_of_each_stamp(block: Block, rule: str, *, held: bool = False) -> tuple[Block, Block]:
    """The sample that counts of every stamp, and the contradicting ones that are rejected.

    Args:
        block: in order of time, then of the log; all samples of its stamps.
        rule: `on_duplicate` of the plant file: `reject`, `first`, `last` or `mean`.
        held: of a command or a mode: where some are rejected the first is, too, and a mark takes its place.
    """
    again = block.time_ns[1:] == block.time_ns[:-1]
    nothing = block[np.zeros(0, dtype=np.int64)]
    if not again.any():
        return block, nothing
    shared = np.append(False, again) | np.append(again, False)
    several = block[shared]
    several = several[np.lexsort((several.worth, several.time_ns))]  # stable: of equal worth in order of the log
    fresh = np.append(True, several.time_ns[1:] != several.time_ns[:-1])
    first = np.flatnonzero(fresh)
    group = np.cumsum(fresh) - 1
    equals = (several.worth == several.worth[first][group]) & (several.worth < USELESS)
    contradicts = equals & (several.value != several.value[first][group])
    chosen = _chosen(several, first, equals, contradicts, group, rule)
    rejected = several[contradicts] if rule == "reject" else nothing
    if held and len(rejected):
        disputed = np.zeros(len(first), dtype=np.bool_)
        disputed[group[contradicts]] = True
        contradicts[first[disputed]] = True
        rejected, chosen = several[contradicts], marked(chosen, disputed)
    counts = _together(block[~shared], chosen)
    return counts[np.argsort(counts.time_ns, kind="stable")], rejected


def _chosen(several: Block, first: Int64, equals: Bool, contradicts: Bool, group: Int64, rule: str) -> Block:
    """One sample of each group (G,); `first` says where each begins, `equals` (K,) which are as good as its first."""
    if rule == "last":
        last = first.copy()
        last[group[equals]] = np.flatnonzero(equals)  # of several the last one is written last
        return several[last]
    chosen = several[first]
    if rule == "mean":
        differ = np.zeros(len(first), dtype=np.bool_)
        differ[group[contradicts]] = True
        total = np.bincount(group[equals], several.value[equals], len(first))
        count = np.bincount(group[equals], minlength=len(first))
        chosen.value[differ] = total[differ] / count[differ]
    return chosen


def _together(one: Block, other: Block) -> Block:
    names = ("time_ns", "value", "code", "worth", "row", "source")
    return Block(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in names))


def outside(spec: PlantSpec, tag: str, block: Block) -> Bool:
    """(K,) usable values outside the tag's range; of an action outside its limits by more than a rounding."""
    value = block.value
    if spec.tags[tag].role != "action":
        low, high = spec.tags[tag].range
    else:
        low, high = spec.limits(tag)
        slack = ROUNDING * (high - low)
        low, high = low - slack, high + slack
    return (block.worth < USELESS) & ~((value >= low) & (value <= high))
