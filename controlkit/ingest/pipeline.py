"""Ingest: plant logs -> data set and data-quality report.

    sources ──▶ samples on disk, tag by tag (`sources`, `stage`) ──▶ usable samples (`assess`)
            ──▶ rows of the grid (`blocks`, `controlkit.align`) ──▶ episodes (`episodes`) ──▶ data set and report

What cannot be understood goes to quarantine on the way, with its place in the log. A log passes through memory in
blocks, so that its length costs time and disk but no memory. Nothing is written unless everything is right, and then
all of it at once.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from controlkit.dataset import TransitionDataset
from controlkit.dataset.store import writing
from controlkit.errors import DataError
from controlkit.files import write_json
from controlkit.ingest import grid
from controlkit.ingest.assess import TagAssessment, assess
from controlkit.ingest.episodes import Rules
from controlkit.ingest.flat_sources import is_flat
from controlkit.ingest.operation import accepted_share, assess_feedback
from controlkit.ingest.partitions import Hands, Partitions
from controlkit.ingest.quality_report import QualityReport, summarise
from controlkit.ingest.quarantine import Quarantined
from controlkit.ingest.sources import StagedLog, stage_sources
from controlkit.ingest.stage import USABLE, Stage
from controlkit.ingest.statistics import LogStatistics
from controlkit.ingest.stop_rule import require_few_of_each_tag, require_few_quarantined, sources_of
from controlkit.ingest.tag_warnings import log_warnings
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec

REPORT_JSON, REPORT_HTML, QUARANTINE = "quality.json", "quality.html", "quarantine.parquet"
EXAMPLES = 5  # shown of each reason for quarantine


@dataclass(frozen=True)
class IngestResult:
    """What an ingest made.

    Attributes:
        quality: the report on how it came about.
        folder: where the data set was written, if it was.
        loaded: the data set, where it was not written.
    """

    quality: QualityReport
    folder: Path | None = None
    loaded: TransitionDataset | None = None

    @cached_property
    def dataset(self) -> TransitionDataset:
        """The data set; read from its folder when it is first asked for."""
        if self.loaded is not None:
            return self.loaded
        assert self.folder is not None
        return TransitionDataset.load(self.folder)


def ingest(
    spec: PlantSpec,
    sources: Sequence[Path | str],
    out: Path | None,
    *,
    max_bad_share: float = 0.01,
    progress: Progress | None = None,
    hands: Hands | None = None,
) -> IngestResult:
    """Makes a data set from plant logs.

    Args:
        spec: the plant; its section `log` says what the historian's records mean.
        sources: files (CSV, Parquet, Arrow; long or wide), folders and patterns of them, addresses of databases, in any
            order; a tag may be spread over several. Or flat sources, one row per transition: `.npz`, D4RL's `.hdf5`,
            `minari:NAME` (see `controlkit.ingest.flat`).
        out: folder for the data set, `quality.json`, `quality.html` and, where there is anything in it,
            `quarantine.parquet`; an earlier data set there is replaced once the new one is complete. With None nothing
            is written.
        max_bad_share: the largest share of a measured tag's samples that may lie outside its range before the plant
            file or the log must be wrong; a larger share of bad quality is a warning.
        progress: what the work reports to.
        hands: workers that share the work, for the same result to the last bit. Flat sources are read by one process.

    Raises:
        DataError: something in the logs cannot be used, or too much of it is in quarantine (`log.max_quarantined`);
            names file, line and cure.
        ControlkitError: the data set cannot be written; what stood at `out` is untouched.
    """
    bar = progress or Silent()
    if not sources:
        raise DataError("no log was named", cure="Name one or more CSV or Parquet files.")
    if any(is_flat(Path(source)) for source in sources):
        from controlkit.ingest.flat import ingest_flat

        return ingest_flat(spec, [Path(s) for s in sources], out, max_bad_share=max_bad_share, progress=progress)
    with tempfile.TemporaryDirectory(prefix="controlkit-") as scratch:
        work = Path(scratch)
        parts = Partitions(spec, work / "parts", hands) if hands is not None else None
        log = stage_sources(spec, sources, work / "read", progress=bar, read=parts.read if parts is not None else None)
        usable, found = _assessed(spec, log, work / "usable", max_bad_share, bar, parts)
        rows = grid.align(spec, usable, work / "rows", bar) if parts is None else parts.align(usable, bar)
        if not rows.episodes.rules.rows_kept:
            raise _too_short(spec, rows.episodes.rules, sources_of(log), log_warnings(spec, found, log.quarantine))
        with writing(out or work / "data") as folder:
            quality = _write(spec, log, found, usable, rows, folder, bar)
        if out is not None:
            return IngestResult(quality, folder=out)
        return IngestResult(quality, loaded=TransitionDataset.load(work / "data"))


def _assessed(
    spec: PlantSpec, log: StagedLog, scratch: Path, max_bad_share: float, bar: Progress, parts: Partitions | None
) -> tuple[Stage, dict[str, TagAssessment]]:
    """The usable samples of every tag, and what is known about each."""
    require_few_quarantined(spec, log)
    require_few_of_each_tag(spec, log)
    if parts is not None:
        usable, found = parts.assess(log, max_bad_share, bar)
    else:
        usable, found = _tag_by_tag(spec, log, scratch, max_bad_share, bar)
    require_few_quarantined(spec, log)
    require_few_of_each_tag(spec, log, found)
    return usable, found


def _tag_by_tag(
    spec: PlantSpec, log: StagedLog, scratch: Path, max_bad_share: float, bar: Progress
) -> tuple[Stage, dict[str, TagAssessment]]:
    usable = Stage(scratch, log.stage.tags, USABLE)
    found: dict[str, TagAssessment] = {}
    bar.start("check samples", len(usable.tags))
    for name in usable.tags:
        found[name] = assess(spec, name, log, usable, max_bad_share=max_bad_share)
        log.stage.remove(name)
        bar.advance()
    return usable, found


def _write(
    spec: PlantSpec,
    log: StagedLog,
    found: Mapping[str, TagAssessment],
    usable: Stage,
    rows: grid.Grid,
    folder: Path,
    bar: Progress,
) -> QualityReport:
    """Data set, report and quarantine in a folder that is being written."""
    first_ns, last_ns = rows.stretches[0][0], rows.stretches[-1][1]
    statistics = LogStatistics(spec, first_ns, last_ns)
    kept = grid.write(spec, rows, folder, {s.name: s.sha256 for s in log.sources}, statistics, bar)
    if not kept.transitions:
        kept.sample.require_transitions(sources_of(log))
    bar.start("report", 1)
    followed = [assess_feedback(spec, tag, usable) for tag in spec.names("feedback")]
    feedback = [one for one in followed if one is not None]
    modes = {mode: accepted_share(spec, mode, usable, first_ns, last_ns) for mode in spec.names("mode")}
    told = [warning for source in log.sources for warning in source.warnings]
    told += [f"{mode}: accepted {100 * share:.1f} % of the time" for mode, share in modes.items() if share < 1]
    entries = log.quarantine.listed
    quality = summarise(
        spec, log.sources, found, rows.episodes.rules, statistics, kept, log.quarantine, _examples(log, entries),
        feedback=feedback, warnings=[*told, *log_warnings(spec, found, log.quarantine)],
    )  # fmt: skip
    if quality.unaccounted:
        raise DataError(
            f"{quality.unaccounted} samples are unaccounted for, which is a mistake of this program",
            where=sources_of(log),
            cure="Nothing was written. Please report it with the log's header and the plant file.",
        )
    write_json(folder / REPORT_JSON, quality.to_dict())
    (folder / REPORT_HTML).write_text(quality.to_html(), encoding="utf-8")
    if entries:
        _write_quarantine(log, entries, folder / QUARANTINE)
    bar.advance()
    return quality


def _examples(log: StagedLog, entries: Sequence[Quarantined]) -> list[tuple[str, str, str, str]]:
    """The first rows in quarantine for each reason: place, tag, text, reason."""
    shown: Counter[str] = Counter()
    examples = []
    for entry in entries:
        shown[entry.reason] += 1
        if shown[entry.reason] <= EXAMPLES:
            examples.append((log.place(entry.source, entry.row), entry.tag, entry.text, entry.reason))
    return examples


def _write_quarantine(log: StagedLog, entries: Sequence[Quarantined], path: Path) -> None:
    """The rows that could not be used, as a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "source": [log.sources[entry.source].name for entry in entries],
        "place": [log.place(entry.source, entry.row) for entry in entries],
        "tag": [entry.tag for entry in entries],
        "text": [entry.text for entry in entries],
        "reason": [entry.reason for entry in entries],
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def _too_short(spec: PlantSpec, rules: Rules, where: str, warnings: Sequence[str]) -> DataError:
    removed = {name: count for name, count in rules.rows_removed.items() if count and name != "piece too short"}
    cuts = {name: count for name, count in rules.cuts.items() if count}
    reasons = [f"{count} rows left out by '{name}'" for name, count in removed.items()]
    reasons += [f"{count} cuts by '{name}'" for name, count in cuts.items()]
    worst = max(rules.unusable.items(), key=lambda item: item[1], default=("", 0))
    if worst[1]:
        limit = spec.max_age_s(worst[0])
        reasons.append(f"tag '{worst[0]}' was unknown or older than {limit:g} s in {worst[1]} rows")
    reasons += warnings  # such as: was a tag renamed half way?
    return DataError(
        f"the longest stretch without a break has {rules.longest} samples, an observation and a step after it need "
        f"{rules.needed} (one every {spec.period_s:g} s)" + (f"; {', '.join(reasons)}" if reasons else ""),
        where=where,
        cure="Bring a longer log, or look at 'history', 'period_s', 'max_age_s' and 'max_gap_s' in the plant file.",
    )
