"""Plots as inline SVG. They hold no text and stretch to the width of the page; labels stand in the page around them.

Colours are from Okabe and Ito's palette, which the colour-blind can tell apart; what matters differs in place or shape,
too. Coordinates are whole numbers, so that a page of many tags stays small.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from controlkit.ingest.quality_report.record import FlaggedStretch, Histogram, Numbers, TimeLine, Trend

TREND_HEIGHT = 60


def trend(shown: Trend, flagged: Sequence[tuple[int, int]], label: str) -> str:
    """A tag over time: band from least to largest value, mean, and below it where it was not usable.

    Args:
        shown: (B,) buckets.
        flagged: buckets [from, to) that are marked.
        label: what is seen, for those who do not see it.
    """
    low, high = extremes(shown)
    scale = (TREND_HEIGHT - 2) / (high - low)

    def y(value: float) -> int:
        return 1 + round((high - value) * scale)

    band = "".join(
        f"M{i} {y(b)}h1v{max(1, y(a) - y(b))}h-1z"
        for i, (a, b) in enumerate(zip(shown.low, shown.high, strict=True))
        if a is not None and b is not None
    )
    line = _line([None if value is None else y(value) for value in shown.mean])
    lost = "".join(f"M{a} {TREND_HEIGHT + 3}h{b - a}v6h{a - b}z" for a, b in _runs(shown.usable))
    marks = "".join(f"M{a} 0h{b - a}v{TREND_HEIGHT}h{a - b}z" for a, b in flagged)
    paths = f'<path class="flag" d="{marks}"/><path class="band" d="{band}"/><path class="line" d="{line}"/>'
    return _svg(len(shown.low), TREND_HEIGHT + 10, paths + f'<path class="lost" d="{lost}"/>', "trend", label)


def extremes(shown: Trend) -> tuple[float, float]:
    """The values at the lower and upper edge of a trend's plot."""
    low = min((value for value in shown.low if value is not None), default=0.0)
    high = max((value for value in shown.high if value is not None), default=1.0)
    room = (high - low) or abs(high) or 1.0
    return (low, high) if high > low else (low - 0.5 * room, high + 0.5 * room)


def histogram(shown: Histogram, label: str) -> str:
    """Bars over the used part of the range."""
    most = max(1, *shown.rows)
    heights = [round(80 * rows / most) if rows else 0 for rows in shown.rows]
    # What is rare must be seen, too: a bin with a single row has a bar.
    bars = "".join(
        f"M{10 * i} 80v-{max(1, height)}h9v{max(1, height)}z"
        for i, (height, rows) in enumerate(zip(heights, shown.rows, strict=True))
        if rows
    )
    return _svg(10 * len(shown.rows), 80, f'<path class="bars" d="{bars}"/>', "histogram", label)


def time_line(shown: TimeLine, spans: Sequence[tuple[int, int]], label: str) -> str:
    """Three lanes: rows of the log (gaps are white), rows that are kept, and episodes, of which every second is darker.

    Args:
        shown: (B,) buckets.
        spans: episodes as buckets [from, to).
    """
    log = _levels([rows / shown.full for rows in shown.rows], 0, 22)
    kept = _levels([rows / shown.full for rows in shown.kept], 28, 22)
    even, odd = ("".join(f"M{a} 56h{b - a}v14h{a - b}z" for a, b in spans[start::2]) for start in (0, 1))
    width = len(shown.rows)
    paths = (
        f'<path class="frame" d="M0 0h{width}v22h-{width}zM0 28h{width}v22h-{width}z"/>'
        f'<path class="log" d="{log}"/><path class="kept" d="{kept}"/>'
        f'<path class="even" d="{even}"/><path class="odd" d="{odd}"/>'
    )
    return _svg(width, 70, paths, "time-line", label)


def stacked_bar(parts: Sequence[tuple[str, int]], label: str) -> str:
    """One bar of 1000 units whose parts have the classes and sizes given; the smallest is still seen."""
    total = sum(size for _, size in parts) or 1
    drawn, x = [], 0.0
    for name, size in parts:
        width = 1000 * size / total
        if size:
            drawn.append(f'<rect class="{name}" x="{x:.2f}" y="0" width="{max(width, 2):.2f}" height="26"/>')
        x += width
    return _svg(1000, 26, "".join(drawn), "stack", label)


def lane(runs: Sequence[tuple[int, int]], buckets: int, label: str) -> str:
    """Marks along the time axis."""
    path = "".join(f"M{a} 0h{b - a}v8h{a - b}z" for a, b in runs)
    return _svg(buckets, 8, f'<path class="flag" d="{path}"/>', "lane", label)


def buckets(stretches: Sequence[FlaggedStretch], line: TimeLine) -> list[tuple[int, int]]:
    """Buckets [from, to) that stretches of time touch; those that meet become one."""
    found: list[tuple[int, int]] = []
    last = len(line.rows) - 1
    for stretch in sorted(stretches, key=lambda s: s.from_ns):
        a, b = (min(max((t - line.start_ns) // line.width_ns, 0), last) for t in (stretch.from_ns, stretch.to_ns))
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], b + 1))
        else:
            found.append((a, b + 1))
    return found


def _svg(width: int, height: int, inside: str, kind: str, label: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)}">{inside}</svg>'
    )


def _line(heights: Sequence[int | None]) -> str:
    """A line through the middles of the buckets, broken where there is none."""
    path, before = [], None
    for i, height in enumerate(heights):
        if height is None:
            before = None
        elif before is None:
            path.append(f"M{i}.5 {height}h.01")
            before = height
        else:
            path.append(f"L{i}.5 {height}")
    return "".join(path)


def _runs(usable: Numbers) -> list[tuple[int, int]]:
    """Buckets [from, to) in which a tag was not usable all the time."""
    lost = [value is not None and value < 1 for value in usable]
    edges = [i for i in range(len(lost) + 1) if (lost[i - 1] if i else False) != (lost[i] if i < len(lost) else False)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _levels(shares: Sequence[float], top: int, height: int) -> str:
    """A filled outline, as high as each bucket's share."""
    path, i = [], 0
    while i < len(shares):
        end = i
        level = round(height * min(1.0, shares[i])) if shares[i] else 0
        level = max(1, level) if shares[i] else 0
        while end < len(shares) and _same(shares[end], level, height):
            end += 1
        if level:
            path.append(f"M{i} {top + height}v-{level}h{end - i}v{level}z")
        i = max(end, i + 1)
    return "".join(path)


def _same(share: float, level: int, height: int) -> bool:
    found = max(1, round(height * min(1.0, share))) if share else 0
    return found == level
