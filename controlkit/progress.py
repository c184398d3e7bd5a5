"""Progress of long work: one small protocol, a rich bar for people, silence for tests and libraries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

LINE_EVERY_S = 30.0


class Progress(Protocol):
    """What long work reports to."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` units of work begins."""
        ...

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` of the current stage are done; `note` shows a figure worth watching."""
        ...

    def message(self, text: str) -> None:
        """A line for the user, such as a warning."""
        ...


class Silent:
    """Reports to nobody; messages are kept for tests."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Keeps the line."""
        self.messages.append(text)


class _Bar:
    def __init__(self, bar: object, console: object) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        assert isinstance(bar, RichProgress)
        assert isinstance(console, Console)
        self._bar, self._console = bar, console
        self._task: int | None = None

    def start(self, stage: str, total: int) -> None:
        self._task = int(self._bar.add_task(stage, total=total, note=""))

    def advance(self, units: int = 1, note: str = "") -> None:
        from rich.progress import TaskID

        if self._task is not None:
            task = TaskID(self._task)
            self._bar.update(task, advance=units)
            if note:
                self._bar.update(task, note=note)

    def message(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


class Lines:
    """A line when a stage ends, and one every half minute meanwhile: for files, where no bar can move.

    Args:
        write: prints a line.
        now: a clock, in seconds.
    """

    def __init__(self, write: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._write, self._now = write, now
        self._stage, self._note, self._total, self._done = "", "", 0, 0
        self._began = self._said = now()
        self._unsaid = False

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` units of work begins; the one before it may have stopped early."""
        self.tell()
        self._stage, self._note, self._total, self._done = stage, "", total, 0
        self._began = self._said = self._now()

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` of the current stage are done."""
        self._done, self._note, self._unsaid = self._done + units, note or self._note, True
        if self._done == self._total or self._now() - self._said >= LINE_EVERY_S:
            self.tell()

    def message(self, text: str) -> None:
        """A line for the user."""
        self._write(text)

    def tell(self) -> None:
        """Writes how far the stage has come, unless that has been written."""
        if self._unsaid:
            self._unsaid, self._said = False, self._now()
            spent = timedelta(seconds=int(self._said - self._began))
            self._write(f"{self._stage:<24} {self._done}/{self._total} {spent} {self._note}".rstrip())


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar per stage with the time left, on standard error; plain lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines(lambda text: print(text, file=sys.stderr, flush=True))
        try:
            yield lines
        finally:
            lines.tell()
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=console, refresh_per_second=4) as bar:
        yield _Bar(bar, console)
