"""The command line's verbs for many runs and many plants: list and compare run folders, bring a fleet up to date."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from controlkit.errors import ControlkitError

WIDTH = 180  # of a table that goes to a file or a pipe


def register(app: typer.Typer) -> None:
    """Adds the verbs to the command line."""
    app.command(epilog="Example: controlkit runs results --compare results/a results/b")(runs)
    app.command(epilog="Example: controlkit fleet fleet.yaml --out fleet --key plant.pem")(fleet)


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders with run folders below them; this one where none is given.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show only the settings and figures in which the runs differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List run folders with their state and verdict, or compare them; a damaged one is a row that says so."""
    from controlkit.runs import differences, find_runs, summarise

    found = [summarise(path) for path in find_runs(folders or [Path(".")])]
    if compare and len(found) < 2:
        raise ControlkitError(
            f"there {'is one run' if found else 'is no run'}, and it takes two to compare",
            where="controlkit runs --compare",
            cure="Name two run folders or more.",
        )
    if as_json:
        compared = {"runs": [str(run.path) for run in found], "differences": differences(found)}
        print(json.dumps(compared if compare else [run.to_dict() for run in found], indent=1, allow_nan=False))
        return
    if not found:
        print("no run folder below " + ", ".join(str(folder) for folder in folders or [Path(".")]))
        return
    from rich.console import Console

    from controlkit.runs.table import comparison_table, problems, runs_table

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(comparison_table(found) if compare else runs_table(found, time.time()))
    for problem in problems(found):
        console.print(problem, soft_wrap=True)


def fleet(
    file: Annotated[Path, typer.Argument(help="Fleet file (YAML): plants, their logs, how they are trained.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; index.html in it shows all.", show_default=False)],
    key: Annotated[Path | None, typer.Option(help="Ed25519 private key (PEM) to sign all bundles with.")] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Make a new key pair, FILE and FILE.pub, and sign with it.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, HOST:PORT or auto; this machine alone where not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cores of this machine to use; all where not given.", show_default=False)
    ] = None,
    gpus: Annotated[float, typer.Option(min=0.0, help="Share of a GPU that each plant reserves, such as 0.25.")] = 0.0,
    track: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_TRACKING_URI",
            help="Record the runs in MLflow, too: 'local' (mlflow.db in --out) or a store's address.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Ingest, train, evaluate and export many plants; the same command again goes on and repeats nothing.

    Exit code: 0 where every plant came to a verdict, whichever; 1 where one failed.
    """
    from controlkit.fleet import load_fleet, run_fleet
    from controlkit.progress import progress_bar
    from deploy.bundle import new_key as make_key

    if key is not None and new_key is not None:
        raise ControlkitError("give either --key or --new-key", where="controlkit fleet")
    if workers is not None and address is not None:
        raise ControlkitError(
            "--workers says how much of this machine is used, and --address names another", where="controlkit fleet"
        )
    plants = load_fleet(file)
    if new_key is not None:
        make_key(new_key)
        key = new_key
    with progress_bar() as progress:
        record = run_fleet(
            plants, out, address=address, cores=workers, gpus=gpus, key=key, track=track, progress=progress
        )
    print(", ".join(f"{count} {name}" for name, count in record.counts.items()))
    print(f"Page: {out / 'index.html'}")
    for plant in record.failed:
        print(f"{plant.state}: {plant.name}: {plant.message}", file=sys.stderr)
    if record.failed:
        raise typer.Exit(1)
