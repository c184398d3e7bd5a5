"""The dynamics reward on a GPU: trained, examined and drawn there, and the same numbers as on the processor."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder, build_models
from controlkit.files import read_json
from controlkit.morec.distil import Questions
from controlkit.morec.innovation import fit_linear_prediction
from controlkit.morec.inverse_rl import Reservoir
from controlkit.morec.learn_world import HEALTH, learn_world
from controlkit.morec.streams import stage_generator
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.ranks import agreement_matrix
from controlkit.replay import LoggedTransitions
from tests import noisy_plant, small_plant
from tests.noisy_plant import config, untrained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

DEVICE = "cuda"


def on_device(log: LoggedTransitions) -> LoggedTransitions:
    """A copy there."""
    found = copy.copy(log)
    for name, value in vars(log).items():
        if isinstance(value, torch.Tensor):
            setattr(found, name, value.to(DEVICE))
    return found


def test_the_linear_prediction_and_the_odds_are_those_of_the_processor() -> None:
    plant = noisy_plant.spec(2, states=2)
    log = noisy_plant.log(plant)
    there = on_device(log)
    here = untrained(log, plant, config(networks=3))
    other = copy.deepcopy(here).to(DEVICE)
    fit_linear_prediction(here, log)
    fit_linear_prediction(other, there)
    assert here.prediction is not None
    assert other.prediction is not None
    torch.testing.assert_close(other.prediction.weight.cpu(), here.prediction.weight, atol=1e-4, rtol=1e-3)
    other.load_state_dict(here.state_dict())
    rows = log.rows[:200]
    observation, action = log.observe(rows), log.actions[rows]
    candidates = log.next_state(rows) + 0.3 * torch.randn(6, 200, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = other.log_odds(*(x.to(DEVICE) for x in (observation, action, candidates)))
        torch.testing.assert_close(found.cpu(), here.log_odds(observation, action, candidates), atol=1e-4, rtol=1e-4)
    draws = torch.Generator(DEVICE).manual_seed(0)
    asked = Questions(other, there, CommandLimits(plant))(50, True, draws)
    assert all(x.device.type == DEVICE and bool(torch.isfinite(x).all()) for x in asked)


def test_ranks_and_reservoirs_are_those_of_the_processor() -> None:
    scores = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(agreement_matrix(scores.to(DEVICE)).cpu(), agreement_matrix(scores))
    held, draws = Reservoir(50), torch.Generator(DEVICE).manual_seed(0)
    for part in torch.arange(4000.0, device=DEVICE).split(900):
        held.extend((part, torch.stack([part, -part], dim=1)), draws)
    row, pair = held.held
    assert torch.equal(pair, torch.stack([row, -row], dim=1))
    assert len(row.unique()) == 50
    assert 1000 < float(row.mean()) < 3000


@pytest.mark.parametrize(
    "reward",
    [
        {"method": "noise"},
        {"method": "irl", "generator": "ppo"},
        {"method": "irl", "generator": "pathwise", "plot_tags": ["load", "level"]},
        {"method": "mixed", "generator_memory": 100, "coordinates": "change"},
    ],
)
def test_all_that_is_learned_before_the_policy_is_learned_there(tmp_path: Path, reward: dict[str, Any]) -> None:
    data = small_plant.dataset(noise=0.1)
    settings = small_plant.config(reward=reward).model_copy(update={"device": DEVICE})
    folder = RunFolder.create(tmp_path, settings, data, {"data_sha256": "0" * 64, "spec_sha256": "0" * 64})
    log, held_out = (LoggedTransitions(folder.split.part(data, part), DEVICE) for part in ("training", "calibration"))
    models = build_models(settings, data.spec, stage_generator(settings, "weights"))
    for network in models.networks.values():
        network.to(DEVICE)
    models = learn_world(models, log, held_out, folder, Silent(), [])
    assert all(p.device.type == DEVICE for network in models.networks.values() for p in network.parameters())
    assert 0.0 <= float(models.threshold) < 13.9
    health = read_json(folder.path / HEALTH / "health.json")
    assert all(value == value for name, value in health.items() if name not in ("warnings", "distilled"))
    assert (folder.path / HEALTH / "map.png").stat().st_size > 5000
