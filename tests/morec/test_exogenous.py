"""What exogenous and static tags do under a rollout that outlasts the record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import build_models
from controlkit.config import DynamicsConfig, FilterConfig
from controlkit.dataset import TransitionDataset
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.exogenous import NEIGHBOURS, Record, Splice, sequence
from controlkit.morec.rollout import Rollouts, roll_out
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from tests import small_plant


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_spec() -> PlantSpec:
    """The small plant with a static tag: which batch is in the tank."""
    tags: dict[str, Any] = {
        "level": {"role": "state", "unit": "m", "range": [-10, 10], "history": 1},
        "batch": {"role": "static", "unit": "1", "range": [0, 100]},
        "load": {"role": "exogenous", "unit": "1", "range": [-3, 3], "history": 1},
        "valve": {"role": "action", "unit": "1", "range": [-2, 2], "safe": 0, "fallback": {"kind": "hold"}},
    }
    return small_plant.spec(tags=tags)


def batch_log(load: np.ndarray) -> LoggedTransitions:
    """Episodes of some steps with a given load (episodes, steps + 1); the batch's number is the episode's."""
    episodes, rows = load.shape
    number = np.repeat(np.arange(episodes), rows)
    rng = np.random.default_rng(3)
    frames = np.stack([rng.normal(size=load.size), number, load.ravel()], axis=1)
    time_ns = (number * 10_000 + np.tile(np.arange(rows), episodes)) * small_plant.NS
    data = TransitionDataset.from_frames(
        batch_spec(),
        frames=frames.astype(np.float32),
        actions=rng.normal(size=(load.size, 1)).astype(np.float32),
        episode=number,
        time_ns=time_ns,
    )
    return LoggedTransitions(data)


def rolled(log: LoggedTransitions, exogenous: Record | None, length: int, starts: torch.Tensor) -> Rollouts:
    config = small_plant.config(dynamics={"hidden": []})
    dynamics = build_models(config, batch_spec(), generator()).dynamics
    chooser = TransitionFilter(dynamics, torch.nn.Identity(), FilterConfig(enabled=False), -np.inf)  # type: ignore[arg-type]
    world = WorldModel(dynamics, batch_spec())
    return roll_out(world, chooser, lambda o: 0 * o[:, :1], log, starts, length, generator(1), exogenous=exogenous)


@pytest.fixture(scope="module")
def door_log() -> LoggedTransitions:
    """60 episodes of 30 steps; the load opens with probability 0.06 and shuts with 0.2 per step."""
    rng = np.random.default_rng(0)
    state, load = rng.random(60) < 0.06 / 0.26, np.zeros((60, 31))
    for step in range(31):
        load[:, step] = state
        flip = rng.random(60) < np.where(state, 0.2, 0.06)
        state = state ^ flip
    return batch_log(load)


def test_rollouts_outlast_episodes_of_thirty_steps(door_log: LoggedTransitions) -> None:
    starts = door_log.rows[::7]
    recorded = rolled(door_log, None, 100, starts)
    assert int(recorded.step.max()) < 30
    assert recorded.ran_out == len(starts)
    spliced = rolled(door_log, Splice(door_log, batch_spec(), generator()), 100, starts)
    assert spliced.ran_out == 0
    assert torch.bincount(spliced.start).tolist() == [100] * len(starts)


def test_a_splice_keeps_mean_and_switching_rate_of_the_record(door_log: LoggedTransitions) -> None:
    starts = door_log.rows[::7]
    spliced = rolled(door_log, Splice(door_log, batch_spec(), generator()), 100, starts)
    load = torch.zeros(100, len(starts))
    load[spliced.step, spliced.start] = spliced.next_frame[:, 2]
    late = load[30:]  # far beyond where any record ended
    switched = (late[1:] != late[:-1]).float().mean()
    rows = door_log.rows
    logged = door_log.frames[:, 2]
    assert float(late.mean()) == pytest.approx(float(logged[rows].mean()), abs=0.04)
    assert float(switched) == pytest.approx(float((logged[rows] != logged[rows + 1]).float().mean()), abs=0.02)
    assert set(late.unique().tolist()) == {0.0, 1.0}


def test_static_tags_stay_and_history_is_the_rollouts_own(door_log: LoggedTransitions) -> None:
    starts = door_log.rows[::50]
    spliced = rolled(door_log, Splice(door_log, batch_spec(), generator()), 80, starts)
    batch = door_log.frames[starts, 1]
    torch.testing.assert_close(spliced.next_frame[:, 1], batch[spliced.start])
    torch.testing.assert_close(spliced.observation[:, 1], batch[spliced.start])
    # What was the next load is the current one a step later, also across a joint.
    order = torch.argsort(spliced.start * 1000 + spliced.step)
    before, after = order[:-1], order[1:]
    same = spliced.start[before] == spliced.start[after]
    loads = spliced.next_frame[before[same], 2], spliced.observation[after[same], 2]
    torch.testing.assert_close(*loads)


def test_joints_are_among_the_nearest_windows() -> None:
    rng = np.random.default_rng(1)
    load = np.cumsum(0.2 * rng.normal(size=(40, 31)), axis=1).clip(-3, 3)
    log = batch_log(load)
    splice = Splice(log, batch_spec(), generator())
    ends = torch.arange(40) * 31 + 30
    window = np.stack([log.frames[1:, 2], log.frames[:-1, 2]], axis=1)  # load now and before, row r at r - 1
    usable = log.rows.numpy()
    spread = window[usable - 1].std(axis=0, ddof=1)
    for end in ends[::8].tolist():
        distance = np.linalg.norm((window[usable - 1] - window[end - 1]) / spread, axis=1)
        nearest = np.sort(distance)[NEIGHBOURS - 1]
        found = set()
        for seed in range(20):
            rows, lasting = splice.advance(torch.full((50,), end - 1), generator(seed))
            assert bool(lasting.all())
            found |= set(rows.tolist())
        assert len(found) == NEIGHBOURS
        assert max(distance[np.searchsorted(usable, sorted(found))]) <= nearest + 2e-3


def test_windows_that_are_alike_all_have_their_chance(door_log: LoggedTransitions) -> None:
    """Hundreds of rows stand before a shut door: not the first ones of the log are taken, but any."""
    splice = Splice(door_log, batch_spec(), generator())
    shut = [end for end in (torch.arange(60) * 31 + 30).tolist() if not door_log.frames[end - 1 : end + 1, 2].any()]
    rows, _ = splice.advance(torch.tensor(shut).repeat(400) - 1, generator())
    assert not door_log.frames[rows, 2].any()
    middle = float(door_log.rows.float().mean())
    assert float(rows.float().mean()) == pytest.approx(middle, rel=0.1)
    assert len(rows.unique()) > 300


def test_without_exogenous_tags_any_row_follows() -> None:
    tags = {name: tag for name, tag in batch_spec().to_dict()["tags"].items() if name != "load"}
    spec = small_plant.spec(tags=tags)
    data = TransitionDataset.from_frames(
        spec,
        frames=np.stack([np.arange(20.0) % 5, np.repeat([1.0, 2.0], 10)], axis=1).astype(np.float32),
        actions=np.zeros((20, 1), dtype=np.float32),
        episode=np.repeat([0, 1], 10),
        time_ns=np.arange(20) * small_plant.NS + np.repeat([0, 10**13], 10),
    )
    log = LoggedTransitions(data)
    # There is no record that could end, whatever the configuration says of it.
    endless = sequence(log, spec, DynamicsConfig(exogenous="record"), generator())
    rows, lasting = endless.advance(torch.full((500,), 8), generator())
    assert bool(lasting.all())
    assert set(rows.tolist()) <= set(log.rows.tolist())
    assert len(rows.unique()) > 8


def test_the_configuration_chooses_and_the_record_draws_nothing(door_log: LoggedTransitions) -> None:
    random = generator()
    before = random.get_state()
    record = sequence(door_log, batch_spec(), DynamicsConfig(), random)
    record.advance(door_log.rows, random)
    assert type(record) is Record
    assert torch.equal(random.get_state(), before)
    assert type(sequence(door_log, batch_spec(), DynamicsConfig(exogenous="splice"), random)) is Splice


def test_equal_seeds_give_equal_joints(door_log: LoggedTransitions) -> None:
    first, second = (
        rolled(door_log, Splice(door_log, batch_spec(), generator(5)), 60, door_log.rows[:40]) for _ in range(2)
    )
    assert torch.equal(first.next_frame, second.next_frame)
