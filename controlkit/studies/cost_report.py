"""What the study *cost* writes: a row per run, a table, a plot of score over time."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlkit.benchmarks.results import Record, markdown_table
from controlkit.files import written_aside

METRICS = ("updates", "train_seconds", "peak_mib", "score")
DPI = 120


def results_csv(parts: Sequence[Mapping[str, Any]], speed: Mapping[str, Any]) -> str:
    """One row per figure: method, seed (or round, of the speed), metric, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "seed", "metric", "value"))
    for part in parts:
        for metric in METRICS:
            writer.writerow((part["method"], part["seed"], metric, f"{part[metric]:.6g}"))
    for method, rates in speed["steps_per_s"].items():
        for number, rate in enumerate(rates):
            writer.writerow((method, f"round {number}", "steps_per_s", f"{rate:.6g}"))
    return text.getvalue()


def cost_table(records: Sequence[Record], methods: Sequence[str]) -> str:
    """A row per contender, Markdown."""
    cells = {(record.method, record.metric): record for record in records}
    rows = []
    for method in methods:
        found = {metric: cells[method, metric] for metric in (*METRICS, "steps_per_s")}
        steps, rate = found["updates"].value, found["steps_per_s"]
        rows.append(
            (
                method,
                f"{steps:.0f}",
                f"{rate.value:.3g} ± {rate.stderr:.2g}",
                f"{steps / rate.value:.0f}",
                f"{found['train_seconds'].value:.0f}",
                f"{found['peak_mib'].value:.0f}",
                f"{found['score'].value:.1f} ± {found['score'].stderr:.1f}",
            )
        )
    header = (
        "contender",
        "gradient steps",
        "steps/s",
        "steps alone, s",
        "whole training, s",
        "peak, MiB",
        "score",
    )
    return markdown_table(header, rows)


def plot_cost(path: Path, records: Sequence[Record], methods: Sequence[str]) -> None:
    """Writes a plot: score over the wall clock of a whole training."""
    from matplotlib.figure import Figure

    cells = {(record.method, record.metric): record for record in records}
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for method in methods:
        seconds, score = cells[method, "train_seconds"], cells[method, "score"]
        marker = "s" if method.startswith("d3rlpy") else "o"
        axes.errorbar(
            seconds.value, score.value, xerr=seconds.stderr, yerr=score.stderr, marker=marker, capsize=3, label=method
        )
    axes.set_xscale("log")
    axes.set_xlabel("whole training, s (one thread)")
    axes.set_ylabel("score on the true plant")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=DPI, format="png")
