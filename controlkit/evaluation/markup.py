"""Pieces of the page: tables, lists, marks and numbers as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Content = Mapping[str, Any]


def labelled(name: str, unit: str) -> str:
    """A name with its unit; a ratio (unit 1) has none to show. Not escaped."""
    return name if unit == "1" else f"{name}, {unit}"


def of_candidate(content: Content, candidate: Content) -> str:
    """` for NAME` where there are several candidates, else nothing."""
    return f" for {text(candidate['name'])}" if len(content["candidates"]) > 1 else ""


def subheading(content: Content, candidate: Content) -> str:
    """The candidate's name as a heading where there are several, else nothing."""
    return f"<h3>{text(candidate['name'])}</h3>" if len(content["candidates"]) > 1 else ""


def plot(name: str, label: str) -> str:
    return f'<div class="plot" id="{name}" role="img" aria-label="{text(label)}"></div>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table from escaped cells; a heading that begins with '#' marks a column of numbers."""
    kinds = [' class="number"' if heading.startswith("#") else "" for heading in headings]
    head = "".join(f"<th{kind}>{text(h.lstrip('#'))}</th>" for kind, h in zip(kinds, headings, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bullets(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"


def mark(passed: bool, yes: str = "passed", no: str = "failed") -> str:
    return f'<span class="{"passed" if passed else "failed"}">{"✓" if passed else "✗"} {yes if passed else no}</span>'


def text(value: str) -> str:
    return html.escape(value)


def number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}".replace("-", "\u2212")


def signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.4g}".replace("-", "\u2212")


def share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def interval(estimate: Content) -> str:
    return f"{signed(estimate['low'])} .. {signed(estimate['high'])}"


def span(low: float | None, high: float | None) -> str:
    return f"{number(low)} .. {number(high)}"
