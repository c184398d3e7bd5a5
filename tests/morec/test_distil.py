"""One network in place of many: it ranks as they do, or it is not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import Models, RunFolder, build_models
from controlkit.errors import TrainingError
from controlkit.files import read_json
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.distil import DistilFit, Questions, distil
from controlkit.morec.innovation import fit_linear_prediction
from controlkit.morec.learn_world import HEALTH, learn_world
from controlkit.morec.streams import stage_generator
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.ranks import spearman
from controlkit.replay import LoggedTransitions
from tests import noisy_plant, small_plant
from tests.noisy_plant import config, trained, untrained


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distilled(
    teacher: DiscriminatorEnsemble, log: LoggedTransitions, updates: int, **settings: Any
) -> tuple[DiscriminatorEnsemble, DistilFit]:
    plant = noisy_plant.spec()
    student = untrained(log, plant, config(**settings), members=1, seed=9)
    fit = distil(student, teacher, log, CommandLimits(plant), updates, seeded(), Silent())
    return student, fit


def contrary(log: LoggedTransitions) -> DiscriminatorEnsemble:
    """Random networks with large weights: none of them is like their average."""
    teacher = untrained(log, noisy_plant.spec(), config(networks=8))
    fit_linear_prediction(teacher, log)
    with torch.no_grad():
        for parameter in teacher.net.parameters():
            parameter.mul_(4.0).add_(0.5 * torch.randn(parameter.shape, generator=seeded()))
    return teacher


def test_one_network_ranks_as_the_average_does() -> None:
    log = noisy_plant.log()
    teacher, _ = trained(log, noisy_plant.spec(), networks=4, snapshots=2, updates=300, learning_rate=5e-3)
    student, fit = distilled(teacher, log, 300)
    assert fit.faithful
    assert min(fit.rank_in, fit.rank_out) >= 0.98
    # Measured here by other means: outcomes at states and commands of a log that neither has seen.
    fresh = noisy_plant.log(seed=7)
    rows = fresh.rows[:300]
    observation, action, following = fresh.observe(rows), fresh.actions[rows], fresh.next_state(rows)
    candidates = (
        following + torch.randn(32, 300, 1, generator=seeded()) * 10.0 ** torch.linspace(-2, 1, 32)[:, None, None]
    )
    with torch.no_grad():
        scores = [network.log_odds(observation, action, candidates).T for network in (student, teacher)]
    assert float(spearman(*scores).mean()) > 0.95
    assert student.members == 1
    for name in ("input_scaler.centre", "change_scaler.spread", "prediction.weight", "prediction.spread"):
        assert torch.equal(student.state_dict()[name], teacher.state_dict()[name])


def test_a_student_that_had_no_time_to_learn_is_not_faithful() -> None:
    log = noisy_plant.log()
    teacher = contrary(log)
    _, early = distilled(teacher, log, 1)
    assert not early.faithful
    assert min(early.rank_in, early.rank_out) < 0.9


@pytest.mark.parametrize(
    ("ranks", "faithful"), [((0.98, 0.98), True), ((0.979, 1.0), False), ((1.0, 0.979), False), ((0.0, 0.0), False)]
)
def test_faithful_is_a_rank_of_098_in_the_data_and_outside(ranks: tuple[float, float], faithful: bool) -> None:
    assert DistilFit(*ranks, 0.5, 0.5).faithful == faithful


def test_questions_are_asked_in_the_data_and_over_the_ranges_of_the_plant() -> None:
    plant = noisy_plant.spec(2, states=2)
    log = noisy_plant.log(plant)
    teacher = untrained(log, plant, config())
    fit_linear_prediction(teacher, log)
    limits = CommandLimits(plant)
    observation, action = Questions(teacher, log, limits).situations(4000, True, seeded())
    names = log.layout.names
    recorded, commands = log.observe(log.rows), log.actions[log.rows]
    for tag, low, high in (("level", -10, 10), ("temperature", -20, 20)):
        values = observation[:, names.index(tag)]
        assert low - 0.3 <= float(values.min()) < 0.7 * low
        assert high + 0.3 >= float(values.max()) > 0.7 * high
        # The window keeps its shape: what it changed by is a change that was recorded.
        steps = (observation[:, names.index(tag)] - observation[:, names.index(f"{tag}@-1")]).unique()
        known = (recorded[:, names.index(tag)] - recorded[:, names.index(f"{tag}@-1")]).unique()
        assert float((steps[:, None] - known[None]).abs().amin(dim=1).max()) < 1e-4
    assert set(observation[:, names.index("load")].tolist()) == {0.0, 1.0}  # what is known is not moved
    assert -2 <= float(action.min()) < -1.9
    assert 1.9 < float(action.max()) <= 2
    near, near_action = Questions(teacher, log, limits).situations(500, False, seeded())
    assert bool((near[:, None] == recorded[None]).all(dim=2).any(dim=1).all())
    assert set(near_action[:, 0].tolist()) <= set(commands[:, 0].tolist())


def test_questions_are_about_outcomes_near_and_far_from_the_expected_one() -> None:
    plant = noisy_plant.spec(states=2)
    log = noisy_plant.log(plant)
    teacher = untrained(log, plant, config())
    fit_linear_prediction(teacher, log)
    observation, action, change = Questions(teacher, log, CommandLimits(plant))(5000, False, seeded())
    innovation = ((change - teacher.expected_change(observation, action)) / teacher.unit).abs()
    assert float(innovation.median()) == pytest.approx(10**-0.15 * 0.55, rel=0.3)
    assert float(innovation.max()) > 50
    assert float((innovation < 0.02).float().mean()) > 0.1


def test_the_same_seed_gives_the_same_network() -> None:
    log = noisy_plant.log()
    teacher = contrary(log)
    (first, fit), (second, again) = (distilled(teacher, log, 20) for _ in range(2))
    assert fit == again
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_a_loss_that_is_no_number_stops_it_however_short_it_is() -> None:
    log = noisy_plant.log()
    teacher = contrary(log)
    with torch.no_grad():
        next(teacher.net.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match="distilled reward, update 7"):
        distilled(teacher, log, 7)


def learned(path: Path, **reward: Any) -> tuple[RunFolder, Models, Silent]:
    data = small_plant.dataset(noise=0.1)
    settings = small_plant.config(reward={"generator_steps": 2} | reward)
    folder = RunFolder.create(path, settings, data, {"data_sha256": "0" * 64, "spec_sha256": data.spec.sha256()})
    log, held_out = (LoggedTransitions(folder.split.part(data, part)) for part in ("training", "calibration"))
    models = build_models(settings, data.spec, stage_generator(settings, "weights"))
    progress = Silent()
    return folder, learn_world(models, log, held_out, folder, progress, []), progress


def test_a_run_falls_back_to_the_average_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlkit.morec.distil.LEAST_RANK", 1.1)  # nobody is as good as that
    folder, models, progress = learned(tmp_path / "run")
    assert models.distilled is None
    assert models.judge is models.reward
    (said,) = [text for text in progress.messages if "distilled dynamics reward ranks otherwise" in text]
    assert "the average is used. Raise reward.distil_updates" in said
    assert read_json(folder.path / HEALTH / "health.json")["distilled"]["used"] is False
    # And so does a run that is read again.
    folder.save_models(models)
    folder.write_state("trained")
    assert folder.load_models().distilled is None


def test_a_run_uses_the_distilled_network_where_it_ranks_alike(tmp_path: Path) -> None:
    folder, models, progress = learned(tmp_path / "run", distil_updates=300)
    found = read_json(folder.path / HEALTH / "health.json")["distilled"]
    assert found["used"] is True
    assert models.distilled is not None
    assert models.judge is models.distilled
    assert models.judge.members == 1
    assert not [text for text in progress.messages if "distilled" in text]
    folder.save_models(models)
    folder.write_state("trained")
    again = folder.load_models()
    assert again.distilled is not None
    assert torch.equal(again.distilled.net.body[0].weight, models.distilled.net.body[0].weight)
    assert replace(models, distilled=None).judge is models.reward


def test_distilling_can_be_switched_off(tmp_path: Path) -> None:
    folder, models, _ = learned(tmp_path / "run", distil=False)
    assert models.distilled is None
    assert "distilled" not in read_json(folder.path / HEALTH / "health.json")
