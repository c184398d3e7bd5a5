"""The study *history*: what its plants show, that its errors are what they are said to be, and its smallest run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from controlkit.errors import ControlkitError
from controlkit.layout import Layout
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.progress import Silent
from controlkit.studies.history import HISTORIES, Budget, Job, closed_loop_mae, run_job, run_study
from controlkit.studies.history_plant import WARM_UP, judge_model, record, windowed_spec
from controlkit.studies.history_references import ProportionalIntegral, best_gains, reference_controllers
from envs.refrigerator import next_temperature

TINY = Budget(
    rows=400,
    judged=2,
    judged_steps=60,
    rollout=5,
    every=10,
    episodes=3,
    steps=30,
    settings={
        "dynamics": {"members": 2, "elites": 1, "hidden": [8], "max_epochs": 1, "linear_members": 0},
        "reward": {"behaviour_updates": 5},
        "rollout": {"length": 3, "starts": 10, "every": 10, "keep": 2},
        "policy": {"hidden": [8], "updates": 20, "warm_start": 2, "batch_size": 16},
    },
)


@pytest.mark.parametrize(("door", "tags"), [("seen", 2), ("hidden", 1)])
@pytest.mark.parametrize("history", [0, 3])
def test_an_observation_holds_what_is_seen_and_no_more(door: str, tags: int, history: int) -> None:
    layout = Layout.from_spec(windowed_spec(history, door))  # type: ignore[arg-type]
    assert layout.size == tags * (history + 1) + history
    assert layout.depth == history
    assert ("door" in layout.frame_tags) == (door == "seen")


def test_a_log_is_the_same_whether_the_door_is_seen_or_not() -> None:
    logged = record("operator", 5, copies=2, steps=30)
    seen, hidden = (logged.dataset(2, door) for door in ("seen", "hidden"))  # type: ignore[arg-type]
    assert np.array_equal(seen.frames[:, :1], hidden.frames)
    assert np.array_equal(seen.actions, hidden.actions, equal_nan=True)
    assert np.array_equal(seen.rewards, hidden.rewards, equal_nan=True)
    assert hidden.frames[31 * 1 + 7, 0] == pytest.approx(logged.frames[1, 7, 0])  # copy b's step t is row b (K + 1) + t
    assert np.abs(logged.frames[..., 0] - logged.true).std() > 0.01  # the sensor is noisy
    # The true temperatures follow the physics under the recorded commands and doors.
    power = np.clip(logged.actions[:, :, 0], 0, 10)
    assert next_temperature(logged.true[:, :-1], power, logged.frames[:, :-1, 1]) == pytest.approx(logged.true[:, 1:])


class _Plant(GaussianEnsemble):
    """The refrigerator's own physics on what it is shown, and `bias` on top."""

    def __init__(self, history: int, bias: float) -> None:
        layout = Layout.from_spec(windowed_spec(history, "seen"))
        super().__init__(layout.size, 1, [0], members=2, hidden=(), act="silu", generator=torch.Generator())
        self.bias = bias

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        temperature, door = (observation[:, i].double().numpy() for i in (0, 1))
        following = next_temperature(temperature, np.clip(action[:, 0].double().numpy(), 0, 10), door) + self.bias
        mean = torch.from_numpy(following).float().unsqueeze(1).expand(2, -1, -1)
        return mean, torch.ones_like(mean)


def test_the_errors_of_a_model_are_those_of_a_slow_obvious_loop() -> None:
    logged = record("pid", 6, copies=3, steps=70)
    found = judge_model(_Plant(4, 0.05), 4, "seen", logged, steps=10, every=15)
    power, door = np.clip(logged.actions[..., 0], 0, 10), logged.frames[..., 1]
    one_step, rollout = [], []
    for copy in range(3):
        for t in range(WARM_UP, 70):
            measured = logged.frames[copy, t : t + 1, 0]
            reached = next_temperature(measured, power[copy, t : t + 1], door[copy, t : t + 1])[0] + 0.05
            one_step.append((reached - logged.true[copy, t + 1]) ** 2)
        for start in range(WARM_UP, 71 - 10, 15):
            state = logged.frames[copy, start : start + 1, 0]
            for t in range(start, start + 10):
                state = next_temperature(state, power[copy, t : t + 1], door[copy, t : t + 1]) + 0.05
                rollout.append(abs(state[0] - logged.true[copy, t + 1]))
    assert found.one_step == pytest.approx(np.sqrt(np.mean(one_step)), rel=1e-4)
    assert found.rollout == pytest.approx(np.mean(rollout), rel=1e-4)


