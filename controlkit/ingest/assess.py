"""The quality of a log, tag by tag: every sample is accounted for, and those that can be used are written out.

Nothing here guesses or repairs. A sample that contradicts the log itself (a stamp that goes back, a second value of one
stamp, a command outside its limits) goes to quarantine, unless a rule of the plant file says what it means. Samples
that the historian marks as not good, values outside the tag's range, and values of a sensor that is taken for frozen
are counted, flagged and not used: the last good value grows old instead, and the log is cut where it is too old. A
command or a mode holds until the next one, and so one that is not good or in quarantine is written as unknown. Spikes
are flagged and used. What stops an ingest here is a tag from which nothing can be learned (no good sample; a state or
action that never changes), and a range or unit that does not fit the log.

A tag passes through memory in blocks, and comes out the same whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from controlkit.align import Run, frozen_samples
from controlkit.errors import DataError
from controlkit.ingest import sample_rules as rules
from controlkit.ingest.figures import Figures, Spread, spikes
from controlkit.ingest.flags import Flagged, Flags
from controlkit.ingest.order import in_order
from controlkit.ingest.sample_rules import Account, Block
from controlkit.ingest.sources.staged import StagedLog
from controlkit.ingest.stage import BLOCK, USABLE, Code, Stage
from controlkit.ingest.stop_rule import require_few_quarantined, sources_of
from controlkit.ingest.tag_warnings import Strays, tag_warnings
from controlkit.spec import FRAME_ROLES, PlantSpec

# So few samples out of range are spikes of a sensor in any log, however short.
FEW = 10

_LEFT_OUT = {Code.BAD: "bad quality", Code.UNCERTAIN: "uncertain", Code.SUBSTITUTED: "substituted"}


@dataclass(frozen=True)
class TagAssessment:
    """What is known about one tag.

    Attributes:
        tag: its name.
        account: what became of its samples.
        low, high, mean, std: of the used values, in the tag's unit; None without any.
        flags: stretches of samples that are not good, out of range, frozen, or spikes.
        warnings: sentences for the engineer, each beginning with the tag.
        first_ns, last_ns: stamps of the first and last used sample.
    """

    tag: str
    account: Account
    low: float | None
    high: float | None
    mean: float | None
    std: float | None
    flags: tuple[Flagged, ...]
    warnings: tuple[str, ...]
    first_ns: int | None = None
    last_ns: int | None = None


def assess(
    spec: PlantSpec, tag: str, log: StagedLog, usable: Stage, *, max_bad_share: float = 0.01, size: int = BLOCK
) -> TagAssessment:
    """Assesses one tag, and writes its usable samples.

    Args:
        spec: the plant.
        tag: its name in the plant file; not one with role `ignore`.
        log: what was read. Samples that contradict it are added to its quarantine.
        usable: takes the usable samples, of kind `USABLE`, with stamps that rise. A sample of an action or a mode that
            is not usable is written as NaN: it is no reason to trust the one before it.
        max_bad_share: the largest share of samples outside the tag's range; a larger share of samples that are not good
            or missing is a warning.
        size: samples that are worked on at a time.

    Raises:
        DataError: see the top of this file; names file, line and cure.
    """
    work = _Work(spec, tag, log)
    blocks = in_order(
        log.stage, tag, sort=spec.log.on_backward == "sort", rejected=work.backward,
        one_source=len(log.sources) == 1, size=size,
    )  # fmt: skip
    for samples in blocks:
        usable.append_tag(tag, work.take(samples))
    work.check(max_bad_share)
    z = spec.tags[tag].spike_z
    if z is not None and spec.tags[tag].role != "mode":
        work.find_spikes(usable, z, size)
    return work.result(max_bad_share)


class _Work:
    """One tag on its way through the rules, with what has to be remembered from block to block."""

    def __init__(self, spec: PlantSpec, tag: str, log: StagedLog) -> None:
        self.spec, self.tag, self.log, self.rule = spec, tag, log, spec.tags[tag]
        self.held = self.rule.role in rules.HELD_ROLES
        self.account = Account()
        self.figures, self.flags = Figures(), Flags()
        self.intervals = Spread(log.stage.count(tag))
        self.found = Strays()
        self.first_outside: tuple[str, float] | None = None  # place and value
        self._run: Run | None = None
        self._last_ns: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def backward(self, samples: npt.NDArray[np.void]) -> None:
        """Takes samples whose stamp goes back."""
        samples = samples[samples["code"] != Code.UNREADABLE]
        self._count(samples=len(samples))
        self._quarantine(rules.columns(samples, self.spec.log), rules.BACKWARD, rules.stamp_text)

    def take(self, samples: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Takes the next samples, and gives back those that can be used."""
        block = rules.columns(samples, self.spec.log)
        block = self._one_of_each(self._with_value(block))
        if self.rule.role == "action":
            block = self._within_limits(block)
        self._watch_intervals(block)
        outside = rules.outside(self.spec, self.tag, block)
        used = (block.worth < rules.USELESS) & ~outside
        frozen = self._frozen(block, used)
        used &= ~frozen
        self._flag(block, outside, frozen)
        self._count(used=int(used.sum()), frozen=int(frozen.sum()), out_of_range=int(outside.sum()))
        self._note_outside(block, outside)
        self.figures.add(block.time_ns[used], block.value[used])
        return self._usable(block, used)

    def _with_value(self, block: Block) -> Block:
        """Leaves out the cells without a value, and good samples that are no number."""
        self._count(samples=_counted(block))
        empty = block.code == Code.EMPTY
        if empty.any():
            self._count(empty=int(empty.sum()))
            block = block[~empty]
        wrong = (block.worth < rules.USELESS) & ~np.isfinite(block.value)
        if wrong.any():
            self._quarantine(block[wrong], rules.NO_MEASUREMENT, rules.value_text)
            block = self._without(block, wrong)
        return block

    def _without(self, block: Block, wrong: npt.NDArray[np.bool_]) -> Block:
        """Leaves out what went to quarantine, or a mark in its place: what was said then still counts."""
        return rules.marked(block, wrong) if self.held else block[~wrong]

    def _one_of_each(self, block: Block) -> Block:
        rule = self.spec.log.on_duplicate
        if rule == "mean" and self.rule.role == "mode":
            rule = "reject"  # halfway between two modes lies none
        counts, rejected = rules.one_of_each_stamp(block, rule, held=self.held)
        self._count(merged=_counted(block) - _counted(counts) - len(rejected))
        self._quarantine(rejected, rules.CONTRADICTION, rules.value_text)
        return counts

    def _within_limits(self, block: Block) -> Block:
        wrong = rules.outside(self.spec, self.tag, block)
        if wrong.any():
            self._quarantine(block[wrong], rules.OUTSIDE_LIMITS, rules.value_text)
            block = self._without(block, wrong)
        low, high = self.spec.limits(self.tag)
        return replace(block, value=np.where(block.worth < rules.USELESS, np.clip(block.value, low, high), block.value))

    def _watch_intervals(self, block: Block) -> None:
        self.intervals.add(np.diff(np.concatenate([self._last_ns, block.time_ns])))
        self._last_ns = block.time_ns[-1:] if len(block) else self._last_ns

    def _frozen(self, block: Block, good: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(block), dtype=np.bool_)
        if self.rule.frozen is not None:
            times, values = block.time_ns[good], block.value[good]
            found[good], self._run = frozen_samples(times, values, self.rule.frozen, self._run)
        return found

    def _flag(self, block: Block, outside: npt.NDArray[np.bool_], frozen: npt.NDArray[np.bool_]) -> None:
        for code, reason in _LEFT_OUT.items():
            marked = block.code == code
            self.flags.add(reason, block.time_ns, marked)
            # One that a rule lets be used counts by what its value is.
            self._count(**{reason.replace(" ", "_"): int((marked & (block.worth == rules.USELESS)).sum())})
        self.flags.add("out of range", block.time_ns, outside)
        self.flags.add("frozen", block.time_ns, frozen)

    def _note_outside(self, block: Block, outside: npt.NDArray[np.bool_]) -> None:
        value, strays = block.value[block.worth < rules.USELESS], self.found
        strays.low = min(strays.low, float(value.min(initial=np.inf)))
        strays.high = max(strays.high, float(value.max(initial=-np.inf)))
        if not outside.any():
            return
        if self.rule.range[0] >= 0:
            strays.negative += int((block.value[outside] < 0).sum())
        if self.first_outside is None:
            i = int(outside.argmax())
            place = self.log.place(int(block.source[i]), int(block.row[i]))
            self.first_outside = place, float(block.value[i])

    def _usable(self, block: Block, used: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
        if self.held:
            block = replace(block, value=np.where(used, block.value, np.nan))
        else:
            block = block[used]
        made = np.empty(len(block), dtype=USABLE)
        made["time_ns"], made["value"] = block.time_ns, block.value
        return made

    def _count(self, **more: int) -> None:
        self.account = replace(self.account, **{name: getattr(self.account, name) + n for name, n in more.items()})

    def _quarantine(self, block: Block, reason: str, text: rules.Text) -> None:
        self._count(quarantined=len(block))
        rules.quarantine(self.log.quarantine, self.tag, block, reason, text)

    def check(self, max_bad_share: float) -> None:
        """Stops at what makes the tag useless.

        Raises:
            DataError: see `assess`.
        """
        account, role, name = self.account, self.rule.role, self.tag
        measured = account.used + account.out_of_range + account.frozen
        if (
            self.first_outside is not None
            and account.out_of_range > max(FEW, max_bad_share * measured)
            and role in (*FRAME_ROLES, "mode")
        ):
            place, value = self.first_outside
            low, high = self.rule.range
            raise DataError(
                f"{account.out_of_range} of {measured} values of tag '{name}' lie outside its range "
                f"[{low:g}, {high:g}] {self.rule.unit}, the first is {value:g}; the values reach from "
                f"{self.found.low:g} to {self.found.high:g}",
                where=place,
                cure="Mend the range or the unit in the plant file, or mark these samples bad in a quality column.",
            )
        if not account.used and role != "feedback":
            why = ", ".join(f"{count} {reason}" for reason, count in _unused(account).items())
            told = [warning.rstrip(".") for source in self.log.sources for warning in source.warnings]
            self._refuse(
                "; ".join([f"tag '{name}' has no good sample" + (f" ({why})" if why else ""), *told]),
                "Check its values, quality codes and range.",
            )
        if role in ("state", "action") and self.figures.low == self.figures.high:
            self._refuse(
                f"{role} '{name}' never changes: it is {self.figures.low:g} in all {account.used} good samples",
                "Bring a log in which it moves; a measured tag that stands still by nature has role 'static'.",
            )

    def _refuse(self, what: str, cure: str) -> NoReturn:
        require_few_quarantined(self.spec, self.log)  # the better reason, where there is too much of it
        raise DataError(what, where=sources_of(self.log), cure=cure)

    def find_spikes(self, usable: Stage, z: float, size: int) -> None:
        """Flags what sticks out of the usable samples."""
        times, numbers = spikes(usable, self.tag, z, size)
        self.found.spikes = len(times)
        # Spikes that follow each other are one stretch; between two others stands a sample that is none.
        apart = np.flatnonzero(np.diff(numbers) > 1) + 1
        stamps = np.insert(times, apart, times[apart - 1] if len(apart) else 0)
        flagged = np.insert(np.ones(len(times), dtype=np.bool_), apart, False)
        self.flags.add("spike", stamps, flagged)

    def result(self, max_bad_share: float) -> TagAssessment:
        """The assessment."""
        figures = self.figures
        known = bool(figures.count)
        return TagAssessment(
            tag=self.tag,
            account=self.account,
            low=figures.low if known else None,
            high=figures.high if known else None,
            mean=figures.mean if known else None,
            std=figures.std if known else None,
            flags=self.flags.result(),
            warnings=tag_warnings(
                self.spec, self.tag, self.account, figures, self.found, self.intervals, max_bad_share
            ),
            first_ns=figures.first_ns,
            last_ns=figures.last_ns,
        )


def _counted(block: Block) -> int:
    """How many samples there are, without the marks."""
    return int((block.code != Code.UNREADABLE).sum())


def _unused(account: Account) -> dict[str, int]:
    names = ("bad_quality", "uncertain", "substituted", "empty", "out_of_range", "frozen", "quarantined")
    return {name.replace("_", " "): count for name in names if (count := getattr(account, name))}
