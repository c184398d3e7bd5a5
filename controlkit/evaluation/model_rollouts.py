"""Model rollouts of a policy in the evaluation model, paired between policies.

Every policy starts from the same recorded states, meets the same recorded exogenous tags and the same noise: a
recorded one-step residual is added to each predicted step (innovations), drawn once for all policies and folds. Each
ensemble member is followed through a whole rollout (TS-infinity of PETS, arXiv 1805.12114), so that a member's error
adds up as a model's error would.
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


@torch.no_grad()
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
    """Rolls a policy out from `rows`.

    Args:
        fold: the model.
        policy: what commands.
        log: recorded transitions; gives the first observation and the exogenous tags.
        rows: (N,) start rows with at least a whole horizon of record after each.
        estimand: horizon and weights.
        seed: of the noise; equal seeds meet every policy and every fold with the same noise.
        judged: whether steps get dynamics rewards.
        filtered: of the members' means and their mean take the one that the run's dynamics reward prefers (MOREC's
            filter without its threshold) instead of each member's own.
    """
    world, ensemble = fold.world, fold.world.ensemble
    members, starts, horizon = len(ensemble.elites), len(rows), estimand.horizon
    batch = members * starts
    generator = torch.Generator().manual_seed(seed)
    member = torch.arange(members).repeat_interleave(starts)  # (B,)
    flat, at = torch.arange(batch), rows.repeat(members)
    observation = log.observe(at)
    judge = policy.dynamics_reward
    weights = estimand.weights
    watched = torch.arange(starts) + starts * (torch.arange(starts) % members)  # (N,)
    frames, actions, rewards, alive_at, scores = [log.frames[at]], [], [], [], []
    returns = torch.zeros(batch, dtype=torch.float64)
    terms = {name: torch.zeros(batch, dtype=torch.float64) for name in world.objective.term_names}
    alive = torch.ones(batch, dtype=torch.bool)
    for step in range(horizon):
        # All draws are made at every step, whatever happened to a rollout: this keeps policies paired.
        draw = torch.randint(len(fold.noise), (batch,), generator=generator)
        noise = torch.empty(batch, len(log.layout.action_tags)).normal_(generator=generator)
        action = command(policy, observation, noise, world.limits)
        means, _ = ensemble(observation, action)  # (E, B, S)
        if filtered and judge is not None:
            candidates = torch.cat([means, means.mean(dim=0, keepdim=True)])  # (E + 1, B, S)
            preferred = torch.stack([judge(observation, action, candidate) for candidate in candidates]).argmax(dim=0)
            state = candidates[preferred, flat]
        else:
            state = means[member, flat]
        next_frame = world.next_frame(state + fold.noise[draw], log.frames[at + 1])
        parts = world.objective.terms(observation, action, next_frame)
        reward = torch.zeros(batch, dtype=torch.float64)
        for name, value in parts.items():
            part = torch.as_tensor(value, dtype=torch.float64) * alive
            reward += part
            terms[name] += weights[step] * part
        returns += weights[step] * reward
        if judged and judge is not None:
            seen = next_frame[watched][:, world.state_columns]
            scores.append(judge(observation[watched], action[watched], seen))
        frames.append(next_frame)
        actions.append(action)
        rewards.append(reward.float())
        alive_at.append(alive)
        alive = alive & ~world.objective.terminated(observation, action, next_frame)
        observation = world.next_observation(observation, action, next_frame)
        at = at + 1
    return RolledOut(
        members,
        starts,
        returns.reshape(members, starts),
        {name: value.reshape(members, starts) for name, value in terms.items()},
        torch.stack(frames),
        torch.stack(actions),
        torch.stack(rewards),
        torch.stack(alive_at),
        watched,
        torch.stack(scores) if scores else torch.zeros(horizon, 0),
    )


def roll_out_folds(
    model: EvaluationModel,
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    rows: Tensor,
    estimand: Estimand,
    seed: int,
    *,
    judged: bool = False,
    filtered: bool = False,
) -> list[RolledOut]:
    """A policy in every fold's model, under the same noise; one entry of `policies` per fold."""
    return [
        roll_out_paired(fold, policy, log, rows, estimand, seed, judged=judged, filtered=filtered)
        for fold, policy in zip(model.folds, policies, strict=True)
    ]


def values(rolled: list[RolledOut], term: str | None = None) -> Tensor:
    """Value from each start by each fold's model, members averaged: (K, N)."""
    return torch.stack([(r.returns if term is None else r.terms[term]).mean(dim=0) for r in rolled])
