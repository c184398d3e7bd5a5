"""The discriminators: what they see, and that shortcuts compute the same."""

from __future__ import annotations

import math

import pytest
import torch

from controlkit.artifacts import build_reward
from controlkit.layout import Layout
from controlkit.models.discriminator import (
    MAX_REWARD,
    DiscriminatorEnsemble,
    dynamics_reward,
    mean_logit,
)
from tests import noisy_plant
from tests.noisy_plant import config

VARIANTS = [
    {"history": 0, "states": 1, "load": True},
    {"history": 2, "states": 2, "load": True},
    {"history": 1, "states": 2, "load": False},
]


def judge(members: int = 3, **settings: object) -> DiscriminatorEnsemble:
    """Random weights everywhere, also where a fresh network has none."""
    variant = {name: settings.pop(name) for name in ("history", "states", "load") if name in settings}
    plant = noisy_plant.spec(**variant)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    found = build_reward(config(**settings).reward, Layout.from_spec(plant), members, generator)
    for name, buffer in found.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=generator)
            assert "." in name  # scalers and prediction
    return found


def transitions(reward: DiscriminatorEnsemble, size: int, *lead: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    inputs, states = len(reward.input_scaler.centre), len(reward.state_slots)
    return tuple(torch.randn(*lead, size, width, generator=generator) for width in (inputs - 1, 1, states))


@pytest.mark.parametrize("coordinates", ["innovation", "change"])
@pytest.mark.parametrize("inputs", ["all", "current"])
@pytest.mark.parametrize("hidden", [[], [5], [5, 4]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_candidates_share_what_they_have_in_common_and_change_nothing(
    variant: dict[str, object], hidden: list[int], inputs: str, coordinates: str
) -> None:
    reward = judge(coordinates=coordinates, inputs=inputs, hidden=hidden, **variant)
    observation, action, _ = transitions(reward, 6)
    changes = torch.randn(4, 6, len(reward.state_slots), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = reward.logits(observation, action, changes)
        apart = torch.stack([reward.logits(observation, action, change) for change in changes], dim=1)
    assert together.shape == (3, 4, 6)
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_network_may_judge_transitions_of_its_own(variant: dict[str, object]) -> None:
    reward = judge(**variant)
    observation, action, change = transitions(reward, 5, 3)
    with torch.no_grad():
        found = reward.logits(observation, action, change)
        for k in range(3):
            own = reward.logits(observation[k], action[k], change[k])[k]
            torch.testing.assert_close(found[k], own)


def test_the_logit_is_the_network_of_scaled_inputs_products_and_innovation() -> None:
    """Written out for one state tag, one exogenous tag and one command."""
    reward = judge()
    observation, action, change = transitions(reward, 6)
    x = (torch.cat([observation, action], dim=1) - reward.input_scaler.centre) / reward.input_scaler.spread
    level, load, valve = x.T
    assert reward.prediction is not None
    features = torch.stack([level, load, valve, load * level, load * valve], dim=1)
    expected = features @ reward.prediction.weight + reward.prediction.bias
    innovation = (change - expected) / reward.prediction.spread
    seen = torch.cat([features, innovation], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            reward.logits(observation, action, change), reward.net(seen.expand(3, -1, -1))[..., 0]
        )


def test_the_log_odds_of_the_mean_are_exact_where_probabilities_round_to_0_or_1() -> None:
    logits = torch.tensor([[0.0, 3.0, 50.0, -60.0], [0.0, -1.0, 70.0, -50.0]])
    probability = torch.sigmoid(logits.double()).mean(0)
    plain = torch.log(probability) - torch.log1p(-probability)
    torch.testing.assert_close(mean_logit(logits)[:2], plain[:2].float())
    # For both sure: 1 - D = mean of exp(-logit), to leading order.
    assert float(mean_logit(logits)[2]) == pytest.approx(-math.log((math.exp(-50) + math.exp(-70)) / 2), rel=1e-6)
    assert float(mean_logit(logits)[3]) == pytest.approx(math.log((math.exp(-60) + math.exp(-50)) / 2), rel=1e-6)


def test_the_reward_is_minus_the_log_of_doubt_up_to_its_ceiling() -> None:
    odds = torch.tensor([-30.0, -1.0, 0.0, 2.0, 100.0])
    doubt = 1 - torch.sigmoid(odds.double())
    torch.testing.assert_close(dynamics_reward(odds[:4]), -torch.log(doubt[:4]).float())
    assert float(dynamics_reward(odds)[4]) == pytest.approx(MAX_REWARD) == pytest.approx(13.8155, abs=1e-3)


def test_the_change_is_scaled_and_counted_from_the_current_state() -> None:
    reward = judge(history=2, states=2)
    observation, action, change = transitions(reward, 6)
    following = observation[:, reward.state_slots] + reward.change_scaler.invert(change)
    with torch.no_grad():
        expected = dynamics_reward(mean_logit(reward.logits(observation, action, change)))
        torch.testing.assert_close(reward(observation, action, following), expected)


def test_only_the_current_samples_are_judged_where_that_is_asked() -> None:
    reward = judge(history=3, inputs="current", coordinates="change")
    observation, action, change = transitions(reward, 6)
    other = observation.clone()
    other[:, 2:] += 1.0  # the frame's two tags come first, then what is past
    with torch.no_grad():
        torch.testing.assert_close(reward.logits(other, action, change), reward.logits(observation, action, change))
        all_of_it = judge(history=3, coordinates="change")
        assert not torch.allclose(
            all_of_it.logits(other, action, change), all_of_it.logits(observation, action, change)
        )
