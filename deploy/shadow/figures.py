"""The report's plots as Plotly figures (plain mappings), made from the report's content alone.

Times are milliseconds since 1970-01-01 UTC. A line is the mean of each stretch of time; the strokes behind it reach
from the smallest to the largest value in the stretch, so that no excursion is lost by thinning. Colours as in the
offline report; every text from outside is escaped, as Plotly reads labels as markup.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from controlkit.evaluation.figures import GRID, OPERATOR, OUTSIDE, POLICY, RECORDED
from controlkit.evaluation.markup import labelled

Content = Mapping[str, Any]
Figure = dict[str, Any]
Values = Sequence[float | None]

# SHADOW, ADVISORY, ARMED, OFF: told apart by lightness, too.
MODE_COLOURS = {"SHADOW": "#56B4E9", "ADVISORY": "#0072B2", "ARMED": "#CC3311", "OFF": "#b9bec5"}


def figures(content: Content) -> dict[str, Figure]:
    """All plots by the id of their place on the page."""
    found = {
        "plot-coverage": coverage(content),
        "plot-trust": trust(content),
        "plot-agreement": agreement(content),
        "plot-drift": drift(content),
        "plot-sensors": sensors(content),
        "plot-latency": latency(content),
    }
    for number, tag in enumerate(content["commands"]["over_time"]):
        found[f"plot-command-{number}"] = command(content, tag)
    if content["baseline"]["steps"]:
        found["plot-baseline"] = baseline(content)
    if any(tag["ratio"] is not None for tag in content["prediction"]["tags"]):
        found["plot-prediction"] = prediction(content)
    # All of them over the same time, so that one can be read against another.
    whole = [content["coverage"][end] // 1_000_000 for end in ("first_ns", "last_ns")]
    for figure in found.values():
        if figure["layout"]["xaxis"].get("type") == "date":
            figure["layout"]["xaxis"]["range"] = whole
    return found


def coverage(content: Content) -> Figure:
    """Share of the cycles that time had room for, stacked by mode."""
    over_time = content["coverage"]["over_time"]
    traces = [
        {
            "type": "bar",
            "x": over_time["time_ms"],
            "y": [None if y is None else 100 * y for y in shares],
            "name": mode,
            "marker": {"color": MODE_COLOURS[mode], "line": {"width": 0}},
            "hovertemplate": "%{x}: %{y:.1f} %<extra>" + mode + "</extra>",
        }
        for mode, shares in over_time["shares"].items()
    ]
    layout = _layout(230, "% of the cycles") | {"barmode": "stack", "bargap": 0, "showlegend": True}
    layout["yaxis"] |= {"range": [0, 105]}
    return {"data": traces, "layout": layout}


def trust(content: Content) -> Figure:
    """Trust over time."""
    found = content["coverage"]["trust"]
    layout = _layout(230, "trust")
    layout["yaxis"] |= {"range": [-0.05, 1.05]}
    return {"data": _followed(found["time_ms"], found, "trust, mean", POLICY, "solid"), "layout": layout}


def agreement(content: Content) -> Figure:
    """Share of the steps in which policy and operator agreed in every command."""
    found = content["commands"]
    y = [None if value is None else 100 * value for value in found["together"]]
    layout = _layout(230, "% of the steps")
    layout["yaxis"] |= {"range": [0, 105]}
    return {"data": [_line(found["time_ms"], y, "all commands agree", POLICY, "solid")], "layout": layout}


def command(content: Content, tag: str) -> Figure:
    """A command: done and policy above, their difference below."""
    found, x = content["commands"]["over_time"][tag], content["commands"]["time_ms"]
    layout = _layout(400, "")
    _rows(layout, [_safe(labelled(tag, content["plant"]["units"][tag])), "policy \u2212 done, % of span"], [0.56, 0.38])
    upper, lower = {"xaxis": "x", "yaxis": "y"}, {"xaxis": "x", "yaxis": "y2"}
    share = {key: [None if v is None else 100 * v for v in found["difference"][key]] for key in ("mean", "low", "high")}
    traces = [
        *_followed(x, found["policy"], "policy", POLICY, "solid", upper),
        *_followed(x, found["done"], "done", OPERATOR, "dash", upper),
        *_followed(x, share, "difference", RECORDED, "solid", lower),
    ]
    return {"data": traces, "layout": layout}


def baseline(content: Content) -> Figure:
    """The objective achieved under the operator, with its mean and interval."""
    found, estimate = content["baseline"]["over_time"], content["baseline"]["estimate"]
    unit = content["plant"]["reward_unit"]
    layout = _layout(300, _safe(unit if len(unit) < 20 else "objective"))
    shapes = []
    if estimate["low"] is not None and estimate["high"] is not None:
        shapes.append(
            {
                "type": "rect",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": estimate["low"],
                "y1": estimate["high"],
                "fillcolor": "rgba(179,95,0,0.20)",
                "line": {"width": 0},
            }
        )
    if estimate["value"] is not None:
        shapes.append(_level(estimate["value"], OPERATOR, "dash", "y"))
    layout["shapes"] = shapes
    return {"data": _followed(found["time_ms"], found, "achieved", RECORDED, "solid"), "layout": layout}


def prediction(content: Content) -> Figure:
    """One-step error of each state tag against the error of saying that nothing changes."""
    tags = [tag for tag in content["prediction"]["tags"] if tag["ratio"] is not None][:40]
    ratio = content["rules"]["error_ratio"]
    layout = _layout(110 + 26 * len(tags), "")
    layout |= {
        "xaxis": GRID | {"title": {"text": "error / error of 'nothing changes'"}, "rangemode": "tozero"},
        "yaxis": GRID | {"autorange": "reversed", "type": "category"},
        "shapes": [
            {
                "type": "line", "x0": ratio, "x1": ratio, "y0": 0, "y1": 1, "yref": "paper",
                "line": {"color": OUTSIDE, "dash": "dot"},
            }
        ],
    }  # fmt: skip
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [tag["ratio"] for tag in tags],
        "y": [_safe(tag["tag"]) for tag in tags],
        "marker": {"color": POLICY},
        "hovertemplate": "%{y}: %{x:.3g}<extra></extra>",
    }
    return {"data": [bars], "layout": layout}


def drift(content: Content) -> Figure:
    """Dynamics reward, shortfall, EWMA and CUSUM with their limits; changes of level as vertical lines."""
    found, limits = content["drift"], content["drift"]["limits"]
    names = {
        "score_observed": "dynamics reward",
        "shortfall": "shortfall",
        "ewma": "EWMA",
        "cusum": "CUSUM",
    }
    layout = _layout(640, "")
    layout["showlegend"] = False
    _rows(layout, list(names.values()), [0.22] * 4)
    traces: list[dict[str, Any]] = []
    shapes = []
    for row, (name, said) in enumerate(names.items(), start=1):
        axis = "y" if row == 1 else f"y{row}"
        traces += _followed(
            found["time_ms"], found["series"][name], said, POLICY, "solid", {"xaxis": "x", "yaxis": axis}
        )
        if name in limits:
            shapes.append(_level(limits[name], OUTSIDE, "dot", axis))
            # So that the limit is on the plot even where nothing comes near it.
            ends = found["time_ms"][:1] + found["time_ms"][-1:]
            traces.append(
                _line(ends, [limits[name]] * len(ends), f"{said}, limit", OUTSIDE, "dot", {"xaxis": "x", "yaxis": axis})
            )
    for change in found["changes"]:
        at = change["time_ns"] // 1_000_000
        shapes.append(
            {
                "type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
                "line": {"color": "#000000", "dash": "dashdot", "width": 1.5},
            }
        )  # fmt: skip
    layout["shapes"] = shapes
    return {"data": traces, "layout": layout}


def sensors(content: Content) -> Figure:
    """Usable share of every tag over time."""
    found = content["sensors"]["over_time"]
    tags = list(found["shares"])
    layout = _layout(110 + 22 * len(tags), "")
    layout["yaxis"] = {"autorange": "reversed", "type": "category", "automargin": True}
    heat = {
        "type": "heatmap",
        "x": found["time_ms"],
        "y": [_safe(tag) for tag in tags],
        "z": [[None if v is None else 100 * v for v in found["shares"][tag]] for tag in tags],
        "zmin": 0,
        "zmax": 100,
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "%"}, "thickness": 12, "len": 1},
        "hovertemplate": "%{y}, %{x}: %{z:.1f} % usable<extra></extra>",
    }
    return {"data": [heat], "layout": layout}


def latency(content: Content) -> Figure:
    """Time of a step with the deadline."""
    found = content["runtime"]
    layout = _layout(260, "ms")
    layout["yaxis"] |= {"type": "log"}
    over_time = found["over_time"]
    traces = _followed(over_time["time_ms"], over_time, "time of a step", POLICY, "solid")
    ends = over_time["time_ms"][:1] + over_time["time_ms"][-1:]
    traces.append(_line(ends, [found["deadline_ms"]] * len(ends), "deadline", OUTSIDE, "dot"))
    layout["showlegend"] = True
    return {"data": traces, "layout": layout}


def _followed(
    x: Sequence[int], values: Mapping[str, Values], name: str, colour: str, dash: str, more: Content | None = None
) -> list[dict[str, Any]]:
    """A mean with strokes from the smallest to the largest value."""
    strokes_x: list[int | None] = []
    strokes_y: list[float | None] = []
    for time, low, high in zip(x, values["low"], values["high"], strict=True):
        if low is not None and high is not None and low != high:
            strokes_x += [time, time, None]
            strokes_y += [low, high, None]
    strokes = {
        "x": strokes_x,
        "y": strokes_y,
        "mode": "lines",
        "name": f"{name}, smallest to largest",
        "line": {"color": colour, "width": 1},
        "opacity": 0.35,
        "hoverinfo": "skip",
        "showlegend": False,
        **(more or {}),
    }
    line = _line(x, values["mean"], name, colour, dash, more)
    return [strokes, line] if strokes_x else [line]


def _line(
    x: Sequence[int], y: Values, name: str, colour: str, dash: str, more: Content | None = None
) -> dict[str, Any]:
    # Single stretches between gaps would be invisible as a line alone.
    alone = any(
        value is not None and (i == 0 or y[i - 1] is None) and (i + 1 == len(y) or y[i + 1] is None)
        for i, value in enumerate(y)
    )
    return {
        "x": list(x),
        "y": list(y),
        "mode": "lines+markers" if alone else "lines",
        "marker": {"size": 4, "color": colour},
        "name": name,
        "line": {"color": colour, "dash": dash, "width": 2},
        "connectgaps": False,
        "hovertemplate": "%{x}: %{y:.4g}<extra>" + name + "</extra>",
        **(more or {}),
    }


def _level(value: float, colour: str, dash: str, axis: str) -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": value, "y1": value,
        "line": {"color": colour, "dash": dash, "width": 1.5},
    }  # fmt: skip


def _rows(layout: dict[str, Any], titles: Sequence[str], heights: Sequence[float]) -> None:
    """Stacks y axes over one axis of time, the first on top."""
    gap = (1.0 - sum(heights)) / max(len(heights) - 1, 1)
    top = 1.0
    for row, (title, height) in enumerate(zip(titles, heights, strict=True), start=1):
        name = "yaxis" if row == 1 else f"yaxis{row}"
        layout[name] = GRID | {
            "domain": [max(0.0, top - height), top],
            "anchor": "x",
            "title": {"text": title, "font": {"size": 12}},
        }
        top -= height + gap
    layout["xaxis"] |= {"anchor": "y" if len(titles) == 1 else f"y{len(titles)}"}


def _layout(height: int, y_title: str) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 40, "b": 44},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1c2733"},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": GRID | {"type": "date"},
        "yaxis": GRID | {"title": {"text": y_title, "font": {"size": 12}}},
    }


def _safe(text: str) -> str:
    return html.escape(text, quote=False)
