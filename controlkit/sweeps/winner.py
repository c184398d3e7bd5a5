"""Which setting wins: all finished runs in one offline evaluation, whose intervals allow for their number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlkit.evaluation.verdict import EXIT_CODES
from controlkit.sweeps.ledger import RunRecord
from controlkit.sweeps.settings import label

RULE = (
    "Every finished run is a candidate of one report, so that each interval is as wide as the best of that many asks "
    "for (Bonferroni). A setting stands where its worst seed's verdict stands (GO TO SHADOW, INCONCLUSIVE, NO-GO, "
    "NO VERDICT, in this order); settings of one verdict are ordered by the low end of the gain's interval, averaged "
    "over the seeds. Only a setting all of whose seeds were trained and judged can win. Its run of the best verdict, "
    "then of the highest low end, is the winning run."
)


@dataclass(frozen=True)
class Standing:
    """A setting in the final table.

    Attributes:
        setting, values: its number, and what it changes.
        verdict: the worst of its seeds'.
        gain, stderr: mean over the seeds of the gain over the operator, and its standard error; `None` for one seed.
        low: mean over the seeds of the low ends.
        runs: that were judged, best first.
        missing: runs that did not finish.
    """

    setting: int
    values: Mapping[str, Any]
    verdict: str
    gain: float | None
    stderr: float | None
    low: float | None
    runs: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def label(self) -> str:
        """The setting in words."""
        return label(self.values)


def rank(records: Sequence[RunRecord], candidates: Sequence[Mapping[str, Any]]) -> list[Standing]:
    """The settings by the rule, those with a missing run last.

    Args:
        records: of all runs.
        candidates: of the report on the finished ones, by the runs' names.
    """
    judged = {str(candidate["name"]): candidate for candidate in candidates}
    settings: dict[int, list[RunRecord]] = {}
    for record in records:
        settings.setdefault(record.setting, []).append(record)
    standings = [_standing(mine, judged) for mine in settings.values()]
    return sorted(standings, key=lambda s: (bool(s.missing), _order(s.verdict), -_number(s.low), s.setting))


def winner_of(standings: Sequence[Standing]) -> Standing | None:
    """The first, if all its runs finished."""
    return standings[0] if standings and not standings[0].missing else None


def _standing(records: Sequence[RunRecord], judged: Mapping[str, Mapping[str, Any]]) -> Standing:
    mine = [judged[record.name] for record in records if record.name in judged]
    mine.sort(key=lambda found: (_order(found["verdict"]), -_number(found["gain"]["low"]), str(found["name"])))
    gains, lows = ([_number(found["gain"][name]) for found in mine] for name in ("value", "low"))
    spread = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 and _finite(gains) else None
    return Standing(
        setting=records[0].setting,
        values=records[0].values,
        verdict=max((str(found["verdict"]) for found in mine), key=_order, default=""),
        gain=_mean(gains),
        stderr=spread,
        low=_mean(lows),
        runs=tuple(str(found["name"]) for found in mine),
        missing=tuple(record.name for record in records if record.name not in judged),
    )


def _order(verdict: str) -> int:
    order = list(EXIT_CODES)
    return order.index(verdict) if verdict in order else len(order)


def _number(value: float | None) -> float:
    """An end that is no number (`None` in a report) is as bad as can be."""
    return -math.inf if value is None else float(value)


def _finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values and _finite(values) else None
