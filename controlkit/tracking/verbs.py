"""What the verbs of the command line call: a store that fails after the work costs one warning, never the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from controlkit.errors import ControlkitError
from controlkit.progress import Progress
from controlkit.tracking.store import one_line, quiet
from controlkit.tracking.tracker import Status, Tracker


@contextmanager
def tracked(tracker: Tracker | None, run: Path, progress: Progress, *, fresh: bool) -> Iterator[None]:
    """Work on a run folder, with its beginning and its end in the store; does nothing without a tracker.

    Args:
        tracker: the store.
        run: the run folder, made already.
        progress: is told the warnings.
        fresh: the folder was begun anew, and not resumed.

    Raises:
        ControlkitError: the store fails before the work has begun.
    """
    if tracker is None:
        yield
        return
    try:
        with quiet():
            tracker.begin(run, fresh=fresh)
    except tracker.problems as problem:
        raise ControlkitError(
            f"the store failed before the work began ({one_line(problem)})",
            where=tracker.shown,
            cure="Mend it and go on with --resume, or leave --track out.",
        ) from None
    status: Status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        _record(tracker, run, progress, status)


def record_runs(
    tracker: Tracker | None,
    runs: Sequence[Path],
    progress: Progress,
    *,
    report: Path | None = None,
    bundle: Path | None = None,
) -> None:
    """Brings the store up to date with finished runs; does nothing without a tracker.

    Args:
        tracker: the store.
        runs: run folders.
        progress: is told the warnings.
        report: the folder of a report about them; each run's own where not given.
        bundle: exported from them.
    """
    for run in runs if tracker is not None else ():
        assert tracker is not None
        _record(tracker, run, progress, "FINISHED", report, bundle)


def _record(
    tracker: Tracker,
    run: Path,
    progress: Progress,
    status: Status,
    report: Path | None = None,
    bundle: Path | None = None,
) -> None:
    try:
        with quiet():
            tracker.record(run, status, report=report, bundle=bundle)
    except (ControlkitError, *tracker.problems) as problem:  # type: ignore[misc]
        progress.message(
            f"Warning: {tracker.shown} did not take all of {run} ({one_line(problem)}). The folder is complete; the "
            f"next verb with --track on it sends the rest."
        )
