"""Too much in quarantine stops an ingest: what cannot be understood is then no accident of the log."""

from __future__ import annotations

from controlkit.errors import DataError
from controlkit.ingest import sample_rules as rules
from controlkit.ingest.quarantine import Quarantined
from controlkit.ingest.sources import clock
from controlkit.ingest.sources.staged import StagedLog
from controlkit.spec import PlantSpec

# What to do about a reason, where the plant file has a rule for it.
_CURES = {
    rules.BACKWARD: "sort the log or set 'log.on_backward: sort'",
    rules.CONTRADICTION: "keep one value of each stamp or set 'log.on_duplicate'",
    rules.OUTSIDE_LIMITS: "mend 'limits' of that action",
    clock.TWICE: "export in UTC, or say by 'log.on_fold' which of the two is meant",
    clock.SKIPPED: "export in UTC, or set 'log.on_skip: shift'",
}
_NAMED = 3  # sources in a message


def require_few_quarantined(spec: PlantSpec, log: StagedLog) -> None:
    """Stops where more than `log.max_quarantined` of all rows are in quarantine; several cells of a row count once.

    Raises:
        DataError: how many rows of which reasons, the first of each with file and line, and what to do.
    """
    total = sum(source.rows for source in log.sources)
    entries = log.quarantine.listed
    # Beyond what is listed the cells are taken to lie in as many rows as those that are.
    rows = len({(entry.source, entry.row) for entry in entries}) / max(1, len(entries)) * len(log.quarantine)
    if rows <= spec.log.max_quarantined * total:
        return
    first: dict[str, Quarantined] = {}
    for entry in entries:
        first.setdefault(entry.reason, entry)
    counts = sorted(log.quarantine.counts().items(), key=lambda item: (-item[1], item[0]))
    reasons = "; ".join(f"{count} times '{reason}', first {_example(log, first[reason])}" for reason, count in counts)
    cures = [_CURES[reason] for reason, _ in counts if reason in _CURES]
    raise DataError(
        f"{rows:.0f} of {total} rows ({100 * rows / max(total, 1):.2g} %) cannot be used, more than the "
        f"{100 * spec.log.max_quarantined:g} % of 'log.max_quarantined': {reasons}",
        where=sources_of(log),
        cure=_sentence(", ".join([*cures, "mend the log, or raise 'log.max_quarantined' if these rows can be spared"])),
    )


def sources_of(log: StagedLog) -> str:
    """The sources of a log for a message: the first few."""
    named = [source.location for source in log.sources[:_NAMED]]
    more = len(log.sources) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _example(log: StagedLog, entry: Quarantined) -> str:
    tag = f" of tag '{entry.tag}'" if entry.tag else ""
    return f"'{entry.text}'{tag} in {log.place(entry.source, entry.row)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
