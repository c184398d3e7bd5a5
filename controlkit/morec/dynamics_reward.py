"""Stage 1 of MOREC (arXiv 2310.05422): learn the dynamics reward by inverse reinforcement learning.

The plant's dynamics is seen as an agent: its state is (s, a), its action the next state. A discriminator learns to tell
recorded transitions from false ones; snapshots of it, averaged, give r_D = -log(1 - D). Where the false ones come from
is `method`:

- `irl`, the paper's inverse RL: a generator model, rolled out over several steps with commands of the cloned operator,
  is trained to maximise -log(1 - D). See `inverse_rl.py`.
- `noise`, a deviation: recorded transitions whose outcome is perturbed by Gaussian noise of many sizes.
- `mixed`: half of each.

Further deviations: only the change of the state tags is judged, by its innovation (see `models/discriminator.py`);
several discriminators are trained side by side in one batched network and all are averaged; snapshots are taken from
the last part of training alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlkit.config import DynamicsRewardConfig
from controlkit.models.actor import BehaviourClone
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.identification import require_finite
from controlkit.morec.innovation import fit_prediction
from controlkit.morec.inverse_rl import Generator
from controlkit.progress import Progress
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec


def fit_behaviour(
    clone: BehaviourClone,
    log: LoggedTransitions,
    updates: int,
    generator: torch.Generator,
    progress: Progress,
    *,
    cut: bool = False,
) -> None:
    """Fits the cloned operator by maximum likelihood, in place; its scalers are already set.

    Args:
        clone: what is fitted.
        log: the operator's.
        updates: gradient steps.
        generator: draws the batches.
        progress: is told of them.
        cut: whether commands at a limit stand for the wishes beyond it (`BehaviourClone.log_likelihood`).

    Raises:
        TrainingError: the loss is no number.
    """
    optimiser = torch.optim.AdamW(clone.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, updates), 1e-5)
    progress.start("behaviour clone", updates)
    for update in range(1, updates + 1):
        rows = log.sample(256, generator)
        loss = -clone.log_likelihood(log.observe(rows), log.actions[rows], cut=cut).mean()
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
    fit_prediction(target, log, progress)
    initial = torch.Generator().manual_seed(
        int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    )
    networks = DiscriminatorEnsemble(
        *sizes,
        seen,
        target.prediction,  # shared: it is fitted, and nothing trains it
        members=config.networks,
        hidden=config.hidden,
        act=config.activation,
        generator=initial,
    ).to(log.rows.device)
    shared = {name: value for name, value in target.state_dict().items() if not name.startswith("net.")}
    networks.load_state_dict(shared, strict=False)  # everything but the weights: scalers, prediction, slots
    optimiser = torch.optim.AdamW(networks.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.updates, 0.02 * config.learning_rate)
    adversary = None if config.method == "noise" else Generator(target, log, clone, spec, config, generator)
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
        genuine_of = (observation, action, change)
        forged = change + networks.unit * displacements(change, config.noise_low, config.noise_high, generator)
        if adversary is not None:
            share = config.batch_size if config.method == "irl" else config.batch_size // 2
            false_observation, false_action, false_change = adversary.forge(networks, share, generator)
            observation = torch.cat([false_observation, observation[:, share:]], dim=1)
            action = torch.cat([false_action, action[:, share:]], dim=1)
            forged = torch.cat([false_change, forged[:, share:]], dim=1)
        false = networks.logits(observation, action, forged)  # (K, B)
        if adversary is not None and adversary.airl:
            genuine = genuine - adversary.log_density(*genuine_of, networks.unit)
            false = false - adversary.log_density(observation, action, forged, networks.unit)
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


def displacements(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Gaussian perturbations whose size is uniform over the decades `low` .. `high`: (..., S) as `like`.

    In half of the rows all state tags share one size, in the other half each has its own, so that a single false tag
    among many is found, too.
    """
    together = torch.empty_like(like[..., :1]).uniform_(low, high, generator=generator)
    apart = torch.empty_like(like).uniform_(low, high, generator=generator)
    shared = torch.empty_like(together).uniform_(generator=generator) < 0.5
    return 10.0 ** torch.where(shared, together, apart) * torch.empty_like(like).normal_(generator=generator)


def _snapshot_updates(config: DynamicsRewardConfig) -> Sequence[int]:
    """The updates after which a snapshot is taken: evenly over the last share of training, the last one included."""
    first = config.updates * (1.0 - config.snapshot_share)
    span = config.updates - first
    # Rounded half up: of updates that are 1 apart no two become one, as they would by rounding to even.
    return [int(first + span * (i + 1) / config.snapshots + 0.5) for i in range(config.snapshots)]


def _descend(loss: Tensor, optimiser: torch.optim.Optimizer, where: str) -> None:
    require_finite(loss.item(), where)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
