"""What can be said of the inputs as they come, before anything is computed: every comparison in one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from controlkit.layout import Layout
from controlkit.objective import CommandLimits
from controlkit.spec import PlantSpec
from deploy.bundle.safety import SafetyConfig
from deploy.export.sensing import AGE_SLACK
from deploy.export.slots import MAX_AGE_S, StateLayout
from deploy.export.stages import Conjunctions, take, within

# Groups of the state that hold 0 or 1.
BITS = ("known", "error_known", "full", "command_known")


class Entry(NamedTuple):
    """What holds of one step's inputs; n measured tags, m commands.

    Attributes:
        fresh: (B, n) whether a sample has good quality, lies in its range, and is young enough.
        known: (B, n) whether a good value had been seen before.
        error_known: (B, m) whether the fallback's last error is known.
        times: (B, 3) whether dt can be a time for the rate limit, for the fallback, for ages.
        sets: (B, 1) each: `quality`, `range`, `age` (of all samples), `timing`, `state`, `echo`, `enabled`; `issued`:
            the last command in the state is one; `scorable`: the transition that led here can be judged, as far as the
            inputs say; `may`: the policy may act, as far as the inputs say.
    """

    fresh: Tensor
    known: Tensor
    error_known: Tensor
    times: Tensor
    sets: dict[str, Tensor]


class EntryChecks(nn.Module):
    """Bounds of everything that comes in.

    Args:
        spec: the plant.
        layout: of its observation.
        state: of the graph's state.
        safety: chosen.
    """

    low: Tensor
    high: Tensor
    slots: Tensor

    def __init__(self, spec: PlantSpec, layout: Layout, state: StateLayout, safety: SafetyConfig) -> None:
        super().__init__()
        n, m, limits = len(layout.frame_tags), len(layout.action_tags), CommandLimits(spec)
        period, tolerance = float(spec.period_s), safety.dt_tolerance
        slowest, fastest = (1.0 + tolerance) * period, (1.0 - tolerance) * period
        bits = [slot for name in BITS for slot in range(*state.groups[name])]
        ages = [min(spec.max_age_s(tag) * (1.0 + AGE_SLACK), MAX_AGE_S / 2) for tag in layout.frame_tags]
        ranges = np.array([spec.tags[tag].range for tag in layout.frame_tags])
        # Every group of checks: its lower and upper bounds, in the order of `forward`.
        bounds: dict[str, tuple[npt.ArrayLike, npt.ArrayLike]] = {
            "range": (ranges[:, 0], ranges[:, 1]),
            "quality": ([0.5] * n, [1.5] * n),
            "age": ([0.0] * n, ages),
            "echo": (limits.low, limits.high),
            "enabled": ([0.5], [1.5]),
            "timing": ([fastest], [slowest]),
            "times": ([0.0] * 3, [period, slowest, MAX_AGE_S]),
            "state": (state.low, state.high),
            "bits": ([0.5] * len(bits), [1.5] * len(bits)),
            "command": (limits.low, limits.high),
        }
        self.sizes = {name: np.size(low) for name, (low, _) in bounds.items()}
        self.bit_sizes = [state.groups[name][1] - state.groups[name][0] for name in BITS]
        for side, name in enumerate(("low", "high")):
            ends = np.concatenate([np.asarray(pair[side], dtype=np.float32) for pair in bounds.values()])
            self.register_buffer(name, torch.from_numpy(ends))
        self.register_buffer("slots", torch.tensor([*bits, *range(*state.groups["command"])]))
        full, issued = n + m, n + m + 1
        self.sets = Conjunctions(
            self.sizes,
            {
                **{name: [name] for name in ("quality", "range", "age", "timing", "state", "echo", "enabled")},
                "issued": ["state", "command", ("bits", [issued])],
                "scorable": ["state", "echo", "timing", ("bits", [full])],
                "may": ["state", "echo", "timing", "enabled"],
            },
        )

    def forward(
        self,
        obs: Tensor,
        obs_ok: Tensor,
        obs_age: Tensor,
        act_prev: Tensor,
        enable: Tensor,
        dt: Tensor,
        state_in: Tensor,
    ) -> Entry:
        """The ports of one step, (B, size) each."""
        seen = [obs, obs_ok, obs_age, act_prev, enable, dt, dt, dt, dt, state_in, take(state_in, self.slots)]
        ok = within(torch.cat(seen, dim=-1), self.low, self.high)
        part = dict(zip(self.sizes, ok.split(list(self.sizes.values()), dim=-1), strict=True))
        sets = self.sets(ok)
        # Of a state that is none of this graph's, nothing is known.
        known, error_known, *_ = (part["bits"] & sets["state"]).split(self.bit_sizes, dim=-1)
        return Entry(part["quality"] & part["range"] & part["age"], known, error_known, part["times"], sets)
