"""The page's plots as PNG files, for slides and for readers without JavaScript, drawn by matplotlib.

They are made from the same figures. Only what `figures` and `operation_figures` use of Plotly's form is understood:
scatter traces with lines, markers, filled outlines and error bars along x, stacked pairs of axes, and straight lines as
shapes.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure = Mapping[str, Any]
Trace = Mapping[str, Any]

WIDTH, DPI = 900, 100
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
STEPS = {"hv": "steps-post", "hvh": "steps-mid"}
SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "x", "line-ns": "|"}
# Room for titles and tick labels around and between the axes, as shares of the picture.
LEFT, RIGHT, BOTTOM_PX, TOP_PX = 0.10, 0.97, 56, 44
# Width of a letter of a category's name.
LETTER_PX = 6.6


def picture(figure: Figure) -> bytes:
    """One plot as a PNG, `WIDTH` pixels wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    layout, height = figure["layout"], int(figure["layout"]["height"])
    canvas = Canvas(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(canvas)
    bottom, top = BOTTOM_PX / height, 1.0 - TOP_PX / height
    left = LEFT
    if any(layout[key].get("type") == "category" for key in layout if key.startswith("yaxis")):
        longest = max(len(_plain(trace["y"][0])) for trace in figure["data"])
        left = min(0.5, (30 + LETTER_PX * longest) / WIDTH)
    axes: dict[str, Axes] = {}
    for name in sorted(key for key in layout if key.startswith("yaxis")):
        number = name.removeprefix("yaxis")
        low, high = layout[name].get("domain", (0.0, 1.0))
        place = (left, bottom + low * (top - bottom), RIGHT - left, (high - low) * (top - bottom))
        axes[number] = canvas.add_axes(place)
        _axis(axes[number], layout[f"xaxis{number}"], layout[name])
    for trace in figure["data"]:
        if trace.get("visible", True):
            _draw(axes[str(trace.get("yaxis", "y")).removeprefix("y")], trace)
    for number, each in axes.items():
        if layout[f"yaxis{number}"].get("autorange") == "reversed":
            _categories(each, figure["data"])
    for shape in layout.get("shapes", ()):
        _shape(axes, shape)
    named = {label: handle for each in axes.values() for handle, label in zip(*each.get_legend_handles_labels())}  # noqa: B905
    if named:
        canvas.legend(named.values(), named.keys(), loc="upper left", ncols=4, frameon=False, fontsize=9)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _axis(axes: Axes, x: Mapping[str, Any], y: Mapping[str, Any]) -> None:
    axes.grid(color="#e3e6ea")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, labelbottom=x.get("showticklabels", True))
    axes.set_xlabel(_plain(x["title"]["text"]), fontsize=10)
    axes.set_ylabel(_plain(y.get("title", {}).get("text", "")), fontsize=9)
    if "range" in y:
        axes.set_ylim(*y["range"])
    if "tickvals" in x:
        axes.set_xticks(x["tickvals"], x["ticktext"])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw(axes: Axes, trace: Trace) -> None:
    x, y = _numbers(trace["x"]), trace["y"]
    name = _plain(trace.get("name", "")) if trace.get("showlegend", True) else ""
    label = name or "_nothing"
    if trace["mode"] == "none":
        red, green, blue, opacity = (float(part) for part in re.findall(r"[\d.]+", trace["fillcolor"]))
        axes.fill(x, _numbers(y), color=(red / 255, green / 255, blue / 255), alpha=opacity, linewidth=0, label=label)
        return
    if "error_x" in trace:
        _estimate(axes, trace, x[0], _plain(y[0]))
        return
    line, marker = trace.get("line", {}), trace.get("marker", {})
    axes.plot(
        x,
        _numbers(y),
        color=line.get("color") or marker["color"],
        linestyle=DASHES[line["dash"]] if "lines" in trace["mode"] else "none",
        drawstyle=STEPS.get(line.get("shape", ""), "default"),
        linewidth=1.5,
        alpha=marker.get("opacity", 1.0),
        label=label,
        **_marker(marker),
    )


def _estimate(axes: Axes, trace: Trace, value: float, name: str) -> None:
    """A row of a forest plot; rows with one name share a line."""
    bars, marker = trace["error_x"], trace["marker"]
    axes.errorbar(
        [value],
        [name],
        xerr=[[bars["arrayminus"][0]], [bars["array"][0]]],
        color=marker["color"],
        linestyle="none",
        capsize=3,
        **_marker(marker),
    )


def _categories(axes: Axes, traces: Sequence[Trace]) -> None:
    count = len({trace["y"][0] for trace in traces})
    axes.set_ylim(count - 0.5, -0.5)


def _marker(marker: Mapping[str, Any]) -> dict[str, Any]:
    if not marker:
        return {}
    symbol = marker.get("symbol", "circle")
    shape = SYMBOLS[symbol.removesuffix("-open")]
    hollow = {"markerfacecolor": "none"} if symbol.endswith("-open") else {}
    return {"marker": shape, "markersize": 0.7 * marker["size"], "markeredgecolor": marker["color"], **hollow}


def _shape(axes: Mapping[str, Axes], shape: Mapping[str, Any]) -> None:
    look = {"color": shape["line"]["color"], "linestyle": DASHES[shape["line"]["dash"]], "linewidth": 1.0}
    if shape.get("yref") == "paper":
        next(iter(axes.values())).axvline(shape["x0"], **look)
    else:
        axes[shape["yref"].removeprefix("y")].axhline(shape["y0"], **look)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _plain(text: str) -> str:
    """Plotly's escapes undone, and matplotlib's mathematics switched off."""
    return html.unescape(text).replace("$", r"\$")
