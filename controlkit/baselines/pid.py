"""A PI or PID controller per actuator: the baseline that every plant already has.

The law is the velocity form that the edge falls back on (`PIFallback`), with an optional derivative part:

    u = u_last + K ((e - e_1) + e dt / T_i + T_d (e - 2 e_1 + e_2) / dt),    e = measured - setpoint

All it needs is in the observation (the last command, past samples of the measured tag), so that it is a policy like any
other, and the clamp and rate limit that follow are its anti-windup. See `pid_tuning.py` for its gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from controlkit.errors import SpecError, nearest
from controlkit.layout import Layout
from controlkit.spec import PIFallback, PlantSpec


@dataclass(frozen=True)
class Loop:
    """One actuator's controller: gain in units of the actuator per unit of the measured tag, times in seconds."""

    actuator: str
    gain: float
    reset_time_s: float
    derivative_time_s: float = 0.0


class PIDPolicy:
    """Velocity PIDs as a policy; an actuator without a loop holds its command.

    Args:
        spec: the plant, whose `pi` fallbacks say what each actuator controls.
        loops: the gains; those of the fallbacks where none are given.

    Raises:
        SpecError: the observation lacks what the law needs, or there is no actuator with a `pi` fallback.
    """

    def __init__(self, spec: PlantSpec, loops: Sequence[Loop] | None = None) -> None:
        self.spec, layout = spec, Layout.from_spec(spec)
        fallbacks = {tag: spec.tags[tag].fallback for tag in layout.action_tags}
        pis = {tag: fallback for tag, fallback in fallbacks.items() if isinstance(fallback, PIFallback)}
        if not pis:
            raise SpecError(
                "no actuator has a fallback of kind 'pi', so there is no loop to tune",
                where=f"plant {spec.name}",
                cure="Say which tag an actuator controls: fallback: {kind: pi, measured: ..., setpoint: ...}.",
            )
        self.loops = tuple(loops or (Loop(tag, pi.gain, pi.reset_time_s) for tag, pi in pis.items()))
        for loop in self.loops:
            if loop.actuator not in pis:
                raise SpecError(
                    f"has no fallback of kind 'pi', so that a loop on it has nothing to control; {nearest('', pis)}",
                    where=f"plant {spec.name}, tags.{loop.actuator}",
                )
        derivative = any(loop.derivative_time_s for loop in self.loops)
        self._wiring = {tag: _Wiring.of(spec, layout, tag, pi, 2 if derivative else 1) for tag, pi in pis.items()}
        self._held = [
            (spec.tags[tag].safe or 0.0) if slot is None else slot
            for tag, slot in zip(layout.action_tags, layout.previous_command(), strict=True)
        ]

    def __call__(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """The command before clamp and rate limit: (B, O) -> (B, m). The noise of a stochastic policy is ignored."""
        settings = torch.tensor([[loop.gain, loop.reset_time_s, loop.derivative_time_s] for loop in self.loops])
        return self.command(observation, settings.to(observation).unsqueeze(0))

    def command(self, observation: Tensor, settings: Tensor) -> Tensor:
        """The same with other gains: (B, O) and gain, reset time, derivative time (B or 1, L, 3) -> (B, m)."""
        loops = {loop.actuator: number for number, loop in enumerate(self.loops)}
        commands = []
        for tag, held in zip(self.spec.action_tags, self._held, strict=True):
            last = observation[:, held] if isinstance(held, int) else torch.full_like(observation[:, 0], held)
            if tag in loops:
                gain, reset, derivative = settings[:, loops[tag]].unbind(dim=-1)
                errors, period = self._wiring[tag].errors(observation), self.spec.period_s
                change = errors[0] - errors[1] + errors[0] * period / reset
                if len(errors) > 2:
                    change = change + derivative * (errors[0] - 2.0 * errors[1] + errors[2]) / period
                last = last + gain * change
            commands.append(last)
        return torch.stack(commands, dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"loops": [asdict(loop) for loop in self.loops]}

    @classmethod
    def from_dict(cls, spec: PlantSpec, content: dict[str, Any]) -> PIDPolicy:
        """Reads what `to_dict` wrote."""
        return cls(spec, [Loop(**loop) for loop in content["loops"]])


@dataclass(frozen=True)
class _Wiring:
    """Slots of a loop's measured tag and setpoint, the newest first; a constant setpoint has no slots."""

    measured: tuple[int, ...]
    setpoint: tuple[int, ...]
    constant: float

    @classmethod
    def of(cls, spec: PlantSpec, layout: Layout, tag: str, pi: PIFallback, samples: int) -> _Wiring:
        known = {slot.name: at for at, slot in enumerate(layout.slots)}
        past = [f"{pi.measured}@-{lag}" for lag in range(1, samples + 1)]
        missing = [name for name in (*past, f"{tag}@-1") if name not in known]
        if missing:
            name, lag = missing[0].split("@-")
            raise SpecError(
                f"a PID on '{tag}' needs '{missing[0]}' in the observation",
                where=f"plant {spec.name}, tags.{name}",
                cure=f"Give '{name}' a history of {lag} or more.",
            )
        if not isinstance(pi.setpoint, str):
            return cls(tuple(known[name] for name in (pi.measured, *past)), (), float(pi.setpoint))
        # Where the past of a setpoint is not observed, its current value stands in: its change then acts through the
        # integral part alone.
        setpoints = [known.get(f"{pi.setpoint}@-{lag}", known[pi.setpoint]) for lag in range(1, samples + 1)]
        return cls(tuple(known[name] for name in (pi.measured, *past)), (known[pi.setpoint], *setpoints), 0.0)

    def errors(self, observation: Tensor) -> list[Tensor]:
        """e, e_1, (e_2): (B, O) -> (B,) each."""
        if not self.setpoint:
            return [observation[:, at] - self.constant for at in self.measured]
        return [observation[:, at] - observation[:, to] for at, to in zip(self.measured, self.setpoint, strict=True)]
