"""Spearman's rank correlation for many rows at once (Spearman 1904), on the device where the numbers are."""

from __future__ import annotations

from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation along the last dimension: (..., N), (..., N) -> (...), in -1 .. 1.

    Ties are ranked in order of position, which is what continuous scores need; a row of constants gives 0.
    """
    first, second = _ranks(a), _ranks(b)
    first = first - first.mean(dim=-1, keepdim=True)
    second = second - second.mean(dim=-1, keepdim=True)
    correlation = (first * second).sum(dim=-1) / (first.norm(dim=-1) * second.norm(dim=-1))
    constant = (a.amax(dim=-1) == a.amin(dim=-1)) | (b.amax(dim=-1) == b.amin(dim=-1))
    found: Tensor = correlation.masked_fill(constant, 0.0)
    return found


def _ranks(values: Tensor) -> Tensor:
    return values.argsort(dim=-1, stable=True).argsort(dim=-1).double()
