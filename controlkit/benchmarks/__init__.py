"""Benchmarks: one file per suite, each rerun by `controlkit benchmark SUITE`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from controlkit.errors import ControlkitError, nearest
from controlkit.progress import Progress

# suite -> module; imported only when asked for
SUITES = {"refrigerator": "controlkit.benchmarks.refrigerator"}

Suite = Callable[[Path, int, Progress], str]


def get_suite(name: str) -> Suite:
    """The function that runs a suite: (output folder, seeds, progress) -> table.

    Raises:
        ControlkitError: there is no such suite; names the nearest.
    """
    if name not in SUITES:
        raise ControlkitError(f"unknown suite '{name}'", where="benchmark", cure=nearest(name, SUITES))
    suite: Suite = import_module(SUITES[name]).run_suite
    return suite
