"""A policy held within the commands that the log shows."""

from __future__ import annotations

import pytest
import torch

from controlkit.artifacts import RunFolder, build_models
from controlkit.dataset import RECORD
from controlkit.files import read_json
from controlkit.morec.train import train
from controlkit.progress import Silent
from tests import small_plant


@pytest.mark.parametrize("algorithm", ["sac", "td3_bc", "bc"])
def test_no_command_leaves_the_log(tmp_path, algorithm):
    data = small_plant.dataset(episodes=4, steps=60)
    data.actions[:] = 0.25 * data.actions.clip(-1.2, 1.6)  # limits are -2 and 2
    data.save(tmp_path / "data")
    policy = {"commands": "logged", "algorithm": algorithm, "updates": 20}
    policy |= {} if algorithm == "sac" else {"real_ratio": 1.0}
    config = small_plant.config(policy=policy)
    folder = RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD))
    actor = train(folder, data, Silent()).actor
    part = folder.split.part(data, "training")
    logged = torch.from_numpy(part.actions[part.transitions])
    low, high = logged.amin(dim=0), logged.amax(dim=0)
    torch.testing.assert_close(actor.centre - actor.reach, low)
    torch.testing.assert_close(actor.centre + actor.reach, high)
    generator = torch.Generator().manual_seed(0)
    command = actor.sample(100 * torch.randn(500, data.layout.size, generator=generator), generator)[0]
    assert bool(((command >= low - 1e-6) & (command <= high + 1e-6)).all())


def test_a_range_is_narrowed_and_never_widened():
    actor = build_models(small_plant.config(), small_plant.spec(), torch.Generator().manual_seed(0)).actor
    before = actor.reach.clone()
    actor.confine(torch.tensor([-9.0]), torch.tensor([9.0]))
    assert actor.reach.equal(before)
    actor.confine(torch.tensor([0.5]), torch.tensor([0.5]))
    assert float(actor.reach) > 0
    assert float(actor.centre) == 0.5
