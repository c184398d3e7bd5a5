"""RocketRecovery of NeoRL-2 (arXiv 2503.19267): a rocket with two sprung legs is to land upright in the wind.

The rigid bodies are those of gymnasium's LunarLander and are stepped by Box2D (extra `neorl`), one world per copy, 50
times a second. What NeoRL-2 changed: the ground is flat everywhere; a wind of up to 10 N pushes sideways at all times
and is observed; contacts of the legs are not observed; an episode ends where the height comes within 0.05 of the
ground, and nowhere else. Engines act by impulses:

- main: off for commands up to 0, then 50 % to 100 % of its power, along the body's axis. A step's impulse scatters
  between half and one and a half times its mean, and by as much as a quarter of it sideways;
- side: off within -0.5 .. 0.5, then 50 % to 100 % of its power, across the axis and above the centre. A positive
  command pushes to the right and turns clockwise; the lever depends on the angle, as in the original.

A frame has the original's units: positions as shares of half the view (10 m wide, 6.67 m high), velocities in 5 m/s
(wide) and 7.5 m/s (high), the angle in radians, counterclockwise, the angular velocity in 2.5 rad/s, the wind in
newtons. The one deviation: the original draws where the wind begins when an environment is made and lets it blow on
over its episodes; here every episode draws its own.

The module imports without Box2D; making a simulator needs it.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlkit.errors import ControlkitError
from envs.simulation import Floats, checked_command

STEPS = 500
FRAME_TAGS = ("position_x", "position_y", "velocity_x", "velocity_y", "angle", "angular_velocity", "wind")

# The original draws on a screen of 30 pixels per metre, and its constants are pixels.
PIXELS_PER_M = 30.0
HULL_PIXELS = ((-14, 17), (-17, 0), (-17, -10), (17, -10), (17, 0), (14, 17))
LEG_AWAY, LEG_DOWN, LEG_HALF_WIDTH, LEG_HALF_HEIGHT = (pixels / PIXELS_PER_M for pixels in (20.0, 18.0, 2.0, 8.0))
# Of the engines' nozzles from the centre; the side engines' two heights differ where they should not, as there.
MAIN_BELOW, SIDE_AWAY, SIDE_ABOVE_X, SIDE_ABOVE_Y = (pixels / PIXELS_PER_M for pixels in (4.0, 12.0, 17.0, 14.0))
# Categories of Box2D's collision filter: all bodies meet the ground, and none another.
GROUND, HULL, LEG = 0x0001, 0x0010, 0x0020
VELOCITY_ITERATIONS, POSITION_ITERATIONS = 180, 60


@dataclass(frozen=True)
class RocketParams:
    """The plant's constants.

    Attributes:
        frames_per_s: steps in a second.
        gravity_m_per_s2: downward.
        half_width_m, half_height_m: of the view; the units of the positions.
        main_impulse_per_m, side_impulse_per_m: newton seconds per step at full power and per metre between nozzle and
            centre.
        scatter_m: largest displacement of a nozzle.
        start_force_n: bound of the uniform force, in both directions, that acts in the first step.
        wind_n: the strongest wind.
    """

    frames_per_s: float = 50.0
    gravity_m_per_s2: float = 10.0
    half_width_m: float = 10.0
    half_height_m: float = 400.0 / PIXELS_PER_M / 2.0
    main_impulse_per_m: float = 13.0
    side_impulse_per_m: float = 0.6
    scatter_m: float = 1.0 / PIXELS_PER_M
    start_force_n: float = 500.0
    wind_n: float = 10.0

    @property
    def ground_m(self) -> float:
        """Height of the ground."""
        return self.half_height_m / 2.0


DEFAULT_PARAMS = RocketParams()


def main_power(command: Any) -> Any:
    """Share of the main engine's power: 0 for commands up to 0, then 0.5 .. 1. Arrays of numpy and torch alike."""
    return (command > 0.0) * (0.5 + 0.5 * command.clip(0.0, 1.0))


