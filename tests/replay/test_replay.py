"""The log as tensors against the data set it comes from; the ring of model transitions."""

from __future__ import annotations

import numpy as np
import torch

from controlkit.replay import LoggedTransitions, ModelTransitions
from tests import small_plant


def test_windows_on_the_device_are_the_data_sets() -> None:
    data = small_plant.dataset(episodes=3, steps=20)
    log = LoggedTransitions(data)
    rows = data.transitions
    np.testing.assert_array_equal(log.rows.numpy(), rows)
    batch = log.batch(log.rows)
    np.testing.assert_array_equal(batch.observation.numpy(), data.observations(rows))
    np.testing.assert_array_equal(batch.next_observation.numpy(), data.next_observations(rows))
    np.testing.assert_array_equal(batch.reward.numpy(), data.rewards[rows])
    np.testing.assert_array_equal(log.next_state(log.rows).numpy(), data.frames[rows + 1, :1])
    assert bool(torch.isfinite(torch.cat([batch.observation, batch.action, batch.next_observation], 1)).all())


def test_remaining_counts_the_rows_that_follow_in_the_episode() -> None:
    data = small_plant.dataset(episodes=3, steps=20)
    log = LoggedTransitions(data)
    expected = [sum(data.episode[i + 1 :] == data.episode[i]) for i in range(len(data))]
    np.testing.assert_array_equal(log.remaining.numpy(), expected)


def test_the_ring_keeps_the_newest_and_rebuilds_next_observations() -> None:
    data = small_plant.dataset(episodes=1, steps=40)
    log = LoggedTransitions(data)
    ring = ModelTransitions(log.layout, 10)
    rows = log.rows[:24]
    for part in rows.split(8):
        batch = log.batch(part)
        ring.extend(batch.observation, batch.action, log.frames[part + 1], batch.reward, batch.terminated)
    assert ring.size == 10
    kept = {round(float(x), 4) for x in ring.reward}
    assert kept == {round(float(x), 4) for x in log.rewards[rows[-10:]]}
    drawn = ring.sample(200, torch.Generator().manual_seed(0))
    by_reward = {float(log.rewards[row]): log.observe(row + 1) for row in rows}
    for reward, following in zip(drawn.reward, drawn.next_observation, strict=True):
        torch.testing.assert_close(following, by_reward[float(reward)])


def test_a_ring_comes_back_from_a_checkpoint_and_goes_on_where_it_was() -> None:
    data = small_plant.dataset(episodes=1, steps=60)
    log = LoggedTransitions(data)
    rings = [ModelTransitions(log.layout, 16) for _ in range(2)]

    def extend(ring: ModelTransitions, rows: torch.Tensor) -> None:
        batch = log.batch(rows)
        ring.extend(batch.observation, batch.action, log.frames[rows + 1], batch.reward, batch.terminated)

    for rows in log.rows[:24].split(6):
        extend(rings[0], rows)
    rings[1].load_state_dict(rings[0].state_dict())
    for ring in rings:
        extend(ring, log.rows[24:30])
    torch.testing.assert_close(rings[0].reward, rings[1].reward)
    assert rings[0].next == rings[1].next
