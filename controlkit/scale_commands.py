"""The command line's verb for many runs of one plant: a sweep over settings and seeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from controlkit.errors import ConfigError, ControlkitError

INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(
        epilog="Example: controlkit sweep runs/refrigerator.yaml --data data --out sweep --grid "
        "policy.behaviour_anchor=0,0.5 --seeds 3"
    )(sweep)


def sweep(
    run: Annotated[Path, typer.Argument(help="Run configuration (YAML), or the name of a shipped one.")],
    data: Annotated[Path, typer.Option(help="Data set, as 'ingest' wrote it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; one that was begun is gone on with.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Values of one field: section.field=value,value; several make every combination."),
    ] = None,
    sweep_: Annotated[
        Path | None, typer.Option("--sweep", help="File (YAML) with a grid, or ranges to draw from.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Training runs per setting.")] = 3,
    trials: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Settings to draw from ranges.", show_default=False)
    ] = None,
    sampler: Annotated[
        Literal["tpe", "random"] | None,
        typer.Option(help="How they are drawn; tpe, which learns from results, where not given.", show_default=False),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one field of every run.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads, and so cores, of a run.")] = 1,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of a run, 0.25 shares one; 1 with device: cuda.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Head of a Ray cluster, HOST:PORT or auto; this machine where not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cores of this machine to use; all where not given.", show_default=False)
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="How often a run whose worker or machine died is begun again.")
    ] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="The final report in its quick form.")] = False,
) -> None:
    """Train settings x seeds on Ray, choose the best by offline evaluation; Ctrl-C is safe, the same command goes on.

    Exit code: 0 where every run finished, whatever the verdict; 1 else.
    """
    from controlkit.cluster import connect
    from controlkit.config import RunConfig
    from controlkit.configs import find_config
    from controlkit.dataset import RECORD, TransitionDataset
    from controlkit.files import read_json
    from controlkit.progress import progress_bar
    from controlkit.sweeps.ledger import Ledger
    from controlkit.sweeps.plan import make_plan
    from controlkit.sweeps.running import run_plan
    from controlkit.sweeps.settings import parse_grid, read_sweep
    from controlkit.sweeps.summary import summarise
    from controlkit.sweeps.table import RunTable, shown

    if sweep_ is not None and grid:
        raise ConfigError("give either --grid or --sweep", where="controlkit sweep")
    if workers is not None and address is not None:
        raise ConfigError("--workers says how much of this machine is used, and --address names another")
    varied = read_sweep(sweep_) if sweep_ is not None else parse_grid(grid or ())
    config = RunConfig.load(find_config("runs", run), set_ or ())
    dataset = TransitionDataset.load(data)
    plan = make_plan(
        config, varied, read_json(data / RECORD), seeds=seeds, trials=trials, sampler=sampler, threads=threads
    )
    ledger = Ledger(out, plan)
    share = gpus if gpus is not None else float(config.device == "cuda")
    table = RunTable(plan.total)
    try:
        with shown(table) as say:
            records = run_plan(
                ledger, data, lambda: connect(address, cores=workers), table, say, retries=retries, gpus=share
            )
        with progress_bar() as progress:
            summary = summarise(ledger, records, dataset, progress, quick=quick)
    except KeyboardInterrupt:
        print(f"interrupted: {table.summary()}; the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(summary.table)
    if summary.run is not None:
        print(f"{summary.run}: {summary.verdict}; report: {out / 'report.html'}")
    unfinished = summary.unfinished
    if unfinished:
        raise ControlkitError(
            f"{len(unfinished)} of {len(records)} runs did not finish; the first, {unfinished[0].name}: "
            f"{unfinished[0].message}",
            where=str(out),
            cure="The same command tries them again.",
        )
