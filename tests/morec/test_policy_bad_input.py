"""What goes wrong in the policy stage: it stops with a message that names it, and nothing good is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import Models, RunFolder
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.errors import TrainingError
from controlkit.files import read_json
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.train import train
from controlkit.progress import Silent
from tests import small_plant


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransitionDataset, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("data") / "data"
    data = small_plant.dataset(noise=0.02)
    data.save(folder)
    return data, read_json(folder / RECORD)


CONFIG = small_plant.config(checkpoint_every=1, policy={"average": 1.0})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, stored: tuple[TransitionDataset, dict[str, Any]]) -> Models:
    data, record = stored
    return train(RunFolder.create(tmp_path_factory.mktemp("whole"), CONFIG, data, record), data, Silent())


@pytest.mark.parametrize("where", ["actor", "targets"])
def test_a_weight_that_is_no_number_is_never_written_and_the_run_goes_on_from_before(
    tmp_path: Path,
    stored: tuple[TransitionDataset, dict[str, Any]],
    undisturbed: Models,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    data, record = stored
    folder = RunFolder.create(tmp_path / "run", CONFIG, data, record)

    # The losses are finite when they are looked at: only the weights are spoilt.
    def spoilt(self: PolicyLearner, losses: Any) -> None:
        if self.updates == 60:
            with torch.no_grad():
                next(getattr(self, where).net.parameters()).view(-1)[3] = torch.inf

    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "require_finite", spoilt)
        with pytest.raises(TrainingError, match=rf"policy, update 60: .*{where}.* holds a number that is not finite"):
            train(folder, data, Silent())
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["learner"]["updates"] == 40
    assert not (folder.path / "policy" / "models.pt").exists()
    resumed = train(RunFolder.open(folder.path), data, Silent()).actor.state_dict()
    for name, value in undisturbed.actor.state_dict().items():
        assert torch.equal(value, resumed[name]), name


def test_a_spoilt_first_stage_writes_no_checkpoint(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, record = stored
    folder = RunFolder.create(tmp_path / "run", small_plant.config(), data, record)

    def spoilt(models: Models, *_: Any) -> Models:
        with torch.no_grad():
            next(models.behaviour.parameters()).view(-1)[0] = torch.nan
        return models

    monkeypatch.setattr("controlkit.morec.train.learn_world", spoilt)
    with pytest.raises(TrainingError, match=r"'models\.behaviour\..*' holds a number that is not finite"):
        train(folder, data, Silent())
    assert folder.load_checkpoint() is None


def test_a_threshold_that_ends_every_rollout_is_said_once(
    tmp_path: Path, stored: tuple[TransitionDataset, dict[str, Any]]
) -> None:
    data, record = stored
    progress = Silent()
    config = small_plant.config(filter={"threshold": 99.0})
    train(RunFolder.create(tmp_path / "run", config, data, record), data, progress)
    said = [line for line in progress.messages if "filter.threshold" in line and "99" in line]
    assert len(said) == 1
    # The policy learns from whole batches of the log: no row of the metrics lacks a loss.
    assert "nan" in (tmp_path / "run" / "metrics.csv").read_text()  # the rollouts' reward, of which there is none
