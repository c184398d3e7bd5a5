"""The page: one self-contained HTML file that opens offline, made from the report's content alone.

Plotly's script is laid in once; a content security policy forbids every request, so that nothing can leave the page
and nothing has to be fetched. Everything that matters is in text and tables, too: the plots need JavaScript, the
page does not.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from controlkit.evaluation import sections
from controlkit.evaluation.figures import Figure, figures
from controlkit.evaluation.operation_figures import operation_figures

Content = Mapping[str, Any]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def plots(content: Content) -> dict[str, Figure]:
    """Every plot of the page, by the id of its place."""
    return figures(content) | operation_figures(content)


def render(content: Content, drawn: Mapping[str, Figure]) -> str:
    """The whole page, with its plots as `plots` made them."""
    title = html.escape(f"{content['plant']['name']}: {content['verdict']}")
    body = "\n".join(_section(name, heading, parts) for name, heading, parts in sections.all_sections(content))
    # Inside a script element only "<" could end it, or open a comment.
    data = json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{_asset("report.css")}</style>
</head>
<body>
<a class="skip" href="#verdict">Skip to the verdict</a>
<header><p class="eyebrow">Offline policy evaluation</p><h1>{html.escape(content["plant"]["name"])}</h1>
<p>{html.escape(content["plant"]["description"])}</p></header>
<nav aria-label="Sections">{_navigation(content)}</nav>
<main>
{body}
</main>
<script type="application/json" id="figures">{data}</script>
<script>{_plotly()}</script>
<script>{_asset("report.js")}</script>
</body>
</html>
"""


def _section(name: str, heading: str, parts: Iterable[str]) -> str:
    inner = "\n".join(parts)
    title = f'<h2 id="{name}-h">{html.escape(heading)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-h">{title}\n{inner}\n</section>'


def _navigation(content: Content) -> str:
    links = (f'<a href="#{name}">{html.escape(short)}</a>' for name, short in sections.short_names(content))
    return "".join(links)


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def _asset(name: str) -> str:
    return resources.files("controlkit.evaluation").joinpath("assets", name).read_text(encoding="utf-8")
