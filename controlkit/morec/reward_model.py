"""Learns the reward from data that brings one without a formula: a regression on (s, a, s'), whole episodes held out.

Never joint with the dynamics: a head that shares their network learns neither well. Each member's linear path starts
at its ridge solution; the weights that are kept are a moving average of those trained, at the best hold-out error.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlkit.config import RewardModelConfig, ScalingConfig
from controlkit.models.layers import BatchedLinear
from controlkit.models.reward_network import RewardNetwork
from controlkit.morec.dynamics import action_scaler, observation_scaler, set_scaler
from controlkit.morec.identification import require_finite
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from controlkit.scaling import Scaler

# With less of the held-out rewards' variance explained, or a larger error among the best tenth of them (in spreads of
# all), what a policy is trained on is not what the data says.
LEAST_R2, LARGEST_ERROR_BEST = 0.9, 0.25
RIDGE = 1e-4
CHECKS = 20  # hold-out errors taken during training
AVERAGE = 0.995


@dataclass(frozen=True)
class RewardFit:
    """What became of a fit, on held-out episodes.

    Attributes:
        r2: share of the rewards' variance explained.
        mae: mean absolute error, in the data's units.
        error_best: root mean square error among the tenth of the rows with the highest rewards, where a good policy
            will spend its time, in standard deviations of all rewards.
        updates: gradient steps trained.
    """

    r2: float
    mae: float
    error_best: float
    updates: int

    def describe(self) -> str:
        """One line for the user, a warning where the fit is poor."""
        figures = (
            f"explains {self.r2:.1%} of the variance of held-out rewards, mean absolute error {self.mae:.3g}; among "
            f"the best tenth of them it errs by {self.error_best:.2g} of their spread"
        )
        if self.r2 >= LEAST_R2 and self.error_best <= LARGEST_ERROR_BEST:
            return f"The learned reward {figures}."
        return (
            f"Warning: the learned reward {figures}: the policy will be trained on something else than what was "
            "recorded. Write the objective as a formula, or bring data in which what it depends on is measured."
        )


def fit_reward(
    network: RewardNetwork,
    log: LoggedTransitions,
    config: RewardModelConfig,
    scaling: ScalingConfig,
    limits: CommandLimits,
    generator: torch.Generator,
    progress: Progress,
) -> RewardFit:
    """Trains `network` in place on a log's recorded rewards.

    Raises:
        TrainingError: the loss is no number; says at which step.
    """
    kept, held = split_episodes(log, config.holdout, generator)
    _scale(network, log, kept, scaling, limits)
    features, target = _table(network, log, kept)
    boot = torch.randint(len(kept), (config.members, len(kept)), generator=generator, device=kept.device)  # (E, T)
    _start_linear(network, features, target, boot)
    held_features, held_target = _table(network, log, held)
    averaged = copy.deepcopy(network.net).requires_grad_(False)
    best, best_error = copy.deepcopy(network.net.state_dict()), _errors(network, held_features, held_target)
    optimiser = torch.optim.AdamW(
        [
            {"params": network.net.body.parameters(), "weight_decay": config.weight_decay},
            {"params": network.net.skip.parameters() if network.net.skip else [], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.updates, 0.01 * config.learning_rate)
    every, stale, update = max(1, config.updates // CHECKS), 0, 0
    progress.start("reward", math.ceil(config.updates / every))
    for update in range(1, config.updates + 1):
        drawn = torch.randint(
            boot.shape[1], (config.members, config.batch_size), generator=generator, device=boot.device
        )
        rows = boot.gather(1, drawn)  # (E, B)
        loss = (network.scaled(features[rows]) - target[rows]).square().mean(dim=1).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for slow, fast in zip(averaged.parameters(), network.net.parameters(), strict=True):
                slow.lerp_(fast, max(1.0 - AVERAGE, 1.0 / (update + 1)))
        if update % every == 0 or update == config.updates:
            require_finite(float(loss.detach()), f"reward, update {update}")
            trained, network.net = network.net, averaged
            error = _errors(network, held_features, held_target)
            network.net = trained
            stale = 0 if float(error.mean()) < 0.99 * float(best_error.mean()) else stale + 1
            better = error < best_error
            for name, value in averaged.state_dict().items():
                best[name][better] = value[better]
            best_error = torch.minimum(best_error, error)
            progress.advance(note=f"hold-out {float(best_error.mean().sqrt()):.4f}")
            if stale >= config.patience:
                break
    network.net.load_state_dict(best)
    return _judged(network, log, held, update)


def split_episodes(log: LoggedTransitions, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, episode by episode; a log of fewer than five episodes is cut in blocks."""
    begins = log.position[log.rows] == log.position[log.rows].min()
    number = torch.cumsum(begins.long(), dim=0)  # (T,)
    episodes = int(number[-1])
    if episodes < 5:
        episodes = min(50, max(2, len(log.rows) // 20))
        number = 1 + torch.arange(len(log.rows), device=log.rows.device) * episodes // len(log.rows)
    count = min(episodes - 1, max(1, round(share * episodes)))
    held = 1 + torch.randperm(episodes, generator=generator, device=log.rows.device)[:count]
    out = torch.isin(number, held)
    return log.rows[~out], log.rows[out]


@torch.no_grad()
def _scale(
    network: RewardNetwork, log: LoggedTransitions, rows: Tensor, scaling: ScalingConfig, limits: CommandLimits
) -> None:
    # A reward may well be the change of a tag that no other network sees: here it is seen, before and after the step.
    everything = scaling.model_copy(update={"unseen": ()})
    observation, n = observation_scaler(log, everything), len(log.layout.frame_tags)
    frame = Scaler(observation.centre[:n], observation.spread[:n])
    set_scaler(network.input_scaler, observation, action_scaler(log, limits, scaling), frame)
    reward = log.rewards[rows]
    network.reward_scaler.centre.fill_(float(reward.mean()))
    network.reward_scaler.spread.fill_(max(float(reward.std()), 1e-6))
    if len(network.first):
        distance = network.distances(log.frames[rows + 1])
        network.distance_spread.copy_(distance.std(dim=0, correction=0).clamp(min=1e-6))


@torch.no_grad()
def _table(network: RewardNetwork, log: LoggedTransitions, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Features (T, F) and scaled rewards (T,) of recorded steps."""
    parts = [network.features(log.observe(r), log.actions[r], log.frames[r + 1]) for r in rows.split(16384)]
    return torch.cat(parts), network.reward_scaler(log.rewards[rows].unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def _start_linear(network: RewardNetwork, features: Tensor, target: Tensor, boot: Tensor) -> None:
    """Each member's linear path starts at the ridge solution on its bootstrap sample, its perceptron at nothing."""
    skip, last = network.net.skip, network.net.body[-1]
    assert skip is not None
    assert isinstance(last, BatchedLinear)
    last.weight.zero_()
    last.bias.zero_()
    x = torch.cat([features, torch.ones_like(features[:, :1])], dim=1).double()
    for member, sample in enumerate(boot):
        weighted = x * torch.bincount(sample, minlength=len(x)).double().unsqueeze(1)
        gram = weighted.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        solution = torch.linalg.solve(gram, weighted.T @ target.double().unsqueeze(1)).float()
        skip.weight[member].copy_(solution[:-1])
        skip.bias[member].copy_(solution[-1:])


@torch.no_grad()
def _errors(network: RewardNetwork, features: Tensor, target: Tensor) -> Tensor:
    """(E,) mean squared error of each member in scaled units."""
    total = torch.zeros(network.members, device=features.device)
    for x, y in zip(features.split(8192), target.split(8192), strict=True):
        total += (network.scaled(x.expand(network.members, -1, -1)) - y).square().sum(dim=1)
    return total / len(features)


@torch.no_grad()
def _judged(network: RewardNetwork, log: LoggedTransitions, rows: Tensor, updates: int) -> RewardFit:
    parts = [network(log.observe(r), log.actions[r], log.frames[r + 1]) for r in rows.split(8192)]
    found = torch.cat(parts).double().cpu().numpy()
    recorded = log.rewards[rows].double().cpu().numpy()
    error, spread = found - recorded, max(float(recorded.std()), 1e-9)
    best = recorded >= np.quantile(recorded, 0.9)
    return RewardFit(
        r2=1.0 - float(np.mean(error**2)) / spread**2,
        mae=float(np.abs(error).mean()),
        error_best=float(np.sqrt(np.mean(error[best] ** 2))) / spread,
        updates=updates,
    )
