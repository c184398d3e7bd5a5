"""The run folder: what belongs together stays together, and damage is named."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit import files
from controlkit.artifacts import RunFolder, build_models
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import ArtifactError, ControlkitError
from controlkit.files import read_json
from tests import small_plant


@pytest.fixture
def data(tmp_path: Path) -> tuple[TransitionDataset, Mapping[str, Any]]:
    dataset = small_plant.dataset()
    dataset.save(tmp_path / "data")
    return dataset, read_json(tmp_path / "data" / RECORD)


@pytest.fixture
def run(tmp_path: Path, data: tuple[TransitionDataset, Mapping[str, Any]]) -> RunFolder:
    return RunFolder.create(tmp_path / "run", small_plant.config(), *data)


def finish(run: RunFolder) -> None:
    run.save_models(build_models(run.config, run.spec, torch.Generator().manual_seed(0)))
    run.write_state("trained")


def test_a_run_comes_back_as_it_was_written(run: RunFolder) -> None:
    again = RunFolder.open(run.path)
    assert (again.config, again.spec, again.split, again.data) == (run.config, run.spec, run.split, run.data)
    assert not again.trained


def test_networks_come_back_bit_for_bit(run: RunFolder) -> None:
    finish(run)
    written = build_models(run.config, run.spec, torch.Generator().manual_seed(0))
    observation = torch.randn(4, 8)
    torch.testing.assert_close(run.load_models().actor(observation), written.actor(observation), rtol=0, atol=0)


def test_a_run_is_not_overwritten_unasked(
    run: RunFolder, data: tuple[TransitionDataset, Mapping[str, Any]], tmp_path: Path
) -> None:
    finish(run)
    with pytest.raises(ArtifactError, match="holds a run already"):
        RunFolder.create(run.path, run.config, *data)
    assert run.trained
    RunFolder.create(run.path, run.config, *data, replace=True)
    assert not RunFolder.open(run.path).trained
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("mine")
    with pytest.raises(ArtifactError, match="is no run folder"):
        RunFolder.create(tmp_path / "other", run.config, *data, replace=True)
    assert (tmp_path / "other" / "thesis.doc").read_text() == "mine"


def test_other_data_or_settings_are_refused(run: RunFolder) -> None:
    run.require_data(run.data, "data")
    with pytest.raises(ArtifactError, match="is not the data set"):
        run.require_data({**run.data, "data_sha256": "0"}, "data")
    run.require_config(run.config)
    with pytest.raises(ArtifactError, match=r"was begun with policy\.gamma=0\.9, not 0\.5"):
        run.require_config(small_plant.config(policy={"gamma": 0.5}))


def test_what_is_missing_or_damaged_is_named(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no run folder"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="not trained to its end"):
        run.load_models()
    finish(run)
    weights = run.path / "policy" / "models.pt"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"models\.pt: is damaged"):
        run.load_models()
    torch.save({"actor": {}}, weights)
    with pytest.raises(ArtifactError, match="does not hold the dynamics"):
        run.load_models()
    (run.path / "run.json").write_text('{"schema": 99}')
    with pytest.raises(ArtifactError, match="has schema 99, this version reads 2"):
        RunFolder.open(run.path)


def test_a_checkpoint_that_would_run_code_is_refused(run: RunFolder) -> None:
    torch.save({"stage": Path("x").exists}, run.path / "checkpoint.pt")
    with pytest.raises(ArtifactError, match="is damaged"):
        run.load_checkpoint()


def test_a_full_disk_leaves_the_last_checkpoint(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_checkpoint({"stage": "policy", "number": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(ControlkitError, match=r"checkpoint\.pt: cannot be written \(No space left on device\)"):
        run.save_checkpoint({"stage": "policy", "number": 2})
    monkeypatch.undo()
    assert run.load_checkpoint() == {"stage": "policy", "number": 1}
    assert [path.name for path in run.path.iterdir() if path.name.endswith(".part")] == []


def test_metrics_have_the_union_of_all_columns(run: RunFolder) -> None:
    run.write_metrics([{"a": 1.0}, {"b": 2.0, "a": 3.0}])
    assert (run.path / "metrics.csv").read_text() == "a,b\n1.0,\n3.0,2.0\n"
