"""Fitted Q evaluation (Le, Voloshin, Yue 2019, arXiv 1903.08738): the value of policies straight from recorded
transitions.

It neither rolls out a model nor cuts at a horizon, so that it fails in other ways than rollouts do. For every policy
an ensemble of networks learns Q(s, a) of that policy; all of them (policies x members) are one batched network.
Deviations from the paper: averaged target networks in place of frozen ones; each member sees its own moving-block
bootstrap sample of the log, so that the members' spread is the sampling error; each member's linear path starts at
its least-squares solution (LSTDQ, Lagoudakis & Parr 2003), so that the perceptron learns only what is left; and the
networks see, beside (s, a), what the known objective makes of it (`value_features`). They learn (1 - gamma) Q of
scaled rewards, whose size does not depend on gamma.

Limits are judged by the same networks: an output for each learns the (1 - gamma) discounted sum of the indicator that a
sample lies outside, the share of samples outside, near ones counting more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.config import ScalingConfig
from controlkit.errors import TrainingError
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.limits import Limit, recorded_outside
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.models.layers import BatchedLinear, BatchedMLP
from controlkit.morec.log_support import thin
from controlkit.objective import Objective
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions

HIDDEN = (64, 64)
BATCH = 256
LEARNING_RATE, WEIGHT_DECAY, TAU = 1e-3, 1e-2, 0.01
# Ridge of the linear start, as a share of the features' variance: decides between what the log cannot tell apart.
RIDGE = 1e-3
# Draws of a stochastic policy's next command that are held per transition.
DRAWS = 2
# Recorded steps whose temporal-difference errors are kept.
MAX_ERRORS = 8192


@dataclass(frozen=True)
class FittedValues:
    """What FQE found.

    Attributes:
        values: (P, M, N) value from each start state, per policy and member, plant units per period.
        outside: (P, M, N, L) the same of each limit's indicator: the discounted share of samples outside.
        bellman: (P,) what remains of the Bellman error, root mean square, in spreads of the reward.
        rows: (R,) recorded steps, evenly over the log; errors: (P, R) their temporal-difference errors
            (1 - gamma) r + gamma Q(s', pi(s')) - Q(s, a), plant units per period, by the members that were not fitted
            on them; NaN where all were.
    """

    values: Tensor
    outside: Tensor
    bellman: Tensor
    rows: Tensor
    errors: Tensor


def fit_values(
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    starts: Tensor,
    estimand: Estimand,
    objective: Objective,
    scaling: ScalingConfig,
    members: int,
    updates: int,
    generator: torch.Generator,
    progress: Progress,
    limits: Sequence[Limit] = (),
) -> FittedValues:
    """Evaluates all policies in one pass.

    Args:
        policies: P of them.
        log: the evaluation log.
        starts: (N,) start rows.
        estimand: gives the discount.
        objective: of the plant; its limits are applied to every next command.
        scaling: floors of the inputs' scaling.
        members: M per policy.
        updates: gradient steps.
        generator: weights, bootstrap, batches, a stochastic policy's draws.
        progress: one unit per hundred updates.
        limits: L of them.

    Raises:
        TrainingError: a loss is no number.
    """
    features = ValueFeatures(log, objective, scaling, limits)
    rows, count = log.rows, len(policies) * members
    reward = torch.cat([log.rewards[rows].unsqueeze(1), recorded_outside(limits, log)], dim=1)  # (T, 1 + L)
    centre, spread = reward.mean(dim=0), reward.std(dim=0).clamp(min=1e-6)
    now = features(log.observe(rows), log.actions[rows])  # (T, F)
    after = _features_after(features, policies, log, rows + 1, generator)  # (P, D, T, F)
    problem = _Problem(now, after, (reward - centre) / spread, log.terminated[rows], -centre / spread, estimand.gamma)
    net = BatchedMLP(count, features.size, HIDDEN, reward.shape[1], act="smooth_leaky", generator=generator)
    boot = _block_bootstrap(len(rows), estimand.block, members, generator)  # (M, T) positions in `rows`
    _start_linear(net, problem, boot, members)
    averaged = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        [
            {"params": net.body.parameters(), "weight_decay": WEIGHT_DECAY},
            {"params": net.skip.parameters() if net.skip else [], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates, 0.01 * LEARNING_RATE)
    progress.start("FQE", updates // 100)
    for update in range(1, updates + 1):
        # Member m of every policy learns from the same sample and batches, so that differences of policies are paired.
        drawn = boot.gather(1, torch.randint(boot.shape[1], (members, BATCH), generator=generator))  # (M, B)
        chosen = drawn.repeat(len(policies), 1)  # (P M, B)
        target = problem.target(averaged, chosen, members, generator)
        loss = (net(problem.now[chosen]) - target).square().mean(dim=1).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for slow, fast in zip(averaged.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, TAU)
        if update % 100 == 0:
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(
                    "the loss of fitted Q evaluation is not a number",
                    where=f"FQE, update {update}",
                    cure="Look for extreme rewards or values in the evaluation part of the data.",
                )
            progress.advance()
    values = (_start_values(averaged, features, policies, log, starts, members, generator) * spread + centre).double()
    every = thin(torch.arange(len(rows)), MAX_ERRORS)
    errors = problem.errors(averaged, every, members, generator)  # (P, M, R)
    bellman = errors.mean(dim=1).square().mean(dim=1).sqrt()
    fitted = torch.stack([torch.zeros(len(rows), dtype=torch.bool).index_fill(0, sample, True) for sample in boot])
    unseen = torch.where(fitted[:, every], torch.nan, errors).nanmean(dim=1) * spread[0]
    return FittedValues(values[..., 0], values[..., 1:], bellman, rows[every], unseen.double())


class _Problem:
    """The recorded transitions as features; network j evaluates policy j // M.

    Args:
        now: (T, F) of the recorded state and command.
        after: (P, D, T, F) of the next state and the policy's command there.
        reward: (T, R) scaled, of each of R outputs: the reward, then the limits' indicators.
        terminated: (T,) whether the plant tripped.
        nothing: (R,) the scaled value of a reward of 0, which follows a trip for ever.
        gamma: discount.
    """

    def __init__(
        self, now: Tensor, after: Tensor, reward: Tensor, terminated: Tensor, nothing: Tensor, gamma: float
    ) -> None:
        self.now, self.after, self.reward = now, after, reward
        self.terminated, self.nothing, self.gamma = terminated.float(), nothing, gamma

    @torch.no_grad()
    def target(self, averaged: BatchedMLP, chosen: Tensor, members: int, generator: torch.Generator) -> Tensor:
        """(J, B, R) what the networks are fitted to at `chosen` (J, B): (1 - gamma) r + gamma Q(s', pi(s'))."""
        draw = torch.randint(self.after.shape[1], chosen.shape, generator=generator)
        policy = (torch.arange(len(chosen)) // members).unsqueeze(1)
        following = averaged(self.after[policy, draw, chosen])
        over = self.terminated[chosen].unsqueeze(-1)
        following = over * self.nothing + (1.0 - over) * following
        result: Tensor = (1.0 - self.gamma) * self.reward[chosen] + self.gamma * following
        return result

    @torch.no_grad()
    def errors(self, net: BatchedMLP, at: Tensor, members: int, generator: torch.Generator) -> Tensor:
        """(P, M, R) temporal-difference errors of the reward's output at some rows (R,), in its spreads."""
        found = []
        for part in at.split(2048):
            chosen = part.expand(len(self.after) * members, -1)
            gap = self.target(net, chosen, members, generator) - net(self.now[chosen])
            found.append(gap[..., 0].reshape(-1, members, len(part)))
        return torch.cat(found, dim=2)


