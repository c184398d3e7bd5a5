"""k-means and its number of clusters, against blobs that are known and silhouettes that are written out."""

from __future__ import annotations

import numpy as np
import pytest

from controlkit.evaluation.clusters import SEPARATED, find_clusters, k_means, silhouette


def blobs(sizes: tuple[int, ...], apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points about corners that lie `apart`, in random order, and which corner each is from."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    corners = apart * np.eye(len(sizes), 3)
    return corners[which] + rng.normal(0.0, 0.3, (len(which), 3)), which


@pytest.mark.parametrize("sizes", [(60, 40), (70, 20, 30), (40, 50, 20, 30)])
def test_blobs_are_found_and_numbered_by_size(sizes: tuple[int, ...]) -> None:
    points, which = blobs(sizes, 5.0)
    labels, separation = find_clusters(points, np.random.default_rng(0))
    order = np.argsort(np.argsort([-size for size in sizes]))  # place of each blob among the sizes
    assert np.array_equal(labels, order[which])
    assert separation > 0.8


def test_what_has_no_gaps_is_not_cut() -> None:
    points = np.random.default_rng(0).uniform(size=(200, 3))
    labels, separation = find_clusters(points, np.random.default_rng(0))
    assert not labels.any()
    assert 0.0 < separation < SEPARATED


@pytest.mark.parametrize("points", [np.zeros((20, 2)), np.zeros((20, 0)), np.zeros((1, 2))])
def test_points_that_are_one_are_one_cluster(points: np.ndarray) -> None:
    labels, separation = find_clusters(points, np.random.default_rng(0))
    assert not labels.any()
    assert np.isnan(separation)


def test_the_same_seed_gives_the_same_clusters() -> None:
    points = np.random.default_rng(1).normal(size=(80, 2))
    one, other = (k_means(points, 4, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, other)
    assert set(one) == {0, 1, 2, 3}


def test_every_point_is_in_the_cluster_whose_mean_is_nearest() -> None:
    points, _ = blobs((40, 30), 1.0)
    labels = k_means(points, 3, np.random.default_rng(0))
    centres = np.stack([points[labels == each].mean(axis=0) for each in range(3)])
    assert np.array_equal(labels, np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1))


def test_the_silhouette_is_what_rousseeuw_wrote() -> None:
    points = np.random.default_rng(2).normal(size=(15, 2))
    labels = np.array([0] * 7 + [1] * 7 + [2])
    expected = []
    for i, label in enumerate(labels):
        distance = np.linalg.norm(points - points[i], axis=1)
        own = [d for j, d in enumerate(distance) if labels[j] == label and j != i]
        if not own:
            expected.append(0.0)
            continue
        a, b = np.mean(own), min(distance[labels == other].mean() for other in {0, 1, 2} - {label})
        expected.append((b - a) / max(a, b))
    assert silhouette(points, labels) == pytest.approx(np.mean(expected))
