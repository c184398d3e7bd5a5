"""What is evaluated: policies by name, and the cloned operator, in one form.

A policy is called with observations and with standard normal noise; the noise comes from outside so that policies
can be compared under common random numbers. Commands are wishes: clamp and rate limit follow, as in the exported
controller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.artifacts import RunFolder
from controlkit.config import ScalingConfig
from controlkit.errors import ControlkitError
from controlkit.models.actor import BehaviourClone
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.dynamics import action_scaler, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_behaviour
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions

# (B, O) observations, (B, m) standard normal noise -> (B, m) commands in engineering units
Act = Callable[[Tensor, Tensor], Tensor]
OPERATOR = "operator"


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
    return EvaluatedPolicy(name, lambda observation, noise: models.actor(observation), models.reward)


def fit_operator(
    log: LoggedTransitions, limits: CommandLimits, scaling: ScalingConfig, updates: int, generator: torch.Generator
) -> EvaluatedPolicy:
    """The operator, cloned from recorded commands as a Gaussian policy.

    It takes the operator's place in both estimators, so that what an estimator gets wrong for everyone cancels in the
    difference, and so that its estimated value can be held against the realised one.
    """
    low, high = torch.from_numpy(limits.low), torch.from_numpy(limits.high)
    clone = BehaviourClone(log.layout.size, low, high, hidden=(64, 64), act="smooth_leaky", generator=generator)
    set_scaler(clone.input_scaler, observation_scaler(log, scaling))
    set_scaler(clone.action_scaler, action_scaler(log, limits, scaling))
    fit_behaviour(clone, log, updates, generator, Silent())
    clone.eval().requires_grad_(False)

    def act(observation: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = clone.distribution(observation)
        raw = clone.action_scaler.invert(mean + log_std.exp() * noise)
        return torch.minimum(torch.maximum(raw, low), high)

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
