"""Model rollouts: a policy in the world model, along recorded exogenous tags, clamped and rate limited as exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from controlkit.config import RolloutConfig
from controlkit.morec.constraints import fixed_price
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.exogenous import Record
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.replay import LoggedTransitions

Policy = Callable[[Tensor], Tensor]


class Rollouts(NamedTuple):
    """T steps of many rollouts, in order of step.

    Attributes:
        start: (T,) which rollout; step: (T,) number of the step in it.
        observation (T, O), action (T, m), next_frame (T, n), reward (T,), terminated (T,).
        score: (T,) dynamics reward of the chosen transition (NaN where the filter is off).
        disagreement, max_std: (T,) in units of the log's typical change.
        accepted: (T,) false where a rejected transition was kept as the end of its rollout.
        rejected: how many rollouts the threshold ended; `ran_out`: how many the record ended.
    """

    start: Tensor
    step: Tensor
    observation: Tensor
    action: Tensor
    next_frame: Tensor
    reward: Tensor
    terminated: Tensor
    score: Tensor
    disagreement: Tensor
    max_std: Tensor
    accepted: Tensor
    rejected: int
    ran_out: int


@torch.no_grad()
def roll_out(
    world: WorldModel,
    transition_filter: TransitionFilter,
    policy: Policy,
    log: LoggedTransitions,
    rows: Tensor,
    length: int,
    generator: torch.Generator,
    residuals: Tensor | None = None,
    member_per_rollout: bool = False,
    exogenous: Record | None = None,
    ruin: float | None = None,
) -> Rollouts:
    """Rolls `policy` out from recorded observations.

    A rollout ends after `length` steps, where the plant trips (`terminated`), where no candidate is accepted (the
    rejected transition is discarded, and the row before it bootstraps as usual; or, with a `ruin`, it is kept as an end
    that earns so much), or where the record of the exogenous tags ends and nothing continues it.

    Args:
        world: structure, reward and limits of the plant.
        transition_filter: predicts and chooses.
        policy: (B, O) -> (B, m), engineering units; clamped and rate limited here.
        log: recorded transitions; gives the first observation and the exogenous tags.
        rows: (B,) rows to start from.
        length: steps at most.
        generator: random draws.
        residuals: (R, S) recorded one-step residuals, one of which is added, as noise of the sensors, to what the
            policy sees of each chosen transition; `None` for none.
        member_per_rollout: every rollout lives in the world of one elite, drawn at its start.
        exogenous: what the exogenous and static tags follow; the record where it is `None`.
        ruin: reward of a rejected transition, which is then an end; such transitions are discarded where it is `None`.
    """
    exogenous = exogenous or Record(log)
    observation, rollout = log.observe(rows), torch.arange(len(rows), device=rows.device)
    member = draw_members(transition_filter, len(rows), generator) if member_per_rollout else None
    steps: list[tuple[Tensor, ...]] = []
    rejected = ran_out = 0
    for number in range(length):
        step = take_step(
            world,
            transition_filter,
            policy,
            exogenous,
            observation,
            rows,
            generator,
            residuals=residuals,
            member=member,
            ruin=ruin,
        )
        kept, alive = step.kept, step.accepted & ~step.terminated & step.lasting
        record = (rollout, torch.full_like(rollout, number), observation, *step.recorded())
        observation, rows = step.following, step.onward
        # Ends are rare: most steps need no selection at all.
        if bool(alive.all()):
            steps.append(record)
            continue
        steps.append(tuple(part[kept] for part in record))
        rejected += int((~step.accepted).sum())
        ran_out += int((kept & ~step.terminated & ~step.lasting).sum())
        observation, rollout, rows = observation[alive], rollout[alive], rows[alive]
        member = None if member is None else member[alive]
        if not len(rows):
            break
    joined = [torch.cat(parts) for parts in zip(*steps, strict=True)]
    return Rollouts._make([*joined, rejected, ran_out])


class Step(NamedTuple):
    """One step of B rollouts: what a `Rollouts` records of it, then whether it is kept (B,), the observation (B, O) and
    row of the log (B,) that follow, and whether the record goes on there (B,)."""

    action: Tensor
    next_frame: Tensor
    reward: Tensor
    terminated: Tensor
    score: Tensor
    disagreement: Tensor
    max_std: Tensor
    accepted: Tensor
    kept: Tensor
    following: Tensor
    onward: Tensor
    lasting: Tensor

    def recorded(self) -> tuple[Tensor, ...]:
        """From the action to whether it was accepted, in the order of `Rollouts`."""
        return tuple(self[: Step._fields.index("kept")])


def take_step(
    world: WorldModel,
    transition_filter: TransitionFilter,
    policy: Policy,
    exogenous: Record,
    observation: Tensor,
    rows: Tensor,
    generator: torch.Generator,
    *,
    residuals: Tensor | None,
    member: Tensor | None,
    ruin: float | None = None,
) -> Step:
    """One step of all rollouts (see `roll_out`), from observations (B, O) and rows (B,) of the log.

    Nothing is read back to the host, so that a CUDA graph can hold it.
    """
    action = world.limits.apply(policy(observation), observation)
    chosen = transition_filter(observation, action, generator, member)
    next_frame = world.next_frame(chosen.state, exogenous.known(rows, observation))
    # Judged before noise is added: what counts is what the plant does, not what its sensors make of it.
    reward = world.objective.reward(observation, action, next_frame)
    terminated = world.objective.terminated(observation, action, next_frame)
    kept = chosen.accepted
    if ruin is not None:
        reward = torch.where(chosen.accepted, reward, ruin)
        terminated, kept = terminated | ~chosen.accepted, torch.ones_like(kept)
    if residuals is not None:
        draw = torch.randint(len(residuals), (len(rows),), generator=generator, device=rows.device)
        next_frame = world.next_frame(chosen.state + residuals[draw], next_frame)
    following = world.next_observation(observation, action, next_frame)
    onward, lasting = exogenous.advance(rows, generator)
    return Step(
        action,
        next_frame,
        reward,
        terminated,
        chosen.score,
        chosen.disagreement,
        chosen.max_std,
        chosen.accepted,
        kept,
        following,
        onward,
        lasting,
    )


def draw_members(transition_filter: TransitionFilter, count: int, generator: torch.Generator) -> Tensor:
    """An elite for each rollout: (B,)."""
    elites = transition_filter.ensemble.elites
    return torch.randint(len(elites), (count,), generator=generator, device=elites.device)


# A change of an exogenous tag is an event if it is among the largest fiftieth, or the tag hardly ever changes.
EVENT_QUANTILE = 0.98


class StartRows:
    """Draws the rows of the log that rollouts begin at: uniform, with shares near episodes' beginnings and events.

    Args:
        log: recorded transitions.
        config: the shares.
    """

    def __init__(self, log: LoggedTransitions, config: RolloutConfig) -> None:
        self.log, self.config = log, config
        self.early = log.rows[log.position[log.rows] < log.layout.depth + config.length]
        self.events = log.rows[_before_events(log, config.length)[log.rows]]

    def draw(self, generator: torch.Generator) -> Tensor:
        """(starts,) rows."""
        rows = self.log.sample(self.config.starts, generator)
        begin = 0
        for near, share in ((self.early, self.config.early_starts), (self.events, self.config.event_starts)):
            count = round(share * self.config.starts) if len(near) else 0
            drawn = torch.randint(max(1, len(near)), (count,), generator=generator, device=rows.device)
            rows[begin : begin + count] = near[drawn]
            begin += count
        return rows


def _before_events(log: LoggedTransitions, length: int) -> Tensor:
    """(N,) whether an exogenous tag changes much within the next `length` rows of the same episode."""
    layout = log.layout
    exogenous = [i for i, tag in enumerate(layout.frame_tags) if tag not in layout.state_tags]
    event = torch.zeros(len(log.frames), dtype=torch.bool, device=log.rows.device)
    for tag in exogenous:
        value = log.frames[:, tag]
        column = (value[1:] - value[:-1]).abs()  # (N - 1,)
        column[log.remaining[:-1] == 0] = 0.0
        known = column[torch.isfinite(column)]
        cut = float(known.sort().values[int(EVENT_QUANTILE * (len(known) - 1))]) if len(known) else 0.0
        event[:-1] |= (column >= cut) & (column > 0)  # a tag that rarely switches has a quantile of 0
    ahead = torch.zeros_like(event)
    for lag in range(min(length, len(event))):
        ahead[: len(event) - lag] |= event[lag:] & (log.remaining[: len(event) - lag] > lag)
    return ahead


def training_reward(rollouts: Rollouts, world: WorldModel, config: RolloutConfig, reward_spread: float) -> Tensor:
    """The reward that the policy is trained on: the objective, less what doubt costs and, where constraints have a
    fixed price, violations: (T,). Multipliers change, so that they are charged later: see `constraints.py`."""
    reward = rollouts.reward
    if config.penalty in ("disagreement", "max_std"):  # MOBILE's penalty is on the targets: see `bellman_doubt.py`
        doubt = rollouts.disagreement if config.penalty == "disagreement" else rollouts.max_std
        reward = reward - config.penalty_coefficient * reward_spread * doubt
    if config.constraints == "penalty":
        reward = reward - reward_spread * fixed_price(world.objective, rollouts.next_frame, config)
    # What a ruin earns is all that is held against it.
    return torch.where(rollouts.accepted, reward, rollouts.reward)
