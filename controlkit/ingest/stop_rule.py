"""Too much in quarantine stops an ingest: what cannot be understood is then no accident of the log.

`log.max_quarantined` holds for the rows of all tags that are used, and for the samples of each of them: a tag that is
all rubbish is no accident either, however many others there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controlkit.errors import DataError
from controlkit.ingest import sample_rules as rules
from controlkit.ingest.quarantine import Quarantined
from controlkit.ingest.sources import clock
from controlkit.ingest.sources.staged import StagedLog, StagedSource
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    from controlkit.ingest.assess import TagAssessment

# What to do about a reason, where the plant file has a rule for it.
_CURES = {
    rules.BACKWARD: "sort the log or set 'log.on_backward: sort'",
    rules.CONTRADICTION: "keep one value of each stamp or set 'log.on_duplicate'",
    rules.OUTSIDE_LIMITS: "mend 'limits' of that action",
    clock.TWICE: "export in UTC, or say by 'log.on_fold' which of the two is meant",
    clock.SKIPPED: "export in UTC, or set 'log.on_skip: shift'",
}
_NAMED = 3  # sources in a message
_FEW = 10  # samples of one tag in quarantine are an accident in any log, however short


def require_few_quarantined(spec: PlantSpec, log: StagedLog) -> None:
    """Stops where more than `log.max_quarantined` of all rows are in quarantine; several cells of a row count once.

    Rows that hold nothing but ignored tags do not count.

    Raises:
        DataError: how many rows of which reasons, the first of each with file and line, and what to do.
    """
    total = sum(_used_rows(source) for source in log.sources)
    rows = log.quarantine.rows
    if rows <= spec.log.max_quarantined * total:
        return
    reasons, cures = _reasons(log, log.quarantine.counts(), log.quarantine.listed)
    raise DataError(
        f"{rows} of {total} rows ({100 * rows / max(total, 1):.3g} %) cannot be used, more than the "
        f"{100 * spec.log.max_quarantined:g} % of 'log.max_quarantined': {reasons}",
        where=sources_of(log),
        cure=_sentence(", ".join([*cures, "mend the log, or raise 'log.max_quarantined' if these rows can be spared"])),
    )


def require_few_of_each_tag(
    spec: PlantSpec, log: StagedLog, assessed: Mapping[str, TagAssessment] | None = None
) -> None:
    """Stops where more than `log.max_quarantined` of one tag's samples are in quarantine.

    Args:
        spec: the plant.
        log: what was read; its samples are still there, or `assessed` says what became of them.
        assessed: by tag.

    Raises:
        DataError: names the worst of these tags with counts, first examples, and what to do.
    """
    found: dict[str, tuple[float, int, int]] = {}  # share, in quarantine, of how many
    for tag in log.stage.tags:
        count = sum(log.quarantine.counts(tag).values())
        if count > _FEW:
            account = assessed[tag].account if assessed is not None else None
            others = _staged(spec, log, tag) if account is None else account.samples - account.quarantined
            if count > spec.log.max_quarantined * (count + others):
                found[tag] = count / (count + others), count, count + others
    if not found:
        return
    tag = max(found, key=lambda name: found[name][0])
    share, count, total = found[tag]
    mine = [entry for entry in log.quarantine.listed if entry.tag == tag]
    reasons, cures = _reasons(log, log.quarantine.counts(tag), mine)
    more = f"; so it is with {len(found) - 1} more tags" if len(found) > 1 else ""
    raise DataError(
        f"{count} of {total} samples of tag '{tag}' ({100 * share:.3g} %) cannot be used, more than the "
        f"{100 * spec.log.max_quarantined:g} % of 'log.max_quarantined': {reasons}{more}",
        where=sources_of(log),
        cure=_sentence(
            ", ".join([*cures, "mend the log, give the tag the role 'ignore', or raise 'log.max_quarantined'"])
        ),
    )


def sources_of(log: StagedLog) -> str:
    """The sources of a log for a message: the first few."""
    named = [source.location for source in log.sources[:_NAMED]]
    more = len(log.sources) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _staged(spec: PlantSpec, log: StagedLog, tag: str) -> int:
    """How many samples of a tag are staged, without the marks of those that went to quarantine while reading."""
    held = spec.tags[tag].role in rules.HELD_ROLES
    return log.stage.count(tag) - (log.quarantine.counts(tag).get(rules.NO_MEASUREMENT, 0) if held else 0)


def _used_rows(source: StagedSource) -> int:
    """The rows of a source that say something of a tag that is used."""
    if source.form == "long":
        return source.rows - source.ignored
    return source.rows if source.samples > source.ignored else 0


def _reasons(log: StagedLog, counted: Mapping[str, int], entries: Sequence[Quarantined]) -> tuple[str, list[str]]:
    """The reasons, those that come most often first, each with its first example; and what to do about them."""
    first: dict[str, Quarantined] = {}
    for entry in entries:
        first.setdefault(entry.reason, entry)
    counts = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    reasons = "; ".join(f"{count} times '{reason}', first {_example(log, first[reason])}" for reason, count in counts)
    return reasons, [_CURES[reason] for reason, _ in counts if reason in _CURES]


def _example(log: StagedLog, entry: Quarantined) -> str:
    tag = f" of tag '{entry.tag}'" if entry.tag else ""
    return f"'{entry.text}'{tag} in {log.place(entry.source, entry.row)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
