"""The report's plots as Plotly figures (plain mappings), made from the report's content alone.

Colours are from Okabe and Ito's palette, which the colour-blind can tell apart; lines differ in dash and markers in
shape, too. Every text that comes from a plant file is escaped: Plotly reads labels as markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from controlkit.evaluation.markup import labelled

Content = Mapping[str, Any]
Figure = dict[str, Any]

POLICY, OPERATOR, RECORDED, OUTSIDE = "#0072B2", "#B35F00", "#555555", "#CC3311"
LOOKS = {
    "policy": {"color": POLICY, "dash": "solid"},
    "operator": {"color": OPERATOR, "dash": "dash"},
    "recorded": {"color": RECORDED, "dash": "dot"},
}
GRID = {"gridcolor": "#e3e6ea", "zerolinecolor": "#b9bec5", "automargin": True, "title": {"standoff": 8}}


def figures(content: Content) -> dict[str, Figure]:
    """All plots by the id of their place on the page."""
    found: dict[str, Figure] = {"plot-gain": gain(content), "plot-values": values(content)}
    found["plot-fan"] = fan(content)
    found["plot-realised"] = realised(content)
    for number, candidate in enumerate(content["candidates"]):
        found[f"plot-map-{number}"] = support_map(content, candidate)
        found[f"plot-support-{number}"] = support_by_step(content, candidate)
        found[f"plot-bands-{number}"] = bands(content, candidate)
        found[f"plot-rollouts-{number}"] = rollouts(content, candidate)
    return found


def gain(content: Content) -> Figure:
    """Forest plot of the gain over the operator, by estimator."""
    rows = []
    for candidate in content["candidates"]:
        prefix = f"{candidate['name']}: " if len(content["candidates"]) > 1 else ""
        rows += [
            (f"{prefix}model rollouts", candidate["gain_model"], POLICY, "circle"),
            (f"{prefix}fitted Q evaluation", candidate["gain_fqe"], OPERATOR, "square"),
            (f"{prefix}the two joined", candidate["gain"], "#000000", "diamond"),
            (f"{prefix}doubly robust", candidate["gain_doubly_robust"], RECORDED, "triangle-up"),
        ]
        if candidate["in_sample"]["gain"] is not None:
            rows.append((f"{prefix}in-sample", candidate["in_sample"]["gain"], RECORDED, "square-open"))
    figure = forest(rows, f"gain over the operator, {reward_unit(content)} per period")
    figure["layout"]["shapes"] = [
        {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": OUTSIDE, "dash": "dot"}}
    ]
    return figure


def values(content: Content) -> Figure:
    """Forest plot of all values."""
    operator = content["operator"]
    rows = [
        ("operator: realised", operator["logged"], RECORDED, "x"),
        ("operator: model rollouts", operator["model"], OPERATOR, "circle"),
        ("operator: FQE", operator["fqe"], OPERATOR, "square"),
        ("operator: doubly robust", operator["doubly_robust"], OPERATOR, "triangle-up"),
    ]
    for candidate in content["candidates"]:
        name = candidate["name"]
        rows += [
            (f"{name}: model rollouts", candidate["model"], POLICY, "circle"),
            (f"{name}: FQE", candidate["fqe"], POLICY, "square"),
            (f"{name}: doubly robust", candidate["doubly_robust"], POLICY, "triangle-up"),
        ]
        if candidate["model_filtered"] is not None:
            rows.append((f"{name}: model, filter on", candidate["model_filtered"], POLICY, "circle-open"))
        if candidate["in_sample"]["value"] is not None:
            rows.append((f"{name}: in-sample", candidate["in_sample"]["value"], POLICY, "square-open"))
    return forest(rows, f"value, {reward_unit(content)} per period")


def fan(content: Content) -> Figure:
    """Error of k-step predictions of withheld trajectories, one row per state tag."""
    test, period = content["back_test"], content["plant"]["period_s"]
    tags = test["tags"][:4]
    x = [period * (step + 1) for step in range(test["steps"])]
    traces: list[dict[str, Any]] = []
    layout = base_layout(height=110 + 190 * len(tags))
    for row, tag in enumerate(tags, start=1):
        axis = {"xaxis": f"x{row}", "yaxis": f"y{row}", "showlegend": row == 1}
        traces += [
            *band(x, tag["low"], tag["high"], POLICY, "middle 90 % of errors", axis),
            line(x, tag["rmse"], "root mean square error", POLICY, "solid", axis),
            line(x, tag["persistence_rmse"], "if nothing changed", RECORDED, "dot", axis),
        ]
        stacked_axes(layout, row, len(tags), safe(labelled(f"{tag['tag']} error", tag["unit"])), "seconds ahead")
    return {"data": traces, "layout": layout}


def realised(content: Content) -> Figure:
    """The operator's value from withheld states, predicted against realised."""
    test = content["back_test"]
    ends = [min(test["predicted"] + test["realised"]), max(test["predicted"] + test["realised"])]
    layout = base_layout(height=340)
    layout |= {
        "xaxis": GRID | {"title": {"text": f"realised, {reward_unit(content)} per period"}},
        "yaxis": GRID | {"title": {"text": "predicted"}},
    }
    points = {
        "x": test["realised"],
        "y": test["predicted"],
        "mode": "markers",
        "name": "withheld start state",
        "marker": {"color": POLICY, "size": 7, "opacity": 0.7},
    }
    return {"data": [points, line(ends, ends, "exact", RECORDED, "dot", {})], "layout": layout}


