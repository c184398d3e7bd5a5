"""Closed loops whose episodes end: what counts, and what no longer does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from controlkit.spec import PlantSpec
from envs.closed_loop import run_closed_loop, score
from envs.collect import simulate_log
from envs.neorl.behaviour.settings import TrainingSettings
from envs.neorl.behaviour.view import TrainingEnv
from envs.neorl.dmsd import VectorDmsd
from envs.neorl.environment import SimulatedPlantEnv
from envs.simulation import Floats
from envs.tasks import get_task


def tank_spec() -> PlantSpec:
    """A reward of 1 - level' a step; an end above 3."""
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {
                "level": {"role": "state", "unit": "m", "range": [0, 10]},
                "valve": {"role": "action", "unit": "%", "range": [0, 2], "safe": 0, "fallback": {"kind": "hold"}},
            },
            "objective": [{"kind": "track", "tag": "level", "setpoint": 0}],
            "episodes": {"terminated": [{"tag": "level", "above": 3}]},
        }
    )


class Tank:
    """level' = level + valve, and no number at all beyond 8."""

    frame_tags = ("level",)

    def __init__(self, copies: int) -> None:
        self.copies = copies
        self.reset()

    def reset(self) -> Floats:
        self.true_frame = np.zeros((self.copies, 1))
        return self.true_frame

    def step(self, command: Floats) -> Floats:
        level = self.true_frame + command
        self.true_frame = np.where(level > 8, np.nan, level)
        return self.true_frame


class Fixed:
    """The same commands in every step: (B, 1)."""

    def __init__(self, commands: list[float]) -> None:
        self.commands = np.array(commands)[:, None]

    def reset(self, batch: int) -> None:
        assert batch == len(self.commands)

    def act(self, measurement: Floats) -> Floats:
        return self.commands


def test_an_episode_counts_up_to_its_end_and_the_step_that_led_there() -> None:
    loop = run_closed_loop(Fixed([0.0, 0.25, 1.0, 2.0, 5.0]), Tank(5), tank_spec(), 8)  # type: ignore[arg-type]
    # levels: 0; 0.25 .. 2; 1, 2, 3, 4 (end); 2, 4 (end); 5 (end), its command cut to 2 for the reward, not here
    assert loop.lengths.tolist() == [8, 8, 4, 2, 1]
    assert loop.returns == pytest.approx([0.0, -0.25 * 36, -10.0, -6.0, -5.0])
    assert loop.cost == pytest.approx(-loop.returns / 8)
    assert loop.limit_violations.tolist() == [0, 0, 0, 0, 1]


def test_nothing_is_simulated_once_all_have_ended() -> None:
    tank = Tank(2)
    loop = run_closed_loop(Fixed([2.0, 2.0]), tank, tank_spec(), 1000)  # type: ignore[arg-type]
    assert loop.lengths.tolist() == [2, 2]
    assert tank.true_frame[:, 0].tolist() == [4.0, 4.0]


class EndingDmsd(VectorDmsd):
    """Says after three steps that the episode has ended, which the plant file has no rule for."""

    @property
    def ended(self) -> npt.NDArray[np.bool_]:
        return np.full(self.copies, self.time >= 3)


def test_a_simulator_that_knows_its_ends_is_believed_everywhere() -> None:
    task = replace(get_task("dmsd"), simulator=EndingDmsd)
    assert score("pd", task, seed=0, copies=2).lengths.tolist() == [3, 3]
    (episode,) = simulate_log(task, 1, seed=0)
    assert (len(episode.commands), episode.terminated) == (3, True)
    for env in (TrainingEnv(task, TrainingSettings({})), SimulatedPlantEnv("dmsd", EndingDmsd, 100)):
        env.reset(seed=0)
        assert [env.step(np.zeros(2))[2:4] for _ in range(3)] == [(False, False), (False, False), (True, False)]
    (episode,) = simulate_log(get_task("dmsd"), 1, seed=0)
    assert (len(episode.commands), episode.terminated) == (100, False)
