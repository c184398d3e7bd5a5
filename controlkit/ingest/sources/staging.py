"""The records of one source as samples on disk: stamps in UTC, values in the plant file's units, quality as `Code`.

Every cell that should hold a value ends in exactly one place: staged, in quarantine, or ignored with its tag. Where a
command or a mode went to quarantine and its stamp is known, a mark of `Code.UNREADABLE` is staged besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from controlkit.ingest import columns as header
from controlkit.ingest.quarantine import LISTED, Quarantine
from controlkit.ingest.sample_rules import HELD_ROLES, NO_MEASUREMENT
from controlkit.ingest.sources.clock import Clock
from controlkit.ingest.sources.codes import Codes
from controlkit.ingest.sources.fold import FoldOrder
from controlkit.ingest.sources.opened import HEAD, Batch, Opened, Rejected
from controlkit.ingest.sources.presets import preset_of, with_flags
from controlkit.ingest.sources.records import Tally, ahead, combined, index_of, samples, texts_of
from controlkit.ingest.sources.values import NO_VALUE, plain, values
from controlkit.ingest.stage import Code, Stage
from controlkit.ingest.units import convert
from controlkit.spec import PlantSpec

if TYPE_CHECKING:
    import pyarrow as pa

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NAMELESS, HEADER_AGAIN = "no tag name", "the header again"
_IGNORE, _NAMELESS, _UNKNOWN = -1, -2, -3  # among the numbers of tags


class Reader:
    """Reads one source.

    Args:
        spec: the plant.
        source: where the records come from.
        now_ns: time of the ingest.
        order: follows the rows of all sources.

    Attributes:
        source: as given.
        clock: reads its time stamps.
        codes: reads its quality codes.
        tally: what has been read of it.

    Raises:
        DataError: the form of its time stamps cannot be told.
    """

    def __init__(self, spec: PlantSpec, source: Opened, now_ns: int, order: FoldOrder) -> None:
        self.source, self.tally = source, Tally()
        self._spec, self._columns, self._rules = spec, source.columns, spec.log
        self._names = header.log_names(spec)
        self._used = [name for name, tag in spec.tags.items() if tag.role != "ignore"]
        self._number = {name: i for i, name in enumerate(self._used)}
        self._held = np.array([spec.tags[name].role in HELD_ROLES for name in self._used], dtype=np.bool_)
        self._decimal = getattr(source, "decimal", self._rules.decimal or ".")
        preset = preset_of(self._rules)
        self._states = NO_VALUE | (preset.states if preset is not None else frozenset())
        self.codes = Codes(source.location, preset.code if preset is not None else None)
        wide = tuple(source.columns.tags) if source.columns.tags is not None else None
        self.clock = Clock(
            self._rules, spec.time_zone, self._decimal, now_ns, source.location, source.place, order, wide
        )
        self._look()

    def stage(
        self,
        number: int,
        stage: Stage,
        quarantine: Quarantine,
        advance: Callable[[int], None],
        batches: Iterator[Batch] | None = None,
    ) -> None:
        """Reads all records.

        Args:
            number: of the source.
            stage: takes its samples; its tags are all that are not ignored, in the plant file's order.
            quarantine: takes what cannot be used.
            advance: is told how many records have been read since.
            batches: some of the source's, where not all are to be read.

        Raises:
            DataError: an unknown tag, another unit than the plant file's, or what `Clock` and `Codes` refuse.
        """
        self._source_number, self._stage, self._quarantine = number, stage, quarantine
        for batch in ahead(self.source.batches() if batches is None else batches):
            if len(batch.row):
                if self._columns.form == "long":
                    self._long(batch)
                else:
                    self._wide(batch)
            self._reject(batch.rejected)
            advance(len(batch.row))

    # Before the first record -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Finds out the form of the stamps and of the quality codes from the first records."""
        head = next(iter(self.source.batches(HEAD)), None)
        if head is None or not len(head.row):
            return
        time = head.records.column(self._columns.timestamp)
        self.clock.settle(time, head.row, lambda: self._pieces(self._columns.timestamp))
        if self._columns.quality is not None:
            self.codes.look(plain(head.records.column(self._columns.quality)).unique().cast("string").to_pylist())
            if self.codes.doubtful:
                for piece in self._pieces(self._columns.quality):
                    self.codes.look(plain(piece).unique().cast("string").to_pylist())
                    if not self.codes.doubtful:
                        break

    def _pieces(self, column: int) -> Iterator[pa.Array]:
        return (batch.records.column(column) for batch in self.source.batches())

    # Records ---------------------------------------------------------------------------------------------------------

    def _long(self, batch: Batch) -> None:
        columns, records = self._columns, batch.records
        assert columns.tag is not None
        assert columns.value is not None
        self.tally.rows += len(batch.row)
        self.tally.samples += len(batch.row)
        tag = self._tags(records.column(columns.tag))
        self.tally.ignored += int((tag == _IGNORE).sum())
        time = self.clock.read(records.column(columns.timestamp), batch.row, tag)
        wrong = dict(time.problems)
        unusable = np.zeros(len(tag), dtype=np.bool_)
        for which in wrong.values():
            unusable |= which
        if (nameless := (tag == _NAMELESS) & ~unusable).any():
            wrong[NAMELESS] = nameless
            unusable |= nameless
        self._known(batch, tag, unusable)
        cells = values(
            records.column(columns.value), self._decimal, grouped=self._rules.decimal is not None, states=self._states
        )
        code = self._worth(records)
        if cells.unreadable is not None:
            wrong[NO_MEASUREMENT] = cells.unreadable & ~unusable & (code != Code.BAD)
        self._set_aside(batch, wrong, tag)
        value = self._converted(cells.value, tag)
        keep = tag >= 0
        for which in wrong.values():
            keep &= ~which
        self._check_units(batch, tag, keep)
        code = combined(cells, code)
        if NO_MEASUREMENT in wrong:
            marks = wrong[NO_MEASUREMENT] & (tag >= 0) & self._held[tag]
            code[marks], keep = Code.UNREADABLE, keep | marks
        sample = samples(time.utc_ns, value, code, batch.row, self._source_number)
        if not keep.all():
            sample, tag = sample[keep], tag[keep]
        self.tally.span(sample["time_ns"])
        self._stage.append(tag.astype(np.int16), sample)

    def _wide(self, batch: Batch) -> None:
        columns, records = self._columns, batch.records
        assert columns.tags is not None
        self.tally.rows += len(batch.row)
        self.tally.samples += len(batch.row) * len(columns.tags)
        self.tally.seen.update(columns.tags)
        time = self.clock.read(records.column(columns.timestamp), batch.row)
        keep = np.ones(len(batch.row), dtype=np.bool_)
        for reason, which in self._header_again(batch, time.problems).items():
            keep &= ~which
            for name in columns.tags:
                if name in self._number:
                    self._quarantined(batch, reason, which, columns.timestamp, name)
        code = self._worth(records)
        self.tally.span(time.utc_ns[keep])
        for name, i in columns.tags.items():
            if name not in self._number:
                self.tally.ignored += len(batch.row)
                continue
            cells = values(
                records.column(i), self._decimal, grouped=self._rules.decimal is not None, states=self._states
            )
            good, codes = keep, combined(cells, code)
            if cells.unreadable is not None and (wrong := cells.unreadable & keep & (code != Code.BAD)).any():
                self._quarantined(batch, NO_MEASUREMENT, wrong, i, name)
                codes[wrong] = Code.UNREADABLE
                good = keep if self._held[self._number[name]] else keep & ~wrong
            value = self._in_unit(cells.value, name)
            sample = samples(time.utc_ns, value, codes, batch.row, self._source_number)
            self._stage.append_tag(name, sample if good.all() else sample[good])

    # Columns ---------------------------------------------------------------------------------------------------------

    def _tags(self, column: pa.Array) -> Int64:
        """Number of each record's tag (K,), or why it has none."""
        import pyarrow as pa

        coded = plain(column).cast(pa.string()).dictionary_encode()
        numbers = []
        for text in coded.dictionary.to_pylist():
            name = self._names.get(text.strip())
            if name is None:
                numbers.append(_UNKNOWN if text.strip() else _NAMELESS)
            else:
                self.tally.seen.add(name)
                numbers.append(self._number.get(name, _IGNORE))
        numbers.append(_NAMELESS)  # where the index is null
        index = index_of(coded, len(numbers) - 1)
        return np.array(numbers, dtype=np.int64)[index]

    def _known(self, batch: Batch, tag: Int64, unusable: Bool) -> None:
        """Refuses records of tags that the plant file lacks, if they are records at all."""
        strange = np.flatnonzero((tag == _UNKNOWN) & ~unusable)
        if strange.size:
            assert self._columns.tag is not None
            column = batch.records.column(self._columns.tag)
            found: dict[str, int] = {}
            for i in strange:
                found.setdefault(str(column[int(i)].as_py()).strip(), int(batch.row[i]))
            raise header.unknown_tags(list(found), self._names, self.source.place(next(iter(found.values()))))

    def _worth(self, records: pa.RecordBatch) -> npt.NDArray[np.uint8]:
        """What the quality of each record says (K,); all good where there is none."""
        import pyarrow as pa

        columns = self._columns
        quality = records.column(columns.quality) if columns.quality is not None else None
        if columns.flags:
            flags = [(plain(records.column(i)), word) for i, word in columns.flags]
            quality = with_flags(plain(quality) if quality is not None else None, flags)
        if quality is None:
            return np.zeros(records.num_rows, dtype=np.uint8)
        coded = plain(quality).cast(pa.string()).dictionary_encode()
        texts = coded.dictionary.to_pylist()
        self.codes.look(texts)
        worth = [self.codes.worth(text) for text in texts] + [Code.BAD]
        index = index_of(coded, len(texts))
        return np.array(worth, dtype=np.uint8)[index]

    def _converted(self, value: npt.NDArray[np.float64], tag: Int64) -> npt.NDArray[np.float64]:
        """Values of a long log in the plant file's units."""
        others = [name for name in self._used if self._spec.tags[name].log_unit is not None]
        if others:
            value = value.copy()
        for name in others:
            mine = tag == self._number[name]
            value[mine] = self._in_unit(value[mine], name)
        return value

    def _in_unit(self, value: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return convert(value, header.unit_in_log(self._spec, name), self._spec.tags[name].unit)

    def _check_units(self, batch: Batch, tag: Int64, keep: Bool) -> None:
        """Refuses a record that states another unit than the plant file."""
        import pyarrow as pa

        if self._columns.unit is None:
            return
        coded = plain(batch.records.column(self._columns.unit)).cast(pa.string()).dictionary_encode()
        texts = [*coded.dictionary.to_pylist(), ""]
        index = index_of(coded, len(texts) - 1)
        pairs, first = np.unique(np.where(keep, tag * len(texts) + index, -1), return_index=True)
        for i in np.sort(first[pairs >= 0]):
            name, text = self._used[int(tag[i])], texts[int(index[i])]
            if text.strip() and header.is_other_unit(self._spec, name, text):
                raise header.wrong_unit(self._spec, name, text, self.source.place(int(batch.row[i])))

    # Quarantine ------------------------------------------------------------------------------------------------------

    def _set_aside(self, batch: Batch, wrong: dict[str, Bool], tag: Int64) -> None:
        """Puts records of a long log into quarantine; those of ignored tags are not wanted there."""
        assert self._columns.tag is not None
        for reason, which in self._header_again(batch, wrong).items():
            of = self._columns.timestamp
            if reason in (NAMELESS, NO_MEASUREMENT):
                of = self._columns.tag if reason == NAMELESS else self._columns.value or 0
            self._quarantined(batch, reason, which & (tag != _IGNORE), of, tag=tag)

    def _header_again(self, batch: Batch, wrong: dict[str, Bool]) -> dict[str, Bool]:
        """Tells unreadable records that repeat the header, as in files that were put together, from the others."""
        from controlkit.ingest.sources.clock import UNREADABLE

        unread = wrong.get(UNREADABLE)
        if unread is None:
            return wrong
        at, found = self._columns.timestamp, np.zeros(len(unread), dtype=np.bool_)
        rows = np.flatnonzero(unread)[:LISTED]
        shown = texts_of(batch.records.column(at), rows)
        found[rows] = [text.strip() == self._columns.names[at] for text in shown]
        split = {**wrong, UNREADABLE: unread & ~found, HEADER_AGAIN: found}
        return {reason: which for reason, which in split.items() if which.any()}

    def _quarantined(
        self, batch: Batch, reason: str, which: Bool, column: int, name: str = "", tag: Int64 | None = None
    ) -> None:
        at = np.flatnonzero(which)
        if tag is None:
            names = [name] * len(at)
        else:
            names = [self._used[i] if i >= 0 else "" for i in tag[at].tolist()]
        shown = texts_of(batch.records.column(column), at[:LISTED])
        self._quarantine.add(self._source_number, reason, batch.row[at], shown, names)

    def _reject(self, lines: Sequence[Rejected]) -> None:
        """Puts what the source could not take apart into quarantine."""
        for rejected in lines:
            self.tally.rows += 1
            names = [""]
            if self._columns.tags is not None:
                names = [name for name in self._columns.tags if name in self._number]
                self.tally.samples += len(self._columns.tags)
                self.tally.ignored += len(self._columns.tags) - len(names)
            else:
                self.tally.samples += 1
            rows, texts = [rejected.row] * len(names), [rejected.text] * len(names)
            self._quarantine.add(self._source_number, rejected.reason, rows, texts, names)