def support_map(content: Content, candidate: Content) -> Figure:
    """Recorded steps, and the policy's own inside and outside the support."""
    found, units = candidate["support"]["map"], content["plant"]["units"]
    kinds = (
        ("recorded", "recorded", "#9aa3ad", "circle", 5),
        ("policy, supported", "inside", POLICY, "circle-open", 6),
        ("policy, outside", "outside", OUTSIDE, "x", 7),
    )
    traces = [
        {
            "x": found[key][0],
            "y": found[key][1],
            "mode": "markers",
            "name": name,
            "marker": {"color": colour, "symbol": symbol, "size": size},
        }
        for name, key, colour, symbol, size in kinds
        if found[key]
    ]
    layout = base_layout(height=380)
    for axis in ("x", "y"):
        tag = found[axis]
        layout[f"{axis}axis"] = GRID | {"title": {"text": safe(labelled(tag, units[tag]))}}
    return {"data": traces, "layout": layout}


def support_by_step(content: Content, candidate: Content) -> Figure:
    """Share of supported steps along a rollout, with the cuts."""
    support, period = candidate["support"], content["plant"]["period_s"]
    x = [period * step for step in range(len(support["by_step"]))]
    layout = base_layout(height=300)
    layout |= {
        "xaxis": GRID | {"title": {"text": "seconds after the start"}},
        "yaxis": GRID | {"title": {"text": "supported share"}, "range": [0, 1.05]},
    }
    cuts = [
        line([x[0], x[-1]], [support[key]] * 2, name, colour, "dot", {})
        for key, name, colour in (("comfortable", "comfortable", RECORDED), ("needed", "needed at least", OUTSIDE))
    ]
    return {"data": [line(x, support["by_step"], "policy's steps", POLICY, "solid", {}), *cuts], "layout": layout}


def bands(content: Content, candidate: Content) -> Figure:
    """Median and middle 90 % of all rollouts, one row per tag."""
    drawn, period = candidate["trajectories"], content["plant"]["period_s"]
    layout = base_layout(height=110 + 180 * len(drawn["tags"]))
    traces: list[dict[str, Any]] = []
    for row, tag in enumerate(drawn["tags"], start=1):
        axis = {"xaxis": f"x{row}", "yaxis": f"y{row}", "showlegend": row == 1}
        for source, look in LOOKS.items():
            low, middle, high = drawn["bands"][tag][source]
            x = [period * step for step in range(len(middle))]
            traces += band(x, low, high, look["color"], f"{source}, 90 %", axis | {"showlegend": False}, opacity=0.12)
            traces.append(line(x, middle, f"{source}, median", look["color"], look["dash"], axis))
        _setpoint(layout, drawn, tag, row)
        stacked_axes(layout, row, len(drawn["tags"]), tag_label(tag, content), "seconds after the start")
    return {"data": traces, "layout": layout}


