"""The plots about the plant's operation: limits, regimes, actuators; plain Plotly figures from the report's content."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from controlkit.evaluation.figures import (
    OPERATOR,
    OUTSIDE,
    POLICY,
    RECORDED,
    Figure,
    base_layout,
    forest,
    line,
    reward_unit,
    safe,
    stacked_axes,
)
from controlkit.evaluation.markup import labelled

Content = Mapping[str, Any]

MAX_ACTUATORS = 4
# As `controlkit.evaluation.actuators.SHARES`, in percent.
PERCENT = (50, 75, 90, 95, 99, 100)


def operation_figures(content: Content) -> dict[str, Figure]:
    """The plots by the id of their place on the page; a plot with nothing to show has none."""
    found: dict[str, Figure] = {}
    for number, candidate in enumerate(content["candidates"]):
        if candidate["limits"]:
            found[f"plot-limits-{number}"] = limits(candidate)
        if any(regime["gain"] is not None for regime in candidate["regimes"]):
            found[f"plot-regimes-{number}"] = regimes(content, candidate)
        found[f"plot-commands-{number}"] = commands(content, candidate)
        found[f"plot-rates-{number}"] = rates(content, candidate)
    return found


def limits(candidate: Content) -> Figure:
    """Share of samples outside each limit, by policy and operator, beside what is tolerated."""
    rows = []
    for limit in candidate["limits"]:
        policy = {"value": limit["policy"], "low": limit["low"], "high": limit["high"]}
        rows += [
            (f"{limit['name']}: policy", _percent(policy), POLICY, "circle"),
            (f"{limit['name']}: operator", _percent(_exact(limit["operator"])), OPERATOR, "square"),
            (f"{limit['name']}: tolerated", _percent(_exact(limit["allowed"])), OUTSIDE, "line-ns-open"),
        ]
    return forest(rows, "samples outside, %")


def regimes(content: Content, candidate: Content) -> Figure:
    """Forest plot of the gain in each regime that has one."""
    rows = []
    for regime in candidate["regimes"]:
        if regime["gain"] is not None:
            rows += [
                (f"{regime['name']}: model rollouts", regime["gain_model"], POLICY, "circle"),
                (f"{regime['name']}: FQE", regime["gain_fqe"], OPERATOR, "square"),
                (f"{regime['name']}: joined", regime["gain"], "#000000", "diamond"),
            ]
    figure = forest(rows, f"gain over the operator, {reward_unit(content)} per period")
    figure["layout"]["shapes"] = [
        {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": OUTSIDE, "dash": "dot"}}
    ]
    return figure


def commands(content: Content, candidate: Content) -> Figure:
    """How often each command has which value, one row per actuator."""
    shown = list(zip(candidate["distributions"], content["operator"]["distributions"], strict=True))[:MAX_ACTUATORS]
    layout, traces = base_layout(height=110 + 210 * len(shown)), []
    for row, (policy, record) in enumerate(shown, start=1):
        axis = {"xaxis": f"x{row}", "yaxis": f"y{row}", "showlegend": row == 1}
        for each, name, colour, dash in ((record, "record", RECORDED, "dot"), (policy, "policy", POLICY, "solid")):
            edges = each["edges"]
            centres = [(low + high) / 2 for low, high in pairwise(edges)]
            trace = line(centres, [100 * share for share in each["share"]], name, colour, dash, axis)
            trace["line"]["shape"] = "hvh"
            traces.append(trace)
        title = safe(labelled(policy["tag"], policy["unit"]))
        stacked_axes(layout, row, len(shown), "% of periods", title, shared=False)
    return {"data": traces, "layout": layout}


def rates(content: Content, candidate: Content) -> Figure:
    """Which speed a share of the periods does not exceed, one row per actuator."""
    shown = list(zip(candidate["distributions"], content["operator"]["distributions"], strict=True))[:MAX_ACTUATORS]
    stated = {rate["tag"]: rate["limit"] for rate in candidate["envelope"]["rates"]}
    layout, traces = base_layout(height=110 + 210 * len(shown)), []
    places = list(range(len(PERCENT)))  # the last of them lie too near each other to be drawn to scale
    for row, (policy, record) in enumerate(shown, start=1):
        axis = {"xaxis": f"x{row}", "yaxis": f"y{row}", "showlegend": row == 1}
        for each, name, colour, dash, symbol in (
            (record, "record", RECORDED, "dot", "x"),
            (policy, "policy", POLICY, "solid", "circle"),
        ):
            trace = line(places, each["rates"], name, colour, dash, axis)
            traces.append(trace | {"mode": "lines+markers", "marker": {"color": colour, "symbol": symbol, "size": 7}})
        limit = stated[policy["tag"]]
        if limit is not None:
            traces.append(line([places[0], places[-1]], [limit, limit], "limit", OUTSIDE, "dash", axis))
        unit = "1/s" if policy["unit"] == "1" else f"{policy['unit']}/s"
        stacked_axes(
            layout, row, len(shown), safe(f"{policy['tag']}, {unit}"), "share of periods not faster", shared=False
        )
        layout[f"xaxis{row}"] |= {"tickvals": places, "ticktext": [f"{share} %" for share in PERCENT]}
    return {"data": traces, "layout": layout}


def _exact(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": value, "high": value}


def _percent(estimate: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else 100 * value for name, value in estimate.items()}
