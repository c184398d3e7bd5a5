"""Affine scaling between engineering units and the networks' units: fit, apply, invert, JSON round trip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scaler:
    """scaled = (value - centre) / spread, column by column; arrays or tensors in, the same kind out (numpy here).

    Attributes:
        centre, spread: (K,) float32, in the columns' own units; spread is positive.
    """

    centre: Vector
    spread: Vector

    @classmethod
    def from_range(cls, low: Vector, high: Vector) -> Scaler:
        """Maps [low, high] to [-1, 1], so that nothing depends on what a log happened to visit."""
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        return cls(((low + high) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32))

    @classmethod
    def fit(cls, values: npt.NDArray[Any], fallback_spread: npt.NDArray[Any] | float = 1.0) -> Scaler:
        """Mean 0 and standard deviation 1 over the rows of `values` (N, K).

        A constant column has no spread of its own and takes `fallback_spread`.
        """
        data = np.asarray(values, dtype=np.float64)
        spread = data.std(axis=0)
        constant = spread <= 1e-7 * np.maximum(1.0, np.abs(data).max(axis=0, initial=0.0))
        spread = np.where(constant, np.asarray(fallback_spread, dtype=np.float64), spread)
        return cls(data.mean(axis=0).astype(np.float32), spread.astype(np.float32))

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Engineering units to scaled: (..., K) -> (..., K)."""
        return (values - self.centre) / self.spread

    def invert(self, scaled: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Scaled to engineering units: (..., K) -> (..., K)."""
        return scaled * self.spread + self.centre

    def to_dict(self) -> dict[str, list[float]]:
        """Plain values for JSON; float32 values survive the round trip exactly."""
        return {"centre": self.centre.tolist(), "spread": self.spread.tolist()}

    @classmethod
    def from_dict(cls, content: dict[str, list[float]]) -> Scaler:
        """Reads what `to_dict` wrote."""
        return cls(np.array(content["centre"], dtype=np.float32), np.array(content["spread"], dtype=np.float32))
