"""Soft actor-critic (arXiv 1801.01290, 1812.05905) on a mixture of logged and model transitions.

Deviations: the critics judge the command after the plant's clamp and rate limit (with a straight-through gradient), so
that the policy is trained on what the plant will get; an optional anchor pulls the policy towards the cloned operator;
target values are never clamped (the published MOBILE clamps them at 0, which ruins tasks with negative rewards); the
actor that is kept may be the average over the last updates.

The gradients are written out instead of left to autograd (see `models/backward.py`; tested against autograd): an update
is a fixed sequence of kernels over fixed buffers, on any device, which a CUDA graph can hold (`update_blocks.py`).
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from controlkit.config import PolicyConfig
from controlkit.errors import TrainingError
from controlkit.models.actor import LOG_STD_REACH, Actor, BehaviourClone, bounded_log_std, squashed_log_density
from controlkit.models.backward import ExplicitMLP
from controlkit.models.critic import Critics
from controlkit.models.flat import Flat, FlatAdam
from controlkit.morec.bellman_doubt import BellmanDoubt
from controlkit.objective import CommandLimits
from controlkit.replay import Batch


class PolicyLosses(NamedTuple):
    """One update's figures, as tensors (reading them is left to the caller)."""

    critic_loss: Tensor
    actor_loss: Tensor
    alpha: Tensor
    entropy: Tensor
    mean_q: Tensor


class Rates(NamedTuple):
    """What changes from update to update: learning rates of actor, critics and temperature, and the weight of the
    newest actor in the average (0 before averaging begins). Numbers, or tensors of no dimension on the learner's
    device."""

    actor: float | Tensor
    critic: float | Tensor
    temperature: float | Tensor
    average: float | Tensor


class Drawn(NamedTuple):
    """Commands drawn from the policy: mean, log standard deviation and its tanh, noise, tanh of the raw command, all
    (B, m); the wish in engineering units (B, m) and the log density (B,)."""

    mean: Tensor
    log_std: Tensor
    spread_tanh: Tensor
    noise: Tensor
    squashed: Tensor
    wish: Tensor
    log_density: Tensor


