"""Model rollouts of a policy in the evaluation model, paired between policies.

Every policy starts from the same recorded states, meets the same recorded exogenous tags and the same noise: a
recorded one-step residual is added to each predicted step (innovations), drawn once for all policies and folds. Many
policies are rolled out side by side. Each ensemble member is followed through a whole rollout (TS-infinity of PETS,
arXiv 1805.12114), so that a member's error adds up as a model's error would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import EvaluationModel, Fold
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.replay import LoggedTransitions

# Rollouts side by side, at most: more no longer fit the processor's caches.
ROWS = 8192
# A horizon's length in marks.
MARKS = 16


@dataclass(frozen=True)
class RolledOut:
    """Rollouts of one policy in one fold's model: E members x N starts, flattened to B = E N, H steps.

    Attributes:
        members, starts: E, N.
        returns: (E, N) value from each start; terms: the same per term of the objective.
        frames: (H + 1, B, n) the first one recorded; actions: (H, B, m); rewards: (H, B).
        alive: (H, B) whether the plant had not tripped before the step.
        watched: (N,) one rollout of every start, the members by turns; scores: (H, N) dynamics reward of their steps by
            the policy's own run; (H, 0) where none was asked for.
        marks: steps of the first half at which the states of the watched rollouts are kept; visited: (V, N, O) these.
    """

    members: int
    starts: int
    returns: Tensor
    terms: dict[str, Tensor]
    frames: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor
    watched: Tensor
    scores: Tensor
    marks: tuple[int, ...]
    visited: Tensor


def roll_out_paired(
    fold: Fold,
    policy: EvaluatedPolicy,
    log: LoggedTransitions,
    rows: Tensor,
    estimand: Estimand,
    seed: int,
    *,
    judged: bool = False,
    filtered: bool = False,
) -> RolledOut:
    """Rolls one policy out: see `roll_out_together`."""
    return roll_out_together(fold, [policy], log, rows, estimand, seed, judged=judged, filtered=filtered)[0]


@torch.no_grad()
def roll_out_together(
    fold: Fold,
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    rows: Tensor,
    estimand: Estimand,
    seed: int,
    *,
    judged: bool = False,
    filtered: bool = False,
) -> list[RolledOut]:
    """Rolls policies out from `rows`, side by side in one batch.

    Args:
        fold: the model.
        policies: what commands, P of them.
        log: recorded transitions; gives the first observation and the exogenous tags.
        rows: (N,) start rows with at least a whole horizon of record after each.
        estimand: horizon and weights.
        seed: of the noise; equal seeds meet every policy and every fold with the same noise.
        judged: whether steps get dynamics rewards.
        filtered: of the members' means and their mean take the one that the run's dynamics reward prefers (MOREC's
            filter without its threshold) instead of each member's own.
    """
    world, count = fold.world, len(policies)
    members, starts, horizon = len(world.ensemble.elites), len(rows), estimand.horizon
    batch = members * starts
    generator = torch.Generator().manual_seed(seed)
    at = rows.repeat(members)  # (B,)
    observation = log.observe(at).expand(count, -1, -1)  # (P, B, O)
    weights = estimand.weights
    watched = torch.arange(starts) + starts * (torch.arange(starts) % members)  # (N,)
    marks = tuple(range(0, horizon // 2 + 1, max(1, horizon // MARKS)))
    frames, actions, rewards, alive_at = [log.frames[at].expand(count, -1, -1)], [], [], []
    scores: list[list[Tensor]] = [[] for _ in policies]
    visited = []
    returns = torch.zeros(count, batch, dtype=torch.float64)
    terms = {name: torch.zeros(count, batch, dtype=torch.float64) for name in world.objective.term_names}
    alive = torch.ones(count, batch, dtype=torch.bool)
    for step in range(horizon):
        # All draws are made at every step, whatever happened to a rollout: this keeps policies paired.
        draw = torch.randint(len(fold.noise), (batch,), generator=generator)
        noise = torch.empty(batch, len(log.layout.action_tags)).normal_(generator=generator)
        action = torch.stack(
            [command(each, seen, noise, world.limits) for each, seen in zip(policies, observation, strict=True)]
        )  # (P, B, m)
        if step in marks:
            visited.append(observation[:, watched])
        if filtered:
            state = _preferred(fold, policies, observation, action)
        else:
            state = _by_own_member(fold, observation, action)
        known = log.frames[at + 1].expand(count, -1, -1)
        flat = (observation.flatten(0, 1), action.flatten(0, 1))
        next_frame = world.next_frame((state + fold.noise[draw]).flatten(0, 1), known.flatten(0, 1))
        parts = world.objective.terms(*flat, next_frame)
        reward = torch.zeros(count, batch, dtype=torch.float64)
        for name, value in parts.items():
            whole = torch.as_tensor(value, dtype=torch.float64).expand(count * batch).reshape(count, batch)
            part = whole * alive
            reward += part
            terms[name] += weights[step] * part
        returns += weights[step] * reward
        frames.append(next_frame.reshape(count, batch, -1))
        if judged:
            for number, policy in enumerate(policies):
                if policy.dynamics_reward is not None:
                    seen, given = observation[number, watched], action[number, watched]
                    after = frames[-1][number, watched][:, world.state_columns]
                    scores[number].append(policy.dynamics_reward(seen, given, after))
        actions.append(action)
        rewards.append(reward.float())
        alive_at.append(alive)
        alive = alive & ~world.objective.terminated(*flat, next_frame).reshape(count, batch)
        observation = world.next_observation(*flat, next_frame).reshape(count, batch, -1)
        at = at + 1
    return [
        RolledOut(
            members,
            starts,
            returns[number].reshape(members, starts),
            {name: value[number].reshape(members, starts) for name, value in terms.items()},
            torch.stack([each[number] for each in frames]),
            torch.stack([each[number] for each in actions]),
            torch.stack([each[number] for each in rewards]),
            torch.stack([each[number] for each in alive_at]),
            watched,
            torch.stack(scores[number]) if scores[number] else torch.zeros(horizon, 0),
            marks,
            torch.stack([each[number] for each in visited]),
        )
        for number in range(count)
    ]


def roll_out_folds(
    model: EvaluationModel,
    policies: Sequence[Sequence[EvaluatedPolicy]],
    log: LoggedTransitions,
    rows: Tensor,
    estimand: Estimand,
    seed: int,
    *,
    judged: bool = False,
    filtered: bool = False,
) -> list[list[RolledOut]]:
    """Policies in every fold's model, under the same noise: (P, K), from a policy's form in each fold (P, K)."""
    found: list[list[RolledOut]] = [[] for _ in policies]
    at_once = max(1, ROWS // (len(rows) * len(model.folds[0].world.ensemble.elites)))
    for number, fold in enumerate(model.folds):
        for first in range(0, len(policies), at_once):
            together = [each[number] for each in policies[first : first + at_once]]
            rolled = roll_out_together(fold, together, log, rows, estimand, seed, judged=judged, filtered=filtered)
            for place, each in enumerate(rolled, start=first):
                found[place].append(each)
    return found


def values(rolled: list[RolledOut], term: str | None = None) -> Tensor:
    """Value from each start by each fold's model, members averaged: (K, N)."""
    return torch.stack([(r.returns if term is None else r.terms[term]).mean(dim=0) for r in rolled])


