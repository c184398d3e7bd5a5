"""The MuJoCo tasks of NeoRL (arXiv 2102.00714) and NeoRL-2 (arXiv 2503.19267), B copies at once.

The physics is MuJoCo's own (Todorov, Erez, Tassa 2012), on the model files of gymnasium's v4 environments: those of v3,
which NeoRL was made with, apart from their notation. (v5 gave Walker2d's left foot another friction.) A command is held
for `frame_skip` steps of the integrator. Unlike in gymnasium's default, the x position stays in the frame, as NeoRL has
it: a frame is all positions, then all velocities.

    task                   frame  commands  period   start                      velocities shown
    HalfCheetah               18         6  0.05 s   U(+-0.1), N(0, 0.1)        as they are
    Hopper                    12         3  0.008 s  U(+-0.005), U(+-0.005)     cut to +-10
    Walker2d                  18         6  0.008 s  U(+-0.005), U(+-0.005)     cut to +-10
    RandomFrictionHopper      13         3  0.008 s  as Hopper                  as Hopper

The start is the model's rest pose plus that noise on every position and velocity. RandomFrictionHopper draws the foot's
sliding friction from U(1.5, 2.5) for each episode and shows it as the last number of the frame; the physics, as
NeoRL-2's, takes it rounded to hundredths. SafetyHalfCheetah is HalfCheetah with another reward and end.

What ends an episode is in the plant files. Hopper's original also ends where a true velocity exceeds 100, which a frame
cannot show; a Hopper that stands never comes near that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from controlkit.errors import ControlkitError
from envs.simulation import Floats, checked_command

STEPS = 1000
FOOT, FRICTION = "foot_geom", "foot_friction"
_EXTRA = "Install controlkit[neorl]."


@dataclass(frozen=True)
class MujocoPlant:
    """What makes a plant of a model file.

    Attributes:
        name: for messages.
        file: among gymnasium's model files.
        frame_skip: integrator steps per period.
        joints: the tags of the positions, in MuJoCo's order; of the commands, those after the first three (x, z and
            pitch, which nothing drives).
        start_noise: of positions (uniform, +-) and velocities.
        start_velocity: how the velocities' noise is distributed.
        shown_velocity: bound of the velocities in a frame.
        friction: bounds of the foot's friction, where each episode draws its own.
    """

    name: str
    file: str
    frame_skip: int
    joints: tuple[str, ...]
    start_noise: float
    start_velocity: Literal["normal", "uniform"]
    shown_velocity: float = np.inf
    friction: tuple[float, float] | None = None

    @property
    def frame_tags(self) -> tuple[str, ...]:
        """The n measured tags."""
        velocities = tuple(f"{joint}_velocity" for joint in self.joints)
        return (*self.joints, *velocities, *((FRICTION,) if self.friction else ()))

    @property
    def action_tags(self) -> tuple[str, ...]:
        """The m commands, as shares of the motors' full torque."""
        return tuple(f"{joint}_torque" for joint in self.joints[3:])


_CHEETAH_JOINTS = ("back_thigh", "back_shin", "back_foot", "front_thigh", "front_shin", "front_foot")
_WALKER_JOINTS = ("thigh", "leg", "foot", "left_thigh", "left_leg", "left_foot")

HALF_CHEETAH = MujocoPlant("halfcheetah", "half_cheetah.xml", 5, ("x", "z", "pitch", *_CHEETAH_JOINTS), 0.1, "normal")
HOPPER = MujocoPlant("hopper", "hopper.xml", 4, ("x", "z", "pitch", "thigh", "leg", "foot"), 0.005, "uniform", 10.0)
WALKER2D = MujocoPlant("walker2d", "walker2d.xml", 4, ("x", "z", "pitch", *_WALKER_JOINTS), 0.005, "uniform", 10.0)
RANDOM_FRICTION_HOPPER = MujocoPlant(
    "random-friction-hopper", HOPPER.file, 4, HOPPER.joints, 0.005, "uniform", 10.0, (1.5, 2.5)
)


