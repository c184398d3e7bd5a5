"""The sources of an unknown log together: what one of them leaves open another may tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from controlkit.ingest.draft.sample import LogSample, TagSample, sample_of
from controlkit.ingest.draft.tables import files_of


def read_sources(sources: Sequence[Path | str]) -> list[LogSample]:
    """Samples of all sources (files, folders, patterns), in the order in which they are named.

    Files that leave open whether the day or the month comes first are read as the others are.
    """
    files = files_of(sources)
    logs = [sample_of(path) for path in files]
    told = {log.day_first for log in logs if log.day_first is not None and not log.doubtful}
    if not told:  # where the month is the better guess of one file it is that of all
        told = {not any(log.doubtful and log.day_first is False for log in logs)}
    order = len(told) != 1 or told.pop()
    return [
        sample_of(path, order) if log.doubtful and log.day_first is not order else log
        for path, log in zip(files, logs, strict=True)
    ]


def merged(logs: Sequence[LogSample]) -> dict[str, TagSample]:
    """The tags of all sources; what several sources hold of one tag is put together in order of time."""
    tags: dict[str, TagSample] = {}
    for log in logs:
        for name, tag in log.tags.items():
            tags[name] = _joined(tags[name], tag) if name in tags else tag
    return tags


def _joined(one: TagSample, other: TagSample) -> TagSample:
    time_ns = np.concatenate([one.time_ns, other.time_ns])
    order = np.argsort(time_ns, kind="stable")
    return TagSample(
        time_ns[order],
        np.concatenate([one.value, other.value])[order],
        one.samples + other.samples,
        one.good + other.good,
        float(np.fmin(one.low, other.low)),
        float(np.fmax(one.high, other.high)),
        one.unit or other.unit,
        one.compared or other.compared,
    )
