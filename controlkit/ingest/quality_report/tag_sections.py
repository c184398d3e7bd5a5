"""The sections of the page about single tags: the table of their quality, trends, histograms and flagged stretches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from controlkit.ingest.quality_report import drawing
from controlkit.ingest.quality_report.markup import fold, legend, table, text, time_axis
from controlkit.ingest.quality_report.record import FlaggedStretch, QualityReport, TagQuality
from controlkit.ingest.quality_report.text import PARTS, count, figure, share
from controlkit.ingest.timestamps import iso

LISTED_FLAGS = 10


def table_of_tags(report: QualityReport) -> str:
    """Counts and figures of every tag."""
    totals = report.totals()
    # A column in which every tag has nothing tells nothing.
    parts = [name for name in PARTS if name not in ("used", "ignored") and totals[name]]
    heads = ["tag", "role", "unit", "#samples", "#used", *(f"#{PARTS[name]}" for name in parts)]
    heads += ["#min", "#mean", "#max", "#std", "#held"]
    rows = []
    for name, tag in report.tags.items():
        counts = asdict(tag.counts)
        cells = [text(name), tag.role, text("" if tag.unit == "1" else tag.unit), count(counts["samples"])]
        cells += [_share(counts["used"], counts["samples"]), *(_number(counts[part]) for part in parts)]
        rows.append([*cells, *(figure(x) for x in (tag.low, tag.mean, tag.high, tag.std)), share(tag.held_share)])
    note = (
        "<p class='note'>Min to std: of the used samples. Held: rows of the data set whose value is a period old or "
        "older; of a command, those that repeat the one before.</p>"
    )
    return table(heads, rows, "Quality of the tags") + note


def trends(report: QualityReport) -> str:
    """A strip for each tag, and on demand its histogram and what is flagged."""
    keys = legend(
        [("band", "least to largest value"), ("line", "mean"), ("flag", "flagged"), ("lost", "not usable all the time")]
    )
    return keys + "".join(_tag(report, name, tag) for name, tag in report.tags.items())


def _tag(report: QualityReport, name: str, tag: TagQuality) -> str:
    by_reason: dict[str, list[FlaggedStretch]] = {}
    for flag in tag.flags:
        by_reason.setdefault(flag.reason, []).append(flag)
    unit = "" if tag.unit == "1" else f", {tag.unit}"
    found = "; ".join(f"{reason} {_many(len(flags))}" for reason, flags in by_reason.items()) or "nothing flagged"
    head = f'<h3>{text(name)}<span class="unit">{text(unit)} · {tag.role} · {text(found)}</span></h3>'
    parts = [head]
    if tag.trend is not None:
        low, high = drawing.extremes(tag.trend)
        label = f"{name} over time, {figure(low)} to {figure(high)} {tag.unit}; {found}"
        drawn = drawing.trend(tag.trend, drawing.buckets(tag.flags, report.time_line), label)
        scale = f'<div class="scale" aria-hidden="true"><span>{figure(high)}</span><span>{figure(low)}</span></div>'
        parts.append(f'<div class="strip">{scale}<div>{drawn}{time_axis(report.time_line)}</div></div>')
    inner = _histogram(name, tag) + _flags(report, by_reason)
    if inner:
        what = ["histogram"] if tag.histogram is not None else []
        what += [f"flagged: {_many(len(tag.flags))}"] if tag.flags else []
        parts.append(fold(f"{name}: {' and '.join(what)}", inner))
    return f'<article class="tag">{"".join(parts)}</article>'


def _histogram(name: str, tag: TagQuality) -> str:
    if tag.histogram is None:
        return ""
    edges, rows = tag.histogram.edges, tag.histogram.rows
    label = (
        f"Histogram of {name}: {count(sum(rows))} kept rows from {figure(edges[0])} to {figure(edges[-1])} {tag.unit}"
    )
    unit = "" if tag.unit == "1" else f" {text(tag.unit)}"
    axis = f'<div class="axis"><span>{figure(edges[0])}</span><span>{figure(edges[-1])}{unit}</span></div>'
    words = f"<p class='note'>{count(sum(rows))} kept rows; the highest bar has {count(max(rows))}.</p>"
    return f'<div class="bars">{drawing.histogram(tag.histogram, label)}{axis}</div>{words}'


def _flags(report: QualityReport, by_reason: Mapping[str, list[FlaggedStretch]]) -> str:
    shown = []
    for reason, flags in by_reason.items():
        runs = drawing.buckets(flags, report.time_line)
        samples = sum(flag.samples for flag in flags)
        words = f"{reason}: {_many(len(flags))}, {count(samples)} samples"
        lane = drawing.lane(runs, len(report.time_line.rows), words)
        longest = sorted(flags, key=lambda flag: flag.from_ns - flag.to_ns)[:LISTED_FLAGS]
        rows = [[text(iso(f.from_ns)), text(iso(f.to_ns)), count(f.samples)] for f in longest]
        heads = ["from (UTC)", "to (UTC)", "#samples"]
        shown.append(f"<p>{text(words)}</p>{lane}{table(heads, rows, f'Longest stretches: {reason}')}")
    return "".join(shown)


def _many(stretches: int) -> str:
    return "1 stretch" if stretches == 1 else f"{count(stretches)} stretches"


def _share(part: int, whole: int) -> str:
    return share(part / whole) if whole else ""


def _number(value: int) -> str:
    return count(value) if value else ""
