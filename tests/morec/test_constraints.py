"""Constraints in training: prices against slow versions, and a constraint that binds on the small plant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder
from controlkit.config import RolloutConfig
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.files import read_json
from controlkit.morec.constraints import Constraints, fixed_price
from controlkit.morec.train import train
from controlkit.objective import Objective
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions, ModelTransitions
from controlkit.spec import PlantSpec
from tests import small_plant

# The level is to be 1 and may be above 0.6 only one time in ten: objective and constraint pull in opposite directions.
BINDING = {"constraints": [{"tag": "level", "high": 0.6, "share": 0.1}]}
TWO = {"constraints": [{"tag": "level", "high": 0.5, "share": 0.3}, {"tag": "level", "low": -0.5}]}


def made(plant: PlantSpec, **rollout: Any) -> tuple[Constraints, LoggedTransitions, ModelTransitions]:
    log = LoggedTransitions(small_plant.dataset(plant))
    config = RolloutConfig(**rollout)
    constraints = Constraints(Objective(plant), config, log, 2.0)
    return constraints, log, ModelTransitions(log.layout, 50, costs=len(constraints.names))


def frames(*levels: float) -> torch.Tensor:
    return torch.tensor([[level, 0.0] for level in levels])


def test_a_fixed_price_is_charged_per_range_of_the_tag() -> None:
    price = fixed_price(Objective(small_plant.spec(**TWO)), frames(0.0, 1.5, -2.5), RolloutConfig())
    torch.testing.assert_close(price, 10.0 * torch.tensor([0.0, 1.0, 2.0]) / 20.0)


def test_a_fixed_price_is_charged_on_logged_rewards_too() -> None:
    plant = small_plant.spec(**TWO)
    data = small_plant.dataset(plant)
    _, log, _ = made(plant, constraint_coefficient=4.0)
    for row in data.transitions[:40].tolist():
        level = float(data.frames[row + 1, 0])
        outside = max(level - 0.5, 0.0) + max(-0.5 - level, 0.0)
        assert float(log.rewards[row]) == pytest.approx(-abs(level - 1) - 2.0 * 4.0 * outside / 20.0, abs=1e-6)
    free = LoggedTransitions(small_plant.dataset(small_plant.spec()))
    log_of_none = made(small_plant.spec())[1]
    assert torch.equal(log_of_none.rewards[log_of_none.rows], free.rewards[free.rows])


def test_multipliers_rise_with_the_excess_and_never_fall_below_zero() -> None:
    constraints, log, ring = made(small_plant.spec(**TWO), constraints="lagrangian", multiplier_rate=0.5)
    assert constraints.names == ("level (0)", "level (1)")
    # Shares 0.75 and 0.25 against 0.3 and 0.
    violations = constraints.violations(frames(0.6, 0.7, 0.8, -0.6))
    expected = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.0, 0.1]])
    torch.testing.assert_close(violations * float(log.frames[log.rows, 0].std(correction=0)), expected)
    constraints.update(violations, ring)
    torch.testing.assert_close(constraints.multipliers, torch.tensor([0.5 * 0.45, 0.5 * 0.25]))
    constraints.update(violations, ring)
    torch.testing.assert_close(constraints.multipliers, torch.tensor([0.45, 0.25]))
    for _ in range(9):
        constraints.update(constraints.violations(frames(0.0)), ring)
    # The first falls by 0.5 x 0.3 each time and stops at 0; no violation of the second is tolerated, so it stays.
    torch.testing.assert_close(constraints.multipliers, torch.tensor([0.0, 0.25]))
    constraints.update(violations[:0], ring)
    assert constraints.multipliers.tolist() == [0.0, 0.25]
    figures = constraints.figures()
    assert figures == {"multiplier level (0)": 0, "violated level (0)": 0, "multiplier level (1)": 0.25} | {
        "violated level (1)": 0
    }


def test_the_proportional_part_answers_at_once_and_is_forgotten() -> None:
    constraints, _, ring = made(
        small_plant.spec(**BINDING), constraints="lagrangian", multiplier_rate=0.1, multiplier_gain=2.0
    )
    constraints.update(constraints.violations(frames(1.0, 1.0)), ring)
    torch.testing.assert_close(constraints.multipliers, torch.tensor([0.1 * 0.9 + 2.0 * 0.9]))
    constraints.update(constraints.violations(frames(0.0, 0.0)), ring)
    torch.testing.assert_close(constraints.integral, torch.tensor([0.1 * 0.9 - 0.1 * 0.1]))
    assert float(constraints.multipliers) == 0.0


def test_no_reward_is_of_an_older_price() -> None:
    plant = small_plant.spec(**BINDING)
    constraints, log, ring = made(plant, constraints="lagrangian")
    free = LoggedTransitions(small_plant.dataset(plant)).rewards
    levels = [frames(1.0, 0.0), frames(0.7, 0.9), frames(0.2, 0.3)]
    for number, frame in enumerate(levels):
        nothing = torch.zeros(2, log.layout.size)
        violations = constraints.violations(frame)
        ring.extend(nothing, nothing[:, :1], frame, torch.full((2,), -float(number)), torch.zeros(2), violations)
        constraints.update(violations, ring)
    price = 2.0 * float(constraints.multipliers) / float(log.frames[log.rows, 0].std(correction=0))
    assert price > 0
    pairs = [(n, level) for n, frame in enumerate(levels) for level in frame[:, 0].tolist()]
    torch.testing.assert_close(ring.reward[:6], torch.tensor([-n - price * max(x - 0.6, 0.0) for n, x in pairs]))
    above = (log.frames[log.rows + 1, 0] - 0.6).clamp(min=0)
    torch.testing.assert_close(log.rewards[log.rows], free[log.rows] - price * above)
    again = ModelTransitions(log.layout, 50, costs=1)
    again.load_state_dict(ring.state_dict())
    again.set_prices(torch.tensor([0.0]))
    torch.testing.assert_close(again.reward[:6], torch.tensor([0.0, 0.0, -1.0, -1.0, -2.0, -2.0]))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransitionDataset, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("data") / "data"
    data = small_plant.dataset(small_plant.spec(**BINDING), noise=0.02)
    data.save(folder)
    return data, read_json(folder / RECORD)


def run(path: Path, stored: tuple[TransitionDataset, dict[str, Any]], **rollout: Any) -> list[dict[str, float]]:
    """Trains and returns the policy's rows of the metrics."""
    data, record = stored
    config = small_plant.config(
        dynamics={"hidden": []},
        filter={"threshold": "off", "samples": 0},
        rollout={"length": 20, "starts": 30, "every": 50, "keep": 3, "penalty": "none"} | rollout,
        policy={
            "updates": 2000,
            "hidden": [32],
            "batch_size": 64,
            "actor_learning_rate": 3e-3,
            "critic_learning_rate": 3e-3,
            "target_entropy": -4,
            "initial_alpha": 0.02,
            "gamma": 0.5,
            "tau": 0.05,
        },
    )
    folder = RunFolder.create(path, config, data, record)
    train(folder, data, Silent())
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    return [row for row in checkpoint["metrics"] if "updates" in row]


