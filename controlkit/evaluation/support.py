"""Support: does the log know what the policy does?

Every step that the policy takes in its own rollouts is judged twice: by the distance of (measured tags, command) to
the nearest recorded ones, and by the dynamics reward of the step. Both cuts are calibrated on recorded steps that
were held out, so that nearly all of the log's own operation counts as supported. The share of supported steps,
weighted as the value is, is the support.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.config import ScalingConfig
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import EvaluationModel
from controlkit.evaluation.model_rollouts import RolledOut
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.dynamics import action_scaler, observation_scaler
from controlkit.morec.log_support import PASS, nearest_recorded, thin
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions

MAX_REFERENCE, MAX_HELD_OUT, MAX_STEPS = 4096, 4096, 12_000
# A tag is named where it accounts for at least this share of the steps outside.
NAMED = 0.02
# Size of the displacement that the judges are tried on, in spreads of each tag (or of its typical change).
DISPLACED = 1.0


@dataclass(frozen=True)
class OutsideTag:
    """A tag along which the policy leaves the log.

    Attributes:
        tag: name, a frame tag or a command.
        share: share of all the policy's steps that are outside chiefly because of it.
        low, high: the middle 90 % of its values in those steps.
        nearest_low, nearest_high: the same of the nearest recorded steps.
        log_low, log_high: the middle 98 % of its recorded values.
    """

    tag: str
    share: float
    low: float
    high: float
    nearest_low: float
    nearest_high: float
    log_low: float
    log_high: float


@dataclass(frozen=True)
class SupportFound:
    """The support of one policy.

    Attributes:
        share: weighted share of supported steps; by_distance, by_reward: by each judge alone (the latter NaN where the
            policy brings no dynamics reward).
        held_out: share of held-out recorded steps that count as supported, by distance.
        auroc_distance, auroc_reward: how well each judge tells held-out recorded steps from perturbed ones (0.5: not at
            all, 1: always): by distance those with every tag and command displaced by `DISPLACED` of its spread, by the
            dynamics reward those whose state tags end displaced by as much of their typical change.
        by_step: (H,) share of supported steps at each step of a rollout; late: the same over its last quarter.
        outside: tags along which it leaves, the largest share first.
        points: (Q, n + m) judged steps: frame and command; supported: (Q,).
        start: (Q,) which start state a judged step's rollout is from; step: (Q,) which step of it it is; weight: (Q,)
            its weight in `share`, 0 where the plant had tripped before.
        distance_cut, reward_cut: the two cuts.
    """

    share: float
    by_distance: float
    by_reward: float
    held_out: float
    auroc_distance: float
    auroc_reward: float
    by_step: Tensor
    late: float
    outside: tuple[OutsideTag, ...]
    points: Tensor
    supported: Tensor
    start: Tensor
    step: Tensor
    weight: Tensor
    distance_cut: float
    reward_cut: float


class RecordedSteps:
    """The log's (frame, command) pairs in scaled units, and how far apart its own blocks lie.

    Args:
        log: the evaluation log.
        model: its folds give the blocks of time.
        limits: scale of the commands.
        scaling: floors of the scaling.
    """

    def __init__(
        self, log: LoggedTransitions, model: EvaluationModel, limits: CommandLimits, scaling: ScalingConfig
    ) -> None:
        n = len(log.layout.frame_tags)
        tags, commands = observation_scaler(log, scaling), action_scaler(log, limits, scaling)
        spread = [torch.from_numpy(tags.spread[:n].copy()), torch.from_numpy(commands.spread.copy())]
        self.log, self.spread = log, torch.cat(spread)
        self.names = (*log.layout.frame_tags, *log.layout.action_tags)
        rows = log.overview
        self.recorded = torch.cat([log.frames[rows], log.actions[rows]], dim=1)  # (T, n + m)
        self.reference = thin(self.recorded, MAX_REFERENCE)
        own, displaced = [], []
        generator = torch.Generator().manual_seed(0)
        for fold in model.folds:
            inside = (rows >= fold.left_out[0]) & (rows <= fold.left_out[-1])
            queries = thin(self.recorded[inside], MAX_HELD_OUT // len(model.folds))
            others = thin(self.recorded[~inside], MAX_REFERENCE)
            own.append(self._distance(queries, others)[0])
            noise = torch.empty_like(queries).normal_(generator=generator)
            displaced.append(self._distance(queries + DISPLACED * self.spread * noise, others)[0])
        self.own = torch.cat(own)
        self.auroc = auroc(-self.own, -torch.cat(displaced))
        self.cut = float(torch.quantile(self.own, PASS))

    def distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the fifth nearest recorded step, and which is the nearest: (Q, n + m) -> (Q,), (Q, n + m)."""
        return self._distance(points, self.reference)

    def _distance(self, points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        distance, nearest = nearest_recorded(points, reference, self.spread)
        return distance, reference[nearest]

    def judged(self, judge: DiscriminatorEnsemble) -> tuple[float, float]:
        """The dynamics reward that nearly all recorded steps of the evaluation log exceed, and how well it tells them
        from steps whose outcome was displaced (an AUROC)."""
        rows = thin(self.log.rows, MAX_HELD_OUT)
        observation, action, state = self.log.observe(rows), self.log.actions[rows], self.log.next_state(rows)
        scores = judge(observation, action, state)
        change = (state - observation[:, torch.from_numpy(self.log.layout.state_columns)]).std(dim=0)
        noise = torch.empty_like(state).normal_(generator=torch.Generator().manual_seed(0))
        false = judge(observation, action, state + DISPLACED * change * noise)
        return float(torch.quantile(scores, 1.0 - PASS)), auroc(scores, false)


def auroc(higher: Tensor, lower: Tensor) -> float:
    """Probability that one of `higher` (N,) exceeds one of `lower` (M,), ties counted half (Mann and Whitney 1947)."""
    ordered = lower.sort().values
    below = torch.searchsorted(ordered, higher, right=False)
    upto = torch.searchsorted(ordered, higher, right=True)
    return float((below + upto).double().mean() / (2 * len(lower)))


@torch.no_grad()
def find_support(
    rolled: list[RolledOut], recorded: RecordedSteps, judge: DiscriminatorEnsemble | None, estimand: Estimand
) -> SupportFound:
    """The support of a policy's rollouts in every fold's model."""
    points = torch.cat([torch.cat([r.frames[:-1, r.watched], r.actions[:, r.watched]], dim=2) for r in rolled], dim=1)
    alive = torch.cat([r.alive[:, r.watched] for r in rolled], dim=1)  # (H, C)
    horizon, count, width = points.shape
    # Of every step as many rollouts are looked at as can be afforded, other ones each time; weights are the value's.
    generator = torch.Generator().manual_seed(0)
    kept = max(1, min(count, MAX_STEPS // horizon))
    columns = torch.rand(horizon, count, generator=generator).argsort(dim=1)[:, :kept]  # (H, C')
    alive = alive.gather(1, columns)
    points = points.gather(1, columns.unsqueeze(2).expand(-1, -1, width))
    weight = estimand.weights.unsqueeze(1) * alive
    weight = weight / weight.sum()
    flat = points.reshape(-1, width)
    distance, nearest = recorded.distance(flat)
    near = (distance <= recorded.cut).reshape(horizon, -1)
    likely, reward_cut, auroc_reward = torch.ones_like(near), float("nan"), float("nan")
    if judge is not None:
        reward_cut, auroc_reward = recorded.judged(judge)
        likely = torch.cat([r.scores for r in rolled], dim=1).gather(1, columns) >= reward_cut
    supported = near & likely
    within, living = (supported & alive).double().sum(dim=1), alive.double().sum(dim=1)  # (H,)
    last = slice(horizon - -(-horizon // 4), None)
    return SupportFound(
        share=float((weight * supported).sum()),
        by_distance=float((weight * near).sum()),
        by_reward=float((weight * likely).sum()) if judge is not None else float("nan"),
        held_out=float((recorded.own <= recorded.cut).double().mean()),
        auroc_distance=recorded.auroc,
        auroc_reward=auroc_reward,
        by_step=within / living.clamp(min=1.0),
        # Where every rollout has tripped before, the end of the horizon is no operation that could be unknown.
        late=float(within[last].sum() / living[last].sum()) if bool(living[last].any()) else 1.0,
        outside=_named(recorded, flat, nearest, (~near).flatten(), weight.flatten()),
        points=flat,
        supported=supported.flatten(),
        start=(columns % rolled[0].starts).flatten(),
        step=torch.arange(horizon).unsqueeze(1).expand(-1, kept).flatten(),
        weight=weight.flatten(),
        distance_cut=recorded.cut,
        reward_cut=reward_cut,
    )


def _named(
    recorded: RecordedSteps, points: Tensor, nearest: Tensor, outside: Tensor, weight: Tensor
) -> tuple[OutsideTag, ...]:
    """The tags along which unsupported steps lie farthest from the nearest recorded step."""
    if not bool(outside.any()):
        return ()
    points, nearest, weight = points[outside], nearest[outside], weight[outside]
    farthest = ((points - nearest) / recorded.spread).abs().argmax(dim=1)  # (q,)
    found = []
    for column, name in enumerate(recorded.names):
        mine = farthest == column
        share = float(weight[mine].sum())
        if share < NAMED * float(weight.sum()):
            continue
        low, high = _middle(points[mine, column], 0.05)
        near_low, near_high = _middle(nearest[mine, column], 0.05)
        log_low, log_high = _middle(recorded.recorded[:, column], 0.01)
        found.append(OutsideTag(name, share, low, high, near_low, near_high, log_low, log_high))
    return tuple(sorted(found, key=lambda tag: -tag.share))


def _middle(values: Tensor, tail: float) -> tuple[float, float]:
    ends = torch.quantile(thin(values, 100_000).double(), torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])
