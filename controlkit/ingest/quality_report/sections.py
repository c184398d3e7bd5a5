"""The sections of the page about the log as a whole; `tag_sections` has those about its tags."""

from __future__ import annotations

from collections.abc import Mapping

from controlkit.ingest.analysis import NeededHistory
from controlkit.ingest.quality_report import drawing
from controlkit.ingest.quality_report.markup import fold, legend, table, text, time_axis
from controlkit.ingest.quality_report.record import FlaggedStretch, QualityReport
from controlkit.ingest.quality_report.text import PARTS, count, delay, duration, figure, share
from controlkit.ingest.responses import Response

_WORDS = {"stop": "Mend", "look": "Look at", "note": "Note"}
# Parts of the sum of samples by the look they share in the bar: used, merged or ignored by a rule, not usable.
_SPARED = ("merged", "ignored")


def verdict(report: QualityReport) -> str:
    """In words, with the advice."""
    kind = {"usable": "go", "usable with care": "wait", "not usable yet": "halt"}[report.verdict]
    items = "".join(
        f'<li class="{advice.level}"><span class="level">{_WORDS[advice.level]}</span> '
        f"<span>{text(advice.text)}</span></li>"
        for advice in report.advice
    )
    said = f'<ol class="advice">{items}</ol>' if items else "<p>Nothing to mend or to look at.</p>"
    return (
        f'<div class="verdict {kind}"><p class="word">{text(report.verdict.capitalize())}</p>'
        f"<p>{text(report.headline)}</p></div>\n{said}"
    )


