"""Where a log comes from: files and folders of CSV, Parquet and Arrow, and databases.

`stage_sources` reads all of it, in blocks, into one file of samples per tag; everything after it starts from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controlkit.errors import DataError
from controlkit.ingest.columns import missing_tag
from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sources.staged import StagedLog, StagedSource
from controlkit.ingest.stage import Stage
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    from controlkit.ingest.sources.opened import Opened
    from controlkit.ingest.sources.staging import Reader

__all__ = ["StagedLog", "StagedSource", "read_all", "stage_sources"]

# Reads the sources of readers, in their order, into the stage and the quarantine of a log, or gives it another stage.
ReadAll = Callable[["Sequence[Reader]", StagedLog, Progress], StagedLog]

_MOST = 2**15 - 1  # sources: their numbers are int16


def stage_sources(
    spec: PlantSpec,
    sources: Sequence[Path | str],
    scratch: Path,
    *,
    progress: Progress | None = None,
    now_ns: int | None = None,
    read: ReadAll | None = None,
) -> StagedLog:
    """Reads a log of any size into a stage on disk.

    Args:
        spec: the plant.
        sources: files, folders of files, patterns, addresses of databases, in any order.
        scratch: folder for the stage; it needs 32 bytes a sample.
        progress: what the reading reports to.
        now_ns: the time of the ingest, in ns since 1970; stamps more than `log.future_s` after it are quarantined.
        read: how the records are read; by default source after source.

    Raises:
        DataError: a source cannot be read, is given twice, has a column, tag or unit that the plant file does not
            explain, or lacks a tag.
    """
    from controlkit.ingest.sources.find import find
    from controlkit.ingest.sources.fold import FoldOrder
    from controlkit.ingest.sources.staging import Reader

    bar, now = progress or Silent(), time.time_ns() if now_ns is None else now_ns
    opened = list(find(sources, spec))
    if not opened:
        raise DataError("no log was named", cure="Name one or more CSV or Parquet files.")
    if len(opened) > _MOST:
        raise DataError(f"{len(opened)} files are too many", cure=f"Name at most {_MOST}, or put some together.")
    _refuse_twice(opened)
    order = FoldOrder()
    readers = [Reader(spec, source, now, order) for source in opened]
    told = {reader.clock.day_first for reader in readers if reader.clock.day_first is not None}
    for reader in readers:  # what one source leaves open another may tell
        reader.clock.settle_order(told)
        reader.codes.learn(other.codes for other in readers)
    readers.sort(key=lambda reader: reader.clock.starts_ns)
    used = [name for name, tag in spec.tags.items() if tag.role != "ignore"]
    log = StagedLog(
        Stage(scratch / "samples", used), (), Quarantine(), tuple(reader.source.place for reader in readers)
    )
    bar.start("read", len(readers))
    log = (read or read_all)(readers, log, bar)
    _refuse_twice([reader.source for reader in readers])  # the content of a query is known only now
    log = replace(log, sources=tuple(_described(readers)))
    _require_tags(spec, used, readers, log)
    for reader in readers:
        for warning in reader.clock.warnings:
            bar.message(warning)
    return log


def read_all(readers: Sequence[Reader], log: StagedLog, bar: Progress) -> StagedLog:
    """Reads source after source into the log's stage and quarantine."""
    for number, reader in enumerate(readers):
        reader.stage(number, log.stage, log.quarantine, _counted(bar))
        bar.advance()
    return log


def _counted(bar: Progress) -> Callable[[int], None]:
    """Shows how many rows of a source have been read."""
    total = 0

    def advance(rows: int) -> None:
        nonlocal total
        total += rows
        bar.advance(0, f"{total:,} rows".replace(",", " "))

    return advance


def _refuse_twice(sources: Sequence[Opened]) -> None:
    """The same content twice is a mistake, unless the path of a partitioned folder makes a difference."""
    seen: dict[tuple[str, str], Opened] = {}
    for source in sources:
        if source.sha256:
            key = (source.sha256, str(getattr(source, "parts", {})))
            if key in seen:
                where = f"{seen[key].location} and {source.location}"
                raise DataError("the same log was given twice", where=where, cure="Name it once.")
            seen[key] = source


def _require_tags(spec: PlantSpec, used: Sequence[str], readers: Sequence[Reader], log: StagedLog) -> None:
    from controlkit.ingest.stop_rule import require_few_quarantined

    seen = set().union(*(reader.tally.seen for reader in readers))
    for name in used:
        if name not in seen:
            require_few_quarantined(spec, log)  # rather than miss a tag whose lines could not be read
            found = [spec.tags[tag].column or tag for tag in sorted(seen)]
            where = ", ".join(reader.source.location for reader in readers[:3])
            more = f" and {len(readers) - 3} more" if len(readers) > 3 else ""
            raise missing_tag(name, spec, found, where + more)


def _unknown_words(reader: Reader) -> list[str]:
    """A sentence on the words of a quality column by which samples do not count."""
    words = reader.codes.unknown
    if not words:
        return []
    named = ", ".join(f"'{word}'" for word in words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
    return [f"{reader.source.location}: the quality {named} is known to nobody here: its samples count as bad."]


def _described(readers: Sequence[Reader]) -> list[StagedSource]:
    made: list[StagedSource] = []
    names: list[str] = []
    for reader in readers:
        source, tally = reader.source, reader.tally
        names.append(source.name)
        again = names.count(source.name)
        made.append(
            StagedSource(
                name=f"{source.name} ({again})" if again > 1 else source.name, location=source.location,
                sha256=source.sha256, form=source.columns.form, rows=tally.rows, samples=tally.samples,
                ignored=tally.ignored, first_ns=tally.first_ns, last_ns=tally.last_ns,
                unknown_codes=reader.codes.unknown, warnings=(*reader.clock.warnings, *_unknown_words(reader)),
            )
        )  # fmt: skip
    return made
