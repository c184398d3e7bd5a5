"""How the plant was run while the log was written: whether its valves did what they were told, and in which modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from controlkit.align import NS
from controlkit.ingest.flags import Flagged, Flags
from controlkit.ingest.stage import BLOCK, USABLE, Stage
from controlkit.spec import PlantSpec

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

# Share of a feedback's samples apart from the command from which on it is worth a sentence.
_WORTH_SAYING = 0.01
APART = "apart from its command"


@dataclass(frozen=True)
class FeedbackAssessment:
    """A feedback against its action's command.

    Attributes:
        feedback, action: names of the tags.
        compared: usable samples of the feedback while the command is known.
        share: of them further than the tolerance from the command for longer than `settle_s`.
        flags: the stretches in which they lie.
        warnings: sentences for the engineer.
    """

    feedback: str
    action: str
    compared: int
    share: float
    flags: tuple[Flagged, ...]
    warnings: tuple[str, ...]


def assess_feedback(spec: PlantSpec, feedback: str, usable: Stage, *, size: int = BLOCK) -> FeedbackAssessment | None:
    """Compares a feedback with the command in force at each of its samples.

    The time for which it lies apart counts from the first sample that does, and anew after a gap of the log.

    Args:
        spec: the plant.
        feedback: name of a feedback tag.
        usable: samples of the feedback and of its action, of kind `USABLE`.
        size: samples that are worked on at a time.

    Returns:
        None where the plant file gives no tolerance.
    """
    tag = spec.tags[feedback]
    if tag.tolerance is None or tag.of is None:
        return None
    if tag.unit != spec.tags[tag.of].unit:
        units = f"{tag.unit} and {spec.tags[tag.of].unit}"
        reason = f"{feedback}: not compared with its command '{tag.of}', as their units differ ({units})"
        return FeedbackAssessment(feedback, tag.of, 0, 0.0, (), (reason,))
    settle_s = 3.0 * spec.period_s if tag.settle_s is None else tag.settle_s
    flags, late = Flags(), _Late(round(settle_s * NS), round(spec.max_gap_s * NS))
    compared = apart = 0
    for time_ns, value, command in _side_by_side(usable, feedback, tag.of, size):
        flagged = late.of(time_ns, np.abs(value - command) > tag.tolerance)
        flags.add(APART, time_ns, flagged)
        compared, apart = compared + len(time_ns), apart + int(flagged.sum())
    share = apart / max(1, compared)
    warnings: tuple[str, ...] = ()
    if share > _WORTH_SAYING:
        warnings = (
            f"{feedback}: {100 * share:.1f} % of its samples lie further than {tag.tolerance:g} {tag.unit} from the "
            f"command '{tag.of}' for longer than {settle_s:g} s: a valve that sticks, a local override, or a slow "
            "actuator",
        )
    return FeedbackAssessment(feedback, tag.of, compared, share, flags.result(), warnings)


def accepted_share(
    spec: PlantSpec, mode: str, usable: Stage, first_ns: int, last_ns: int, *, size: int = BLOCK
) -> float:
    """The share of the time from `first_ns` to `last_ns` in which a mode tag shows a value that is accepted.

    A value holds until the next sample, but no longer than the tag's `max_age_s`. While the mode is not known (before
    its first sample, and after one that is not good) it is not accepted.
    """
    if last_ns <= first_ns:
        return 0.0
    oldest = spec.max_age_s(mode) * NS
    accepted = 0.0
    held = usable.read(mode, 0, 0)
    end = np.array([(last_ns, np.nan)], dtype=USABLE)
    for block in chain(usable.blocks(mode, size), [end]):
        samples = np.concatenate([held, block])
        since = samples["time_ns"] - first_ns
        until = np.minimum(since[1:], since[:-1] + oldest)  # an age counts from the sample, not from the first_ns
        seen = np.clip(until, 0, last_ns - first_ns) - np.clip(since[:-1], 0, last_ns - first_ns)
        accepted += float(np.maximum(seen, 0)[np.isin(samples["value"][:-1], spec.tags[mode].accept)].sum())
        held = samples[-1:]
    return accepted / (last_ns - first_ns)


class _Late:
    """Which samples lie apart for longer than they may: `settle_ns` after the first of their stretch."""

    def __init__(self, settle_ns: int, gap_ns: int) -> None:
        self._settle, self._gap = settle_ns, gap_ns
        self._since: int | None = None  # stamp since which the samples lie apart
        self._last = 0

    def of(self, time_ns: Int64, apart: Bool) -> Bool:
        """(K,) for the next samples: their stamps (K,), and which of them lie apart (K,)."""
        if not len(time_ns):
            return apart
        fresh = np.diff(time_ns, prepend=self._last) > self._gap
        fresh |= ~np.append(self._since is not None, apart[:-1])
        start = np.maximum.accumulate(np.where(fresh, np.arange(len(time_ns)), -1))
        since = np.where(start >= 0, time_ns[np.maximum(start, 0)], self._since or 0)
        self._since = int(since[-1]) if apart[-1] else None
        self._last = int(time_ns[-1])
        late: Bool = apart & (time_ns - since > self._settle)
        return late


def _side_by_side(usable: Stage, feedback: str, action: str, size: int) -> Iterator[tuple[Int64, Float64, Float64]]:
    """Stamps and values of a feedback's samples, and the command in force at each, while it is known."""
    commands = usable.read(action, 0, size)
    read = len(commands)
    if not read:
        return
    for block in usable.blocks(feedback, size):
        while len(block):
            known = read >= usable.count(action)
            end = len(block) if known else int(np.searchsorted(block["time_ns"], commands["time_ns"][-1], side="right"))
            part, block = block[:end], block[end:]
            last = np.searchsorted(commands["time_ns"], part["time_ns"], side="right") - 1
            told = (last >= 0) & ~np.isnan(commands["value"][np.maximum(last, 0)])
            part, last = part[told], last[told]
            yield part["time_ns"].copy(), part["value"].copy(), commands["value"][last]
            if len(block):
                commands = np.concatenate([commands[-1:], usable.read(action, read, read + size)])
                read += len(commands) - 1