class VectorMujoco:
    """B copies of a plant over one model.

    Args:
        copies: B.
        rng: draws starts and frictions; all draws are made at the reset. With one copy they are those of gymnasium's
            v4 environment from the same generator.
        plant: which.

    Raises:
        ControlkitError: no copy at all, or `mujoco` or gymnasium's model files are not installed.

    Attributes:
        time: steps since the reset.
        period_s: length of a step.
        friction: (B,) of the foot in this episode, where the plant draws it; NaN otherwise.
    """

    def __init__(self, copies: int, rng: np.random.Generator, *, plant: MujocoPlant) -> None:
        if copies < 1:
            raise ControlkitError(f"{copies} copies cannot be simulated", where=plant.name, cure="Give 1 or more.")
        self.copies, self.plant, self._rng = copies, plant, rng
        self._mujoco, self._model = load_model(plant.file)
        self._data = [self._mujoco.MjData(self._model) for _ in range(copies)]
        kinds = self._mujoco.mjtWarning
        self._diverged = [int(kind) for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)]
        self._foot = self._model.geom(FOOT).id if plant.friction else None
        self.frame_tags, self.period_s = plant.frame_tags, plant.frame_skip * float(self._model.opt.timestep)
        self._frame: Floats | None = None  # as it was shown last
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the generator's stream; returns the frame (B, n) at time 0."""
        plant, rng, shape = self.plant, self._rng, (self.copies, len(self.plant.joints))
        positions = self._model.qpos0 + rng.uniform(-plant.start_noise, plant.start_noise, shape)
        if plant.start_velocity == "normal":
            velocities = plant.start_noise * rng.standard_normal(shape)
        else:
            velocities = rng.uniform(-plant.start_noise, plant.start_noise, shape)
        friction = rng.uniform(*plant.friction, self.copies) if plant.friction else np.full(self.copies, np.nan)
        return self.set_state(positions, velocities, friction)

    def set_state(self, positions: Floats, velocities: Floats, friction: Floats | None = None) -> Floats:
        """Starts all copies from true positions and velocities (B, J) and the foot's friction (B,).

        Returns:
            The frame (B, n) at time 0.
        """
        self.time = 0
        if friction is not None:
            self.friction = friction
        for copy, data in enumerate(self._data):
            self._mujoco.mj_resetData(self._model, data)
            data.qpos[:], data.qvel[:] = positions[copy], velocities[copy]
            self._set_friction(copy)
            # Also leaves the solver its first guess, so that equal states go on equally.
            self._mujoco.mj_forward(self._model, data)
        self._frame = None
        return self.true_frame

    def step(self, command: Any) -> Floats:
        """One period: shares of the full torque (B, m), saturating at -1 and 1 -> frame (B, n).

        Raises:
            ValueError: another shape.
            ControlkitError: a command that is not finite, a copy that the integrator cannot follow.
        """
        wanted = checked_command(command, self.copies, len(self.plant.action_tags), self.time).clip(-1.0, 1.0)
        for copy, data in enumerate(self._data):
            self._set_friction(copy)
            data.ctrl[:] = wanted[copy]
            self._mujoco.mj_step(self._model, data, nstep=self.plant.frame_skip)
            # MuJoCo starts a diverged simulation over from rest, and only counts and logs that.
            if data.warning.number[self._diverged].any():
                raise ControlkitError(
                    "the physics diverged: positions or velocities grew beyond all bounds",
                    where=f"{self.plant.name}, step {self.time}, copy {copy}",
                    cure="Start from a state that the plant can be in.",
                )
        self.time += 1
        self._frame = None
        return self.true_frame

    @property
    def positions(self) -> Floats:
        """(B, J)"""
        return np.stack([data.qpos for data in self._data])

    @property
    def velocities(self) -> Floats:
        """(B, J) true ones, also where a frame shows them cut."""
        return np.stack([data.qvel for data in self._data])

    @property
    def true_frame(self) -> Floats:
        """(B, n) positions, velocities, and the friction where the plant draws it; the sensors are exact."""
        if self._frame is None:
            bound = self.plant.shown_velocity
            frame = np.concatenate([self.positions, self.velocities.clip(-bound, bound)], axis=1)
            shown = np.concatenate([frame, self.friction[:, None]], axis=1) if self.plant.friction else frame
            self._frame = shown
        return self._frame.copy()

    def _set_friction(self, copy: int) -> None:
        if self._foot is not None:
            self._model.geom_friction[self._foot, 0] = round(float(self.friction[copy]), 2)


def load_model(file: str) -> tuple[Any, Any]:
    """The module `mujoco` and one of gymnasium's model files, compiled.

    Raises:
        ControlkitError: either is not installed, or they do not fit each other.
    """
    try:
        mujoco = import_module("mujoco")
    except ImportError:
        raise ControlkitError("mujoco is not installed", where=file, cure=_EXTRA) from None
    found = find_spec("gymnasium")
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    paths = [path for folder in folders if (path := folder / "envs" / "mujoco" / "assets" / file).is_file()]
    if not paths:
        raise ControlkitError("gymnasium's MuJoCo model file is not installed", where=file, cure=_EXTRA)
    try:
        with _without_log_file(mujoco):
            return mujoco, mujoco.MjModel.from_xml_path(str(paths[0]))
    except ValueError as problem:
        raise ControlkitError(
            f"MuJoCo {mujoco.__version__} cannot read the model: {problem}",
            where=str(paths[0]),
            cure="Install versions of mujoco and gymnasium that fit each other.",
        ) from None


@contextmanager
def _without_log_file(mujoco: Any) -> Iterator[None]:
    """Keeps MuJoCo from writing warnings to a file in the working directory while it compiles a model."""

    def tell(message: str) -> None:
        # HalfCheetah's model scales its mass in a way that MuJoCo is about to give up; the result is the same.
        if "settotalmass" not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=2)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(tell)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