@torch.no_grad()
def _features_after(
    features: ValueFeatures,
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    rows: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Features of the states at `rows` with the policies' commands, several draws of each: (P, D, T, F)."""
    noise = torch.empty(DRAWS, len(rows), len(log.layout.action_tags)).normal_(generator=generator)
    found = torch.empty(len(policies), DRAWS, len(rows), features.size)
    for start in range(0, len(rows), 8192):
        part = slice(start, start + 8192)
        observation = log.observe(rows[part])
        for p, policy in enumerate(policies):
            for draw in range(DRAWS):
                action = command(policy, observation, noise[draw, part], features.limits)
                found[p, draw, part] = features(observation, action)
    return found


def _block_bootstrap(total: int, block: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, total) positions: blocks of neighbours, drawn with replacement."""
    block = min(block, max(1, total // 2))
    pieces = -(-total // block)
    first = torch.randint(total - block + 1, (count, pieces, 1), generator=generator)
    return (first + torch.arange(block)).reshape(count, -1)[:, :total]


@torch.no_grad()
def _start_linear(net: BatchedMLP, problem: _Problem, boot: Tensor, members: int) -> None:
    """Sets each network's linear path to LSTDQ on its bootstrap sample; a solution beyond all rewards is left out."""
    skip, last = net.skip, net.body[-1]
    assert skip is not None
    assert isinstance(last, BatchedLinear)
    gamma, over = problem.gamma, problem.terminated.double().unsqueeze(1)
    now = _with_one(problem.now)
    reward = (1.0 - gamma) * problem.reward.double() + gamma * over * problem.nothing.double()  # (T, R)
    last.weight.zero_()
    last.bias.zero_()
    highest = problem.reward.abs().amax(dim=0)  # (R,)
    shrink = RIDGE * (1.0 - gamma) * len(now) * torch.eye(now.shape[1], dtype=torch.float64)
    shrink[-1, -1] = 0.0
    for policy, drawn in enumerate(problem.after):
        after = _with_one(drawn.mean(dim=0))  # a linear Q needs the mean of the draws only
        for number, sample in enumerate(boot):
            member = policy * members + number
            weighted = now * torch.bincount(sample, minlength=len(now)).double().unsqueeze(1)
            gram = weighted.T @ (now - gamma * (1.0 - over) * after)
            solution = torch.linalg.solve(gram + shrink, weighted.T @ reward)  # (F + 1, R)
            # Away from the recorded policy LSTDQ may explode; then the networks start at the mean reward.
            sane = (after @ solution).abs().amax(dim=0) <= highest  # false for what is no number
            solution = torch.where(sane, solution, 0.0).float()
            skip.weight[member] = solution[:-1]
            skip.bias[member] = solution[-1:]


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1).double()


@torch.no_grad()
def _start_values(
    net: BatchedMLP,
    features: ValueFeatures,
    policies: Sequence[EvaluatedPolicy],
    log: LoggedTransitions,
    starts: Tensor,
    members: int,
    generator: torch.Generator,
) -> Tensor:
    """(P, M, N, R) scaled value of each start state, a stochastic policy's draws averaged."""
    after = _features_after(features, policies, log, starts, generator)  # (P, D, N, F)
    shape = (len(policies), members, DRAWS, len(starts), -1)
    flat = after.flatten(1, 2).repeat_interleave(members, dim=0)  # (P M, D N, F)
    values: Tensor = net(flat).reshape(shape).mean(dim=2)
    return values