class PolicyLearner:
    """Actor, critics, temperature and their optimisers.

    Args:
        actor, critics: trained in place.
        behaviour: the cloned operator, for the anchor.
        limits: the plant's clamp and rate limit.
        config: settings.
        reward_spread: rewards are divided by it.
        reward_centre: is subtracted from rewards before; see `PolicyConfig.centre_rewards`.
        anchor_unit: of the behaviour anchor's weight, in scaled rewards; see `PolicyConfig.anchor_unit`.
        doubt: MOBILE's penalty on the targets of model transitions; `None` for none.
    """

    def __init__(
        self,
        actor: Actor,
        critics: Critics,
        behaviour: BehaviourClone,
        limits: CommandLimits,
        config: PolicyConfig,
        reward_spread: float,
        doubt: BellmanDoubt | None = None,
        reward_centre: float = 0.0,
        anchor_unit: float = 1.0,
    ) -> None:
        self.actor, self.critics, self.behaviour = actor, critics, behaviour
        self.limits, self.config, self.doubt = limits, config, doubt
        self.reward_spread, self.reward_centre = reward_spread, reward_centre
        self.anchor = config.behaviour_anchor * anchor_unit
        self.targets = copy.deepcopy(critics).requires_grad_(False)
        self.averaged = copy.deepcopy(actor).requires_grad_(False)
        self._flat = {
            "actor": Flat(actor.net.parameters()),
            "averaged": Flat(self.averaged.net.parameters()),
            "critics": Flat(critics.net.parameters()),
            "targets": Flat(self.targets.net.parameters()),
        }
        self._actor, self._critics = ExplicitMLP(actor.net), ExplicitMLP(critics.net)
        self._targets = ExplicitMLP(self.targets.net, self._critics)
        device = actor.centre.device
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), device=device, dtype=actor.centre.dtype)
        self._alpha_gradient = torch.zeros_like(self.log_alpha)
        self.target_entropy = config.target_entropy * len(actor.centre)
        self.actor_optimiser, self.critic_optimiser = (
            FlatAdam(flat.weights, flat.gradient) for flat in (self._flat["actor"], self._flat["critics"])
        )
        self.alpha_optimiser = FlatAdam(self.log_alpha, self._alpha_gradient)
        self.updates = 0

    @property
    def averages(self) -> int:
        """Over how many of the last updates the averaged actor has been averaged."""
        return max(0, self.updates - math.floor(self.config.updates * (1.0 - self.config.average)))

    def warm_start(self, observation: Tensor, command: Tensor) -> Tensor:
        """One step that brings the actor's mean command to the operator's: (B, O), (B, m) -> the loss."""
        with torch.no_grad():
            distance, slope = self._from(self._distribution(observation)[0], command)
            gradient = 2.0 / len(observation) * distance * slope
            self._actor.backward(torch.cat([gradient, torch.zeros_like(gradient)], dim=-1).unsqueeze(0))
        self.actor_optimiser.step(self.config.actor_learning_rate)
        return distance.square().sum(dim=-1).mean()

    def update(self, batch: Batch, generator: torch.Generator) -> PolicyLosses:
        """One gradient step of critics, actor and temperature."""
        losses = self.step(batch, self.noise((), batch, generator), self.rates(self.updates))
        self.updates += 1
        return losses

    def noise(self, lead: tuple[int, ...], batch: Batch, generator: torch.Generator) -> Tensor:
        """The random numbers of an update of `batch`, or of `lead` many: (*lead, 2, B, m), for this and the next
        observation."""
        shape = (*lead, 2, len(batch.reward), len(self.actor.centre))
        return torch.empty(shape, device=batch.reward.device, dtype=batch.reward.dtype).normal_(generator=generator)

    def rates(self, update: int) -> Rates:
        """Of update number `update`, counted from 0: the learning rates fall along a cosine (the authors' falls for the
        actor alone); actor and temperature rest while the critics are warmed up."""
        config = self.config
        done = min(1.0, update / max(1, config.updates))
        factor = max(0.5 * (1.0 + math.cos(math.pi * done)), 0.01)
        averages = update + 1 - math.floor(config.updates * (1.0 - config.average))
        moves = update >= config.critic_warm_start
        return Rates(
            config.actor_learning_rate * factor * moves,
            config.critic_learning_rate * factor,
            config.actor_learning_rate * moves,
            1.0 / averages if averages > 0 else 0.0,
        )

    @torch.no_grad()
    def step(self, batch: Batch, noise: Tensor, rates: Rates) -> PolicyLosses:
        """The arithmetic of one update: the same kernels over the same buffers every time, and nothing read back.

        Args:
            batch: B transitions, the model's behind the logged ones.
            noise: (2, B, m) standard normal, for this and the next observation.
            rates: learning rates.
        """
        count, size = len(batch.reward), batch.observation.shape[1]
        scaler, critics = self.critics.input_scaler, self.critics
        alpha = self.log_alpha.exp()
        # This and the next observation in one pass: the actor is not touched before both have been used.
        both = self._draw(torch.cat([batch.observation, batch.next_observation]), noise.flatten(0, 1))
        now = Drawn(*(value[:count] for value in both))

        command = self.limits.apply(both.wish[count:], batch.next_observation)
        value = self._targets.forward(scaler(torch.cat([batch.next_observation, command], dim=1)))
        value = _lowest(value).squeeze(1) * critics.value_spread + critics.value_centre
        value -= alpha * both.log_density[count:]
        reward = (batch.reward - self.reward_centre) / self.reward_spread
        target = reward + self.config.gamma * (1.0 - batch.terminated) * value
        if self.doubt is not None and batch.modelled:
            target[-batch.modelled :] -= self.doubt.penalty(batch, noise[1], self.actor, self.targets, self.limits)
        x = scaler(torch.cat([batch.observation, batch.action], dim=1))
        error = self._approach(x, target, rates.critic)

        executed = self.limits.apply(now.wish, batch.observation)
        centre, spread = scaler.centre[size:], scaler.spread[size:]
        torch.div(executed - centre, spread, out=x[:, size:])
        q, lowest = self._critics.forward(x).min(dim=0, keepdim=True)  # (1, B, 1)
        chosen = torch.zeros_like(error).scatter_(0, lowest, -1.0 / count)
        pulled = self._critics.backward(chosen, weights=False, inputs=slice(size, None))
        assert pulled is not None
        pulled = pulled.sum(dim=0) * critics.value_spread / spread
        entropy, mean_q = -now.log_density.mean(), q.mean() * critics.value_spread + critics.value_centre
        actor_loss = -alpha * entropy - mean_q
        actor_loss += self._descend(now, pulled, alpha / count, batch)
        self.actor_optimiser.step(rates.actor)

        torch.sub(entropy, self.target_entropy, out=self._alpha_gradient)
        self.alpha_optimiser.step(rates.temperature)
        self._flat["targets"].weights.lerp_(self._flat["critics"].weights, self.config.tau)
        if isinstance(rates.average, Tensor) or rates.average:
            self._flat["averaged"].weights.lerp_(self._flat["actor"].weights, rates.average)
        critic_loss = torch.dot(error.flatten(), error.flatten()) / count * critics.value_spread.square()
        return PolicyLosses(critic_loss, actor_loss, alpha, entropy, mean_q)

    @torch.no_grad()
    def fit_values(self, observation: Tensor, action: Tensor, value: Tensor) -> Tensor:
        """One step that brings the critics to known values, and the targets with them: (B, O), (B, m), (B,) in scaled
        rewards -> the loss."""
        x = self.critics.input_scaler(torch.cat([observation, action], dim=1))
        error = self._approach(x, value, self.config.critic_learning_rate) * self.critics.value_spread
        self._flat["targets"].weights.copy_(self._flat["critics"].weights)
        return error.square().sum() / len(value)

    def _approach(self, x: Tensor, target: Tensor, rate: float | Tensor) -> Tensor:
        """One step of the critics towards values (B,) at inputs (B, O + m); their errors before it (C, B, 1), in units
        of `value_spread`."""
        wanted = (target - self.critics.value_centre) / self.critics.value_spread
        error = self._critics.forward(x) - wanted.unsqueeze(1)
        self._critics.backward(error * (2.0 / len(target)))
        self.critic_optimiser.step(rate)
        return error

    def _descend(self, drawn: Drawn, pulled: Tensor, price: Tensor, batch: Batch) -> Tensor | float:
        """Writes the actor's gradient and returns the anchor's part of the loss.

        With u = mean + exp(log_std) noise and a = tanh(u): d log density / du = 2 a, d log density / d log_std = -1
        where u is held, and d wish / du = reach (1 - a^2).

        Args:
            drawn: commands at this observation (B, ...).
            pulled: (B, m) gradient of the loss in the executed command, the clamp passed straight through.
            price: alpha / B.
            batch: B transitions.
        """
        in_raw = 2.0 * price * drawn.squashed
        in_raw.addcmul_(pulled * self.actor.reach, 1.0 - drawn.squashed.square())
        in_mean = in_raw
        in_log_std = in_raw * drawn.log_std.exp() * drawn.noise - price
        held: Tensor | float = 0.0
        if self.anchor:
            distance, slope = self._anchored(drawn.mean, batch)
            in_mean[: len(distance)] += 2.0 * self.anchor / len(distance) * distance * slope
            held = self.anchor * distance.square().sum(dim=-1).mean()
        in_spread = in_log_std * LOG_STD_REACH * (1.0 - drawn.spread_tanh.square())
        self._actor.backward(torch.cat([in_mean, in_spread], dim=-1).unsqueeze(0))
        return held

    def _distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and the tanh that the log standard deviation is made of: (B, O) -> (B, m), (B, m)."""
        output = self._actor.forward(self.actor.features(observation)).squeeze(0)
        mean, raw = output.chunk(2, dim=-1)
        return mean, torch.tanh(raw)

    def _draw(self, observation: Tensor, noise: Tensor) -> Drawn:
        """As `Actor.sample`, by the pass that can be gone back."""
        mean, spread_tanh = self._distribution(observation)
        log_std = bounded_log_std(spread_tanh)
        raw = torch.addcmul(mean, log_std.exp(), noise)
        squashed = torch.tanh(raw)
        wish = self.actor.centre + self.actor.reach * squashed
        return Drawn(mean, log_std, spread_tanh, noise, squashed, wish, squashed_log_density(raw, log_std, noise))

    def _anchored(self, mean: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """From the anchor to the actor's command, and its slope in the mean: (A, m) for the first A of B transitions,
        which are all of them, or the logged ones (see `PolicyConfig.anchor_to`)."""
        if self.config.anchor_to == "clone":
            return self._from(mean, self.behaviour(batch.observation))
        logged = len(mean) - batch.modelled
        return self._from(mean[:logged], batch.action[:logged])

    def _from(self, mean: Tensor, command: Tensor) -> tuple[Tensor, Tensor]:
        """From a command to the actor's, scaled to [-1, 1], and its slope in the mean: (B, m) each."""
        squashed = torch.tanh(mean)
        return squashed - (command - self.actor.centre) / self.actor.reach, 1.0 - squashed.square()

    def final_actor(self) -> Actor:
        """The actor to keep: the average over the last share of updates, or the last one where none was asked for."""
        return self.averaged if self.averages else self.actor

    def require_finite(self, losses: PolicyLosses) -> None:
        """Stops training on a loss that is no number.

        Raises:
            TrainingError: says which loss and at which update.
        """
        for name in ("critic_loss", "actor_loss"):
            if not math.isfinite(float(getattr(losses, name))):
                raise TrainingError(
                    f"the {name.replace('_', ' ')} is not a number",
                    where=f"policy, update {self.updates}",
                    cure="The last good checkpoint is kept. Lower the learning rates, or look for extreme rewards.",
                )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        held = {name: getattr(self, name).state_dict() for name in (*_NETWORKS, *_OPTIMISERS)}
        return held | {"log_alpha": self.log_alpha.clone(), "updates": self.updates}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Reads what `state_dict` wrote."""
        for name in (*_NETWORKS, *_OPTIMISERS):
            getattr(self, name).load_state_dict(content[name])
        self.log_alpha.copy_(content["log_alpha"])
        self.updates = content["updates"]


def _lowest(values: Tensor) -> Tensor:
    """The lowest critic's: (C, ...) -> (...). For a few critics several times faster than a reduction."""
    return functools.reduce(torch.minimum, values.unbind())


_NETWORKS = ("actor", "critics", "targets", "averaged")
_OPTIMISERS = ("actor_optimiser", "critic_optimiser", "alpha_optimiser")
