"""Figures and times as people read them; escaped HTML."""

from __future__ import annotations

from datetime import UTC, datetime

from controlkit.evaluation.markup import number, text


def hash_of(value: str) -> str:
    """A hash that may break across lines."""
    return f'<span class="hash">{text(value)}</span>'


def moment(time_ns: int) -> str:
    """Nanoseconds since 1970 as UTC, to the second."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """Seconds in the unit that people would use."""
    if seconds is None:
        return "unknown"
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def milliseconds(value: float | None) -> str:
    """A time of computing."""
    return f"{value:,.0f} ms" if value is not None and value >= 1000 else f"{number(value)} ms"


def signed_share(value: float | None) -> str:
    """A share with its sign."""
    return "unknown" if value is None else f"{value:+.1%}".replace("-", "\u2212")


def fine(value: float | None) -> str:
    """A share to three digits, however small."""
    return "unknown" if value is None else f"{100 * value:.3g} %"
