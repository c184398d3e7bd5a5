"""World models on a plant whose equation is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.artifacts import build_models
from controlkit.config import DynamicsConfig, RunConfig, ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.errors import DataError, TrainingError
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.observer import ObserverEnsemble
from controlkit.morec.dynamics import (
    DynamicsFit,
    WorldModel,
    _likelihood_loss,
    action_scaler,
    fit_dynamics,
    observation_scaler,
)
from controlkit.morec.holdout import open_loop_errors, relative_errors
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from tests import small_plant
from tests.data_files import data_file


def fitted(config: RunConfig, log: LoggedTransitions, history: int = 2) -> tuple[GaussianEnsemble, DynamicsFit]:
    plant = small_plant.spec(history)
    generator = torch.Generator().manual_seed(0)
    dynamics = build_models(config, plant, generator).dynamics
    limits = CommandLimits(plant)
    return dynamics, fit_dynamics(dynamics, log, config.dynamics, config.scaling, limits, generator, Silent())


@pytest.mark.parametrize("architecture", ["window", "observer"])
def test_a_linear_plant_is_found_and_carried_far_beyond_the_log(architecture: str) -> None:
    log = LoggedTransitions(small_plant.dataset())
    dynamics, fit = fitted(small_plant.config(dynamics={"architecture": architecture, "hidden": []}), log)
    assert float(fit.holdout_rmse) < 2e-3
    observation = log.observe(log.rows[:50])
    action = torch.full((50, 1), 2.0)  # the log's commands have a standard deviation of 0.4
    predicted = dynamics(observation, action)[0].mean(0)[:, 0]
    expected = small_plant.next_level(observation[:, 0], action[:, 0], observation[:, 1])
    assert float((predicted - expected).abs().max()) < 0.03


def test_an_observer_averages_sensor_noise_over_its_window() -> None:
    noise, history = 0.1, 8
    log = LoggedTransitions(small_plant.dataset(small_plant.spec(history), episodes=40, noise=noise))
    fresh = small_plant.dataset(small_plant.spec(history), episodes=10, noise=noise, seed=9)
    config = small_plant.config(dynamics={"architecture": "observer", "hidden": []})
    dynamics, fit = fitted(config, log, history)
    # The measurement's own noise cannot be predicted; a window of nine leaves little on top of it, one sample leaves
    # noise * sqrt(1 + 0.9^2) = 0.135.
    assert noise * 0.9 < float(fit.holdout_rmse) < noise * 1.1
    held = LoggedTransitions(fresh)
    mean = dynamics(held.observe(held.rows), held.actions[held.rows])[0].mean(0)
    rmse = float((mean - held.next_state(held.rows)).square().mean().sqrt())
    assert noise * 0.93 < rmse < noise * 1.1


def test_no_member_gets_worse_by_descent_and_elites_are_the_best() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    dynamics, fit = fitted(small_plant.config(dynamics={"learning_rate": 0.5, "max_epochs": 2}), log)
    # A learning rate that wrecks every network: each member keeps the ridge solution it started from.
    assert float(fit.holdout_rmse) < 0.12
    rank = relative_errors(fit.open_loop_rmse.square())
    assert dynamics.elites.tolist() == torch.argsort(rank)[:2].tolist()


def test_equal_seeds_give_equal_networks() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    first, second = (fitted(small_plant.config(), log)[0].state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_loss_that_is_no_number_stops_the_fit_with_its_place() -> None:
    log = LoggedTransitions(small_plant.dataset())
    log._table[50:60] = torch.nan
    with pytest.raises(TrainingError, match="not a number"):
        fitted(small_plant.config(), log)


def test_a_descent_that_diverges_says_at_which_update() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    with pytest.raises(TrainingError, match=r"dynamics, epoch 1, update [23]: the loss is not a number"):
        fitted(small_plant.config(dynamics={"learning_rate": 1e30}), log)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_gradient_of_an_error_is_divided_by_as_much_of_its_variance_as_beta_leaves(beta: float) -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    rows = log.rows[:10].reshape(2, 5)
    generator = torch.Generator().manual_seed(3)
    mean, log_std = (torch.randn(2, 5, 1, generator=generator, dtype=torch.float64) for _ in range(2))

    class Said:
        """An ensemble that says what it is told to."""

        state_slots = torch.tensor([0])

        @staticmethod
        def change_scaler(change: torch.Tensor) -> torch.Tensor:
            return change.double() / 0.3

        @staticmethod
        def scaled_change(_: torch.Tensor, __: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return mean, log_std

    said: Any = Said()
    for value in (mean, log_std):
        value.requires_grad_(True)
    _likelihood_loss(said, log, rows, beta).backward()
    target = (log.next_state(rows) - log.observe(rows)[..., :1]).double() / 0.3
    error, std = (mean - target).detach(), log_std.detach().exp()
    # As Seitzer et al. 2022 have it, with the mean over a member's rows and the sum over members.
    torch.testing.assert_close(mean.grad, error / std ** (2 - 2 * beta) / 5)
    torch.testing.assert_close(log_std.grad, (std**2 - error**2) / std ** (2 - 2 * beta) / 5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_whatever_beta_the_spread_is_that_of_the_errors(beta: float) -> None:
    log = LoggedTransitions(small_plant.dataset(episodes=40, noise=0.1))
    settings = {"beta": beta, "max_epochs": 30, "patience": 30, "learning_rate": 3e-3, "linear_members": 0}
    dynamics, fit = fitted(small_plant.config(dynamics=settings), log)
    with torch.no_grad():
        _, std = dynamics(log.observe(log.rows), log.actions[log.rows])
    assert float(std.mean()) == pytest.approx(float(fit.holdout_rmse), rel=0.15)


def test_one_transition_is_too_few() -> None:
    log = LoggedTransitions(small_plant.dataset(episodes=1, steps=3))
    log.rows = log.rows[:1]
    with pytest.raises(DataError, match="training part: one usable transition is too few"):
        fitted(small_plant.config(), log)


def test_a_linear_member_stays_linear_and_a_network_wins_where_the_plant_is_not() -> None:
    log = LoggedTransitions(bent_dataset())
    settings = {"members": 5, "elites": 2, "linear_members": 3, "hidden": [32], "max_epochs": 60, "batch_size": 32}
    settings["learning_rate"] = 0.01
    dynamics, fit = fitted(small_plant.config(dynamics=settings), log)
    assert fit.linear.tolist() == [False, False, True, True, True]
    assert set(dynamics.elites.tolist()) == {0, 1}
    assert fit.figures(dynamics.elites)["linear_elites"] == 0
    assert "0 linear, 2 with a perceptron" in fit.describe(dynamics.elites)
    assert float(fit.member_rmse[:2].max()) < 0.7 * float(fit.member_rmse[2:].min())


def test_as_many_members_are_linear_as_networks_can_spare() -> None:
    assert DynamicsConfig().linear_count == 2
    assert DynamicsConfig(members=3, elites=3).linear_count == 0
    assert DynamicsConfig(members=3, elites=2, linear_members=3).linear_count == 3


@pytest.mark.parametrize("architecture", ["window", "observer"])
def test_members_are_taken_out_and_put_back(architecture: str) -> None:
    config = small_plant.config(dynamics={"architecture": architecture, "members": 4})
    dynamics = build_models(config, small_plant.spec(), torch.Generator().manual_seed(0)).dynamics
    with torch.no_grad():
        for number, parameter in enumerate(dynamics.parameters()):
            parameter += 0.01 * (number + torch.arange(4.0).reshape(-1, *[1] * (parameter.dim() - 1)))
    log = LoggedTransitions(small_plant.dataset())
    observation, action = log.observe(log.rows[:20]), log.actions[log.rows[:20]]
    every, _ = dynamics.scaled_change(observation, action)
    chosen = torch.tensor([3, 1])
    pair = dynamics.subset(chosen)
    assert (pair.members, pair.elites.tolist()) == (2, [0, 1])
    torch.testing.assert_close(pair.scaled_change(observation, action)[0], every[chosen])
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter *= 1.1
    dynamics.put(chosen, pair)
    changed, _ = dynamics.scaled_change(observation, action)
    torch.testing.assert_close(changed[chosen], pair.scaled_change(observation, action)[0])
    torch.testing.assert_close(changed[[0, 2]], every[[0, 2]])


@pytest.mark.parametrize("architecture", ["window", "observer"])
@pytest.mark.parametrize("linear", [0, 3])
def test_lean_elites_predict_the_same(architecture: str, linear: int) -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    settings = {"architecture": architecture, "members": 3, "elites": 2, "linear_members": linear, "max_epochs": 1}
    dynamics, _ = fitted(small_plant.config(dynamics=settings), log)
    if not linear:
        with torch.no_grad():  # networks for sure
            for parameter in dynamics.decayed_parameters():
                parameter += 0.01
    lean = dynamics.lean()
    observation, action = log.observe(log.rows[:50]), log.actions[log.rows[:50]]
    for mine, theirs in zip(lean(observation, action), dynamics(observation, action), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    dropped = sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in dynamics.elites_only().parameters())
    assert dropped == bool(linear)


@pytest.mark.parametrize("architecture", ["window", "observer"])
def test_linear_members_are_told_from_networks(architecture: str) -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.05))
    settings = {"architecture": architecture, "members": 3, "elites": 1, "linear_members": 2, "max_epochs": 1}
    dynamics, fit = fitted(small_plant.config(dynamics=settings), log)
    assert fit.linear[1:].tolist() == [True, True]
    last = (dynamics.perceptron if isinstance(dynamics, ObserverEnsemble) else dynamics.net).body[-1]
    with torch.no_grad():
        last.weight[2] = 1.0
    assert not dynamics.linear()[2]
    # What a linear member predicts is affine along any line of commands; a network is not.
    line = torch.linspace(-2, 2, 9).unsqueeze(1)
    mean, _ = dynamics.scaled_change(log.observe(log.rows[:1]).expand(9, -1), line)
    bend = (mean[:, 2:] - 2 * mean[:, 1:-1] + mean[:, :-2]).abs().amax(dim=(1, 2))
    assert float(bend[1]) < 1e-4 < 1e-2 < float(bend[2])


def bent_dataset() -> TransitionDataset:
    """The small plant with a valve whose effect bends: level' = 0.9 level + 0.5 sin(2 valve)."""
    data = small_plant.dataset(episodes=10)
    frames = data.frames.copy()
    for row in range(1, len(data)):
        if data.position[row]:
            frames[row, 0] = 0.9 * frames[row - 1, 0] + 0.5 * np.sin(2.0 * data.actions[row - 1, 0])
    return replace(data, frames=frames)


