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
from controlkit.morec.dynamics_reward import displacements
from controlkit.morec.identification import require_finite
from controlkit.objective import CommandLimits
from controlkit.progress import Progress
from controlkit.ranks import spearman
from controlkit.replay import LoggedTransitions

BATCH, LEARNING_RATE = 512, 2e-3
SMALL = 0.05  # log odds
# Decades of the displacements that are asked about, in units of the innovation.
DISPLACEMENTS = (-2.0, 1.7)
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
    """Trains `student`, a single network of the teacher's sizes, in place.

    Args:
        student: takes over scalers and prediction.
        teacher: the averaged discriminators.
        log: recorded transitions.
        limits: of the commands.
        updates: gradient steps, at least 1.
        generator: draws the questions.
        progress: is told every hundred updates.

    Raises:
        TrainingError: the loss is no number; says at which update.
    """
    shared = {name: value for name, value in teacher.state_dict().items() if not name.startswith("net.")}
    student.load_state_dict(shared, strict=False)  # scalers, prediction and slots
    with torch.no_grad():
        for mine, theirs in zip(student.net.parameters(), teacher.net.parameters(), strict=True):
            mine.copy_(theirs[-1:])  # begins as the last snapshot: what is left to learn is the others' difference
    questions = Questions(teacher, log, limits)
    optimiser = torch.optim.Adam(student.net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates, 0.01 * LEARNING_RATE)
    progress.start("distilled reward", updates)
    for update in range(1, updates + 1):
        inside, outside = (questions(BATCH // 2, far, generator) for far in (False, True))
        observation, action, change = (torch.cat(parts) for parts in zip(inside, outside, strict=True))
        with torch.no_grad():
            wish = mean_logit(teacher.logits(observation, action, change))
        found = student.logits(observation, action, change)[0]
        # Near even odds every digit counts; far below, only the order does. Small errors count by size, not by square:
        # at the top of the reward, where candidates differ least, they decide the order.
        error = nn.functional.smooth_l1_loss(found, wish, reduction="none", beta=SMALL)
        loss = (error / (1.0 + 0.25 * wish.abs())).mean()
        if update % 100 == 0 or update == updates:
            require_finite(found_loss := float(loss.detach()), f"distilled reward, update {update}")
            progress.advance(update % 100 or 100, note=f"error {found_loss:.4f}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return _compared(student, teacher, questions, generator)


class Questions:
    """Where two dynamics rewards must agree, in the data and outside.

    Args:
        reward: gives the expected change and the unit of displacements.
        log: recorded transitions.
        limits: of the commands.
    """

    def __init__(self, reward: DiscriminatorEnsemble, log: LoggedTransitions, limits: CommandLimits) -> None:
        layout, device = log.layout, log.rows.device
        self.reward, self.log = reward, log
        columns = [s.column if s.source == "frame" else -1 for s in layout.slots]
        states = layout.state_columns.tolist()
        # Which state tag a slot shows, and S for every other slot.
        of_slot = [states.index(column) if column in states else len(states) for column in columns]
        self._state_of_slot = torch.tensor(of_slot, device=device)  # (O,)
        bounds = (layout.low[states], layout.high[states], limits.low, limits.high)
        self._bounds = tuple(torch.from_numpy(x.copy()).to(device) for x in bounds)

    def __call__(self, size: int, far: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Observations (B, O), commands (B, m) and scaled changes (B, S), displaced from the expected one by noise of
        many sizes; state tags share one size in half of the rows, and have their own in the others."""
        observation, action = self.situations(size, far, generator)
        centre = self.reward.expected_change(observation, action)
        return observation, action, centre + self.reward.unit * displacements(centre, *DISPLACEMENTS, generator)

    def situations(self, size: int, far: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Observations (B, O) and commands (B, m), recorded ones or, if `far`, ones moved out of the data.

        State tags are moved as a whole (their window keeps its shape) towards a point drawn evenly over their ranges,
        commands towards one drawn evenly over their limits, and both by one random share of the way.
        """
        rows = self.log.sample(size, generator)
        observation, action = self.log.observe(rows), self.log.actions[rows]
        if not far:
            return observation, action
        low, high, least, most = self._bounds
        share = torch.empty_like(action[:, :1]).uniform_(generator=generator)  # (B, 1)
        state = observation.index_select(1, self.reward.state_slots)  # (B, S)
        wish = low + (high - low) * torch.empty_like(state).uniform_(generator=generator)
        shift = torch.cat([share * (wish - state), torch.zeros_like(share)], dim=1)  # (B, S + 1)
        wish = least + (most - least) * torch.empty_like(action).uniform_(generator=generator)
        return observation + shift[:, self._state_of_slot], action + share * (wish - action)


@torch.no_grad()
def _compared(
    student: DiscriminatorEnsemble, teacher: DiscriminatorEnsemble, questions: Questions, generator: torch.Generator
) -> DistilFit:
    overall, each = [], []
    for far in (False, True):
        observation, action, change = questions(JUDGED, far, generator)
        found = [mean_logit(network.logits(observation, action, change)) for network in (student, teacher)]
        overall.append(float(spearman(found[0], found[1])))
        observation, action = questions.situations(JUDGED // 16, far, generator)
        changes = torch.stack([teacher.expected_change(observation, action)] * 16)  # (C, B, S)
        size = torch.empty_like(changes[..., :1]).uniform_(-1.0, 1.0, generator=generator)
        changes = changes + teacher.unit * 10.0**size * torch.empty_like(changes).normal_(generator=generator)
        found = [mean_logit(network.logits(observation, action, changes)) for network in (student, teacher)]
        each.append(float(spearman(found[0].T, found[1].T).mean()))
    return DistilFit(*overall, *each)
