"""How the historian stored a tag: by exception or at fixed times, its longest silence, repeats and spikes."""

from __future__ import annotations

import math

import numpy as np

from controlkit.align import NS
from controlkit.ingest.draft.numbers import Figure
from controlkit.ingest.draft.signals import Signal

# A change that is stored by exception is at least this share of the usual one.
_FLOOR = 0.3
# A tag of fewer values is a setpoint, a mode or a counter.
_CONTINUOUS = 100
# Robust deviations of a spike's difference.
SPIKE_Z = 12.0


def compression_of(signal: Signal) -> Figure | None:
    """The exception deviation and longest silence of a tag that is stored when it changes; None where it is not.

    Such a tag has intervals of many lengths, and hardly any change smaller than the deviation but for the sample that
    ends the longest silence.
    """
    if not signal.irregular or signal.levels < _CONTINUOUS:
        return None
    change = np.abs(np.diff(signal.value))
    change = change[change > 0]
    if len(change) < 50:
        return None
    small, usual = np.quantile(change, (0.05, 0.5))
    if small < _FLOOR * usual:
        return None
    deviation, silence = float(f"{small:.2g}"), longest_silence_s(signal)
    return Figure(
        f"{{deviation: {deviation:.10g}, max_interval_s: {silence:.10g}}}",
        f"stored by exception: 95 % of the changes are {small:.3g} or more, the longest silence is {silence:g} s",
    )


def longest_silence_s(signal: Signal) -> float:
    """Seconds that the tag is silent at most, breaks of the log left out, rounded up to two digits."""
    power = 10.0 ** (math.floor(math.log10(signal.long_interval_s)) - 1)
    return math.ceil(round(signal.long_interval_s / power, 6)) * power


def extrapolates(signal: Signal, period_s: float) -> bool:
    """Whether a line through the last two samples foretells the next one much better than holding the last."""
    if signal.irregular or signal.interval_s < 2 * period_s or len(signal.value) < 100:
        return False
    held = np.abs(np.diff(signal.value)[1:]).mean()
    line = np.abs(np.diff(signal.value, 2)).mean()
    return bool(line < 0.6 * held)


def frozen_note(signal: Signal) -> str | None:
    """A proposal for `frozen` where the tag hardly ever repeats a value."""
    if signal.repeats > 0.05 or signal.levels < _CONTINUOUS:
        return None
    same = np.concatenate(([False], np.diff(signal.value) == 0, [False]))
    edges = np.flatnonzero(same[1:] != same[:-1])
    runs = [
        (signal.time_ns[min(b, len(signal.time_ns) - 1)] - signal.time_ns[a]) / NS
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]
    longest = max(runs, default=0.0)
    after = max(10 * signal.interval_s, 3 * longest)
    return f"frozen: {{after_s: {after:.3g}}}  # it repeated a value for {longest:.3g} s at most"


def spike_note(signal: Signal) -> str | None:
    """A proposal for `spike_z` where single samples jump away and come back."""
    if signal.levels < _CONTINUOUS:
        return None
    difference = np.diff(signal.value)
    centre = np.median(difference)
    deviation = 1.4826 * np.median(np.abs(difference - centre))
    if deviation <= 0:
        return None
    z = (difference - centre) / deviation
    away = (np.abs(z[:-1]) > SPIKE_Z) & (np.abs(z[1:]) > SPIKE_Z) & (np.sign(z[:-1]) != np.sign(z[1:]))
    count = int(away.sum())
    return f"spike_z: {SPIKE_Z:g}  # {count} samples jump away and come back" if count else None
