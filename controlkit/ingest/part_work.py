"""What a worker does for an ingest: functions of a payload, which may run anywhere that sees the working folder.

Each writes into a new folder of its own and says at its end what lies there. A worker that dies leaves a folder that
nobody was told of, and the next one begins anew.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlkit.errors import DataError
from controlkit.ingest.assess import TagAssessment, assess
from controlkit.ingest.blocks import aligned_blocks, modes
from controlkit.ingest.episodes import EpisodeCutter, Seen
from controlkit.ingest.pieces import Piece
from controlkit.ingest.quarantine import Recorded
from controlkit.ingest.rows import Rows
from controlkit.ingest.sources.opened import Part, Parted
from controlkit.ingest.sources.records import Tally
from controlkit.ingest.sources.staged import StagedLog
from controlkit.ingest.sources.staging import Reader
from controlkit.ingest.stage import USABLE, NoRoom, Stage
from controlkit.spec import PlantSpec


@dataclass(frozen=True)
class Refused:
    """A worker met something in the log that it refuses; what the whole log says about it is not its to tell."""

    reason: str


@dataclass(frozen=True)
class Portion:
    """A part of one source to be read: number of the source, its reader, and the part."""

    number: int
    reader: Reader
    part: Part


@dataclass(frozen=True)
class PortionRead:
    """What was read of a portion.

    Attributes:
        number: of the source.
        tally: of the portion alone.
        kinds: whether its stamps, and those before it in the task, are without a zone.
        zero_means, zero_seen: what was known, and seen, of the quality code 0 at its end.
        unknown: words of the quality column that nobody here knows.
        quarantine: what could not be used.
    """

    number: int
    tally: Tally
    kinds: frozenset[bool]
    zero_means: tuple[bool, bool, bool]
    zero_seen: bool
    unknown: tuple[str, ...]
    quarantine: Recorded


@dataclass(frozen=True)
class PartRead:
    """Portions that were read, and for each tag the samples that were staged of all of them."""

    portions: tuple[PortionRead, ...]
    pieces: Mapping[str, Piece]


@dataclass(frozen=True)
class TagAssessed:
    """A tag's assessment, its usable samples, and what went to quarantine on the way."""

    found: TagAssessment
    piece: Piece
    quarantine: Recorded


@dataclass(frozen=True)
class Span:
    """A stretch of the grid for one worker: a whole number of the blocks in which one process would work.

    Attributes:
        number: of the first stretch between gaps.
        stretches: first and last time of each, the first one cut where the span begins.
        before: number of the stretch and time of the last row before the span; None at the start of the log.
        rows: sample times.
    """

    number: int
    stretches: tuple[tuple[int, int], ...]
    before: tuple[int, int] | None
    rows: int


@dataclass(frozen=True)
class SpanAligned:
    """The rows of a span, and what the cutter of episodes has seen of them."""

    rows: Rows
    seen: Seen


def read_part(payload: Mapping[str, Any]) -> PartRead | Refused:
    """Stages some portions of the sources: `portions`, `tags` and the `scratch` folder."""
    portions: list[Portion] = payload["portions"]
    with _own_folder(payload["scratch"], "read-") as folder:
        stage, found = Stage(folder, payload["tags"]), []
        try:
            for one in portions:
                reader, source, quarantine = one.reader, one.reader.source, Recorded()
                assert isinstance(source, Parted)
                reader.tally = Tally()
                reader.stage(one.number, stage, quarantine, _nobody, source.batches_of(one.part))
                found.append(
                    PortionRead(
                        one.number, reader.tally, reader.clock.kinds, reader.codes.zero_means, reader.codes.zero_seen,
                        reader.codes.unknown, quarantine,
                    )
                )  # fmt: skip
        except NoRoom:
            raise
        except DataError as problem:
            return Refused(str(problem))
        return PartRead(tuple(found), {tag: Piece(stage.path(tag), stage.count(tag)) for tag in stage.tags})


def assess_tag(payload: Mapping[str, Any]) -> TagAssessed | Refused:
    """Assesses one tag: `spec`, `tag`, `stage` with its samples, `sources`, `max_bad_share`, the `scratch` folder."""
    tag, quarantine = payload["tag"], Recorded()
    sources = payload["sources"]
    with _own_folder(payload["scratch"], "usable-") as folder:
        usable = Stage(folder, (tag,), USABLE)
        log = StagedLog(payload["stage"].of_tag(tag, folder), sources, quarantine, (_nowhere,) * len(sources))
        try:
            found = assess(payload["spec"], tag, log, usable, max_bad_share=payload["max_bad_share"])
        except NoRoom:
            raise
        except DataError as problem:
            return Refused(str(problem))
        return TagAssessed(found, Piece(usable.path(tag), usable.count(tag)), quarantine)


def align_span(payload: Mapping[str, Any]) -> SpanAligned:
    """Puts a span of the grid's rows on disk: `spec`, `usable`, `span`, `block` (rows) and the `scratch` folder."""
    spec: PlantSpec = payload["spec"]
    usable, span = payload["usable"], payload["span"]
    with _own_folder(payload["scratch"], "rows-") as folder:
        rows, cutter = Rows(folder, spec), EpisodeCutter(spec)
        if span.before is not None:
            number, time_ns = span.before
            ((_, row),) = aligned_blocks(spec, usable, [(time_ns, time_ns)], 1)
            cutter.follow(number, row, modes(spec, usable, row)[0])
        for number, block in aligned_blocks(spec, usable, span.stretches, payload["block"]):
            cutter.add(span.number + number, block, *modes(spec, usable, block))
            rows.append(block)
        return SpanAligned(rows, cutter.seen())


@contextmanager
def _own_folder(scratch: Path, prefix: str) -> Iterator[Path]:
    """A new folder in the working folder; it is gone if the block ends with an error."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=scratch))
    except FileNotFoundError:
        raise DataError(
            "a worker does not see the working folder",
            where=str(scratch),
            cure="Set TMPDIR to a folder on a disk that all machines share; the logs must lie on one, too.",
        ) from None
    except OSError as problem:
        raise NoRoom(
            f"no room for working files ({problem})",
            where=str(scratch),
            cure="Free some space, or set TMPDIR to a folder with more.",
        ) from None
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _nobody(rows: int) -> None:
    """Is told how many rows were read."""


def _nowhere(row: int) -> str:
    """The place of a record, which a worker's messages do not need."""
    return f"record {row}"
