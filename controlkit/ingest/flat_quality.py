"""The quality report of flat files: the same form as for a plant's log, from the data set itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlkit.dataset import TransitionDataset
from controlkit.ingest.checks import Account
from controlkit.ingest.flat_file import FlatFile
from controlkit.ingest.report import QualityReport, SourceQuality, TagQuality
from controlkit.ingest.timestamps import iso
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
    lengths = np.bincount(data.episode)
    outside = {tag: int((~data.mask[:, i]).sum()) for i, tag in enumerate(spec.frame_tags)}
    tags = {
        tag: _tag(spec, tag, data.frames[data.mask[:, i], i], outside[tag]) for i, tag in enumerate(spec.frame_tags)
    }
    commands = np.isfinite(data.actions).all(axis=1)
    tags |= {tag: _tag(spec, tag, data.actions[commands, i], 0) for i, tag in enumerate(spec.action_tags)}
    return QualityReport(
        plant=spec.name,
        first=iso(int(data.time_ns[0])),
        last=iso(int(data.time_ns[-1])),
        span_s=float(data.time_ns[-1] - data.time_ns[0]) / 1e9,
        rows=len(data),
        rows_kept=len(data),
        episodes=len(lengths),
        steps=int((data.episode[1:] == data.episode[:-1]).sum()),
        transitions=len(data.transitions),
        sources=tuple(SourceQuality(file.path.name, file.sha256, "flat", len(file), 0) for file in files),
        tags=tags,
        rows_removed={},
        cuts={"end of an episode": len(lengths)},
        unusable_rows=outside,
        gaps=(),
        gap_count=0,
        gap_s=0.0,
        episode_rows=(int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        changed_share=dict.fromkeys(spec.action_tags, 0.0),
        warnings=(*remarks, *_warnings(spec, files, data, outside)),
    )


def _tag(spec: PlantSpec, tag: str, values: np.ndarray, outside: int) -> TagQuality:
    account = Account(len(values) + outside, len(values), 0, 0, outside, 0)
    low, mean, high, std = (float(figure) for figure in (values.min(), values.mean(), values.max(), values.std()))
    return TagQuality(spec.tags[tag].role, spec.tags[tag].unit, account, low, mean, high, std, 0.0)


def _warnings(
    spec: PlantSpec, files: Sequence[FlatFile], data: TransitionDataset, outside: dict[str, int]
) -> list[str]:
    found = [
        f"{tag}: {count} samples lie outside its range and are not used" for tag, count in outside.items() if count
    ]
    for i, tag in enumerate(spec.frame_tags):
        if spec.tags[tag].role == "exogenous" and np.ptp(data.frames[:, i]) == 0:
            found.append(f"{tag}: never changes ({data.frames[0, i]:g}); no model can learn what it does")
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