def side_power(command: Any) -> Any:
    """Share of a side engine's power: 0 within -0.5 .. 0.5, then 0.5 .. 1. Arrays of numpy and torch alike."""
    return (abs(command) > 0.5) * abs(command).clip(0.5, 1.0)


def wind_at(index: Floats, params: RocketParams = DEFAULT_PARAMS) -> Floats:
    """The wind in steps of these numbers (B,), newtons: never periodic, since the two frequencies share no multiple."""
    return np.asarray(params.wind_n * np.tanh(np.sin(0.02 * index) + np.sin(0.01 * math.pi * index)))


class Rocket:
    """One rocket in a Box2D world of its own.

    Args:
        start_force: (2,) newtons in the first step, beside the wind.
        params: the plant's constants.
        box2d: the module `Box2D`.
    """

    def __init__(self, start_force: Floats, params: RocketParams, box2d: Any) -> None:
        self.params = params
        self._world = box2d.b2World(gravity=(0.0, -params.gravity_m_per_s2))
        self._lay_ground(box2d)
        centre, top = params.half_width_m, 2.0 * params.half_height_m
        corners = [(x / PIXELS_PER_M, y / PIXELS_PER_M) for x, y in HULL_PIXELS]
        hull = box2d.b2FixtureDef(
            shape=box2d.b2PolygonShape(vertices=corners),
            density=5.0,
            friction=0.1,
            restitution=0.0,
            categoryBits=HULL,
            maskBits=GROUND,
        )
        self.hull = self._world.CreateDynamicBody(position=(centre, top), angle=0.0, fixtures=hull)
        self.hull.ApplyForceToCenter((float(start_force[0]), float(start_force[1])), True)
        self.legs = [self._hang_leg(side, (centre, top), box2d) for side in (-1, 1)]

    def step(self, command: Floats, scatter: Floats, wind_n: float) -> tuple[float, ...]:
        """One period: commands (2,) in [-1, 1], displacements (2,) of the nozzles in metres, wind.

        Returns:
            The six numbers of a frame before the wind.
        """
        self.hull.ApplyForceToCenter((wind_n, 0.0), True)
        self._fire(command, scatter)
        self._world.Step(1.0 / self.params.frames_per_s, VELOCITY_ITERATIONS, POSITION_ITERATIONS)
        return self._shown()

    def _fire(self, command: Floats, scatter: Floats) -> None:
        params, along, across = self.params, float(scatter[0]), float(scatter[1])
        sine, cosine = math.sin(self.hull.angle), math.cos(self.hull.angle)
        x, y = self.hull.position
        if power := float(main_power(command[0])):
            # From the centre to the nozzle, which the impulse points away from.
            below = MAIN_BELOW + 2.0 * along
            to_x, to_y = sine * below - cosine * across, -cosine * below - sine * across
            push = params.main_impulse_per_m * power
            self.hull.ApplyLinearImpulse((-push * to_x, -push * to_y), (x + to_x, y + to_y), True)
        if power := float(side_power(command[1])):
            aside = 3.0 * across + math.copysign(SIDE_AWAY, float(command[1]))
            to_x, to_y = sine * along - cosine * aside, -cosine * along - sine * aside
            push = params.side_impulse_per_m * power
            point = (x + to_x - sine * SIDE_ABOVE_X, y + to_y + cosine * SIDE_ABOVE_Y)
            self.hull.ApplyLinearImpulse((-push * to_x, -push * to_y), point, True)

    def _shown(self) -> tuple[float, ...]:
        params, (x, y), (speed_x, speed_y) = self.params, self.hull.position, self.hull.linearVelocity
        return (
            x / params.half_width_m - 1.0,
            (y - params.ground_m - LEG_DOWN) / params.half_height_m,
            speed_x * params.half_width_m / params.frames_per_s,
            speed_y * params.half_height_m / params.frames_per_s,
            self.hull.angle,
            20.0 * self.hull.angularVelocity / params.frames_per_s,
        )

    def _lay_ground(self, box2d: Any) -> None:
        width, height = 2.0 * self.params.half_width_m, self.params.ground_m
        ground = self._world.CreateStaticBody(shapes=box2d.b2EdgeShape(vertices=[(0.0, 0.0), (width, 0.0)]))
        # Ten edges as in the original, whose uneven ground was levelled.
        for chunk in range(10):
            ends = [(width * (chunk + i) / 10.0, height) for i in (0, 1)]
            ground.CreateEdgeFixture(vertices=ends, density=0.0, friction=0.1)

    def _hang_leg(self, side: int, start: tuple[float, float], box2d: Any) -> Any:
        leg = self._world.CreateDynamicBody(
            position=(start[0] - side * LEG_AWAY, start[1]),
            angle=0.05 * side,
            fixtures=box2d.b2FixtureDef(
                shape=box2d.b2PolygonShape(box=(LEG_HALF_WIDTH, LEG_HALF_HEIGHT)),
                density=1.0,
                restitution=0.0,
                categoryBits=LEG,
                maskBits=GROUND,
            ),
        )
        # A motor of limited torque presses the leg outward: a spring.
        self._world.CreateJoint(
            box2d.b2RevoluteJointDef(
                bodyA=self.hull,
                bodyB=leg,
                localAnchorA=(0.0, 0.0),
                localAnchorB=(side * LEG_AWAY, LEG_DOWN),
                enableMotor=True,
                enableLimit=True,
                maxMotorTorque=40.0,
                motorSpeed=0.3 * side,
                lowerAngle=0.4 if side < 0 else -0.9,
                upperAngle=0.9 if side < 0 else -0.4,
            )
        )
        return leg


