"""Runs in the terminal: a table of rows, and a table of what differs. Names from outside are shown, never obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from controlkit.runs.compare import differences
from controlkit.runs.summary import RunSummary

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_AGES = ((86400.0 * 2, 86400.0, "d"), (3600.0 * 2, 3600.0, "h"), (60.0 * 2, 60.0, "min"))
_COLOURS = {"GO TO SHADOW": "green", "INCONCLUSIVE": "yellow", "NO-GO": "red", "NO VERDICT": "magenta"}


def runs_table(runs: Sequence[RunSummary], now: float) -> Table:
    """One row a run; what is wrong with one is told by `problems`.

    Args:
        runs: as they are to be shown.
        now: seconds since 1970, from which their age is counted.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "plant", "method"):
        table.add_column(heading, overflow="fold")
    for heading in ("seed", "state", "updates"):
        table.add_column(heading, no_wrap=True)
    for heading in ("verdict", "gain over the operator"):
        table.add_column(heading, overflow="fold")
    for heading in ("data", "age"):
        table.add_column(heading, no_wrap=True)
    for run in runs:
        table.add_row(
            *(cell(text) for text in (str(run.path), run.plant, run.method, "" if run.seed is None else str(run.seed))),
            cell(run.state, "red" if run.state == "damaged" else ""),
            cell(updates_of(run)),
            cell(run.verdict or "", _COLOURS.get(run.verdict or "", "")),
            cell("" if run.gain is None else str(run.gain)),
            cell(run.data_sha256[:8]),
            cell(age_of(run, now)),
        )
    return table


def problems(runs: Sequence[RunSummary]) -> list[Text]:
    """One line for each run that is damaged, or whose report cannot be used."""
    named = ((run, run.problem if str(run.path) in run.problem else f"{run.path}: {run.problem}") for run in runs)
    return [cell(f"{run.state}: {text}") for run, text in named if run.problem]


def comparison_table(runs: Sequence[RunSummary]) -> Table:
    """One row for each setting or figure that differs, one column a run."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(cell(str(run.path)), overflow="fold")
    for name, values in differences(runs).items():
        table.add_row(cell(name), *(cell(shown(value)) for value in values))
    return table


def updates_of(run: RunSummary) -> str:
    """Updates of the policy; of a run that has not come to its end, of how many."""
    if run.state == "damaged":
        return ""
    return f"{run.updates} of {run.of_updates}" if run.state == "unfinished" else str(run.updates)


def age_of(run: RunSummary, now: float) -> str:
    """Time since the last change; empty where nothing could be read."""
    seconds = max(now - run.changed, 0.0)
    if run.changed == 0.0:
        return ""
    return next((f"{seconds / unit:.0f} {name}" for least, unit, name in _AGES if seconds >= least), f"{seconds:.0f} s")


def shown(value: Any) -> str:
    """A setting or figure as a cell: six digits of a number, a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def cell(text: str, style: str = "") -> Text:
    """Text without markup, and without the control characters by which a name could steer the terminal."""
    from rich.text import Text

    return Text("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text), style=style)
