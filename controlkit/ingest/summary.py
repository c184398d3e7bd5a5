"""What the quality report says: figures of the samples, the rows and the tags, and what deserves a warning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controlkit.align import NS, Samples
from controlkit.dataset import TransitionDataset
from controlkit.ingest.checks import Tagged
from controlkit.ingest.episodes import Episodes
from controlkit.ingest.report import LISTED_GAPS, QualityReport, SourceQuality, TagQuality, duration, gap_row
from controlkit.ingest.timestamps import iso
from controlkit.spec import PlantSpec


def summarise(
    spec: PlantSpec,
    sources: tuple[SourceQuality, ...],
    tagged: Mapping[str, Tagged],
    episodes: Episodes,
    dataset: TransitionDataset,
    max_bad_share: float,
    unknown_words: Mapping[str, tuple[str, ...]],
) -> QualityReport:
    """The report on an ingest.

    Args:
        spec: the plant.
        sources: the files.
        tagged: every tag's samples and their account.
        episodes: what was kept, and what each rule removed.
        dataset: made of them.
        max_bad_share: share of bad quality from which on a tag gets a warning.
        unknown_words: file -> words in its quality column that nobody here knows.
    """
    rules = episodes.rules
    held = _held_shares(spec, dataset, {name: one.samples for name, one in tagged.items()})
    tags = {name: _tag_quality(spec, name, one, held.get(name)) for name, one in tagged.items()}
    times = [tagged[name].samples.time_ns for name in spec.frame_tags]
    first, last = min(int(t[0]) for t in times if t.size), max(int(t[-1]) for t in times if t.size)
    lengths = np.bincount(dataset.episode)
    steps = np.append(dataset.episode[1:] == dataset.episode[:-1], False)  # (N,) whether a step starts in the row
    longest = sorted(rules.gaps, key=lambda gap: gap.from_ns - gap.to_ns)[:LISTED_GAPS]
    return QualityReport(
        plant=spec.name,
        first=iso(first),
        last=iso(last),
        span_s=(last - first) / NS,
        rows=rules.rows,
        rows_kept=rules.rows_kept,
        episodes=len(lengths),
        steps=int(steps.sum()),
        transitions=len(dataset.transitions),
        sources=sources,
        tags=tags,
        rows_removed=rules.rows_removed,
        cuts=rules.cuts,
        unusable_rows=rules.unusable,
        gaps=tuple(gap_row(gap.from_ns, gap.to_ns) for gap in longest),
        gap_count=len(rules.gaps),
        gap_s=sum(gap.to_ns - gap.from_ns for gap in rules.gaps) / NS,
        episode_rows=(int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        changed_share={tag: float(dataset.changed[steps, i].mean()) for i, tag in enumerate(spec.action_tags)},
        warnings=tuple(_warnings(spec, tagged, tags, last, max_bad_share, unknown_words)),
    )


def _tag_quality(spec: PlantSpec, name: str, one: Tagged, held: float | None) -> TagQuality:
    value = one.samples.value[one.samples.good]
    figures = (value.min(), value.mean(), value.max(), value.std()) if value.size else (None,) * 4
    low, mean, high, std = (None if figure is None else float(figure) for figure in figures)
    return TagQuality(spec.tags[name].role, spec.tags[name].unit, one.account, low, mean, high, std, held)


def _held_shares(spec: PlantSpec, dataset: TransitionDataset, samples: Mapping[str, Samples]) -> dict[str, float]:
    shares = {tag: float((dataset.age_s[:, i] >= spec.period_s).mean()) for i, tag in enumerate(spec.frame_tags)}
    for tag in spec.action_tags:
        time_ns = samples[tag].time_ns[samples[tag].good]
        last = time_ns[np.maximum(np.searchsorted(time_ns, dataset.time_ns, side="right") - 1, 0)]
        shares[tag] = float(((dataset.time_ns - last) / NS >= spec.period_s).mean())
    return shares


def _warnings(
    spec: PlantSpec,
    tagged: Mapping[str, Tagged],
    tags: Mapping[str, TagQuality],
    last_ns: int,
    max_bad_share: float,
    unknown_words: Mapping[str, tuple[str, ...]],
) -> list[str]:
    found = [
        f"{file}: unknown quality words count as not good: {', '.join(words)}" for file, words in unknown_words.items()
    ]
    for name, tag in tags.items():
        account, samples = tag.account, tagged[name].samples
        counted = account.samples - account.empty
        if account.bad_quality > max_bad_share * counted:
            share = 100 * account.bad_quality / counted
            found.append(f"{name}: {share:.1f} % of its samples are not good")
        if account.out_of_range:
            found.append(f"{name}: {account.out_of_range} samples lie outside its range and were not used")
        if tag.low is None:
            found.append(f"{name}: no good sample")
            continue
        if tag.role == "exogenous" and tag.low == tag.high:
            found.append(f"{name}: never changes ({tag.low:g}); no model can learn what it does")
        silent_s = (last_ns - int(samples.time_ns[samples.good][-1])) / NS
        if silent_s > spec.max_gap_s and tag.role in ("action", "mode"):
            found.append(f"{name}: its last sample is {duration(silent_s)} before the log's end; it was held since")
    return found
