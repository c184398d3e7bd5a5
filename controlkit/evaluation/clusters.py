"""Clusters of points: k-means with a rule for the number of clusters, small and repeatable.

k-means (Lloyd 1982) is started `RESTARTS` times by k-means++ (Arthur and Vassilvitskii 2007), and the tightest result
is kept. Of 2 .. `MOST` clusters the number with the largest mean silhouette (Rousseeuw 1987) is taken, and none at all
where even that is below `SEPARATED`: what has no gaps is not cut.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST, RESTARTS, ITERATIONS = 5, 8, 100
# "A reasonable structure has been found" from here on (Kaufman and Rousseeuw 1990).
SEPARATED = 0.5


def find_clusters(points: Floats, rng: np.random.Generator) -> tuple[Integers, float]:
    """Labels 0 .. k - 1 of (N, d) points, in order of size, and their mean silhouette.

    Args:
        points: scaled, so that distances along all columns count alike.
        rng: draws where the search begins.

    Returns:
        (N,) labels, all 0 where the points are not separated; the best silhouette that was found, whether or not it
        was enough (NaN where all points are one).
    """
    best, found = np.zeros(len(points), dtype=np.int64), float("nan")
    most = min(MOST, len(np.unique(points, axis=0)), len(points) - 1)
    for k in range(2, most + 1):
        labels = k_means(points, k, rng)
        separation = silhouette(points, labels)
        if not separation <= found:  # the first one, too
            best, found = labels, separation
    if not found >= SEPARATED:
        return np.zeros(len(points), dtype=np.int64), found
    order = np.argsort(-np.bincount(best), kind="stable")
    return np.argsort(order)[best], found


def k_means(points: Floats, k: int, rng: np.random.Generator) -> Integers:
    """Labels of (N, d) points in k clusters, of which none is empty where at least k points differ: (N,)."""
    best, tightest = np.zeros(len(points), dtype=np.int64), np.inf
    for _ in range(RESTARTS):
        centres = _spread_out(points, k, rng)
        labels = _nearest(points, centres)
        for _ in range(ITERATIONS):
            for each in range(k):
                mine = labels == each
                if mine.any():
                    centres[each] = points[mine].mean(axis=0)
            moved = _nearest(points, centres)
            if np.array_equal(moved, labels):
                break
            labels = moved
        spread = float(np.square(points - centres[labels]).sum())
        if spread < tightest:
            best, tightest = labels, spread
    return best


def silhouette(points: Floats, labels: Integers) -> float:
    """Mean of (b - a) / max(a, b): a is a point's mean distance to its own cluster, b to the next one; a point that is
    alone counts 0."""
    distance = np.sqrt(_squared(points, points))
    kinds = np.unique(labels)
    if len(kinds) < 2:
        return float("nan")
    inside = labels[:, None] == kinds[None]  # (N, k)
    sums, sizes = distance @ inside, inside.sum(axis=0)
    own = np.where(inside, sums, 0.0).sum(axis=1) / np.maximum(sizes[np.argmax(inside, axis=1)] - 1, 1)
    other = np.where(inside, np.inf, sums / sizes).min(axis=1)
    scores = (other - own) / np.maximum(np.maximum(own, other), 1e-30)
    return float(np.where(sizes[np.argmax(inside, axis=1)] > 1, scores, 0.0).mean())


def _spread_out(points: Floats, k: int, rng: np.random.Generator) -> Floats:
    centres: Floats = points[rng.integers(len(points), size=1)]
    while len(centres) < k:
        far = _squared(points, centres).min(axis=1)
        total = far.sum()
        at = rng.choice(len(points), p=far / total) if total > 0 else rng.integers(len(points))
        centres = np.concatenate([centres, points[at][None]])
    return centres


def _nearest(points: Floats, centres: Floats) -> Integers:
    return np.asarray(_squared(points, centres).argmin(axis=1), dtype=np.int64)


def _squared(one: Floats, other: Floats) -> Floats:
    """(N, M) squared distances between (N, d) and (M, d)."""
    return np.asarray(np.square(one[:, None] - other[None]).sum(axis=2), dtype=np.float64)
