"""The model's own value of every policy as a function: what fitted Q evaluation holds recorded steps against.

A network per policy learns V(s), the discounted sum of rewards that rollouts from s have made, from the states that the
policy itself comes to; rollouts are supervised targets, nothing is bootstrapped. What the model expects of a recorded
step,

    E_model[(1 - gamma) r + gamma V(s')],   s' by the model that has not seen the row's block of time,

stands against what was recorded: a control variate (Jiang and Li 2016, arXiv 1511.03722; Thomas and Brunskill 2016,
arXiv 1604.00923).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.evaluation_model import EvaluationModel
from controlkit.evaluation.model_rollouts import RolledOut, values
from controlkit.evaluation.policies import EvaluatedPolicy, command
from controlkit.evaluation.value_features import ValueFeatures
from controlkit.models.layers import BatchedLinear, BatchedMLP
from controlkit.objective import Objective
from controlkit.replay import LoggedTransitions

HIDDEN = (64, 64)
BATCH = 256
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-3
RIDGE = 1e-3
# Outcomes that are drawn of a recorded step.
DRAWS = 3
# Features beyond this many spreads count as this many: a value is not continued farther than rollouts went.
FARTHEST = 10.0


class ModelValues:
    """V of every policy by the evaluation model, and what this expects of recorded steps.

    Args:
        rolled: (P, K) rollouts of every policy in every fold's model.
        policies: P of them, in the same order.
        model: the folds; log: the evaluation log.
        features: what the networks see of a state and the policy's command in it.
        estimand: discount and horizon.
        objective: of the plant.
        updates: gradient steps; 0 leaves the least-squares solution.
        generator: weights and batches.
    """

    def __init__(
        self,
        rolled: Sequence[Sequence[RolledOut]],
        policies: Sequence[EvaluatedPolicy],
        model: EvaluationModel,
        log: LoggedTransitions,
        features: ValueFeatures,
        estimand: Estimand,
        objective: Objective,
        updates: int,
        generator: torch.Generator,
    ) -> None:
        self._policies, self._model, self._log, self._features = policies, model, log, features
        self._gamma, self._objective = estimand.gamma, objective
        samples = [_samples(folds, features, estimand) for folds in rolled]
        x, y = torch.stack([each[0] for each in samples]), torch.stack([each[1] for each in samples])
        self._centre, self._spread = x.mean(dim=(0, 1)), x.std(dim=(0, 1)).clamp(min=1e-3)
        self._middle, self._scale = y.mean(dim=1, keepdim=True), y.std(dim=1, keepdim=True).clamp(min=1e-6)
        self._nets = _fit(self._scaled(x), (y - self._middle) / self._scale, updates, generator)
        self._start = [values(list(folds)).mean(dim=0) for folds in rolled]  # (N,) each
        # Every recorded step has its own outcomes, the same ones for all policies.
        draw, size = torch.Generator().manual_seed(0), len(log.frames)
        self._outcome = torch.rand(DRAWS, size, generator=draw)
        self._hand = torch.empty(DRAWS, size, len(log.layout.action_tags)).normal_(generator=draw)

    def start_value(self, number: int) -> Tensor:
        """(N,) value of policy `number` from each start state, by its rollouts."""
        return self._start[number]

    def state_value(self, number: int, features: Tensor) -> Tensor:
        """V of policy `number` from features of a state and its command there: (B, F) -> (B,)."""
        with torch.no_grad():
            found: Tensor = self._nets[number](self._scaled(features).unsqueeze(0)).squeeze(0)
        return (found * self._scale[number] + self._middle[number]).squeeze(-1)

    @torch.no_grad()
    def expected(self, number: int, rows: Tensor) -> Tensor:
        """(1 - gamma) r + gamma V(s') that the model expects of recorded steps if policy `number` goes on: (B,)."""
        total = torch.zeros(len(rows))
        for fold in self._model.folds:
            mine = ((rows >= fold.left_out[0]) & (rows <= fold.left_out[-1])).nonzero().squeeze(1)
            for part in mine.split(8192):
                at = rows[part]
                seen, given = self._log.observe(at), self._log.actions[at]
                mean = fold.world.ensemble(seen, given)[0].mean(dim=0)
                for draw in range(DRAWS):
                    noise = fold.noise[(self._outcome[draw, at] * len(fold.noise)).long()]
                    frame = fold.world.next_frame(mean + noise, self._log.frames[at + 1])
                    reward = torch.as_tensor(self._objective.reward(seen, given, frame), dtype=torch.float32)
                    over = self._objective.terminated(seen, given, frame)
                    state = fold.world.next_observation(seen, given, frame)
                    wish = command(self._policies[number], state, self._hand[draw, at], self._features.limits)
                    onward = self.state_value(number, self._features(state, wish))
                    total[part] += ((1.0 - self._gamma) * reward + self._gamma * onward * ~over) / DRAWS
        return total

    def _scaled(self, features: Tensor) -> Tensor:
        return ((features - self._centre) / self._spread).clamp(-FARTHEST, FARTHEST)


def _samples(folds: Sequence[RolledOut], features: ValueFeatures, estimand: Estimand) -> tuple[Tensor, Tensor]:
    """States that rollouts came to and what they still made from there: (B, F), (B, 1)."""
    seen, made = [], []
    for r in folds:
        rewards = r.rewards[:, r.watched].double()  # (H, N), 0 after a trip
        for mark, observation in zip(r.marks, r.visited, strict=True):
            alive = r.alive[mark, r.watched]
            rest = Estimand(estimand.gamma, len(rewards) - mark).weights @ rewards[mark:]
            x = features(observation, r.actions[mark, r.watched])
            # A tripped plant has no state; its place is kept so that all policies have as many samples.
            seen.append(torch.where(alive.unsqueeze(1), x, torch.zeros_like(x)))
            made.append(rest.float())
    return torch.cat(seen), torch.cat(made).unsqueeze(1)


def _fit(x: Tensor, y: Tensor, updates: int, generator: torch.Generator) -> list[BatchedMLP]:
    """A network per policy, from (P, B, F) and (P, B, 1), whose linear path starts at its least-squares solution."""
    net = BatchedMLP(len(x), x.shape[2], HIDDEN, 1, act="smooth_leaky", generator=generator)
    skip, last = net.skip, net.body[-1]
    assert skip is not None
    assert isinstance(last, BatchedLinear)
    one = torch.cat([x, torch.ones_like(x[..., :1])], dim=2).double()
    gram = one.transpose(1, 2) @ one + RIDGE * x.shape[1] * torch.eye(one.shape[2], dtype=torch.float64)
    solution = torch.linalg.solve(gram, one.transpose(1, 2) @ y.double()).float()
    with torch.no_grad():
        skip.weight.copy_(solution[:, :-1])
        skip.bias.copy_(solution[:, -1:])
        last.weight.zero_()
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, updates), 0.01 * LEARNING_RATE)
    for _ in range(updates):
        # The same samples for every policy: differences of policies are paired.
        chosen = torch.randint(x.shape[1], (BATCH,), generator=generator)
        loss = (net(x[:, chosen]) - y[:, chosen]).square().mean(dim=1).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return [_single(net, number) for number in range(len(x))]


def _single(net: BatchedMLP, number: int) -> BatchedMLP:
    """One of the networks by itself."""
    alone = copy.deepcopy(net).requires_grad_(False)
    for parameter in alone.parameters():
        parameter.data = parameter.data[number : number + 1].clone()
    return alone
