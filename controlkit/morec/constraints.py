"""Constraints in training: at a fixed price, or with a multiplier each (Lagrangian).

A constraint of the plant tolerates a share of samples outside its bounds. With multipliers, a violation by one spread
of the tag in the log costs multiplier k, in units of the log's reward spread, and after each epoch of rollouts dual
ascent moves the multiplier by the excess of the rollouts' violation share over the tolerated one, never below 0; an
optional proportional part damps the oscillation that dual ascent is prone to (Stooke, Achiam, Abbeel 2020, arXiv
2007.03964). The size of a violation is charged and not its mere fact, which the exact Lagrangian of a share would
charge: a step in the reward has no slope, and a policy that violates everywhere finds no way back.
Rewards are charged anew with every change, those of the log and of older rollouts too, so that none is stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from controlkit.config import RolloutConfig
from controlkit.objective import Objective
from controlkit.replay import LoggedTransitions, ModelTransitions


def fixed_price(objective: Objective, next_frame: Tensor, config: RolloutConfig) -> Tensor:
    """What violations cost with `constraints: penalty`, in units of the reward spread: (T, n) -> (T,)."""
    price = torch.zeros_like(next_frame[..., 0])
    for tag, outside in objective.violations(next_frame).items():
        low, high = objective.spec.tags[tag].range
        price = price + config.constraint_coefficient * outside / (high - low)
    return price


class Constraints:
    """The constraints of a plant during training; charges the log's rewards from its making on.

    Args:
        objective: the plant's.
        config: fixed prices or multipliers, and how these move.
        log: recorded transitions, whose `rewards` are replaced by what the policy is to be trained on.
        reward_spread: unit of the prices.

    Attributes:
        names: one per multiplier (K of them; none where prices are fixed).
        tolerated: (K,) shares; unit: (K,) spreads of the tags; integral, multipliers: (K,).
        shares: (K,) of the samples of the last rollouts that violated each.
    """

    def __init__(
        self, objective: Objective, config: RolloutConfig, log: LoggedTransitions, reward_spread: float
    ) -> None:
        self.objective, self.config, self.log, self.reward_spread = objective, config, log, reward_spread
        constraints = objective.spec.constraints if config.constraints == "lagrangian" else ()
        tags = [constraint.tag for constraint in constraints]
        self.names = tuple(tag if tags.count(tag) == 1 else f"{tag} ({i})" for i, tag in enumerate(tags))
        device = log.rewards.device
        self.tolerated = torch.tensor([constraint.share for constraint in constraints], device=device)
        self.unit = torch.tensor([_spread(objective, log, tag) for tag in tags], device=device)
        self.integral = torch.zeros(len(tags), device=device)
        self.multipliers, self.shares = torch.zeros_like(self.integral), torch.full_like(self.integral, torch.nan)
        # Row t of a log is rewarded for where it leads: the frame of row t + 1. An episode's last row leads nowhere.
        following = (torch.arange(len(log.frames), device=device) + 1) % len(log.frames)
        self._free = log.rewards
        log.rewards = log.rewards.clone()
        if config.constraints == "penalty" and objective.spec.constraints:
            prices = [fixed_price(objective, log.frames[rows], config) for rows in following.split(AT_A_TIME)]
            log.rewards -= reward_spread * torch.cat(prices)
        # (N, K)
        self._recorded = torch.cat([self.violations(log.frames[rows]) for rows in following.split(AT_A_TIME)])

    def violations(self, next_frame: Tensor) -> Tensor:
        """By how much each sample violates each constraint that has a multiplier, in `unit`: (T, n) -> (T, K)."""
        if not self.names:
            return torch.zeros(len(next_frame), 0, device=next_frame.device)
        return torch.stack(self.objective.constraint_distances(next_frame), dim=1) / self.unit

    def update(self, violations: Tensor, ring: ModelTransitions) -> None:
        """After an epoch's rollouts: moves the multipliers by their samples (T, K) and charges all rewards anew.

        Without any sample the multipliers stay.
        """
        if not self.names:
            return
        if len(violations):
            self.shares = (violations > 0).float().mean(dim=0)
            excess = self.shares - self.tolerated
            self.integral = (self.integral + self.config.multiplier_rate * excess).clamp(min=0.0)
            self.multipliers = (self.integral + self.config.multiplier_gain * excess).clamp(min=0.0)
        prices = self.multipliers * self.reward_spread
        torch.sub(self._free, self._recorded @ prices, out=self.log.rewards)
        ring.set_prices(prices)

    def figures(self) -> dict[str, float]:
        """Columns for the metrics: each multiplier, and the share of the last rollouts' samples that violated."""
        pairs = zip(self.names, self.multipliers.tolist(), self.shares.tolist(), strict=True)
        return {f"{what} {name}": x for name, *both in pairs for what, x in zip(_FIGURES, both, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs: rewards are charged anew by the next `update`."""
        return {"integral": self.integral, "multipliers": self.multipliers}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Reads what `state_dict` wrote."""
        device = self.integral.device
        self.integral, self.multipliers = content["integral"].to(device), content["multipliers"].to(device)


AT_A_TIME = 1 << 18  # frames of the log
_FIGURES = ("multiplier", "violated")


def _spread(objective: Objective, log: LoggedTransitions, tag: str) -> float:
    """Standard deviation of a tag over the log, with a floor for one that never moved."""
    values = log.frames[log.overview, log.layout.frame_tags.index(tag)]
    low, high = objective.spec.tags[tag].range
    return max(float(values.std(correction=0)), 1e-3 * (high - low))
