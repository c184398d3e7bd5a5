"""Logs that spoil training quietly: each is named before it begins, and a run ends cleanly all the same."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import RunFolder
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import DataError, TrainingError
from controlkit.files import read_json
from controlkit.morec.checks import duplicate_share, training_warnings
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant

TINY: dict[str, Any] = {"policy": {"updates": 20, "warm_start": 2}, "reward": {"updates": 20, "behaviour_updates": 20}}


def warnings(data: TransitionDataset, **sections: Any) -> list[str]:
    config = small_plant.config(**sections)
    return training_warnings(LoggedTransitions(data), data.spec, config)


def with_values(data: TransitionDataset, *, frame: int | None = None, action: float | None = None) -> TransitionDataset:
    """A copy in which a tag, or the command, never moves."""
    frames, actions = data.frames.copy(), data.actions.copy()
    if frame is not None:
        frames[:, frame] = 0.25
    if action is not None:
        actions[:] = action
    return replace(data, frames=frames, actions=actions)


def repeated(data: TransitionDataset, times: int) -> TransitionDataset:
    """The same log, ingested several times over."""
    rows, episodes = len(data), int(data.episode.max()) + 1
    return TransitionDataset.from_frames(
        data.spec,
        frames=np.tile(data.frames, (times, 1)),
        actions=np.tile(np.nan_to_num(data.actions), (times, 1)),
        episode=np.tile(data.episode, times) + np.repeat(np.arange(times), rows) * episodes,
        time_ns=np.tile(data.time_ns, times) + np.repeat(np.arange(times), rows) * 10**15,
    )


def run(tmp_path: Path, data: TransitionDataset, progress: Silent, **sections: Any) -> RunFolder:
    data.save(tmp_path / "data")
    config = small_plant.config(**(TINY | sections))
    folder = RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD))
    train(folder, data, progress)
    return folder


def test_nothing_is_said_of_a_sound_log() -> None:
    assert warnings(small_plant.dataset(noise=0.02)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frame": 0}, r"'level' \(state\) never changes in the training part \(0.25\): nothing that moves it"),
        ({"frame": 1}, r"'load' \(exogenous\) never changes in the training part \(0.25\): its effect"),
        ({"action": 0.7}, r"'valve' \(action\) never changes in the training part \(0.7\): no effect of it"),
    ],
)
def test_a_column_that_never_moves_is_named_and_the_run_ends(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    progress = Silent()
    folder = run(tmp_path, with_values(small_plant.dataset(noise=0.02), **change), progress)
    found = [message for message in progress.messages if "never changes" in message]
    assert len(found) == 1
    assert re.search(said, found[0])
    models = folder.load_models()
    for network in (models.dynamics, models.reward, models.actor):
        for name, value in network.state_dict().items():
            assert torch.isfinite(value.float()).all(), name


def test_the_share_of_repeated_transitions_is_exact_and_said() -> None:
    data = small_plant.dataset(noise=0.02)
    assert duplicate_share(LoggedTransitions(data)) == 0.0
    assert duplicate_share(LoggedTransitions(repeated(data, 2))) == pytest.approx(0.5)
    assert duplicate_share(LoggedTransitions(repeated(data, 4))) == pytest.approx(0.75)
    (found,) = warnings(repeated(data, 2))
    assert "50% of the training transitions repeat an earlier one exactly" in found


def test_what_differs_in_one_number_alone_is_no_repetition() -> None:
    log = LoggedTransitions(repeated(small_plant.dataset(noise=0.02), 2))
    half = len(log.frames) // 2
    # One unit in the last place of the load, in every row of the second copy.
    log._table[half:, 1] = torch.nextafter(log._table[half:, 1], torch.tensor(9.0))
    assert duplicate_share(log) == 0.0


def test_one_long_episode_trains_and_leaves_a_run(tmp_path: Path) -> None:
    progress = Silent()
    folder = run(tmp_path, small_plant.dataset(episodes=1, steps=300, noise=0.02), progress)
    assert folder.trained
    assert not [message for message in progress.messages if message.startswith("Warning: from")]


def test_one_short_episode_says_what_is_needed() -> None:
    data = small_plant.dataset(episodes=1, steps=5, noise=0.02)
    with pytest.raises(DataError, match="only 0 usable steps: an observation needs 2 earlier samples"):
        RunFolder.create(Path("never"), small_plant.config(), data, {})


def test_episodes_shorter_than_the_rollouts_are_named_unless_they_are_spliced() -> None:
    data = small_plant.dataset(episodes=20, steps=12, noise=0.02)
    (found,) = warnings(data, rollout={"length": 30})
    assert "from 100% of the training rows fewer than rollout.length = 30 steps remain" in found
    assert warnings(data, rollout={"length": 30}, dynamics={"exogenous": "splice"}) == []
    assert warnings(data, rollout={"length": 4}) == []
    tags = {name: tag for name, tag in small_plant.spec().to_dict()["tags"].items() if name != "load"}
    unmoved = TransitionDataset.from_frames(
        small_plant.spec(tags=tags),
        frames=data.frames[:, :1],
        actions=data.actions,
        episode=data.episode,
        time_ns=data.time_ns,
    )
    assert warnings(unmoved, rollout={"length": 30}) == []


def test_spliced_rollouts_reach_their_length_in_training(tmp_path: Path) -> None:
    data = small_plant.dataset(episodes=20, steps=12, noise=0.02)
    sections = {"rollout": {"length": 30, "starts": 10}, "filter": {"threshold": "off"}}
    for kind, steps in (("record", None), ("splice", 300.0)):
        where = tmp_path / kind
        folder = run(where, data, Silent(), dynamics={"exogenous": kind}, **sections)
        with (folder.path / "metrics.csv").open() as file:
            found = {float(row["model_steps"]) for row in csv.DictReader(file) if row.get("model_steps")}
        assert found == {steps} if steps else max(found) < 150


def test_a_dynamics_stage_that_diverges_leaves_a_run_to_start_over(tmp_path: Path) -> None:
    data, progress = small_plant.dataset(noise=0.05), Silent()
    with pytest.raises(TrainingError, match=r"dynamics, epoch 1, update \d+: the loss is not a number"):
        run(tmp_path, data, progress, dynamics={"learning_rate": 1e30})
    folder = RunFolder.open(tmp_path / "run")
    assert not folder.trained
    assert folder.load_checkpoint() is None
    assert not list((tmp_path / "run").rglob("models.pt"))
    again = replace(folder, config=small_plant.config(**TINY))
    train(again, data, progress)
    assert folder.trained


def test_every_network_scales_by_the_ranges_where_that_is_asked_for(tmp_path: Path) -> None:
    """A policy whose inputs are scaled by a narrow log's statistics meets the unknown as soon as it acts."""
    data = small_plant.dataset(noise=0.02)
    models = run(tmp_path, data, Silent(), scaling={"min_spread": 1}).load_models()
    layout = data.layout
    centre, half = (layout.low + layout.high) / 2, (layout.high - layout.low) / 2
    for network in (models.actor, models.behaviour, models.dynamics, models.reward):
        scaler = network.input_scaler
        np.testing.assert_allclose(scaler.centre[: layout.size].numpy(), centre, err_msg=type(network).__name__)
        np.testing.assert_allclose(scaler.spread[: layout.size].numpy(), half, err_msg=type(network).__name__)
