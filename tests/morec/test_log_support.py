"""Support in rollouts: what lies near the log is inside, and a policy that leaves it is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from controlkit.artifacts import Models, RunFolder
from controlkit.config import FilterConfig, ScalingConfig
from controlkit.dataset import RECORD
from controlkit.files import read_json
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.log_support import NEIGHBOURS, PASS, LogSupport, nearest_recorded, thin
from controlkit.morec.rollout import roll_out
from controlkit.morec.train import train
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant


@pytest.fixture(scope="module")
def log() -> LoggedTransitions:
    return LoggedTransitions(small_plant.dataset(noise=0.05))


@pytest.fixture(scope="module")
def held_out() -> LoggedTransitions:
    return LoggedTransitions(small_plant.dataset(noise=0.05, seed=1))


def support(log: LoggedTransitions, held_out: LoggedTransitions, scaling: ScalingConfig | None = None) -> LogSupport:
    limits = CommandLimits(small_plant.spec())
    return LogSupport(log, held_out, scaling or ScalingConfig(), limits)


def test_the_distance_is_the_fifth_smallest_of_all() -> None:
    rng = torch.Generator().manual_seed(0)
    points, reference = torch.randn(30, 3, generator=rng), torch.randn(200, 3, generator=rng)
    spread = torch.tensor([1.0, 2.0, 0.5])
    distance, nearest = nearest_recorded(points, reference, spread)
    for number, point in enumerate(points):
        every = ((point - reference) / spread).norm(dim=1)
        assert float(distance[number]) == pytest.approx(float(every.sort().values[NEIGHBOURS - 1]), rel=1e-4)
        assert int(nearest[number]) == int(every.argmin())


def test_thinning_is_even_and_keeps_the_ends() -> None:
    assert thin(torch.arange(101), 5).tolist() == [0, 25, 50, 75, 100]
    assert thin(torch.arange(3), 5).tolist() == [0, 1, 2]


def test_nearly_all_held_out_steps_are_inside(log: LoggedTransitions, held_out: LoggedTransitions) -> None:
    known = support(log, held_out)
    inside = known.inside(held_out.observe(held_out.rows), held_out.actions[held_out.rows])
    assert float(inside.double().mean()) == pytest.approx(PASS, abs=0.003)


def test_what_is_far_is_outside_unless_the_tag_is_unseen(log: LoggedTransitions, held_out: LoggedTransitions) -> None:
    rows = log.rows[:50]
    observation, action = log.observe(rows), log.actions[rows]
    far = observation.clone()
    far[:, 0] += 8.0
    known = support(log, held_out)
    assert not bool(known.inside(far, action).any())
    assert not bool(known.inside(observation, action + 6.0).any())
    blind = support(log, held_out, ScalingConfig(unseen=("level",)))
    assert bool(blind.inside(far, action).equal(blind.inside(observation, action)))


def test_a_rollout_ends_where_it_leaves_the_log(log: LoggedTransitions, held_out: LoggedTransitions) -> None:
    models: Models = small_plant.with_dynamics(log)
    world, known = WorldModel(models.dynamics, small_plant.spec()), support(log, held_out)
    chooser = TransitionFilter(models.dynamics, models.reward, FilterConfig(samples=0), float("-inf"), support=known)
    policy = lambda o: torch.full_like(o[:, :1], 2.0)  # noqa: E731
    rolled = roll_out(world, chooser, policy, log, log.rows[:40], 30, torch.Generator().manual_seed(0))
    assert rolled.rejected == 40
    assert bool(known.inside(rolled.observation, rolled.action).all())


def test_a_run_says_whether_its_rollouts_have_support(tmp_path: Path) -> None:
    data = small_plant.dataset(noise=0.05)
    data.save(tmp_path / "data")
    record = read_json(tmp_path / "data" / RECORD)
    for enabled, wanted in ((True, True), (True, False), (False, True)):
        settings = {"support": wanted, "enabled": enabled, "threshold": "off"}
        config = small_plant.config(filter=settings, rollout={"rejected": 1.0})
        progress = Silent()
        train(RunFolder.create(tmp_path / f"{enabled}{wanted}", config, data, record), data, progress)
        said = "\n".join(progress.messages)
        assert ("Rollouts end beyond a distance" in said) == (wanted and enabled)
        assert ("and filter.support with it" in said) == (wanted and not enabled)
        assert ("rollout.rejected is off" in said) == (not (wanted and enabled))
