"""The quality report of flat files: the same form as for a plant's log, from the data set itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlkit.align import AlignedLog
from controlkit.dataset import TransitionDataset
from controlkit.ingest.assess import TagAssessment
from controlkit.ingest.episodes import Rules
from controlkit.ingest.flat_file import FlatFile
from controlkit.ingest.grid import BLOCK, Kept
from controlkit.ingest.quality_report import QualityReport, summarise
from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sample_rules import Account
from controlkit.ingest.sources import StagedSource
from controlkit.ingest.statistics import LogStatistics
from controlkit.spec import PlantSpec


def flat_quality(
    spec: PlantSpec, files: Sequence[FlatFile], data: TransitionDataset, remarks: Sequence[str] = ()
) -> QualityReport:
    """The report on an ingest of flat files; time stamps that no file has are counted by the sample period.

    Args:
        spec: the plant.
        files: what was read.
        data: what became of it.
        remarks: warnings that were found on the way.
    """
    first_ns, last_ns = int(data.time_ns[0]), int(data.time_ns[-1])
    outside = {tag: int((~data.mask[:, i]).sum()) for i, tag in enumerate(spec.frame_tags)}
    statistics = LogStatistics(spec, first_ns, last_ns)
    for start in range(0, len(data), BLOCK):
        block = _block(data, slice(start, start + BLOCK))
        statistics.add(block, np.ones(len(block.time_ns), dtype=np.bool_))
    lengths = np.bincount(data.episode)
    rules = Rules(
        rows=len(data),
        rows_kept=len(data),
        rows_removed={},
        cuts={"end of an episode": len(lengths)},
        unusable=outside,
        gaps=(),
        longest=int(lengths.max()),
        needed=data.layout.depth + 2,
    )
    assessed = {tag: _tag(tag, data.frames[data.mask[:, i], i], outside[tag]) for i, tag in enumerate(spec.frame_tags)}
    commands = np.isfinite(data.actions).all(axis=1)
    assessed |= {tag: _tag(tag, data.actions[commands, i], 0) for i, tag in enumerate(spec.action_tags)}
    cells = len(spec.frame_tags) + len(spec.action_tags)
    sources = [
        StagedSource(f.path.name, str(f.path), f.sha256, "flat", len(f), len(f) * cells, 0, first_ns, last_ns)
        for f in files
    ]
    return summarise(
        spec, sources, assessed, rules, statistics, Kept.whole(data), Quarantine(), (),
        warnings=(*remarks, *_warnings(files, data, outside)),
    )  # fmt: skip


def _block(data: TransitionDataset, rows: slice) -> AlignedLog:
    actions = data.actions[rows]
    return AlignedLog(
        data.time_ns[rows], data.frames[rows], data.mask[rows], data.age_s[rows], actions, data.changed[rows],
        np.isfinite(actions),
    )  # fmt: skip


def _tag(tag: str, values: np.ndarray, outside: int) -> TagAssessment:
    account = Account(samples=len(values) + outside, used=len(values), out_of_range=outside)
    low, high, mean, std = (float(figure) for figure in (values.min(), values.max(), values.mean(), values.std()))
    still = (f"{tag}: never changes ({low:g}); no model can learn what it does",) if low == high else ()
    return TagAssessment(tag, account, low, high, mean, std, (), still)


def _warnings(files: Sequence[FlatFile], data: TransitionDataset, outside: dict[str, int]) -> list[str]:
    found = [
        f"{tag}: {count} samples lie outside its range and are not used" for tag, count in outside.items() if count
    ]
    for file in files:
        again = file.duplicates
        if again.size:
            found.append(
                f"{file.path.name}: {again.size} of {len(file)} rows repeat an earlier one (the first is row "
                f"{again[0]}); hold-out errors are too good where copies lie on both sides of a split"
            )
    if int(data.episode[-1]) == 0:
        found.append("there is one episode; training and evaluation are cut from it, and nothing shows how starts vary")
    return found
