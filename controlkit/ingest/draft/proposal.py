"""Puts everything that was found in a log together: one entry for each tag of the plant file, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlkit.align import NS
from controlkit.errors import DataError
from controlkit.ingest.draft.entries import Entry, delays_of, entry_of, stated_unit
from controlkit.ingest.draft.period import Period, choose_period
from controlkit.ingest.draft.relations import Relations, relate, rows_for
from controlkit.ingest.draft.roles import Part, parts_of
from controlkit.ingest.draft.sample import TagSample
from controlkit.ingest.draft.signals import Signal, breaks_of, grid_of, native_period_s, signal_of
from controlkit.ingest.draft.tag_names import NameHint, hint_of
from controlkit.spec import FRAME_ROLES, RESERVED, UNITS

# Tags whose relations are looked for; of more the ones that names say something of come first.
MOST_TAGS = 120


@dataclass(frozen=True)
class Proposal:
    """A plant as far as a log shows it.

    Attributes:
        period: the sample period.
        entries: of the tags, in the order of the log.
        parts: their roles by name in the log.
        relations: what was seen between them, on the period's grid.
        objective: the term in YAML, and why.
        max_gap_s: where it must be longer than the default.
        setpoint_of: state -> its setpoint, both by name in the log.
    """

    period: Period
    entries: tuple[Entry, ...]
    parts: Mapping[str, Part]
    relations: Relations
    objective: tuple[str, str]
    max_gap_s: float | None


def propose(tags: Mapping[str, TagSample]) -> Proposal:
    """What a plant file may say about these tags (by name in the log).

    Raises:
        DataError: fewer than two tags move.
    """
    breaks = breaks_of(tags)
    signals = {name: signal_of(tag, breaks) for name, tag in tags.items()}
    hints = {name: hint_of(name) for name in tags}
    moving = _worth_comparing(signals, hints)
    if len(moving) < 2:
        empty = Relations(moving, 1.0, np.zeros((2, len(moving), len(moving))), 1.0)
        parts_of(signals, hints, empty)  # raises
    native = native_period_s({name: signals[name] for name in moving})
    grid = grid_of(signals, moving, breaks, native, rows_for(len(moving)))
    relations = relate(grid)
    parts = parts_of(signals, hints, relations)
    for _ in range(2):  # roles decide the period, and a slower period may show more of a slow plant
        period = choose_period(grid, signals, _actions(parts), _shortest_delay_s(relations, parts))
        if period.seconds == relations.period_s:
            break
        relations = relate(grid_of(signals, moving, breaks, period.seconds, rows_for(len(moving))))
        parts = parts_of(signals, hints, relations)
    names = _plant_names(tags)
    parts = {name: _by_unit(part, tags[name]) for name, part in parts.items()}
    _require(parts, tags)
    entries = tuple(
        entry_of(name, names, tags[name], signals[name], hints[name], parts, relations, period.seconds) for name in tags
    )
    measured = [name for name, part in parts.items() if part.role in FRAME_ROLES]
    return Proposal(
        period, entries, parts, relations, _objective(parts, hints, signals, relations, names),
        _max_gap_s([tags[name] for name in measured], breaks, period.seconds),
    )  # fmt: skip


def _worth_comparing(signals: Mapping[str, Signal], hints: Mapping[str, NameHint]) -> tuple[str, ...]:
    usable = [name for name, signal in signals.items() if signal.usable]
    usable.sort(key=lambda name: (hints[name].kind in (None, "alarm"), -signals[name].levels))
    chosen = set(usable[:MOST_TAGS])
    return tuple(name for name in signals if name in chosen)


def _actions(parts: Mapping[str, Part]) -> frozenset[str]:
    return frozenset(name for name, part in parts.items() if part.role == "action")


def _shortest_delay_s(relations: Relations, parts: Mapping[str, Part]) -> float | None:
    every = [d for action in _actions(parts) for d in delays_of(relations, parts, action).values() if d > 1]
    return min(every) * relations.period_s if every else None


def _plant_names(tags: Mapping[str, TagSample]) -> dict[str, str]:
    """Names that a plant file may use, each once."""
    given: dict[str, str] = {}
    for tag in tags:
        plain = re.sub(r"[^A-Za-z0-9_.]+", "_", re.split(r"[\\|]", tag)[-1]).strip("_.")
        plain = plain if plain[:1].isalpha() else f"tag_{plain}".rstrip("_")
        plain = f"{plain}_tag" if plain in RESERVED else plain
        name, i = plain, 2
        while name in given.values():
            name, i = f"{plain}_{i}", i + 1
        given[tag] = name
    return given


def _by_unit(part: Part, sample: TagSample) -> Part:
    """Leaves a tag out whose unit ingest would refuse, until somebody says what it is."""
    stated = stated_unit(sample)
    if stated is None or stated in UNITS or not sample.compared or part.role == "ignore":
        return part
    return Part("ignore", f"TODO {part.role}, once its unit '{stated}' is one of a plant file's; {part.why}")


def _require(parts: Mapping[str, Part], tags: Mapping[str, TagSample]) -> None:
    for role in ("state", "action"):
        if not any(part.role == role for part in parts.values()):
            units = sorted({unit for tag in tags.values() if (unit := stated_unit(tag)) and unit not in UNITS})
            raise DataError(
                f"no {role} is left: the log's units {', '.join(units)} are none of a plant file's",
                cure="Rename the units in the log, or leave the unit column out; docs/plant-file.md lists them.",
            )


def _objective(
    parts: Mapping[str, Part],
    hints: Mapping[str, NameHint],
    signals: Mapping[str, Signal],
    relations: Relations,
    names: Mapping[str, str],
) -> tuple[str, str]:
    states = [name for name, part in parts.items() if part.role == "state"]
    setpoints = {hints[n].loop: n for n, p in parts.items() if hints[n].kind == "setpoint" and p.role in FRAME_ROLES}
    for state in states:
        setpoint = setpoints.get(hints[state].loop) if hints[state].loop else None
        if setpoint is not None:
            term = f"{{kind: track, tag: {names[state]}, setpoint: {names[setpoint]}}}"
            return term, "tracks the setpoint of its loop; add what else is wanted"
    out, index = relations.strength(), {name: i for i, name in enumerate(relations.names)}

    def moved(state: str) -> float:
        causes = [out[index[a], index[state]] for a in _actions(parts) if a in index]
        return max(causes, default=0.0) if state in index else 0.0

    state = max(states, key=moved)
    median = float(f"{signals[state].quantile(0.5)[0]:.4g}")
    term = f"{{kind: track, tag: {names[state]}, setpoint: {median:.10g}}}"
    return term, "TODO a place holder (the median of the log): write what is wanted of the controller"


def _max_gap_s(
    tags: Sequence[TagSample], breaks: np.ndarray[tuple[int, ...], np.dtype[np.int64]], period_s: float
) -> float | None:
    """A longer gap than three periods where the measured tags together are often silent for longer."""
    stamps = np.unique(np.concatenate([tag.time_ns for tag in tags]))
    step_s = np.diff(stamps) / NS
    inside = step_s[~np.isin(stamps[:-1], breaks[:, 0])]
    usual = float(np.quantile(inside, 0.999)) if len(inside) else 0.0
    return float(f"{2 * usual:.2g}") if usual > 2.9 * period_s else None
