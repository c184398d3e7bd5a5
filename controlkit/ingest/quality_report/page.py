"""The page: one HTML file without scripts that opens offline; a content security policy forbids every request."""

from __future__ import annotations

import html
from importlib import resources

from controlkit.ingest.quality_report import sections, tag_sections
from controlkit.ingest.quality_report.record import QualityReport

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: QualityReport) -> str:
    """The whole page."""
    parts = [
        ("verdict", "Verdict", "Shall one train on this?", sections.verdict(report)),
        ("time", "Time", "The log over time", sections.time(report)),
        ("left-out", "Left out", "What was used, and what was left out", sections.left_out(report)),
        ("actions", "Actions", "What the actions do", sections.actions(report)),
        ("tags", "Tags", "Tags", tag_sections.table_of_tags(report)),
        ("trends", "Trends", "Trends and histograms", tag_sections.trends(report)),
        ("quarantine", "Quarantine", "Rows that could not be used", sections.quarantine(report)),
        ("sources", "Sources", "Sources", sections.sources(report)),
    ]
    links = "".join(f'<a href="#{name}">{short}</a>' for name, short, _, _ in parts)
    body = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{title}</h2>\n{inner}\n</section>'
        for name, _, title, inner in parts
    )
    style = resources.files("controlkit.ingest.quality_report").joinpath("assets", "page.css").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>Data quality: {html.escape(report.plant)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#verdict">Skip to the verdict</a>
<header><p class="eyebrow">Data quality</p><h1>{html.escape(report.plant)}</h1>
<p>{html.escape(report.description)}</p></header>
<nav aria-label="Sections">{links}</nav>
<main>
{body}
</main>
</body>
</html>
"""
