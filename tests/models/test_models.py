"""Batched networks against one network at a time, and against textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributions, nn

from controlkit.artifacts import build_critics, build_models
from controlkit.config import RunConfig
from controlkit.errors import ConfigError
from controlkit.models.actor import Actor
from controlkit.models.discriminator import MAX_PROBABILITY
from controlkit.models.layers import BatchedMLP, SmoothLeaky
from controlkit.models.observer import ObserverEnsemble
from tests import small_plant


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_batched_perceptron_is_many_single_ones() -> None:
    net = BatchedMLP(3, 4, [5, 6], 2, act="smooth_leaky", generator=generator())
    x = torch.randn(3, 7, 4, generator=generator(1))
    together = net(x)
    for member in range(3):
        value = x[member]
        for layer in net.body:
            value = value @ layer.weight[member] + layer.bias[member] if hasattr(layer, "weight") else layer(value)
        assert net.skip is not None
        value = value + x[member] @ net.skip.weight[member] + net.skip.bias[member]
        torch.testing.assert_close(together[member], value)


def test_the_smooth_leaky_activation_has_its_two_slopes_and_no_kink() -> None:
    x = torch.tensor([-50.0, 50.0, 0.0], requires_grad=True)
    SmoothLeaky()(x).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [0.1, 1.0, 0.55], atol=1e-6)


def test_the_ensemble_predicts_a_change_from_the_current_state() -> None:
    models = build_models(small_plant.config(), small_plant.spec(), generator())
    observation, action = torch.randn(9, 8, generator=generator()), torch.randn(9, 1, generator=generator())
    mean, std = models.dynamics(observation, action)
    scaled, log_std = models.dynamics.scaled_change(observation, action)
    assert mean.shape == std.shape == (2, 9, 1)
    torch.testing.assert_close(mean, observation[:, :1] + scaled[models.dynamics.elites])
    torch.testing.assert_close(std, log_std[models.dynamics.elites].exp())
    by_hand = np.sqrt(((mean - mean.mean(0)).detach().numpy() ** 2).mean(0)).squeeze(-1)
    np.testing.assert_allclose(models.dynamics.spread(mean).detach().numpy(), by_hand, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["window", "observer"])
def test_a_copy_of_the_elites_predicts_the_same(architecture: str) -> None:
    models = build_models(small_plant.config(dynamics={"architecture": architecture}), small_plant.spec(), generator())
    with torch.no_grad():
        for parameter in models.dynamics.parameters():
            parameter.uniform_(-0.3, 0.3, generator=generator(2))
    models.dynamics.elites = torch.tensor([2, 0])
    pruned = models.dynamics.elites_only()
    observation, action = torch.randn(9, 8, generator=generator()), torch.randn(9, 1, generator=generator())
    for mine, theirs in zip(pruned(observation, action), models.dynamics(observation, action), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert pruned.members == 2


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_an_observer_is_a_filter_written_out_step_by_step(hidden: tuple[int, ...]) -> None:
    config = small_plant.config(dynamics={"architecture": "observer", "hidden": list(hidden)})
    dynamics = build_models(config, small_plant.spec(history=3), generator()).dynamics
    assert isinstance(dynamics, ObserverEnsemble)
    assert dynamics.depth == 3
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.uniform_(-0.3, 0.3, generator=generator(3))
    layout_names = ["level", "load", "level@-1", "load@-1", "level@-2", "load@-2", "level@-3", "load@-3"]
    names = [*layout_names, "valve@-1", "valve@-2", "valve@-3"]
    observation, action = torch.randn(4, 11, generator=generator()), torch.randn(4, 1, generator=generator())
    mean, _ = dynamics.scaled_change(observation, action)
    for member in range(3):
        for row in range(4):
            o = dict(zip(names, observation[row], strict=True)) | {"valve": action[row, 0]}

            def slot(tag: str, lag: int, o: dict[str, torch.Tensor] = o) -> torch.Tensor:
                return o[f"{tag}@-{lag}"] if lag else o[tag]

            x = slot("level", 3)
            for lag in (3, 2, 1, 0):
                if lag < 3:
                    x = x + dynamics.gains[member, 2 - lag, 0, 0] * (slot("level", lag) - x)
                w, u = slot("load", lag), slot("valve", lag)
                features = torch.stack([x, w, u, w * x, w * u])
                change = features @ dynamics.bilinear.weight[member, :, 0] + dynamics.bilinear.bias[member, 0, 0]
                if dynamics.perceptron is not None:
                    change = change + dynamics.perceptron(features[:3].expand(3, 1, 3))[member, 0, 0]
                x = x + change
            torch.testing.assert_close(mean[member, row, 0], x - slot("level", 0))


def test_an_observer_without_history_is_one_step() -> None:
    plant = small_plant.spec(history=0)
    config = small_plant.config(dynamics={"architecture": "observer", "hidden": []})
    dynamics = build_models(config, plant, generator()).dynamics
    assert isinstance(dynamics, ObserverEnsemble)
    assert dynamics.depth == 0
    assert dynamics(torch.zeros(2, 2), torch.zeros(2, 1))[0].shape == (2, 2, 1)


def test_the_dynamics_reward_is_finite_and_averages_probabilities() -> None:
    models = build_models(small_plant.config(), small_plant.spec(), generator())
    observation, action = torch.randn(9, 8, generator=generator()), torch.randn(9, 1, generator=generator())
    state = torch.randn(9, 1, generator=generator(5)) * 1e4
    reward = models.reward(observation, action, state)
    logits = models.reward.logits(observation, action, state - observation[:, :1])
    expected = -torch.log(1 - torch.sigmoid(logits.double()).mean(0).clamp(max=MAX_PROBABILITY))
    torch.testing.assert_close(reward.double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.isfinite(reward).all()


def test_the_actor_samples_inside_its_limits_with_the_density_of_a_squashed_gaussian() -> None:
    low, high = torch.tensor([0.0, -5.0]), torch.tensor([10.0, 5.0])
    actor = Actor(3, [0, 1, 2], low, high, hidden=[8], act="relu", generator=generator())
    observation = torch.randn(64, 3, generator=generator())
    action, density = actor.sample(observation, generator(1))
    mean, log_std = actor.distribution(observation)
    squashed = distributions.TransformedDistribution(
        distributions.Normal(mean, log_std.exp()), distributions.TanhTransform(cache_size=1)
    )
    scaled = (action - actor.centre) / actor.reach
    torch.testing.assert_close(density, squashed.log_prob(scaled).sum(-1), rtol=1e-3, atol=1e-3)
    assert bool(((action >= low) & (action <= high)).all())
    torch.testing.assert_close(actor(observation), actor.centre + actor.reach * torch.tanh(mean))


def test_a_memoryless_reward_judges_only_the_current_samples_and_the_command() -> None:
    reward = build_models(small_plant.config(reward={"inputs": "current"}), small_plant.spec(), generator()).reward
    observation, action = torch.randn(5, 8, generator=generator()), torch.randn(5, 1, generator=generator())
    changed = observation.clone()
    changed[:, 2:6] += 100.0
    state = torch.randn(5, 1, generator=generator())
    torch.testing.assert_close(reward(observation, action, state), reward(changed, action, state))
    assert bool((reward(observation, action, state) != reward(observation, action + 1, state)).all())


def test_a_memoryless_actor_sees_only_the_current_samples() -> None:
    config = small_plant.config(policy={"inputs": "current"})
    actor = build_models(config, small_plant.spec(), generator()).actor
    observation = torch.randn(5, 8, generator=generator())
    changed = observation.clone()
    changed[:, 2:6] += 100.0  # past levels and loads
    changed[:, 7] += 100.0  # the command before the last
    torch.testing.assert_close(actor(observation), actor(changed))
    changed[:, 0] += 1.0
    assert bool((actor(observation) != actor(changed)).any())


def test_a_belief_shows_the_policy_what_the_model_expects_of_the_last_command() -> None:
    config = small_plant.config(policy={"inputs": "belief"}, dynamics={"architecture": "observer"})
    models = build_models(config, small_plant.spec(), generator())
    actor, belief = models.actor, models.actor.belief
    assert belief is not None
    observation = torch.randn(5, 8, generator=generator())
    with torch.no_grad():
        for parameter in belief.parameters():
            parameter.uniform_(-0.3, 0.3, generator=generator(2))
        expected = belief(observation, observation[:, 6:7])[0][0]  # (B, S); valve@-1 stands at 6
        x = torch.cat([observation[:, [0, 1, 6]], expected], dim=-1)
        mean = actor.net(x[None])[0][:, :1]
    torch.testing.assert_close(actor(observation), actor.centre + actor.reach * torch.tanh(mean))
    assert not any(parameter.requires_grad for parameter in belief.parameters())


def test_a_belief_needs_the_last_command() -> None:
    config = small_plant.config(policy={"inputs": "belief"})
    with pytest.raises(ConfigError, match="'valve' has no history"):
        build_models(config, small_plant.spec(history=0), generator())


def test_critics_and_clone_have_the_announced_shapes() -> None:
    config: RunConfig = small_plant.config()
    models = build_models(config, small_plant.spec(), generator())
    critics = build_critics(config, small_plant.spec(), generator())
    observation, action = torch.randn(5, 8, generator=generator()), torch.randn(5, 1, generator=generator())
    assert critics(observation, action).shape == (2, 5)
    drawn = models.behaviour.sample(observation * 100, generator())
    assert drawn.shape == (5, 1)
    assert bool(((drawn >= -2) & (drawn <= 2)).all())
    assert isinstance(models.behaviour.net, nn.Module)