def _by_own_member(fold: Fold, observation: Tensor, action: Tensor) -> Tensor:
    """The next state tags of rollouts (P, B, O), each by the member that it follows: (P, B, S)."""
    ensemble, (count, batch, _) = fold.world.ensemble, observation.shape
    members = len(ensemble.elites)

    def apart(x: Tensor) -> Tensor:  # (P, E N, .) -> (E, P N, .): no member computes what another is asked
        return x.reshape(count, members, batch // members, -1).transpose(0, 1).flatten(1, 2)

    means, _ = ensemble(apart(observation), apart(action))  # (E, P N, S)
    own: Tensor = means.reshape(members, count, batch // members, -1).transpose(0, 1).flatten(1, 2)
    return own


def _preferred(fold: Fold, policies: Sequence[EvaluatedPolicy], observation: Tensor, action: Tensor) -> Tensor:
    """The next state tags that each policy's dynamics reward prefers (without one: its own member's): (P, B, S)."""
    state = _by_own_member(fold, observation, action).clone()
    for number, policy in enumerate(policies):
        judge = policy.dynamics_reward
        if judge is None:
            continue
        seen, given = observation[number], action[number]
        means, _ = fold.world.ensemble(seen, given)  # (E, B, S)
        candidates = torch.cat([means, means.mean(dim=0, keepdim=True)])  # (E + 1, B, S)
        preferred = torch.stack([judge(seen, given, candidate) for candidate in candidates]).argmax(dim=0)
        state[number] = candidates[preferred, torch.arange(len(seen))]
    return state