class VectorRocket:
    """B copies, each in a world of its own.

    Args:
        copies: B.
        rng: draws starts, winds and scatter; as many draws in a step whatever is commanded.
        params: the plant's constants.

    Raises:
        ControlkitError: no copy at all, or Box2D is not installed.

    Attributes:
        time: steps since the reset.
        rockets: the copies.
        true_frame: (B, 7); the sensors are exact.
    """

    frame_tags = FRAME_TAGS

    def __init__(self, copies: int, rng: np.random.Generator, *, params: RocketParams = DEFAULT_PARAMS) -> None:
        if copies < 1:
            raise ControlkitError(
                f"{copies} copies cannot be simulated", where="rocket-recovery", cure="Give 1 or more."
            )
        self.copies, self.params, self._rng, self._box2d = copies, params, rng, _box2d()
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the generator's stream.

        Returns:
            The frame (B, 7) at time 0, which is one step without thrust after the start.
        """
        bound = self.params.start_force_n
        forces = self._rng.uniform(-bound, bound, (self.copies, 2))
        self._wind_index = self._rng.integers(-9999, 9999, self.copies).astype(np.float64)
        self.rockets = [Rocket(force, self.params, self._box2d) for force in forces]
        self.true_frame = self._stepped(np.zeros((self.copies, 2)))
        self.time = 0
        return self.true_frame

    def step(self, command: Any) -> Floats:
        """0.02 s: commands of main and side engines (B, 2), saturating at -1 and 1 -> frame (B, 7).

        Raises:
            ValueError: another shape.
            ControlkitError: a command that is not finite.
        """
        self.true_frame = self._stepped(np.clip(checked_command(command, self.copies, 2, self.time), -1.0, 1.0))
        self.time += 1
        return self.true_frame

    def _stepped(self, command: Floats) -> Floats:
        scatter = self._rng.uniform(-self.params.scatter_m, self.params.scatter_m, (self.copies, 2))
        wind = wind_at(self._wind_index, self.params)  # (B,)
        self._wind_index += 1.0
        moved = [rocket.step(command[i], scatter[i], float(wind[i])) for i, rocket in enumerate(self.rockets)]
        return np.concatenate([np.array(moved), wind[:, None]], axis=1)


def _box2d() -> Any:
    try:
        return importlib.import_module("Box2D")
    except ImportError:
        raise ControlkitError(
            "Box2D is not installed", where="task rocket-recovery", cure="Install controlkit[neorl]."
        ) from None
