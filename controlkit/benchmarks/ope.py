"""The suite `ope`: is the evaluation right? Its estimates, intervals and verdicts against policies' true values.

Plants with a simulator, an operator's log, 24 policies each (`ope_plants.py`); the log is all that the evaluation sees.
Every data set is evaluated at default settings, all policies in one pass; its figures are kept in `parts/`, so that an
interrupted benchmark goes on where it was, and so are the true values, in `truth/`. Beside them three traps and their
harmless twins (`ope_traps.py`).

The policies are laws, not trained runs, so that no dynamics reward judges their support; the distance alone does.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlkit.artifacts import commit
from controlkit.benchmarks.ope_plants import PLANTS, get_truth_plant
from controlkit.benchmarks.ope_scores import risk_coverage, scores
from controlkit.benchmarks.ope_traps import TRAPS, run_trap
from controlkit.benchmarks.ope_truth import ROLLOUTS, TRUTH_SEED, Truth, collect_log, evaluate_laws, true_value
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError, nearest
from controlkit.evaluation.assessment import FULL, Effort
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.policies import OPERATOR
from controlkit.files import read_json, write_json, write_text, written_aside
from controlkit.progress import Progress

SUITE = "ope"
# Episodes of a log. The middle one is the size that the figures to reach are stated for.
SIZES = (30, 100, 300)
DATA_SEED = 40_000
TRAP_TASK = "traps"

Part = dict[str, Any]


@dataclass(frozen=True)
class OpeJob:
    """One data set of a plant (or of a trap, without a size), evaluated: `size` episodes, seed, the file for its
    figures, the folder of true values."""

    plant: str
    size: int
    seed: int
    part: Path
    truth: Path


def run_suite(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[str] = (),
    workers: int | None = None,
) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md`, the risk-coverage plot and the single data sets' figures.
        seeds: data sets per plant and size.
        progress: is told of each data set.
        tasks: plants (`linear`), or one of their log sizes (`linear-100`), and `traps`; all where none is named.
        workers: processes; as many as there are processors where not given.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown plant or log size.
    """
    jobs = _jobs(tasks or (*PLANTS, TRAP_TASK), seeds, out)
    progress.start("data sets", len(jobs))
    parts: dict[tuple[str, int], list[Part]] = {}
    for job, part in _run_jobs(jobs, workers):
        parts.setdefault((job.plant, job.size), []).append(part)
        progress.advance(note=f"{job.plant} {job.size or ''} seed {job.seed}: {part['seconds']:.0f} s")
    records = _records(parts)
    write_results(out, records)
    table = _table(parts, records)
    write_text(out / "table.md", table)
    rows: dict[str, list[dict[str, Any]]] = {}
    for (plant, size), found in parts.items():
        if size:
            rows.setdefault(plant, []).extend(row for part in found for row in part["policies"])
    if rows:
        _plot(rows, out / "risk-coverage.png")
    return table


def judge(
    plant_name: str,
    data: TransitionDataset,
    truth: Path,
    *,
    effort: Effort = FULL,
    seed: int = 0,
    rollouts: int = ROLLOUTS,
) -> list[dict[str, Any]]:
    """Evaluates all policies of a plant on a log, and holds what is found against the truth: a row per policy.

    Args:
        plant_name: which plant.
        data: the operator's log.
        truth: folder that keeps the plant's true values.
        effort, seed: of the evaluation.
        rollouts: for a true value.
    """
    plant = get_truth_plant(plant_name)
    found = evaluate_laws(plant, plant.policies, data, effort, seed)
    true = known_truth(plant_name, found.estimand, truth, rollouts)
    values = [true[name].value for name in plant.policies]
    spread = max(values) - min(values)
    return [_row(candidate, found, true, spread) for candidate in found.candidates]


