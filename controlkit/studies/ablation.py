"""Ablation: MOREC on the refrigerator, and the same with one thing changed at a time.

See `variants.py` for the plant, the logs and what is measured. The base is the default dynamics reward (`noise`), all
candidates, argmax, the calibrated threshold and the default penalty. A row changes what its name says and nothing else;
choices without a dynamics reward have no threshold either, and plain sampling has no other candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from controlkit.artifacts import commit
from controlkit.baselines.settings import METHODS
from controlkit.errors import ControlkitError, nearest
from controlkit.progress import Progress
from controlkit.studies.jobs import Figure, run_jobs
from controlkit.studies.outcome import Column, Outcome, dots, method_table, new_plot
from controlkit.studies.variants import NOISE, Overrides, Variant, reference_costs, run_variants, variant_jobs

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

STUDY, TRAINING_SEEDS, CHUNK = "ablation", 3, 6
TASK = f"noise={NOISE}"
REFERENCES = ("operator", "raw_deadbeat")
_OFF: Overrides = {"filter.threshold": "off"}
_SAMPLE: Overrides = {name: value for name, value in METHODS["mopo"].items() if name != "rollout.penalty"}
# What is compared -> rows.
SECTIONS: Mapping[str, tuple[Variant, ...]] = {
    "the base": (Variant("base", {}),),
    "the filter's choice": (
        Variant("filter off: a sample", _SAMPLE),
        Variant("filter off: the ensemble mean", METHODS["mean"]),
        Variant("medoid", METHODS["medoid"]),
        Variant("regressor of another activation", METHODS["regressor"]),
        Variant("softmax, kappa 0.1", {"filter.choose": "softmax"}),
    ),
    "threshold and penalty": (
        Variant("threshold off", _OFF),
        Variant("no penalty", {"rollout.penalty": "none"}),
        Variant("threshold off, no penalty", {**_OFF, "rollout.penalty": "none"}),
        Variant("penalty of MOPO", METHODS["morec-mopo"]),
        Variant("penalty of MOBILE", METHODS["morec-mobile"]),
    ),
    "what the reward is learned against": (
        Variant("irl: airl, ppo", {"reward.method": "irl"}),
        Variant("irl: airl, pathwise", {"reward.method": "irl", "reward.generator": "pathwise"}),
        Variant("irl: gail, ppo", {"reward.method": "irl", "reward.form": "gail"}),
        Variant(
            "irl: gail, pathwise", {"reward.method": "irl", "reward.form": "gail", "reward.generator": "pathwise"}
        ),
        Variant("mixed", {"reward.method": "mixed"}),
    ),
    "discriminators": (
        Variant("one network, its last snapshot", {"reward.networks": 1, "reward.snapshots": 1}),
        Variant("one network, four snapshots", {"reward.networks": 1}),
        Variant("four networks, last snapshots", {"reward.snapshots": 1}),
        Variant("distilled into one", {"reward.distil": True}),
    ),
    "what is judged": (
        Variant("coordinates: the change itself", {"reward.coordinates": "change"}),
        Variant("structure off: the door is a state", {}, structure=False),
    ),
}  # fmt: skip
VARIANTS: Mapping[str, Variant] = {variant.name: variant for section in SECTIONS.values() for variant in section}
COLUMNS = (
    Column("argmax_error_in", "pick in"),
    Column("argmax_error_out", "pick out", worst=True),
    Column("rank_in", "rank in"),
    Column("rank_out", "rank out"),
    Column("rollout_mae_p", "MAE P", 3),
    Column("rollout_mae_pid", "MAE PID", 3),
    Column("closed_loop_mae", "closed loop", 4),
    Column("ended_training", "ended"),
)


def run_study(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    methods: Sequence[str] = (),
    training_seeds: int = TRAINING_SEEDS,
    workers: int | None = None,
    settings: Overrides | None = None,
) -> str:
    """Runs the study.

    Args:
        out: folder for the results, the plots and the single runs' figures.
        seeds: logs; each is trained on with `training_seeds` seeds.
        progress: is told of each run.
        methods: rows of the table; all where none is named.
        training_seeds: seeds per log.
        workers: processes; as many as there are cores where none is given.
        settings: overrides for all rows, such as smaller sizes.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown row.
    """
    for name in methods:
        if name not in VARIANTS:
            raise ControlkitError(f"unknown row '{name}'", where=f"study {STUDY}", cure=nearest(name, VARIANTS))
    chosen = [variant for name, variant in VARIANTS.items() if name in methods or not methods]
    jobs = variant_jobs(STUDY, chosen, settings or {}, seeds, training_seeds, CHUNK)
    figures = run_jobs(run_variants, jobs, out, progress, workers)
    references = reference_costs(REFERENCES)
    figures += [Figure(TASK, name, "closed_loop_mae", 0, 0, cost) for name, cost in references.items()]
    outcome = Outcome(STUDY, figures, commit())
    names = [variant.name for variant in chosen]
    return outcome.write(out, _table(outcome, names, references), {"ablation": _plot(outcome, names, references)})


def _table(outcome: Outcome, names: Sequence[str], references: Mapping[str, float]) -> str:
    text = ""
    for title, section in SECTIONS.items():
        rows = [variant.name for variant in section if variant.name in names]
        if rows:
            text += f"### {title.capitalize()}\n\n{method_table(outcome, TASK, rows, COLUMNS)}\n"
    known = ", ".join(f"{name} {cost:.4f}" for name, cost in references.items())
    return text + f"Closed loop of the task's own controllers: {known}.\n"


def _plot(outcome: Outcome, names: Sequence[str], references: Mapping[str, float]) -> Plot:
    plot, axes = new_plot(4, size=(3.6, 1.4 + 0.24 * len(names)))
    dots(
        axes[0],
        outcome,
        TASK,
        names,
        "argmax_error_in",
        "error of the pick, in data\n(1: ensemble mean)",
        reference=1.0,
        log=True,
    )
    dots(axes[1], outcome, TASK, names, "argmax_error_out", "far outside\n(1: ensemble mean)", reference=1.0, log=True)
    dots(axes[2], outcome, TASK, names, "rollout_mae_pid", "rollout MAE of the unseen PID, K\n", log=True)
    deadbeat = references["raw_deadbeat"]
    title = "closed loop |T + 2|, K\n(line: deadbeat on the true plant)"
    dots(axes[3], outcome, TASK, names, "closed_loop_mae", title, reference=deadbeat, log=True)
    for one in axes[1:]:
        one.set_yticklabels([])
    return plot
