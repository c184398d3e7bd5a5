"""Logs of an operator, and the true values of policies: what estimates from a log are held against.

The true value is that of the report's own estimand (`controlkit/evaluation/estimand.py`): the operator runs an episode
up to a moment drawn evenly from those that a log offers as starts, the policy takes over, and its rewards over the
horizon are weighted and summed up. All policies of a plant meet the same starts and the same disturbances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from controlkit.benchmarks.ope_plants import Law, StateFeedback, TruthPlant
from controlkit.config import ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.evaluation.assessment import Effort, assess
from controlkit.evaluation.estimand import Estimand
from controlkit.evaluation.findings import Findings
from controlkit.evaluation.policies import EvaluatedPolicy
from controlkit.layout import Layout
from controlkit.objective import CommandLimits, Objective
from controlkit.progress import Silent
from envs.simulation import Floats, spawned_seeds
from envs.window import ObservationWindow

ROLLOUTS = 4096
# Rollouts whose states and commands are kept, to tell whether the log knows them.
WATCHED = 64
TRUTH_SEED = 810_000


@dataclass(frozen=True)
class Truth:
    """A policy's true value.

    Attributes:
        value, stderr: in plant units per period; stderr is 0 where the value is known in closed form.
        steps: (H * WATCHED, n + m) frames and commands of its own true operation.
    """

    value: float
    stderr: float
    steps: Floats


def collect_log(plant: TruthPlant, episodes: int, seed: int) -> TransitionDataset:
    """A data set of the operator's episodes."""
    plant_seed, hand_seed = spawned_seeds(seed, 2)
    simulator = plant.simulator(episodes, np.random.default_rng(plant_seed))
    hand = np.random.default_rng(hand_seed)
    limits, window = CommandLimits(plant.spec), ObservationWindow(plant.spec)
    frames, actions = [simulator.reset()], []
    observation = window.reset(frames[0])
    for _ in range(plant.steps):
        actions.append(_command(plant.operator, observation, hand, limits))
        frames.append(simulator.step(actions[-1]))
        observation = window.step(actions[-1], frames[-1])
    actions.append(actions[-1])  # of the last row nothing follows
    rows = plant.steps + 1
    period = round(plant.spec.period_s * 1e9)
    # Episodes one after the other, with a gap between.
    time = (np.arange(episodes)[:, None] * (rows + 100) + np.arange(rows)).reshape(-1) * period
    return TransitionDataset.from_frames(
        plant.spec,
        frames=np.stack(frames, axis=1).reshape(episodes * rows, -1).astype(np.float32),
        actions=np.stack(actions, axis=1).reshape(episodes * rows, -1).astype(np.float32),
        episode=np.repeat(np.arange(episodes), rows),
        time_ns=time,
        sources={f"{plant.name}, seed {seed}": "0" * 64},
    )


def true_value(plant: TruthPlant, law: Law, estimand: Estimand, rollouts: int = ROLLOUTS) -> Truth:
    """By simulation, or in closed form where that is known.

    Args:
        plant: the plant.
        law: the policy.
        estimand: weights and horizon.
        rollouts: how many.
    """
    plant_seed, hand_seed, start_seed = spawned_seeds(TRUTH_SEED, 3)
    simulator = plant.simulator(rollouts, np.random.default_rng(plant_seed))
    hand = np.random.default_rng(hand_seed)
    limits, window, objective = CommandLimits(plant.spec), ObservationWindow(plant.spec), Objective(plant.spec)
    depth = Layout.from_spec(plant.spec).depth
    begin = np.random.default_rng(start_seed).integers(depth, plant.steps - estimand.horizon + 1, rollouts)  # (B,)
    weights = estimand.weights.numpy()
    total = np.zeros(rollouts)
    steps = []
    observation = window.reset(simulator.reset())
    for time in range(int(begin.max()) + estimand.horizon):
        noise = hand.standard_normal((rollouts, len(plant.spec.action_tags)))
        ours = (time >= begin) & (time < begin + estimand.horizon)
        wish = np.where(ours[:, None], law(observation, noise), plant.operator(observation, noise))
        command = limits.apply(wish, observation)
        frame = simulator.step(command)
        reward = objective.reward(observation, command, frame)
        total[ours] += weights[(time - begin)[ours]] * reward[ours]
        seen = ours[:WATCHED]
        current = observation[:WATCHED, : frame.shape[1]]
        steps.append(np.concatenate([current, command[:WATCHED]], axis=1)[seen])
        observation = window.step(command, frame)
    known = np.concatenate(steps)
    if plant.linear is not None and isinstance(law, StateFeedback) and isinstance(plant.operator, StateFeedback):
        return Truth(plant.linear.value(law, plant.operator, weights), 0.0, known)
    return Truth(float(total.mean()), float(total.std(ddof=1) / np.sqrt(rollouts)), known)


def evaluate_laws(
    plant: TruthPlant, laws: Mapping[str, Law], data: TransitionDataset, effort: Effort, seed: int
) -> Findings:
    """The evaluation of laws from an operator's log alone: models are fitted on all of it, policies start in the second
    half of its episodes."""
    starts = np.flatnonzero(data.position == 0)
    return assess(
        [as_policy(name, law) for name, law in laws.items()],
        data,
        evaluation_rows=(0, int(starts[len(starts) // 2])),
        gamma=plant.gamma,
        scaling=ScalingConfig(),
        effort=effort,
        progress=Silent(),
        seed=seed,
    )


def as_policy(name: str, law: Law) -> EvaluatedPolicy:
    """The same law for the evaluation."""

    def act(observation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(law(observation.double().numpy(), noise.double().numpy())).float()

    return EvaluatedPolicy(name, act)


def _command(law: Law, observation: Floats, hand: np.random.Generator, limits: CommandLimits) -> Floats:
    noise = hand.standard_normal((len(observation), len(limits.low)))
    command: Floats = limits.apply(law(observation, noise), observation)
    return command
