"""A GPU gives what the processor gives, within rounding: updates, filter, rollouts, a whole small training. CUDA graphs
give what the same kernels give without them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from controlkit.artifacts import Models, RunFolder, build_critics, build_models
from controlkit.config import FilterConfig, RolloutConfig
from controlkit.files import read_json
from controlkit.morec.bellman_doubt import BellmanDoubt
from controlkit.morec.dynamics import WorldModel, fit_dynamics
from controlkit.morec.fixed_rollout import FixedRollout
from controlkit.morec.policy_update import PolicyLearner
from controlkit.morec.rollout import Rollouts, roll_out
from controlkit.morec.train import train
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.morec.update_blocks import BLOCK, UpdateBlocks
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import Batch, LoggedTransitions, ModelTransitions
from tests import small_plant

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(scope="module")
def log() -> LoggedTransitions:
    return LoggedTransitions(small_plant.dataset())


@pytest.fixture(scope="module")
def models(log: LoggedTransitions) -> Models:
    config = small_plant.config(dynamics={"max_epochs": 5})
    generator = torch.Generator().manual_seed(0)
    built = build_models(config, small_plant.spec(), generator)
    limits = CommandLimits(small_plant.spec())
    fit_dynamics(built.dynamics, log, config.dynamics, config.scaling, limits, generator, Silent())
    return built


def moved(models: Models) -> Models:
    """A copy on the GPU."""
    copied = copy.deepcopy(models)
    for name in ("dynamics", "reward", "behaviour", "actor"):
        getattr(copied, name).to("cuda")
    return copied


def learner(models: Models, doubt: bool = False, **policy: Any) -> PolicyLearner:
    """On the device of the models; the same weights on each."""
    config = small_plant.config(policy={"hidden": [16], "updates": 100, "average": 0.9} | policy)
    plant, device = small_plant.spec(), models.actor.centre.device
    critics = build_critics(config, plant, torch.Generator().manual_seed(1)).to(device)
    penalty = BellmanDoubt(WorldModel(models.dynamics, plant, device), 0.5) if doubt else None
    return PolicyLearner(models.actor, critics, models.behaviour, CommandLimits(plant), config.policy, 1.0, penalty)


def batch(seed: int) -> tuple[Batch, Tensor]:
    """Transitions and noise, on the processor."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    fields = (normal(32, 8), normal(32, 1), normal(32), normal(32, 8), (normal(32) > 1).float())
    return Batch(*fields, 10), normal(2, 32, 1)


