"""The filter suite: what each dynamics reward picks on the refrigerator, beside choices that know no reward.

For every log and training seed one ensemble is fitted, with the settings that hold-out extrapolation chose (no
simulator was asked), and every method picks among the same candidates. See `known_truth.py` for what is measured.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlkit.artifacts import Models, commit
from controlkit.benchmarks.filter_methods import OTHERS, REWARDS, fit_ensemble, get_method
from controlkit.benchmarks.known_truth import Points, Predict, Score, judge_picks, operator_log, rollout_mae
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.errors import ControlkitError, nearest
from controlkit.files import write_json, write_text
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from envs.refrigerator import Noise

# (noise, seed of the log, training seed, methods, file of its figures)
Job = tuple[Noise, int, int, tuple[str, ...], Path]

SUITE, TRAINING_SEEDS = "refrigerator", 3
NOISES: tuple[Noise, ...] = ("process", "measurement")
NOISE_STD = 0.1
CONTROLLERS = ("p", "pid")
METHODS = (*OTHERS, *REWARDS, "distilled")


def run_suite(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[Noise] = NOISES,
    methods: Sequence[str] = METHODS,
    workers: int | None = None,
    first_log: int = 0,
) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md` and the single runs' figures.
        seeds: logs per kind of noise; each is trained on with `TRAINING_SEEDS` seeds.
        progress: is told of each run.
        tasks: kinds of noise.
        methods: rows of the table.
        workers: processes; as many as there are cores where none is given. One works here, on one thread.
        first_log: seed of the first log. Settings are chosen on logs from 100 on.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task or method.
    """
    for name, known in [*((task, NOISES) for task in tasks), *((method, METHODS) for method in methods)]:
        if name not in known:
            raise ControlkitError(
                f"unknown task or method '{name}'", where="benchmark filter", cure=nearest(name, known)
            )
    jobs: list[Job] = [
        (noise, first_log + log, seed, tuple(methods), out / "parts" / f"{noise}-{first_log + log}-{seed}.json")
        for noise in tasks
        for log in range(seeds)
        for seed in range(TRAINING_SEEDS)
    ]
    progress.start("logs and seeds", len(jobs))
    parts: list[dict[str, Any]] = []
    count = min(workers or os.cpu_count() or 1, len(jobs))
    with ExitStack() as stack:
        done: Iterable[dict[str, Any]] = map(run_one, jobs)
        if count > 1:
            pool = stack.enter_context(ProcessPoolExecutor(count, mp_context=get_context("spawn")))
            done = pool.map(run_one, jobs)
        for part in done:
            parts.append(part)
            progress.advance(note=f"{part['noise']} log {part['log']} seed {part['seed']}")
    records = _records(parts, seeds)
    write_results(out, records)
    table = _table(parts, tasks, methods)
    write_text(out / "table.md", table)
    return table


def run_one(job: Job) -> dict[str, Any]:
    """All methods on one log with one seed; figures that are there already are kept."""
    noise, log_seed, seed, methods, kept = job
    torch.set_num_threads(1)
    key = {"noise": noise, "log": log_seed, "seed": seed, "commit": commit(), "methods": list(methods)}
    if kept.is_file():
        part: dict[str, Any] = json.loads(kept.read_text())
        if all(part.get(name) == value for name, value in key.items()):
            return part
    log = LoggedTransitions(operator_log(noise, log_seed))
    began = time.monotonic()
    ensemble, rmse = fit_ensemble(log, seed)
    figures: dict[str, dict[str, float]] = {
        "ensemble": {"holdout_rmse_ratio": rmse / noise_floor(noise), "seconds": time.monotonic() - began}
    }
    points = {"in": Points.inside(noise), "out": Points.outside()}
    rewards: dict[str, Models] = {}
    for method in methods:
        began = time.monotonic()
        score, predict = get_method(method, log, ensemble, seed, rewards)
        seconds = time.monotonic() - began
        figures[method] = _figures(score, predict, ensemble, points, seed) | {"seconds": seconds}
    part = key | {"figures": figures}
    write_json(kept, part)
    return part


def noise_floor(noise: Noise) -> float:
    """The one-step error of a perfect model, kelvin. Of a noisy measurement it predicts another one: both are noisy."""
    return NOISE_STD if noise == "process" else NOISE_STD * float(np.sqrt(1.0 + (1.0 - 0.02) ** 2))


