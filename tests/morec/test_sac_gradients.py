"""The written-out soft actor-critic update against the same update left to autograd, in double precision; MOBILE's
penalty against a loop over elites and rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from controlkit.artifacts import Models, build_critics, build_models
from controlkit.config import PolicyConfig, RunConfig
from controlkit.models.actor import Actor
from controlkit.models.critic import Critics
from controlkit.morec.bellman_doubt import BellmanDoubt
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.policy_update import PolicyLearner
from controlkit.objective import CommandLimits
from controlkit.replay import Batch
from controlkit.spec import PlantSpec
from tests import small_plant

LIMITED = {"role": "action", "unit": "1", "range": [-2, 2], "safe": 0, "fallback": {"kind": "hold"}}


def plant() -> PlantSpec:
    """Two commands, one of them rate limited, so that clamp and rate limit both bite."""
    described = small_plant.spec().to_dict()
    tags = {**described["tags"], "pump": {**LIMITED, "history": 1, "max_rate_per_s": 0.3}}
    return small_plant.spec(tags=tags)


def built(spec: PlantSpec, **policy: Any) -> tuple[RunConfig, Models, Critics]:
    config = small_plant.config(policy={"hidden": [12, 9], "updates": 10, "average": 0.5} | policy)
    generator = torch.Generator().manual_seed(0)
    models, critics = build_models(config, spec, generator), build_critics(config, spec, generator)
    for network in (models.actor, critics, models.behaviour, models.dynamics):
        network.double()
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    for scaler in (models.actor.input_scaler, critics.input_scaler):
        scaler.centre.uniform_(-0.3, 0.3, generator=generator)
        scaler.spread.uniform_(0.5, 2.0, generator=generator)
    return config, models, critics


def batch(observations: int, actions: int, seed: int, modelled: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ends = (torch.rand(16, generator=generator) < 0.3).double()
    return Batch(
        normal(16, observations), 2.0 * normal(16, actions), normal(16), normal(16, observations), ends, modelled
    )


class Autograd:
    """The update as the papers write it: losses, and PyTorch's gradients and optimisers."""

    def __init__(self, models: Models, critics: Critics, limits: CommandLimits, config: PolicyConfig) -> None:
        self.actor, self.critics, self.behaviour = models.actor, critics, models.behaviour
        self.limits, self.config, self.updates, self.anchor_unit = limits, config, 0, 1.0
        self.targets = copy.deepcopy(critics)
        self.seen: list[dict[str, Tensor]] = []
        self.log_alpha = torch.tensor(config.initial_alpha, dtype=torch.float64).log().requires_grad_(True)
        self.optimisers = [
            torch.optim.Adam(critics.net.parameters(), lr=config.critic_learning_rate),
            torch.optim.Adam(models.actor.net.parameters(), lr=config.actor_learning_rate),
            torch.optim.Adam([self.log_alpha], lr=config.actor_learning_rate),
        ]

    def sample(self, actor: Actor, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor.distribution(observation)
        normal = torch.distributions.Normal(mean, log_std.exp())
        raw = mean + log_std.exp() * noise
        density = (normal.log_prob(raw) - torch.log(1 - torch.tanh(raw) ** 2)).sum(-1)
        return actor.centre + actor.reach * torch.tanh(raw), density

    def update(self, batch: Batch, noise: Tensor, penalty: Tensor | None = None) -> tuple[float, float]:
        done = self.updates / self.config.updates
        factor = max(0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done, dtype=torch.float64)))), 0.01)
        self.optimisers[0].param_groups[0]["lr"] = self.config.critic_learning_rate * factor
        self.optimisers[1].param_groups[0]["lr"] = self.config.actor_learning_rate * factor
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            wish, density = self.sample(self.actor, batch.next_observation, noise[1])
            command = self.limits.apply(wish, batch.next_observation)
            value = self.targets(batch.next_observation, command).min(dim=0).values - alpha * density
            target = batch.reward / 2.0 + self.config.gamma * (1 - batch.terminated) * value
            if penalty is not None:
                target -= penalty
        # Errors are descended in units of the values' spread, which Adam notices by its epsilon alone.
        unit = self.critics.value_spread
        critic_loss = (((self.critics(batch.observation, batch.action) - target) / unit) ** 2).mean(dim=1).sum()
        self._descend(critic_loss, 0)
        critic_loss = critic_loss * unit**2
        wish, density = self.sample(self.actor, batch.observation, noise[0])
        executed = wish + (self.limits.apply(wish, batch.observation) - wish).detach()
        lowest = self.critics(batch.observation, executed).min(dim=0).values
        actor_loss = (alpha * density - lowest).mean()
        anchor = self.config.behaviour_anchor * self.anchor_unit
        wanted, logged = self.behaviour(batch.observation).detach(), len(batch.reward)
        if self.config.anchor_to == "log":
            wanted, logged = batch.action, logged - batch.modelled
        away = (self.actor(batch.observation) - wanted)[:logged] / self.actor.reach
        actor_loss = actor_loss + anchor * (away**2).sum(dim=-1).mean()
        self._descend(actor_loss, 1)
        self._descend(-(self.log_alpha * (density.detach() + self.config.target_entropy * wish.shape[1])).mean(), 2)
        with torch.no_grad():
            for old, new in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                old += self.config.tau * (new - old)
        self.updates += 1
        self.seen.append({name: value.clone() for name, value in self.actor.net.state_dict().items()})
        return float(critic_loss.detach()), float(actor_loss.detach())

    def _descend(self, loss: Tensor, number: int) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        self.optimisers[number].step()


