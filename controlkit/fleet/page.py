"""The index page: one self-contained HTML file that opens offline; every link leads to a file beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from controlkit.evaluation.page import POLICY
from controlkit.evaluation.verdict import EXIT_CODES
from controlkit.files import write_text

INDEX = "index.html"
Content = Mapping[str, Any]

# What needs a look comes first.
_ORDER = ("failed", "lost", *EXIT_CODES, "waiting")
_KINDS = {
    "failed": "stop",
    "lost": "stop",
    "waiting": "none",
    "GO TO SHADOW": "go",
    "INCONCLUSIVE": "wait",
    "NO-GO": "stop",
    "NO VERDICT": "none",
}
_SIGNS = {"go": "✓", "wait": "○", "stop": "✗", "none": "–"}
_LINKS = (("report", "report", ""), ("quality", "data quality", ""), ("bundle", "bundle", "/manifest.json"))
_HEADINGS = (("plant", "text"), ("verdict", "number"), ("gain over the operator, per period", "number"), ("files", ""))


def write_page(content: Content, path: Path) -> None:
    """Writes the page of what `fleet.json` holds."""
    write_text(path, render(content))


def render(content: Content) -> str:
    """The whole page."""
    name = html.escape(content["fleet"])
    plants = sorted(content["plants"], key=lambda plant: (_ORDER.index(_outcome(plant)), plant["name"]))
    rows = "\n".join(_row(plant) for plant in plants)
    heads = "".join(_heading(text, kind) for text, kind in _HEADINGS)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{name}: {len(plants)} plants</title>
<style>{_asset("fleet.css")}</style>
</head>
<body>
<header><p class="eyebrow">Fleet</p><h1>{name}</h1></header>
<main>
<ul class="counts" aria-label="Counts">{_counts(content["counts"], len(plants))}</ul>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p class="note">A verdict is of the offline evaluation alone; a bundle is exported only after GO TO SHADOW. controlkit
{html.escape(content["version"])}.</p>
</main>
<script>{_asset("fleet.js")}</script>
</body>
</html>
"""


def _counts(counts: Mapping[str, int], total: int) -> str:
    shown = [("plants", total, "all")]
    shown += [(name, counts[name], _KINDS[name]) for name in _ORDER if counts.get(name)]
    shown.append(("bundles exported", counts["exported"], "all"))
    return "".join(f'<li class="{kind}"><b>{count}</b> {html.escape(name)}</li>' for name, count, kind in shown)


def _heading(text: str, kind: str) -> str:
    if not kind:
        return f'<th scope="col">{html.escape(text)}</th>'
    return f'<th scope="col" data-kind="{kind}"><button type="button">{html.escape(text)}</button></th>'


def _row(plant: Mapping[str, Any]) -> str:
    outcome, gain = _outcome(plant), plant["gain"]
    kind = _KINDS[outcome]
    known = gain is not None and gain["value"] is not None
    same = plant["plant"] in ("", plant["name"])
    described = "" if same else f'<span class="soft">{html.escape(plant["plant"])}</span>'
    place = f" in {plant['stage']}" if plant["state"] in ("failed", "lost") and plant["stage"] else ""
    said = f'<p class="message">{html.escape(plant["message"])}</p>' if plant["message"] else ""
    cells = (
        ("plant", plant["name"], f"<b>{html.escape(plant['name'])}</b> {described}"),
        (
            "verdict",
            str(_ORDER.index(outcome)),
            f'<span class="word {kind}">{_SIGNS[kind]} {html.escape(outcome + place)}</span>{said}',
        ),
        ("gain", repr(gain["value"]) if known else "", _gain(gain) if known else '<span class="soft">none</span>'),
        ("files", "", _links(plant)),
    )
    inner = "".join(
        f'<td data-label="{label}" data-sort="{html.escape(sort)}">{cell}</td>' for label, sort, cell in cells
    )
    return f'<tr class="{kind}">{inner}</tr>'


def _outcome(plant: Mapping[str, Any]) -> str:
    """The verdict, or what there is in its place."""
    state, verdict = plant["state"], plant["verdict"]
    return str(verdict) if state == "done" and verdict in EXIT_CODES else "failed" if state == "done" else str(state)


def _gain(gain: Mapping[str, Any]) -> str:
    low, high = _signed(gain["low"]), _signed(gain["high"])
    unit = html.escape(gain["unit"])
    return f'<b>{_signed(gain["value"])}</b> <span class="soft">{low} to {high}</span> {unit}'


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3g}".replace("-", "\u2212")


def _links(plant: Mapping[str, Any]) -> str:
    found = [(plant[kind] + tail, words) for kind, words, tail in _LINKS if plant[kind]]
    made = (f'<a href="{html.escape(quote(path))}">{words}</a>' for path, words in found)
    return " ".join(made) or '<span class="soft">no files</span>'


def _asset(name: str) -> str:
    return resources.files("controlkit.fleet").joinpath("assets", name).read_text(encoding="utf-8")
