"""What every study writes: `results.csv` with all single figures, `results.json` with their means, tables and plots.

Logs are what is drawn anew; the seeds of training on one log are not. So a mean is over logs, of the mean over a log's
seeds, and a standard error is that of the mean over logs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.files import write_text, written_aside
from controlkit.studies.jobs import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot


@dataclass(frozen=True)
class Mean:
    """Of one metric of one method.

    Attributes:
        value, stderr: mean and its standard error over logs, 0 where there is one.
        logs, seeds: how many logs, and seeds on each.
        worst: the largest of the logs' means.
    """

    value: float
    stderr: float
    logs: int
    seeds: int
    worst: float


class Outcome:
    """The figures of a study.

    Args:
        study: its name.
        figures: of all its runs.
        commit: of the code.
    """

    def __init__(self, study: str, figures: Sequence[Figure], commit: str) -> None:
        self.study, self.figures, self.commit = study, figures, commit
        self._values: dict[tuple[str, str, str], dict[int, list[float]]] = {}
        for figure in figures:
            logs = self._values.setdefault((figure.task, figure.method, figure.metric), {})
            logs.setdefault(figure.log, []).append(figure.value)

    def mean(self, task: str, method: str, metric: str) -> Mean | None:
        """Of a metric, `None` where it was not measured."""
        logs = self._values.get((task, method, metric))
        if logs is None:
            return None
        each = [float(np.mean(values)) for values in logs.values()]
        error = float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0
        seeds = max(len(values) for values in logs.values())
        return Mean(float(np.mean(each)), error, len(each), seeds, max(each))

    def series(self, tasks: Sequence[str], method: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard errors along some tasks, NaN where there are none: (T,), (T,)."""
        means = [self.mean(task, method, metric) for task in tasks]
        pairs = [(m.value, m.stderr) if m is not None else (np.nan, np.nan) for m in means]
        values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return values[:, 0], values[:, 1]

    def records(self) -> list[Record]:
        """Every mean; `seeds` counts the logs, `episodes` the runs on each."""
        found = []
        for task, method, metric in self._values:
            mean, cost = self.mean(task, method, metric), self.mean(task, method, "seconds")
            assert mean is not None
            seconds = 0.0 if cost is None else round(cost.value, 1)
            found.append(
                Record(
                    self.study, task, method, metric, mean.value, mean.stderr, mean.logs, mean.seeds, seconds,
                    self.commit, "", machine(),
                )
            )  # fmt: skip
        return found

    def write(self, out: Path, table: str, plots: Mapping[str, Plot]) -> str:
        """Writes `results.csv`, `results.json`, `table.md` and `NAME.png` for each plot; returns the table."""
        text = f"{table}\n{machine()}; commit {self.commit}. Errors are standard errors over logs.\n"
        stream = io.StringIO()
        writer = csv.DictWriter(stream, [field.name for field in fields(Figure)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(figure) for figure in self.figures)
        write_text(out / "results.csv", stream.getvalue())
        write_results(out, self.records())
        write_text(out / "table.md", text)
        for name, plot in plots.items():
            with written_aside(out / f"{name}.png") as aside:
                plot.savefig(aside, dpi=110, format="png")
        return text


@dataclass(frozen=True)
class Column:
    """A column of a table: the metric, its heading, its digits, and whether the worst log is shown, too."""

    metric: str
    heading: str
    digits: int = 2
    worst: bool = False


def method_table(outcome: Outcome, task: str, methods: Sequence[str], columns: Sequence[Column]) -> str:
    """One row per method, `value ± error` per column."""
    rows = [[method, *(_cell(outcome.mean(task, method, c.metric), c) for c in columns)] for method in methods]
    return markdown_table(("method", *(c.heading for c in columns)), rows)


def task_table(outcome: Outcome, tasks: Mapping[str, str], methods: Sequence[str], column: Column, first: str) -> str:
    """One row per task (name -> label), one column per method, of one metric; `first` heads the labels."""
    rows = [
        [label, *(_cell(outcome.mean(task, method, column.metric), column) for method in methods)]
        for task, label in tasks.items()
    ]
    return markdown_table((first, *methods), rows)


def _cell(mean: Mean | None, column: Column) -> str:
    if mean is None:
        return ""
    cell = f"{mean.value:.{column.digits}f}"
    if mean.logs > 1:
        cell += f" ± {mean.stderr:.{column.digits}f}"
    return f"{cell}, worst {mean.worst:.{column.digits}f}" if column.worst and mean.logs > 1 else cell


def new_plot(panels: int, *, size: tuple[float, float] = (4.6, 3.8)) -> tuple[Plot, list[Any]]:
    """A figure of some panels side by side, drawn without a display; and its axes."""
    from matplotlib.figure import Figure as NewFigure

    plot = NewFigure(figsize=(size[0] * panels, size[1]), layout="constrained")
    axes = [plot.add_subplot(1, panels, i + 1) for i in range(panels)]
    for one in axes:
        one.grid(alpha=0.3)
    return plot, axes


def dots(
    axes: Any,
    outcome: Outcome,
    task: str,
    methods: Sequence[str],
    metric: str,
    title: str,
    *,
    reference: float | None = None,
    log: bool = False,
) -> None:
    """A metric with its error, one row per method, the first at the top; `reference` draws a line to compare with."""
    means = [outcome.mean(task, method, metric) for method in methods]
    values = [np.nan if mean is None else mean.value for mean in means]
    errors = [np.nan if mean is None else mean.stderr for mean in means]
    at = np.arange(len(methods))
    axes.errorbar(values, at, xerr=errors, fmt="o", markersize=5, capsize=3)
    axes.set_yticks(at, methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_title(title, fontsize=10)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", labelsize=8, labelrotation=45)
    if reference is not None:
        axes.axvline(reference, color="black", linewidth=1, linestyle="--")


def lines(
    axes: Any,
    outcome: Outcome,
    tasks: Sequence[str],
    labels: Sequence[str],
    methods: Sequence[str],
    metric: str,
    colours: Sequence[str] = (),
    *,
    dashed: bool = False,
) -> None:
    """A metric along tasks (bins, settings), one line with error bars per method.

    `colours` lists all methods of a study, so that each has the same colour in every panel.
    """
    at, known = np.arange(len(tasks)), list(colours or methods)
    for method in methods:
        values, errors = outcome.series(tasks, method, metric)
        if np.isfinite(values).any():
            colour = f"C{known.index(method)}"
            style = {"linestyle": "--" if dashed else "-", "label": None if dashed else method}
            axes.errorbar(at, values, yerr=errors, marker="o", markersize=3, capsize=2, color=colour, **style)
    axes.set_xticks(at, labels, rotation=45, ha="right", fontsize=8)
