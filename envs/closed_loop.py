"""One scorer for every controller: the task's objective on the TRUE values of a simulated plant.

What a score is: the mean over the steps of the cost (the negative reward) of the plant file's objective, computed from
the noise-free values that each step reaches. For the refrigerator: the mean |T + 2| of the true temperatures at times 1
.. steps; the start at time 0, which no controller can change, does not count. Where the plant file's rules end an
episode (or the simulator, if it knows by itself), the step that led there counts, and the steps after it count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec
from envs.rewards import RewardMeter, ended
from envs.simulation import Controller, Floats, VectorSimulator, spawned_seeds

if TYPE_CHECKING:
    from envs.tasks import Task

SCORED_COPIES = 50


@dataclass(frozen=True)
class ClosedLoop:
    """What B closed loops did.

    Attributes:
        cost: (B,) the cost on the true values, summed to the episode's end and divided by `steps`.
        limit_violations: (B,) commands outside the actuators' absolute limits, counted per action and step.
        steps: the horizon.
        lengths: (B,) steps until the plant file's rules, or the simulator where it knows by itself, ended the episode;
            the horizon where nothing did.
    """

    cost: Floats
    limit_violations: npt.NDArray[np.int64]
    steps: int
    lengths: npt.NDArray[np.int64]

    @property
    def returns(self) -> Floats:
        """(B,) undiscounted sums of rewards."""
        return -self.cost * self.steps

    @property
    def mean(self) -> float:
        """Mean cost of all copies."""
        return float(self.cost.mean())

    @property
    def stderr(self) -> float:
        """Standard error of `mean` over the copies; NaN for a single one."""
        return float(self.cost.std(ddof=1) / np.sqrt(len(self.cost))) if len(self.cost) > 1 else float("nan")


def run_closed_loop(
    controller: Controller,
    simulator: VectorSimulator,
    spec: PlantSpec,
    steps: int,
    progress: Progress | None = None,
) -> ClosedLoop:
    """Lets the controller run the plant for `steps` steps, both reset before.

    Args:
        controller, simulator: for the same number of copies, B.
        spec: the plant; gives objective and limits.
        steps: how many.
        progress: is told of every step.

    Raises:
        ControlkitError: no step at all, a command that is not finite.
    """
    if steps < 1:
        raise ControlkitError(f"{steps} steps cannot be scored", where=f"plant {spec.name}", cure="Give 1 or more.")
    limits = [spec.limits(tag) for tag in spec.action_tags]
    low, high = np.array([pair[0] for pair in limits]), np.array([pair[1] for pair in limits])  # (m,)
    meter = RewardMeter(spec)
    controller.reset(simulator.copies)
    measurement = simulator.reset()
    meter.reset(simulator.true_frame)
    cost = np.zeros(simulator.copies)
    violations, lengths = (np.zeros(simulator.copies, dtype=np.int64) for _ in range(2))
    alive = np.ones(simulator.copies, dtype=np.bool_)
    progress = progress or Silent()
    progress.start("closed loop", steps)
    for _ in range(steps):
        command = controller.act(measurement)
        measurement = simulator.step(command)
        violations += alive * ((command < low) | (command > high)).sum(axis=1)
        reward = meter.step(np.clip(command, low, high), simulator.true_frame)
        # Not by multiplication: beyond its end a plant may be anywhere, and 0 times infinity is no number.
        cost -= np.where(alive, reward, 0.0)
        lengths += alive
        alive &= ~ended(simulator, meter)
        progress.advance()
        if not alive.any():
            break
    return ClosedLoop(cost / steps, violations, steps, lengths)


def score(
    controller: Controller | str,
    task: Task,
    seed: int,
    copies: int = SCORED_COPIES,
    steps: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ClosedLoop:
    """How a controller does on `copies` fresh simulations of a task.

    Args:
        controller: acts on all copies at once; or the name of one of the task's own.
        task: from `envs.tasks.get_task`.
        seed: seeds the simulations, and apart from them a named controller's own noise. With the same seed, copies and
            options every controller meets the same noise and doors.
        copies: B.
        steps: the task's episode length where not given.
        progress: is told of every step.
        options: of the task's simulator, such as `noise="process"`.

    Raises:
        ControlkitError: an unknown name or option value, a negative seed, a command that is not finite.
    """
    plant_seed, controller_seed = spawned_seeds(seed, 2)
    simulator = task.simulator(copies, np.random.default_rng(plant_seed), **options)
    if isinstance(controller, str):
        controller = task.controller(controller, np.random.default_rng(controller_seed), **options)
    return run_closed_loop(controller, simulator, task.spec(), task.steps if steps is None else steps, progress)
