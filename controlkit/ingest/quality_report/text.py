"""The report for a terminal, and how people write durations, shares and counts."""

from __future__ import annotations

from controlkit.ingest.quality_report.record import QualityReport

# Parts of the sum of samples, in the words of the report.
PARTS = {
    "used": "used",
    "bad_quality": "bad quality",
    "uncertain": "uncertain",
    "substituted": "substituted",
    "empty": "empty",
    "out_of_range": "out of range",
    "frozen": "frozen",
    "quarantined": "quarantined",
    "merged": "merged",
    "ignored": "ignored",
}


def to_text(report: QualityReport) -> str:
    """A few lines: what came in, what is left, a line for each tag, and the advice."""
    removed = {name: count for name, count in report.rows_removed.items() if count}
    cuts = {name: count for name, count in report.cuts.items() if count}
    lines = [
        f"{report.plant}: {report.first} to {report.last} ({duration(report.span_s)})",
        sample_sum(report),
        f"gaps: {report.gap_count} ({duration(report.gap_s)})",
        f"rows: {report.rows}, kept {report.rows_kept}" + "".join(f", {name} {n}" for name, n in removed.items()),
        f"episodes: {report.episodes} with {report.steps} steps, {report.transitions} with a full window of history"
        + (f"; cut by {', '.join(f'{name} {n}' for name, n in cuts.items())}" if cuts else ""),
    ]
    width = max(len(name) for name in report.tags)
    head = f"{'used':>10} {'not used':>9} {'min':>10} {'mean':>10} {'max':>10}  unit"
    lines.append(f"{'tag':<{width}} {head}")
    for name, tag in report.tags.items():
        left_out = tag.counts.samples - tag.counts.used - tag.counts.merged
        numbers = " ".join(f"{figure(value):>10}" for value in (tag.low, tag.mean, tag.high))
        lines.append(f"{name:<{width}} {tag.counts.used:>10} {left_out:>9} {numbers}  {tag.unit}")
    lines += [delay_line(report, action) for action in dict.fromkeys(r.action for r in report.analysis.responses)]
    lines.append(f"{report.verdict.upper()}: {report.headline}")
    return "\n".join([*lines, *(f"{advice.level}: {advice.text}" for advice in report.advice)])


def sample_sum(report: QualityReport) -> str:
    """`samples in 60 = used 57 + merged 3`: every part that is not zero."""
    totals = report.totals()
    parts = [f"{PARTS[name]} {totals[name]}" for name in PARTS if totals[name] or name == "used"]
    lost = f" + unaccounted {report.unaccounted}" if report.unaccounted else ""
    return f"samples in {totals['in']} = {' + '.join(parts)}{lost}"


def delay_line(report: QualityReport, action: str) -> str:
    """What an action does, in one line."""
    seen = [r for r in report.analysis.responses if r.action == action and r.seen]
    if not seen:
        return f"{action}: no effect seen"
    told = []
    for response in sorted(seen, key=lambda r: -r.share):
        if response.dead_periods is None:
            told.append(f"moves {response.state} (the delay cannot be told)")
        else:
            way = "raises" if response.raises else "lowers"
            wait = f"after {duration(response.dead_periods * report.period_s)}" if response.dead_periods else "at once"
            told.append(f"{way} {response.state} {wait}")
    return f"{action}: {', '.join(told)}"


def delay(dead_periods: int, period_s: float) -> str:
    """A dead time in words; the next sample is the earliest that can show anything."""
    return "no dead time" if dead_periods == 0 else duration(dead_periods * period_s)


def duration(seconds: float) -> str:
    """Seconds as people say them: `2 d 3 h`, `45 s`."""
    rest, parts = round(seconds), []
    if rest < 60:
        return f"{seconds:.3g} s"
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def figure(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def share(value: float | None) -> str:
    """A share in per cent; a little is never written as nothing."""
    if value is None:
        return ""
    return "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def count(value: int) -> str:
    """Digits in groups of three."""
    return f"{value:,}".replace(",", "\u202f")
