"""The registry of simulated tasks: what a benchmark, a log collector or a simulated run needs to know of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from controlkit.configs import config_path
from controlkit.errors import ControlkitError, nearest
from controlkit.spec import EpisodeRules, PlantSpec
from envs import controllers, references
from envs.neorl import (
    dmsd,
    dmsd_controllers,
    industrial,
    industrial_controllers,
    original_plants,
    pipeline,
    pipeline_controllers,
    rocket,
    rocket_controllers,
)
from envs.neorl.behaviour.policy import kept_controllers
from envs.neorl.mujoco_controllers import Random, Still
from envs.neorl.mujoco_plants import HALF_CHEETAH, HOPPER, RANDOM_FRICTION_HOPPER, WALKER2D, MujocoPlant, VectorMujoco
from envs.neorl.mujoco_plants import STEPS as MUJOCO_STEPS
from envs.refrigerator import DEFAULT_PARAMS, VectorRefrigerator
from envs.simulation import Controller, VectorSimulator

if TYPE_CHECKING:
    import gymnasium


# (copies, generator, **options of the task) -> simulator
SimulatorFactory = Callable[..., VectorSimulator]
# (generator for the controller's own noise, options of the simulator) -> controller
ControllerFactory = Callable[[np.random.Generator, Mapping[str, Any]], Controller]


@dataclass(frozen=True)
class Task:
    """A simulated plant with its controllers.

    Attributes:
        name: the task's name.
        plant: name of the shipped plant file.
        environment: id of the gymnasium environment.
        steps: length of an episode.
        simulator: makes B copies of the plant; its options are the environment's.
        controllers: every known controller by name; each is made from a generator for its own noise, and the options
            that the simulator was made with.
        behaviour: the controller whose logs are collected.
        test_controllers: controllers far from the log, to try models with.
        references: controllers that define what is possible.
        return_bounds: the returns of an episode that score 0 and 100, where the task's benchmark publishes them.
        rules_end_published: whether the benchmark's published evaluation ends an episode where the plant file's rules
            do; where not, it goes on to the horizon.
        published_windows: whether the benchmark's files hold the plant file's whole observation in every row.
    """

    name: str
    plant: str
    environment: str
    steps: int
    simulator: SimulatorFactory
    controllers: Mapping[str, ControllerFactory]
    behaviour: str
    test_controllers: tuple[str, ...]
    references: tuple[str, ...]
    return_bounds: tuple[float, float] | None = None
    rules_end_published: bool = True
    published_windows: bool = False

    def spec(self) -> PlantSpec:
        """The plant's description."""
        return PlantSpec.load(config_path("plants", self.plant))

    def published_spec(self) -> PlantSpec:
        """The plant as the benchmark's published evaluation sees it: without rules of ends that it does not apply."""
        spec = self.spec()
        return spec if self.rules_end_published else spec.model_copy(update={"episodes": EpisodeRules()})

    def make(self, **options: Any) -> gymnasium.Env[Any, Any]:
        """The gymnasium environment.

        Raises:
            ControlkitError: gymnasium is not installed, or an option cannot be right.
        """
        try:
            import gymnasium
        except ImportError:
            raise ControlkitError(
                "gymnasium is not installed", where=f"task {self.name}", cure="Install controlkit[sim]."
            ) from None
        import envs

        envs.register()
        return gymnasium.make(self.environment, **options)

    def benchmark_score(self, episode_return: float) -> float:
        """An episode's return on the benchmark's scale: 100 (R - low) / (high - low).

        Raises:
            ControlkitError: no bounds are published for this task.
        """
        if self.return_bounds is None:
            raise ControlkitError("has no published scale of scores", where=f"task {self.name}")
        low, high = self.return_bounds
        return 100.0 * (episode_return - low) / (high - low)

    def controller(self, name: str, rng: np.random.Generator, **options: Any) -> Controller:
        """One of `controllers`, for a simulator with these options.

        Raises:
            ControlkitError: there is no such controller; names the nearest.
        """
        if name not in self.controllers:
            raise ControlkitError(
                f"unknown controller '{name}'", where=f"task {self.name}", cure=nearest(name, self.controllers)
            )
        return self.controllers[name](rng, options)


def get_task(name: str) -> Task:
    """A task by its name.

    Raises:
        ControlkitError: there is no such task; names the nearest.
    """
    if name not in TASKS:
        raise ControlkitError(f"unknown task '{name}'", cure=nearest(name, TASKS))
    return TASKS[name]


def _params(options: Mapping[str, Any]) -> Any:
    return options.get("params", DEFAULT_PARAMS)


def _best_memoryless(rng: np.random.Generator, options: Mapping[str, Any]) -> Controller:
    del rng  # a law without noise of its own
    known = {key: options[key] for key in ("noise", "noise_scale", "start_c", "params") if key in options}
    return references.LinearLaw(references.best_linear_gain(**known), _params(options))


def _kalman(rng: np.random.Generator, options: Mapping[str, Any]) -> Controller:
    del rng
    known = {key: options[key] for key in ("noise", "noise_scale", "params") if key in options}
    return references.KalmanDeadbeat(**known)


REFRIGERATOR = Task(
    name="refrigerator",
    plant="refrigerator",
    environment="controlkit/Refrigerator-v0",
    steps=2000,
    simulator=VectorRefrigerator,
    controllers={
        "operator": lambda rng, options: controllers.operator(rng, _params(options)),
        "p": lambda rng, options: controllers.steep_p(_params(options)),
        "pid": lambda rng, options: controllers.pid(_params(options)),
        "raw_deadbeat": lambda rng, options: references.raw_deadbeat(_params(options)),
        "best_memoryless": _best_memoryless,
        "kalman": _kalman,
    },
    behaviour="operator",
    test_controllers=("p", "pid"),
    references=("raw_deadbeat", "best_memoryless", "kalman"),
)

