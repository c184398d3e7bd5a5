"""What is evaluated: policies by name, and the cloned operator, in one form.

A policy is called with observations and with standard normal noise; the noise comes from outside so that policies
can be compared under common random numbers. Commands are wishes: clamp and rate limit follow, as in the exported
controller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.artifacts import RunFolder
from controlkit.config import ScalingConfig
from controlkit.errors import ControlkitError
from controlkit.models.actor import BehaviourClone, hazard
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.layers import BatchedLinear
from controlkit.morec.dynamics import action_scaler, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_behaviour
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions

# (B, O) observations, (B, m) standard normal noise -> (B, m) commands in engineering units
Act = Callable[[Tensor, Tensor], Tensor]
OPERATOR = "operator"
# Decides between columns that the log cannot tell apart.
RIDGE = 1e-3
# Of expectation maximisation; where (nearly) every command is at a limit it would go on for ever, and need not.
ROUNDS, SETTLED = 50, 1e-5


@dataclass(frozen=True)
class EvaluatedPolicy:
    """A policy under evaluation.

    Attributes:
        name: as in the report.
        act: its command, before clamp and rate limit; a deterministic policy ignores the noise.
        dynamics_reward: the dynamics reward of its run, a second judge of support; `None` where there is none.
    """

    name: str
    act: Act
    dynamics_reward: DiscriminatorEnsemble | None = None


def policy_of(run: RunFolder, name: str) -> EvaluatedPolicy:
    """The deterministic policy of a trained run, as the exported controller computes it."""
    models = run.load_models()
    return EvaluatedPolicy(name, lambda observation, noise: models.actor(observation), models.judge)


def fit_operator(
    log: LoggedTransitions, limits: CommandLimits, scaling: ScalingConfig, updates: int, generator: torch.Generator
) -> BehaviourClone:
    """The operator, cloned from recorded commands as a Gaussian policy.

    It takes the operator's place in both estimators, so that what an estimator gets wrong for everyone cancels in the
    difference, and so that its estimated value can be held against the realised one.
    """
    low, high = torch.from_numpy(limits.low), torch.from_numpy(limits.high)
    clone = BehaviourClone(log.layout.size, low, high, hidden=(64, 64), act="smooth_leaky", generator=generator)
    set_scaler(clone.input_scaler, observation_scaler(log, scaling))
    set_scaler(clone.action_scaler, action_scaler(log, limits, scaling))
    _start_linear(clone, log)
    fit_behaviour(clone, log, updates, generator, Silent(), cut=True)
    return clone.eval().requires_grad_(False)


@torch.no_grad()
def _start_linear(clone: BehaviourClone, log: LoggedTransitions) -> None:
    """Sets the linear path to the ridge solution and the spread to its residual's, so that a linear controller is
    cloned without descent, which learns only what is left.

    Commands that a limit has cut are replaced by what was wished on average, given the last solution, until it stays
    (expectation maximisation; Fair 1977, Econometrica 45, for Tobin's model).
    """
    skip, last = clone.net.skip, clone.net.body[-1]
    assert skip is not None
    assert isinstance(last, BatchedLinear)
    commands, size = len(clone.low), skip.weight.shape[1] + 1
    gram = RIDGE * torch.eye(size, dtype=torch.float64)
    moment, square = torch.zeros(size, commands, dtype=torch.float64), torch.zeros(commands, dtype=torch.float64)
    x_cut, action_cut = [], []
    for rows in log.rows.split(16384):
        x = clone.input_scaler(log.observe(rows)).double()
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        action = log.actions[rows]
        anywhere = torch.stack(clone.cut(action)).any(dim=0).any(dim=1)
        x_cut.append(x[anywhere])
        action_cut.append(action[anywhere])
        gram += x.T @ x
        y = clone.action_scaler(action[~anywhere]).double()
        moment += x[~anywhere].T @ y
        square += y.square().sum(dim=0)
    sums = gram, moment, square, len(log.rows)
    solution, variance = _uncut(clone, sums, torch.cat(x_cut), torch.cat(action_cut))
    skip.weight.zero_()
    skip.weight[0, :, :commands] = solution[:-1].float()
    skip.bias.zero_()
    last.weight.zero_()
    last.bias[0, 0, :commands] = solution[-1].float()
    last.bias[0, 0, commands:] = variance.sqrt().clamp(min=1e-3).log().float()


def _uncut(
    clone: BehaviourClone, sums: tuple[Tensor, Tensor, Tensor, int], x: Tensor, action: Tensor
) -> tuple[Tensor, Tensor]:
    """Solution (F, m) and variance (m,) of the wishes behind the commands.

    Args:
        clone: for its scalers and limits.
        sums: Gram matrix (F, F) and number of all rows; of those without a cut command the moments (F, m) and the sum
            of the squared commands (m,).
        x, action: (C, F) inputs and (C, m) commands of the rows in which a limit has cut one.
    """
    gram, known, square, count = sums
    factor = torch.linalg.cholesky(gram)
    y, (low, high) = clone.action_scaler(action).double(), clone.cut(action)
    least, most = (clone.action_scaler(limit).double() for limit in (clone.low, clone.high))
    wish, rest, solution = y, torch.zeros_like(y), torch.full_like(known, torch.inf)
    for _ in range(ROUNDS):
        moment = known + x.T @ wish
        before, solution = solution, torch.cholesky_solve(moment, factor)
        fitted = square + wish.square().sum(dim=0) - (solution * moment).sum(dim=0)
        variance = (fitted.clamp(min=0.0) + rest.sum(dim=0)) / count
        if not len(x) or float((solution - before).abs().max()) < SETTLED:
            break
        mean, spread = x @ solution, variance.sqrt().clamp(min=1e-3)
        bound = torch.where(low, least - mean, mean - most) / spread
        far = hazard(bound)
        wish = torch.where(low | high, mean + torch.where(low, -far, far) * spread, y)
        rest = torch.where(low | high, variance * (1.0 - far * (far + bound)).clamp(min=0.0), 0.0)
    return solution, variance


@torch.no_grad()
def unexplained(clone: BehaviourClone, log: LoggedTransitions, rows: Tensor) -> Tensor:
    """(m,) autocorrelation of neighbouring commands beyond what the clone explains, on `rows` that it has not seen.

    Far from 0, the operator follows something that is not in the observation: a disturbance seen only by people,
    perhaps, and then the log confounds what commands do with why they were given.
    """
    rest = clone.residual(log.observe(rows), log.actions[rows])
    rest = rest - rest.mean(dim=0)
    neighbours = (rows[1:] - rows[:-1] == 1).nonzero().squeeze(1)
    products = (rest[neighbours] * rest[neighbours + 1]).sum(dim=0) / max(1, len(neighbours))
    found: Tensor = products / rest.square().mean(dim=0).clamp(min=1e-12)
    return found


def operator_policy(clones: Sequence[BehaviourClone]) -> EvaluatedPolicy:
    """Clones of one operator as a policy: the Gaussian with their mean command and mean spread."""

    def act(observation: Tensor, noise: Tensor) -> Tensor:
        total = torch.zeros_like(noise)
        for clone in clones:
            mean, log_std = clone.distribution(observation)
            total += clone.action_scaler.invert(mean + log_std.exp() * noise)
        return torch.minimum(torch.maximum(total / len(clones), clones[0].low), clones[0].high)

    return EvaluatedPolicy(OPERATOR, act)


def command(policy: EvaluatedPolicy, observation: Tensor, noise: Tensor, limits: CommandLimits) -> Tensor:
    """What the plant gets: (B, O), (B, m) -> (B, m), clamped and rate limited.

    Raises:
        ControlkitError: the policy's output has the wrong shape or is no number.
    """
    wish = policy.act(observation, noise)
    if wish.shape != noise.shape:
        raise ControlkitError(
            f"gives commands of shape {tuple(wish.shape)}, not {tuple(noise.shape)}",
            where=f"policy {policy.name}",
            cure="Evaluate a policy made for this plant.",
        )
    if not bool(torch.isfinite(wish).all()):
        row = int((~torch.isfinite(wish).all(dim=-1)).nonzero()[0])
        worst = observation[row].abs().max().item()
        raise ControlkitError(
            f"commands {wish[row].tolist()}, which is not a number (its largest input there is {worst:.4g})",
            where=f"policy {policy.name}",
            cure="Train again; look for extreme values in the data.",
        )
    applied: Tensor = limits.apply(wish, observation)
    return applied