def time(report: QualityReport) -> str:
    """Facts, the time line, the longest gaps."""
    shortest, median, longest = report.episode_rows
    facts = {
        "from": report.first,
        "to": report.last,
        "span": duration(report.span_s),
        "sample period": duration(report.period_s),
        "sample times": f"{count(report.rows)}, {count(report.rows_kept)} kept "
        f"({share(report.rows_kept / report.rows if report.rows else None)})",
        "episodes": f"{count(report.episodes)}, of {count(shortest)} to {count(longest)} rows (median {count(median)})",
        "steps": f"{count(report.steps)}, {count(report.transitions)} with a full window of history",
        "gaps": f"{count(report.gap_count)}, {duration(report.gap_s)} in all",
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    spans = [
        drawing.buckets([FlaggedStretch("", span.from_ns, span.to_ns, span.rows)], report.time_line)[0]
        for span in report.spans
    ]
    label = f"Time line: the log has {report.gap_count} gaps; {report.episodes} episodes are kept"
    drawn = drawing.time_line(report.time_line, spans, label)
    keys = legend(
        [("log", "rows of the log (white: a gap)"), ("kept", "kept"), ("even", "episodes, every second one darker")]
    )
    gaps = [[text(start), text(end), duration(seconds)] for start, end, seconds in report.gaps]
    shown = table(["from (UTC)", "to (UTC)", "#duration"], gaps, "Longest gaps")
    which = f"The {len(gaps)} longest of {report.gap_count} gaps" if len(gaps) < report.gap_count else "The gaps"
    longest_gaps = fold(which, shown) if gaps else "<p>No gaps.</p>"
    return f'<dl class="facts">{listed}</dl>\n{keys}\n{drawn}\n{time_axis(report.time_line)}\n{longest_gaps}'


def left_out(report: QualityReport) -> str:
    """The sum of the samples, and what each rule removed."""
    totals = report.totals()
    looks = {name: "used" if name == "used" else "spared" if name in _SPARED else "lost" for name in PARTS}
    parts = [(looks[name], totals[name]) for name in PARTS]
    words = " + ".join(f"{count(totals[name])} {PARTS[name]}" for name in PARTS if totals[name] or name == "used")
    lost = (
        f'<p class="warning">{count(report.unaccounted)} samples are unaccounted for: this is a fault of the ingest, '
        "please report it.</p>"
        if report.unaccounted
        else ""
    )
    rows = [[PARTS[name], count(totals[name]), _of(totals[name], totals["in"])] for name in PARTS if totals[name]]
    keys = legend([("used", "used"), ("lost", "not usable"), ("spared", "said twice, or of ignored tags")])
    removed = [["kept", count(report.rows_kept), _of(report.rows_kept, report.rows)]]
    removed += [[text(name), count(n), _of(n, report.rows)] for name, n in report.rows_removed.items()]
    cuts = [[text(name), count(n)] for name, n in report.cuts.items()]
    unusable = [[text(name), count(n), _of(n, report.rows)] for name, n in _falling(report.unusable_rows).items() if n]
    blocks = [
        ("Samples", table(["samples", "#number", "#share"], rows, "Samples by what became of them")),
        ("Rows of the grid", table(["rows", "#number", "#share"], removed, "Rows by the rule that removed them")),
        ("Ends of episodes", table(["ended by", "#times"], cuts, "Ends of episodes by rule")),
    ]
    if unusable:
        heads = ["unknown or too old", "#rows", "#share"]
        blocks.append(("Tags that cost rows", table(heads, unusable[:30], "Rows in which a tag was unknown")))
    shown = "".join(f"<div><h3>{title}</h3>{inner}</div>" for title, inner in blocks)
    bar = drawing.stacked_bar(parts, f"{totals['in']} samples: {words}")
    return f'<p>{count(totals["in"])} samples in = {words}.</p>\n{keys}\n{bar}\n{lost}<div class="grid">{shown}</div>'


def actions(report: QualityReport) -> str:
    """Delays as a heat map, needed history, excitation."""
    analysis = report.analysis
    parts = [f"<p>Looked at {count(analysis.rows)} rows, in stretches spread over the kept data.</p>"]
    if analysis.searched:
        parts += ["<h3>Delay from each action to each state</h3>", _delays(report)]
        parts += ["<h3>History that an observation needs</h3>", _history(analysis.history, report.period_s)]
    else:
        parts.append("<p>The episodes are too short to tell delays.</p>")
    parts += ["<h3>How the actions moved</h3>", _excitation(report)]
    return "\n".join(parts)


def quarantine(report: QualityReport) -> str:
    """Counts by reason, and the first examples."""
    if not report.quarantine:
        return "<p>None.</p>"
    rows = [[text(reason), count(n)] for reason, n in _falling(report.quarantine).items()]
    examples = [
        [text(one.place), text(one.tag), f"<code>{text(one.text)}</code>", text(one.reason)] for one in report.examples
    ]
    shown = table(["reason", "#rows"], rows, "Rows in quarantine by reason")
    if examples:
        listed = table(["where", "tag", "what stands there", "reason"], examples, "Examples from the quarantine")
        shown += f"<h3>The first of them</h3>{listed}"
    return f"{shown}<p class='note'>All of them are in <code>quarantine.parquet</code> beside this page.</p>"


def sources(report: QualityReport) -> str:
    """The files with their hashes."""
    rows = [
        [
            text(one.name), one.form, count(one.rows), count(one.samples), count(one.ignored), text(one.first),
            text(one.last), f'<span class="hash">{text(one.sha256)}</span>',
        ]
        for one in report.sources
    ]  # fmt: skip
    heads = ["source", "form", "#records", "#samples", "#ignored", "first (UTC)", "last (UTC)", "SHA-256"]
    return table(heads, rows, "Sources")


def _delays(report: QualityReport) -> str:
    names = list(dict.fromkeys(r.action for r in report.analysis.responses))
    states = list(dict.fromkeys(r.state for r in report.analysis.responses))
    rows = [[text(s), *(_delay(report.response(a, s), report.period_s) for a in names)] for s in states]
    reach = duration(report.analysis.searched * report.period_s)
    note = (
        "<p class='note'>Dead time: whole sample periods that pass before the first effect, beside the one that every "
        "sampled system has. ↑: a larger command raises the state; ↓: lowers it. The share, and the depth of the "
        "colour: how much of the state's change from sample to sample, as far as its past leaves it open, the action "
        f"explains. Effects within {reach} were looked for, with a linear model of all actions at once.</p>"
    )
    return table(["state", *names], rows, "Delays: states in rows, actions in columns") + note


def _delay(response: Response | None, period_s: float) -> str:
    if response is None or not response.seen:
        return '<span class="heat none">no effect seen</span>'
    depth = 0.10 + 0.35 * min(1.0, response.share)
    if response.dead_periods is None:
        words = "effect, delay unclear"
    else:
        words = f"{'↑' if response.raises else '↓'} {delay(response.dead_periods, period_s)}"
    return (
        f'<span class="heat" style="background:rgba(0,114,178,{depth:.2f})">{words}'
        f"<small>{share(response.share)}</small></span>"
    )


def _history(items: tuple[NeededHistory, ...], period_s: float) -> str:
    rows = []
    for item in items:
        if item.needed is None:
            needed, judged = "", "no effect seen"
        else:
            back = f" ({duration(item.needed * period_s)})" if item.needed else ""
            needed = f"{item.needed}{' or more' if item.reaches_end else ''}{back}"
            judged = "✗\u00a0raise\u00a0it" if item.needed > item.asked else "✓\u00a0enough"
        rows.append([text(item.tag), item.role, str(item.asked), needed, judged])
    return table(["tag", "role", "#plant file asks", "#data show", ""], rows, "History: asked and needed")


def _excitation(report: QualityReport) -> str:
    rows = []
    for one in report.analysis.excitation:
        tag = report.tags.get(one.action)
        rows.append(
            [
                text(one.action),
                text("" if one.unit == "1" else one.unit),
                f"{figure(one.limits[0])} .. {figure(one.limits[1])}",
                f"{figure(one.middle[0])} .. {figure(one.middle[1])}",
                share(one.range_share),
                count(one.levels),
                figure(one.moves_per_day),
                share(one.limit_share),
                f"{one.order}{' or more' if one.order >= 50 else ''}",
                share(one.feedback_share) or "follows its own past",
                share(tag.changed_share if tag else None),
            ]
        )
    heads = [
        "action", "unit", "#limits", "#middle 98 %", "#of the limits", "#levels", "#moves a day", "#at a limit",
        "#order", "#feedback", "#changes inside",
    ]  # fmt: skip
    note = (
        "<p class='note'>Order: of persistent excitation, how many coefficients of an impulse response the moves can "
        "tell apart; a sine has 2. Feedback: share of the moves that current and past measurements explain; near 100 % "
        "the log shows the controller more than the plant. Changes inside: periods within which the command changed, "
        "and was averaged.</p>"
    )
    return table(heads, rows, "Excitation of the actions") + note


def _falling(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _of(part: int, whole: int) -> str:
    return share(part / whole) if whole else ""
