"""A refrigerator whose door opens at random: the synthetic task of MOREC (Luo et al., ICLR 2024, arXiv 2310.05422).

The physics follows the public example of the same plant in Polixir's REVIVE kit (examples/task/Refrigerator):

    cooled = T - power dt,    T' = cooled - (cooled - 15) k dt,    k = 0.02 with the door shut, 0.08 with the door open.

One step takes one second. The door that governs the transition t -> t + 1 is the one observed at t, together with the
temperature at t: a controller that sees the door knows what the next second will do.

Deviations from the public example: power is bounded above (10), as the plant file says; the noise is drawn from an
injected generator; and it may enter the state instead of the sensor.

- `noise="measurement"`: the sensor adds N(0, scale); the plant itself is exact. Controllers react to the noise.
- `noise="process"`: N(0, scale) is added to the temperature at every step; the sensor is exact.
- `noise="none"`: neither.

Numpy only; the gymnasium form is in `refrigerator_env.py` and steps this same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError, nearest
from envs.simulation import Floats, checked_command

Noise = Literal["measurement", "process", "none"]
Door = Literal["seen", "hidden"]
TEMPERATURE, DOOR = 0, 1  # columns of a frame: the plant file's order


@dataclass(frozen=True)
class RefrigeratorParams:
    """The plant's constants.

    Attributes:
        ambient_c: temperature outside.
        leak_shut_per_s, leak_open_per_s: heat exchange with the outside, k.
        dt_s: length of a step.
        power_low, power_high: what the compressor can do, kelvin per second; it saturates there.
        target_c: the temperature that is wanted.
        door_interval, door_steps: in each interval of so many steps the door opens at most once, for so many steps.
        door_probability: chance that it opens in an interval.
    """

    ambient_c: float = 15.0
    leak_shut_per_s: float = 0.02
    leak_open_per_s: float = 0.08
    dt_s: float = 1.0
    power_low: float = 0.0
    power_high: float = 10.0
    target_c: float = -2.0
    door_interval: int = 200
    door_steps: int = 20
    door_probability: float = 0.5


DEFAULT_PARAMS = RefrigeratorParams()


def leak(door: npt.ArrayLike, params: RefrigeratorParams = DEFAULT_PARAMS) -> Floats:
    """The share of the difference to the outside that a step lets in: door (B,), 1 open -> (B,)."""
    rate = np.where(np.asarray(door) > 0.5, params.leak_open_per_s, params.leak_shut_per_s)
    return np.asarray(rate * params.dt_s, dtype=np.float64)


def next_temperature(
    temperature_c: Floats, power: Floats, door: Floats, params: RefrigeratorParams = DEFAULT_PARAMS
) -> Floats:
    """The temperature one step later, without noise: (B,), (B,), (B,) -> (B,)."""
    cooled = temperature_c - power * params.dt_s
    return cooled - (cooled - params.ambient_c) * leak(door, params)


def power_to_reach(
    target_c: float, temperature_c: Floats, door: Floats, params: RefrigeratorParams = DEFAULT_PARAMS
) -> Floats:
    """The power, not yet bounded, that brings the next temperature to the target: inverts `next_temperature`. (B,)."""
    share = leak(door, params)
    return (temperature_c - (target_c - params.ambient_c * share) / (1.0 - share)) / params.dt_s


class DoorSchedule:
    """When the doors of B copies stand open.

    The opening lies fully inside its interval: its first step is drawn evenly from 0 .. interval - steps. Both numbers
    of an interval are drawn at its beginning, whether the door opens or not.
    """

    def __init__(self, copies: int, rng: np.random.Generator, params: RefrigeratorParams) -> None:
        self._copies, self._rng, self._params = copies, rng, params
        self._opens = np.zeros(copies, dtype=np.bool_)  # (B,)
        self._first = np.zeros(copies, dtype=np.int64)  # (B,)

    def at(self, time: int) -> Floats:
        """The doors (B,) at a step: 1 open, 0 shut. To be asked for every step once, in order from 0."""
        params = self._params
        phase = time % params.door_interval
        if phase == 0:
            self._opens = self._rng.random(self._copies) < params.door_probability
            self._first = self._rng.integers(0, params.door_interval - params.door_steps, self._copies, endpoint=True)
        is_open = self._opens & (self._first <= phase) & (phase < self._first + params.door_steps)
        return is_open.astype(np.float64)


class VectorRefrigerator:
    """B refrigerators, stepped at once.

    Args:
        copies: B.
        rng: draws the noise and the doors; the same draws are made whatever the kind of noise.
        noise, noise_scale: see the module; the scale is a standard deviation in kelvin.
        door: `hidden` leaves the door out of the measurement.
        start_c: the true temperature at time 0.
        params: the plant's constants.

    Raises:
        ControlkitError: an unknown kind of noise or door, a negative scale, no copy at all.

    Attributes:
        time: steps since the reset.
        true_temperature: (B,) without sensor noise.
        measured_temperature: (B,) what the sensor shows.
        door: (B,) 1 open, 0 shut, whether it is seen or hidden; it governs the step that comes next.
    """

    def __init__(
        self,
        copies: int,
        rng: np.random.Generator,
        *,
        noise: Noise = "measurement",
        noise_scale: float = 0.1,
        door: Door = "seen",
        start_c: float = 10.0,
        params: RefrigeratorParams = DEFAULT_PARAMS,
    ) -> None:
        _one_of("noise", noise, get_args(Noise))
        _one_of("door", door, get_args(Door))
        if not (np.isfinite(noise_scale) and noise_scale >= 0):
            raise ControlkitError(
                f"noise_scale {noise_scale} is no standard deviation", where="refrigerator", cure="Give 0 or more."
            )
        if not np.isfinite(start_c):
            raise ControlkitError(f"start_c {start_c} is no temperature", where="refrigerator", cure="Give a number.")
        if copies < 1:
            raise ControlkitError(f"{copies} copies cannot be simulated", where="refrigerator", cure="Give 1 or more.")
        self.copies, self.params, self.start_c = copies, params, float(start_c)
        self.frame_tags = ("temperature", "door") if door == "seen" else ("temperature",)
        self._rng = rng
        self._sensor_std = noise_scale if noise == "measurement" else 0.0
        self._process_std = noise_scale if noise == "process" else 0.0
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew, going on with the generator's stream; returns the measurement (B, n) at time 0."""
        self.time = 0
        self._schedule = DoorSchedule(self.copies, self._rng, self.params)
        self.true_temperature = np.full(self.copies, self.start_c)  # (B,)
        self.door = self._schedule.at(0)  # (B,)
        self.measured_temperature = self.true_temperature + self._sensor_std * self._rng.standard_normal(self.copies)
        return self.measured_frame[:, : len(self.frame_tags)]

    def step(self, command: Any) -> Floats:
        """One second: power (B, 1), saturating at the compressor's bounds -> measurement (B, n).

        Raises:
            ValueError: another shape.
            ControlkitError: a power that is not finite.
        """
        power = checked_command(command, self.copies, 1, self.time)[:, 0]
        power = np.clip(power, self.params.power_low, self.params.power_high)
        disturbance = self._rng.standard_normal(self.copies)  # (B,) one draw a step, for whichever noise there is
        reached = next_temperature(self.true_temperature, power, self.door, self.params)
        self.true_temperature = reached + self._process_std * disturbance
        self.measured_temperature = self.true_temperature + self._sensor_std * disturbance
        self.time += 1
        self.door = self._schedule.at(self.time)
        return self.measured_frame[:, : len(self.frame_tags)]

    @property
    def measured_frame(self) -> Floats:
        """(B, 2) measured temperature and door, the door even where it is hidden from controllers."""
        return np.stack([self.measured_temperature, self.door], axis=1)

    @property
    def true_frame(self) -> Floats:
        """(B, 2) true temperature and door."""
        return np.stack([self.true_temperature, self.door], axis=1)


def _one_of(argument: str, value: object, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ControlkitError(
            f"unknown {argument} '{value}'", where="refrigerator", cure=f"Mend it: {nearest(str(value), valid)}"
        )