def rollouts(content: Content, candidate: Content) -> Figure:
    """Single rollouts beside the record; `meta` says which, so that the page can show one at a time."""
    drawn, period = candidate["trajectories"], content["plant"]["period_s"]
    layout = base_layout(height=110 + 180 * len(drawn["tags"]))
    traces: list[dict[str, Any]] = []
    for number, chosen in enumerate(drawn["chosen"]):
        for row, tag in enumerate(drawn["tags"], start=1):
            for source, look in LOOKS.items():
                y = drawn["series"][tag][source][chosen["label"]]
                axis = {"xaxis": f"x{row}", "yaxis": f"y{row}", "showlegend": row == 1, "meta": chosen["label"]}
                x = [period * step for step in range(len(y))]
                trace = line(x, y, source, look["color"], look["dash"], axis)
                if tag in drawn["commands"]:
                    trace["line"]["shape"] = "hv"
                traces.append(trace | {"visible": number == 0})
    for row, tag in enumerate(drawn["tags"], start=1):
        _setpoint(layout, drawn, tag, row)
        stacked_axes(layout, row, len(drawn["tags"]), tag_label(tag, content), "seconds after the start")
    return {"data": traces, "layout": layout}


def forest(rows: Sequence[tuple[str, Content, str, str]], title: str) -> Figure:
    traces = []
    for name, estimate, colour, symbol in rows:
        value, low, high = estimate["value"], estimate["low"], estimate["high"]
        known = None not in (value, low, high)
        traces.append(
            {
                "x": [value],
                "y": [safe(name)],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value if known else 0],
                    "arrayminus": [value - low if known else 0],
                    "color": colour,
                    "thickness": 2,
                    "width": 6,
                },
                "mode": "markers",
                "marker": {"color": colour, "symbol": symbol, "size": 10},
                "showlegend": False,
                "hovertemplate": "%{x:.4g}<extra></extra>",
            }
        )
    layout = base_layout(height=100 + 38 * len(rows))
    layout["margin"] |= {"t": 30}
    layout |= {
        "xaxis": GRID | {"title": {"text": title}},
        "yaxis": GRID | {"autorange": "reversed", "type": "category"},
    }
    return {"data": traces, "layout": layout}


def base_layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 62, "b": 44},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1c2733"},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
        "hovermode": "closest",
        "dragmode": False,
    }


def stacked_axes(layout: dict[str, Any], row: int, rows: int, y_title: str, x_title: str, shared: bool = True) -> None:
    """Stacks a pair of axes; where x is `shared`, only the lowest carries its title, and all zoom together."""
    gap, part = 0.06 if shared else 0.30 / rows, 1.0 / rows
    top = 1.0 - (row - 1) * part
    last = row == rows
    layout[f"xaxis{row}"] = GRID | {
        "anchor": f"y{row}",
        "matches": None if row == 1 or not shared else "x",
        "title": {"text": x_title if last or not shared else ""},
        "showticklabels": last or not shared,
    }
    layout[f"yaxis{row}"] = GRID | {
        "anchor": f"x{row}",
        "domain": [max(0.0, top - part + (0.0 if last else gap / 2)), top - (0.0 if row == 1 else gap / 2)],
        "title": {"text": y_title, "font": {"size": 12}},
    }


def _setpoint(layout: dict[str, Any], drawn: Content, tag: str, row: int) -> None:
    if tag in drawn["setpoints"]:
        level = drawn["setpoints"][tag]
        layout.setdefault("shapes", []).append(
            {
                "type": "line",
                "xref": f"x{row} domain",
                "yref": f"y{row}",
                "x0": 0,
                "x1": 1,
                "y0": level,
                "y1": level,
                "line": {"color": "#7a7a7a", "width": 1, "dash": "dashdot"},
            }
        )


def line(x: Sequence[float], y: Sequence[float], name: str, colour: str, dash: str, more: Content) -> dict[str, Any]:
    line = {"color": colour, "dash": dash, "width": 2}
    return {"x": list(x), "y": list(y), "mode": "lines", "name": name, "line": line, **more}


def band(
    x: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    colour: str,
    name: str,
    more: Content,
    opacity: float = 0.18,
) -> list[dict[str, Any]]:
    """An area, drawn as one closed outline."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return [
        {
            "x": [*x, *reversed(x)],
            "y": [*high, *reversed(low)],
            "fill": "toself",
            "mode": "none",
            "fillcolor": f"rgba({red},{green},{blue},{opacity})",
            "name": name,
            "hoverinfo": "skip",
            **more,
        }
    ]


def tag_label(tag: str, content: Content) -> str:
    return safe(labelled(tag, content["plant"]["units"][tag]))


def reward_unit(content: Content) -> str:
    return safe(content["plant"]["reward_unit"])


def safe(text: str) -> str:
    return html.escape(text, quote=False)
