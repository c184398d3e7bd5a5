"""The NeoRL-2 suite at its smallest: rows, parts, and one clear line where something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.benchmarks import run_suite as run_any
from controlkit.benchmarks.neorl2 import PUBLISHED, run_suite
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.benchmarks.suite_data import recorded_reward
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.layout import Layout
from controlkit.progress import Silent
from envs.collect import collect
from envs.tasks import get_task
from tests import small_plant

TINY = (
    "dynamics.hidden=[8]",
    "dynamics.max_epochs=1",
    "reward.updates=60",
    "reward.distil=false",
    "reward.hidden=[8]",
    "reward.behaviour_updates=20",
    "reward_model.updates=40",
    "reward_model.hidden=[8]",
    "rollout.starts=20",
    "rollout.length=5",
    "rollout.every=20",
    "policy.updates=40",
    "policy.hidden=[8]",
    "policy.gamma=0.9",
)


class Echo:
    """A policy that shows what it was asked."""

    def __init__(self, command: float) -> None:
        self.command, self.seen = command, []  # type: float, list[np.ndarray]

    def __call__(self, observation: torch.Tensor) -> torch.Tensor:
        self.seen.append(observation.numpy().copy())
        return torch.full((len(observation), 1), self.command) * (1 + len(self.seen))


def test_a_policy_sees_the_window_that_a_data_set_would_show_it() -> None:
    spec = small_plant.spec(history=2)
    echo = Echo(0.1)
    controller = PolicyController(echo, spec)  # type: ignore[arg-type]
    frames = np.random.default_rng(0).normal(size=(6, 3, 2))  # steps, copies, tags
    controller.reset(3)
    commands = np.stack([controller.act(frame) for frame in frames])  # (6, 3, 1)
    assert commands[:, 0, 0] == pytest.approx(0.1 * np.arange(2, 8))
    layout = Layout.from_spec(spec)
    for copy in range(3):
        # The first measurement and the safe command stand for what was before.
        padded = np.concatenate([frames[:1, copy].repeat(2, axis=0), frames[:, copy]]).astype(np.float32)
        given = np.concatenate([np.zeros((2, 1)), commands[:, copy]]).astype(np.float32)
        wanted = layout.observe(padded, given, np.arange(2, 8))
        assert np.stack(echo.seen)[:, copy] == pytest.approx(wanted)


def test_a_small_suite_has_its_rows_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLKIT_DATA", str(tmp_path))
    (tmp_path / "neorl2").mkdir()
    log = collect("dmsd", tmp_path / "log.npz", episodes=8, seed=0)
    arrays: dict[str, Any] = dict(np.load(log.path))
    named = ("frame_tags", "action_tags", "timestamp", "episode", "terminated")
    released = {name: values for name, values in arrays.items() if name not in named}
    after = arrays["next_obs"]
    released["reward"] = -np.log(np.abs(after[:, :2] - after[:, 4:]) + 0.01).sum(axis=1)
    np.savez(tmp_path / "neorl2" / "DMSD-train.npz", **released)
    out = tmp_path / "out"

    def run() -> str:
        return run_suite(
            out, 1, Silent(), tasks=("dmsd",), methods=("mean:formula", "noise:rewards"), workers=1, settings=TINY
        )

    table = run()
    assert "| mean, formula |" in table
    assert "| noise, rewards only |" in table
    assert "| hand-made, pd |" in table
    assert f"| published: EDAC | {PUBLISHED['DMSD']['EDAC']} |" in table
    records = json.loads((out / "results.json").read_text())
    mine = {(r["method"], r["metric"]): r for r in records}
    row = mine["mean, formula", "score"]
    assert (row["suite"], row["task"], row["seeds"], row["episodes"]) == ("neorl2", "DMSD", 1, 100)
    assert row["value"] == pytest.approx(100 * (mine["mean, formula", "return"]["value"] - 30.6) / (849.51 - 30.6))
    assert mine["hand-made, pd", "score"]["value"] > 95
    parts = sorted((out / "parts").glob("*.json"))
    # One seed: the error is that of its episodes, on the scale of the score.
    spread = json.loads(parts[0].read_text())["episode_stderr"]
    assert row["stderr"] == pytest.approx(100 * spread / (849.51 - 30.6))
    assert mine["mean, formula", "return"]["stderr"] == pytest.approx(spread)
    assert [part.name for part in parts] == ["DMSD-mean-formula-0.json", "DMSD-noise-rewards-0.json"]
    before = [part.stat().st_mtime_ns for part in parts]
    assert run().count("|") == table.count("|")
    assert [part.stat().st_mtime_ns for part in parts] == before


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"tasks": ("DMSE",)}, "benchmark neorl2 --tasks: unknown 'DMSE'. did you mean 'DMSD'?"),
        ({"methods": ("means",)}, "unknown method 'means'"),
        ({"methods": ("mean:formulae",)}, "unknown 'mean:formulae'. did you mean 'formula'?"),
        ({}, "the released data file is not there"),
    ],
)
def test_what_is_missing_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("CONTROLKIT_DATA", str(tmp_path))
    with pytest.raises(ControlkitError) as caught:
        run_any("neorl2", tmp_path / "out", 1, Silent(), **chosen)
    assert message in str(caught.value)


def test_every_row_has_a_configuration_and_knows_its_reward() -> None:
    spec = get_task("dmsd").spec()
    assert not spec.reward_is_recorded
    assert recorded_reward(spec).reward_is_recorded
    assert recorded_reward(spec).tags == spec.tags
    config = RunConfig.load(config_path("runs", "dmsd"))
    assert config.policy.updates == 20_000
    assert config.rollout.penalty == "none"
