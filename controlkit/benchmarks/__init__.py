"""Benchmarks: one file per suite, each rerun by `controlkit benchmark SUITE`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path

from controlkit.errors import ControlkitError, nearest
from controlkit.progress import Progress

# suite -> module; imported only when asked for
SUITES = {
    "refrigerator": "controlkit.benchmarks.refrigerator",
    "filter": "controlkit.benchmarks.filter",
    "speed": "controlkit.benchmarks.speed",
    "neorl": "controlkit.benchmarks.neorl",
    "neorl2": "controlkit.benchmarks.neorl2",
    "industrial": "controlkit.benchmarks.industrial",
    "ope": "controlkit.benchmarks.ope",
    "draft": "controlkit.benchmarks.draft",
    "runtime": "controlkit.benchmarks.runtime",
    "detection": "controlkit.benchmarks.detection",
    "scaling": "controlkit.benchmarks.scaling",
}

Suite = Callable[..., str]


def run_suite(
    name: str, out: Path, seeds: int, progress: Progress, *, tasks: Sequence[str] = (), methods: Sequence[str] = ()
) -> str:
    """Runs a suite, or those of its tasks and methods that are named, and returns its table (Markdown).

    Raises:
        ControlkitError: there is no such suite, or it has no tasks or methods to choose from.
    """
    suite = get_suite(name)
    chosen = {option: names for option, names in (("tasks", tasks), ("methods", methods)) if names}
    for option in chosen:
        if option not in signature(suite).parameters:
            raise ControlkitError(f"the suite {name} has no --{option}", where="benchmark", cure="Leave it out.")
    return suite(out, seeds, progress, **chosen)


def get_suite(name: str) -> Suite:
    """The function that runs a suite: (output folder, seeds, progress, tasks=, methods=) -> table.

    Raises:
        ControlkitError: there is no such suite; names the nearest.
    """
    if name not in SUITES:
        raise ControlkitError(f"unknown suite '{name}'", where="benchmark", cure=nearest(name, SUITES))
    suite: Suite = import_module(SUITES[name]).run_suite
    return suite
