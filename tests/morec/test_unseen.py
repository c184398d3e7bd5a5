"""Tags that no network sees: what is learned does not depend on where they are, and they are predicted all the same."""

from __future__ import annotations

import pytest
import torch

from controlkit.artifacts import build_critics, build_models
from controlkit.config import RunConfig
from controlkit.errors import ConfigError
from controlkit.morec.dynamics import fit_dynamics, observation_scaler
from controlkit.morec.policy_training import PolicyTraining
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from controlkit.studies.learned import learn_models
from tests import noisy_plant, small_plant

HIDDEN = "temperature"


def config(**scaling: object) -> RunConfig:
    content = small_plant.config().to_dict()
    return RunConfig.from_dict({**content, "scaling": {**content["scaling"], "unseen": [HIDDEN], **scaling}})


def plant() -> PlantSpec:
    return noisy_plant.spec(2, states=2)


@pytest.mark.parametrize("min_spread", [0.05, 1.0])
def test_no_network_notices_where_an_unseen_tag_is(min_spread: float) -> None:
    spec, settings = plant(), config(min_spread=min_spread)
    log = noisy_plant.log(spec)
    models = learn_models(spec, log, settings)
    chooser = TransitionFilter(models.dynamics.lean(), models.judge, settings.filter, float("-inf"))
    training = PolicyTraining(models, chooser, spec, log, settings)
    training.warm_start()
    training.epoch()
    observation, action = log.observe(log.rows[:50]), log.actions[log.rows[:50]]
    hidden = torch.tensor([slot.tag == HIDDEN for slot in log.layout.slots])
    assert int(hidden.sum()) == 3
    elsewhere = observation + 1000.0 * hidden
    at = models.dynamics.state_slots
    with torch.no_grad():
        change = [models.dynamics(x, action)[0] - x[:, at] for x in (observation, elsewhere)]
        torch.testing.assert_close(change[0], change[1], atol=2e-4, rtol=0)  # 1000 is rounded to 6e-5
        following = observation[:, at] + 0.1
        odds = models.judge.log_odds(observation, action, following)
        moved = following + 1000.0 * hidden[at]
        torch.testing.assert_close(models.judge.log_odds(elsewhere, action, moved), odds, atol=0.05, rtol=0.01)
        torch.testing.assert_close(models.actor(elsewhere), models.actor(observation))
        torch.testing.assert_close(models.behaviour(elsewhere), models.behaviour(observation))


def test_an_unseen_tag_is_judged_like_any_other_where_elites_are_chosen() -> None:
    """A log whose hidden tag cannot be predicted has a large open-loop error, in the units of what is seen."""
    spec, settings = plant(), config()
    calm, wild = noisy_plant.log(spec), noisy_plant.log(spec)
    column = spec.frame_tags.index(HIDDEN)
    wild.frames[:, column] = 2.0 * torch.randn(len(wild.frames), generator=torch.Generator().manual_seed(0))
    errors = {}
    for name, log in (("calm", calm), ("wild", wild)):
        dynamics = build_models(settings, spec, torch.Generator().manual_seed(0)).dynamics
        draws, limits = torch.Generator().manual_seed(1), CommandLimits(spec)
        fit = fit_dynamics(dynamics, log, settings.dynamics, settings.scaling, limits, draws, Silent())
        errors[name] = float(fit.open_loop_rmse[0].mean())
    assert errors["wild"] > 0.6  # about 1 for the hidden tag alone, over two tags
    assert errors["calm"] < 0.5 * errors["wild"]


def test_critics_do_not_see_it_either() -> None:
    spec, settings = plant(), config()
    log = noisy_plant.log(spec)
    models = learn_models(spec, log, settings)
    critics = build_critics(settings, spec, torch.Generator().manual_seed(0))
    critics.input_scaler.load_state_dict(models.reward.input_scaler.state_dict())
    observation, action = log.observe(log.rows[:50]), log.actions[log.rows[:50]]
    hidden = torch.tensor([slot.tag == HIDDEN for slot in log.layout.slots])
    with torch.no_grad():
        torch.testing.assert_close(critics(observation + 1000.0 * hidden, action), critics(observation, action))


def test_a_command_cannot_be_unseen() -> None:
    with pytest.raises(ConfigError, match=r"scaling.unseen: 'valve' is a command"):
        observation_scaler(noisy_plant.log(plant()), config(unseen=["valve"]).scaling)


def test_what_is_seen_still_counts() -> None:
    spec, settings = plant(), config()
    log = noisy_plant.log(spec)
    models = learn_models(spec, log, settings)
    observation, action = log.observe(log.rows[:50]), log.actions[log.rows[:50]]
    seen = torch.tensor([slot.tag == "level" and slot.lag == 0 for slot in log.layout.slots])
    with torch.no_grad():
        there = models.dynamics(observation + 1.0 * seen, action)[0] - models.dynamics(observation, action)[0]
    # level' = 0.9 level + ..., temperature' does not depend on it
    assert float(there[..., 0].mean()) == pytest.approx(0.9, abs=0.05)


def test_an_unknown_tag_is_named() -> None:
    log = noisy_plant.log(plant())
    with pytest.raises(ConfigError, match=r"scaling.unseen.*temprature.*did you mean 'temperature'"):
        observation_scaler(log, config(unseen=["temprature"]).scaling)