def test_multipliers_bring_violations_down_to_what_is_tolerated(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]
) -> None:
    rows = run(tmp_path / "lagrangian", stored, constraints="lagrangian", multiplier_rate=0.3)
    # The policy walks along the bound: single epochs swing about the tolerated tenth, their mean does not go far.
    late = [row["violated level"] for row in rows[-20:]]
    assert sum(late) / 20 == pytest.approx(0.1, abs=0.12)
    assert all(row["multiplier level"] > 0 for row in rows[-20:])
    # A small fixed price does not hold it: the policy goes for the setpoint.
    fixed = run(tmp_path / "penalty", stored, constraint_coefficient=0.01)
    assert fixed[-1]["model_reward"] > rows[-1]["model_reward"]
    models = RunFolder.open(tmp_path / "penalty").load_models()
    bound = RunFolder.open(tmp_path / "lagrangian").load_models()
    shares = [share_above(actor) for actor in (models.actor, bound.actor)]
    assert shares[0] > 0.8
    assert shares[1] < 0.25


def share_above(actor: torch.nn.Module) -> float:
    """Share of the samples in which the plant itself is above 0.6 under the deterministic policy."""
    log = LoggedTransitions(small_plant.dataset(episodes=1, steps=220, seed=5))
    observation, above = log.observe(log.rows[:1]), []
    shift = torch.from_numpy(log.layout.shift_index)
    for row in log.rows[:200].tolist():
        with torch.no_grad():
            valve = actor(observation)
        level = small_plant.next_level(observation[0, 0], valve[0, 0], observation[0, 1])
        frame = torch.stack([level, log.frames[row + 1, 1]])[None]
        observation = torch.cat([frame, valve, observation], dim=1)[:, shift]
        above.append(float(level) > 0.6)
    return sum(above) / len(above)


class Cut(Silent):
    """Breaks off after some epochs of the policy."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.stage, self.left = "", after

    def start(self, stage: str, total: int) -> None:
        self.stage = stage

    def advance(self, units: int = 1, note: str = "") -> None:
        if self.stage == "policy" and note:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_multipliers_are_kept_in_checkpoints_and_metrics(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]
) -> None:
    data, record = stored
    config = small_plant.config(checkpoint_every=1, rollout={"constraints": "lagrangian"})
    whole = RunFolder.create(tmp_path / "whole", config, data, record)
    train(whole, data, Silent())
    cut = RunFolder.create(tmp_path / "cut", config, data, record)
    with pytest.raises(KeyboardInterrupt):
        train(cut, data, Cut(3))
    train(RunFolder.open(cut.path), data, Silent())
    texts = [(folder.path / "metrics.csv").read_text() for folder in (whole, cut)]
    assert texts[0] == texts[1]
    assert "multiplier level,violated level" in texts[0]
    actors = [RunFolder.open(folder.path).load_models().actor.state_dict() for folder in (whole, cut)]
    assert all(torch.equal(value, actors[1][name]) for name, value in actors[0].items())


def test_a_plant_without_constraints_says_that_multipliers_are_off(tmp_path: Path) -> None:
    data = small_plant.dataset()
    data.save(tmp_path / "data")
    config = small_plant.config(rollout={"constraints": "lagrangian"}, policy={"updates": 20})
    progress = Silent()
    train(RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD)), data, progress)
    assert any("no constraints" in line and "rollout.constraints" in line for line in progress.messages)
