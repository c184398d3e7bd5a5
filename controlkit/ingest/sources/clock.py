"""The time stamps of one source as UTC, whatever their form; what cannot be told is named, never guessed.

The form is that of the whole column: dates in words (`stamp_text`), numbers since 1970 in the first of s, ms, us, ns
that puts the stamps before the year 2262, or a spreadsheet's days since 1899-12-30 where the numbers lie between 20000
and 80000 (the years 1954 to 2119). Stamps without a zone, spreadsheet days among them, are read in the plant's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError
from controlkit.ingest.sources import stamp_text
from controlkit.ingest.sources.fold import SECOND, UNKNOWN, FoldOrder
from controlkit.ingest.sources.stamp_columns import NUMBER, is_date, numbers_in, of_counts, of_dates, of_iso
from controlkit.ingest.sources.stamp_text import Stamps
from controlkit.ingest.sources.values import is_number, is_text, plain
from controlkit.ingest.timestamps import FORMS, NAIVE, NS, clock_times, epoch_unit_ns, to_utc
from controlkit.log_rules import LogRules

if TYPE_CHECKING:
    import pyarrow as pa

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

UNREADABLE = "time stamp cannot be read"
TWICE = "time shown twice when the clock is put back"
SKIPPED = "time skipped when the clock is put forward"
FUTURE = "time stamp in the future"
_EXCEL_DAYS, _EXCEL_ORIGIN = (20_000, 80_000), 25_569  # the origin is day 25569 before 1970
_DAY_MS, _MS = 86_400_000, 1_000_000
_FEW = 100
_LAST_NS = 9.2e18  # int64 nanoseconds end there


@dataclass(frozen=True)
class Read:
    """Time stamps of a batch.

    Attributes:
        utc_ns: (K,) meaningless where there is a problem.
        problems: reason -> (K,) which stamps; a stamp has one reason at most.
    """

    utc_ns: Int64
    problems: dict[str, Bool]


class Clock:
    """Reads the time stamps of one source.

    Args:
        rules: the plant file's.
        zone: IANA name of the plant's time zone.
        decimal: decimal mark of the source's text.
        now_ns: time of the ingest.
        where: the source, for messages.
        place: where a record of it lies.
        order: follows the rows of all sources, for hours that the clock shows twice.
        wide: names the columns of a source whose rows hold all tags.

    Attributes:
        starts_ns: the earliest of the first time stamps; 0 before the form has been found out.
        day_first: whether the source's stamps tell that 03/04 is the third of April; None where none does.
        warnings: sentences on what was found out and may be wrong.
    """

    def __init__(
        self,
        rules: LogRules,
        zone: str,
        decimal: str,
        now_ns: int,
        where: str,
        place: Callable[[int], str],
        order: FoldOrder,
        wide: Hashable = None,
    ) -> None:
        self._rules, self._zone, self._decimal, self._now = rules, zone, decimal, now_ns
        self._where, self._place = where, place
        self._unit_ns: int | None = None  # of numbers
        self._excel = self._numeric = False
        self.starts_ns = 0
        self.day_first: bool | None = None
        self._day_first: bool | None = None  # or as other sources tell
        self._doubtful: pa.Array | None = None  # some stamps of a source that does not tell day from month
        self._kinds: dict[bool, int] = {}  # naive or not -> the first such record
        self._order, self._wide, self._began = order, wide, False
        self.warnings: list[str] = []

    def settle(self, column: pa.Array, row: Int64, rest: Callable[[], Iterator[pa.Array]]) -> None:
        """Finds the form out.

        Args:
            column: the first cells.
            row: (K,) numbers of their records.
            rest: the whole column, in pieces; asked for only where the first cells leave a doubt.

        Raises:
            DataError: none of the stamps can be read, or some have the day first and others the month.
        """
        column = plain(column)
        if is_number(column.type) or is_text(column.type):
            self._settle_numbers(column)
        if is_text(column.type) and not self._numeric:
            self._settle_order(column, rest)
        elif not self._numeric and not is_text(column.type) and not is_date(column.type):
            raise DataError(f"the time stamps are of kind {column.type}", where=self._where, cure=FORMS)
        if self._doubtful is not None:
            return
        if not self._stamps(column).readable.any():
            text = str(column[0].as_py() if column[0].is_valid else "")
            what = f"the time stamp '{text}' cannot be read" if text.strip() else "a time stamp is missing"
            raise DataError(what, where=self._place(int(row[0])), cure=FORMS)
        self.starts_ns = self._starts(column)

    def settle_order(self, others: set[bool]) -> None:
        """Settles whether the day or the month comes first where the source itself does not tell.

        Args:
            others: what the other sources tell.

        Raises:
            DataError: they do not tell either, nor does the plant file.
        """
        if self._doubtful is None:
            return
        told = others if self._rules.day_first is None else {self._rules.day_first}
        if len(told) != 1:
            raise DataError(
                f"the time stamp '{self._doubtful[0]}' may have the day or the month first, and "
                + ("no other tells" if not told else "other files tell either"),
                where=self._where,
                cure="Set 'log.day_first: true' or 'false' in the plant file, or export ISO 8601 such as "
                "2024-05-31 10:00:00.",
            )
        (self._day_first,) = told
        self.starts_ns = self._starts(self._doubtful)
        self._doubtful = None

    def read(self, column: pa.Array, row: Int64, tag: Int64 | None = None) -> Read:
        """The time stamps (K,) of a batch; batches come in the order of the source.

        Args:
            column: their cells.
            row: (K,) numbers of their records.
            tag: (K,) which of the rows belong together where a time that is shown twice is told by their order.

        Raises:
            DataError: some of the source's stamps have a zone and others have not.
        """
        stamps = self._stamps(plain(column))
        naive = stamps.offset_min == NAIVE
        self._one_kind(naive, stamps.readable, row)
        problems = {UNREADABLE: ~stamps.readable}
        utc = stamps.local_ns
        if stamps.offset_min.any():
            utc = utc - np.where(naive, 0, stamps.offset_min) * (60 * NS)
        naive &= stamps.readable
        if naive.any() and self._zone != "UTC":
            utc[naive] = self._from_clock(stamps.local_ns[naive], np.flatnonzero(naive), tag, problems)
        wrong = np.logical_or.reduce(list(problems.values()))
        ahead = utc > self._now + round(self._rules.future_s * NS)
        problems[FUTURE] = ahead & ~wrong
        return Read(utc, {reason: which for reason, which in problems.items() if which.any()})

    def _starts(self, column: pa.Array) -> int:
        """The earliest of the first time stamps (K,), of which at least one is readable, in UTC."""
        stamps = self._stamps(column)
        local, offset = stamps.local_ns[stamps.readable], stamps.offset_min[stamps.readable]
        return int(to_utc(local, offset, self._zone)[0].min())

    @property
    def kinds(self) -> frozenset[bool]:
        """Whether the stamps that were read were without a zone: True, False, or both, which `read` refuses."""
        return frozenset(self._kinds)

    # The form --------------------------------------------------------------------------------------------------------

    def _settle_numbers(self, column: pa.Array) -> None:
        if is_text(column.type):
            import pyarrow.compute as pc

            given = pc.filter(self._point(column), pc.not_equal(pc.fill_null(self._point(column), ""), ""))
            share = pc.mean(pc.match_substring_regex(given, NUMBER)).as_py() if len(given) else 0.0
            if share <= 0.5:
                return
        self._numeric = True
        numbers, ok = numbers_in(self._point(column) if is_text(column.type) else column)
        numbers = np.abs(numbers[ok])
        if not numbers.size:
            return
        # A stray must not decide for all.
        low, high = _EXCEL_DAYS
        outside = int(((numbers < low) | (numbers > high)).sum())
        if outside < numbers.size / 2 and outside <= max(1, numbers.size // 10):
            self._excel = True
            self.warnings.append(
                f"{self._where}: the time stamps are numbers like {numbers[0]:.10g} and read as a spreadsheet's days "
                f"since 1899-12-30 on the clocks of {self._zone}; export dates in words if that is wrong."
            )
            return
        usual = float(np.median(numbers))
        self._unit_ns = epoch_unit_ns(usual)
        if self._unit_ns is None:
            raise DataError(
                f"the time stamp {usual:.10g} lies beyond the year 2261 in any unit", where=self._where, cure=FORMS
            )

    def _settle_order(self, column: pa.Array, rest: Callable[[], Iterator[pa.Array]]) -> None:
        found, day, month = stamp_text.order_seen(column)
        if not found:
            return
        if day == month:
            for piece in rest():
                _, more_day, more_month = stamp_text.order_seen(plain(piece))
                day, month = day or more_day, month or more_month
                if day != month:
                    break
        if day and month:
            raise DataError(
                "some time stamps have the day first and others the month", where=self._where,
                cure="Export ISO 8601 such as 2024-05-31 10:00:00.",
            )  # fmt: skip
        if day == month:
            import pyarrow as pa

            readable = np.flatnonzero(stamp_text.parsed(column, day_first=True).readable)[:_FEW]
            self._doubtful = column.take(pa.array(readable))  # few, as there may be thousands of files
        else:
            self.day_first = self._day_first = day

    def _one_kind(self, naive: Bool, readable: Bool, row: Int64) -> None:
        for kind in (True, False):
            mine = np.flatnonzero((naive == kind) & readable)
            if mine.size:
                self._kinds.setdefault(kind, int(row[mine[0]]))
        if len(self._kinds) == 2:
            raise DataError(
                "some time stamps have a time zone and others have not: the first without one is in "
                f"{self._place(self._kinds[True])}, the first with one in {self._place(self._kinds[False])}",
                where=self._where,
                cure="Export all of them with a zone, or none.",
            )

    # Reading ---------------------------------------------------------------------------------------------------------

    def _stamps(self, column: pa.Array) -> Stamps:
        if is_number(column.type):
            return self._of_numbers(column)
        if not is_text(column.type):
            return of_dates(column)
        clean = None if self._numeric else of_iso(column)
        if clean is not None:
            return clean
        # In a long log a stamp stands once for every tag.
        coded = column.fill_null("").dictionary_encode()
        index = coded.indices.to_numpy()
        texts = coded.dictionary
        found = self._of_numbers(self._point(texts)) if self._numeric else stamp_text.parsed(texts, self._day_first)
        return Stamps(found.local_ns[index], found.offset_min[index], found.readable[index])

    def _point(self, column: pa.Array) -> pa.Array:
        """Text without blanks around it, with a decimal point."""
        import pyarrow.compute as pc

        text = pc.utf8_trim_whitespace(column)
        return text if self._decimal == "." else pc.replace_substring(text, self._decimal, ".")

    def _of_numbers(self, column: pa.Array) -> Stamps:
        import pyarrow as pa

        unit = self._unit_ns or NS
        if not self._excel and (pa.types.is_integer(column.type) or is_text(column.type)):
            try:
                return of_counts(column.cast(pa.int64()), None, unit)
            except pa.ArrowInvalid:
                pass
        numbers, ok = numbers_in(column)
        if self._excel:
            ok &= (numbers >= _EXCEL_DAYS[0]) & (numbers <= _EXCEL_DAYS[1])
            local = np.rint((np.where(ok, numbers, 0) - _EXCEL_ORIGIN) * _DAY_MS).astype(np.int64) * _MS
            return Stamps(local, np.full(len(local), NAIVE, dtype=np.int64), ok)
        return of_counts(column, ok & (np.abs(numbers) < _LAST_NS), unit)

    # The clock on the wall -------------------------------------------------------------------------------------------

    def _from_clock(self, local_ns: Int64, rows: Int64, tag: Int64 | None, problems: dict[str, Bool]) -> Int64:
        """UTC of what the clock showed (N,) in some rows (N,) of a batch; adds to its problems."""
        times = clock_times(local_ns, self._zone)
        utc = times.utc_ns
        rules = self._rules
        for reason, which, rule in ((TWICE, times.twice, rules.on_fold), (SKIPPED, times.skipped, rules.on_skip)):
            if rule == "reject" and which.any():
                problems[reason] = np.zeros(len(problems[UNREADABLE]), dtype=np.bool_)
                problems[reason][rows[which]] = True
        if rules.on_fold == "later":
            return utc + times.later_ns
        if rules.on_fold == "by_order":
            if not self._began:
                self._order.begin(self._wide)
                self._began = True
            whose = None if tag is None else tag[rows]
            time = self._order.times(local_ns, np.where(times.twice, times.change, 0), whose)
            if (untold := times.twice & (time == UNKNOWN)).any():
                problems[TWICE] = np.zeros(len(problems[UNREADABLE]), dtype=np.bool_)
                problems[TWICE][rows[untold]] = True
            utc = utc + np.where(times.twice & (time == SECOND), times.later_ns, 0)
        return utc
