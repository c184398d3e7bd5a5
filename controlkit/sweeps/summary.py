"""The end of a sweep: one report on all finished runs, the standings, and the winner with its report in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import controlkit
from controlkit.artifacts import RunFolder
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError
from controlkit.evaluation.assessment import evaluate
from controlkit.evaluation.bootstrap import LEVEL
from controlkit.evaluation.candidates import of_run
from controlkit.evaluation.report import HTML, JSON, Report, write_report
from controlkit.files import read_json, write_bytes, write_json, write_text
from controlkit.progress import Progress
from controlkit.sweeps.ledger import Ledger, RunRecord
from controlkit.sweeps.winner import RULE, Standing, rank, winner_of
from controlkit.sweeps.work import EVALUATION_SEED, RUNS

SCHEMA = 1
SUMMARY, TABLE = "sweep.json", "sweep.md"


@dataclass(frozen=True)
class Summary:
    """What a sweep found.

    Attributes:
        standings: settings, best first.
        records: of all runs.
        run: folder of the winning run, and its verdict; `None` where no setting finished.
        table: Markdown.
    """

    standings: tuple[Standing, ...]
    records: tuple[RunRecord, ...]
    run: Path | None
    verdict: str
    table: str

    @property
    def unfinished(self) -> tuple[RunRecord, ...]:
        """Records of the runs that failed or were lost."""
        return tuple(record for record in self.records if record.state != "done")


def summarise(
    ledger: Ledger, records: Sequence[RunRecord], data: TransitionDataset, progress: Progress, *, quick: bool
) -> Summary:
    """Judges all finished runs in one report and writes `sweep.json`, `sweep.md` and the reports.

    Args:
        ledger: of the sweep's folder.
        records: of all its runs.
        data: the data set.
        progress: stages of the evaluation; a report on the same policies is not made again.
        quick: the quick form of the evaluation.
    """
    done = [record for record in records if record.state == "done"]
    kept = _kept(ledger.folder, done, quick)
    report = kept or (_judge(ledger, done, data, progress, quick) if done else None)
    standings = rank(records, report.content["candidates"] if report is not None else ())
    winner = winner_of(standings)
    run = ledger.folder / RUNS / winner.runs[0] if winner is not None else None
    verdict = ""
    if report is not None:
        if run is not None:
            report = _about(report, run.name)
            verdict = report.verdict
        if kept is None or report.content != kept.content:
            write_report(report, ledger.folder)
        if run is not None:  # what 'export' asks for: the verdict that allows for the number of candidates
            for name in (HTML, JSON):
                write_bytes(run / name, (ledger.folder / name).read_bytes())
    summary = Summary(tuple(standings), tuple(records), run, verdict, "")
    summary = replace(summary, table=_markdown(summary, len(done)))
    write_text(ledger.folder / TABLE, summary.table)
    content = {
        "schema": SCHEMA,
        "rule": RULE,
        "candidates": len(done),
        "quick": quick,
        "policies": _policies(done),
        "winner": None if run is None else {"run": f"{RUNS}/{run.name}", "verdict": verdict},
        "settings": [asdict(standing) for standing in standings],
        "runs": [asdict(record) for record in records],
        "plan": ledger.plan.to_dict(),
    }
    write_json(ledger.folder / SUMMARY, content)
    return summary


def _judge(
    ledger: Ledger, done: Sequence[RunRecord], data: TransitionDataset, progress: Progress, quick: bool
) -> Report:
    candidates = [of_run(RunFolder.open(ledger.folder / RUNS / record.name)) for record in done]
    gamma = ledger.plan.gamma
    torch.set_num_threads(ledger.plan.config.threads)
    return evaluate(candidates, data, quick=quick, progress=progress, seed=EVALUATION_SEED, gamma=gamma)


def _kept(folder: Path, done: Sequence[RunRecord], quick: bool) -> Report | None:
    """The report of an earlier end of this sweep, where it judges the same policies in the same form."""
    if not all((folder / name).is_file() for name in (SUMMARY, JSON, HTML)):
        return None
    try:
        before, content = read_json(folder / SUMMARY), read_json(folder / JSON)
        same = before["policies"] == _policies(done) and before["quick"] == quick
        same = same and content["provenance"]["version"] == controlkit.__version__
        names = {found["name"] for found in content["candidates"]}
        report = Report(content["verdict"], tuple(content["reasons"]), content)
    except (ArtifactError, KeyError, TypeError):
        return None  # damaged: it is made again
    return report if same and names == set(_policies(done)) else None


def _policies(done: Sequence[RunRecord]) -> dict[str, Any]:
    return {record.name: record.result.get("policy_sha256") for record in done}


def _about(report: Report, name: str) -> Report:
    """The report with the winner's verdict as its headline, which need not be that of the best single candidate."""
    found = next(candidate for candidate in report.content["candidates"] if candidate["name"] == name)
    headline = {field: found[field] for field in ("verdict", "reasons", "warnings", "missing")}
    content = {**report.content, **headline, "best": name}
    return Report(found["verdict"], tuple(found["reasons"]), content)


def _markdown(summary: Summary, candidates: int) -> str:
    lines = ["# Sweep", ""]
    if summary.run is not None:
        lines += [f"Winner: `{RUNS}/{summary.run.name}` ({summary.standings[0].label}), {summary.verdict}.", ""]
    else:
        lines += ["No winner: no setting finished with all its seeds.", ""]
    lines += ["| setting | verdict of the worst seed | gain, mean over seeds | mean low end | runs |"]
    lines += ["|---|---|---:|---:|---|"]
    for standing in summary.standings:
        gain = _shown(standing.gain) + (f" ± {_shown(standing.stderr)}" if standing.stderr is not None else "")
        runs = ", ".join(standing.runs) + (f"; not finished: {', '.join(standing.missing)}" if standing.missing else "")
        lines.append(
            f"| {_cell(standing.label)} | {standing.verdict or 'none'} | {gain} | {_shown(standing.low)} | {runs} |"
        )
    level = 1.0 - (1.0 - LEVEL) / max(1, candidates)
    lines += ["", f"{candidates} candidates in one report (report.html); ± is the standard error over the seeds, "
              f"each interval's level {level:.2%}. {RULE}"]  # fmt: skip
    if summary.unfinished:
        lines += ["", "Not finished:", ""]
        lines += [f"- {record.name}: {record.state}: {record.message}" for record in summary.unfinished]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
