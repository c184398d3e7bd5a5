"""Plants whose truth is known, with the log of an operator: what the study of distances asks its questions of.

- The refrigerator (`envs/refrigerator.py`): bilinear, the door exogenous.
- A continuous stirred tank with an exothermic first-order reaction and a cooling jacket, the standard example of a
  nonlinear process (Seborg, Edgar, Mellichamp, Process Dynamics and Control, ch. 2; constants as there): concentration
  and temperature are states, the feed's temperature and the setpoint are exogenous, the coolant's temperature is
  commanded. The reaction's rate grows exponentially with the temperature, so that no linear prediction holds away from
  where it was fitted.

Both are measured exactly and disturbed at every step (process noise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from controlkit.benchmarks.known_truth import TASK as REFRIGERATOR
from controlkit.benchmarks.known_truth import plain_spec
from controlkit.dataset import TransitionDataset
from controlkit.spec import PlantSpec
from envs.controllers import Proportional
from envs.refrigerator import DEFAULT_PARAMS, DoorSchedule, next_temperature
from envs.simulation import Floats

TANK = "stirred tank"
PERIOD_S = 6.0


@dataclass(frozen=True)
class KnownPlant:
    """A plant without history: S state tags, then X exogenous ones, in a frame (B, n); m commands.

    Attributes:
        name: of the plant.
        spec: its description.
        step: noise-free next state tags: frame (B, n), command (B, m) -> (B, S).
        noise: (S,) standard deviation of what is added to them.
        law: the operator's command for a frame, without the hand's noise, which is `hand` (m,): (B, n) -> (B, m).
        exogenous: the exogenous tags of some steps and copies: (steps, B, X).
        start: (S,) state tags at time 0.
        low, high: (S + m,) what is far from any log: the ends of state tags and commands.
    """

    name: str
    spec: PlantSpec
    step: Callable[[Floats, Floats], Floats]
    noise: Floats
    law: Callable[[Floats], Floats]
    hand: Floats
    exogenous: Callable[[int, int, np.random.Generator], Floats]
    start: Floats
    low: Floats
    high: Floats

    @property
    def states(self) -> int:
        """S."""
        return len(self.start)

    def clipped(self, command: Floats) -> Floats:
        """Commands inside the actuators' limits: (B, m) -> (B, m)."""
        limits = np.array([self.spec.limits(tag) for tag in self.spec.action_tags])
        return np.clip(command, limits[:, 0], limits[:, 1])

    def log(self, seed: int, rows: int) -> TransitionDataset:
        """One episode of the operator, `rows` steps."""
        rng = np.random.default_rng(seed)
        known = self.exogenous(rows + 1, 1, rng)  # (rows + 1, 1, X)
        state, frames, actions = self.start[None], [], []
        for row in range(rows + 1):
            frames.append(np.concatenate([state, known[row]], axis=1))
            actions.append(self.clipped(self.law(frames[-1]) + self.hand * rng.standard_normal((1, len(self.hand)))))
            state = self.step(frames[-1], actions[-1]) + self.noise * rng.standard_normal(state.shape)
        return TransitionDataset.from_frames(
            self.spec,
            frames=np.concatenate(frames).astype(np.float32),
            actions=np.concatenate(actions).astype(np.float32),
            episode=np.zeros(rows + 1, dtype=np.int64),
            time_ns=np.arange(rows + 1, dtype=np.int64) * round(self.spec.period_s * 1e9),
            sources={f"simulated, seed {seed}": "0" * 64},
        )


def get_plant(name: str) -> KnownPlant:
    """One of `PLANTS`."""
    return PLANTS[name]()


@cache
def refrigerator() -> KnownPlant:
    """The refrigerator with process noise."""
    operator, params = Proportional(0.2), DEFAULT_PARAMS

    def step(frame: Floats, command: Floats) -> Floats:
        return next_temperature(frame[:, 0], command[:, 0], frame[:, 1])[:, None]

    def doors(steps: int, copies: int, rng: np.random.Generator) -> Floats:
        schedule = DoorSchedule(copies, rng, params)
        return np.stack([schedule.at(time) for time in range(steps)])[..., None]

    return KnownPlant(
        name=REFRIGERATOR,
        spec=plain_spec(),
        step=step,
        noise=np.array([0.1]),
        law=operator.act,
        hand=np.array([0.1]),
        exogenous=doors,
        start=np.array([10.0]),
        low=np.array([-15.0, 0.0]),
        high=np.array([20.0, 10.0]),
    )


