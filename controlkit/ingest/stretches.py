"""Contiguous stretches of a data set, spread over all of it, and least squares on the windows of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.dataset import TransitionDataset

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Stretches that are looked at: so many that errors can be estimated from how much they differ from each other.
COUNT = 48
# Rows whose windows are held at a time.
_CHUNK = 8192


@dataclass(frozen=True)
class Stretch:
    """Rows one period apart without a hole: frames (T, n) and the commands between them (T - 1, m), in their units."""

    frames: Float64
    commands: Float64

    def __len__(self) -> int:
        return len(self.frames)


def stretches(data: TransitionDataset, most: int) -> tuple[Stretch, ...]:
    """Stretches with at most about `most` rows in all, the same ones every time.

    A data set that is no longer is taken whole. Of a longer one, pieces of equal length are taken at equal distances.
    """
    first = np.flatnonzero(np.append(True, data.episode[1:] != data.episode[:-1]))
    stop = np.append(first[1:], len(data))
    size = max(2, -(-min(most, len(data)) // COUNT))
    ranges = [(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True)]
    pieces = [(a, min(a + size, end)) for start, end in ranges for a in range(start, end, size)]
    if len(data) > most:
        chosen = np.unique(np.linspace(0, len(pieces) - 1, max(1, len(pieces) * most // len(data))).round().astype(int))
        pieces = [pieces[i] for i in chosen]
    return tuple(found for a, b in _joined(pieces, data) for found in _whole(data, a, b))


def _joined(pieces: Sequence[tuple[int, int]], data: TransitionDataset) -> list[tuple[int, int]]:
    """Pieces of one episode that touch become one, so that no window is lost between them."""
    joined: list[tuple[int, int]] = []
    for start, stop in pieces:
        if joined and joined[-1][1] == start and data.episode[start - 1] == data.episode[start]:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _whole(data: TransitionDataset, start: int, stop: int) -> Iterator[Stretch]:
    """The parts of rows [start, stop) of an episode in which every cell is known."""
    usable = np.asarray(data.mask[start:stop]).all(axis=1)
    edges = np.flatnonzero(np.diff(usable.astype(np.int8), prepend=0, append=0))
    for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if b - a > 1:
            frames = np.asarray(data.frames[start + a : start + b], dtype=np.float64)
            yield Stretch(frames, np.asarray(data.actions[start + a : start + b - 1], dtype=np.float64))


# From a stretch's rows t >= depth: regressors (T, p) and targets (T, q).
Design = Callable[[Stretch], tuple[Float64, Float64]]


@dataclass(frozen=True)
class Normal:
    """Sums over all windows from which any least-squares fit follows: p regressors, q targets, N windows."""

    xx: Float64  # (p, p)
    xy: Float64  # (p, q)
    yy: Float64  # (q,)
    count: int

    def fit(self, chosen: Int64 | None = None, ridge: float = 1e-9) -> tuple[Float64, Float64, Float64]:
        """Coefficients (p, q), sums of squared residuals (q,), and the inverse (p, p) of the regressors' sums.

        Args:
            chosen: regressors that take part, all if not given.
            ridge: share of the regressors' mean square that is added, so that what cannot be told apart stays finite.
        """
        part = np.arange(len(self.xx)) if chosen is None else chosen
        xx, xy = self.xx[np.ix_(part, part)], self.xy[part]
        scale = 1.0 / np.sqrt(np.where(np.diag(xx) > 0, np.diag(xx), 1.0))
        matrix = xx * np.outer(scale, scale)
        inverse = np.linalg.inv(matrix + ridge * np.eye(len(part))) * np.outer(scale, scale)
        weights = inverse @ xy
        left = self.yy - 2 * np.einsum("pq,pq->q", weights, xy) + np.einsum("pq,pq->q", weights, xx @ weights)
        return weights, np.maximum(left, 0.0), inverse


def accumulate(found: Sequence[Stretch], depth: int, design: Design) -> Normal:
    """The sums over all windows; a window reaches `depth` rows back."""
    xx: Float64 | None = None
    count = 0
    for _, x, y in windows(found, depth, design):
        if xx is None:
            xx, xy, yy = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
        xx += x.T @ x
        xy += x.T @ y
        yy += (y**2).sum(axis=0)
        count += len(x)
    assert xx is not None, "the caller sees to it that there are windows"
    return Normal(xx, xy, yy, count)


def windows(found: Sequence[Stretch], depth: int, design: Design) -> Iterator[tuple[int, Float64, Float64]]:
    """All windows, a bounded number of them at a time, with the number of the group (of `COUNT`) they belong to."""
    total = sum(max(0, len(stretch) - depth) for stretch in found)
    size, before = max(1, min(_CHUNK, -(-total // COUNT))), 0
    for stretch in found:
        for start in range(0, len(stretch) - depth, size):
            stop = min(start + size + depth, len(stretch))
            x, y = design(Stretch(stretch.frames[start:stop], stretch.commands[start : stop - 1]))
            yield before * COUNT // total, x, y
            before += len(x)


def past(values: Float64, lags: int) -> Float64:
    """(T - lags + 1, columns * lags): for each row from lags - 1 on, each column's value now and `lags - 1` before."""
    windows = np.lib.stride_tricks.sliding_window_view(values, lags, axis=0)  # (T - lags + 1, columns, lags)
    return windows[:, :, ::-1].reshape(len(windows), -1)