def known_truth(plant_name: str, estimand: Estimand, folder: Path, rollouts: int = ROLLOUTS) -> dict[str, Truth]:
    """True values of a plant's policies and its operator, computed once and kept in a folder."""
    plant = get_truth_plant(plant_name)
    path = folder / f"{plant_name}-{estimand.horizon}-{estimand.gamma:g}-{rollouts}.npz"
    names = (OPERATOR, *plant.policies)
    if path.is_file():
        with np.load(path) as archive:
            kept = dict(archive)
        if tuple(kept["names"]) == names:
            figures = zip(kept["value"].tolist(), kept["stderr"].tolist(), kept["steps"], strict=True)
            return {name: Truth(*each) for name, each in zip(names, figures, strict=True)}
    laws = {OPERATOR: plant.operator, **plant.policies}
    found = {name: true_value(plant, law, estimand, rollouts) for name, law in laws.items()}
    with written_aside(path) as aside, aside.open("wb") as stream:  # several processes may come to it at once
        np.savez_compressed(
            stream,
            names=np.array(names),
            value=np.array([t.value for t in found.values()]),
            stderr=np.array([t.stderr for t in found.values()]),
            steps=np.stack([t.steps for t in found.values()]).astype(np.float32),
        )
    return found


def _row(candidate: CandidateFindings, found: Findings, true: dict[str, Truth], spread: float) -> dict[str, Any]:
    mine, operator = true[candidate.name], true[OPERATOR]
    evidence, gain = candidate.evidence, mine.value - operator.value
    steps = torch.from_numpy(np.asarray(mine.steps, dtype=np.float32))
    distance, _ = found.recorded.distance(steps)
    disagreement = abs(evidence.gain_model - evidence.gain_fqe) / max(evidence.spread, 1e-12)
    return {
        "policy": candidate.name,
        "verdict": candidate.decision.verdict,
        "failed": [check.name for check in candidate.decision.checks if not check.passed],
        "warned": len(candidate.decision.warnings),
        "gain": candidate.gain.value,
        "low": candidate.gain.low,
        "high": candidate.gain.high,
        "gain_fqe": candidate.gain_fqe.value,
        "true_gain": gain,
        "true_stderr": mine.stderr,
        "range": spread,
        "error": abs(candidate.gain.value - gain) / spread,
        "error_fqe": abs(candidate.gain_fqe.value - gain) / spread,
        "covered": candidate.gain.low <= gain <= candidate.gain.high,
        "support": evidence.support,
        "late_support": evidence.late_support,
        "true_support": float((distance <= found.recorded.cut).double().mean()),
        "disagreement": disagreement,
        "trust": min(evidence.support, evidence.late_support) - disagreement,
    }


def _run_jobs(jobs: Sequence[OpeJob], workers: int | None) -> Iterator[tuple[OpeJob, Part]]:
    left = []
    for job in jobs:
        part = read_json(job.part) if job.part.is_file() else {}
        # What was evaluated with other settings is evaluated again.
        if part.get("effort") == asdict(FULL):
            yield job, part
        else:
            left.append(job)
    if not left:
        return
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, len(left)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run_job, job): job for job in left}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _run_job(job: OpeJob) -> Part:
    torch.set_num_threads(1)
    began = time.monotonic()
    part: Part = {"plant": job.plant, "size": job.size, "seed": job.seed, "commit": commit(), "effort": asdict(FULL)}
    if not job.size:
        part |= run_trap(job.plant, DATA_SEED + job.seed)
    else:
        data = collect_log(get_truth_plant(job.plant), job.size, DATA_SEED + job.seed)
        part |= {"rows": len(data), "data_sha256": _digest(data), "truth_seed": TRUTH_SEED}
        part["policies"] = judge(job.plant, data, job.truth, seed=job.seed)
    part["seconds"] = round(time.monotonic() - began, 1)
    write_json(job.part, part)
    return part