DEAD_STEPS = 19


def pipe_spec() -> PlantSpec:
    """A pipe: the gate's flow reaches its end after a dead time."""
    return PlantSpec.from_dict(
        {
            "name": "pipe",
            "period_s": 1,
            "tags": {
                "flow": {"role": "state", "unit": "1", "range": [0, 200]},
                "target": {"role": "exogenous", "unit": "1", "range": [0, 200]},
                "gate": {
                    "role": "action",
                    "unit": "1",
                    "range": [-1, 1],
                    "history": DEAD_STEPS,
                    "safe": 0,
                    "fallback": {"kind": "hold"},
                },
            },
            "objective": [{"kind": "track", "tag": "flow", "setpoint": "target"}],
        }
    )


def pipe_log(commands: np.ndarray) -> LoggedTransitions:
    """Episodes of a pipe under (episodes, steps) commands, the first flow 100."""
    frames, actions, number, times = [], [], [], []
    for episode, command in enumerate(commands):
        flow = 100.0
        for step, value in enumerate(command):
            frames.append((flow, 110.0))
            actions.append((value,))
            number.append(episode)
            times.append((episode * 10_000 + step) * small_plant.NS)
            flow += command[step - DEAD_STEPS] if step >= DEAD_STEPS else 0.0
    data = TransitionDataset.from_frames(
        pipe_spec(),
        frames=np.array(frames, dtype=np.float32),
        actions=np.array(actions, dtype=np.float32),
        episode=np.array(number),
        time_ns=np.array(times, dtype=np.int64),
    )
    return LoggedTransitions(data)


