"""Puts the report together from what the parts of an ingest found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from controlkit.align import NS
from controlkit.ingest.analysis import analyse
from controlkit.ingest.assess import TagAssessment
from controlkit.ingest.episodes import Rules
from controlkit.ingest.flags import Flagged
from controlkit.ingest.grid import Kept
from controlkit.ingest.operation import FeedbackAssessment
from controlkit.ingest.quality_report.advice import advise, headline, verdict
from controlkit.ingest.quality_report.record import (
    EpisodeSpan,
    FlaggedStretch,
    Histogram,
    Numbers,
    QualityReport,
    QuarantineExample,
    SampleCounts,
    SourceQuality,
    TagQuality,
    TimeLine,
    Trend,
)
from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sources.staged import StagedSource
from controlkit.ingest.statistics import LogStatistics
from controlkit.ingest.timestamps import iso
from controlkit.spec import PlantSpec

LISTED_GAPS = 20
LISTED_SPANS = 400
LISTED_EXAMPLES = 50
LONGEST_TEXT = 120


def summarise(
    spec: PlantSpec,
    sources: Sequence[StagedSource],
    assessments: Mapping[str, TagAssessment],
    rules: Rules,
    statistics: LogStatistics,
    kept: Kept,
    quarantine: Quarantine,
    examples: Sequence[tuple[str, str, str, str]],
    *,
    feedback: Sequence[FeedbackAssessment] = (),
    warnings: Sequence[str] = (),
) -> QualityReport:
    """The report on an ingest.

    Args:
        spec: the plant.
        sources: the files, in order of time.
        assessments: every tag's samples, by its name in the plant file.
        rules: what each rule removed.
        statistics: of all rows of the log.
        kept: what the data set is made of.
        quarantine: what could not be used.
        examples: of it: place (file and line), tag, text, reason.
        feedback: how measured valve positions follow their commands.
        warnings: further sentences about the log as a whole.
    """
    tags = {name: _tag(spec, name, found, statistics) for name, found in assessments.items()}
    for one in feedback:
        tags[one.feedback] = replace(tags[one.feedback], flags=tags[one.feedback].flags + _flags(one.flags))
    described = tuple(_source(source) for source in sources)
    analysis = analyse(kept.sample)
    lengths, transitions = kept.rows, kept.transitions
    told = [text for found in assessments.values() for text in found.warnings]
    told += [text for one in feedback for text in one.warnings]
    advice = advise(spec, transitions, rules, described, tags, [*told, *warnings], analysis)
    gaps = sorted(rules.gaps, key=lambda gap: gap.from_ns - gap.to_ns)[:LISTED_GAPS]
    first = min(source.first_ns for source in sources if source.first_ns is not None)
    last = max(source.last_ns for source in sources if source.last_ns is not None)
    return QualityReport(
        plant=spec.name,
        description=spec.description,
        period_s=spec.period_s,
        first=iso(first),
        last=iso(last),
        span_s=(last - first) / NS,
        rows=rules.rows,
        rows_kept=rules.rows_kept,
        episodes=len(lengths),
        steps=int(lengths.sum()) - len(lengths),
        transitions=transitions,
        verdict=verdict(advice),
        headline=headline(spec, transitions, len(lengths), rules.rows_kept * spec.period_s, advice),
        advice=advice,
        samples=_samples(sources, tags),
        sources=described,
        tags=tags,
        rows_removed=dict(rules.rows_removed),
        cuts=dict(rules.cuts),
        unusable_rows=dict(rules.unusable),
        gaps=tuple((iso(gap.from_ns), iso(gap.to_ns), (gap.to_ns - gap.from_ns) / NS) for gap in gaps),
        gap_count=len(rules.gaps),
        gap_s=sum(gap.to_ns - gap.from_ns for gap in rules.gaps) / NS,
        episode_rows=(int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        spans=_spans(kept),
        time_line=_time_line(spec, statistics),
        analysis=analysis,
        quarantine=quarantine.counts(),
        examples=tuple(
            QuarantineExample(place, tag, _short(text), reason)
            for place, tag, text, reason in examples[:LISTED_EXAMPLES]
        ),
    )


def _samples(sources: Sequence[StagedSource], tags: Mapping[str, TagQuality]) -> int:
    """Samples that the sources held, whatever became of them."""
    # The cells of a flat file are rows of the data set already: no sample is read, none can get lost.
    if any(source.form == "flat" for source in sources):
        return sum(tag.counts.samples for tag in tags.values())
    return sum(source.samples for source in sources)


def _source(source: StagedSource) -> SourceQuality:
    return SourceQuality(
        source.name, source.location, source.sha256, source.form, source.rows, source.samples, source.ignored,
        "" if source.first_ns is None else iso(source.first_ns), "" if source.last_ns is None else iso(source.last_ns),
        tuple(source.unknown_codes),
    )  # fmt: skip


def _tag(spec: PlantSpec, name: str, found: TagAssessment, statistics: LogStatistics) -> TagQuality:
    counts = SampleCounts(**{field.name: int(getattr(found.account, field.name)) for field in fields(SampleCounts)})
    drawn = name in (*spec.frame_tags, *spec.action_tags)
    figures = statistics.figures(name) if drawn else None
    return TagQuality(
        role=spec.tags[name].role,
        unit=spec.tags[name].unit,
        counts=counts,
        low=found.low,
        mean=found.mean,
        high=found.high,
        std=found.std,
        held_share=figures.held_share if figures else None,
        changed_share=figures.changed_share if figures else None,
        histogram=_histogram(statistics, name) if drawn else None,
        trend=_trend(statistics, name) if drawn else None,
        flags=_flags(found.flags),
    )


def _flags(flags: Sequence[Flagged]) -> tuple[FlaggedStretch, ...]:
    return tuple(FlaggedStretch(f.reason, int(f.from_ns), int(f.to_ns), int(f.samples)) for f in flags)


def _histogram(statistics: LogStatistics, tag: str) -> Histogram:
    edges, rows = statistics.histogram(tag)
    return Histogram(tuple(_rounded(edge) for edge in edges.tolist()), tuple(rows.tolist()))


def _trend(statistics: LogStatistics, tag: str) -> Trend:
    strip = statistics.trend(tag)
    return Trend(_numbers(strip.low), _numbers(strip.mean), _numbers(strip.high), _numbers(strip.usable))


def _time_line(spec: PlantSpec, statistics: LogStatistics) -> TimeLine:
    rows, kept = statistics.rows()
    full = statistics.width_ns / round(spec.period_s * NS)
    start = int(statistics.start_ns[0])
    return TimeLine(start, statistics.width_ns, full, tuple(rows.tolist()), tuple(kept.tolist()))


def _spans(kept: Kept) -> tuple[EpisodeSpan, ...]:
    """The episodes, or where there are very many of them, runs of as many that follow each other."""
    at_a_time = -(-len(kept.rows) // LISTED_SPANS)
    spans = []
    for i in range(0, len(kept.rows), at_a_time):
        rows = kept.rows[i : i + at_a_time]
        last = int(kept.last_ns[i : i + at_a_time][-1])
        spans.append(EpisodeSpan(int(kept.first_ns[i]), last, int(rows.sum()), len(rows)))
    return tuple(spans)


def _numbers(values: npt.NDArray[np.float64]) -> Numbers:
    return tuple(_rounded(value) if np.isfinite(value) else None for value in values.tolist())


def _rounded(value: float) -> float:
    """Five digits: more than a plot shows, and half the size of the file."""
    return float(f"{value:.5g}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "\u2026"
