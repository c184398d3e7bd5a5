"""Whether a dynamics reward can be trusted: what it says of held-out transitions, far from the data, and by snapshot.

Three things go wrong with adversarial rewards (measured: docs/studies.md): they end at D = 0.5 everywhere and rank
nothing; they rise somewhere far from any data, where the filter's argmax finds it; or some snapshots contradict the
others. Each is measured here on held-out data and named in a warning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.models.discriminator import DiscriminatorEnsemble, dynamics_reward, mean_logit
from controlkit.morec.distil import Questions
from controlkit.objective import CommandLimits
from controlkit.ranks import agreement_matrix, spearman
from controlkit.replay import LoggedTransitions

ROWS, DISPLACED, AT_ONCE = 512, 32, 4
# Decades of the displacements, in units of the innovation.
SMALLEST, LARGEST = -0.5, 1.5
# What counts as trouble.
LEAST_RANK = 0.5
LEAST_CONTRAST = 0.2  # in log odds: D of 0.55 against 0.5
LEAST_VARIATION = 0.05
MOST_RUNAWAY = 0.05
LEAST_AGREEMENT = 0.5
# A peak is runaway if it lies farther than this from the expected change, in innovations, and more than twice as
# high as anything nearer.
NEAR, FAR = 20.0, 200.0


@dataclass(frozen=True)
class RewardHealth:
    """What was measured.

    Attributes:
        rank: mean over held-out transitions of the rank correlation of r_D with minus the displacement of the outcome.
        probability_real, probability_false: mean D of recorded and of displaced outcomes.
        contrast: median difference of the log odds of a recorded outcome and of the same one displaced.
        runaway_share: share of far (s, a) whose highest reward lies far beyond what the plant can do.
        agreement: mean rank correlation of two snapshots on the same displaced outcomes.
        collapsed: how many networks give all outcomes the same odds.
        warnings: what to do about it, a line each; empty where all is well.
        displacement, reward: (R, C) what `rank` was computed from, for the plot.
        recorded: (R,) r_D of the outcomes as they were recorded.
        agreements: (K, K) rank correlation of each two snapshots.
    """

    rank: float
    probability_real: float
    probability_false: float
    contrast: float
    runaway_share: float
    agreement: float
    collapsed: int
    warnings: tuple[str, ...]
    displacement: Tensor
    reward: Tensor
    recorded: Tensor
    agreements: Tensor

    def to_dict(self) -> dict[str, float | list[str]]:
        """The figures and warnings, for JSON."""
        of_d = ("probability_real", "probability_false", "contrast")
        names = ("rank", *of_d, "runaway_share", "agreement", "collapsed")
        return {name: getattr(self, name) for name in names} | {"warnings": list(self.warnings)}


@torch.no_grad()
def examine(
    reward: DiscriminatorEnsemble, held_out: LoggedTransitions, limits: CommandLimits, generator: torch.Generator
) -> RewardHealth:
    """Examines the averaged snapshots.

    Args:
        reward: trained, with its scalers.
        held_out: transitions that no stage was trained on.
        limits: of the commands.
        generator: draws rows and displacements.
    """
    rows = held_out.sample(ROWS, generator)
    observation, action = held_out.observe(rows), held_out.actions[rows]
    change = reward.change_scaler(held_out.next_state(rows) - observation[:, reward.state_slots])  # (R, S)
    size = torch.empty(DISPLACED, ROWS, 1, device=rows.device).uniform_(SMALLEST, LARGEST, generator=generator)
    noise = torch.empty(DISPLACED, *change.shape, device=rows.device).normal_(generator=generator)
    displacement = 10.0**size * noise  # (C, R, S)
    logits = _judged(reward, observation, action, change + reward.unit * displacement)  # (K, C, R)
    genuine = reward.logits(observation, action, change)  # (K, R)
    distance = displacement.norm(dim=-1).T  # (R, C)
    scores = mean_logit(logits).T  # (R, C)
    rank = float(spearman(scores, -distance).mean())
    contrast = float((mean_logit(genuine) - scores.T).median())
    real, false = float(torch.sigmoid(genuine).mean()), float(torch.sigmoid(logits).mean())
    agreements = agreement_matrix(logits.transpose(1, 2))  # (K, K)
    pairs = agreements[~torch.eye(len(agreements), dtype=torch.bool, device=rows.device)]
    agreement = float(pairs.mean()) if len(pairs) else 1.0
    collapsed = int((logits.flatten(1).std(dim=1) < LEAST_VARIATION).sum())
    runaway = _runaway_share(reward, held_out, limits, generator)
    warnings = _warnings(rank, real, false, contrast, runaway, agreement, collapsed, len(agreements))
    recorded, displaced = dynamics_reward(mean_logit(genuine)), dynamics_reward(scores)
    return RewardHealth(
        rank, real, false, contrast, runaway, agreement, collapsed, warnings, distance, displaced, recorded, agreements
    )


def _judged(reward: DiscriminatorEnsemble, observation: Tensor, action: Tensor, changes: Tensor) -> Tensor:
    """Log odds of many candidates, a few at a time, as all at once take a gigabyte: (C, R, S) -> (K, C, R)."""
    return torch.cat([reward.logits(observation, action, some) for some in changes.split(AT_ONCE)], dim=1)


def _runaway_share(
    reward: DiscriminatorEnsemble, log: LoggedTransitions, limits: CommandLimits, generator: torch.Generator
) -> float:
    observation, action = Questions(reward, log, limits).situations(ROWS, True, generator)
    centre = reward.expected_change(observation, action)
    # Sizes evenly in decades, directions at random: what an argmax over wild candidates would be offered.
    size = torch.logspace(-1.0, 2.3, 64, device=centre.device)  # (C,)
    direction = torch.empty(64, *centre.shape, device=centre.device).normal_(generator=generator)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    changes = centre + reward.unit * size[:, None, None] * direction
    scores = torch.nn.functional.softplus(mean_logit(_judged(reward, observation, action, changes)))  # r_D (C, R)
    beyond = scores[(size > NEAR) & (size <= FAR)].amax(dim=0)
    return float((beyond > 2.0 * scores[size <= NEAR].amax(dim=0)).float().mean())


def _warnings(
    rank: float,
    real: float,
    false: float,
    contrast: float,
    runaway: float,
    agreement: float,
    collapsed: int,
    members: int,
) -> tuple[str, ...]:
    found = []
    if contrast < LEAST_CONTRAST:
        found.append(
            f"the dynamics reward hardly tells recorded outcomes (D {real:.2f}) from displaced ones (D {false:.2f}; "
            f"contrast {contrast:.2f} in log odds, at least {LEAST_CONTRAST} is wanted), as where a generator has won. "
            "Use reward.method noise or reward.form airl, or raise reward.learning_rate"
        )
    if rank < LEAST_RANK:
        found.append(
            f"the dynamics reward does not rank held-out outcomes by how false they are (rank correlation {rank:.2f}, "
            f"at least {LEAST_RANK} is wanted). Use reward.method noise, or switch the filter off"
        )
    if runaway > MOST_RUNAWAY:
        found.append(
            f"far from the data the dynamics reward prefers impossible outcomes in {runaway:.0%} of the cases "
            "(runaway peaks). Raise reward.weight_decay or reward.noise_high"
        )
    if collapsed:
        found.append(
            f"{collapsed} of {members} networks of the dynamics reward give every outcome the same odds. "
            "Lower reward.weight_decay, or raise reward.updates"
        )
    elif agreement < LEAST_AGREEMENT:
        found.append(
            f"the snapshots of the dynamics reward contradict each other (rank correlation {agreement:.2f}). "
            "Lower reward.snapshot_share, or raise reward.updates"
        )
    return tuple(found)
