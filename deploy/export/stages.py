"""Building blocks of the controller graph.

Rules that hold everywhere: a check is written `ok = (x >= low) & (x <= high)`, so that NaN fails it; values are merged
with `where`, never by multiplying with a mask (NaN times 0 is NaN); clamping is `where` of a comparison that NaN fails,
as Min and Max of NaN differ between runtimes; and a logical not of a comparison never occurs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from controlkit.layout import Layout
from controlkit.objective import CommandLimits
from controlkit.spec import PlantSpec


def within(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Whether low <= x <= high; False for NaN."""
    return (x >= low) & (x <= high)


def limited(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """x moved into [low, high]; NaN becomes `low`.

    What Min makes of NaN does not matter: the comparison has already chosen `low` there.
    """
    return torch.where(x >= low, torch.minimum(x, torch.as_tensor(high, dtype=x.dtype)), low)


def at_most(x: Tensor, high: Tensor | float) -> Tensor:
    """x where it is at most `high`; else, and for NaN, `high`."""
    return torch.where(x <= high, x, high)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Columns of x: (B, K) -> (B, len(index)). One Gather, where `x[..., index]` becomes transposes and GatherND."""
    return x.index_select(-1, index)


def number(ok: Tensor) -> Tensor:
    """1 where ok, else 0."""
    return ok.to(torch.float32)


def every(ok: Tensor) -> Tensor:
    """Whether all columns are ok: (B, K) -> (B, 1)."""
    return number(ok).amin(dim=-1, keepdim=True) >= 0.5


class Conjunctions(nn.Module):
    """Which of G sets of checks hold throughout: (B, K) -> (B, G). One product counts those that hold in every set.

    Args:
        checks: sizes of the groups of checks that stand side by side, K together.
        sets: name of a set -> names of the groups whose checks belong to it, or (group, positions in it).
        unless: name of a set -> a group of one check that holds in the place of the whole set.
    """

    weight: Tensor
    lacking: Tensor

    def __init__(
        self,
        checks: Mapping[str, int],
        sets: Mapping[str, Sequence[str | tuple[str, Sequence[int]]]],
        unless: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(sets)
        ends = np.cumsum(list(checks.values()))
        first = dict(zip(checks, (ends - list(checks.values())).tolist(), strict=True))
        weight = torch.zeros(int(ends[-1]), len(sets))
        for column, members in enumerate(sets.values()):
            for member in members:
                group, positions = (member, range(checks[member])) if isinstance(member, str) else member
                weight[[first[group] + position for position in positions], column] = 1.0
        needed = weight.sum(dim=0)
        for name, instead in (unless or {}).items():
            weight[first[instead], self.names.index(name)] = needed[self.names.index(name)]
        self.register_buffer("weight", weight)
        self.register_buffer("lacking", 0.5 - needed)

    def forward(self, ok: Tensor) -> dict[str, Tensor]:
        """Each set by its name, (B, 1)."""
        held = torch.addmm(self.lacking, number(ok), self.weight) >= 0.0
        return dict(zip(self.names, held.split(1, dim=-1), strict=True))


class Notes:
    """What the stages have to say beside their values: checks that hold, and how near computed values came to failing.

    Attributes:
        ok: name of a flag -> (B, 1); the flag is raised where it is not ok.
        margins: (B, k) distances of computed values to the thresholds they are checked by, see `margin`.
    """

    def __init__(self) -> None:
        self.ok: dict[str, Tensor] = {}
        self.margins: list[Tensor] = []

    def margin(self, x: Tensor, threshold: float, scale: Tensor | float = 0.0) -> None:
        """Adds the distance of x (B, 1) to a threshold, relative to it or to the terms that x is made of.

        Args:
            scale: magnitude of those terms, (B, 1): a small difference of large numbers carries the rounding of these.
        """
        self.margins.append((x - threshold).abs() / torch.as_tensor(scale).clamp(min=max(abs(threshold), 1e-6)))


class CommandStage(nn.Module):
    """The rate limit about a reference and the absolute clamp, last; shared by policy, fallback and their blend."""

    low: Tensor
    high: Tensor
    rate: Tensor
    at_once: Tensor
    span: Tensor

    def __init__(self, spec: PlantSpec) -> None:
        super().__init__()
        limits, layout = CommandLimits(spec), Layout.from_spec(spec)
        rates = [spec.tags[tag].max_rate_per_s for tag in layout.action_tags]
        magnitude = np.maximum(np.abs(limits.low), np.abs(limits.high)).astype(np.float64)
        # A step about the reference is rounded to float32 twice; taking two units in the last place off keeps the exact
        # difference inside the exact rate.
        slack = 2.0 * magnitude * float(np.finfo(np.float32).eps)
        self.register_buffer("low", torch.from_numpy(limits.low))
        self.register_buffer("high", torch.from_numpy(limits.high))
        span = limits.high - limits.low
        # Where no rate is given, twice the span is at hand in no time.
        at_once = np.where([rate is None for rate in rates], 2.0 * span, -slack)
        self.register_buffer("rate", torch.tensor([0.0 if r is None else r * (1.0 - 1e-6) for r in rates]))
        self.register_buffer("at_once", torch.from_numpy(at_once.astype(np.float32)))
        self.register_buffer("span", torch.from_numpy(limits.high - limits.low))

    def reach(self, dt: Tensor) -> Tensor:
        """Largest change in `dt` seconds, which are a number: (B, 1) -> (B, m)."""
        return torch.relu(self.rate * dt + self.at_once)

    def window(self, reference: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """What may be commanded: the rate about the reference, cut to the absolute limits, which win.

        (B, m) reference inside the limits, (B, 1) seconds -> (B, m) lowest, (B, m) highest.
        """
        reach = self.reach(dt)
        low, high = reference - reach, reference + reach
        return torch.where(low >= self.low, low, self.low), torch.where(high <= self.high, high, self.high)

    def clamp(self, command: Tensor) -> Tensor:
        """Inside the absolute limits: (B, m) -> (B, m)."""
        return limited(command, self.low, self.high)


def safe_values(spec: PlantSpec) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(m,) safe values as float32 inside the limits."""
    limits = CommandLimits(spec)
    wanted = np.array([spec.tags[tag].safe for tag in spec.action_tags], dtype=np.float32)
    return np.clip(wanted, limits.low, limits.high)
