"""A run on another run's world: the same numbers as one that learns it again, and one line where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder
from controlkit.config import RunConfig
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ArtifactError, ConfigError
from controlkit.files import read_json
from controlkit.morec.shared_world import WORLD
from controlkit.morec.train import train
from controlkit.progress import Silent
from tests import small_plant
from tests.morec.test_policy_and_training import Interrupting, weights

Stored = tuple[TransitionDataset, dict[str, Any]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("data") / "data"
    small_plant.dataset(noise=0.05).save(folder)
    return TransitionDataset.load(folder), read_json(folder / RECORD)


@pytest.fixture(scope="module")
def source(stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    data, record = stored
    config = small_plant.config(filter={"enabled": False}, rollout={"penalty": "mobile"})
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "source", config, data, record)
    train(folder, data, Silent())
    return folder


OTHER: dict[str, Any] = {"filter": {"threshold": "auto"}, "policy": {"gamma": 0.8}, "rollout": {"length": 4}}


def create(path: Path, stored: Stored, config: RunConfig | None = None) -> RunFolder:
    data, record = stored
    return RunFolder.create(path, config or small_plant.config(**OTHER), data, record)


def test_a_policy_on_a_world_taken_over_is_that_of_a_run_alone(
    tmp_path: Path, stored: Stored, source: RunFolder
) -> None:
    alone, sharing = create(tmp_path / "alone", stored), create(tmp_path / "sharing", stored)
    train(alone, stored[0], Silent())
    train(sharing, stored[0], Silent(), source)
    mine, theirs = weights(alone.path), weights(sharing.path)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    assert float(mine["threshold"]) > -float("inf")  # calibrated for this run: the other had none
    assert (alone.path / "metrics.csv").read_text() == (sharing.path / "metrics.csv").read_text()
    assert (sharing.path / "reward_health" / "health.json").is_file()
    assert read_json(sharing.path / WORLD) == {"run": str(source.path), "seed": 0}
    assert sharing.state["world_seconds"] == source.state["world_seconds"] > 0


def test_the_actor_is_the_runs_own(tmp_path: Path, stored: Stored, source: RunFolder) -> None:
    still = small_plant.config(policy={"updates": 0, "warm_start": 0}, filter={"enabled": False})
    folder = create(tmp_path / "run", stored, still)
    actor = train(folder, stored[0], Silent(), source).actor.state_dict()
    theirs = source.load_models().actor.state_dict()
    assert any(not torch.equal(value, theirs[name]) for name, value in actor.items())


def test_it_is_resumed_without_the_other_run(tmp_path: Path, stored: Stored, source: RunFolder) -> None:
    whole, cut = create(tmp_path / "whole", stored), create(tmp_path / "cut", stored)
    train(whole, stored[0], Silent(), source)
    with pytest.raises(KeyboardInterrupt):
        train(cut, stored[0], Interrupting("policy", 1), source)
    train(RunFolder.open(cut.path), stored[0], Silent())
    theirs = weights(cut.path)
    for name, value in weights(whole.path).items():
        assert torch.equal(value, theirs[name]), name


def test_another_world_is_refused_by_the_setting_that_differs(
    tmp_path: Path, stored: Stored, source: RunFolder
) -> None:
    folder = create(tmp_path / "run", stored, small_plant.config(dynamics={"hidden": [8]}))
    with pytest.raises(ConfigError, match=r"learned with dynamics.hidden=\[16\], not \[8\].*without --world"):
        train(folder, stored[0], Silent(), source)
    assert not (folder.path / "checkpoint.pt").exists()


def test_a_world_of_other_data_is_refused(tmp_path: Path, stored: Stored, source: RunFolder) -> None:
    data = small_plant.dataset(noise=0.05, seed=1)
    data.save(tmp_path / "data")
    folder = create(tmp_path / "run", (data, read_json(tmp_path / "data" / RECORD)))
    with pytest.raises(ArtifactError, match=r"is not the data set that .*source was trained on"):
        train(folder, data, Silent(), source)


def test_a_world_that_is_not_learned_yet_is_refused(tmp_path: Path, stored: Stored) -> None:
    begun = create(tmp_path / "begun", stored)
    with pytest.raises(ArtifactError, match="not trained to its end"):
        train(create(tmp_path / "run", stored), stored[0], Silent(), begun)
