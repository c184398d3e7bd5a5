"""Spearman's rank correlation for many rows at once (Spearman 1904), on the device where the numbers are."""

from __future__ import annotations

from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation along the last dimension: (..., N), (..., N) -> (...), in -1 .. 1, double precision.

    Ties are ranked in order of position, which is what continuous scores need; a row of constants gives 0.
    """
    correlation: Tensor = (_unit_ranks(a) * _unit_ranks(b)).sum(dim=-1)
    return correlation


def agreement_matrix(scores: Tensor) -> Tensor:
    """Mean rank correlation of each two of K scores, along the last dimension: (K, R, N) -> (K, K), in -1 .. 1.

    One matrix product: no more memory than the scores take, however many they are.
    """
    ranks = _unit_ranks(scores).flatten(1)  # (K, R * N)
    return ranks @ ranks.T / scores.shape[1]


def _unit_ranks(values: Tensor) -> Tensor:
    """Centred ranks of length 1 along the last dimension, 0 for a row of constants."""
    ranks = values.argsort(dim=-1, stable=True).argsort(dim=-1).double()
    ranks = ranks - ranks.mean(dim=-1, keepdim=True)
    constant = values.amax(dim=-1, keepdim=True) == values.amin(dim=-1, keepdim=True)
    unit: Tensor = (ranks / ranks.norm(dim=-1, keepdim=True)).masked_fill(constant, 0.0)
    return unit
