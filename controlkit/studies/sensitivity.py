"""Sensitivity: the filter's two settings over their full ranges, on the refrigerator whose truth is known.

- *threshold*: from off, over quantiles of the dynamics reward of what the filter picks at the points in data and far
  outside (half each, so that 0.5 is about where the data begins), to one that nearly all of it misses; and the
  calibrated one. Argmax. (Recorded transitions are no measure of a threshold's full range: they carry the plant's
  noise, and picks look more likely than nearly all of them.)
- *kappa*: the softmax's temperature from 0.001 to 10, and argmax. Threshold off.
- a small grid of both.

See `variants.py` for the plant, the logs and what is measured. Rollouts of the two unseen controllers say what a model
of the plant becomes; the small policy, what is left of it in a controller. The reward is the default, distilled, as a
run uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controlkit.artifacts import commit
from controlkit.progress import Progress
from controlkit.studies.jobs import Figure, run_jobs
from controlkit.studies.outcome import Column, Outcome, method_table, new_plot
from controlkit.studies.variants import NOISE, Overrides, Variant, reference_costs, run_variants, variant_jobs

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

STUDY, TRAINING_SEEDS, CHUNK = "sensitivity", 3, 10
TASK = f"noise={NOISE}"
QUANTILES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.99)
KAPPAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
GRID_QUANTILES, GRID_KAPPAS = (None, 0.1, 0.3, 0.5), (None, 0.1, 1.0, 10.0)
DISTILLED: Overrides = {"reward.distil": True}
COLUMNS = (
    Column("threshold", "r_D"),
    Column("argmax_error_in", "pick in"),
    Column("argmax_error_out", "pick out"),
    Column("rollout_mae_p", "MAE P", 3),
    Column("rollout_mae_pid", "MAE PID", 3),
    Column("accepted_mae_p", "accepted P", 3),
    Column("accepted_mae_pid", "accepted PID", 3),
    Column("ended_p", "ended P"),
    Column("ended_pid", "ended PID"),
    Column("ended_training", "ended training"),
    Column("closed_loop_mae", "closed loop", 4),
)


def point(quantile: float | None, kappa: float | None) -> Variant:
    """A threshold (`None`: off) with a temperature (`None`: argmax)."""
    cut = "off" if quantile is None else f"quantile {quantile:g}"
    choice = "argmax" if kappa is None else f"kappa {kappa:g}"
    overrides = {} if kappa is None else {"filter.choose": "softmax", "filter.kappa": kappa}
    return Variant(f"{cut}, {choice}", {"filter.threshold": "off", **overrides}, threshold_quantile=quantile)


CALIBRATED = Variant("calibrated, argmax", {"filter.threshold": "auto"})
BY_THRESHOLD = (point(None, None), *(point(quantile, None) for quantile in QUANTILES), CALIBRATED)
BY_KAPPA = (point(None, None), *(point(None, kappa) for kappa in KAPPAS))
GRID = tuple(point(quantile, kappa) for quantile in GRID_QUANTILES for kappa in GRID_KAPPAS)
VARIANTS: Mapping[str, Variant] = {variant.name: variant for variant in (*BY_THRESHOLD, *BY_KAPPA, *GRID)}


def run_study(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    training_seeds: int = TRAINING_SEEDS,
    workers: int | None = None,
    settings: Overrides | None = None,
    variants: Sequence[Variant] = tuple(VARIANTS.values()),
) -> str:
    """Runs the study.

    Args:
        out: folder for the results, the plots and the single runs' figures.
        seeds: logs; each is trained on with `training_seeds` seeds.
        progress: is told of each run.
        training_seeds: seeds per log.
        workers: processes; as many as there are cores where none is given.
        settings: overrides for all points, such as smaller sizes.
        variants: the points; all where none are given.

    Returns:
        The table, Markdown.
    """
    shared = {**DISTILLED, **(settings or {})}
    jobs = variant_jobs(STUDY, variants, shared, seeds, training_seeds, CHUNK)
    figures = run_jobs(run_variants, jobs, out, progress, workers)
    references = reference_costs(("operator", "raw_deadbeat"))
    figures += [Figure(TASK, name, "closed_loop_mae", 0, 0, cost) for name, cost in references.items()]
    outcome = Outcome(STUDY, figures, commit())
    plots = {"threshold": _sweep(outcome, BY_THRESHOLD, variants), "kappa": _sweep(outcome, BY_KAPPA, variants)}
    return outcome.write(out, _table(outcome, variants, references), plots | {"grid": _grid(outcome)})


def _table(outcome: Outcome, variants: Sequence[Variant], references: Mapping[str, float]) -> str:
    text = ""
    for title, some in (("Threshold", BY_THRESHOLD), ("Temperature", BY_KAPPA), ("Grid of both", GRID)):
        rows = [variant.name for variant in some if variant in variants]
        if rows:
            text += f"### {title}\n\n{method_table(outcome, TASK, rows, COLUMNS)}\n"
    known = ", ".join(f"{name} {cost:.4f}" for name, cost in references.items())
    return text + f"Closed loop of the task's own controllers: {known}.\n"


def _sweep(outcome: Outcome, some: Sequence[Variant], variants: Sequence[Variant]) -> Plot:
    """What one setting does: errors, ends of rollouts, the policy."""
    rows = [variant for variant in some if variant in variants]
    at, labels = np.arange(len(rows)), _labels([variant.name for variant in rows])
    swept = len(rows) - (CALIBRATED in rows)
    style: dict[str, Any] = {"marker": "o", "markersize": 3, "capsize": 2}
    plot, axes = new_plot(3)
    wanted: tuple[tuple[str, Mapping[str, str]], ...] = (
        (
            "rollout MAE, K",
            {
                "rollout_mae_p": "P",
                "rollout_mae_pid": "PID",
                "accepted_mae_p": "P, accepted steps",
                "accepted_mae_pid": "PID, accepted steps",
            },
        ),
        ("share of rollouts ended", {"ended_p": "P", "ended_pid": "PID", "ended_training": "in training"}),
        ("closed loop |T + 2|, K", {"closed_loop_mae": "small policy"}),
    )
    for one, (title, metrics) in zip(axes, wanted, strict=True):
        for metric, label in metrics.items():
            means = [outcome.mean(TASK, variant.name, metric) for variant in rows]
            values = [mean.value if mean is not None else np.nan for mean in means]
            errors = [mean.stderr if mean is not None else np.nan for mean in means]
            drawn = one.errorbar(at[:swept], values[:swept], yerr=errors[:swept], **style, label=label)
            # The calibrated threshold is no step of the sweep: it stands apart.
            one.errorbar(at[swept:], values[swept:], yerr=errors[swept:], **style, color=drawn[0].get_color())
        one.set_xticks(at, labels, rotation=45, ha="right", fontsize=8)
        one.set_title(title, fontsize=10)
        one.legend(frameon=False, fontsize=8)
    for one in (axes[0], axes[2]):
        one.set_yscale("log")
    return plot


def _labels(names: Sequence[str]) -> list[str]:
    """The parts of a sweep's names that it changes."""
    cuts, choices = zip(*(name.split(", ") for name in names), strict=True)
    changed = cuts if len(set(cuts)) > 1 else choices
    return [part.removeprefix("quantile ").removeprefix("kappa ") for part in changed]


def _grid(outcome: Outcome) -> Plot:
    """Rollout error and closed loop over both settings."""
    plot, axes = new_plot(2)
    panels = (("rollout_mae_pid", "rollout MAE of the unseen PID, K"), ("closed_loop_mae", "closed loop |T + 2|, K"))
    for one, (metric, title) in zip(axes, panels, strict=True):
        means = [[outcome.mean(TASK, point(q, k).name, metric) for k in GRID_KAPPAS] for q in GRID_QUANTILES]
        values = np.array([[np.nan if mean is None else mean.value for mean in row] for row in means])
        one.grid(visible=False)
        image = one.imshow(values, cmap="viridis", norm="log")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                one.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, backgroundcolor="#ffffffb0")
        one.set_xticks(range(len(GRID_KAPPAS)), ["argmax" if k is None else f"{k:g}" for k in GRID_KAPPAS])
        one.set_yticks(range(len(GRID_QUANTILES)), ["off" if q is None else f"{q:g}" for q in GRID_QUANTILES])
        one.set(xlabel="kappa", ylabel="threshold, quantile of the picks' r_D")
        one.set_title(title, fontsize=10)
        plot.colorbar(image, ax=one)
    return plot
