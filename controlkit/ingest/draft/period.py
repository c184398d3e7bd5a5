"""The sample period to propose: the slowest that loses little of what the tags do, and no slower than delays need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from controlkit.ingest.draft.signals import PERIODS, Grid, Signal

# Share of a tag's variance that may change within one period.
LOSS = 0.03
# Fewer steps train nothing: a short log keeps its own period.
FEWEST_STEPS = 5_000
# A little slower is not worth commands that change within a period.
WORTH = 5
# A delay that is seen is resolved into at least so many periods.
PER_DELAY = 3


@dataclass(frozen=True)
class Period:
    """A sample period in seconds, and why."""

    seconds: float
    why: str


def choose_period(
    grid: Grid, signals: Mapping[str, Signal], actions: frozenset[str], shortest_delay_s: float | None
) -> Period:
    """The period for tags on a grid of the log's own period.

    Args:
        grid: the tags that matter (those that move).
        signals: their figures.
        actions: tags that are commanded, as far as known: of them noise counts, too, as it is what moved the plant.
        shortest_delay_s: the shortest delay from an action to a state that is longer than one sample.
    """
    native = grid.period_s
    slower = [period for period in PERIODS if period >= WORTH * native * 0.99 and _multiple(period, native)]
    chosen, why = native, "the interval at which the log is sampled"
    if all(signals[name].irregular for name in grid.names):
        why = "the tags' shortest usual interval, rounded: they are stored when they change"
    for period in slower:
        if grid.rows * native / period < FEWEST_STEPS:
            break
        if shortest_delay_s is not None and shortest_delay_s / period < PER_DELAY:
            break
        lost = [(_loss(grid, i, round(period / native), name in actions), name) for i, name in enumerate(grid.names)]
        worst, name = max(lost, default=(0.0, ""))
        if worst > LOSS:
            why += f"; at {period:g} s {100 * worst:.0f} % of the variance of '{name}' lies within one period"
            break
        chosen = period
        why = f"the slowest that loses little: less than {100 * LOSS:.0f} % of any tag's variance lies within it"
    return Period(chosen, f"{why} (the log: every {native:g} s)" if chosen != native else why)


def _loss(grid: Grid, column: int, steps: int, is_action: bool) -> float:
    """Share of a tag's variance that a hold over so many steps loses on average; measurement noise does not count.

    From the structure function D(k) = mean (x[t + k] - x[t])^2, whose value towards lag 0 is twice the noise.
    """
    values = [stretch[:, column] for stretch in grid.stretches]
    variance = float(np.nanvar(np.concatenate(values)))
    if variance == 0:
        return 0.0
    one, two, many = (_structure(values, k) for k in (1, 2, steps))
    noise = 0.0 if is_action else max(0.0, min(one, 2 * one - two))
    return max(0.0, many - noise) / (2 * variance)


def _structure(values: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]], lag: int) -> float:
    squares = [np.square(value[lag:] - value[:-lag]) for value in values if len(value) > lag]
    every = np.concatenate(squares) if squares else np.zeros(1)
    known = every[np.isfinite(every)]
    return float(known.mean()) if len(known) else 0.0


def _multiple(period: float, of: float) -> bool:
    return abs(period / of - round(period / of)) < 1e-6