def fitted_pipe(log: LoggedTransitions) -> tuple[GaussianEnsemble, DynamicsFit]:
    settings = {"members": 4, "elites": 2, "linear_members": 2, "hidden": [16], "max_epochs": 2}
    config = small_plant.config(dynamics=settings, scaling={"min_spread": 1})
    generator = torch.Generator().manual_seed(0)
    dynamics = build_models(config, pipe_spec(), generator).dynamics
    limits = CommandLimits(pipe_spec())
    return dynamics, fit_dynamics(dynamics, log, config.dynamics, config.scaling, limits, generator, Silent())


def test_a_dead_time_is_found_by_linear_members_and_carried_ten_times_beyond_the_log() -> None:
    rng = np.random.default_rng(0)
    # Commands as narrow as a cautious operator's, most of which repeat the last one.
    fresh, held = 0.02 * rng.standard_normal((8, 400)), rng.random((8, 400)) < 0.6
    for step in range(1, 400):
        fresh[:, step] = np.where(held[:, step], fresh[:, step - 1], fresh[:, step])
    dynamics, fit = fitted_pipe(pipe_log(fresh))
    assert bool(fit.linear[dynamics.elites].all())
    far = pipe_log(0.2 * rng.standard_normal((1, 200)))
    errors = open_loop_errors(dynamics.elites_only(), far, far.rows, 150)
    assert errors.shape == (150, 2)
    in_units = errors[-1].sqrt() * dynamics.input_scaler.spread[0]
    assert float(in_units.max()) < 0.02  # the flow itself has gone up and down by about 3


