"""Gains for the PID loops of a plant, tuned on its world model by differential evolution.

Every candidate is rolled out from the same logged starts, along the same recorded exogenous tags, with the plant's own
objective, clamp and rate limit. No simulator is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from controlkit.baselines.pid import Loop, PIDPolicy
from controlkit.baselines.search import differential_evolution
from controlkit.errors import DataError
from controlkit.layout import Layout
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.objective import CommandLimits, Objective
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from controlkit.spec import PIFallback, PlantSpec

# The box that is searched, in decades: gains in spans of the actuator per range of the measured tag, times in periods.
GAIN_DECADES, RESET_DECADES, DERIVATIVE_DECADES = (-2.0, 2.5), (-1.0, 3.0), (-3.0, 1.0)


class World(Protocol):
    """What tuning needs of a world model (`morec.dynamics.WorldModel` is one)."""

    ensemble: GaussianEnsemble
    layout: Layout
    objective: Objective
    limits: CommandLimits

    def next_frame(self, state: Tensor, known: Tensor) -> Tensor:
        """Predicted state tags (B, S) in the frame (B, n) of the known tags."""

    def next_observation(self, observation: Tensor, action: Tensor, next_frame: Tensor) -> Tensor:
        """(B, O), (B, m), (B, n) -> (B, O)."""


@dataclass(frozen=True)
class Tuning:
    """How gains are sought.

    Attributes:
        derivative: whether there is a derivative part.
        starts: model rollouts per candidate; horizon: their steps.
        population, generations: of the search.
    """

    derivative: bool = False
    starts: int = 48
    horizon: int = 60
    population: int = 24
    generations: int = 30


@dataclass(frozen=True)
class TunedPID:
    """What came of a search.

    Attributes:
        policy: the controller.
        reward: its mean reward per step on the model; `reward_before` with the gains of the plant file.
        generations: made until the population agreed.
    """

    policy: PIDPolicy
    reward: float
    reward_before: float
    generations: int


def tune_pid(
    world: World,
    log: LoggedTransitions,
    tuning: Tuning,
    generator: torch.Generator,
    progress: Progress,
    residuals: Tensor | None = None,
) -> TunedPID:
    """Tunes all loops of a plant together on its world model.

    Args:
        world: the model; each start belongs to one of its elites, whatever the candidate.
        log: recorded transitions; give starts and exogenous tags.
        tuning: how.
        generator: random draws; all candidates meet the same starts and the same noise.
        progress: one unit per generation.
        residuals: (R, S) recorded one-step residuals that are added, as noise of the sensors, to what the controller
            sees; rewards are judged before. `None` for none.

    Raises:
        SpecError: the plant gives no loop, or the observation lacks what the law needs.
        DataError: no episode of the log is long enough.
    """
    spec = world.objective.spec
    given = PIDPolicy(spec)
    # A derivative part that starts near nothing; the search may let it grow.
    start = [
        Loop(loop.actuator, loop.gain, loop.reset_time_s, spec.period_s * 1e-3 if tuning.derivative else 0.0)
        for loop in given.loops
    ]
    policy = PIDPolicy(spec, start)
    box = _Box(spec, policy.loops, tuning.derivative)
    trial = _Trial(world, policy, log, tuning, generator, residuals)
    progress.start("PID tuning", tuning.generations + 1)

    def cost(points: Tensor) -> Tensor:
        values = -trial.rewards(box.settings(points))
        progress.advance(note=f"reward {-float(values.min()):.4g}")
        return values

    found = differential_evolution(
        cost,
        box.low,
        box.high,
        generator,
        start=box.point(policy.loops).unsqueeze(0),
        population=tuning.population,
        generations=tuning.generations,
    )
    before = float(trial.rewards(box.given(given.loops))[0])
    return TunedPID(PIDPolicy(spec, box.loops(found.point)), -found.value, before, found.generations)


class _Box:
    """Decades of the gains and times of all loops, as the points (P, D) of a search; signs stay as given."""

    def __init__(self, spec: PlantSpec, loops: Sequence[Loop], derivative: bool) -> None:
        self.actuators, units, signs = [loop.actuator for loop in loops], [], []
        for loop in loops:
            fallback = spec.tags[loop.actuator].fallback
            assert isinstance(fallback, PIFallback)
            low, high = spec.limits(loop.actuator)
            least, most = spec.tags[fallback.measured].range
            units.append([(high - low) / (most - least), spec.period_s, spec.period_s])
            signs.append([-1.0 if loop.gain < 0 else 1.0, 1.0, 1.0])
        self.kinds = 3 if derivative else 2
        self.unit, self.sign = torch.tensor(units), torch.tensor(signs)  # (L, 3)
        decades = torch.tensor([GAIN_DECADES, RESET_DECADES, DERIVATIVE_DECADES][: self.kinds])
        self.low, self.high = (decades[:, side].repeat(len(loops)) for side in (0, 1))  # (D,)

    def settings(self, points: Tensor) -> Tensor:
        """(P, D) -> gain, reset time, derivative time (P, L, 3)."""
        decades = points.reshape(len(points), len(self.actuators), self.kinds)
        found = 10.0**decades * (self.unit * self.sign)[:, : self.kinds]
        return torch.nn.functional.pad(found, (0, 3 - self.kinds))

    def given(self, loops: Sequence[Loop]) -> Tensor:
        """(1, L, 3) as they are."""
        return torch.tensor([[[loop.gain, loop.reset_time_s, loop.derivative_time_s] for loop in loops]])

    def point(self, loops: Sequence[Loop]) -> Tensor:
        """(D,) where the gains lie in the box; a gain of 0 lies at its low end."""
        share = (self.given(loops)[0] / self.unit).abs()[:, : self.kinds]
        return share.clamp(min=1e-12).log10().reshape(-1)

    def loops(self, point: Tensor) -> list[Loop]:
        """The loops at a point (D,)."""
        return [
            Loop(actuator, *(float(value) for value in values))
            for actuator, values in zip(self.actuators, self.settings(point.unsqueeze(0))[0], strict=True)
        ]


class _Trial:
    """Model rollouts of many candidates at once, all from the same starts and under the same noise."""

    def __init__(
        self,
        world: World,
        policy: PIDPolicy,
        log: LoggedTransitions,
        tuning: Tuning,
        generator: torch.Generator,
        residuals: Tensor | None,
    ) -> None:
        self.world, self.policy, self.log = world, policy, log
        self.horizon = min(tuning.horizon, int(log.remaining[log.rows].max()))
        rows = log.rows[log.remaining[log.rows] >= self.horizon]
        if self.horizon < 2:
            raise DataError("no episode is long enough to try a controller on", where="PID tuning")
        draw = torch.randint(len(rows), (tuning.starts,), generator=generator, device=rows.device)
        self.rows = rows[draw]
        self.noise: Tensor | None = None
        if residuals is not None:
            at = torch.randint(len(residuals), (self.horizon, tuning.starts), generator=generator, device=rows.device)
            self.noise = residuals[at]  # (H, N, S)

    @torch.no_grad()
    def rewards(self, settings: Tensor) -> Tensor:
        """Mean reward per step: (P, L, 3) -> (P,). After a trip its last reward counts for all steps that are left."""
        world, count, starts = self.world, len(settings), len(self.rows)
        rows = self.rows.repeat(count)  # (P N,)
        each = settings.to(self.log.frames).repeat_interleave(starts, dim=0)
        elite = (torch.arange(starts, device=rows.device) % len(world.ensemble.elites)).repeat(count)
        flat = torch.arange(len(rows), device=rows.device)
        observation = self.log.observe(rows)
        total, last = torch.zeros_like(observation[:, 0]), torch.zeros_like(observation[:, 0])
        alive = torch.ones_like(rows, dtype=torch.bool)
        for step in range(self.horizon):
            action = world.limits.apply(self.policy.command(observation, each), observation)
            means, _ = world.ensemble(observation, action)  # (E, P N, S)
            state = means[elite, flat]
            frame = world.next_frame(state, self.log.frames[rows + 1])
            last = torch.where(alive, world.objective.reward(observation, action, frame), last)
            total += last
            alive &= ~world.objective.terminated(observation, action, frame)
            if self.noise is not None:
                frame = world.next_frame(state + self.noise[step].repeat(count, 1), frame)
            observation = world.next_observation(observation, action, frame)
            rows = rows + 1
        return total.reshape(count, starts).mean(dim=1).cpu() / self.horizon
