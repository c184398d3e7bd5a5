"""Stage 2 of MOREC (arXiv 2310.05422): among candidate transitions keep the one that the dynamics reward prefers.

Candidates are the elites' samples, the elites' means and the ensemble mean (the means are a deviation: on plants with
little noise a mean beats every sample). Choices that know no dynamics reward, the medoid and a regressor of another
activation, tell what it adds. A candidate set whose best score lies below the threshold ends the rollout; the
threshold is calibrated on whole held-out trajectories, since a per-step quantile would end most true rollouts.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from controlkit.config import FilterConfig
from controlkit.models.discriminator import DiscriminatorEnsemble, dynamics_reward
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.replay import LoggedTransitions


class Chosen(NamedTuple):
    """One transition per row: next state tags (B, S), dynamics reward (B,), whether it is accepted (B,), disagreement
    of the elites' means (B,) and the largest norm of their spreads (B,), both in units of the log's typical change."""

    state: Tensor
    score: Tensor
    accepted: Tensor
    disagreement: Tensor
    max_std: Tensor


class Support(Protocol):
    """What knows how far the log reaches; see `log_support.py`."""

    def inside(self, observation: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, m) -> (B,) bool."""
        ...


class TransitionFilter:
    """Predicts with an ensemble and keeps, of many candidates, the one that looks most like the plant.

    Args:
        ensemble: predicts the state tags.
        reward: the dynamics reward, or the network that was distilled from it; unused where the filter is off.
        config: candidates, choice and threshold.
        threshold: dynamics reward below which nothing is accepted.
        regressor: a network of another activation, where `config.choose` asks for one.
        support: says which states and commands the log knows; all where it is `None`.
    """

    def __init__(
        self,
        ensemble: GaussianEnsemble,
        reward: DiscriminatorEnsemble,
        config: FilterConfig,
        threshold: float,
        regressor: GaussianEnsemble | None = None,
        support: Support | None = None,
    ) -> None:
        self.ensemble, self.reward, self.config, self.threshold = ensemble, reward, config, threshold
        self.regressor, self.support = regressor, support

    @torch.no_grad()
    def __call__(
        self, observation: Tensor, action: Tensor, generator: torch.Generator, member: Tensor | None = None
    ) -> Chosen:
        """The chosen transitions of a batch: (B, O), (B, m).

        Where `member` (B,) is given, each row's candidates come from that elite alone.
        """
        means, stds = self.ensemble(observation, action)  # (E, B, S) each
        rows = torch.arange(len(observation), device=observation.device)
        own = (means, stds) if member is None else (means[member, rows][None], stds[member, rows][None])
        candidates = self.candidates(*own, generator)  # (C, B, S)
        score = torch.full_like(observation[:, 0], torch.nan)
        accepted = torch.ones_like(score, dtype=torch.bool)
        if not self.config.enabled:
            # Plain model rollouts: any candidate, drawn blindly.
            choice = torch.randint(len(candidates), rows.shape, generator=generator, device=rows.device)
        elif self.config.choose in ("medoid", "regressor"):
            # Choices without a dynamics reward, which have no threshold either.
            choice = self.without_reward(observation, action, candidates).argmin(dim=0)
        else:
            odds = self.reward.log_odds(observation, action, candidates)  # (C, B)
            scores = dynamics_reward(odds)
            if self.config.choose == "argmax":
                # By the odds: where all candidates look bad their rewards are 0 alike, and the first would be taken.
                choice = odds.argmax(dim=0)
            else:
                # A draw from the softmax by the Gumbel trick: unlike a multinomial it reads nothing back to the host.
                noise = torch.empty_like(scores).exponential_(generator=generator).log()
                choice = (scores / self.config.kappa - noise).argmax(dim=0)
            score = scores[choice, rows]
            accepted = score >= self.threshold
        if self.support is not None:
            accepted = accepted & self.support.inside(observation, action)
        scaled_std = stds / self.ensemble.change_scaler.spread
        return Chosen(
            candidates[choice, rows],
            score,
            accepted,
            self.ensemble.spread(means),
            scaled_std.norm(dim=-1).amax(dim=0),
        )

    def candidates(self, means: Tensor, stds: Tensor, generator: torch.Generator) -> Tensor:
        """All candidates for the next state tags, from the elites' means and spreads (E, B, S): (C, B, S)."""
        found = []
        for _ in range(self.config.samples):
            found.append(means + stds * torch.empty_like(means).normal_(generator=generator))
        if self.config.member_means:
            found.append(means)
        if self.config.ensemble_mean:
            found.append(means.mean(dim=0, keepdim=True))
        return torch.cat(found)

    def without_reward(self, observation: Tensor, action: Tensor, candidates: Tensor) -> Tensor:
        """What `medoid` and `regressor` minimise, in units of the log's typical change: (C, B, S) -> (C, B).

        The sum of the distances to the other candidates, or the distance to the regressor's prediction.
        """
        scaled = (candidates / self.ensemble.change_scaler.spread).transpose(0, 1)  # (B, C, S)
        if self.config.choose == "medoid":
            return torch.cdist(scaled, scaled).sum(dim=-1).T
        assert self.regressor is not None, "choose: regressor needs a regressor"
        expected = self.regressor(observation, action)[0][0] / self.ensemble.change_scaler.spread  # (B, S)
        distance: Tensor = (scaled - expected.unsqueeze(1)).norm(dim=-1)
        return distance.T


@torch.no_grad()
def recorded_scores(reward: DiscriminatorEnsemble, log: LoggedTransitions, rows: Tensor) -> Tensor:
    """The dynamics reward of recorded transitions: (B,) rows -> (B,)."""
    parts = [reward(log.observe(part), log.actions[part], log.next_state(part)) for part in rows.split(4096)]
    return torch.cat(parts)


def calibrate_threshold(scores: Tensor, rows: Tensor, length: int, survival: float) -> float:
    """The threshold that a share `survival` of held-out recorded trajectories of `length` steps outlast.

    Args:
        scores: (T,) dynamics reward of recorded transitions.
        rows: (T,) their rows; neighbouring numbers belong to one trajectory.
        length: steps of a rollout. Trajectories shorter than that are used whole.
        survival: share that stays above the threshold to the end.
    """
    breaks = (rows[1:] - rows[:-1] != 1).nonzero().squeeze(1) + 1
    lowest: list[Tensor] = []
    for run in torch.tensor_split(scores.cpu(), breaks.tolist()):
        # Overlapping windows use every start that a rollout could have.
        windows = run.unfold(0, min(length, len(run)), 1) if len(run) else run.reshape(0, 1)
        lowest.append(windows.amin(dim=1))
    return float(torch.quantile(torch.cat(lowest), 1.0 - survival))
