"""`shadow_report`: reads an audit log once, and writes `shadow.html` for people and `shadow.json` for programs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controlkit.errors import ArtifactError, ControlkitError
from controlkit.files import written_aside
from deploy.bundle.store import Bundle, load_bundle
from deploy.runtime.audit_reader import AuditCheck, read_audit, verify_audit
from deploy.shadow.comparison import Comparison, Stepping
from deploy.shadow.content import describe
from deploy.shadow.operation import Events, Operation, Sensors
from deploy.shadow.plant_measures import Baseline, Prediction
from deploy.shadow.reading import TIMES_NS, CycleBlock, Read, Reader
from deploy.shadow.verdict import Rules, Verdict

HTML, JSON = "shadow.html", "shadow.json"


@dataclass(frozen=True)
class ShadowReport:
    """A shadow evaluation's result.

    Attributes:
        verdict: READY TO ADVISE, NOT YET or NO.
        reasons: sentences.
        missing: what has to be there before the next mode; empty for READY TO ADVISE.
        content: plain values: everything that `shadow.json` holds and that the page shows.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    missing: tuple[str, ...]
    content: Mapping[str, Any]


class Measures:
    """Everything that is summed up from one log; time lines begin at the first cycle."""

    def __init__(self, bundle: Bundle, first_ns: int, functions: bool) -> None:
        period_ns = max(1, round(bundle.manifest.period_s * 1e9))
        start_ns = first_ns - first_ns % period_ns
        self._stepping = Stepping(bundle)
        self.operation = Operation(bundle, start_ns, period_ns)
        self.sensors = Sensors(bundle)
        self.comparison = Comparison(bundle, start_ns, period_ns)
        self.baseline = Baseline(bundle, start_ns, period_ns, functions)
        self.prediction = Prediction(bundle)

    def add(self, block: CycleBlock) -> None:
        """Takes a block."""
        self.operation.add(block)
        self.sensors.add(block)
        steps = self._stepping.steps(block)
        near = self.comparison.add(steps)
        self.baseline.add(block, steps)
        self.prediction.add(block, steps, near)


def shadow_report(
    audit: Path,
    bundle: Path,
    out: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    rules: Rules | None = None,
    functions: bool = False,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> ShadowReport:
    """Evaluates a controller's time in SHADOW.

    Args:
        audit: folder of the runtime's audit log; may still be written.
        bundle: the controller that ran.
        out: folder for `shadow.html` and `shadow.json`; both are written, or neither.
        since, until: first and last sample time that counts; UTC where they have no time zone.
        rules: the verdict's cuts.
        functions: whether Python functions that the plant's objective names may be imported; only for a bundle of one's
            own, since importing runs them.
        seed: of the bootstrap.
        clock: seconds, for the report's own speed.

    Raises:
        ArtifactError: no log, another plant's, another controller's, none of its cycles in it, or a damaged bundle.
        ControlkitError: plotly is missing, or the report cannot be written.
    """
    _require_plotly()
    began = clock()
    loaded, where = load_bundle(bundle), str(audit)
    window = _nanoseconds(since, TIMES_NS[0]), _nanoseconds(until, TIMES_NS[1])
    if window[0] > window[1]:
        raise ControlkitError("'since' is after 'until'", where="shadow report", cure="Exchange them.")
    check = verify_audit(audit)
    measures: Measures | None = None

    def recalibrated() -> None:
        if measures is not None:
            measures.operation.recalibrated()

    events = Events(loaded.manifest.model.sha256, recalibrated)
    reader = Reader(loaded, where, window, events.add)
    for block in reader.blocks(read_audit(audit)):
        if measures is None:
            measures = Measures(loaded, int(block.time_ns[0]), functions)
        measures.add(block)
    if measures is None:
        raise _nothing(loaded, reader.found, check, where)
    _require_newest(loaded, reader.found, where)
    content, decision = describe(loaded, measures, events, reader.found, check, rules or Rules(), seed)
    content["provenance"]["seconds"] = round(clock() - began, 3)
    report = ShadowReport(decision.verdict, decision.reasons, decision.missing, content)
    write_report(report, out)
    return report


def write_report(report: ShadowReport, folder: Path) -> None:
    """Writes both files into a folder, or neither.

    Raises:
        ControlkitError: the disk is full or the place is not writable; an earlier report is untouched.
    """
    from deploy.shadow.page import render

    page = render(report.content).encode()
    numbers = json.dumps(report.content, indent=1, allow_nan=False).encode() + b"\n"
    with written_aside(folder / HTML) as html, written_aside(folder / JSON) as plain:
        for path, text in ((html, page), (plain, numbers)):
            with path.open("wb") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())  # a full disk shows here, before either takes its place


def _require_newest(bundle: Bundle, found: Read, where: str) -> None:
    ours = bundle.manifest.model.sha256
    if not ours.startswith(found.newest):
        raise ArtifactError(
            f"its newest controller is {found.newest[:12]}, the bundle's is {ours[:12]}",
            where=where,
            cure="Give the bundle that runs now, or end the report (until) before the other one took charge.",
        )


def _nothing(bundle: Bundle, found: Read, check: AuditCheck, where: str) -> ArtifactError:
    """Why there is no cycle to evaluate."""
    ours = bundle.manifest.model.sha256[:12]
    if found.damage:
        return ArtifactError(f"cannot be read ({found.damage})", where=where)
    if found.others:
        others = ", ".join(sorted(found.others)[:3])
        cure = "Give the bundle that ran."
        return ArtifactError(
            f"holds cycles of other controllers only ({others}), not of {ours}", where=where, cure=cure
        )
    if found.malformed:
        return ArtifactError(
            f"none of its {found.malformed} cycles can be used ({found.examples[0]})",
            where=where,
            cure="Use the version of controlkit that wrote the log.",
        )
    return ArtifactError(
        f"holds no cycle of controller {ours} in this time ({check.rows} rows)",
        where=where,
        cure="Run the bundle in SHADOW first, or widen since and until.",
    )


def _nanoseconds(moment: datetime | None, otherwise: int) -> int:
    if moment is None:
        return otherwise
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6) * 1000


def _require_plotly() -> None:
    try:
        import plotly.offline  # noqa: F401
    except ImportError:
        raise ControlkitError(
            "plotly is not installed", where="shadow report", cure="Install it: pip install 'controlkit[train]'."
        ) from None
