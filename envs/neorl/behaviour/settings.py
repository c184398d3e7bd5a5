"""What is trained: the published returns of NeoRL's behaviour policies (arXiv 2102.00714) and settings per task.

NeoRL trained soft actor-critic until the return was best, and took policies of about 25, 50 and 75 % of it. The returns
of the Industrial Benchmark are sums of -(consumption + 3 fatigue) over 1000 steps. Its three levels are low: commands
that are always 0 return -209 000, uniform ones about -327 000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlkit.errors import ControlkitError, nearest


@dataclass(frozen=True)
class TrainingSettings:
    """How the policies of one task are trained.

    Attributes:
        returns: level -> the return of an episode that is wished for.
        hidden: units of the layers of actor and critics; an actor must fit into 400 kB.
        window: whether the policy sees the plant file's whole observation, history included, or one frame.
        scaled: whether it sees values scaled to [-1, 1] by the plant file's ranges, or raw ones.
        unseen: tags that it does not see, such as a position that must not matter.
        protocol_too: whether a kept policy must meet the return with a fifth of its commands drawn, too: where nothing
            brings a plant back, a few drawn commands change the return of the mean policy by more than the tolerance.
        reward_offset, reward_scale: training sees (reward + offset) x scale.
        steps: at most.
        evaluate_every: steps between two evaluations; the first is after the warm-up.
        checkpoint_every: evaluations between two checkpoints, which hold all remembered transitions.
        buffer: transitions remembered.
        warm_up: uniform commands before learning begins.
        steps_per_update: steps of the simulator between two updates of actor and critics.
        batch_size, gamma, learning_rate: of soft actor-critic; all else is as stable-baselines3 has it.
    """

    returns: Mapping[str, float]
    hidden: tuple[int, ...] = (256, 256)
    window: bool = False
    scaled: bool = False
    unseen: tuple[str, ...] = ()
    protocol_too: bool = False
    reward_offset: float = 0.0
    reward_scale: float = 1.0
    steps: int = 3_000_000
    evaluate_every: int = 5000
    checkpoint_every: int = 10
    buffer: int = 1_000_000
    warm_up: int = 10_000
    steps_per_update: int = 1
    batch_size: int = 256
    gamma: float = 0.99
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class Wish:
    """One policy to be made: its level, the return wished for, how far it may be off (as a share of it)."""

    level: str
    value: float
    tolerance: float = field(default=0.05)

    def met(self, found: float) -> bool:
        """Whether a policy with this mean return will do."""
        return abs(found - self.value) <= self.tolerance * abs(self.value)


def _mujoco(evaluate_every: int, **returns: float) -> TrainingSettings:
    """Settings of the MuJoCo tasks.

    The position x is in NeoRL's observations, and a gait must not depend on it. Simulated steps cost a twentieth of an
    update here, so an update is made every second step, with a small batch and a rate to match: it is time that counts,
    not steps.
    """
    return TrainingSettings(
        returns,
        unseen=("x",),
        evaluate_every=evaluate_every,
        checkpoint_every=50_000 // evaluate_every,
        steps_per_update=2,
        batch_size=128,
        learning_rate=1e-3,
    )


SETTINGS: Mapping[str, TrainingSettings] = {
    "industrial": TrainingSettings(
        {"low": -344311.0, "medium": -283121.0, "high": -220156.0},
        hidden=(128, 128),
        window=True,
        scaled=True,
        protocol_too=True,
        reward_offset=250.0,
        reward_scale=0.02,
        steps=60_000,
        evaluate_every=100,  # the first thousands of updates pass the lower levels within a few hundred steps
        checkpoint_every=100,
        buffer=200_000,
        warm_up=5000,
    ),
    "halfcheetah": _mujoco(5000, low=3195.0, medium=6027.0, high=9020.0),
    # Those that fall get better in leaps: the lower levels last for a few thousand steps.
    "hopper": _mujoco(1000, low=508.0, medium=1530.0, high=2294.0),
    "walker2d": _mujoco(1000, low=1572.0, medium=2547.0, high=3550.0),
}


def training_settings(task: str) -> TrainingSettings:
    """The settings of a task.

    Raises:
        ControlkitError: no return of a behaviour policy is published for it; names the nearest task.
    """
    if task not in SETTINGS:
        raise ControlkitError(f"no behaviour policy is defined for '{task}'", cure=nearest(task, SETTINGS))
    return SETTINGS[task]


def wishes(task: str, levels: tuple[str, ...], settings: TrainingSettings) -> tuple[Wish, ...]:
    """The policies to be made for some levels of a task.

    Raises:
        ControlkitError: an unknown level; names the nearest.
    """
    known = settings.returns
    for level in levels:
        if level not in known:
            raise ControlkitError(f"unknown level '{level}'", where=f"task {task}", cure=nearest(level, known))
    return tuple(Wish(level, known[level]) for level in levels)
