"""The report as an artifact: `report.html` for people, `report.json` for programs, and its plots in `figures/`.

All of it is whole or absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlkit.evaluation.verdict import Verdict
from controlkit.files import folder_written_aside, written_aside

SCHEMA = 2
HTML, JSON, FIGURES = "report.html", "report.json", "figures"
# By this plot a folder of figures is known to be ours; every report has it.
MARKER = "plot-gain.png"


@dataclass(frozen=True)
class Report:
    """An evaluation's result.

    Attributes:
        verdict: of the best candidate.
        reasons: sentences.
        content: plain values: everything that `report.json` holds and that the page shows.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    content: Mapping[str, Any]


def write_report(report: Report, folder: Path) -> None:
    """Writes `report.html`, `report.json` and a PNG of every plot (`figures/`) into a folder: all of them or nothing.

    Raises:
        ArtifactError: the folder holds a `figures` that is not a report's.
        ControlkitError: the disk is full or the place is not writable; an earlier report is untouched.
    """
    from controlkit.evaluation.page import plots, render
    from controlkit.evaluation.pictures import picture

    drawn = plots(report.content)
    pictures = {f"{name}.png": picture(figure) for name, figure in drawn.items()}
    page = render(report.content, drawn).encode()
    numbers = json.dumps(report.content, indent=1, allow_nan=False).encode() + b"\n"
    with (
        folder_written_aside(folder / FIGURES, MARKER) as figures,
        written_aside(folder / HTML) as html,
        written_aside(folder / JSON) as plain,
    ):
        parts = [(html, page), (plain, numbers), *((figures / name, data) for name, data in pictures.items())]
        for path, data in parts:
            with path.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())  # a full disk shows here, before any of them takes its place
