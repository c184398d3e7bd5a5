"""The adversary of MOREC's inverse RL (arXiv 2310.05422, stage 1; after GAIL, arXiv 1606.03476).

The dynamics is the agent. It sees (s, a), acts by choosing the change of the state tags, and is rewarded with
-log(1 - D) for passing as the plant. Rolled out over several steps with commands of the cloned operator, it meets the
states that its own errors lead to, and so shows the discriminator what a wrong model does.

Two ways to train it:

- `ppo`, the paper's: proximal policy optimisation (arXiv 1707.06347) with generalised advantages (arXiv 1506.02438).
  Nothing is differentiated through the discriminator or the rollout. The value knows how many steps are left.
- `pathwise`, a variant: the gradient of the reward through the discriminator and the reparametrised rollout. It has
  less noise, but follows any slope of the discriminator, also where that was never trained.

Two forms of the discriminator:

- `gail`, the paper's: D = sigmoid(f), which knows nothing of the generator. Its best answer to a perfect generator is
  D = 1/2 everywhere, so that the better the generator, the less the reward ranks.
- `airl`, a deviation (arXiv 1710.11248): D = sigmoid(f - log density of the generator). The same game, but its best f
  is the log density of the plant itself, whatever the generator; r_D is computed from f. Densities are of the
  innovation, relative to a standard normal's, so that f is 0 at the peak of a plant with Gaussian noise.

What the paper leaves open: exogenous tags follow the record, and some of the false transitions may come from earlier
generators (`generator_memory`; a history of forgeries, arXiv 1612.07828).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.config import DynamicsRewardConfig
from controlkit.models.actor import BehaviourClone
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import BatchedMLP
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.identification import require_finite
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

MINIBATCH = 512


class Experience(NamedTuple):
    """H steps of N rollouts of the generator, in time order.

    Attributes:
        observation (H, N, O) and action (H, N, m): what the generator saw.
        change: (H, N, S) scaled, what it did.
        log_density: (H, N) of that, when it was done.
        left: (H, N) steps that the rollout had left, this one included; 0 where it had ended before, which it does
            where the record of the exogenous tags does.
    """

    observation: Tensor
    action: Tensor
    change: Tensor
    log_density: Tensor
    left: Tensor

    @property
    def alive(self) -> Tensor:
        """(H, N) whether the step was taken."""
        return self.left > 0


class Generator:
    """A Gaussian dynamics model that tries to pass for the plant.

    Args:
        judge: gives the scalers.
        log: recorded transitions.
        clone: the cloned operator.
        spec: the plant.
        config: settings.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        judge: DiscriminatorEnsemble,
        log: LoggedTransitions,
        clone: BehaviourClone,
        spec: PlantSpec,
        config: DynamicsRewardConfig,
        generator: torch.Generator,
    ) -> None:
        layout, device = log.layout, log.rows.device
        initial = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator, device=device)))
        self.model = GaussianEnsemble(
            layout.size,
            len(layout.action_tags),
            layout.state_columns.tolist(),
            members=1,
            hidden=config.generator_hidden,
            act=config.activation,
            generator=initial,
        ).to(device)
        self.model.input_scaler.load_state_dict(judge.input_scaler.state_dict())
        self.model.change_scaler.load_state_dict(judge.change_scaler.state_dict())
        inputs = layout.size + len(layout.action_tags) + 1  # and the steps left
        self.value = BatchedMLP(
            1, inputs, config.generator_hidden, 1, act=config.activation, generator=initial, skip=False
        ).to(device)
        self.world = WorldModel(self.model, spec, device)
        self.log, self.clone, self.config = log, clone, config
        self.parameters = [*self.model.parameters(), *self.value.parameters()]
        self.optimiser = torch.optim.Adam(self.parameters, lr=config.generator_learning_rate)
        self.airl = judged_by_density(config)
        self.latest: tuple[Tensor, ...] = ()
        # Without it for `airl`: transitions of earlier generators had other densities.
        self.memory = Reservoir(0 if self.airl else config.generator_memory)
        self.calls = 0

    def forge(
        self, judge: DiscriminatorEnsemble, batch: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """False transitions for one update of the judge; every `generator_every` calls the generator is trained first.

        Returns:
            Observations (K, batch, O), commands (K, batch, m) and scaled changes (K, batch, S), without gradient; the
            K networks get different draws.

        Raises:
            TrainingError: the generator's loss is no number.
        """
        if self.calls % self.config.generator_every == 0:
            rows = self.log.sample(self.config.generator_starts, generator)
            if self.config.generator == "ppo":
                experience = self._roll(rows, generator)
                self._proximal(judge, experience, generator)
            else:
                experience = self._roll(rows, generator, differentiable=True)
                self._pathwise(judge, experience)
            alive = experience.alive
            seen = (experience.observation, experience.action, experience.change)
            self.latest = tuple(x[alive].detach() for x in seen)
            self.memory.extend(self.latest, generator)
        self.calls += 1
        old = batch // 2 if self.memory.size else 0
        draws = []
        for source, size in ((self.latest, batch - old), (self.memory.held, old)):
            if size:
                shape = (judge.members, size)
                length = len(self.latest[0]) if source is self.latest else self.memory.size
                at = torch.randint(length, shape, generator=generator, device=self.latest[0].device)
                draws.append([x[at] for x in source])
        observation, action, change = (torch.cat(parts, dim=1) for parts in zip(*draws, strict=True))
        return observation, action, change

    @torch.no_grad()
    def log_density(self, observation: Tensor, action: Tensor, change: Tensor, unit: Tensor) -> Tensor:
        """Of scaled changes (..., S) under the generator, relative to a standard normal of that unit's peak: (...)."""
        shape = change.shape[:-1]
        mean, log_std = self._policy(observation.flatten(0, -2), action.flatten(0, -2))
        density = _log_density(change.flatten(0, -2), mean, log_std)
        return density.reshape(shape) + unit.log().sum()

    def _reward(self, judge: DiscriminatorEnsemble, logits: Tensor, log_density: Tensor) -> Tensor:
        """What the generator is paid: -log(1 - D), or the log odds of D where those hold its own density."""
        if not self.airl:
            return nn.functional.softplus(logits).mean(dim=0)
        return logits.mean(dim=0) - log_density - judge.unit.log().sum()

    def _roll(self, rows: Tensor, generator: torch.Generator, *, differentiable: bool = False) -> Experience:
        """A rollout along the recorded exogenous tags: (N,) rows."""
        with torch.set_grad_enabled(differentiable):
            observation, left = self.log.observe(rows), self.log.remaining[rows].clamp(max=self.config.generator_steps)
            steps: list[tuple[Tensor, ...]] = []
            for _ in range(self.config.generator_steps):
                with torch.no_grad():
                    action = self.world.limits.apply(self.clone.sample(observation, generator), observation)
                mean, log_std = self._policy(observation, action)
                noise = torch.empty_like(mean).normal_(generator=generator)
                change = mean + log_std.exp() * noise
                steps.append((observation, action, change, _log_density(change, mean, log_std), left))
                state = observation[:, self.model.state_slots] + self.model.change_scaler.invert(change)
                frame = self.world.next_frame(state, self.log.frames[rows + 1])
                following = self.world.next_observation(observation, action, frame)
                left = (left - 1).clamp(min=0)
                alive = left > 0
                observation = torch.where(alive.unsqueeze(1), following, observation)
                rows = torch.where(alive, rows + 1, rows)
        return Experience(*(torch.stack(parts) for parts in zip(*steps, strict=True)))

    def _policy(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.model.scaled_change(observation, action)
        return mean[0], log_std[0]

    def _value(self, observation: Tensor, action: Tensor, left: Tensor) -> Tensor:
        """Of (B, O), (B, m) with (B,) steps left: (B,)."""
        x = self.model.input_scaler(torch.cat([observation, action], dim=-1))
        x = torch.cat([x, left.unsqueeze(-1) / self.config.generator_steps], dim=-1)
        value: Tensor = self.value(x.unsqueeze(0))[0, :, 0]
        return value

    def _pathwise(self, judge: DiscriminatorEnsemble, experience: Experience) -> None:
        observation, action, change, log_density = (x[experience.alive] for x in experience[:4])
        self._descend(-self._reward(judge, judge.logits(observation, action, change), log_density).mean())

    def _proximal(self, judge: DiscriminatorEnsemble, experience: Experience, generator: torch.Generator) -> None:
        config, alive = self.config, experience.alive
        with torch.no_grad():
            observation, action, change, log_density, left = (x.flatten(0, 1) for x in experience)
            reward = self._reward(judge, judge.logits(observation, action, change), log_density).reshape(alive.shape)
            value = self._value(observation, action, left).reshape(alive.shape)
            advantage = advantages(reward, value, alive, config.generator_gamma, config.generator_lambda)
            wish, gain = (advantage + value)[alive], advantage[alive]
            gain = (gain - gain.mean()) / (gain.std(correction=0) + 1e-6)
        seen, did, done, before, left = (x[alive] for x in experience)
        for _ in range(config.ppo_epochs):
            order = torch.randperm(len(gain), generator=generator, device=gain.device)
            for part in order.split(MINIBATCH):
                mean, log_std = self._policy(seen[part], did[part])
                ratio = (_log_density(done[part], mean, log_std) - before[part]).exp()
                bounded = ratio.clamp(1.0 - config.ppo_clip, 1.0 + config.ppo_clip)
                improvement = torch.minimum(ratio * gain[part], bounded * gain[part]).mean()
                error = (self._value(seen[part], did[part], left[part]) - wish[part]).square().mean()
                self._descend(0.5 * error - improvement - config.generator_entropy * log_std.sum(dim=-1).mean())

    def _descend(self, loss: Tensor) -> None:
        require_finite(float(loss.detach()), f"generator of the dynamics reward, update {self.calls + 1}")
        self.optimiser.zero_grad(set_to_none=True)
        # Named, or the pathwise gradient would be left in the judge, too.
        loss.backward(inputs=self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()


def advantages(reward: Tensor, value: Tensor, alive: Tensor, gamma: float, decay: float) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438, eq. 16) of what rollouts of finite length are paid.

    Nothing follows the last step, and no value is assumed there: a generator would look for states whose value is
    overrated, which no reward ever corrects where every rollout ends.

    Args:
        reward: (H, N).
        value: (H, N) before each step.
        alive: (H, N) whether the step was taken; once false, false to the end.
        gamma: discount.
        decay: lambda.

    Returns:
        (H, N), 0 where no step was taken.
    """
    found = torch.zeros_like(reward)
    value = torch.where(alive, value, 0.0)
    ahead = following = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        surprise = reward[t] + gamma * following - value[t]
        ahead = torch.where(alive[t], surprise + gamma * decay * ahead, 0.0)
        found[t], following = ahead, value[t]
    return found


def judged_by_density(config: DynamicsRewardConfig) -> bool:
    """Whether the discriminator knows the generator's density: noise has none, so `mixed` does without."""
    return config.method == "irl" and config.form == "airl"


class Reservoir:
    """A uniform sample of all that was ever put in (Vitter 1985), of at most `capacity` rows."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.size, self.seen = capacity, 0, 0
        self.held: tuple[Tensor, ...] = ()

    def extend(self, rows: tuple[Tensor, ...], generator: torch.Generator) -> None:
        """Offers rows: tensors of equal length N."""
        if not self.capacity:
            return
        if not self.held:
            self.held = tuple(x.new_zeros(self.capacity, *x.shape[1:]) for x in rows)
        count, device = len(rows[0]), rows[0].device
        number = self.seen + torch.arange(count, device=device)
        drawn = (torch.rand(count, generator=generator, device=device, dtype=torch.float64) * (number + 1)).long()
        at = torch.where(number < self.capacity, number, drawn).clamp(max=self.capacity)  # a place more, for the rest
        # Of several rows that drew one place the last stays, as if they had come one by one; the same in every tensor.
        order = torch.arange(count, device=device)
        last = order.new_full((self.capacity + 1,), -1).scatter_reduce_(0, at, order, "amax")[:-1]  # (capacity,)
        for held, new in zip(self.held, rows, strict=True):
            taken = (last >= 0).reshape(-1, *[1] * (new.dim() - 1))
            held.copy_(torch.where(taken, new[last.clamp(min=0)], held))
        self.seen += count
        self.size = min(self.seen, self.capacity)


def _log_density(change: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Of a Gaussian, without its constant: (..., S) three times -> (...)."""
    density: Tensor = (-0.5 * ((change - mean) * torch.exp(-log_std)).square() - log_std).sum(dim=-1)
    return density