@dataclass(frozen=True)
class TankParams:
    """Constants of the stirred tank.

    Attributes:
        exchange_per_min: feed per volume.
        feed_mol_l: concentration of the feed.
        rate_per_min, activation_k: Arrhenius' factor, and activation energy over the gas constant.
        rise_k_l_mol: temperature rise per converted concentration.
        cooling_per_min: heat transfer to the jacket, per heat capacity of the content.
        substeps: parts of a period. In each, the content is cooled for half of the time, the concentration follows its
            exact solution at the temperature in the middle, the heat that was set free is added, and the content is
            cooled for the other half (Strang's splitting): of second order, and stable however fast the reaction.
    """

    exchange_per_min: float = 1.0
    feed_mol_l: float = 1.0
    rate_per_min: float = 7.2e10
    activation_k: float = 8750.0
    rise_k_l_mol: float = 5e4 / 239.0
    cooling_per_min: float = 5e4 / (100.0 * 239.0)
    substeps: int = 20


TANK_PARAMS = TankParams()


def next_tank_state(frame: Floats, coolant_k: Floats, params: TankParams = TANK_PARAMS) -> Floats:
    """Concentration (mol/L) and temperature (K) one period later, without noise.

    Args:
        frame: (B, 3 or more) concentration, temperature, feed temperature.
        coolant_k: (B,).
        params: the plant's constants.

    Returns:
        (B, 2).
    """
    concentration, temperature, feed_k = frame[:, :3].T
    h = PERIOD_S / 60.0 / params.substeps
    exchange, cooling = params.exchange_per_min, params.cooling_per_min
    settled_k = (exchange * feed_k + cooling * coolant_k) / (exchange + cooling)
    kept = np.exp(-(exchange + cooling) * h / 2.0)
    for _ in range(params.substeps):
        temperature = settled_k + (temperature - settled_k) * kept
        _, half = _reacted(concentration, temperature, h / 2.0, params)
        middle = temperature + params.rise_k_l_mol * half
        concentration, whole = _reacted(concentration, middle, h, params)
        temperature = temperature + params.rise_k_l_mol * whole
        temperature = settled_k + (temperature - settled_k) * kept
    return np.stack([concentration, temperature], axis=1)


def _reacted(concentration: Floats, temperature: Floats, minutes: float, params: TankParams) -> tuple[Floats, Floats]:
    """The concentration after some time at one temperature, exactly, and how much has reacted: (B,), (B,)."""
    exchange, feed = params.exchange_per_min, params.feed_mol_l
    total = exchange + params.rate_per_min * np.exp(-params.activation_k / temperature)  # 1/min
    settled, decay = exchange * feed / total, np.exp(-total * minutes)
    after = settled + (concentration - settled) * decay
    mean = settled + (concentration - settled) * (1.0 - decay) / (total * minutes)
    return after, concentration - after + exchange * minutes * (feed - mean)


@cache
def stirred_tank() -> KnownPlant:
    """The tank, held about its unstable middle states by a proportional operator who is given setpoints."""
    command = {"role": "action", "unit": "K", "range": [270, 330], "safe": 300, "fallback": {"kind": "hold"}}
    tags: dict[str, Any] = {
        "concentration": {"role": "state", "unit": "mol/L", "range": [-0.1, 1.1]},
        "temperature": {"role": "state", "unit": "K", "range": [280, 600]},
        "feed": {"role": "exogenous", "unit": "K", "range": [335, 365]},
        "setpoint": {"role": "exogenous", "unit": "K", "range": [335, 365]},
        "coolant": command,
    }
    objective = [{"kind": "track", "tag": "temperature", "setpoint": "setpoint"}]
    spec = PlantSpec.from_dict({"name": "tank", "period_s": PERIOD_S, "tags": tags, "objective": objective})

    def given(steps: int, copies: int, rng: np.random.Generator) -> Floats:
        """Another feed and another setpoint every hundred steps."""
        levels = rng.uniform([346.0, 344.0], [354.0, 353.0], (-(-steps // 100), copies, 2))
        return np.repeat(levels, 100, axis=0)[:steps]

    return KnownPlant(
        name=TANK,
        spec=spec,
        step=lambda frame, coolant: next_tank_state(frame, coolant[:, 0]),
        noise=np.array([0.003, 0.3]),
        law=lambda frame: 300.0 - 8.0 * (frame[:, 1:2] - frame[:, 3:4]),
        hand=np.array([2.0]),
        exogenous=given,
        start=np.array([0.5, 350.0]),
        low=np.array([0.25, 330.0, 270.0]),
        high=np.array([0.7, 358.0, 330.0]),
    )


PLANTS: Mapping[str, Callable[[], KnownPlant]] = {REFRIGERATOR: refrigerator, TANK: stirred_tank}
