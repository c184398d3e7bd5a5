"""The report as an artifact: `report.html` for people, `report.json` for programs; both are whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlkit.evaluation.verdict import Verdict
from controlkit.files import written_aside

SCHEMA = 1
HTML, JSON = "report.html", "report.json"


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
    """Writes `report.html` and `report.json` into a folder, both or neither.

    Raises:
        ControlkitError: the disk is full or the place is not writable; an earlier report is untouched.
    """
    from controlkit.evaluation.page import render

    page = render(report.content).encode()
    numbers = json.dumps(report.content, indent=1, allow_nan=False).encode() + b"\n"
    with written_aside(folder / HTML) as html, written_aside(folder / JSON) as plain:
        for path, text in ((html, page), (plain, numbers)):
            with path.open("wb") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())  # a full disk shows here, before either takes its place