DMSD = Task(
    name="dmsd",
    plant="dmsd",
    environment="controlkit/DMSD-v0",
    steps=dmsd.STEPS,
    simulator=dmsd.VectorDmsd,
    controllers={
        "operator": lambda rng, options: dmsd_controllers.operator(rng, options.get("params", dmsd.DEFAULT_PARAMS)),
        "pd": lambda rng, options: dmsd_controllers.PositionDerivative(
            params=options.get("params", dmsd.DEFAULT_PARAMS)
        ),
        "braking": lambda rng, options: dmsd_controllers.Braking(options.get("params", dmsd.DEFAULT_PARAMS)),
    },
    behaviour="operator",
    test_controllers=("pd",),
    references=("pd", "braking"),
    return_bounds=(30.60, 849.51),
)

PIPELINE = Task(
    name="pipeline",
    plant="pipeline",
    environment="controlkit/Pipeline-v0",
    steps=pipeline.STEPS,
    simulator=pipeline.VectorPipeline,
    controllers={
        "operator": lambda rng, options: pipeline_controllers.operator(
            rng, options.get("params", pipeline.DEFAULT_PARAMS)
        ),
        "dead_time": lambda rng, options: pipeline_controllers.DeadTime(
            params=options.get("params", pipeline.DEFAULT_PARAMS)
        ),
    },
    behaviour="operator",
    test_controllers=("dead_time",),
    references=("dead_time",),
    return_bounds=(-296, 751),
    published_windows=True,
)

ROCKET_RECOVERY = Task(
    name="rocket-recovery",
    plant="rocket-recovery",
    environment="controlkit/RocketRecovery-v0",
    steps=rocket.STEPS,
    simulator=rocket.VectorRocket,
    controllers={
        "operator": lambda rng, options: rocket_controllers.operator(rng, options.get("params", rocket.DEFAULT_PARAMS)),
        "descent": lambda rng, options: rocket_controllers.Descent(params=options.get("params", rocket.DEFAULT_PARAMS)),
    },
    behaviour="operator",
    test_controllers=("descent",),
    references=("descent",),
    return_bounds=(-176, 208),
)


def _original(task: original_plants.OriginalTask, environment: str, return_bounds: tuple[float, float]) -> Task:
    """A task that can be trained for anywhere, and run where the benchmark's own package is."""
    return Task(
        name=task.plant,
        plant=task.plant,
        environment=f"controlkit/{environment}-v0",
        steps=task.steps,
        simulator=partial(original_plants.OriginalPlant, task=task),
        controllers={"constant": lambda rng, options: original_plants.Constant(task.plant)},
        behaviour="constant",
        test_controllers=(),
        references=(),
        return_bounds=return_bounds,
    )


ORIGINAL = (
    _original(original_plants.SIMGLUCOSE, "Simglucose", (9.75, 475)),
    _original(original_plants.FUSION, "Fusion", (-107.601, 98.05)),
)

# NeoRL publishes no scale of scores for it; its behaviour policies return -344311, -283121 and -220156.
INDUSTRIAL = Task(
    name="industrial",
    plant="industrial",
    environment="controlkit/Industrial-v0",
    steps=industrial.STEPS,
    simulator=industrial.VectorIndustrial,
    controllers={
        "operator": lambda rng, options: industrial_controllers.operator(rng),
        "still": lambda rng, options: industrial_controllers.Still(),
        "random": lambda rng, options: industrial_controllers.Random(rng),
        "static": lambda rng, options: industrial_controllers.Steered(),
        "swinging": lambda rng, options: industrial_controllers.Swinging(
            options.get("params", industrial.DEFAULT_PARAMS)
        ),
        **kept_controllers("industrial", "industrial"),
    },
    behaviour="operator",
    test_controllers=("still", "random"),
    references=("static", "swinging"),
    published_windows=True,
)


def _mujoco(
    name: str,
    environment: str,
    plant: MujocoPlant,
    return_bounds: tuple[float, float],
    rules_end_published: bool = True,
) -> Task:
    return Task(
        name=name,
        plant=name,
        environment=f"controlkit/{environment}-v0",
        steps=MUJOCO_STEPS,
        simulator=partial(VectorMujoco, plant=plant),
        controllers={
            "random": lambda rng, options: Random(plant, rng),
            "still": lambda rng, options: Still(plant),
            **kept_controllers(name, name),
        },
        behaviour="random",
        test_controllers=("still",),
        references=(),
        return_bounds=return_bounds,
        rules_end_published=rules_end_published,
    )


MUJOCO = (
    _mujoco("halfcheetah", "HalfCheetah", HALF_CHEETAH, (-298, 12284)),
    _mujoco("hopper", "Hopper", HOPPER, (5, 3294)),
    _mujoco("walker2d", "Walker2d", WALKER2D, (1, 5143)),
    # The published runs of a policy that is too fast all have 1000 steps, and returns below -90000.
    _mujoco("safety-halfcheetah", "SafetyHalfCheetah", HALF_CHEETAH, (-283, 2507), rules_end_published=False),
    _mujoco("random-friction-hopper", "RandomFrictionHopper", RANDOM_FRICTION_HOPPER, (-3, 503)),
)

TASKS: Mapping[str, Task] = {
    task.name: task for task in (REFRIGERATOR, DMSD, PIPELINE, ROCKET_RECOVERY, *ORIGINAL, INDUSTRIAL, *MUJOCO)
}