def _figures(
    score: Score | None, predict: Predict, ensemble: GaussianEnsemble, points: Mapping[str, Points], seed: int
) -> dict[str, float]:
    figures: dict[str, float] = {}
    for where, at in points.items():
        if score is not None:
            picked = judge_picks(score, ensemble, at, seed)
            figures |= {
                f"argmax_error_{where}": picked.ratio,
                f"error_{where}": picked.error,
                f"rank_{where}": picked.rank,
                f"rank_displaced_{where}": picked.rank_displaced,
            }
        else:
            with torch.no_grad():
                error = (predict(at.observation, at.action) - at.truth).norm(dim=-1).mean()
                mean = (ensemble(at.observation, at.action)[0].mean(dim=0) - at.truth).norm(dim=-1).mean()
            figures |= {f"argmax_error_{where}": float(error / mean), f"error_{where}": float(error)}
    for controller in CONTROLLERS:
        figures[f"rollout_mae_{controller}"] = rollout_mae(predict, controller)
    return figures


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(np.mean(values)), error


def _by_log(parts: Sequence[Mapping[str, Any]], noise: str, method: str, metric: str) -> list[float]:
    """One figure per log, the mean over its seeds: logs are what is drawn anew, seeds are not."""
    logs = sorted({part["log"] for part in parts if part["noise"] == noise})
    found = [[p["figures"][method][metric] for p in parts if p["noise"] == noise and p["log"] == log] for log in logs]
    return [float(np.mean(values)) for values in found]


def _records(parts: Sequence[Mapping[str, Any]], seeds: int) -> list[Record]:
    records = []
    for noise in dict.fromkeys(part["noise"] for part in parts):
        mine = next(part for part in parts if part["noise"] == noise)["figures"]
        for method, metric in ((name, metric) for name in mine for metric in mine[name]):
            value, error = _mean(_by_log(parts, noise, method, metric))
            controller = metric.removeprefix("rollout_mae_") if metric.startswith("rollout_mae_") else ""
            task = f"noise={noise},controller={controller}" if controller else f"noise={noise}"
            called = "rollout_mae" if controller else metric
            seconds = round(_mean(_by_log(parts, noise, method, "seconds"))[0], 1)
            records.append(
                Record(
                    SUITE, task, method, called, value, error, seeds, TRAINING_SEEDS, seconds, commit(), "", machine()
                )
            )
    return records


COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("argmax_error_in", "pick in", "{:.2f}".format),
    ("argmax_error_out", "pick out", "{:.2f}".format),
    ("rank_in", "rank in", "{:.2f}".format),
    ("rank_out", "rank out", "{:.2f}".format),
    ("rank_displaced_out", "rank out, displaced", "{:.2f}".format),
    ("rollout_mae_p", "MAE P", "{:.3f}".format),
    ("rollout_mae_pid", "MAE PID", "{:.3f}".format),
    ("seconds", "s", "{:.0f}".format),
)


def _table(parts: Sequence[Mapping[str, Any]], tasks: Sequence[str], methods: Sequence[str]) -> str:
    text = ""
    for noise in tasks:
        rows = []
        for method in methods:
            cells = [method]
            for metric, _, form in COLUMNS:
                if metric not in next(p for p in parts if p["noise"] == noise)["figures"][method]:
                    cells.append("")
                    continue
                values = _by_log(parts, noise, method, metric)
                value, error = _mean(values)
                cell = form(value) if metric == "seconds" else f"{form(value)} ± {form(error)}"
                cells.append(f"{cell}, worst {form(max(values))}" if metric == "argmax_error_out" else cell)
            rows.append(tuple(cells))
        ratio, _ = _mean(_by_log(parts, noise, "ensemble", "holdout_rmse_ratio"))
        seconds, _ = _mean(_by_log(parts, noise, "ensemble", "seconds"))
        logs = len({part["log"] for part in parts if part["noise"] == noise})
        text += f"## {noise.capitalize()} noise\n\n{logs} logs x {TRAINING_SEEDS} seeds. The ensemble: hold-out error "
        text += f"{ratio:.2f} of the noise floor, fitted in {seconds:.1f} s.\n\n"
        text += markdown_table(("method", *(name for _, name, _ in COLUMNS)), rows) + "\n"
    return text + f"{machine()}; commit {commit()}. Errors are standard errors over logs.\n"
