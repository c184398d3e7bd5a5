"""Centred rewards: the same updates as rewards that were centred before, and off where episodes have true ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder, build_critics, build_models
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.files import read_json
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.train import train
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from tests import small_plant


def learned(shift: float, centre: float) -> Any:
    """Actor weights after some updates on rewards that are `shift` higher."""
    config, spec = small_plant.config(), small_plant.spec()
    generator = torch.Generator().manual_seed(0)
    models, critics = build_models(config, spec, generator), build_critics(config, spec, generator)
    learner = PolicyLearner(
        models.actor, critics, models.behaviour, CommandLimits(spec), config.policy, 2.0, reward_centre=centre
    )
    log = LoggedTransitions(small_plant.dataset())
    log.rewards += shift
    for _ in range(10):
        learner.update(log.batch(log.sample(32, generator)), generator)
    return [value.clone() for value in models.actor.net.parameters()]


def test_a_centre_is_taken_from_every_reward() -> None:
    plain, centred, shifted = learned(0.0, 0.0), learned(7.0, 7.0), learned(7.0, 0.0)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, centred, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, shifted, strict=True))


@pytest.mark.parametrize("trips", [False, True])
def test_it_is_off_where_episodes_have_true_ends(tmp_path: Path, trips: bool) -> None:
    rules = {"episodes": {"terminated": [{"tag": "level", "above": 9.0}]}} if trips else {}
    plant: PlantSpec = small_plant.spec(1, **rules)
    data: TransitionDataset = small_plant.dataset(plant)
    data.save(tmp_path / "data")
    config = small_plant.config(policy={"centre_rewards": True, "updates": 20})
    run = RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD))
    said: list[str] = []

    class Noted(Silent):
        def message(self, text: str) -> None:
            said.append(text)

    train(run, data, Noted())
    assert any("policy.centre_rewards is off in this run" in text for text in said) == trips
