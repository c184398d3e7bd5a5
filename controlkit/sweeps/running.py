"""All runs of a plan on a cluster: what an earlier start finished is kept, the rest is run, each gets a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from controlkit.cluster import Cluster, Event, Item
from controlkit.sweeps.ledger import Ledger, RunRecord
from controlkit.sweeps.plan import Run
from controlkit.sweeps.search import search
from controlkit.sweeps.table import RunTable
from controlkit.sweeps.work import payload, train_and_evaluate

Connect = Callable[[], AbstractContextManager[Cluster]]


def run_plan(
    ledger: Ledger,
    data: Path,
    connect: Connect,
    table: RunTable,
    say: Callable[[str], None],
    *,
    retries: int,
    gpus: float = 0.0,
    work: Callable[[dict[str, Any]], dict[str, Any]] = train_and_evaluate,
) -> list[RunRecord]:
    """Runs what is left of a sweep.

    Args:
        ledger: of the sweep's folder; gets a record as each run ends.
        data: folder of the data set.
        connect: to a cluster; is called when the first run needs one, so that a finished sweep starts none.
        table: is told of each run.
        say: takes a line for those who see no table.
        retries: how often a run is begun again, from its checkpoint, after its worker or machine died.
        gpus: of a run; a fraction shares one.
        work: what a run does.

    Returns:
        A record a run, in the order of the settings.

    Raises:
        ControlkitError: no cluster, or no machine that a run fits on.
    """
    plan = ledger.plan
    with ExitStack() as stack:
        clusters: list[Cluster] = []

        def run_all(runs: Sequence[Run]) -> list[RunRecord]:
            table.add(runs)
            records = {run.name: record for run in runs if (record := ledger.kept(run)) is not None}
            for record in records.values():
                table.was_done(record)
            left = {run.name: run for run in runs if run.name not in records}
            if left and not clusters:
                clusters.append(stack.enter_context(connect()))

            def tell(event: Event) -> None:
                record = None
                if event.outcome is not None:
                    record = records[event.name] = ledger.keep(left[event.name], event.outcome)
                say(table.tell(event, record))

            if left:
                items = [_item(ledger, run, data, gpus) for run in left.values()]
                clusters[0].run(items, work, retries=retries, on_event=tell)
            return [records[run.name] for run in runs]

        if not plan.varied.ranges:
            return run_all(plan.grid_runs())

        def refused(line: str) -> None:
            table.total -= plan.seeds
            say(line)

        return search(plan, run_all, refused)


def _item(ledger: Ledger, run: Run, data: Path, gpus: float) -> Item:
    asked = payload(ledger.folder, run.name, run.config, data, ledger.plan.data, ledger.plan.gamma)
    return Item(run.name, asked, cores=run.config.threads, gpus=gpus)
