"""The transition filter and model rollouts, against obvious versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import Models, build_models
from controlkit.config import FilterConfig, RolloutConfig
from controlkit.models.discriminator import dynamics_reward
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.logged_returns import logged_returns
from controlkit.morec.policy_training import PolicyTraining
from controlkit.morec.rollout import StartRows, roll_out, training_reward
from controlkit.morec.transition_filter import TransitionFilter, calibrate_threshold
from controlkit.replay import LoggedTransitions
from tests import small_plant


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def log() -> LoggedTransitions:
    return LoggedTransitions(small_plant.dataset())


@pytest.fixture(scope="module")
def models(log: LoggedTransitions) -> Models:
    return small_plant.with_dynamics(log)


def reward_of(log_odds: float) -> float:
    return float(dynamics_reward(torch.tensor(log_odds)))


class PrefersHigh(torch.nn.Module):
    """A dynamics reward that prefers the highest next level, for telling which candidate was taken."""

    def log_odds(self, observation: torch.Tensor, action: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return state[..., 0]


def make_filter(models: Models, threshold: float = -np.inf, **settings: Any) -> TransitionFilter:
    return TransitionFilter(models.dynamics, PrefersHigh(), FilterConfig(**settings), threshold)  # type: ignore[arg-type]


def test_candidates_are_samples_members_means_and_the_ensemble_mean(models: Models) -> None:
    means, stds = torch.arange(6.0).reshape(2, 3, 1), torch.zeros(2, 3, 1)
    found = make_filter(models, samples=3).candidates(means, stds, generator())
    expected = torch.cat([means, means, means, means, means.mean(0, keepdim=True)])
    torch.testing.assert_close(found, expected)
    alone = make_filter(models, samples=0, member_means=False).candidates(means, stds, generator())
    torch.testing.assert_close(alone, means.mean(0, keepdim=True))


def test_argmax_takes_the_best_candidate_and_the_threshold_rejects(models: Models, log: LoggedTransitions) -> None:
    observation, action = log.observe(log.rows[:40]), log.actions[log.rows[:40]]
    chooser = make_filter(models, threshold=reward_of(0.5))
    chosen = chooser(observation, action, generator(3))
    means, stds = models.dynamics(observation, action)
    candidates = chooser.candidates(means, stds, generator(3))
    torch.testing.assert_close(chosen.state, candidates.amax(0))
    assert chosen.accepted.tolist() == (candidates.amax(0)[:, 0] >= 0.5).tolist()
    assert 0 < int(chosen.accepted.sum()) < 40


def test_softmax_follows_its_weights(models: Models, log: LoggedTransitions) -> None:
    observation, action = log.observe(log.rows[:1]).expand(4000, -1), log.actions[log.rows[:1]].expand(4000, -1)
    chooser = make_filter(models, samples=0, member_means=True, ensemble_mean=False, choose="softmax", kappa=0.01)
    with torch.no_grad():
        models.dynamics.net.body[0].bias[models.dynamics.elites[1], 0, 0] += 0.05  # so that the members differ
    chosen = chooser(observation, action, generator())
    means, _ = models.dynamics(observation[:1], action[:1])
    weights = torch.softmax(dynamics_reward(means[:, 0, 0]) / 0.01, 0)
    share = float((chosen.state[:, 0] - means[0, 0, 0]).abs().lt(1e-6).float().mean())
    with torch.no_grad():
        models.dynamics.net.body[0].bias[models.dynamics.elites[1], 0, 0] -= 0.05
    assert abs(share - float(weights[0])) < 0.03


def test_a_member_per_rollout_uses_that_member_alone(models: Models, log: LoggedTransitions) -> None:
    observation, action = log.observe(log.rows[:6]), log.actions[log.rows[:6]]
    member = torch.tensor([0, 1, 0, 1, 1, 0])
    chosen = make_filter(models, samples=0, ensemble_mean=False)(observation, action, generator(), member)
    means, _ = models.dynamics(observation, action)
    torch.testing.assert_close(chosen.state, means[member, torch.arange(6)])


def test_an_exact_model_rolls_out_as_the_plant_does(models: Models, log: LoggedTransitions) -> None:
    world = WorldModel(models.dynamics, small_plant.spec())
    chooser = make_filter(models, samples=0, member_means=False)
    rows = log.rows[[0, 50, 150]]
    rolled = roll_out(world, chooser, lambda o: 1.5 - o[:, :1], log, rows, 30, generator())
    for number, row in enumerate(rows.tolist()):
        level = float(log.frames[row, 0])
        mine = rolled.start == number
        for step, frame in zip(rolled.step[mine].tolist(), rolled.next_frame[mine].tolist(), strict=True):
            valve = min(max(1.5 - level, -2.0), 2.0)
            level = small_plant.next_level(level, valve, float(log.frames[row + step, 1]))
            assert frame[0] == pytest.approx(level, abs=0.02)
            assert frame[1] == float(log.frames[row + step + 1, 1])
        assert int(mine.sum()) == 30
    torch.testing.assert_close(rolled.reward, -(rolled.next_frame[:, 0] - 1).abs())


def test_rollouts_end_where_the_record_ends_and_say_so(models: Models, log: LoggedTransitions) -> None:
    world = WorldModel(models.dynamics, small_plant.spec())
    rows = log.rows[log.remaining[log.rows] == 4][:2]
    rolled = roll_out(world, make_filter(models), lambda o: o[:, :1] * 0, log, rows, 30, generator())
    assert len(rolled.reward) == 8
    assert rolled.ran_out == 2
    assert rolled.rejected == 0
    assert not bool(rolled.terminated.any())


def test_a_rejected_transition_is_discarded_and_ends_its_rollout(models: Models, log: LoggedTransitions) -> None:
    world = WorldModel(models.dynamics, small_plant.spec())
    chooser = make_filter(models, threshold=reward_of(0.0))
    # The valve shut, the level falls below 0, where the stand-in reward is below the threshold.
    rolled = roll_out(world, chooser, lambda o: torch.full_like(o[:, :1], -2.0), log, log.rows[:20], 30, generator())
    assert rolled.rejected == 20
    assert bool((rolled.next_frame[:, 0] >= 0).all())
    assert not bool(rolled.terminated.any())


def test_with_a_ruin_a_rejected_transition_is_an_end_that_earns_it(models: Models, log: LoggedTransitions) -> None:
    world = WorldModel(models.dynamics, small_plant.spec())
    chooser = make_filter(models, threshold=reward_of(0.0))
    policy = lambda o: torch.full_like(o[:, :1], -2.0)  # noqa: E731
    discarded = roll_out(world, chooser, policy, log, log.rows[:20], 30, generator())
    kept = roll_out(world, chooser, policy, log, log.rows[:20], 30, generator(), ruin=-50.0)
    assert kept.rejected == discarded.rejected == 20
    assert len(kept.reward) == len(discarded.reward) + 20
    ends = ~kept.accepted
    assert int(ends.sum()) == 20
    assert bool((kept.reward[ends] == -50.0).all())
    assert bool((kept.terminated == ends).all())
    torch.testing.assert_close(kept.reward[kept.accepted], discarded.reward)
    # A penalty on disagreement comes on top of what is earned, not of what is lost.
    costly = RolloutConfig(penalty="disagreement", penalty_coefficient=100.0)
    charged = training_reward(kept._replace(disagreement=torch.ones_like(kept.reward)), world, costly, 1.0)
    torch.testing.assert_close(charged, kept.reward - 100.0 * kept.accepted)


def test_the_ruin_is_what_the_plant_would_earn_for_ever(log: LoggedTransitions) -> None:
    rewards = log.rewards[log.rows]
    for centred in (False, True):
        settings = small_plant.config(policy={"gamma": 0.9, "centre_rewards": centred}, rollout={"rejected": 2.0})
        models = build_models(settings, small_plant.spec(), generator())
        chooser = make_filter(models)
        training = PolicyTraining(models, chooser, small_plant.spec(), log, settings)
        centre = float(rewards.mean()) if centred else 0.0
        wanted = float(rewards.mean() - 2.0 * rewards.std()) - centre
        ruin = training.ruin()
        assert ruin is not None
        # As the learner sees it: a reward of that size, and nothing after it.
        assert (ruin - centre) * (1.0 - 0.9) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_the_ruin_may_be_so_many_spreads_below_what_logged_steps_were_worth(
    log: LoggedTransitions, centred: bool
) -> None:
    settings = small_plant.config(
        policy={"gamma": 0.9, "centre_rewards": centred}, rollout={"rejected": 2.0, "rejected_unit": "return"}
    )
    models = build_models(settings, small_plant.spec(), generator())
    training = PolicyTraining(models, make_filter(models), small_plant.spec(), log, settings)
    ruin, rewards = training.ruin(), log.rewards[log.rows]
    assert ruin is not None
    centre, spread = (float(rewards.mean()) if centred else 0.0), float(rewards.std())
    worth = logged_returns(log, 0.9, spread, centre)[log.rows]
    # As the learner sees it: a scaled reward of that size, and nothing after it.
    assert (ruin - centre) / spread == pytest.approx(float(worth.mean() - 2.0 * worth.std()), rel=1e-4)


@pytest.mark.parametrize("rule", [{"tag": "level", "below": -1}, {"function": "tank_runs_empty:empty"}])
def test_a_trip_terminates(
    rule: dict[str, Any], models: Models, log: LoggedTransitions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tank_runs_empty.py").write_text("def empty(now, after):\n    return after['level'] < -1\n")
    monkeypatch.syspath_prepend(tmp_path)
    plant = small_plant.spec(episodes={"terminated": [rule]})
    world = WorldModel(models.dynamics, plant)
    rolled = roll_out(
        world, make_filter(models), lambda o: torch.full_like(o[:, :1], -2.0), log, log.rows[:9], 30, generator()
    )
    assert int(rolled.terminated.sum()) == 9
    below = rolled.next_frame[:, 0] < -1
    assert torch.equal(below, rolled.terminated)


def test_residuals_are_seen_by_the_policy_but_not_charged(models: Models, log: LoggedTransitions) -> None:
    world = WorldModel(models.dynamics, small_plant.spec())
    chooser = make_filter(models, samples=0, member_means=False)
    quiet, noisy = (
        roll_out(world, chooser, lambda o: o[:, :1] * 0, log, log.rows[:5], 1, generator(), residuals)
        for residuals in (None, torch.tensor([[0.5]]))
    )
    torch.testing.assert_close(noisy.next_frame[:, 0], quiet.next_frame[:, 0] + 0.5)
    torch.testing.assert_close(noisy.reward, quiet.reward)


def test_doubt_and_violations_cost(models: Models, log: LoggedTransitions) -> None:
    plant = small_plant.spec(constraints=[{"tag": "level", "high": 0.0}])
    world = WorldModel(models.dynamics, plant)
    rolled = roll_out(world, make_filter(models), lambda o: o[:, :1] * 0, log, log.rows[:50], 5, generator())
    settings = RolloutConfig(penalty_coefficient=3.0, constraint_coefficient=2.0)
    reward = training_reward(rolled, world, settings, 0.5)
    over = rolled.next_frame[:, 0].clamp(min=0) / 20
    torch.testing.assert_close(reward, rolled.reward - 1.5 * rolled.disagreement - 1.0 * over)
    plain = training_reward(rolled, world, RolloutConfig(penalty="none", constraint_coefficient=0), 0.5)
    torch.testing.assert_close(plain, rolled.reward)


def test_starts_are_usable_rows_with_a_share_near_the_beginning(log: LoggedTransitions) -> None:
    rows = StartRows(log, RolloutConfig(starts=400, length=5, early_starts=0.5)).draw(generator())
    assert set(rows.tolist()) <= set(log.rows.tolist())
    assert int((log.position[rows] < 7).sum()) >= 200


def test_event_starts_lie_before_a_change_of_the_load(log: LoggedTransitions) -> None:
    starts = StartRows(log, RolloutConfig(starts=400, length=3, event_starts=1.0))
    load = log.frames[:, 1]
    for row in starts.draw(generator()).tolist():
        ahead = load[row : row + 1 + min(3, int(log.remaining[row]))]
        assert float(ahead.max()) > float(ahead.min())
    calm = StartRows(LoggedTransitions(small_plant.dataset(steps=9)), RolloutConfig(starts=9, event_starts=1.0))
    assert len(calm.events) == 0
    assert len(calm.draw(generator())) == 9


def slow_threshold(scores: list[float], rows: list[int], length: int, survival: float) -> float:
    """Window by window, in plain Python."""
    runs: list[list[float]] = []
    for index, row in enumerate(rows):
        if index == 0 or row != rows[index - 1] + 1:
            runs.append([])
        runs[-1].append(scores[index])
    lowest = []
    for run in runs:
        size = min(length, len(run))
        lowest += [min(run[i : i + size]) for i in range(len(run) - size + 1)]
    return float(np.quantile(np.array(lowest, dtype=np.float32), 1 - survival))


def test_the_threshold_lets_the_asked_share_of_whole_trajectories_survive() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.arange(100), np.arange(200, 320), np.arange(400, 403)])
    scores = rng.normal(size=len(rows)).astype(np.float32)
    threshold = calibrate_threshold(torch.from_numpy(scores), torch.from_numpy(rows), 10, 0.9)
    assert threshold == pytest.approx(slow_threshold(scores.tolist(), rows.tolist(), 10, 0.9), abs=1e-5)
    # A quantile of single steps would end most trajectories: the calibrated threshold is far below it.
    assert threshold < float(np.quantile(scores, 0.1))
