"""Choices that know no dynamics reward, against slow loops, and what is said of their threshold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from controlkit.artifacts import RunFolder, build_models
from controlkit.config import FilterConfig
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.learn_world import learn_world
from controlkit.morec.streams import stage_generator
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant

STATES, ROWS, OBSERVATION = 2, 9, 5


def ensemble(members: int, seed: int) -> GaussianEnsemble:
    """Random networks for two states of different size."""
    found = GaussianEnsemble(
        OBSERVATION,
        1,
        [0, 1],
        members=members,
        hidden=[6],
        act="silu",
        generator=torch.Generator().manual_seed(seed),
    )
    with torch.no_grad():
        found.change_scaler.spread.copy_(torch.tensor([0.1, 20.0]))
        found.net.body[-1].weight.mul_(20.0)
    return found


def situations() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, OBSERVATION, generator=draws), torch.randn(ROWS, 1, generator=draws)


class Refuses(torch.nn.Module):
    """A dynamics reward that must not be asked."""

    def log_odds(self, *asked: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked for the dynamics reward")


def chosen_and_offered(
    choose: str, regressor: GaussianEnsemble | None = None
) -> tuple[torch.Tensor, torch.Tensor, TransitionFilter]:
    config = FilterConfig.model_validate({"choose": choose, "samples": 2})
    chooser = TransitionFilter(ensemble(3, 0), Refuses(), config, 5.0, regressor)  # type: ignore[arg-type]
    observation, action = situations()
    chosen = chooser(observation, action, torch.Generator().manual_seed(1))
    assert bool(chosen.accepted.all())  # they have no threshold
    assert bool(chosen.score.isnan().all())
    with torch.no_grad():
        means, stds = chooser.ensemble(observation, action)
    return chosen.state, chooser.candidates(means, stds, torch.Generator().manual_seed(1)), chooser


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Euclidean, in units of the log's typical change of each tag."""
    scales = (0.1, 20.0)
    return float(sum(((x - y) / scale) ** 2 for x, y, scale in zip(a.tolist(), b.tolist(), scales, strict=True)) ** 0.5)


def test_the_medoid_is_the_candidate_nearest_to_all_others() -> None:
    state, offered, _ = chosen_and_offered("medoid")
    assert len(offered) == 2 * 3 + 3 + 1
    picks = []
    for row in range(ROWS):
        totals = [sum(distance(own, other) for other in offered[:, row]) for own in offered[:, row]]
        picks.append(min(range(len(totals)), key=totals.__getitem__))
        torch.testing.assert_close(state[row], offered[picks[-1], row])
    assert len(set(picks)) > 1


def test_the_regressor_takes_the_candidate_nearest_to_its_prediction() -> None:
    regressor = ensemble(1, 9)
    state, offered, _ = chosen_and_offered("regressor", regressor)
    observation, action = situations()
    with torch.no_grad():
        expected = regressor(observation, action)[0][0]
    picks = []
    for row in range(ROWS):
        apart = [distance(own, expected[row]) for own in offered[:, row]]
        picks.append(min(range(len(apart)), key=apart.__getitem__))
        torch.testing.assert_close(state[row], offered[picks[-1], row])
    assert len(set(picks)) > 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"choose": "medoid", "threshold": 0.6}, "The threshold is off in this run: filter.choose medoid"),
        ({"choose": "regressor"}, "The threshold is off in this run: filter.choose regressor"),
        ({"enabled": False}, "The filter is off in this run."),
        ({"threshold": "off"}, "The threshold is off in this run."),
    ],
)
def test_what_is_off_is_said(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    data = small_plant.dataset(episodes=4, noise=0.1)
    reward = {"updates": 20, "behaviour_updates": 5, "distil": False}
    config = small_plant.config(filter=settings, dynamics={"max_epochs": 1}, reward=reward)
    folder = RunFolder.create(tmp_path / "run", config, data, {"data_sha256": "0" * 64, "spec_sha256": "0" * 64})
    log, held_out = (LoggedTransitions(folder.split.part(data, part)) for part in ("training", "calibration"))
    progress = Silent()
    models = build_models(config, data.spec, stage_generator(config, "weights"))
    models = learn_world(models, log, held_out, folder, progress, [])
    assert float(models.threshold) == -torch.inf
    assert any(text.startswith(said) for text in progress.messages)
    assert (models.regressor is not None) == (settings.get("choose") == "regressor")


def test_a_threshold_of_its_own_or_calibrated_is_used(tmp_path: Path) -> None:
    plain = small_plant.dataset(episodes=4, noise=0.1)
    reward = {"updates": 20, "behaviour_updates": 5, "distil": False}
    found = {}
    for wish in ("auto", 0.25):
        config = small_plant.config(filter={"threshold": wish}, dynamics={"max_epochs": 1}, reward=reward)
        folder = RunFolder.create(
            tmp_path / str(wish), config, plain, {"data_sha256": "0" * 64, "spec_sha256": "0" * 64}
        )
        log, held_out = (LoggedTransitions(folder.split.part(plain, part)) for part in ("training", "calibration"))
        models = build_models(config, plain.spec, stage_generator(config, "weights"))
        found[wish] = float(learn_world(models, log, held_out, folder, Silent(), []).threshold)
    assert found[0.25] == 0.25
    assert 0.0 < found["auto"] < 13.8
