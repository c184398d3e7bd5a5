"""Pieces of the page: tables and captions as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from controlkit.align import NS
from controlkit.ingest.quality_report.record import TimeLine


def text(value: str) -> str:
    return html.escape(value)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table from escaped cells; a heading that begins with '#' marks a column of numbers, the first cell is one.

    Args:
        headings: of the columns, not escaped.
        rows: of cells.
        name: for those who do not see it.
    """
    kinds = [' class="number"' if heading.startswith("#") else "" for heading in headings]
    head = "".join(
        f'<th scope="col"{kind}>{text(heading.lstrip("#"))}</th>' for kind, heading in zip(kinds, headings, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row"{kinds[0]}>{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def fold(summary: str, inner: str) -> str:
    """What is shown on demand."""
    return f"<details><summary>{text(summary)}</summary>{inner}</details>"


def time_axis(line: TimeLine) -> str:
    """Dates below a plot over time: at its ends and middle, and between them where there is room."""
    total = len(line.rows) * line.width_ns
    labels = []
    for i in range(5):
        moment = datetime.fromtimestamp((line.start_ns + i * total // 4) / NS, UTC)
        words = f"{moment:%Y-%m-%d}" if total > 3 * 86_400 * NS else f"{moment:%m-%d %H:%M}"
        labels.append(f'<span class="{"minor" if i % 2 else "major"}">{words}</span>')
    return f'<div class="axis" aria-hidden="true">{"".join(labels)}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Swatches with their meaning: (class, words)."""
    items = "".join(f'<li><span class="swatch {kind}"></span>{text(words)}</li>' for kind, words in entries)
    return f'<ul class="legend">{items}</ul>'
