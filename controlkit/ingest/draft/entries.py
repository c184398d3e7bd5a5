"""One tag's entry in a proposed plant file: fields in YAML, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from controlkit.ingest.columns import same_unit
from controlkit.ingest.draft.numbers import command_limits, largest_rate, measured_range, safe_value
from controlkit.ingest.draft.relations import Relations
from controlkit.ingest.draft.roles import Part
from controlkit.ingest.draft.sample import TagSample
from controlkit.ingest.draft.signals import Signal
from controlkit.ingest.draft.storage import compression_of, extrapolates, frozen_note, longest_silence_s, spike_note
from controlkit.ingest.draft.tag_names import NameHint
from controlkit.spec import UNITS

# Past samples beside the delay, and of a measurement.
A_FEW = 3
LONGEST_HISTORY = 200


@dataclass
class Entry:
    """One tag of the plant file: `fields` in YAML in their order, `why` by field, `notes` as comments below."""

    name: str
    tag: str
    fields: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, key: str, text: str, why: str = "") -> None:
        """Sets a field, and its reason."""
        self.fields[key] = text
        if why:
            self.why[key] = why


def entry_of(
    tag: str,
    names: Mapping[str, str],
    sample: TagSample,
    signal: Signal,
    hint: NameHint,
    parts: Mapping[str, Part],
    relations: Relations,
    period_s: float,
) -> Entry:
    """The entry of the tag `tag` (its name in the log; `names` has the plant file's)."""
    part, entry = parts[tag], Entry(names[tag], tag)
    entry.put("role", part.role, part.why)
    _put_unit(entry, sample, signal, hint, part)
    unit = entry.fields["unit"].strip('"')
    if entry.name != tag:
        entry.put("column", _quoted(tag))
    if part.role == "ignore":
        entry.put("range", _plain_range(sample))
        return entry
    if part.role == "action":
        _put_action(entry, sample, signal, unit, period_s)
    else:
        found = measured_range(sample, signal, unit)
        entry.put("range", found.text, found.why)
    if part.role in ("state", "exogenous", "action"):
        _put_history(entry, tag, parts, relations)
    if part.role == "mode":
        _put_accept(entry, signal)
    if part.of is not None:
        entry.put("of", names[part.of])
    if part.role in ("state", "exogenous", "feedback"):
        _put_storage(entry, signal, period_s)
    return entry


def _put_unit(entry: Entry, sample: TagSample, signal: Signal, hint: NameHint, part: Part) -> None:
    stated = stated_unit(sample)
    if stated in UNITS:
        entry.put("unit", _quoted(stated) if stated in ("1", "%") else stated, "as the log says")
        return
    if stated is not None:
        entry.put("unit", '"1"', f"TODO the log says '{stated}', which is no unit of a plant file")
        return
    looks_percent = part.role in ("action", "feedback") and 1.5 < sample.high <= 105 and sample.low >= -5
    guess = "%" if looks_percent and signal.levels > 2 and hint.kind in ("command", "feedback") else hint.unit
    if guess == "%" and not (sample.low >= -5 and sample.high <= 105):
        guess = "m" if hint.unit == "%" and hint.kind != "feedback" else None
    if guess is not None and part.role != "mode":
        entry.put("unit", _quoted(guess) if guess == "%" else guess, "GUESSED from the name: the log does not say")
    else:
        entry.put("unit", '"1"', "the log does not say" if part.role != "ignore" else "")


def _put_action(entry: Entry, sample: TagSample, signal: Signal, unit: str, period_s: float) -> None:
    whole, limits = command_limits(sample, signal, unit)
    entry.put("range", whole.text, whole.why if whole.text != limits.text else limits.why)
    if whole.text != limits.text:
        entry.put("limits", limits.text, limits.why)
    rate = largest_rate(signal, period_s)
    if rate is not None:
        entry.put("max_rate_per_s", rate.text, rate.why)
    entry.put("safe", f"{safe_value(signal, limits):.10g}", "SET THIS: the median of the log is a place holder only")
    entry.put("fallback", "{kind: hold}", "SET THIS: what acts while the controller may not: hold, ramp, pi, operator")


def _put_history(entry: Entry, tag: str, parts: Mapping[str, Part], relations: Relations) -> None:
    role = parts[tag].role
    delays = delays_of(relations, parts, tag) if role in ("action", "exogenous") else {}
    if not delays:
        entry.put("history", f"{A_FEW}", "a few past samples, which show how fast it moves")
        return
    longest = max(delays, key=lambda state: delays[state])
    # The newest command is no history, so that a delay of d sample times asks for d - 1 past ones.
    steps = min(LONGEST_HISTORY, delays[longest] - 1 + A_FEW)
    signs = {state: "+" if relations.direction(tag, state) > 0 else "-" for state in delays}
    seen = ", ".join(f"{state} {signs[state]} after {d * relations.period_s:g} s" for state, d in delays.items())
    entry.put("history", f"{steps}", f"the longest delay and {A_FEW} more; seen: {seen}")


def _put_accept(entry: Entry, signal: Signal) -> None:
    values, counts = np.unique(signal.value, return_counts=True)
    usual = values[counts.argmax()]
    shares = ", ".join(f"{value:g} ({100 * n / counts.sum():.0f} %)" for value, n in zip(values, counts, strict=True))
    entry.put("accept", f"[{usual:g}]", f"the most frequent; CHECK which mean that the log may be used. Seen: {shares}")


def _put_storage(entry: Entry, signal: Signal, period_s: float) -> None:
    found = compression_of(signal)
    if found is not None:
        entry.put("compression", found.text, found.why)
    elif signal.long_interval_s > 2.9 * period_s:
        silence = longest_silence_s(signal)
        entry.put(
            "max_age_s", f"{3 * silence:.10g}", f"it is stored every {signal.interval_s:g} s, {silence:g} s at most"
        )
    if extrapolates(signal, period_s):
        entry.put("interpolation", "linear", "a line through its last two samples foretells the next one better")
    entry.notes += [note for note in (frozen_note(signal), spike_note(signal)) if note is not None]


def delays_of(relations: Relations, parts: Mapping[str, Part], cause: str) -> dict[str, int]:
    """State -> sample times until it shows what a tag does."""
    if cause not in relations.names:
        return {}
    states = [
        name for name, part in parts.items() if part.role == "state" and name in relations.names and name != cause
    ]
    found = {state: relations.delay(cause, state) for state in states}
    return {state: delay for state, delay in found.items() if delay is not None}


def stated_unit(sample: TagSample) -> str | None:
    """The unit that the log states, in a plant file's spelling where there is one."""
    return same_unit(sample.unit) if sample.unit is not None and sample.unit.strip() else None


def _plain_range(sample: TagSample) -> str:
    if not np.isfinite(sample.low) or not np.isfinite(sample.high):
        return "[0, 1]"
    margin = 0.1 * (sample.high - sample.low) or max(1.0, 0.1 * abs(sample.low))
    return f"[{sample.low - margin:.4g}, {sample.high + margin:.4g}]"


def _quoted(text: str) -> str:
    """Text in double quotes for YAML."""
    return json.dumps(text, ensure_ascii=False)
