"""The page: one self-contained HTML file that opens offline, with the look of the offline report.

Plotly's script is laid in once; a content security policy forbids every request. Everything that matters is in text and
tables, too: the plots need JavaScript, the page does not.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from controlkit.evaluation.page import POLICY
from deploy.shadow import figures, sections

Content = Mapping[str, Any]


def render(content: Content) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    name = html.escape(content["plant"]["name"])
    found = sections.all_sections(content)
    body = "\n".join(
        f'<section id="{s.id}" aria-labelledby="{s.id}-h"><h2 id="{s.id}-h">{html.escape(s.heading)}</h2>\n'
        + "\n".join(s.parts)
        + "\n</section>"
        for s in found
    )
    links = "".join(f'<a href="#{s.id}">{html.escape(s.short)}</a>' for s in found)
    # Inside a script element only "<" could end it, or open a comment.
    data = json.dumps(figures.figures(content), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{name}: {html.escape(content["verdict"])}</title>
<style>{_asset("report.css")}</style>
</head>
<body>
<a class="skip" href="#verdict">Skip to the verdict</a>
<header><p class="eyebrow">Shadow evaluation</p><h1>{name}</h1>
<p>{html.escape(content["plant"]["description"])}</p></header>
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>
<script type="application/json" id="figures">{data}</script>
<script>{get_plotlyjs()}</script>
<script>{_asset("report.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("controlkit.evaluation").joinpath("assets", name).read_text(encoding="utf-8")
