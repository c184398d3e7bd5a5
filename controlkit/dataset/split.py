"""Splits a data set by time: what is trained on, what calibrates, what evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlkit.dataset.transitions import TransitionDataset
from controlkit.errors import ArtifactError


@dataclass(frozen=True)
class Split:
    """Training, calibration and evaluation parts, in this order of time; nothing crosses.

    Attributes:
        bounds: part -> first row and row after the last.
        time_ns: part -> first and last time stamp.
    """

    bounds: Mapping[str, tuple[int, int]]
    time_ns: Mapping[str, tuple[int, int]]

    PARTS = ("training", "calibration", "evaluation")

    @classmethod
    def by_time(cls, data: TransitionDataset, fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)) -> Split:
        """Cuts the rows by time; a cut moves to the edge of an episode where one lies within a tenth of a part.

        Raises:
            DataError: a part would hold no usable step.
        """
        rows = len(data)
        edges = np.flatnonzero(data.episode[1:] != data.episode[:-1]) + 1
        slack = 0.1 * min(fractions) * rows
        cuts = [0]
        for share in np.cumsum(fractions)[:-1]:
            cut = round(float(share) * rows)
            near = edges[np.abs(edges - cut) <= slack]
            cuts.append(int(near[np.argmin(np.abs(near - cut))]) if near.size else cut)
        cuts.append(rows)
        bounds = {part: (cuts[i], cuts[i + 1]) for i, part in enumerate(cls.PARTS)}
        for part, (start, stop) in bounds.items():
            data.slice(start, stop).require_transitions(f"{part} part of the split")
        times = {part: (int(data.time_ns[a]), int(data.time_ns[b - 1])) for part, (a, b) in bounds.items()}
        return cls(bounds, times)

    def part(self, data: TransitionDataset, name: str) -> TransitionDataset:
        """One part of the data set the split was made for.

        Raises:
            ArtifactError: the data set is another one (its time stamps differ at the cuts).
        """
        start, stop = self.bounds[name]
        if stop > len(data) or (int(data.time_ns[start]), int(data.time_ns[stop - 1])) != tuple(self.time_ns[name]):
            raise ArtifactError("the split belongs to another data set", cure="Train again on this data set.")
        return data.slice(start, stop)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `split.json`."""
        return {part: {"rows": list(self.bounds[part]), "time_ns": list(self.time_ns[part])} for part in self.PARTS}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Split:
        """Reads what `to_dict` wrote."""
        return cls(
            {part: (content[part]["rows"][0], content[part]["rows"][1]) for part in cls.PARTS},
            {part: (content[part]["time_ns"][0], content[part]["time_ns"][1]) for part in cls.PARTS},
        )
