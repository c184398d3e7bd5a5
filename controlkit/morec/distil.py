"""One small network in place of the averaged discriminators (distillation, arXiv 1503.02531).

Rollouts and the edge ask for the dynamics reward at every step; one network answers as many times faster as networks
and snapshots were averaged. It is trained to give the average's log odds, in the data and far from it: the filter asks
where the data ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from controlkit.models.discriminator import DiscriminatorEnsemble, mean_logit
from controlkit.morec.identification import require_finite
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.ranks import spearman
from controlkit.replay import LoggedTransitions

BATCH, LEARNING_RATE = 512, 2e-3
SMALL = 0.05  # log odds
# Decades of the displacements that are asked about, in units of the innovation.
DISPLACEMENTS = (-2.0, 1.7)
# Odds beyond 1 to 1e13 are the same nothing.
MAX_LOGIT = 30.0
JUDGED = 4000
LEAST_RANK = 0.98


@dataclass(frozen=True)
class DistilFit:
    """Spearman's rank correlation of the network's rewards with the average's, on fresh points in and outside the data,
    and the same among displaced outcomes of one (s, a), averaged."""

    rank_in: float
    rank_out: float
    rank_each_in: float
    rank_each_out: float

    @property
    def faithful(self) -> bool:
        """Whether it ranks as the average does."""
        return min(self.rank_in, self.rank_out) >= LEAST_RANK


def distil(
    student: DiscriminatorEnsemble,
    teacher: DiscriminatorEnsemble,
    log: LoggedTransitions,
    limits: CommandLimits,
    updates: int,
    generator: torch.Generator,
    progress: Progress,
) -> DistilFit:
    """Trains `student`, a single network, in place.

    Raises:
        TrainingError: the loss is no number; says at which update.
    """
    shared = {name: value for name, value in teacher.state_dict().items() if not name.startswith("net.")}
    student.load_state_dict(shared, strict=False)  # scalers, prediction and slots
    with torch.no_grad():
        for mine, theirs in zip(student.net.parameters(), teacher.net.parameters(), strict=True):
            mine.copy_(theirs[-1:])  # begins as the last snapshot: what is left to learn is the others' difference
    optimiser = torch.optim.Adam(student.net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates, 0.01 * LEARNING_RATE)
    progress.start("distilled reward", updates)
    for update in range(1, updates + 1):
        inside, outside = (_asked(teacher, log, limits, BATCH // 2, far, generator) for far in (False, True))
        observation, action, change = (torch.cat(parts) for parts in zip(inside, outside, strict=True))
        with torch.no_grad():
            wish = mean_logit(teacher.logits(observation, action, change)).clamp(-MAX_LOGIT, MAX_LOGIT)
        found = student.logits(observation, action, change)[0]
        # Near even odds every digit counts; far below, only the order does. Small errors count by size, not by square:
        # at the top of the reward, where candidates differ least, they decide the order.
        error = nn.functional.smooth_l1_loss(found, wish, reduction="none", beta=SMALL)
        loss = (error / (1.0 + 0.25 * wish.abs())).mean()
        if update % 100 == 0:
            require_finite(float(loss.detach()), f"distilled reward, update {update}")
            progress.advance(100, note=f"error {float(loss.detach()):.4f}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return _compared(student, teacher, log, limits, generator)


def _asked(
    reward: DiscriminatorEnsemble,
    log: LoggedTransitions,
    limits: CommandLimits,
    size: int,
    far: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Observations (B, O), commands (B, m) and scaled changes (B, S) at which the two must agree.

    `far`: the observation's state tags are moved as a whole (its window keeps its shape) towards a point drawn evenly
    over their ranges, commands are drawn evenly over their limits, and both by a random share of the way.
    """
    rows = log.sample(size, generator)
    observation, action = log.observe(rows), log.actions[rows]
    if far:
        observation, action = moved(log, limits, observation, action, generator)
    centre = change_expected(reward, observation, action)
    together = torch.empty_like(centre[:, :1]).uniform_(*DISPLACEMENTS, generator=generator)
    apart = torch.empty_like(centre).uniform_(*DISPLACEMENTS, generator=generator)
    alike = torch.empty_like(together).uniform_(generator=generator) < 0.5
    noise = torch.empty_like(centre).normal_(generator=generator)
    return observation, action, centre + reward.unit * 10.0 ** torch.where(alike, together, apart) * noise


def moved(
    log: LoggedTransitions, limits: CommandLimits, observation: Tensor, action: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Observations (B, O) and commands (B, m) moved out of the data, into the plant's ranges: see `_asked`."""
    layout, device = log.layout, observation.device
    low, high = (torch.from_numpy(x).to(device) for x in (layout.low, layout.high))
    columns = torch.tensor([s.column if s.source == "frame" else -1 for s in layout.slots], device=device)
    share = torch.empty_like(action[:, :1]).uniform_(generator=generator)  # (B, 1)
    for column in layout.state_columns.tolist():
        wish = torch.empty_like(share).uniform_(generator=generator) * (high[column] - low[column]) + low[column]
        shift = share * (wish - observation[:, column : column + 1])
        observation = torch.where(columns == column, observation + shift, observation)
    bottom, top = (torch.from_numpy(x).to(device) for x in (limits.low, limits.high))
    wish = bottom + (top - bottom) * torch.empty_like(action).uniform_(generator=generator)
    return observation, action + share * (wish - action)


def change_expected(reward: DiscriminatorEnsemble, observation: Tensor, action: Tensor) -> Tensor:
    """The scaled change that the linear prediction expects, 0 where there is none: (B, O), (B, m) -> (B, S)."""
    if reward.prediction is None:
        return torch.zeros_like(observation[:, : len(reward.state_slots)])
    expected: Tensor = reward.prediction(reward.input_scaler(torch.cat([observation, action], dim=-1)))
    return expected


@torch.no_grad()
def _compared(
    student: DiscriminatorEnsemble,
    teacher: DiscriminatorEnsemble,
    log: LoggedTransitions,
    limits: CommandLimits,
    generator: torch.Generator,
) -> DistilFit:
    overall, each = [], []
    for far in (False, True):
        observation, action, change = _asked(teacher, log, limits, JUDGED, far, generator)
        found = [mean_logit(network.logits(observation, action, change)) for network in (student, teacher)]
        overall.append(float(spearman(found[0], found[1])))
        observation, action, _ = _asked(teacher, log, limits, JUDGED // 16, far, generator)
        changes = torch.stack([change_expected(teacher, observation, action)] * 16)  # (C, B, S)
        size = torch.empty_like(changes[..., :1]).uniform_(-1.0, 1.0, generator=generator)
        changes = changes + teacher.unit * 10.0**size * torch.empty_like(changes).normal_(generator=generator)
        found = [mean_logit(network.logits(observation, action, changes)) for network in (student, teacher)]
        each.append(float(spearman(found[0].T, found[1].T).mean()))
    return DistilFit(*overall, *each)
