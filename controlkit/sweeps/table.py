"""The table of runs while a sweep goes on, with the time left; plain lines where nobody sees a table change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from controlkit.cluster.items import Event
from controlkit.sweeps.ledger import RunRecord
from controlkit.sweeps.plan import Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# More rows than a screen has lines are of no use; what runs and what ended last is shown.
MAX_ROWS = 24


class RunTable:
    """What is known of every run.

    Args:
        total: how many runs there will be.
        clock: seconds, monotonic.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._measured: list[float] = []
        self._at_once = 1

    def add(self, runs: Sequence[Run]) -> None:
        """Runs that will follow."""
        for run in runs:
            self._rows.setdefault(run.name, _Row(run))

    def was_done(self, record: RunRecord) -> None:
        """A run that an earlier start of the sweep finished."""
        row = self._rows[record.name]
        row.state, row.note = "done", f"{_gain(record)} (was done)"

    def tell(self, event: Event, record: RunRecord | None = None) -> str:
        """Takes what happened; a line that says it to people without a table, empty where it is hardly worth one."""
        row = self._rows[event.name]
        if event.kind == "started":
            row.state, row.began, row.machine = "running", self._clock(), event.machine
            self._at_once = max(self._at_once, sum(row.began is not None for row in self._rows.values()))
            return ""
        row.began = None
        if event.kind == "retried":
            row.state, row.note = "waiting", event.message
            return f"{event.name}: {event.message}"
        assert event.outcome is not None
        row.state, row.seconds = event.kind, event.outcome.seconds
        row.note = _gain(record) if record is not None and record.state == "done" else event.outcome.message
        if event.kind == "done":
            self._measured.append(event.outcome.seconds)
        return f"{event.name} ({row.run.label}): {event.kind}, {row.note}; {self.summary()}"

    def summary(self) -> str:
        """How far it is, such as `5 of 8 runs, about 40 s left`."""
        ended = sum(row.ended for row in self._rows.values())
        left = self.eta_s()
        rest = "" if left is None else f", about {_time(left)} left"
        return f"{ended} of {self.total} runs{rest}"

    def eta_s(self) -> float | None:
        """Seconds left, from the mean of the runs that were done here, and how many ran at once."""
        left = self.total - sum(row.ended for row in self._rows.values())
        running = [self._clock() - row.began for row in self._rows.values() if row.began is not None]
        if not self._measured or not left:
            return None
        mean = sum(self._measured) / len(self._measured)
        work = left * mean - sum(min(spent, mean) for spent in running)
        last = mean if left > len(running) else mean - min(mean, *running)
        return max(work / self._at_once, last)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.summary(), title_justify="left", box=None, pad_edge=False)
        for column in ("run", "setting", "state", "time", ""):
            table.add_column(column, overflow="ellipsis", no_wrap=True, max_width=60)
        rows = list(self._rows.values())
        shown = [row for row in rows if row.state == "running"][:MAX_ROWS]
        shown += [row for row in rows if row.ended][-(MAX_ROWS - len(shown)) :] if len(shown) < MAX_ROWS else []
        shown += [row for row in rows if row.state == "waiting"][: MAX_ROWS - len(shown)]
        for row in shown:
            spent = self._clock() - row.began if row.began is not None else row.seconds
            cells = (row.run.name, row.run.label, row.state, _time(spent) if spent else "", row.note or row.machine)
            table.add_row(*(Text(cell) for cell in cells))  # as they are: brackets are no markup
        return table


class _Row:
    def __init__(self, run: Run) -> None:
        self.run, self.state, self.note, self.machine = run, "waiting", "", ""
        self.began: float | None = None
        self.seconds = 0.0

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")


@contextmanager
def shown(table: RunTable) -> Iterator[Callable[[str], None]]:
    """Shows a table on standard error while the block lasts; yields what takes a line for those who see none."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: _print(console, line)
        return
    with Live(console=console, get_renderable=lambda: table, refresh_per_second=2, transient=False):
        yield lambda line: None


def _print(console: Console, line: str) -> None:
    if line:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _gain(record: RunRecord) -> str:
    gain: Any = record.result.get("gain", {})
    numbers = [gain.get(name) for name in ("value", "low", "high")]
    shown = ["?" if number is None else f"{number:.4g}" for number in numbers]
    return f"{record.result.get('verdict', '')}, gain {shown[0]} ({shown[1]} to {shown[2]})"


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
