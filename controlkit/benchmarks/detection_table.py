"""The records and the table of the suite `detection`, from the figures of its parts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from controlkit.benchmarks.detection_scores import RULES, SCALES, FalseTrips, clopper_pearson_lower
from controlkit.benchmarks.results import Record, machine, markdown_table

SUITE = "detection"
# Periods within which a fault counts as found soon.
SOON = 50
NONE = "-"
TAILS = {"shortfall": "one step", "ewma": "average", "cusum": "sum"}

Part = Mapping[str, Any]
# (plant, mode) -> one part for each controller
Grouped = dict[tuple[str, str], list[Part]]


def records_of(parts: Sequence[Part]) -> list[Record]:
    """One record for each figure of a plant in a mode, all its controllers together."""
    records = []
    for (plant, mode), found in _grouped(parts).items():
        seconds = round(sum(part["seconds"] for part in found), 1)
        commits = ", ".join(dict.fromkeys(part["commit"] for part in found))
        hashes = ",".join(dict.fromkeys(part["data_sha256"][:12] for part in found))

        def add(task: str, metric: str, value: float | None, episodes: int, about: tuple[Any, ...]) -> None:
            if value is None or not math.isfinite(value):
                return  # a bound that does not exist, or a delay that was not reached
            mode, count, seconds, commits, hashes = about
            records.append(
                Record(
                    SUITE, task, mode, metric, float(value), 0.0, count, episodes, seconds, commits, hashes, machine()
                )
            )  # fmt: skip

        about = (mode, len(found), seconds, commits, hashes)
        trips = _pooled([part["healthy"]["trips"] for part in found])
        add(f"{plant}, healthy", "false_trips_per_10000", trips.rate, trips.trajectories, about)
        add(f"{plant}, healthy", "false_trips_per_10000_upper", trips.upper, trips.trajectories, about)
        add(f"{plant}, healthy", "trust", _mean(part["healthy"]["trust"] for part in found), trips.trajectories, about)
        for name in TAILS:
            tails = [part["healthy"]["tails"][name] for part in found]
            add(
                f"{plant}, healthy",
                f"tail_{name}_per_10000",
                _mean(t["rate"] for t in tails),
                trips.trajectories,
                about,
            )
            add(
                f"{plant}, healthy",
                f"tail_{name}_per_10000_upper",
                max(t["upper"] for t in tails),
                trips.trajectories,
                about,
            )
        for label, row in _faults(found).items():
            task = f"{plant}, {label}"
            add(task, "found_within_50", row.soon / row.runs, row.runs, about)
            add(task, "found", row.found / row.runs, row.runs, about)
            for metric, share in (("delay_median", 0.5), ("delay_p90", 0.9)):
                add(task, metric, row.delay(share), row.runs, about)
        for deadband, before, after, frozen, _ in _streams(found):
            task = f"{plant}, deadband {deadband:g} sigma"
            for metric, figure in (("before", before), ("after", after), ("frozen", frozen)):
                add(task, f"false_trips_{metric}_per_10000", figure.rate, figure.trajectories, about)
                add(task, f"false_trips_{metric}_per_10000_upper", figure.upper, figure.trajectories, about)
    return records


def table_of(parts: Sequence[Part]) -> str:
    """Healthy trajectories, streams of a historian, and every fault: Markdown."""
    groups = _grouped(parts)
    healthy, tails, streams = [], [], []
    for (plant, mode), found in groups.items():
        trips = _pooled([part["healthy"]["trips"] for part in found])
        rules = Counter[str]()
        for part in found:
            rules.update(part["healthy"]["by_rule"])
        named = ", ".join(f"{RULES[rule]} {rules[rule]}" for rule in RULES if rules[rule])
        healthy.append(
            (
                f"{plant}, {mode}", str(len(found)), str(trips.trajectories), str(trips.steps), str(trips.trips),
                f"{trips.rate:.2f}", _bound(trips.upper), named or "none", str(sum(rules[name] for name in SCALES)),
                f"{_mean(part['healthy']['trust'] for part in found):.4f}",
            )
        )  # fmt: skip
        cells = []
        for name in TAILS:
            fits = [part["healthy"]["tails"][name] for part in found]
            cells += [
                f"{max(fit['highest'] for fit in fits):.2f}",
                f"{_mean(fit['rate'] for fit in fits):.2g} (≤ {max(fit['upper'] for fit in fits):.2g})",
            ]
        tails.append((f"{plant}, {mode}", *cells))
        for deadband, before, after, frozen, row in _streams(found):
            streams.append(
                (
                    plant, f"{deadband:g}", f"{row['repeat_share']:.2f}", f"{row['mean']:.2f} / {row['std']:.2f}",
                    f"{row['unscored_share']:.2f}", _rate(frozen), _rate(before), _rate(after),
                    f"{row['accepted']} of {row['trajectories']}",
                )
            )  # fmt: skip
    text = markdown_table(
        (
            "healthy", "controllers", "trajectories", "steps", "trips", "per 10 000", "at most", "by rule",
            "trust scaled down", "mean trust",
        ),
        healthy,
    )  # fmt: skip
    heads = [head for name in TAILS.values() for head in (f"{name}: highest / limit", "beyond, per 10 000")]
    text += "\n" + markdown_table(("tail of healthy steps", *heads), tails)
    if streams:
        text += "\n" + markdown_table(
            (
                "stream through a historian", "deadband, sigma", "repeats", "shortfall mean / std", "not scored",
                "frozen rule, per 10 000", "score, before", "score, after", "recalibrated",
            ),
            streams,
        )  # fmt: skip
    for plant in dict.fromkeys(plant for plant, _ in groups):
        text += _fault_table(plant, groups)
    commits = ", ".join(dict.fromkeys(part["commit"] for part in parts))
    return f"{text}\n{machine()}; commit {commits}.\n"


class _FaultRow:
    """One fault in one mode, all controllers together."""

    def __init__(self, rows: Sequence[Part]) -> None:
        self.runs, self.found, self.soon, self.by_score = (
            sum(row[name] for row in rows) for name in ("runs", "found", "found_soon", "found_by_score")
        )
        self.delays, self.rules = Counter[int](), Counter[str]()
        for row in rows:
            self.delays.update({int(delay): count for delay, count in row["delays"].items()})
            self.rules.update(row["rules"])

    def delay(self, share: float) -> float:
        """Periods until this share of all runs was found; infinite where it was not."""
        reached = 0
        for delay in sorted(self.delays):
            reached += self.delays[delay]
            if reached >= share * self.runs:
                return delay
        return math.inf

    def cells(self) -> tuple[str, ...]:
        """Runs, found soon and within the horizon, by the score, delays, first rules."""
        bound = clopper_pearson_lower(self.found, self.runs)
        median, late = (NONE if math.isinf(d := self.delay(share)) else f"{d:g}" for share in (0.5, 0.9))
        first = ", ".join(f"{RULES[rule]} {count / self.found:.0%}" for rule, count in self.rules.most_common(2))
        return (
            str(self.runs), f"{self.soon / self.runs:.2f}", f"{self.found / self.runs:.2f} (≥ {bound:.2f})",
            f"{self.by_score / self.runs:.2f}", f"{median} / {late}", first or NONE,
        )  # fmt: skip


def _fault_table(plant: str, groups: Grouped) -> str:
    text = ""
    for mode in dict.fromkeys(mode for name, mode in groups if name == plant):
        rows = [(label, *row.cells()) for label, row in _faults(groups[plant, mode]).items()]
        if rows:
            horizon = groups[plant, mode][0]["settings"]["horizon"]
            head = (
                f"{plant}, {mode}", "runs", f"found in {SOON}", f"in {horizon}", "by the score", "delay 50 % / 90 %",
                "first by",
            )  # fmt: skip
            text += "\n" + markdown_table(head, rows)
    return text


def _grouped(parts: Sequence[Part]) -> Grouped:
    groups: Grouped = {}
    for part in parts:
        groups.setdefault((part["plant"], part["mode"]), []).append(part)
    return groups


def _faults(parts: Sequence[Part]) -> dict[str, _FaultRow]:
    rows: dict[str, list[Part]] = {}
    for part in parts:
        for row in part["faults"]:
            rows.setdefault(row["label"], []).append(row)
    return {label: _FaultRow(found) for label, found in rows.items()}


def _streams(parts: Sequence[Part]) -> list[tuple[float, FalseTrips, FalseTrips, FalseTrips, Part]]:
    """Deadband, false trips of the score before and after a recalibration, of the frozen rule, means of the rest."""
    rows: dict[float, list[Part]] = {}
    for part in parts:
        for row in part["streams"]:
            rows.setdefault(row["deadband"], []).append(row)
    streams: list[tuple[float, FalseTrips, FalseTrips, FalseTrips, Part]] = []
    for deadband, found in rows.items():
        before, after, frozen = (_pooled([row[name] for row in found]) for name in ("before", "after", "frozen"))
        rest: dict[str, float] = {name: sum(row[name] for row in found) for name in ("accepted", "trajectories")}
        for name in ("repeat_share", "mean", "std", "unscored_share"):
            rest[name] = _mean(math.nan if row[name] is None else row[name] for row in found)
        streams.append((deadband, before, after, frozen, rest))
    return streams


def _pooled(counts: Sequence[Part]) -> FalseTrips:
    return FalseTrips.of(*(sum(c[name] for c in counts) for name in ("trips", "steps", "hit", "trajectories")))


def _rate(found: FalseTrips) -> str:
    return f"{found.rate:.2f} (≤ {_bound(found.upper)})"


def _bound(upper: float | None) -> str:
    return NONE if upper is None else f"{upper:.2f}"


def _mean(values: Any) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
