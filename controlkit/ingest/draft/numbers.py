"""Numbers for a plant file: ranges, limits, rates, rounded as a person would write them, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from controlkit.align import NS
from controlkit.ingest.draft.sample import TagSample
from controlkit.ingest.draft.signals import Signal

# Beyond the values seen, so that a new one is no bad measurement at once.
MARGIN = 0.25
# An extreme further out than this many spans of the bulk is a spike of a sensor or a stand-in such as -9999.
_SPIKE = 3.0
# Quantities that are never negative, and seldom read so.
_FLOORED = {
    "%", "m^3/h", "m^3/s", "m^3/min", "L/h", "L/min", "L/s", "kg/h", "kg/s", "kg/min", "t/h", "m", "mm", "kW", "MW",
    "W", "rpm", "Hz", "bar", "kPa", "Pa", "MPa", "mbar", "K", "kg", "t", "L", "m^3", "ppm", "A",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A number or interval as text, and where it is from."""

    text: str
    why: str


def bulk(tag: TagSample, signal: Signal) -> tuple[float, float, bool]:
    """Smallest and largest value without spikes and stand-ins, and whether there were any."""
    low, high = signal.quantile(0.001, 0.999)
    span = high - low
    if span <= 0:  # it rarely moves: what it moves to is what counts
        return tag.low, tag.high, False
    bottom = tag.low if tag.low >= low - _SPIKE * span else low
    top = tag.high if tag.high <= high + _SPIKE * span else high
    return bottom, top, bottom > tag.low or top < tag.high


def measured_range(tag: TagSample, signal: Signal, unit: str) -> Figure:
    """The engineering range of a measurement: what was seen and a margin, in round numbers."""
    low, high, spikes = bulk(tag, signal)
    seen = f"seen: {low:.5g} to {high:.5g}" + (f" but for {tag.low:.5g} and {tag.high:.5g}" if spikes else "")
    if signal.levels <= 2 and not spikes and float(low).is_integer() and float(high).is_integer():
        return Figure(f"[{low - 0.5:g}, {high + 0.5:g}]", f"values {low:g} and {high:g}")
    if unit == "%" and low >= -5 and high <= 105:
        return Figure("[0, 100]" if low >= 0 and high <= 100 else "[-5, 105]", f"per cent; {seen}")
    margin = MARGIN * (high - low) or max(1.0, abs(low))
    bottom, top = _outward(low - margin, high + margin)
    if low >= 0 > bottom and unit in _FLOORED:
        return Figure(f"[0, {top:.10g}]", f"{seen}; never negative by nature")
    return Figure(f"[{bottom:.10g}, {top:.10g}]", f"{seen}, and a quarter more")


def command_limits(tag: TagSample, signal: Signal, unit: str) -> tuple[Figure, Figure]:
    """Range and limits of an action: per cent are 0 to 100; the limits are what the log has shown."""
    low, high, spikes = bulk(tag, signal)
    bottom, top = _outward(low, high)
    if low >= 0 > bottom:
        bottom = 0.0
    if unit == "%" and low >= 0 and high <= 100:
        bottom, top = max(0.0, bottom), min(100.0, top)
    whole = "[0, 100]" if unit == "%" and bottom >= 0 and top <= 100 else f"[{bottom:.10g}, {top:.10g}]"
    seen = f"the log moved it from {low:.5g} to {high:.5g}; what lies beyond was never tried"
    if spikes:
        seen += f"; {tag.low:.5g} and {tag.high:.5g} are left out as no commands"
    return Figure(whole, "range of the command"), Figure(f"[{bottom:.10g}, {top:.10g}]", seen)


def largest_rate(signal: Signal, period_s: float) -> Figure | None:
    """The rate per second that 1 of 1000 moves of a command exceeds; None where it never moves."""
    step_s = np.diff(signal.time_ns) / NS
    change = np.abs(np.diff(signal.value))
    moved = (change > 0) & (step_s <= 100 * max(period_s, signal.interval_s))
    if not moved.any():
        return None
    # A jump between two samples is made within a period at least.
    rate = float(np.quantile(change[moved] / np.maximum(step_s[moved], period_s), 0.999))
    return Figure(f"{_up(rate):.10g}", "99.9 % of the moves in the log are slower")


def safe_value(signal: Signal, limits: Figure) -> float:
    """The median of a command, inside its limits."""
    low, high = (float(end) for end in limits.text.strip("[]").split(","))
    return min(max(float(f"{signal.quantile(0.5)[0]:.4g}"), low), high)


def _outward(low: float, high: float) -> tuple[float, float]:
    """An interval in round numbers around another."""
    step = _round_step((high - low) / 20 or max(abs(low), 1.0) / 20)
    return math.floor(round(low / step, 9)) * step, math.ceil(round(high / step, 9)) * step


def _round_step(size: float) -> float:
    """1, 2 or 5 times a power of ten, not above `size` times 2."""
    power = 10.0 ** math.floor(math.log10(size))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= size * 0.999)


def _up(value: float) -> float:
    """Rounded up to two digits."""
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(round(value / power, 6)) * power
