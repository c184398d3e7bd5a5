"""The sections about the plant's operation: limits, regimes, rollouts, actuators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlkit.evaluation.markup import (
    interval,
    labelled,
    mark,
    number,
    plot,
    share,
    signed,
    span,
    subheading,
    table,
    text,
)

Content = Mapping[str, Any]


def limits(content: Content) -> list[str]:
    """How often each limit is left."""
    parts = []
    for index, candidate in enumerate(content["candidates"]):
        rows = [
            [
                text(limit["name"]),
                mark(limit["holds"], "holds", "broken" if limit["broken"] else "in doubt"),
                share(limit["policy"]),
                f"{share(limit['low'])} .. {share(limit['high'])}",
                share(limit["allowed"]),
                share(limit["operator"]),
                "no sample" if limit["fqe"] is None else share(limit["fqe"]["value"]),
            ]
            for limit in candidate["limits"]
        ]
        headings = ["limit", "outcome", "#policy outside", "#interval", "#tolerated", "#operator outside", "#by FQE"]
        parts.append(subheading(content, candidate))
        if rows:
            parts += [plot(f"plot-limits-{index}", "Share of samples outside each limit"), table(headings, rows)]
        else:
            parts.append("<p>The plant file states no limit of a state tag and no constraint.</p>")
    parts.append(
        '<p class="note">Shares of simulated samples over the horizon; by FQE, without any model, near samples count '
        "more. Absolute and rate limits of the commands hold "
        "by construction, as in the exported controller.</p>"
    )
    return parts


def regimes(content: Content) -> list[str]:
    """The policy in each operating regime."""
    parts = [f"<p>{text(content['regimes']['rule'])}</p>"]
    for index, candidate in enumerate(content["candidates"]):
        rows = [
            [
                text(regime["name"]),
                _word(regime["outcome"]),
                str(regime["starts"]),
                share(regime["share"]),
                number(regime["independent_stretches"]),
                "" if regime["gain"] is None else signed(regime["gain"]["value"]),
                "" if regime["gain"] is None else interval(regime["gain"]),
                share(regime["support"]),
                share(regime["late_support"]),
            ]
            for regime in candidate["regimes"]
        ]
        parts.append(subheading(content, candidate))
        if any(regime["gain"] is not None for regime in candidate["regimes"]):
            parts.append(plot(f"plot-regimes-{index}", "Gain over the operator in each regime, with intervals"))
        headings = ["regime", "outcome", "#starts", "#of all", "#stretches", "#gain", "#interval", "#support", "#late"]
        parts.append(table(headings, rows))
        reasons = [
            f"<li><strong>{text(regime['name'])}</strong>: {text(' '.join(regime['reasons']))}</li>"
            for regime in candidate["regimes"]
            if regime["outcome"] != "GO TO SHADOW"
        ]
        if reasons and len(candidate["regimes"]) > 1:
            parts.append(f'<ul class="reasons">{"".join(reasons)}</ul>')
    parts.append(
        '<p class="note">Each regime holds the rollouts that start in it, and is judged by the rules of the verdict, '
        "with intervals widened for the number of regimes. A regime's GO is worth nothing where the verdict is "
        "another.</p>"
    )
    return parts


def trajectories(content: Content) -> list[str]:
    """Rollouts beside the record, the ten worst among them."""
    parts = []
    for index, candidate in enumerate(content["candidates"]):
        chosen = candidate["trajectories"]["chosen"]
        options = "".join(
            f'<option value="{text(c["label"])}">{text(c["label"])}: {text(c["time"])}, policy {number(c["policy"])}, '
            f"operator {number(c['operator'])}, recorded {number(c['recorded'])}</option>"
            for c in chosen
        )
        rows = [
            [text(c["label"]), text(c["time"]), number(c["policy"]), number(c["operator"]), number(c["recorded"])]
            for c in chosen
        ]
        listed = table(["rollout", "begins at", "#policy", "#operator, model", "#recorded"], rows)
        parts += [
            subheading(content, candidate),
            "<p>Median and middle 90 % over all start states: the policy and the cloned operator in the evaluation "
            "model, and the record.</p>",
            plot(f"plot-bands-{index}", "Bands of policy, operator and record over time"),
            f'<p><label for="choose-{index}">A typical rollout and the ten worst: </label>'
            f'<select id="choose-{index}" data-plot="plot-rollouts-{index}">{options}</select></p>',
            plot(f"plot-rollouts-{index}", "A single rollout beside the record"),
            f"<details><summary>Values of these rollouts</summary>{listed}</details>",
        ]
    return parts


def actuators(content: Content) -> list[str]:
    """What is asked of the actuators: range, travel, rates, reversals, saturation."""
    rows, period = [], content["plant"]["period_s"]
    sources = [("record", content["operator"]["actuators"])]
    sources += [(c["name"], c["actuators"]) for c in content["candidates"]]
    stated = {rate["tag"]: rate["limit"] for rate in content["candidates"][0]["envelope"]["rates"]}
    for i, use in enumerate(content["operator"]["actuators"]):
        limit = stated[use["tag"]]
        for name, uses in sources:
            u = uses[i]
            rows.append(
                [
                    text(labelled(use["tag"], use["unit"])),
                    text(name),
                    span(u["low"], u["high"]),
                    number(u["travel"]),
                    number(u["fastest"] / period),
                    "none" if limit is None else number(limit),
                    share(u["reversals"]),
                    share(u["saturated"]),
                ]
            )
    headings = [
        "actuator",
        "who",
        "#middle 90 %",
        "#travel per period",
        "#fastest, per s",
        "#rate limit, per s",
        "#reversals",
        "#at a limit",
    ]
    parts = [table(headings, rows)]
    for index, candidate in enumerate(content["candidates"]):
        parts += [
            subheading(content, candidate),
            '<div class="pair">',
            plot(f"plot-commands-{index}", "How often each command has which value, record and policy"),
            plot(f"plot-rates-{index}", "How fast each command changes, record and policy"),
            "</div>",
        ]
    return parts


def _word(outcome: str) -> str:
    tones = {"GO TO SHADOW": ("passed", "✓"), "NO-GO": ("failed", "✗")}
    tone, sign = tones.get(outcome, ("open", "○"))
    return f'<span class="{tone}">{sign} {text(outcome)}</span>'
