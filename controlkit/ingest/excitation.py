"""Has each action moved enough, over what range, and on its own or as a controller's answer to the measurements?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.ingest.stretches import Stretch, accumulate, past

Float64 = npt.NDArray[np.float64]

# Orders of persistent excitation that are told apart, and the share of the largest direction that counts as one.
MAX_ORDER = 50
_DIRECTION = 1e-3
# A command within this share of its limits' span of a limit lies at it; one that changes by less has not moved.
_AT_LIMIT, _MOVED = 1e-3, 1e-6
_LEVELS = 1000
_PAST = 10


@dataclass(frozen=True)
class Excitation:
    """How an action moved, over the rows that were looked at.

    Attributes:
        limits, low, high: its limits and extreme commands; `middle` the ends of the middle 98 %.
        range_share: of the limits' span that the middle 98 % cover.
        levels: distinct commands, told apart at a thousandth of the span.
        moves_per_day: changes of the command per day of log.
        limit_share: share of the time at a limit.
        order: of persistent excitation: how many coefficients of an impulse response the moves can tell apart (Ljung,
            System Identification, 1999, section 13.2), at most `MAX_ORDER`. A sine has 2.
        feedback_share: of what its own past leaves open of a command, the share that current and past measurements
            explain linearly: 0 in open loop, 1 where a linear controller alone moves it. None where nothing is open.
    """

    action: str
    unit: str
    limits: tuple[float, float]
    low: float
    high: float
    middle: tuple[float, float]
    range_share: float
    levels: int
    moves_per_day: float
    limit_share: float
    order: int
    feedback_share: float | None


def excitation(
    found: Sequence[Stretch], action: str, unit: str, column: int, limits: tuple[float, float], period_s: float,
    feedback_share: float | None,
) -> Excitation:  # fmt: skip
    """The figures of one action."""
    command = np.concatenate([stretch.commands[:, column] for stretch in found])
    span = limits[1] - limits[0]
    low, high = (float(x) for x in np.quantile(command, [0.01, 0.99]))
    moves = sum(int((np.abs(np.diff(s.commands[:, column])) > _MOVED * span).sum()) for s in found)
    at = (command <= limits[0] + _AT_LIMIT * span) | (command >= limits[1] - _AT_LIMIT * span)
    return Excitation(
        action=action,
        unit=unit,
        limits=limits,
        low=float(command.min()),
        high=float(command.max()),
        middle=(low, high),
        range_share=(high - low) / span,
        levels=len(np.unique(np.round((command - limits[0]) / span * _LEVELS))),
        moves_per_day=moves / (len(command) * period_s / 86_400),
        limit_share=float(at.mean()),
        order=persistence([np.diff(stretch.commands[:, column]) for stretch in found]),
        feedback_share=feedback_share,
    )


def persistence(moves: Sequence[Float64]) -> int:
    """Order of persistent excitation of a signal's moves, given in pieces without a hole."""
    total, count = np.zeros((MAX_ORDER, MAX_ORDER)), 0
    for piece in moves:
        if len(piece) >= MAX_ORDER:
            seen = past(piece[:, None], MAX_ORDER)
            total += seen.T @ seen
            count += len(seen)
    if not count or not total[0, 0]:
        return 0
    size = np.sqrt(np.maximum(np.diag(total), np.finfo(float).tiny))
    # Order n: the covariance of n moves in a row has full rank.
    smallest = [float(np.linalg.eigvalsh((total / np.outer(size, size))[:n, :n])[0]) for n in range(1, MAX_ORDER + 1)]
    below = np.flatnonzero(np.asarray(smallest) < _DIRECTION)
    return int(below[0]) if below.size else MAX_ORDER


def feedback_shares(found: Sequence[Stretch]) -> list[float | None]:
    """For each action the share of what the commands' own past leaves open that the measurements explain."""
    frames = np.concatenate([stretch.frames for stretch in found])
    commands = np.concatenate([stretch.commands for stretch in found])
    moving = np.flatnonzero(frames.std(axis=0) > 0)
    none: list[float | None] = [None] * commands.shape[1]
    lags = max(2, min(_PAST, 600 // (len(moving) + commands.shape[1])))
    usable = [stretch for stretch in found if len(stretch) > lags + 1]
    own = lags * commands.shape[1]
    if not moving.size or sum(len(s) - lags - 1 for s in usable) < 10 * (own + lags * len(moving)):
        return none
    middle, scale = frames[:, moving].mean(axis=0), frames[:, moving].std(axis=0)
    centre, size = commands.mean(axis=0), np.where(commands.std(axis=0) > 0, commands.std(axis=0), 1.0)

    def design(stretch: Stretch) -> tuple[Float64, Float64]:
        # The window's last row holds the measurements that the command of that row could know.
        u = (stretch.commands - centre) / size
        y = (stretch.frames[:, moving] - middle) / scale
        level = y[lags:-1]
        before = past(np.diff(y, axis=0), lags - 1)[1 : 1 + len(level)]
        ones = np.ones((len(level), 1))
        return np.hstack([past(u, lags)[:-1], ones, level, before]), u[lags:]

    normal = accumulate(usable, lags + 1, design)
    total = normal.yy / normal.count
    without = normal.fit(np.arange(own + 1))[1] / max(1, normal.count - own - 1)
    left = normal.fit()[1] / max(1, normal.count - len(normal.xx))
    return [
        float(np.clip(1 - b / a, 0.0, 1.0)) if a > 1e-9 * max(t, 1e-300) else None
        for a, b, t in zip(without, left, total, strict=True)
    ]
