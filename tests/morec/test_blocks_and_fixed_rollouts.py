"""Updates by the block, and rollouts of fixed size, against one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from controlkit.artifacts import Models, build_critics, build_models
from controlkit.config import FilterConfig, PolicyConfig, RolloutConfig
from controlkit.models.discriminator import dynamics_reward
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.fixed_rollout import FixedRollout
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import Rollouts, roll_out
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.morec.update_blocks import BLOCK, UpdateBlocks, sensible_threads
from controlkit.objective import CommandLimits
from controlkit.replay import Batch, LoggedTransitions, ModelTransitions
from tests import small_plant


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def log() -> LoggedTransitions:
    return LoggedTransitions(small_plant.dataset())


@pytest.fixture(scope="module")
def models(log: LoggedTransitions) -> Models:
    return small_plant.with_dynamics(log)


class Recording:
    """Keeps the minibatches that it is given."""

    def __init__(self) -> None:
        self.updates, self.seen = 0, []  # type: ignore[var-annotated]

    def update(self, batch: Batch, generator: torch.Generator) -> int:
        self.updates += 1
        self.seen.append(batch)
        return self.updates


def filled_ring(log: LoggedTransitions) -> ModelTransitions:
    """Model transitions that are told from logged ones by their reward of 77."""
    ring = ModelTransitions(log.layout, 50)
    rows = log.rows[:30]
    ring.extend(log.observe(rows), log.actions[rows], log.frames[rows + 1], torch.full((30,), 77.0), rows == rows[3])
    return ring


def test_a_minibatch_holds_logged_transitions_and_then_the_models() -> None:
    data = LoggedTransitions(small_plant.dataset())
    learner = Recording()
    last = UpdateBlocks(learner, data, filled_ring(data), 5, 12, generator()).run(2 * BLOCK + 3)
    assert last == learner.updates == 2 * BLOCK + 3
    logged = {tuple(row.tolist()) for row in data.observe(data.rows)}
    for batch in learner.seen:
        assert batch.modelled == 7
        assert batch.observation.shape == batch.next_observation.shape == (12, 8)
        assert batch.action.shape == (12, 1)
        assert batch.reward.shape == batch.terminated.shape == (12,)
        assert (batch.reward == 77.0).tolist() == [False] * 5 + [True] * 7
        # The current level and load become the first past ones: the two observations belong together.
        torch.testing.assert_close(batch.next_observation[:, 2:4], batch.observation[:, 0:2])
        torch.testing.assert_close(batch.next_observation[:, 6:7], batch.action)
        assert all(tuple(row.tolist()) in logged for row in batch.observation[:5])
    drawn = torch.cat([batch.observation[:5] for batch in learner.seen])
    assert len(torch.unique(drawn, dim=0)) > 150


def test_without_model_transitions_all_are_logged() -> None:
    data = LoggedTransitions(small_plant.dataset())
    for ring, real in ((ModelTransitions(data.layout, 50), 5), (filled_ring(data), 12)):
        learner = Recording()
        UpdateBlocks(learner, data, ring, real, 12, generator()).run(3)
        assert [(batch.modelled, len(batch.reward)) for batch in learner.seen] == [(0, 12)] * 3
    learner = Recording()
    UpdateBlocks(learner, data, filled_ring(data), 0, 12, generator()).run(1)
    assert bool((learner.seen[0].reward == 77.0).all())


def test_a_resumed_learner_makes_the_same_updates(log: LoggedTransitions, models: Models) -> None:
    config = small_plant.config(policy={"hidden": [8], "average": 0.7})

    def fresh() -> tuple[PolicyLearner, UpdateBlocks, torch.Generator]:
        drawn = generator(4)
        built, critics = (
            build_models(config, small_plant.spec(), drawn),
            build_critics(config, small_plant.spec(), drawn),
        )
        limits = CommandLimits(small_plant.spec())
        learner = PolicyLearner(built.actor, critics, built.behaviour, limits, config.policy, 1.0)
        return learner, UpdateBlocks(learner, log, filled_ring(log), 5, 32, drawn), drawn

    whole, blocks, _ = fresh()
    blocks.run(30)
    blocks.run(30)
    first, blocks, drawn = fresh()
    blocks.run(30)
    second, blocks, again = fresh()
    second.load_state_dict(first.state_dict())
    again.set_state(drawn.get_state())
    blocks.run(30)
    for mine, theirs in ((second.actor, whole.actor), (second.averaged, whole.averaged)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert torch.equal(second.log_alpha, whole.log_alpha)
    assert second.averages == whole.averages > 0


@pytest.mark.parametrize(("hidden", "threads"), [([256, 256], 3), ([64, 64], 1)])
def test_small_networks_are_trained_on_one_thread(hidden: list[int], threads: int) -> None:
    data, seen = LoggedTransitions(small_plant.dataset()), []

    class Counting(Recording):
        def update(self, batch: Batch, generator: torch.Generator) -> int:
            seen.append(torch.get_num_threads())
            return super().update(batch, generator)

    chosen = sensible_threads(PolicyConfig(hidden=tuple(hidden)), 3)
    before = torch.get_num_threads()
    UpdateBlocks(Counting(), data, ModelTransitions(data.layout, 5), 5, 12, generator(), threads=chosen).run(2)
    assert seen == [threads, threads]
    assert torch.get_num_threads() == before


def reward_of(log_odds: float) -> float:
    return float(dynamics_reward(torch.tensor(log_odds)))


class Level(torch.nn.Module):
    """A dynamics reward whose log odds are the next level."""

    def log_odds(self, observation: torch.Tensor, action: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return state[..., 0]


@pytest.mark.parametrize("ruin", [None, -7.0])
@pytest.mark.parametrize("member_per_rollout", [False, True])
def test_a_fixed_rollout_gives_the_transitions_of_a_shrinking_one(
    log: LoggedTransitions, models: Models, member_per_rollout: bool, ruin: float | None
) -> None:
    plant = small_plant.spec(episodes={"terminated": [{"tag": "level", "above": 1.2}]})
    world = WorldModel(models.dynamics, plant)
    settings: dict[str, Any] = {"samples": 0, "ensemble_mean": not member_per_rollout}
    chooser = TransitionFilter(models.dynamics, Level(), FilterConfig(**settings), reward_of(-0.3))  # type: ignore[arg-type]
    rollout = RolloutConfig(starts=60, length=40, member_per_rollout=member_per_rollout)
    rows = log.rows[torch.randint(len(log.rows), (60,), generator=generator(1))]

    def policy(observation: torch.Tensor) -> torch.Tensor:
        return 0.8 * torch.sin(7.0 * observation[:, :1]) - 0.2

    fixed = FixedRollout(world, chooser, policy, log, rollout, generator(3), ruin=ruin)
    shrinking = roll_out(
        world, chooser, policy, log, rows, 40, generator(3), member_per_rollout=member_per_rollout, ruin=ruin
    )
    fixed(rows.flip(0))  # what an earlier call left behind must not count
    fixed.generator = fixed.generator.manual_seed(3)
    found = fixed(rows)
    assert shrinking.rejected > 0
    assert shrinking.ran_out > 0
    assert int(shrinking.terminated.sum()) > 0
    for name, mine, theirs in zip(Rollouts._fields, found, shrinking, strict=True):
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(
                mine, theirs, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
        else:
            assert mine == theirs, name


def test_a_rollout_rejected_at_once_leaves_nothing(log: LoggedTransitions, models: Models) -> None:
    world = WorldModel(models.dynamics, small_plant.spec())
    chooser = TransitionFilter(models.dynamics, Level(), FilterConfig(), 99.0)  # type: ignore[arg-type]
    rolled = FixedRollout(world, chooser, lambda o: o[:, :1] * 0, log, RolloutConfig(starts=9, length=4), generator())(
        log.rows[:9]
    )
    assert (rolled.rejected, len(rolled.reward), rolled.observation.shape) == (9, 0, (0, 8))
