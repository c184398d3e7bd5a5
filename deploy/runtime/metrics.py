"""The runtime in Prometheus' text format (exposition format 0.0.4), and the histogram that latencies are counted in."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deploy.runtime.snapshot import MODES, Snapshot

if TYPE_CHECKING:
    from deploy.runtime.status import Reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EDGES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = {
    "score_observed": "Dynamics reward of the observed transition.",
    "score_predicted": "Dynamics reward of the predicted transition.",
    "spread": "Disagreement of the ensemble about the predicted transition.",
    "shortfall": "Standardised shortfall of the observed transition.",
    "ewma": "Moving average of the shortfall.",
    "cusum": "Cumulative sum of the shortfall.",
}

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float | None]]


@dataclass(frozen=True)
class Histogram:
    """Durations counted by size.

    Attributes:
        counts: how many lie in each interval that ends at an edge of `EDGES_S`; the last has no end.
        total_s: their sum.
    """

    counts: tuple[int, ...] = (0,) * (len(EDGES_S) + 1)
    total_s: float = 0.0

    def with_value(self, seconds: float) -> Histogram:
        """One more; what is no duration is left out."""
        if not 0.0 <= seconds < math.inf:
            return self
        place = bisect_left(EDGES_S, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return replace(self, counts=counts, total_s=self.total_s + seconds)


def metrics_text(reading: Reading) -> str:
    """Everything that a monitoring system may want to plot or to wake somebody for.

    What is not known has no sample: a gap in a plot, not a zero. Flags and faults have one only while they hold.
    """
    up = _family("up", "gauge", "1 while the runtime's newest cycle is fresh.", [({}, float(not reading.stale))])
    if reading.snapshot is None:
        return "".join(up)
    parts = [up, _state(reading.snapshot, reading.age_s), _plant(reading.snapshot), _trust(reading.snapshot)]
    parts += [_troubles(reading.snapshot), _counters(reading.snapshot)]
    parts += [_histogram("compute_seconds", "Time of the controller in a cycle.", reading.compute)]
    parts += [_histogram("cycle_seconds", "Time of a whole cycle.", reading.cycle)]
    return "".join(line for lines in parts for line in lines)


def _state(snapshot: Snapshot, age_s: float) -> Iterable[str]:
    about = {"plant": snapshot.plant, "controller": snapshot.controller}
    yield from _family("info", "gauge", "What runs here; always 1.", [(about, 1.0)])
    for name, now, what in (
        ("mode", snapshot.mode, "1 for the mode in force."),
        ("wanted_mode", snapshot.wanted, "1 for the mode that was asked for."),
    ):
        yield from _family(name, "gauge", what, [({"mode": mode}, float(mode == now)) for mode in MODES])
    for name, value, what in (
        ("mode_since_timestamp_seconds", snapshot.mode_since_ns / 1e9, "Wall clock of the last change of mode."),
        ("cycle_timestamp_seconds", snapshot.time_ns / 1e9, "Wall clock of the newest cycle."),
        ("cycle_age_seconds", age_s, "Time since the newest cycle ended."),
        ("cycle_number", float(snapshot.cycle), "Number of the newest cycle."),
        ("period_seconds", snapshot.period_s, "The controller's period."),
    ):
        yield from _family(name, "gauge", what, [({}, value)])


def _plant(snapshot: Snapshot) -> Iterable[str]:
    tags = snapshot.tags
    values = [({"tag": tag.name, "unit": tag.unit}, tag.value) for tag in tags]
    usable = [({"tag": tag.name}, float(tag.usable)) for tag in tags]
    ages = [({"tag": tag.name}, tag.age_s) for tag in tags]
    yield from _family("tag_value", "gauge", "Measured value.", values)
    yield from _family("tag_usable", "gauge", "1 where the controller may use the value.", usable)
    yield from _family("tag_age_seconds", "gauge", "Age of the value.", ages)
    for name, what in (
        ("in_force", "Command in force, as the plant echoes it."),
        ("action", "What the controller issues."),
        ("policy", "What the policy would command."),
        ("fallback", "What the fallback would command."),
    ):
        wishes = [({"command": one.name, "unit": one.unit}, getattr(one, name)) for one in snapshot.commands]
        yield from _family(f"command_{name}", "gauge", what, wishes)


def _trust(snapshot: Snapshot) -> Iterable[str]:
    yield from _family("trust_ratio", "gauge", "Share of the policy in the action.", [({}, snapshot.trust)])
    for name, what in SCORES.items():
        yield from _family(name, "gauge", what, [({}, getattr(snapshot, name))])
    limits = [({"name": name}, limit) for name, limit in snapshot.limits.items()]
    yield from _family("limit", "gauge", "Threshold that a score or sum is checked by.", limits)


def _troubles(snapshot: Snapshot) -> Iterable[str]:
    for name, raised, what in (
        ("flag", snapshot.flags, "1 for every flag that the graph raises."),
        ("fault", snapshot.faults, "1 for everything that the runtime itself found wrong in the newest cycle."),
    ):
        yield from _family(f"{name}_raised", "gauge", what, [({name: key}, 1.0) for key in raised])
    active = Counter((notice.severity, notice.name) for notice in snapshot.notices if notice.active)
    by_severity: Counter[str] = Counter()
    for (severity, _), count in active.items():
        by_severity[severity] += count
    totals = [({"severity": name}, float(by_severity[name])) for name in ("info", "warning", "alarm")]
    yield from _family("notices_active", "gauge", "Notices that hold now.", totals)
    each = [({"severity": severity, "name": name}, float(count)) for (severity, name), count in active.items()]
    yield from _family("notice_active", "gauge", "How many notices of this name hold now.", each)


def _counters(snapshot: Snapshot) -> Iterable[str]:
    totals: dict[str, tuple[str, int]] = {}
    for key, count in snapshot.counters.items():
        # Two names that come out the same would make the whole page unreadable: they are added up.
        name = re.sub(r"[^a-z0-9_]", "_", key.lower()).removesuffix("_total")
        first, before = totals.get(name, (key, 0))
        totals[name] = (first, before + count)
    for name, (key, count) in totals.items():
        yield from _family(f"{name}_total", "counter", f"'{key}' since the start.", [({}, float(count))])


def _histogram(name: str, what: str, histogram: Histogram) -> Iterable[str]:
    yield from _heading(name, "histogram", what)
    below = 0
    for edge, count in zip((*EDGES_S, math.inf), histogram.counts, strict=True):
        below += count
        yield _sample(f"{name}_bucket", {"le": "+Inf" if edge == math.inf else repr(edge)}, below)
    yield _sample(f"{name}_sum", {}, histogram.total_s)
    yield _sample(f"{name}_count", {}, below)


def _family(name: str, kind: str, what: str, samples: Samples) -> Iterable[str]:
    """Nothing at all for a family without samples."""
    known = [(labels, value) for labels, value in samples if value is not None and math.isfinite(value)]
    if known:
        yield from _heading(name, kind, what)
        for labels, value in known:
            yield _sample(name, labels, value)


def _heading(name: str, kind: str, what: str) -> Iterable[str]:
    text = what.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP controlkit_{name} {text}\n# TYPE controlkit_{name} {kind}\n"


def _sample(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    number = str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    return f"controlkit_{name}{{{pairs}}} {number}\n" if pairs else f"controlkit_{name} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
