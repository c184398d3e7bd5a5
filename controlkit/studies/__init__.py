"""Studies: one file per question that the method leaves open, each rerun by `controlkit study NAME`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from controlkit.errors import ControlkitError, nearest
from controlkit.progress import Progress

# study -> module; imported only when asked for
STUDIES = {
    "ablation": "controlkit.studies.ablation",
    "cost": "controlkit.studies.cost",
    "history": "controlkit.studies.history",
    "ood": "controlkit.studies.ood",
    "sensitivity": "controlkit.studies.sensitivity",
}

Study = Callable[..., str]


def run_study(name: str, out: Path, seeds: int, progress: Progress) -> str:
    """Runs a study into a folder and returns its table (Markdown).

    Raises:
        ControlkitError: there is no such study.
    """
    return get_study(name)(out, seeds, progress)


def get_study(name: str) -> Study:
    """The function that runs a study: (output folder, seeds, progress) -> table.

    Raises:
        ControlkitError: there is no such study; names the nearest.
    """
    if name not in STUDIES:
        raise ControlkitError(f"unknown study '{name}'", where="study", cure=nearest(name, STUDIES))
    study: Study = import_module(STUDIES[name]).run_study
    return study