def test_the_dead_time_of_a_real_log_is_found() -> None:
    content = np.load(data_file("neorl2/Pipeline-train.npz"))
    rows = slice(0, 20_000)
    ends = np.flatnonzero((content["done"][rows] > 0) | (content["truncated"][rows] > 0)) + 1
    frames, actions, number = [], [], []
    for episode, (start, stop) in enumerate(pairwise([0, *ends])):
        frames += [content["obs"][start:stop, :2], content["next_obs"][stop - 1 : stop, :2]]
        actions += [content["action"][start:stop], content["action"][stop - 1 : stop]]
        number.append(np.full(stop - start + 1, episode))
    data = TransitionDataset.from_frames(
        pipe_spec(),
        frames=np.concatenate(frames),
        actions=np.concatenate(actions),
        episode=np.concatenate(number),
        time_ns=np.arange(len(np.concatenate(number))) * small_plant.NS,
    )
    log = LoggedTransitions(data)
    held_out, log.rows = log.rows[-2000:], log.rows[:-2000]
    dynamics, fit = fitted_pipe(log)
    assert bool(fit.linear[dynamics.elites].all())
    errors = open_loop_errors(dynamics.elites_only(), log, held_out, 150)
    assert float(errors[-1].max().sqrt() * dynamics.input_scaler.spread[0]) < 1e-3


def test_scaling_by_the_ranges_alone_does_not_depend_on_the_log() -> None:
    plant = small_plant.spec()
    log, limits = LoggedTransitions(small_plant.dataset()), CommandLimits(plant)
    seen = observation_scaler(log, ScalingConfig(min_spread=1)), action_scaler(log, limits, ScalingConfig(min_spread=1))
    by_range = {"level": (0.0, 10.0), "load": (0.5, 1.5), "valve": (0.0, 2.0)}
    expected = np.array([by_range[slot.tag] for slot in log.layout.slots])
    np.testing.assert_allclose(np.stack([seen[0].centre, seen[0].spread], axis=1), expected)
    np.testing.assert_allclose([seen[1].centre[0], seen[1].spread[0]], by_range["valve"], rtol=1e-6)
    # And in between: the log's own spread, but never less than the share of half the range.
    floored = observation_scaler(log, ScalingConfig(min_spread=0.2))
    own = log.observe(log.rows).std(dim=0, correction=0).numpy()
    np.testing.assert_allclose(floored.spread, np.maximum(own, 0.2 * expected[:, 1]), rtol=1e-5)


def test_the_world_shifts_history_and_clamps_to_what_sensors_can_show() -> None:
    data = small_plant.dataset(episodes=1, steps=30)
    log = LoggedTransitions(data)
    dynamics = build_models(small_plant.config(), small_plant.spec(), torch.Generator()).dynamics
    world = WorldModel(dynamics, small_plant.spec())
    rows = log.rows
    batch = log.batch(rows)
    shifted = world.next_observation(batch.observation, batch.action, log.frames[rows + 1])
    np.testing.assert_array_equal(shifted.numpy(), batch.next_observation.numpy())
    frame = world.next_frame(torch.tensor([[50.0], [3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert frame.tolist() == [[10.0, 1.0], [3.0, 1.0]]
