"""The fallback: what commands each actuator while the policy may not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from controlkit.models.actor import BehaviourClone
from controlkit.spec import OperatorFallback, PIFallback, PlantSpec, RampFallback
from deploy.export.networks import LeanClone
from deploy.export.slots import MAX_MAGNITUDE, error_slot
from deploy.export.stages import every, limited, safe_values, take, within


class Situation(NamedTuple):
    """What a fallback acts on.

    Attributes:
        frame, usable: (B, n) samples, and whether each may be used.
        observation: (B, O) all of it, with its history.
        whole: (B, 1) whether the observation is known throughout.
        reference: (B, m) the command in force.
        dt: (B, 1) seconds.
    """

    frame: Tensor
    usable: Tensor
    observation: Tensor
    whole: Tensor
    reference: Tensor
    dt: Tensor


class FallbackOut(NamedTuple):
    """What the fallback wants.

    Attributes:
        wish: (B, m) before rate and limits.
        error, error_known: (B, m) for the next step's velocity PI.
        sighted: (B, m) whether nothing that it needs is missing.
        cloned: (B, m) what the cloned operator would command; `None` where no actuator falls back on it.
    """

    wish: Tensor
    error: Tensor
    error_known: Tensor
    sighted: Tensor
    cloned: Tensor | None


class FallbackStage(nn.Module):
    """What commands each actuator while the policy may not: velocity PI, hold, ramp to the safe value, or the operator.

    The first three start from the reference (the command in force), so that taking over is never a jump, and the clamp
    that follows is the anti-windup: nothing is integrated but the actual command. A PI whose measurement is not usable
    moves its actuator to the safe value, slowly. The cloned operator commands what the log's operator would, as fast as
    the rate limit lets it, and holds the reference while its observation is not whole.

    Args:
        spec: the plant.
        clone: the cloned operator; taken along only where an actuator falls back on it.
        blind_ramp_s: seconds in which an actuator without measurement crosses its whole span.
    """

    is_pi: Tensor
    is_operator: Tensor
    needs_no_measurement: Tensor
    needs_no_history: Tensor
    gain: Tensor
    inverse_reset: Tensor
    measured: Tensor
    setpoint_column: Tensor
    sight_column: Tensor
    setpoint_is_tag: Tensor
    setpoint: Tensor
    safe: Tensor
    walk_rate: Tensor
    error_bound: Tensor

    def __init__(self, spec: PlantSpec, clone: BehaviourClone, blind_ramp_s: float) -> None:
        super().__init__()
        frame, actions = spec.frame_tags, spec.action_tags
        fallbacks = [spec.tags[tag].fallback for tag in actions]
        pis = [f if isinstance(f, PIFallback) else None for f in fallbacks]
        ramps = [f if isinstance(f, RampFallback) else None for f in fallbacks]
        rates = [
            0.0 if ramp is None else ramp.rate_per_s or spec.tags[tag].max_rate_per_s or 0.0
            for ramp, tag in zip(ramps, actions, strict=True)
        ]
        tags = [pi.setpoint if pi is not None and isinstance(pi.setpoint, str) else None for pi in pis]
        constants = [float(pi.setpoint) if pi is not None and not isinstance(pi.setpoint, str) else 0.0 for pi in pis]
        operators = [isinstance(f, OperatorFallback) for f in fallbacks]
        low, high = np.array([spec.limits(tag) for tag in actions], dtype=np.float64).T
        self.clone = LeanClone(clone) if any(operators) else None
        self.register_buffer("is_pi", torch.tensor([pi is not None for pi in pis]))
        self.register_buffer("is_operator", torch.tensor(operators))
        self.register_buffer("needs_no_measurement", torch.tensor([pi is None for pi in pis]))
        self.register_buffer("needs_no_history", torch.tensor([not operator for operator in operators]))
        self.register_buffer("gain", torch.tensor([0.0 if pi is None else pi.gain for pi in pis]))
        self.register_buffer(
            "inverse_reset", torch.tensor([0.0 if pi is None else 1.0 / pi.reset_time_s for pi in pis])
        )
        self.register_buffer("measured", torch.tensor([0 if pi is None else frame.index(pi.measured) for pi in pis]))
        self.register_buffer("setpoint_column", torch.tensor([0 if tag is None else frame.index(tag) for tag in tags]))
        # A constant setpoint is always known: the measured tag stands in for its column.
        sight = torch.where(torch.tensor([tag is not None for tag in tags]), self.setpoint_column, self.measured)
        self.register_buffer("sight_column", sight)
        self.register_buffer("setpoint_is_tag", torch.tensor([tag is not None for tag in tags]))
        self.follows_tags = any(tag is not None for tag in tags)
        self.register_buffer("setpoint", torch.tensor(constants))
        self.register_buffer("safe", torch.from_numpy(safe_values(spec)))
        # Towards the safe value: a PI while it is blind, a ramp at its rate, the others not at all.
        walks = np.where([pi is not None for pi in pis], (high - low) / blind_ramp_s, rates)
        self.register_buffer("walk_rate", torch.from_numpy(walks.astype(np.float32)))
        bounds = [error_slot(spec, tag)[3] for tag in actions]
        self.register_buffer("error_bound", torch.tensor(bounds))

    def forward(self, now: Situation, last_error: Tensor, last_known: Tensor) -> FallbackOut:
        """One step; last error and whether it is known: (B, m)."""
        reference, frame, dt = now.reference, now.frame, now.dt
        setpoint = self.setpoint
        if self.follows_tags:
            setpoint = torch.where(self.setpoint_is_tag, take(frame, self.setpoint_column), setpoint)
        measured = take(now.usable, self.measured) & take(now.usable, self.sight_column)
        error = limited(take(frame, self.measured) - setpoint, -self.error_bound, self.error_bound)
        change = torch.where(last_known, error - last_error, 0.0)
        pi = reference + self.gain * (change + error * dt * self.inverse_reset)
        safe = self.safe.expand_as(reference)
        reach = self.walk_rate * dt
        walk = limited(safe, reference - reach, reference + reach)
        wish = torch.where(self.is_pi & measured, pi, walk)
        sighted, cloned = measured | self.needs_no_measurement, None
        if self.clone is not None:
            # The clone's own forward clamps by Min and Max, which differ between runtimes where they meet NaN.
            cloned = self.clone(now.observation)
            whole = now.whole & every(within(cloned, -MAX_MAGNITUDE, MAX_MAGNITUDE))
            command = torch.where(whole, limited(cloned, self.clone.low, self.clone.high), reference)
            wish = torch.where(self.is_operator, command, wish)
            sighted = sighted & (whole | self.needs_no_history)
        return FallbackOut(wish, error, measured, sighted, cloned)
