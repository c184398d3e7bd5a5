"""The sections about what follows: risks and the envelope, the next steps, and how to get the figures again."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from controlkit.evaluation.markup import labelled, number, of_candidate, share, span, subheading, table, text

Content = Mapping[str, Any]


def risks(content: Content) -> list[str]:
    """Ranked risks with what can be done, and where the evidence holds."""
    parts = []
    for candidate in content["candidates"]:
        listed = "".join(
            f"<li><strong>{text(risk['name'])}</strong>: {_of_cut(risk['severity'])} {text(risk['evidence'])}<br>"
            f'<span class="cure">{text(risk["mitigation"])}</span></li>'
            for risk in candidate["risks"]
        )
        parts += [
            subheading(content, candidate),
            '<p class="note">Measured figures over the cut that each is held against, from a quarter of it on; 1 is at '
            "the cut.</p>",
            f'<ol class="risks">{listed}</ol>'
            if listed
            else "<p>No figure of this evaluation reaches a quarter of its cut.</p>",
            *_envelope(content, candidate),
        ]
    return parts


def _envelope(content: Content, candidate: Content) -> list[str]:
    envelope = candidate["envelope"]
    allowed = candidate["verdict"] == "GO TO SHADOW"
    ranges = [
        [
            text(labelled(each["tag"], each["unit"])),
            "<strong>none</strong>" if each["low"] is None else f"<strong>{span(each['low'], each['high'])}</strong>",
            span(each["log_low"], each["log_high"]),
            span(each["limit_low"], each["limit_high"]),
        ]
        for each in envelope["ranges"]
    ]
    rates = [
        [
            text(labelled(each["tag"], f"{each['unit']}/s" if each["unit"] != "1" else "1/s")),
            f"<strong>{number(each['allowed'])}</strong>",
            number(each["recorded"]),
            number(each["policy"]),
            "none" if each["limit"] is None else number(each["limit"]),
            share(each["beyond"]),
        ]
        for each in envelope["rates"]
    ]
    outside = "; ".join(f"{text(name)} ({text(word)})" for name, word in envelope["excluded"])
    known = "; ".join(text(name) for name in envelope["regimes"])
    said = (
        "Outside of it this evaluation says nothing: keep the controller in SHADOW within it."
        if allowed
        else "The verdict allows no operation; the evidence, such as it is, holds only here."
    )
    return [
        f"<h3>The allowed envelope{of_candidate(content, candidate)}</h3>",
        f"<p>{said} Regimes in which every rule holds: {known or 'none'}."
        + (f" Not in: {outside}." if outside else "")
        + "</p>",
        table(["tag", "#within", "#recorded", "#plant file"], ranges),
        table(["command", "#rate up to", "#recorded", "#policy", "#plant file", "#policy beyond"], rates),
        "<p class=\"note\">Ranges are the middle 98 % of the policy's supported steps inside the plant file's limits; "
        "rates are what 99 % of the changes do not exceed.</p>",
    ]


def next_steps(content: Content) -> list[str]:
    """Steps in order, and the stop rule of a trial."""
    parts = []
    for candidate in content["candidates"]:
        steps = "".join(f"<li>{text(step)}</li>" for step in candidate["next_steps"])
        parts += [subheading(content, candidate), f"<ol>{steps}</ol>"]
        plan = candidate["shadow_plan"]
        if plan is None:
            continue
        rows = [
            [
                text(rule["section"]),
                text(rule["measure"]),
                f"<strong>{text(rule['stop_at'])}</strong>",
                text(rule["reason"]),
            ]
            for rule in plan["stop"]
        ]
        parts += [
            "<h3>Stop the trial at the first of these</h3>",
            table(["in the shadow report", "figure", "stop at", "because"], rows),
        ]
    return parts


def reproducibility(content: Content) -> list[str]:
    """Versions, seeds, hashes, settings."""
    about = content["provenance"]
    rows = [
        ["version", text(f"{about['version']} {about['commit']}".strip())],
        ["seed", text(str(about["seed"])) + (", quick" if about["quick"] else "")],
        ["evaluation log", text(" to ".join(about["evaluation_log"])) + f", {about['rows']['usable']} usable steps"],
        ["plant file (SHA-256)", _hash(about["spec_sha256"])],
        *[
            [f"{text(each['name'])}: {text(each['kind'])} {text(each['source'])} (SHA-256)", _hash(each["sha256"])]
            for each in about["policies"]
        ],
        *[[f"data of {text(run['path'])} (SHA-256)", _hash(run["data_sha256"])] for run in about["runs"]],
        ["computed in", f"{about['seconds']:.0f} s, torch {text(about['torch'])}, Python {text(about['python'])}"],
    ]
    settings = html.escape(json.dumps(about, indent=1))
    return [table(["what", "value"], rows), f"<details><summary>All settings</summary><pre>{settings}</pre></details>"]


def _of_cut(severity: float | None) -> str:
    return "beyond any cut." if severity is None else f"{severity:.2f} of its cut."


def _hash(value: str) -> str:
    return f'<span class="hash">{text(value)}</span>'