@pytest.mark.parametrize(("act", "norm"), [("relu", False), ("smooth_leaky", False), ("relu", True)])
@pytest.mark.parametrize(
    ("anchor", "unit", "to"), [(0.0, 1.0, "clone"), (0.7, 1.0, "clone"), (0.7, 3.0, "clone"), (0.7, 3.0, "log")]
)
@pytest.mark.parametrize(
    ("inputs", "values"), [("all", None), ("all", (-3.0, 7.0)), ("current", None), ("belief", None)]
)
def test_an_update_is_the_one_that_autograd_makes(
    act: str, norm: bool, anchor: float, unit: float, to: str, inputs: str, values: tuple[float, float] | None
) -> None:
    spec = plant()
    rates = {"actor_learning_rate": 3e-3, "critic_learning_rate": 1e-2, "behaviour_anchor": anchor, "anchor_to": to}
    config, models, critics = built(spec, activation=act, inputs=inputs, critic_norm=norm, **rates)
    if values is not None:
        critics.scale_values(*values)
    limits = CommandLimits(spec)
    slow = Autograd(copy.deepcopy(models), copy.deepcopy(critics), limits, config.policy)
    slow.anchor_unit = unit
    fast = PolicyLearner(
        models.actor, critics, models.behaviour, limits, config.policy, reward_spread=2.0, anchor_unit=unit
    )
    generator = torch.Generator().manual_seed(5)
    for number in range(8):
        transitions = batch(models.actor.input_scaler.centre.numel(), 2, number, modelled=6)
        noise = fast.noise((), transitions, generator)
        losses = fast.step(transitions, noise, fast.rates(fast.updates))
        fast.updates += 1
        critic_loss, actor_loss = slow.update(transitions, noise)
        assert float(losses.critic_loss) == pytest.approx(critic_loss, rel=1e-9)
        assert float(losses.actor_loss) == pytest.approx(actor_loss, rel=1e-9)
    for mine, theirs in ((fast.actor, slow.actor), (fast.critics, slow.critics), (fast.targets, slow.targets)):
        for name, value in mine.net.state_dict().items():
            torch.testing.assert_close(value, theirs.net.state_dict()[name], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(fast.log_alpha, slow.log_alpha.detach())
    assert fast.averages == 3
    for name, value in fast.final_actor().net.state_dict().items():
        torch.testing.assert_close(value, torch.stack([seen[name] for seen in slow.seen[-3:]]).mean(dim=0))


def test_a_warm_start_is_a_step_down_the_distance_to_the_operator() -> None:
    spec = plant()
    config, models, critics = built(spec, actor_learning_rate=1e-2)
    reference = copy.deepcopy(models.actor)
    learner = PolicyLearner(models.actor, critics, models.behaviour, CommandLimits(spec), config.policy, 1.0)
    optimiser = torch.optim.Adam(reference.net.parameters(), lr=1e-2)
    for number in range(3):
        observation = batch(reference.input_scaler.centre.numel(), 2, number).observation
        away = (reference(observation) - models.behaviour(observation).detach()) / reference.reach
        optimiser.zero_grad()
        (away**2).sum(dim=-1).mean().backward()
        optimiser.step()
        loss = learner.warm_start(observation, models.behaviour(observation))
        assert float(loss) == pytest.approx(float((away**2).sum(dim=-1).mean()), rel=1e-9)
    for mine, theirs in zip(models.actor.net.parameters(), reference.net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_fitting_values_is_a_step_down_their_squared_error_and_takes_the_targets_along() -> None:
    spec = plant()
    config, models, critics = built(spec, critic_learning_rate=1e-2)
    critics.scale_values(40.0, 5.0)
    reference = copy.deepcopy(critics)
    learner = PolicyLearner(models.actor, critics, models.behaviour, CommandLimits(spec), config.policy, 1.0)
    optimiser = torch.optim.Adam(reference.net.parameters(), lr=1e-2)
    for number in range(3):
        seen = batch(models.actor.input_scaler.centre.numel(), 2, number)
        value = 40.0 + 5.0 * seen.reward
        optimiser.zero_grad()
        wanted = ((reference(seen.observation, seen.action) - value) / 5.0).square().mean(dim=1).sum()
        wanted.backward()
        optimiser.step()
        loss = learner.fit_values(seen.observation, seen.action, value)
        assert float(loss) == pytest.approx(25.0 * float(wanted.detach()), rel=1e-9)
    for mine in (learner.critics, learner.targets):
        torch.testing.assert_close(mine(seen.observation, seen.action), reference(seen.observation, seen.action))


def test_mobiles_penalty_is_the_spread_of_the_elites_values() -> None:
    spec = small_plant.spec(episodes={"terminated": [{"tag": "level", "above": 1.0}]})
    _, models, critics = built(spec)
    models.dynamics.elites = torch.tensor([2, 0])
    limits, world = CommandLimits(spec), WorldModel(models.dynamics, spec)
    world._low, world._high = world._low.double(), world._high.double()
    transitions = batch(8, 1, 0, modelled=6)
    noise = torch.randn(16, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = BellmanDoubt(world, 1.5).penalty(transitions, noise, models.actor, critics, limits)
    tripped = 0
    for number, row in enumerate(range(10, 16)):
        values = []
        for member in (2, 0):
            observation, action = transitions.observation[row], transitions.action[row]
            mean, _ = models.dynamics.scaled_change(observation[None], action[None])
            level = float((observation[0] + mean[member, 0, 0]).clamp(-10, 10))
            load = transitions.next_observation[row, 1]
            past = torch.stack([observation[0], observation[1], observation[2], observation[3]])
            following = torch.cat([torch.tensor([level, float(load)]).double(), past, action, observation[6:7]])[None]
            centre, log_std = models.actor.distribution(following)
            wish = models.actor.centre + models.actor.reach * torch.tanh(centre + log_std.exp() * noise[row])
            value = float(critics(following, limits.apply(wish, following)).min())
            values.append(0.0 if level > 1.0 else value)
            tripped += level > 1.0
        expected = 1.5 * abs(values[0] - values[1]) / 2**0.5  # the unbiased deviation of two
        assert float(found[number]) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert 0 < tripped < 12


def test_mobiles_penalty_falls_on_model_transitions_alone_and_clamps_nothing() -> None:
    spec = small_plant.spec()
    config, models, critics = built(spec, critic_learning_rate=1e-2)
    limits, world = CommandLimits(spec), WorldModel(models.dynamics, spec)
    world._low, world._high = world._low.double(), world._high.double()
    doubt = BellmanDoubt(world, 2.0)
    slow = Autograd(copy.deepcopy(models), copy.deepcopy(critics), limits, config.policy)
    fast = PolicyLearner(models.actor, critics, models.behaviour, limits, config.policy, 2.0, doubt)
    generator = torch.Generator().manual_seed(5)
    for number in range(3):
        transitions = batch(8, 1, number, modelled=6)
        transitions = transitions._replace(reward=transitions.reward - 5.0)
        noise = fast.noise((), transitions, generator)
        penalty = torch.zeros(16, dtype=torch.float64)
        penalty[10:] = doubt.penalty(transitions, noise[1], slow.actor, slow.targets, limits)
        assert float(penalty.max()) > 0
        critic_loss, _ = slow.update(transitions, noise, penalty)
        losses = fast.step(transitions, noise, fast.rates(number))
        assert float(losses.critic_loss) == pytest.approx(critic_loss, rel=1e-9)
