"""The demonstration: from a plant log to a report and a safe controller, on a simulated refrigerator.

`make demo` runs it. Like the command line, it composes all rooms.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from controlkit.errors import ControlkitError

TASK, RUN = "refrigerator", "refrigerator"
OVERRIDE = "demonstration on a simulator"
# Closed-loop seeds of their own: nothing is trained or calibrated on them.
SCORE_SEED = 50_000

QUICK = (
    "dynamics.members=2",
    "dynamics.elites=2",
    "dynamics.max_rows=1000",
    "reward.networks=2",
    "reward.updates=60",
    "reward.behaviour_updates=100",
    "reward.snapshots=2",
    "reward.distil_updates=60",
    "rollout.every=100",
    "policy.hidden=[32,32]",
    "policy.warm_start=50",
    "policy.updates=200",
)


def demo(out: Path, *, quick: bool, seed: int) -> dict[str, Any]:
    """Collect, ingest, train, evaluate, export, run; writes everything below `out` and `summary.json` last.

    Args:
        out: folder; what an earlier demonstration left there is replaced.
        quick: every stage at a small size, for trying out the machinery; the controller is then poor.
        seed: of the log, of training and of the closed loop.

    Returns:
        The summary.
    """
    from controlkit.artifacts import RunFolder
    from controlkit.benchmarks.closed_loop import score_bundle, score_references
    from controlkit.config import RunConfig
    from controlkit.configs import config_path
    from controlkit.dataset import RECORD
    from controlkit.evaluation import evaluate, write_report
    from controlkit.evaluation.candidates import of_run
    from controlkit.files import read_json, write_json
    from controlkit.ingest import ingest
    from controlkit.morec.train import train
    from controlkit.progress import progress_bar
    from deploy.export.exporter import export_bundle
    from envs.collect import collect
    from envs.tasks import get_task

    began = time.monotonic()
    task = get_task(TASK)
    steps = 300 if quick else task.steps
    with progress_bar() as progress:
        log = collect(task, out / "log.csv", episodes=10, seed=seed, steps=steps, progress=progress)
        ingested = ingest(task.spec(), [log.path], out / "data", progress=progress)
        config = RunConfig.load(config_path("runs", RUN), (f"seed={seed}", *(QUICK if quick else ())))
        record = read_json(out / "data" / RECORD)
        run = RunFolder.create(out / "run", config, ingested.dataset, record, replace=True)
        train(run, ingested.dataset, progress)
        report = evaluate([of_run(run)], ingested.dataset, quick=quick, progress=progress, seed=seed)
        write_report(report, run.path)
        exported = export_bundle(run, out / "bundle", key=None, override=OVERRIDE, progress=progress)
        copies = 2 if quick else 10
        ours = score_bundle(out / "bundle", task, SCORE_SEED + 1000 * seed, copies, steps, progress)
        references = score_references(task, SCORE_SEED + seed, 50, steps)
    summary = {
        "operator_mae": references["operator"][0],
        "controller_mae": ours.mean,
        "controller_mae_stderr": ours.stderr,
        "raw_deadbeat_mae": references["raw_deadbeat"][0],
        "best_memoryless_mae": references["best_memoryless"][0],
        "kalman_mae": references["kalman"][0],
        "limit_violations": ours.limit_violations,
        "fallback_share": ours.fallback_share,
        "parity_max_diff": exported.parity_max_diff,
        "verdict": report.verdict,
        "seconds": round(time.monotonic() - began, 1),
        "report": str(run.path / "report.html"),
        "bundle": str(out / "bundle"),
    }
    write_json(out / "summary.json", summary)
    _show(summary, list(report.reasons), copies, steps)
    return summary


def _show(summary: dict[str, Any], reasons: list[str], copies: int, steps: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Refrigerator, kept at -2 °C: {copies} fresh episodes of {steps} s")
    table.add_column("controller")
    table.add_column("mean |T + 2| of the true temperature, °C", justify="right")
    table.add_column("limit violations", justify="right")
    rows = (
        ("logged operator", "operator_mae", "-"),
        ("our controller (exported bundle)", "controller_mae", str(summary["limit_violations"])),
        ("deadbeat on the raw measurement", "raw_deadbeat_mae", "-"),
        ("best linear memoryless law", "best_memoryless_mae", "-"),
        ("Kalman filter + deadbeat (knows the physics)", "kalman_mae", "-"),
    )
    for name, key, violations in rows:
        table.add_row(name, f"{summary[key]:.4f}", violations)
    console = Console()
    console.print(table)
    console.print(f"Verdict of the offline report: {summary['verdict']}", highlight=False)
    for reason in reasons:
        console.print(f"  - {reason}", highlight=False, markup=False)
    if summary["verdict"] != "GO TO SHADOW":
        console.print(f"Exported all the same, with the stored reason '{OVERRIDE}'.", highlight=False)
    for name in ("report", "bundle"):
        print(f"{name.capitalize():<7} {summary[name]}")
    print(f"All in {summary['seconds']:.0f} s.")


def _command(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Every stage at a small size.")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, too.")] = False,
) -> None:
    """From a plant log to a report and a safe controller, on a simulated refrigerator."""
    summary = demo(out, quick=quick, seed=seed)
    if as_json:
        print(json.dumps(summary))


def main() -> None:
    """Runs the demonstration; a `ControlkitError` is one line."""
    try:
        typer.run(_command)
    except ControlkitError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()
