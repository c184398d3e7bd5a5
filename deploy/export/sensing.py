"""What stands in for a sample that is not good, for how long, and which samples may be used."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from deploy.bundle.safety import Thresholds
from deploy.export.slots import MAX_AGE_S, MAX_COUNT
from deploy.export.stages import at_most, take

# A held sample's age is a float32 sum of periods: a relative slack keeps it equal to the age that ingest computes.
AGE_SLACK = 1e-4


class Sensed(NamedTuple):
    """The samples of one step; n measured tags, S state tags.

    Attributes:
        frame: (B, n) this sample where it is good, else the last good one.
        fresh: (B, n) whether it is this sample.
        usable: (B, n) whether it may be used: known, young enough, not frozen.
        known: (B, n) whether a good value has ever been seen.
        age: (B, n) seconds.
        repeats: (B, S) exact repeats in a row.
        moving: (B, S) whether these are few enough.
        state_fresh: (B, S) `fresh` of the state tags.
    """

    frame: Tensor
    fresh: Tensor
    usable: Tensor
    known: Tensor
    age: Tensor
    repeats: Tensor
    moving: Tensor
    state_fresh: Tensor


class SensingStage(nn.Module):
    """Age and frozen checks; a missing sample is held while its age allows, as ingest holds it.

    The frozen rule concerns state tags alone: an exogenous tag (a door, a setpoint) may rightly stand still for days.
    """

    max_age: Tensor
    frozen_limit: Tensor
    frozen_column: Tensor
    state_columns: Tensor

    def __init__(self, spec: PlantSpec, layout: Layout, thresholds: Thresholds) -> None:
        super().__init__()
        tags, states = layout.frame_tags, layout.state_tags
        ages = [min(spec.max_age_s(tag) * (1.0 + AGE_SLACK), MAX_AGE_S / 2) for tag in tags]
        repeats = [thresholds.frozen_repeats[tag] for tag in states]
        # The position of each tag among the state tags, or one past the last.
        position = [states.index(tag) if tag in states else len(states) for tag in tags]
        self.register_buffer("max_age", torch.tensor(ages))
        # Where the rule is off the limit lies beyond what the count can reach.
        self.register_buffer("frozen_limit", torch.tensor([2 * MAX_COUNT if r is None else float(r) for r in repeats]))
        self.register_buffer("frozen_column", torch.tensor(position))
        self.register_buffer("state_columns", torch.from_numpy(layout.state_columns))

    def forward(
        self, obs: Tensor, obs_age: Tensor, fresh: Tensor, known_before: Tensor, part: dict[str, Tensor], dt: Tensor
    ) -> Sensed:
        """One step.

        Args:
            obs, obs_age: (B, n) as they come.
            fresh: (B, n) whether quality, range and age are good.
            known_before: (B, n) whether the last step knew a good value.
            part: the state by groups; the last frame, `age` and `repeats` are read.
            dt: (B, 1) seconds by which what is held grows older.
        """
        held = part["observation"][..., : obs.shape[-1]]
        frame = torch.where(fresh, obs, held)
        age = torch.where(fresh, obs_age, at_most(part["age"] + dt, MAX_AGE_S))
        known = fresh | known_before
        state_fresh = take(fresh, self.state_columns)  # (B, S)
        repeated = take(known_before & (obs == held), self.state_columns)
        again = torch.where(repeated, at_most(part["repeats"] + 1.0, MAX_COUNT), 0.0)
        repeats = torch.where(state_fresh, again, part["repeats"])
        moving = repeats < self.frozen_limit
        # One column more, always True, for the tags that the frozen rule does not concern.
        moving_tags = take(torch.cat([moving, torch.ones_like(moving[..., :1])], dim=-1), self.frozen_column)
        usable = known & (age <= self.max_age) & moving_tags
        return Sensed(frame, fresh, usable, known, age, repeats, moving, state_fresh)