def same(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-3) -> None:
    for name, value in mine.items():
        torch.testing.assert_close(value.cpu(), theirs[name].cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("doubt", [False, True])
def test_an_update_is_the_processors(models: Models, doubt: bool) -> None:
    mine, theirs = learner(copy.deepcopy(models), doubt), learner(moved(models), doubt)
    for seed in range(5):
        transitions, noise = batch(seed)
        on_gpu = Batch.of((field.cuda() for field in transitions.tensors), transitions.modelled)
        losses = mine.step(transitions, noise, mine.rates(seed))
        found = theirs.step(on_gpu, noise.cuda(), theirs.rates(seed))
        same(losses._asdict(), found._asdict())
    same(mine.actor.state_dict(), theirs.actor.state_dict())
    same(mine.critics.state_dict(), theirs.critics.state_dict())
    same(mine.averaged.state_dict(), theirs.averaged.state_dict())


def filled_ring(log: LoggedTransitions, device: str = "cuda") -> ModelTransitions:
    ring = ModelTransitions(log.layout, 500, device)
    rows = log.rows[:400]
    ring.extend(log.observe(rows), log.actions[rows], log.frames[rows + 1], log.rewards[rows], rows == rows[3])
    return ring


@pytest.mark.parametrize("doubt", [False, True])
def test_a_graph_makes_the_updates_that_its_kernels_make(models: Models, doubt: bool) -> None:
    on_gpu = LoggedTransitions(small_plant.dataset(), "cuda")
    results = []
    for graphs in (False, True):
        trained = learner(moved(models), doubt)
        blocks = UpdateBlocks(
            trained, on_gpu, filled_ring(on_gpu), 8, 32, torch.Generator("cuda").manual_seed(3), graphs=True
        )
        assert blocks.graphs
        if not graphs:  # the recorded block, run as it is
            blocks.run(BLOCK)
            block = next(iter(blocks._recorded.values()))
            block.updates.graphs = False
            blocks.run(3 * BLOCK)
        else:
            blocks.run(4 * BLOCK)
            assert next(iter(blocks._recorded.values())).updates._graph is not None
        blocks.run(7)
        assert trained.updates == 4 * BLOCK + 7
        results.append(trained)
    for part in ("actor", "critics", "targets", "averaged"):
        same(getattr(results[0], part).state_dict(), getattr(results[1], part).state_dict(), 1e-4)
    torch.testing.assert_close(results[0].log_alpha, results[1].log_alpha, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choose", ["argmax", "softmax"])
def test_the_filter_is_the_processors(log: LoggedTransitions, models: Models, choose: str) -> None:
    gpu = moved(models)
    observation, action = log.observe(log.rows[:64]), log.actions[log.rows[:64]]
    config = FilterConfig(samples=0, choose=choose, kappa=1e-6)  # as good as the argmax, through the softmax's code
    mine = TransitionFilter(models.dynamics, models.reward, config, 0.7)(
        observation, action, torch.Generator().manual_seed(0)
    )
    theirs = TransitionFilter(gpu.dynamics, gpu.reward, config, 0.7)(
        observation.cuda(), action.cuda(), torch.Generator("cuda").manual_seed(0)
    )
    for name, value in mine._asdict().items():
        torch.testing.assert_close(value, getattr(theirs, name).cpu(), rtol=1e-3, atol=1e-3)


def policy(observation: Tensor) -> Tensor:
    return 0.8 * torch.sin(3.0 * observation[:, :1]) - 0.2


def compare(mine: Rollouts, theirs: Rollouts) -> None:
    for name, value in mine._asdict().items():
        other = getattr(theirs, name)
        if isinstance(value, Tensor):
            torch.testing.assert_close(value.cpu(), other.cpu(), rtol=1e-3, atol=1e-3, equal_nan=True)
        else:
            assert value == other, name


@pytest.mark.parametrize("member_per_rollout", [False, True])
def test_rollouts_are_the_processors(log: LoggedTransitions, models: Models, member_per_rollout: bool) -> None:
    gpu, plant = moved(models), small_plant.spec()
    on_gpu = LoggedTransitions(small_plant.dataset(), "cuda")
    config = RolloutConfig(starts=50, length=20)
    # Candidates that nobody draws: the devices' generators differ.
    filtering = FilterConfig(samples=0, member_means=not member_per_rollout)
    rows = log.rows[torch.randint(len(log.rows), (50,), generator=torch.Generator().manual_seed(1))]
    chooser = TransitionFilter(models.dynamics, models.reward, filtering, float("-inf"))
    mine = roll_out(
        WorldModel(models.dynamics, plant), chooser, policy, log, rows, 20, torch.Generator().manual_seed(0)
    )
    fixed = FixedRollout(
        WorldModel(gpu.dynamics, plant, "cuda"),
        TransitionFilter(gpu.dynamics, gpu.reward, filtering, float("-inf")),
        policy,
        on_gpu,
        config,
        torch.Generator("cuda").manual_seed(0),
        graphs=True,
    )
    fixed(rows.flip(0).cuda())
    theirs = fixed(rows.cuda())
    assert fixed._advance._graph is not None
    assert mine.ran_out > 0
    compare(mine, theirs)


@pytest.mark.parametrize("choose", ["argmax", "softmax"])
def test_a_graph_draws_what_its_kernels_draw(models: Models, choose: str) -> None:
    gpu, plant = moved(models), small_plant.spec()
    on_gpu = LoggedTransitions(small_plant.dataset(), "cuda")
    world, config = WorldModel(gpu.dynamics, plant, "cuda"), RolloutConfig(starts=50, length=20)
    rows = on_gpu.rows[:50]
    results = []
    for graphs in (False, True, True):
        generator = torch.Generator("cuda").manual_seed(7)
        chooser = TransitionFilter(gpu.dynamics, gpu.reward, FilterConfig(choose=choose), 0.3)

        def drawn(observation: Tensor, generator: torch.Generator = generator) -> Tensor:
            return gpu.actor.sample(observation, generator)[0]

        residuals = torch.full((4, 1), 0.01, device="cuda")
        fixed = FixedRollout(world, chooser, drawn, on_gpu, config, generator, residuals, graphs=graphs)
        first, second = fixed(rows), fixed(rows)
        assert not torch.equal(first.action[:50], second.action[:50])  # the generator goes on
        results.append((first, second, generator.get_state()))
    compare(results[1][0], results[2][0])
    compare(results[0][0], results[1][0])
    compare(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize("penalty", ["disagreement", "mobile"])
def test_a_whole_training_runs_and_repeats(tmp_path: Path, penalty: str) -> None:
    data = small_plant.dataset(noise=0.02)
    data.save(tmp_path / "data")
    record = read_json(tmp_path / "data" / "dataset.json")
    weights: dict[str, list[Tensor]] = {}
    for name, graphs in (("first", True), ("again", True), ("plain", False)):
        config = small_plant.config(
            device="cuda",
            cuda_graphs=graphs,
            rollout={"every": 2 * BLOCK, "penalty": penalty},
            policy={"updates": 6 * BLOCK},
        )
        models = train(RunFolder.create(tmp_path / name, config, data, record), data, Silent())
        assert models.actor.centre.device.type == "cpu"
        weights[name] = list(models.actor.state_dict().values())
        assert all(bool(torch.isfinite(value).all()) for value in weights[name])
    for mine, again in zip(weights["first"], weights["again"], strict=True):
        torch.testing.assert_close(mine, again, rtol=1e-4, atol=1e-4)


def test_the_processor_and_the_gpu_learn_to_predict_alike(tmp_path: Path) -> None:
    data = small_plant.dataset()
    data.save(tmp_path / "data")
    record = read_json(tmp_path / "data" / "dataset.json")
    log, errors = LoggedTransitions(data), []
    for device in ("cpu", "cuda"):
        config = small_plant.config(device=device, dynamics={"max_epochs": 10})
        models = train(RunFolder.create(tmp_path / device, config, data, record), data, Silent())
        means, _ = models.dynamics(log.observe(log.rows), log.actions[log.rows])
        errors.append(float((means.mean(dim=0) - log.next_state(log.rows)).square().mean().sqrt()))
    # The plant is linear, and so is what the members begin with: both are right, whatever their generators drew.
    assert max(errors) < 0.02
