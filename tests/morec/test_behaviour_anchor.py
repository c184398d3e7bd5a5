"""The behaviour anchor: with a large weight the trained policy is the cloned operator."""

from __future__ import annotations

from pathlib import Path

import torch

from controlkit.artifacts import Models, RunFolder
from controlkit.dataset import RECORD
from controlkit.files import read_json
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant


def test_a_large_anchor_reproduces_the_clone(tmp_path: Path) -> None:
    data = small_plant.dataset(noise=0.02)
    data.save(tmp_path / "data")
    record, log = read_json(tmp_path / "data" / RECORD), LoggedTransitions(data)
    observation = log.observe(log.rows)

    def trained(anchor: float) -> Models:
        policy = {"updates": 1000, "hidden": [32], "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
        config = small_plant.config(
            reward={"behaviour_updates": 300}, policy=policy | {"behaviour_anchor": anchor}, rollout={"every": 100}
        )
        return train(RunFolder.create(tmp_path / f"{anchor:g}", config, data, record), data, Silent())

    def distance(models: Models) -> float:
        with torch.no_grad():
            return float((models.actor(observation) - models.behaviour(observation)).abs().mean())

    free, anchored = (trained(anchor) for anchor in (0.0, 1000.0))
    # Commands go from -2 to 2, and the operator's own noise on them is 0.4.
    assert distance(anchored) < 0.03
    assert distance(free) > 0.15
