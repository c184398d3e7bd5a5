"""The refrigerator suite: the whole pipeline, several seeds, scored in closed loop on the true temperature.

Each run collects its own log, ingests it, trains, exports, and runs the exported bundle on fresh episodes. Nothing is
chosen by looking at the simulator: one configuration, the last weights, every seed counts. A run's figures are kept in
`parts/`, so that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import RunFolder, commit
from controlkit.benchmarks.closed_loop import score_bundle, score_references
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD
from controlkit.evaluation import evaluate, write_report
from controlkit.evaluation.candidates import of_run
from controlkit.files import read_json, write_json, write_text
from controlkit.ingest import ingest
from controlkit.morec.train import train
from controlkit.progress import Progress, Silent
from deploy.export.exporter import export_bundle
from envs.collect import collect
from envs.tasks import get_task

SUITE = TASK = "refrigerator"
# What the policy sees -> figure to reach on the true temperature.
METHODS = {"belief": 0.03, "current": 0.07}
COPIES, WORKERS = 50, 2
# Episodes that no log and no demonstration uses.
SCORE_SEED = 900_000


def run_suite(out: Path, seeds: int, progress: Progress) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md` and the single runs' figures.
        seeds: runs per method.
        progress: is told of each run.

    Returns:
        The table, Markdown.
    """
    began = time.monotonic()
    task = get_task(TASK)
    jobs = [(method, seed, out / "parts" / f"{method}-{seed}.json") for method in METHODS for seed in range(seeds)]
    progress.start("runs", len(jobs))
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    with ProcessPoolExecutor(min(WORKERS, len(jobs)), mp_context=get_context("spawn")) as pool:
        for method, seed, part in pool.map(_run_one, jobs):
            parts[method, seed] = part
            progress.advance(note=f"{method} seed {seed}: {part['closed_loop_mae']:.4f}")
    records: list[Record] = []

    def add(method: str, metric: str, values: list[float], episodes: int, data: str = "") -> None:
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        seconds = round(time.monotonic() - began, 1)
        records.append(
            Record(
                SUITE, TASK, method, metric, float(np.mean(values)), error, len(values), episodes, seconds, commit(),
                data, machine(),
            )
        )  # fmt: skip

    for method in METHODS:
        mine = [parts[method, seed] for seed in range(seeds)]
        hashes = ",".join(part["data_sha256"][:12] for part in mine)
        for metric in mine[0]["figures"]:
            values = [part["figures"][metric] for part in mine]
            add(f"morec, {method}", metric, values, COPIES * seeds, hashes)
    for name, (mean, _) in score_references(task, SCORE_SEED, COPIES, task.steps).items():
        add(name, "closed_loop_mae", [mean], COPIES)
    for metric, value in _installation():
        add("controlkit", metric, [value], 0)
    write_results(out, records)
    table = _table(records)
    write_text(out / "table.md", table)
    return table


def _run_one(job: tuple[str, int, Path]) -> tuple[str, int, dict[str, Any]]:
    """One run of the pipeline in a temporary folder; its figures are kept."""
    method, seed, kept = job
    settings = [f"seed={seed}", "threads=1", f"policy.inputs={method}"]
    config = RunConfig.load(config_path("runs", TASK), settings)
    if kept.is_file():
        part = json.loads(kept.read_text())
        if part["config"] == config.to_dict() and part["commit"] == commit():
            return method, seed, part
    began, task, silent = time.monotonic(), get_task(TASK), Silent()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        log = collect(task, path / "log.csv", seed=seed)
        data = ingest(task.spec(), [log.path], path / "data").dataset
        run = RunFolder.create(path / "run", config, data, read_json(path / "data" / RECORD))
        train(run, data, silent)
        trained = time.monotonic() - began
        report = evaluate([of_run(run)], data, quick=True, progress=silent, seed=seed)
        write_report(report, run.path)
        exported = export_bundle(run, path / "bundle", key=None, override="benchmark on a simulator", progress=silent)
        score = score_bundle(path / "bundle", task, SCORE_SEED + 1000 * seed, COPIES, task.steps, silent)
        size = sum(file.stat().st_size for file in (path / "bundle").iterdir())
    part = {
        "method": method,
        "seed": seed,
        "closed_loop_mae": score.mean,
        "figures": {
            "closed_loop_mae": score.mean,
            "limit_violations": float(score.limit_violations),
            "fallback_share": score.fallback_share,
            "parity_max_diff": exported.parity_max_diff,
            "train_seconds": round(trained, 1),
            "controller_p50_ms": float(np.quantile(score.step_ms, 0.5)),
            "controller_p99_ms": float(np.quantile(score.step_ms, 0.99)),
            "bundle_mb": size / 1e6,
        },
        "verdict": report.verdict,
        "seconds": round(time.monotonic() - began, 1),
        "commit": commit(),
        "data_sha256": run.data["data_sha256"],
        "config": config.to_dict(),
    }
    write_json(kept, part)
    return method, seed, part


def _installation() -> Iterator[tuple[str, float]]:
    """Start-up times (best of five), and what the demonstration costs in time and memory."""
    yield "help_seconds", _best(lambda: _call("-m", "controlkit.cli", "--help"))
    yield "import_deploy_seconds", _best(lambda: _call("-c", "import deploy")) - _best(lambda: _call("-c", "pass"))
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        _call("-m", "controlkit.demo", "--out", f"{folder}/demo")
        yield "demo_seconds", time.monotonic() - began
    # The demonstration's is the largest of all children so far: the runs above are no larger than it.
    yield "demo_peak_mb", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _best(action: Callable[[], None]) -> float:
    times = []
    for _ in range(5):
        began = time.monotonic()
        action()
        times.append(time.monotonic() - began)
    return min(times)


def _call(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def _table(records: list[Record]) -> str:
    loop = [record for record in records if record.metric == "closed_loop_mae"]
    wanted = {f"morec, {method}": f"{figure:.2f}" for method, figure in METHODS.items()}
    first = [
        (r.method, f"{r.value:.4f}", f"{r.stderr:.4f}", str(r.seeds), str(r.episodes), wanted.get(r.method, ""))
        for r in loop
    ]
    second = [(f"{r.method}: {r.metric}", f"{r.value:.4g}", f"{r.stderr:.2g}") for r in records if r not in loop]
    return (
        "Mean |T + 2| of the true temperature over 2000 steps, measurement noise 0.1, door seen.\n\n"
        + markdown_table(("controller", "°C", "std. error", "seeds", "episodes", "to reach"), first)
        + "\n"
        + markdown_table(("figure", "value", "std. error"), second)
        + f"\n{machine()}; commit {commit()}.\n"
    )
