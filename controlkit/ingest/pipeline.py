"""Ingest: plant logs -> data set and data-quality report.

Sources are read and checked (`reader`, `checks`), put on the grid of the sample period causally (`controlkit.align`),
cut into episodes (`episodes`), and written as one `TransitionDataset` with the report beside it. Nothing is written
unless everything is right, and then all of it at once.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controlkit.dataset import TransitionDataset
from controlkit.errors import DataError
from controlkit.ingest.checks import Tagged, collect
from controlkit.ingest.columns import missing_tag
from controlkit.ingest.episodes import Episodes, cut_episodes
from controlkit.ingest.flat_sources import is_flat
from controlkit.ingest.reader import Source
from controlkit.ingest.report import QualityReport, SourceQuality
from controlkit.ingest.summary import summarise
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec

MEMORY_LIMIT = "1GB"  # of the reading; beyond it DuckDB uses the disk
REPORT_JSON, REPORT_HTML = "quality.json", "quality.html"


@dataclass(frozen=True)
class IngestResult:
    """A data set and the report on how it came about."""

    dataset: TransitionDataset
    quality: QualityReport


def ingest(
    spec: PlantSpec,
    sources: Sequence[Path],
    out: Path | None,
    *,
    max_bad_share: float = 0.01,
    progress: Progress | None = None,
) -> IngestResult:
    """Makes a data set from plant logs.

    Args:
        spec: the plant.
        sources: CSV or Parquet files, long or wide, in any order; a tag may be spread over several of them. Or flat
            sources, one row per transition: `.npz`, D4RL's `.hdf5`, `minari:NAME` (see `controlkit.ingest.flat`).
        out: folder for the data set, `quality.json` and `quality.html`; an earlier data set there is replaced once the
            new one is complete. With None nothing is written.
        max_bad_share: the largest share of a measured tag's samples that may lie outside its range before the plant
            file or the log must be wrong; a larger share of bad quality is a warning.
        progress: what the work reports to.

    Raises:
        DataError: something in the logs cannot be used; names file, line and cure.
        ControlkitError: the data set cannot be written; what stood at `out` is untouched.
    """
    bar = progress or Silent()
    if not sources:
        raise DataError("no log was named", cure="Name one or more CSV or Parquet files.")
    if any(is_flat(Path(source)) for source in sources):
        from controlkit.ingest.flat import ingest_flat

        return ingest_flat(spec, sources, out, max_bad_share=max_bad_share, progress=progress)
    unknown_words: dict[str, tuple[str, ...]] = {}
    with tempfile.TemporaryDirectory(prefix="controlkit-") as scratch:
        opened = _opened(spec, sources, Path(scratch), bar)
        used = [name for name, tag in spec.tags.items() if tag.role != "ignore"]
        where = ", ".join(str(source.path) for source in opened)
        holders = {name: [source for source in opened if name in source.names()] for name in used}
        found = [spec.tags[name].column or name for source in opened for name in source.names()]
        for name in used:
            if not holders[name]:
                raise missing_tag(name, spec, found, where)
        bar.start("check samples", len(used))
        tagged: dict[str, Tagged] = {}
        for name in used:
            tagged[name] = collect(spec, name, holders[name], max_bad_share)
            bar.advance()
        files = _file_names(opened)
        unknown_words = {files[i]: source.unknown_codes for i, source in enumerate(opened) if source.unknown_codes}
        described = tuple(
            SourceQuality(
                files[i], source.sha256, source.columns.form, source.rows,
                sum(source.count(name) for name in source.names() if spec.tags[name].role == "ignore"),
            )
            for i, source in enumerate(opened)
        )  # fmt: skip
    bar.start("cut episodes", 1)
    samples = {name: one.samples for name, one in tagged.items()}
    episodes = cut_episodes(spec, samples)
    if not len(episodes.log.time_ns):
        raise _too_short(spec, episodes, where)
    dataset = TransitionDataset.from_frames(
        spec,
        frames=episodes.log.frames,
        actions=episodes.log.actions,
        episode=episodes.episode,
        time_ns=episodes.log.time_ns,
        mask=episodes.log.mask,
        age_s=episodes.log.age_s,
        changed=episodes.log.changed,
        sources={source.name: source.sha256 for source in described},
    )
    dataset.require_transitions(where)
    quality = summarise(spec, described, tagged, episodes, dataset, max_bad_share, unknown_words)
    bar.advance()
    if out is not None:
        bar.start("write", 1)
        content = json.dumps(quality.to_dict(), indent=1, allow_nan=False) + "\n"
        dataset.save(out, extra={REPORT_JSON: content.encode(), REPORT_HTML: quality.to_html().encode()})
        bar.advance()
    return IngestResult(dataset, quality)


def _opened(spec: PlantSpec, paths: Sequence[Path], scratch: Path, bar: Progress) -> list[Source]:
    """The sources in order of their first time stamp."""
    import duckdb

    try:
        connection = duckdb.connect(str(scratch / "log.duckdb"), config={"memory_limit": MEMORY_LIMIT})
        connection.execute(f"SET temp_directory = '{str(scratch / 'spill').replace(chr(39), chr(39) * 2)}'")
        connection.execute("SET enable_progress_bar = false")
    except duckdb.Error as problem:
        reason = str(problem).splitlines()[0]
        raise DataError(f"no room for working files ({reason})", where=str(scratch), cure="Free some space.") from None
    bar.start("read", len(paths))
    sources: list[Source] = []
    for i, path in enumerate(paths):
        sources.append(Source(connection, Path(path), spec, f"source{i}"))
        bar.advance()
    same = [path for path, count in Counter(source.sha256 for source in sources).items() if count > 1]
    if same:
        twice = [str(source.path) for source in sources if source.sha256 == same[0]]
        raise DataError("the same log was given twice", where=" and ".join(twice), cure="Name it once.")
    return sorted(sources, key=lambda source: source.first_ns)


def _file_names(sources: Sequence[Source]) -> list[str]:
    """A name for each file: its own, and a number behind it where two folders hold the same name."""
    names = [source.path.name for source in sources]
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def _too_short(spec: PlantSpec, episodes: Episodes, where: str) -> DataError:
    rules = episodes.rules
    removed = {name: count for name, count in rules.rows_removed.items() if count and name != "piece too short"}
    cuts = {name: count for name, count in rules.cuts.items() if count}
    reasons = [f"{count} rows left out by '{name}'" for name, count in removed.items()]
    reasons += [f"{count} cuts by '{name}'" for name, count in cuts.items()]
    worst = max(rules.unusable.items(), key=lambda item: item[1], default=("", 0))
    if worst[1]:
        limit = spec.max_age_s(worst[0])
        reasons.append(f"tag '{worst[0]}' was unknown or older than {limit:g} s in {worst[1]} rows")
    return DataError(
        f"the longest stretch without a break has {rules.longest} samples, an observation and a step after it need "
        f"{rules.needed} (one every {spec.period_s:g} s)" + (f"; {', '.join(reasons)}" if reasons else ""),
        where=where,
        cure="Bring a longer log, or look at 'history', 'period_s', 'max_age_s' and 'max_gap_s' in the plant file.",
    )