def _jobs(tasks: Sequence[str], seeds: int, out: Path) -> list[OpeJob]:
    """The data sets of some tasks: the size that matters most first, traps last."""
    names = (*PLANTS, *(f"{plant}-{size}" for plant in PLANTS for size in SIZES), TRAP_TASK)
    wanted: list[tuple[str, int]] = []
    for task in tasks:
        if task not in names:
            raise ControlkitError(f"unknown '{task}'", where=f"benchmark {SUITE} --tasks", cure=nearest(task, names))
        plant, _, size = task.partition("-")
        if task == TRAP_TASK:
            wanted += [(trap, 0) for trap in TRAPS]
        else:
            wanted += [(plant, each) for each in SIZES if size in ("", str(each))]
    wanted = sorted(dict.fromkeys(wanted), key=lambda each: (not each[1], abs(each[1] - SIZES[1])))
    jobs = []
    for plant, episodes in wanted:
        name = f"{plant.replace(' ', '-')}-{episodes or 'trap'}"
        for seed in range(seeds):
            jobs.append(OpeJob(plant, episodes, seed, out / "parts" / f"{name}-{seed}.json", out / "truth"))
    return jobs


def _records(parts: dict[tuple[str, int], list[Part]]) -> list[Record]:
    records = []
    for (plant, size), found in sorted(parts.items()):
        seconds = round(sum(part["seconds"] for part in found), 1)
        commits = ", ".join(dict.fromkeys(part["commit"] for part in found))
        if size:
            figures, task = scores([part["policies"] for part in found]), f"{plant}, {size} episodes"
        else:
            figures, task = {"traps_refused": float(np.mean([part["caught"] for part in found]))}, f"trap: {plant}"
            figures["twins_accepted"] = float(np.mean([part["twin_accepted"] for part in found]))
        for metric, value in figures.items():
            if not math.isfinite(value):  # a share or an error of no policy at all
                continue
            records.append(
                Record(
                    SUITE, task, "controlkit", metric, float(value), 0.0, len(found), 0, seconds, commits, "", machine()
                )
            )  # fmt: skip
    return records


_COLUMNS = {
    "abs_error_median": "median error",
    "abs_error_p90": "p90",
    "abs_error_median_refused": "median, refused",
    "coverage": "coverage",
    "coverage_all": "coverage, all",
    "spearman": "Spearman",
    "regret_at_1": "regret@1",
    "false_go": "false GO",
    "power": "power",
    "verdict_share": "verdicts",
}


def _table(parts: dict[tuple[str, int], list[Part]], records: Sequence[Record]) -> str:
    figures = {(record.task, record.metric): record.value for record in records}
    rows = []
    for plant, size in sorted(key for key in parts if key[1]):
        task = f"{plant}, {size} episodes"
        cells = []
        for metric in _COLUMNS:
            cell = f"{figures[task, metric]:.3f}" if (task, metric) in figures else "none"
            if (task, f"{metric}_upper") in figures:
                upper, count = figures[task, f"{metric}_upper"], figures[task, f"{metric}_of"]
                cell += f" (≤ {upper:.3f}, of {count:.0f})"
            cells.append(cell)
        rows.append((task, str(len(parts[plant, size])), *cells))
    text = markdown_table(("plant and log", "data sets", *_COLUMNS.values()), rows) if rows else ""
    traps = [
        (
            plant,
            str(len(found)),
            f"{figures[f'trap: {plant}', 'traps_refused']:.2f}",
            f"{figures[f'trap: {plant}', 'twins_accepted']:.2f}",
        )
        for (plant, size), found in sorted(parts.items())
        if not size
    ]
    if traps:
        text += "\n" + markdown_table(("trap", "data sets", "refused or flagged", "twin accepted"), traps)
    commits = ", ".join(dict.fromkeys(part["commit"] for found in parts.values() for part in found))
    return f"{text}\n{machine()}; commit {commits}.\n"


def _plot(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Risk-coverage curves of all plants, all sizes together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for (plant, mine), style in zip(sorted(rows.items()), ("-", "--", "-.", ":", (0, (1, 4))), strict=False):
        axes.plot(*risk_coverage(mine), linestyle=style, linewidth=1.8, label=plant)
    axes.set_xlabel("share of policies accepted, most trusted first")
    axes.set_ylabel("median |error| of the gain, ranges of true values")
    axes.set_yscale("log")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _digest(data: TransitionDataset) -> str:
    return hashlib.sha256(data.frames.tobytes() + data.actions.tobytes()).hexdigest()
