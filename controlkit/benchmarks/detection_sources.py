"""What a controller is shown: the simulated plant with its operator or without, a recorded log, changed dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from controlkit.benchmarks.detection_plants import DetectionPlant
from controlkit.benchmarks.suite_data import data_file
from envs.neorl import dmsd
from envs.refrigerator import VectorRefrigerator, next_temperature
from envs.simulation import Controller, Floats, VectorSimulator, spawned_seeds
from envs.tasks import get_task

# (simulator, command (B, m) as carried out, factor, copies that are changed (B,)) -> the frame after the step
ChangedStep = Callable[[VectorSimulator, Floats, float, npt.NDArray[np.bool_]], Floats]


def source(plant: DetectionPlant, operated: bool, seed: int, copies: int) -> tuple[VectorSimulator, Controller | None]:
    """The plant and, where it is operated, who acts; equal seeds give equal disturbances.

    Args:
        plant: which.
        operated: whether the operator acts, by the held-out log where the plant has one.
        seed: of plant and operator.
        copies: B; at most as many as the held-out log has episodes.
    """
    task = get_task(plant.task)
    if operated and plant.held_out:
        with np.load(data_file(plant.held_out), allow_pickle=False) as archive:
            parts = {name: archive[name].astype(np.float64) for name in ("obs", "next_obs", "action")}
        steps = task.steps
        frames, following, commands = (values.reshape(-1, steps, values.shape[1]) for values in parts.values())
        frames = np.concatenate([frames, following[:, -1:]], axis=1)[:copies]
        return RecordedPlant(frames, task.spec().frame_tags), RecordedOperator(commands[:copies])
    plant_seed, operator_seed = spawned_seeds(seed, 2)
    simulator = task.simulator(copies, np.random.default_rng(plant_seed))
    operator = task.controller(task.behaviour, np.random.default_rng(operator_seed)) if operated else None
    return simulator, operator


class RecordedPlant:
    """Recorded episodes of equal length as a plant that does what it did, whatever is commanded.

    Args:
        frames: (B, T + 1, n).
        tags: of the frames.
    """

    def __init__(self, frames: Floats, tags: tuple[str, ...]) -> None:
        self.frames, self.frame_tags, self.copies = frames, tags, len(frames)
        self.time = 0

    def reset(self) -> Floats:
        """The first frame (B, n)."""
        self.time = 0
        return self.true_frame

    def step(self, command: Floats) -> Floats:
        """The next frame (B, n)."""
        del command
        self.time += 1
        return self.true_frame

    @property
    def true_frame(self) -> Floats:
        """(B, n) as recorded."""
        frame: Floats = self.frames[:, self.time]
        return frame


class RecordedOperator:
    """The commands that were recorded.

    Args:
        commands: (B, T, m).
    """

    def __init__(self, commands: Floats) -> None:
        self._commands, self._time = commands, 0

    def reset(self, batch: int) -> None:
        """Starts again."""
        del batch
        self._time = 0

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        del measurement
        command: Floats = self._commands[:, self._time]
        self._time += 1
        return command


def _leak(simulator: VectorSimulator, command: Floats, factor: float, active: npt.NDArray[np.bool_]) -> Floats:
    """The refrigerator's heat exchange with the outside, door shut and open, times the factor."""
    assert isinstance(simulator, VectorRefrigerator)
    before, door, params = simulator.true_temperature, simulator.door, simulator.params
    power = np.clip(command[:, 0], params.power_low, params.power_high)
    simulator.step(command)
    leaky = replace(
        params,
        leak_shut_per_s=factor * params.leak_shut_per_s,
        leak_open_per_s=factor * params.leak_open_per_s,
    )
    reached = [next_temperature(before, power, door, constants) for constants in (leaky, params)]
    difference = np.where(active, reached[0] - reached[1], 0.0)
    simulator.true_temperature = simulator.true_temperature + difference
    simulator.measured_temperature = simulator.measured_temperature + difference
    return simulator.measured_frame[:, : len(simulator.frame_tags)]


def _damping(simulator: VectorSimulator, command: Floats, factor: float, active: npt.NDArray[np.bool_]) -> Floats:
    """DMSD's dampers times the factor."""
    assert isinstance(simulator, dmsd.VectorDmsd)
    before, params = simulator.state, simulator.params
    simulator.step(command)
    stiff = replace(params, damping_n_s_per_m=factor * params.damping_n_s_per_m)
    simulator.state = np.where(active[:, None], dmsd.next_state(before, command, stiff), simulator.state)
    return simulator.true_frame


# constant -> the step of its plant in which it is changed
CHANGES: Mapping[str, ChangedStep] = {"leak": _leak, "damping": _damping}
