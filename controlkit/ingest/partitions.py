"""An ingest that many workers share, with the result of one process to the last bit.

Each stage is cut where nothing is carried over, or where what is carried over is known:

- **Reading** at borders of the batches in which one process reads: blocks of a text file, row groups of a Parquet file.
  A batch's samples follow from it and from what was found out at the start of its source. Where that is not so (hours
  that the clock shows twice, told apart by the order of all rows; a quality code 0 that a later code explains) one
  process reads.
- **Judging samples** between tags. Frozen runs, duplicates, the order of the sources and every other thing that a rule
  remembers belong to one tag, so that no state crosses a border.
- **Alignment** between the blocks of the grid in which one process works, in order of time. A row follows from a tag's
  last samples before it, wherever they lie; the cut into episodes looks one row back, and that row is aligned again.

Writing the data set and its report stay with one process: their sums depend on the order of rows. Whatever a worker
refuses is done again by one process, so that the message is the same, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from controlkit.ingest import grid
from controlkit.ingest.assess import TagAssessment, assess
from controlkit.ingest.blocks import batches
from controlkit.ingest.episodes import EpisodeCutter
from controlkit.ingest.gaps import find_gaps
from controlkit.ingest.part_work import (
    PartRead,
    Portion,
    PortionRead,
    Refused,
    Span,
    SpanAligned,
    TagAssessed,
    align_span,
    assess_tag,
    read_part,
)
from controlkit.ingest.pieces import Piece, PiecedRows, PiecedStage
from controlkit.ingest.sources import StagedLog, read_all
from controlkit.ingest.sources.opened import Parted
from controlkit.ingest.sources.staging import Reader
from controlkit.ingest.stage import USABLE, Stage
from controlkit.progress import Progress
from controlkit.spec import PlantSpec

# Parts for each worker: so many that one that is slow does not hold up the others for long.
PER_WORKER = 4

Work = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Hands:
    """Workers that see the sources and the working folder.

    Attributes:
        workers: how many there are.
        run: calls a function of a module with each payload, tries again where a worker dies, tells of each one that is
            done, and returns the results in order; raises a ControlkitError where one fails.
    """

    workers: int
    run: Callable[[Work, Sequence[Mapping[str, Any]], Callable[[], None]], list[Any]]


class Partitions:
    """The stages of one ingest, shared among workers.

    Args:
        spec: the plant.
        scratch: the working folder.
        hands: the workers.
    """

    def __init__(self, spec: PlantSpec, scratch: Path, hands: Hands) -> None:
        self._spec, self._scratch, self._hands = spec, scratch, hands
        scratch.mkdir(parents=True, exist_ok=True)

    # Reading ---------------------------------------------------------------------------------------------------------

    def read(self, readers: Sequence[Reader], log: StagedLog, bar: Progress) -> StagedLog:
        """Reads the sources into the quarantine of a log and a stage of their own; see `sources.ReadAll`.

        Raises:
            DataError: as reading by one process does.
        """
        if self._spec.log.on_fold == "by_order" and self._spec.time_zone != "UTC":
            return read_all(readers, log, bar)
        tasks = _shared([portion for i, reader in enumerate(readers) for portion in _portions(i, reader)], self._parts)
        payloads = [{"portions": task, "tags": log.stage.tags, "scratch": self._scratch} for task in tasks]
        bar.start("read in parts", len(tasks))
        found = self._run(read_part, payloads, bar)
        refused = next((one.reason for one in found if isinstance(one, Refused)), None)
        parts = [one for one in found if isinstance(one, PartRead)]
        reason = refused or _not_alike(readers, parts)
        if reason is not None:
            done = read_all(readers, log, bar)
            bar.message(f"The log was read by one process, as a part of it alone does not tell enough: {reason}")
            return done
        return self._together(readers, parts, log, bar)

    def _together(
        self, readers: Sequence[Reader], parts: Sequence[PartRead], log: StagedLog, bar: Progress
    ) -> StagedLog:
        """The samples of all parts and of the sources that are not read in parts, in the order of the sources."""
        pieces: dict[str, list[Piece]] = {tag: [] for tag in log.stage.tags}
        waiting = deque((portion, part) for part in parts for portion in part.portions)
        added: set[int] = set()
        for number, reader in enumerate(readers):
            if not isinstance(reader.source, Parted):
                own = Stage(self._scratch / f"source-{number}", log.stage.tags)
                reader.stage(number, own, log.quarantine, lambda rows: None)
                for tag in own.tags:
                    pieces[tag].append(Piece(own.path(tag), own.count(tag)))
                continue
            while waiting and waiting[0][0].number == number:
                portion, part = waiting.popleft()
                reader.tally.add(portion.tally)
                reader.codes.take_unknown(portion.unknown)
                portion.quarantine.give(log.quarantine)
                if id(part) not in added:
                    added.add(id(part))
                    for tag, piece in part.pieces.items():
                        pieces[tag].append(piece)
        kept = {tag: [piece for piece in of_tag if piece.count] for tag, of_tag in pieces.items()}
        return replace(log, stage=PiecedStage(self._scratch / "samples", kept))

    # Judging ---------------------------------------------------------------------------------------------------------

    def assess(self, log: StagedLog, max_bad_share: float, bar: Progress) -> tuple[Stage, dict[str, TagAssessment]]:
        """The usable samples of every tag, and what is known about each.

        Raises:
            DataError: as `assess.assess` does of the first tag that it refuses.
        """
        spec, tags = self._spec, log.stage.tags
        stage = _pieced(log.stage)
        common = {"spec": spec, "sources": log.sources, "max_bad_share": max_bad_share, "scratch": self._scratch}
        payloads = [common | {"tag": tag, "stage": stage.of_tag(tag, self._scratch)} for tag in tags]
        bar.start("check samples", len(tags))
        found: dict[str, TagAssessment] = {}
        pieces: dict[str, list[Piece]] = {}
        for tag, one in zip(tags, self._run(assess_tag, payloads, bar), strict=True):
            if isinstance(one, TagAssessed):
                one.quarantine.give(log.quarantine)
                found[tag], pieces[tag] = one.found, [one.piece]
            else:
                usable = Stage(self._scratch / f"usable-{len(pieces)}", (tag,), USABLE)
                found[tag] = assess(spec, tag, log, usable, max_bad_share=max_bad_share)
                pieces[tag] = [Piece(usable.path(tag), usable.count(tag))]
            stage.remove(tag)
        return PiecedStage(self._scratch / "usable", pieces, USABLE), found

    # Alignment -------------------------------------------------------------------------------------------------------

    def align(self, usable: Stage, bar: Progress) -> grid.Grid:
        """Puts the usable samples of all tags on the grid and cuts it into episodes; see `grid.align`."""
        spec = self._spec
        stretches, gaps = find_gaps(spec, usable)
        spans = spans_of(spec, stretches, grid.BLOCK, self._parts)
        common = {"spec": spec, "usable": usable, "block": grid.BLOCK, "scratch": self._scratch}
        bar.start("align", len(spans))
        found: list[SpanAligned] = self._run(align_span, [common | {"span": span} for span in spans], bar)
        cutter = EpisodeCutter(spec)
        for one in found:
            cutter.join(one.seen)
        rows = PiecedRows(self._scratch / "rows", spec, [one.rows for one in found])
        return grid.Grid(rows, rows.times(), cutter.finish(gaps), stretches)

    @property
    def _parts(self) -> int:
        return PER_WORKER * self._hands.workers

    def _run(self, work: Work, payloads: Sequence[Mapping[str, Any]], bar: Progress) -> list[Any]:
        return self._hands.run(work, payloads, bar.advance) if payloads else []


def spans_of(spec: PlantSpec, stretches: Sequence[tuple[int, int]], block: int, parts: int) -> list[Span]:
    """The grid in about `parts` spans, each a whole number of the blocks of `block` rows that one process works in.

    Args:
        spec: the plant.
        stretches: first and last time of each stretch between gaps, rising.
        block: rows.
        parts: how many.
    """
    begins: list[tuple[int, int, int]] = []  # stretch and time of each block's first row, and how many it has
    ends: list[tuple[int, int]] = []  # stretch and time of its last one
    for numbers, times in batches(spec, stretches, block):
        if len(times):
            begins.append((int(numbers[0]), int(times[0]), len(times)))
            ends.append((int(numbers[-1]), int(times[-1])))
    size = max(1, -(-len(begins) // parts))
    spans = []
    for i in range(0, len(begins), size):
        number, start, _ = begins[i]
        last, stop = ends[min(i + size, len(begins)) - 1]
        mine = [*stretches[number : last + 1]]
        mine[-1] = (mine[-1][0], stop)
        mine[0] = (start, mine[0][1])
        count = sum(rows for _, _, rows in begins[i : i + size])
        spans.append(Span(number, tuple(mine), ends[i - 1] if i else None, count))
    return spans


def _portions(number: int, reader: Reader) -> list[Portion]:
    if not isinstance(reader.source, Parted):
        return []
    return [Portion(number, reader, part) for part in reader.source.split()]


def _shared(portions: Sequence[Portion], parts: int) -> list[list[Portion]]:
    """The portions in order, in about `parts` tasks of about the same size."""
    total = sum(portion.part.weight for portion in portions)
    tasks: list[list[Portion]] = []
    done = 0
    for portion in portions:
        # What lies between two sources that are not neighbours is read elsewhere, and comes between them.
        apart = bool(tasks) and portion.number > tasks[-1][-1].number + 1
        if not tasks or apart or done * parts >= total * len(tasks):
            tasks.append([])
        tasks[-1].append(portion)
        done += portion.part.weight
    return tasks


def _not_alike(readers: Sequence[Reader], parts: Sequence[PartRead]) -> str | None:
    """Why parts of a source were not read as the whole would have been; None where they were."""
    found: dict[int, list[PortionRead]] = {}
    for part in parts:
        for portion in part.portions:
            found.setdefault(portion.number, []).append(portion)
    for number, mine in sorted(found.items()):
        reader = readers[number]
        if len(frozenset().union(*(portion.kinds for portion in mine), reader.clock.kinds)) > 1:
            return f"{reader.source.location}: stamps with and without a zone"
        told = any(portion.zero_means != reader.codes.zero_means for portion in mine)
        if told and any(portion.zero_seen for portion in mine):
            return f"{reader.source.location}: a quality code 0 whose meaning other codes tell"
    return None


def _pieced(stage: Stage) -> PiecedStage:
    if isinstance(stage, PiecedStage):
        return stage
    counts = {tag: stage.count(tag) for tag in stage.tags}
    return PiecedStage(
        stage.folder, {tag: [Piece(stage.path(tag), count)] if count else [] for tag, count in counts.items()}
    )