def test_a_law_that_integrates_beats_one_that_does_not_where_the_door_is_hidden() -> None:
    budget = Budget(episodes=20, steps=1000)
    cost = {
        name: closed_loop_mae(controller, "hidden", budget)
        for name, controller in reference_controllers("hidden").items()
    }
    assert cost["Kalman, door guessed"] < cost["best PI"] < cost["best proportional"] < cost["operator"]
    gain, slow = best_gains(True)
    worse = ProportionalIntegral(3.0 * gain, slow)
    assert cost["best PI"] < closed_loop_mae(worse, "hidden", budget)


def test_a_small_study_has_its_rows_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlkit.studies.history.commit", lambda: "fixed")

    def run() -> str:
        return run_study(tmp_path, 2, Silent(), workers=1, tasks=("hidden",), histories=(0, 2), budget=TINY)

    table = run()
    assert "## Door hidden" in table
    assert "| observer, history 2 |" in table
    assert "| reference, best PI |" in table
    records = json.loads((tmp_path / "results.json").read_text())
    costs = {(r["task"], r["method"]): r for r in records if r["metric"] == "closed_loop_mae"}
    # Without history there is no belief.
    assert ("door=hidden,history=2", "belief") in costs
    assert ("door=hidden,history=0", "belief") not in costs
    row = costs["door=hidden,history=2", "window"]
    assert (row["suite"], row["seeds"]) == ("history", 2)
    with (tmp_path / "results.csv").open() as file:
        single = [
            float(line["value"])
            for line in csv.DictReader(file)
            if (line["history"], line["method"], line["metric"]) == ("2", "window", "closed_loop_mae")
        ]
    assert len(set(single)) == 2  # two logs, two figures
    assert row["value"] == pytest.approx(np.mean(single), rel=1e-4)
    assert row["stderr"] == pytest.approx(np.std(single, ddof=1) / np.sqrt(2), rel=1e-3)
    assert any(r["task"] == "door=hidden,history=2,controller=pid" and r["metric"] == "rollout_mae" for r in records)
    for name in ("closed_loop.png", "rollout.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    parts = sorted((tmp_path / "parts").glob("*.json"))
    assert len(parts) == 2 * 2 * 2
    before = [part.stat().st_mtime_ns for part in parts]
    assert run() == table
    assert [part.stat().st_mtime_ns for part in parts] == before


def test_a_run_can_be_repeated(tmp_path: Path) -> None:
    once, again = (
        run_job(Job("seen", 1, "observer", 3, TINY, tmp_path / f"{number}.json"))["figures"] for number in range(2)
    )
    assert set(once) == {"observer", "belief"}
    for method, figures in once.items():
        for name, value in figures.items():
            if not name.endswith("seconds"):
                assert again[method][name] == value, name


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"tasks": ("sen",)}, "unknown 'sen'. did you mean 'seen'?"),
        ({"methods": ("windows",)}, "unknown 'windows'. did you mean 'window'?"),
        ({"histories": (*HISTORIES, WARM_UP + 1)}, "a history beyond 0 .. 20"),
    ],
)
def test_what_is_not_there_is_one_clear_line(tmp_path: Path, chosen: dict[str, tuple[str]], message: str) -> None:
    with pytest.raises(ControlkitError) as caught:
        run_study(tmp_path, 1, Silent(), **chosen)  # type: ignore[arg-type]
    assert message in str(caught.value)
