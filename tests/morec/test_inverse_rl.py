"""Inverse RL on a plant whose density is known: what the discriminators learn, and each part against a slow version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from controlkit.config import RunConfig
from controlkit.errors import ConfigError, TrainingError
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.dynamics_reward import fit_behaviour, fit_dynamics_reward
from controlkit.morec.inverse_rl import Generator, Reservoir, advantages, judged_by_density
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from tests import noisy_plant
from tests.noisy_plant import NOISE, config, expected, operator, trained, untrained

IRL: dict[str, Any] = {
    "method": "irl",
    "generator_every": 5,
    "weight_decay": 0.1,
    "learning_rate": 3e-3,
    "generator_learning_rate": 3e-3,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adversary(
    log: LoggedTransitions, plant: PlantSpec, settings: RunConfig, judge: DiscriminatorEnsemble | None = None
) -> Generator:
    judge = judge or untrained(log, plant, settings)
    return Generator(judge, log, operator(log, plant, settings), plant, settings.reward, seeded())


def density_fit(reward: DiscriminatorEnsemble) -> tuple[float, float]:
    """Of the log odds over outcomes up to 3 noises around the truth, at 300 fresh states and commands: correlation with
    the log density of the plant, and mean distance of their peak from the truth, in noises."""
    log, plant = noisy_plant.log(seed=99), noisy_plant.spec()
    observation, action = log.observe(log.rows[:300]), log.actions[log.rows[:300]]
    z = torch.linspace(-3, 3, 41)
    candidates = expected(observation, action[:, 0], plant) + NOISE * z[:, None, None]  # (C, B, 1)
    with torch.no_grad():
        odds = reward.log_odds(observation, action, candidates)  # (C, B)
    density = (-(z**2) / 2).unsqueeze(1).expand_as(odds)
    fit = np.corrcoef(odds.flatten().numpy(), density.flatten().numpy())[0, 1]
    return float(fit), float(z[odds.argmax(dim=0)].mean().abs())


@pytest.mark.parametrize("generator", ["ppo", "pathwise"])
def test_adversarial_irl_finds_the_log_density_of_the_plant(generator: str) -> None:
    reward, history = trained(noisy_plant.log(), noisy_plant.spec(), **IRL, generator=generator, updates=500)
    fit, peak = density_fit(reward)
    assert fit > 0.9
    assert peak < 0.25
    # The generator passes for the plant, and yet the reward ranks: that is what its density is kept apart for.
    assert abs(history[-1]["d_real"] - history[-1]["d_false"]) < 0.1


def test_the_published_form_ends_at_one_half() -> None:
    """What is lost with D = sigmoid(f): the better the generator, the less is left to rank by."""
    gail = IRL | {"form": "gail", "generator": "pathwise", "learning_rate": 1e-3}
    _, history = trained(noisy_plant.log(), noisy_plant.spec(), **gail, updates=700)
    late = history[-5:]
    for name in ("d_real", "d_false"):
        assert abs(float(np.mean([row[name] for row in late])) - 0.5) < 0.1


def wants(judge: DiscriminatorEnsemble, mean: float, spread: float) -> DiscriminatorEnsemble:
    """A fixed judge whose log odds are the log density of a Gaussian of that mean and spread, wherever it is asked."""

    def logits(observation: torch.Tensor, action: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        found = -0.5 * ((change - mean) / spread).square().sum(dim=-1)
        return found.expand(judge.members, *found.shape) if found.dim() == 1 else found

    judge.logits = logits  # type: ignore[method-assign]
    return judge


@pytest.mark.parametrize("generator", ["ppo", "pathwise"])
@pytest.mark.parametrize("form", ["gail", "airl"])
def test_the_generator_learns_what_a_fixed_judge_wants(form: str, generator: str) -> None:
    settings = config(
        method="irl",
        form=form,
        generator=generator,
        generator_every=1,
        generator_steps=2,
        generator_starts=128,
        generator_learning_rate=1e-2,
        ppo_epochs=8,
    )
    log, plant = noisy_plant.log(), noisy_plant.spec()
    judge = wants(untrained(log, plant, settings), mean=0.8, spread=0.4)
    forger, draws = adversary(log, plant, settings, judge), seeded(1)
    pay = []
    for _ in range(60):
        seen = forger.forge(judge, 64, draws)
        pay.append(float(torch.nn.functional.softplus(judge.logits(*seen)).mean()))
    _, _, change = forger.latest
    assert float(np.mean(pay[-5:])) > 1.5 * pay[0]
    assert float(change.mean()) == pytest.approx(0.8, abs=0.1)
    if form == "airl":  # what it maximises holds its entropy: it becomes the judge's density
        assert float(change.std()) == pytest.approx(0.4, abs=0.1)
    else:
        assert float(change.std()) < 0.4


def test_densities_are_those_of_a_gaussian_relative_to_the_peak_of_one_of_that_unit() -> None:
    plant = noisy_plant.spec(1, states=2)
    log, settings = noisy_plant.log(plant), config(method="irl", networks=3)
    forger = adversary(log, plant, settings)
    rows = log.sample(3 * 7, seeded()).reshape(3, 7)
    observation, action, unit = log.observe(rows), log.actions[rows], torch.tensor([0.3, 0.2])
    change = torch.randn(3, 7, 2, generator=seeded())
    found = forger.log_density(observation, action, change, unit)
    with torch.no_grad():
        mean, log_std = forger.model.scaled_change(observation.flatten(0, 1), action.flatten(0, 1))
    density = Independent(Normal(mean[0], log_std[0].exp()), 1).log_prob(change.flatten(0, 1)).reshape(3, 7)
    peak = Independent(Normal(torch.zeros(2), unit), 1).log_prob(torch.zeros(2))
    torch.testing.assert_close(found, density - peak)


def slow_advantages(reward: np.ndarray, value: np.ndarray, steps: list[int], gamma: float, decay: float) -> np.ndarray:
    """The sum of the discounted temporal differences, rollout by rollout; nothing follows the last step."""
    found = np.zeros_like(reward)
    for n, length in enumerate(steps):
        for t in range(length):
            for ahead in range(t, length):
                following = value[ahead + 1, n] if ahead + 1 < length else 0.0
                difference = reward[ahead, n] + gamma * following - value[ahead, n]
                found[t, n] += (gamma * decay) ** (ahead - t) * difference
    return found


def test_advantages_are_those_of_a_slow_loop() -> None:
    rng, steps = np.random.default_rng(0), [6, 1, 4, 3]
    reward, value = rng.normal(size=(2, 6, 4))
    alive = torch.tensor([[t < length for length in steps] for t in range(6)])
    found = advantages(torch.from_numpy(reward), torch.from_numpy(value), alive, 0.9, 0.8)
    np.testing.assert_allclose(found.numpy(), slow_advantages(reward, value, steps, 0.9, 0.8), atol=1e-12)


@pytest.mark.parametrize("differentiable", [False, True])
def test_a_rollout_ends_where_its_record_does(differentiable: bool) -> None:
    plant = noisy_plant.spec(1)
    log, settings = noisy_plant.log(plant, episodes=2, steps=40), config(method="irl", generator_steps=5)
    forger = adversary(log, plant, settings)
    left = [1, 2, 4, 5, 9]
    rows = torch.stack([log.rows[log.remaining[log.rows] == count][0] for count in left])
    found = forger._roll(rows, seeded(), differentiable=differentiable)
    assert found.alive.sum(dim=0).tolist() == [1, 2, 4, 5, 5]
    assert found.change.requires_grad == differentiable
    scale = forger.model.change_scaler
    for n, count in enumerate(found.alive.sum(dim=0).tolist()):
        assert found.left[:, n].tolist() == [max(count - t, 0) for t in range(5)]
        for t in range(count - 1):
            level = found.observation[t, n, 0] + scale.invert(found.change[t, n])[0]
            following = found.observation[t + 1, n]
            torch.testing.assert_close(following[0], level)
            assert float(following[1].detach()) == float(log.frames[rows[n] + t + 1, 1])  # the load as it was recorded
            torch.testing.assert_close(following[2], found.observation[t, n, 0])  # history has shifted
    # Only steps that were taken are forgeries.
    forger.config = settings.reward.model_copy(update={"generator_starts": 30})
    few = LoggedTransitions.sample
    log.sample = lambda size, generator: rows.repeat(6) if size == 30 else few(log, size, generator)  # type: ignore[method-assign]
    forger.forge(untrained(log, plant, settings), 8, seeded())
    assert len(forger.latest[0]) == 6 * (1 + 2 + 4 + 5 + 5)


def test_every_row_is_as_likely_to_stay_in_the_reservoir() -> None:
    draws, counts, repeats = seeded(), torch.zeros(60), 2000
    for _ in range(repeats):
        held = Reservoir(12)
        for part in torch.arange(60.0).split(17):  # the first part alone is larger than the reservoir
            held.extend((part, torch.stack([part, -part], dim=1)), draws)
        assert (held.size, held.seen) == (12, 60)
        row, pair = held.held
        assert torch.equal(pair, torch.stack([row, -row], dim=1))  # what belongs together stays together
        assert len(row.unique()) == 12
        counts[row.long()] += 1
    share = counts / repeats
    # 5 standard errors of a binomial of 0.2.
    assert float((share - 0.2).abs().max()) < 5 * (0.2 * 0.8 / repeats) ** 0.5


def test_a_reservoir_that_is_not_full_holds_all() -> None:
    held = Reservoir(10)
    held.extend((torch.arange(4),), seeded())
    held.extend((torch.arange(4, 7),), seeded())
    assert held.held[0][: held.size].tolist() == [0, 1, 2, 3, 4, 5, 6]
    none = Reservoir(0)
    none.extend((torch.arange(4),), seeded())
    assert (none.size, none.held) == (0, ())


def test_half_of_the_forgeries_are_of_earlier_generators_where_they_are_kept() -> None:
    log, plant = noisy_plant.log(), noisy_plant.spec()
    settings = config(method="mixed", generator_every=1, generator_memory=500, networks=2)
    assert not judged_by_density(settings.reward)
    judge = untrained(log, plant, settings)
    forger, draws = adversary(log, plant, settings, judge), seeded()
    forger.forge(judge, 8, draws)
    old = forger.memory.held
    for column in old:
        column.fill_(7.0)
    forger.memory.seen = 10**9  # nothing new gets in any more
    observation, action, change = forger.forge(judge, 8, draws)
    assert observation.shape[:2] == action.shape[:2] == change.shape[:2] == (2, 8)
    assert (change[..., 0] == 7.0).sum(dim=1).tolist() == [4, 4]
    assert not observation.requires_grad
    assert not torch.equal(change[0], change[1])


def test_the_pathwise_gradient_leaves_the_judge_alone() -> None:
    log, plant = noisy_plant.log(), noisy_plant.spec()
    settings = config(method="irl", form="gail", generator="pathwise")
    judge = untrained(log, plant, settings)
    forger = adversary(log, plant, settings, judge)
    before = [p.detach().clone() for p in forger.model.parameters()]
    forger.forge(judge, 8, seeded())
    assert all(p.grad is None for p in judge.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(forger.model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "noise"},
        {"method": "irl", "generator": "ppo"},
        {"method": "irl", "form": "gail", "generator_memory": 100},
        {"method": "mixed", "generator": "pathwise"},
    ],
)
def test_the_same_seed_gives_the_same_reward(settings: dict[str, Any]) -> None:
    plant = noisy_plant.spec(1, states=2)
    log = noisy_plant.log(plant)
    settings = settings | {"networks": 2, "snapshots": 2, "updates": 30}
    (first, told), (second, again), (other, _) = (trained(log, plant, seed, **settings) for seed in (3, 3, 4))
    assert told == again
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.net.body[0].weight, other.net.body[0].weight)


@pytest.mark.parametrize("inputs", ["all", "current"])
@pytest.mark.parametrize(("states", "load", "history"), [(2, False, 2), (1, False, 0), (2, True, 3)])
def test_any_plant_can_be_judged(states: int, load: bool, history: int, inputs: str) -> None:
    plant = noisy_plant.spec(history, states=states, load=load)
    log = noisy_plant.log(plant)
    reward, history_of = trained(
        log, plant, method="mixed", inputs=inputs, updates=200, learning_rate=5e-3, weight_decay=0.1
    )
    assert history_of[-1]["d_real"] > history_of[-1]["d_false"] + 0.1
    rows = log.rows[:100]
    with torch.no_grad():
        observation, action, following = log.observe(rows), log.actions[rows], log.next_state(rows)
        true, false = (reward(observation, action, following + shift) for shift in (0.0, 20 * NOISE))
    assert true.shape == (100,)
    assert float((true > false).float().mean()) > 0.9


@pytest.mark.parametrize(("updates", "snapshots", "share"), [(10, 3, 0.3), (9, 9, 1.0), (11, 4, 0.4), (60, 1, 0.02)])
def test_as_many_snapshots_are_kept_as_were_asked_for(updates: int, snapshots: int, share: float) -> None:
    settings = {"updates": updates, "snapshots": snapshots, "snapshot_share": share, "networks": 2}
    reward, _ = trained(noisy_plant.log(), noisy_plant.spec(), **settings)
    weights = reward.net.body[0].weight.detach()
    assert len(weights.flatten(1).unique(dim=0)) == 2 * snapshots


def test_snapshots_that_do_not_fit_are_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="snapshots: 4 do not fit into the last 3 updates"):
        config(updates=10, snapshots=4, snapshot_share=0.3)


def test_numbers_that_are_none_stop_with_the_stage_and_the_update() -> None:
    log, plant = noisy_plant.log(), noisy_plant.spec()
    settings = config(method="irl", coordinates="change")
    judge, clone = untrained(log, plant, settings), operator(log, plant, settings)
    forger = Generator(judge, log, clone, plant, settings.reward, seeded())
    with pytest.raises(TrainingError, match="generator of the dynamics reward, update 1"):
        forger.forge(wants(judge, float("nan"), 1.0), 8, seeded())
    log.frames[:] = torch.nan
    judge = untrained(noisy_plant.log(), plant, settings)
    with pytest.raises(TrainingError, match="dynamics reward, update 1"):
        fit_dynamics_reward(judge, log, clone, plant, config(coordinates="change").reward, seeded(), Silent())
    log.actions[:] = torch.nan
    with pytest.raises(TrainingError, match="behaviour clone, update 1"):
        fit_behaviour(clone, log, 10, seeded(), Silent())
