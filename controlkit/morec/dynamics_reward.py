"""Stage 1 of MOREC (arXiv 2310.05422): learn the dynamics reward by inverse reinforcement learning.

The plant's dynamics is seen as an agent: its state is (s, a), its action the next state. A discriminator learns to tell
recorded transitions from false ones; snapshots of it, averaged, give r_D = -log(1 - D). Where the false ones come from
is `method`:

- `irl`, the paper's inverse RL: a generator model, rolled out over several steps with commands of the cloned
  behaviour policy, is trained to maximise -log(1 - D). Deviation: by the pathwise gradient through its reparametrised
  rollout instead of a policy gradient.
- `noise`, a deviation: recorded transitions whose outcome is perturbed by Gaussian noise of many sizes.
- `mixed`: half of each.

Only the change of the state tags is judged. Several discriminators are trained side by side in one batched network and
all are averaged, and only late snapshots count (early ones rank badly).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.config import DynamicsRewardConfig
from controlkit.models.actor import BehaviourClone
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.dynamics import WorldModel
from controlkit.morec.identification import require_finite
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec


def fit_behaviour(
    clone: BehaviourClone, log: LoggedTransitions, updates: int, generator: torch.Generator, progress: Progress
) -> None:
    """Fits the cloned operator by maximum likelihood, in place; its scalers are already set.

    Raises:
        TrainingError: the loss is no number.
    """
    optimiser = torch.optim.AdamW(clone.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, updates), 1e-5)
    progress.start("behaviour clone", updates)
    for update in range(1, updates + 1):
        rows = log.sample(256, generator)
        mean, log_std = clone.distribution(log.observe(rows))
        target = clone.action_scaler(log.actions[rows])
        loss = (0.5 * ((target - mean) * torch.exp(-log_std)).square() + log_std).mean()
        _descend(loss, optimiser, f"behaviour clone, update {update}")
        schedule.step()
        if update % 100 == 0:
            progress.advance(100)


def fit_dynamics_reward(
    target: DiscriminatorEnsemble,
    log: LoggedTransitions,
    clone: BehaviourClone,
    spec: PlantSpec,
    config: DynamicsRewardConfig,
    generator: torch.Generator,
    progress: Progress,
) -> list[dict[str, float]]:
    """Trains the discriminators and writes their snapshots into `target`, whose scalers are already set.

    Returns:
        One record per hundred updates: the mean probability given to recorded and to false transitions, and the loss.

    Raises:
        TrainingError: a loss is no number; says at which update.
    """
    layout = log.layout
    sizes = (layout.size, len(layout.action_tags), layout.state_columns.tolist())
    seen = target.inputs.tolist()[: -sizes[1]]
    networks = DiscriminatorEnsemble(
        *sizes, seen, members=config.networks, hidden=config.hidden, act=config.activation, generator=generator
    ).to(log.rows.device)
    networks.input_scaler.load_state_dict(target.input_scaler.state_dict())
    networks.change_scaler.load_state_dict(target.change_scaler.state_dict())
    optimiser = torch.optim.AdamW(networks.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.updates, 0.02 * config.learning_rate)
    forger = None if config.method == "noise" else Forger(target, log, clone, spec, config, generator)
    taken = _snapshot_updates(config)
    snapshots: list[dict[str, Tensor]] = []
    history: list[dict[str, float]] = []
    shape = (config.networks, config.batch_size)
    progress.start("dynamics reward", config.updates)
    for update in range(1, config.updates + 1):
        rows = log.sample(config.networks * config.batch_size, generator).reshape(shape)
        observation, action = log.observe(rows), log.actions[rows]  # (K, B, O), (K, B, m)
        change = target.change_scaler(log.next_state(rows) - observation[..., target.state_slots])  # (K, B, S)
        genuine = networks.logits(observation, action, change)  # (K, B)
        forged = change + _noise(change, config, generator)
        if forger is not None:
            share = config.batch_size if config.method == "irl" else config.batch_size // 2
            false_observation, false_action, false_change = forger.forge(networks, share, generator)
            observation = torch.cat([false_observation, observation[:, share:]], dim=1)
            action = torch.cat([false_action, action[:, share:]], dim=1)
            forged = torch.cat([false_change, forged[:, share:]], dim=1)
        false = networks.logits(observation, action, forged)  # (K, B)
        # The sum over networks trains each as if it were alone.
        loss = (nn.functional.softplus(-genuine) + nn.functional.softplus(false)).mean(dim=1).sum()
        _descend(loss, optimiser, f"dynamics reward, update {update}")
        schedule.step()
        if update in taken:
            snapshots.append({name: value.detach().clone() for name, value in networks.net.state_dict().items()})
        if update % 100 == 0 or update == config.updates:
            with torch.no_grad():
                real, fake = torch.sigmoid(genuine).mean().item(), torch.sigmoid(false).mean().item()
            history.append(
                {"update": update, "reward_loss": loss.item() / config.networks, "d_real": real, "d_false": fake}
            )
            progress.advance(update % 100 or 100, note=f"D real {real:.2f} false {fake:.2f}")
    target.net.load_state_dict({name: torch.cat([s[name] for s in snapshots]) for name in snapshots[0]})
    return history


class Forger:
    """The generator of the inverse RL: a Gaussian dynamics model that tries to pass for the plant."""

    def __init__(
        self,
        target: DiscriminatorEnsemble,
        log: LoggedTransitions,
        clone: BehaviourClone,
        spec: PlantSpec,
        config: DynamicsRewardConfig,
        generator: torch.Generator,
    ) -> None:
        layout = log.layout
        self.model = GaussianEnsemble(
            layout.size,
            len(layout.action_tags),
            layout.state_columns.tolist(),
            members=1,
            hidden=config.generator_hidden,
            act=config.activation,
            generator=generator,
        ).to(log.rows.device)
        self.model.input_scaler.load_state_dict(target.input_scaler.state_dict())
        self.model.change_scaler.load_state_dict(target.change_scaler.state_dict())
        self.world = WorldModel(self.model, spec, log.rows.device)
        self.log, self.clone, self.steps = log, clone, config.generator_steps
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.generator_learning_rate)

    def forge(
        self, judge: DiscriminatorEnsemble, batch: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One update of the generator against `judge`, and false transitions for its next update.

        Returns:
            Observations (K, batch, O), commands (K, batch, m) and scaled changes (K, batch, S), without gradient; the
            K networks get different draws of the same rollouts.
        """
        starts = self.log.sample(-(-batch // self.steps), generator)
        observations, actions, changes = self._roll(starts, generator)
        logits = judge.logits(observations, actions, changes)  # (K, T)
        reward = nn.functional.softplus(logits).mean()  # -log(1 - D), averaged
        _descend(-reward, self.optimiser, "generator of the dynamics reward")
        false = [x.detach() for x in (observations, actions, changes)]
        draw = torch.randint(len(false[0]), (judge.members, batch), generator=generator, device=starts.device)
        return false[0][draw], false[1][draw], false[2][draw]

    def _roll(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A reparametrised rollout along the recorded exogenous tags; ends where the record ends."""
        observation = self.log.observe(rows)
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(self.steps):
            with torch.no_grad():
                action = self.world.limits.apply(self.clone.sample(observation, generator), observation)
            mean, log_std = self.model.scaled_change(observation, action)
            mean, log_std = mean[0], log_std[0]
            change = mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)
            steps.append((observation, action, change))
            state = observation[:, self.model.state_slots] + self.model.change_scaler.invert(change)
            frame = self.world.next_frame(state, self.log.frames[rows + 1])
            observation = self.world.next_observation(observation, action, frame)
            rows = rows + 1
            alive = self.log.remaining[rows] > 0
            observation, rows = observation[alive], rows[alive]
        return (
            torch.cat([step[0] for step in steps]),
            torch.cat([step[1] for step in steps]),
            torch.cat([step[2] for step in steps]),
        )


def _noise(change: Tensor, config: DynamicsRewardConfig, generator: torch.Generator) -> Tensor:
    """Gaussian perturbations whose size is uniform in decades: (K, B, S)."""
    exponent = torch.empty_like(change[..., :1]).uniform_(config.noise_low, config.noise_high, generator=generator)
    return 10.0**exponent * torch.empty_like(change).normal_(generator=generator)


def _snapshot_updates(config: DynamicsRewardConfig) -> Sequence[int]:
    """The updates after which a snapshot is taken: evenly over the last share of training, the last one included."""
    first = config.updates * (1.0 - config.snapshot_share)
    span = config.updates - first
    return [max(1, round(first + span * (i + 1) / config.snapshots)) for i in range(config.snapshots)]


def _descend(loss: Tensor, optimiser: torch.optim.Optimizer, where: str) -> None:
    require_finite(loss.item(), where)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
