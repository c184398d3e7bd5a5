"""Innovations from an observer: against the plant's own equations, and where a linear prediction is surprised."""

from __future__ import annotations

import pytest
import torch

from controlkit.artifacts import build_models, build_reward
from controlkit.config import RunConfig
from controlkit.errors import TrainingError
from controlkit.layout import Layout
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.linear_prediction import LinearPrediction, ObserverPrediction
from controlkit.morec.distil import distil
from controlkit.morec.dynamics import action_scaler, change_scaler, observation_scaler, set_scaler
from controlkit.morec.dynamics_reward import fit_dynamics_reward
from controlkit.morec.innovation import fit_prediction
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from controlkit.studies.history_plant import record, windowed_spec
from tests import noisy_plant
from tests.noisy_plant import NOISE, config, operator


def judge(
    log: LoggedTransitions, plant: PlantSpec, settings: RunConfig, observer: bool = True
) -> DiscriminatorEnsemble:
    generator = torch.Generator().manual_seed(0)
    members = settings.reward.networks * settings.reward.snapshots
    reward = build_reward(settings.reward, Layout.from_spec(plant), members, generator, observer=observer)
    action = action_scaler(log, CommandLimits(plant), settings.scaling)
    set_scaler(reward.input_scaler, observation_scaler(log, settings.scaling), action)
    set_scaler(reward.change_scaler, change_scaler(log))
    return reward


def test_the_world_model_chooses_the_prediction() -> None:
    plant = noisy_plant.spec(2)
    kinds = {"window": LinearPrediction, "observer": ObserverPrediction}
    for architecture, kind in kinds.items():
        settings = RunConfig.from_dict({"dynamics": {"architecture": architecture}})
        models = build_models(settings, plant, torch.Generator().manual_seed(0))
        assert isinstance(models.reward.prediction, kind)
        assert models.distilled is not None
        assert isinstance(models.distilled.prediction, kind)


@pytest.mark.parametrize("states", [1, 2])
def test_it_expects_what_the_plant_does_in_the_log_and_beyond(states: int) -> None:
    plant = noisy_plant.spec(3, states=states)
    log = noisy_plant.log(plant)
    reward = judge(log, plant, config())
    fit_prediction(reward, log, Silent())
    observation, action = log.observe(log.rows), log.actions[log.rows]
    for shift in (0.0, 5.0):  # all of the window moved
        state = reward.state_slots
        at = torch.tensor([i for i, tag in enumerate(_tags(log)) if tag in plant.state_tags])
        moved = observation.clone()
        moved[:, at] += shift
        frames = moved[:, : len(plant.frame_tags)]
        change = reward.change_scaler.invert(reward.expected_change(moved, action))
        truth = noisy_plant.expected(frames, action[:, 0], plant)
        assert float((moved[:, state] + change - truth).abs().max()) < (0.05 if shift == 0.0 else 0.2)
    spread = reward.unit * reward.change_scaler.spread
    torch.testing.assert_close(spread, NOISE * torch.tensor([1.0, 2.0])[:states], rtol=0.1, atol=0)


def _tags(log: LoggedTransitions) -> list[str]:
    return [slot.tag for slot in log.layout.slots]


def test_leading_dimensions_change_nothing() -> None:
    plant = noisy_plant.spec(2, states=2)
    log = noisy_plant.log(plant)
    reward = judge(log, plant, config())
    fit_prediction(reward, log, Silent())
    rows = log.rows[:12]
    observation, action = log.observe(rows), log.actions[rows]
    flat = reward.expected_change(observation, action)
    stacked = reward.expected_change(observation.reshape(3, 4, -1), action.reshape(3, 4, -1))
    torch.testing.assert_close(stacked, flat.reshape(3, 4, -1))


def test_the_discriminators_leave_the_observer_as_it_was_fitted_and_hand_it_on() -> None:
    plant = noisy_plant.spec(2)
    log, settings = noisy_plant.log(plant), config()
    alone, reward = judge(log, plant, settings), judge(log, plant, settings)
    fit_prediction(alone, log, Silent())
    clone = operator(log, plant, settings)
    seeded = torch.Generator().manual_seed(0)
    fit_dynamics_reward(reward, log, clone, plant, settings.reward, seeded, Silent())
    generator = torch.Generator().manual_seed(1)
    student = build_reward(settings.reward, Layout.from_spec(plant), 1, generator, observer=True)
    distil(student, reward, log, CommandLimits(plant), 20, seeded, Silent())
    assert alone.prediction is not None
    fitted = alone.prediction.state_dict()
    assert float(fitted["observer.bilinear.weight"].abs().max()) > 0.01
    for other in (reward, student):
        assert other.prediction is not None
        assert not any(parameter.requires_grad for parameter in other.prediction.parameters())
        for name, value in other.prediction.state_dict().items():
            torch.testing.assert_close(value, fitted[name], rtol=0, atol=0)


def test_a_log_with_what_is_no_number_stops_it() -> None:
    plant = noisy_plant.spec(2)
    log = noisy_plant.log(plant)
    reward = judge(log, plant, config())
    log.frames[100] = torch.nan
    with pytest.raises(TrainingError, match=r"dynamics reward \(observers\)"):
        fit_prediction(reward, log, Silent())


def test_a_controller_that_holds_the_temperature_surprises_the_linear_prediction_only() -> None:
    """The operator of the log lets the temperature rise while the door is open; a deadbeat controller does not."""
    log = LoggedTransitions(record("operator", 1, copies=2, steps=1500).dataset(10, "seen"))
    other = LoggedTransitions(record("raw_deadbeat", 7, copies=4, steps=600).dataset(10, "seen"))
    plant = windowed_spec(10, "seen")
    observation, action = other.observe(other.rows), other.actions[other.rows]
    following, is_open = other.next_state(other.rows), observation[:, 1] > 0.5
    surprise = {}
    for observer in (False, True):
        reward = judge(log, plant, config(), observer)
        fit_prediction(reward, log, Silent())
        change = reward.change_scaler(following - observation[:, reward.state_slots])
        z = ((change - reward.expected_change(observation, action)) / reward.unit).squeeze(1)
        surprise[observer] = [float(z[rows].square().mean().sqrt()) for rows in (~is_open, is_open)]
    # 1 is what the log itself shows. With the door shut the window often holds samples from when it was open.
    assert surprise[True][0] < 1.1
    assert surprise[False][0] > 1.3
    assert surprise[True][1] < 0.8 * surprise[False][1]
