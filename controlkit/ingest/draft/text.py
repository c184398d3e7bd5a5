"""A proposal as YAML with a reason behind every guess, and as a few sentences for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from controlkit.ingest.draft.entries import Entry
from controlkit.ingest.draft.proposal import Proposal
from controlkit.ingest.draft.sample import LogSample

_COLUMN = 34  # where comments begin
_ROLES = ("state", "action", "exogenous", "static", "feedback", "mode", "ignore")


def yaml_of(proposal: Proposal, logs: Sequence[LogSample], name: str) -> str:
    """The plant file.

    Args:
        proposal: what was found.
        logs: the sources.
        name: of the plant.
    """
    period = proposal.period
    lines = [
        f"# Proposed by 'controlkit ingest --check' from {', '.join(log.name for log in logs)}.",
        "# Every entry is a guess with its reason. Edit what is wrong, then ingest the log with this file.",
        "# What only you can say is marked TODO, CHECK, GUESS or SET THIS.",
        f"name: {name}",
        _line("period_s", f"{period.seconds:g}", period.why),
        _line("time_zone", "UTC", _zone_note(logs)),
        *_log_rules(logs),
        "tags:",
    ]
    for role in _ROLES:
        for entry in proposal.entries:
            if entry.fields["role"] == role:
                lines += _tag_lines(entry)
    term, why = proposal.objective
    lines += [f"objective:  # {why}", f"  - {term}"]
    if proposal.max_gap_s is not None:
        why = "the measured tags are silent for half of that"
        lines += ["episodes:", _line("  max_gap_s", f"{proposal.max_gap_s:g}", why)]
    return "\n".join(lines) + "\n"


def notes_of(proposal: Proposal, logs: Sequence[LogSample]) -> tuple[str, ...]:
    """What to look at first."""
    roles = Counter(entry.fields["role"] for entry in proposal.entries)
    counted = ", ".join(f"{roles[role]} {role}" for role in _ROLES if roles[role])
    rows = sum(tag.samples for log in logs for tag in log.tags.values())
    forms = " and ".join(sorted({log.form for log in logs}))
    notes = [
        f"{rows} samples of {len(proposal.entries)} tags, {forms} form: {counted}",
        f"sample period {proposal.period.seconds:g} s: {proposal.period.why}",
    ]
    for entry in proposal.entries:
        if entry.fields["role"] == "action":
            notes.append(f"action {entry.name}: {entry.why['history']}; set 'safe' and 'fallback'")
    notes += [
        f"{entry.name}: {entry.why['role']}" for entry in proposal.entries if "GUESS" in entry.why.get("role", "")
    ]
    if any(log.naive for log in logs):
        notes.append("the time stamps have no zone: set 'time_zone' (they are taken for UTC)")
    if (why := _order_note(logs)) and "CHECK" in why:
        notes.append("no time stamp tells whether the day or the month comes first: look at 'log.day_first'")
    if not all(log.whole for log in logs):
        notes.append("the log is long: delays and ranges are from eight stretches of it, extremes from all")
    notes.append(f"objective: {proposal.objective[1]}")
    return tuple(notes)


def _tag_lines(entry: Entry) -> list[str]:
    if entry.fields["role"] == "ignore":
        inside = ", ".join(f"{key}: {text}" for key, text in entry.fields.items())
        return [_line(f"  {entry.name}", f"{{{inside}}}", entry.why.get("role", ""))]
    lines = [f"  {entry.name}:"]
    lines += [_line(f"    {key}", text, entry.why.get(key, "")) for key, text in entry.fields.items()]
    return lines + [f"    # {note}" for note in entry.notes]


def _line(key: str, text: str, why: str) -> str:
    plain = f"{key}: {text}"
    return f"{plain:<{_COLUMN}}  # {' '.join(why.split())}" if why else plain


def _zone_note(logs: Sequence[LogSample]) -> str:
    if any(log.naive for log in logs):
        return "CHECK: the log's time stamps have no zone; name the plant's, such as Europe/Berlin"
    return "the log's time stamps say their zone themselves"


def _log_rules(logs: Sequence[LogSample]) -> list[str]:
    """Section `log`, where the defaults will not do."""
    columns = {field: column for log in logs for field, column in log.columns.items()}
    reasons = {field: why for log in logs for field, why in log.reasons.items()}
    lines = []
    if columns:
        lines.append("  columns:")
        lines += [_line(f"    {field}", _quoted(column), reasons.get(field, "")) for field, column in columns.items()]
    order = next((log.day_first for log in logs if log.doubtful), None)
    if order is not None:
        lines.append(_line("  day_first", str(order).lower(), _order_note(logs)))
    if any(log.backward for log in logs):
        lines.append(_line("  on_backward", "sort", "some stamps lie before the one before them"))
    return ["log:", *lines] if lines else []


def _order_note(logs: Sequence[LogSample]) -> str:
    """Why the day comes before the month or after it, where some file leaves that open."""
    if not any(log.doubtful for log in logs):
        return ""
    told = {log.day_first for log in logs if log.day_first is not None and not log.doubtful}
    if len(told) == 1:
        return "some files do not tell, the others do"
    return "CHECK: no time stamp tells; is 03/04/2024 the third of April, or the fourth of March?"


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
