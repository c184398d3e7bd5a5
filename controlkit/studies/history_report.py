"""What the study *history* writes: a row per run, a table, plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlkit.benchmarks.results import Record, markdown_table
from controlkit.files import written_aside

DPI = 120
METHODS = ("window", "observer", "belief")
COLOURS = {"window": "tab:blue", "observer": "tab:orange", "belief": "tab:green"}
# metric, controller -> heading
MODEL_COLUMNS: Mapping[tuple[str, str], str] = {
    ("holdout_rmse", ""): "hold-out",
    ("one_step_rmse", "operator"): "one step",
    ("one_step_rmse_open", "operator"): "door open",
    ("rollout_mae", "operator"): "rollout, operator",
    ("rollout_mae", "p"): "P",
    ("rollout_mae", "pid"): "PID",
    ("model_seconds", ""): "s",
}
Cells = Mapping[tuple[str, int, str, str, str], Record]


def results_csv(parts: Sequence[Mapping[str, Any]]) -> str:
    """One row per figure and run: door, history, method, seed, metric, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("door", "history", "method", "seed", "metric", "value"))
    for part in parts:
        for method, figures in part["figures"].items():
            for metric, value in figures.items():
                writer.writerow((part["door"], part["history"], method, part["seed"], metric, f"{value:.6g}"))
    return text.getvalue()


def cells_of(records: Sequence[Record]) -> Cells:
    """Records of runs by (door, history, method, metric, controller)."""
    found = {}
    for record in records:
        task = dict(entry.split("=") for entry in record.task.split(","))
        if "history" in task:
            key = (task["door"], int(task["history"]), record.method, record.metric, task.get("controller", ""))
            found[key] = record
    return found


def table_of(records: Sequence[Record], steps: int) -> str:
    """Both tables of each door, Markdown: the policies' cost, and the world models' errors."""
    cells, text = cells_of(records), ""
    for door in dict.fromkeys(key[0] for key in cells):
        text += f"## Door {door}\n\nMean |T + 2| of the true temperature in closed loop, °C.\n\n"
        text += _policies(cells, door)
        references = [(r.method, f"{r.value:.4f}") for r in records if r.task == f"door={door}"]
        text += "\n" + markdown_table(("controller that knows the plant's constants", "°C"), references)
        text += (
            "\nErrors of the world models, °C: against the next measurement of the log's hold-out; one step ahead "
            "against the true temperature, along other logs of the operator, and where the door was open; mean over "
            f"{steps} steps on its own, along recorded commands of the operator and of two unseen controllers.\n\n"
        )
        text += _models(cells, door) + "\n"
    return text


def _policies(cells: Cells, door: str) -> str:
    methods = [m for m in METHODS if any(key[0] == door and key[2] == m for key in cells)]
    rows = []
    for history in _histories(cells, door):
        row = [str(history)]
        for method in methods:
            record = cells.get((door, history, method, "closed_loop_mae", ""))
            row.append(f"{record.value:.4f} ± {record.stderr:.4f}" if record else "")
        rows.append(row)
    return markdown_table(("history", *methods), rows)


def _models(cells: Cells, door: str) -> str:
    rows = []
    for method in ("window", "observer"):  # `belief` shares the observer's world model
        for history in _histories(cells, door):
            found = [cells.get((door, history, method, *column)) for column in MODEL_COLUMNS]
            if found[0] is not None:
                shown = [
                    f"{r.value:.0f}" if r.metric == "model_seconds" else f"{r.value:.3f} ± {r.stderr:.3f}"
                    for r in found
                    if r is not None
                ]
                rows.append((f"{method}, history {history}", *shown))
    return markdown_table(("world model", *MODEL_COLUMNS.values()), rows)


def _histories(cells: Cells, door: str) -> list[int]:
    return sorted({key[1] for key in cells if key[0] == door})


def plot_history(out: Path, records: Sequence[Record]) -> None:
    """Writes `closed_loop.png` and `rollout.png`: cost and rollout error over the history, one panel a door."""
    cells = cells_of(records)
    doors = list(dict.fromkeys(key[0] for key in cells))
    references = [r for r in records if "history" not in r.task]
    _plot(out / "closed_loop.png", cells, doors, "closed_loop_mae", "", "mean |T + 2|, °C", METHODS, references)
    label = "error of open-loop rollouts (unseen PID), °C"
    _plot(out / "rollout.png", cells, doors, "rollout_mae", "pid", label, METHODS[:2], ())


def _plot(
    path: Path,
    cells: Cells,
    doors: Sequence[str],
    metric: str,
    controller: str,
    label: str,
    methods: Sequence[str],
    references: Sequence[Record],
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(doors), 3.6), layout="constrained")
    for axes, door in zip(figure.subplots(1, len(doors), squeeze=False, sharey=True)[0], doors, strict=True):
        for method in methods:
            found = [(h, cells.get((door, h, method, metric, controller))) for h in _histories(cells, door)]
            points = [(h, r.value, r.stderr) for h, r in found if r is not None]
            if points:
                x, y, error = zip(*points, strict=True)
                axes.errorbar(x, y, yerr=error, marker="o", capsize=3, color=COLOURS[method], label=method)
        for record in references:
            if record.task == f"door={door}":
                axes.axhline(record.value, color="grey", linewidth=0.8, linestyle="--")
                name = record.method.removeprefix("reference, ")
                axes.annotate(name, (1.0, record.value), xycoords=("axes fraction", "data"), fontsize=7, ha="right")
        axes.set_title(f"door {door}")
        axes.set_xlabel("earlier samples")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel(label)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=DPI, format="png")
