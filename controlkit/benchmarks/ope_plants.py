"""Plants with a simulator at hand, an operator, and 24 policies whose true values are known: what offline policy
evaluation is measured on.

Every law sees the plant's observation and nothing else, so that it can be simulated, logged and evaluated alike. The
policies of a plant come from one family that holds the operator's own law: near it in the middle, better and worse
towards the ends, some of them beyond anything that the log holds.

- `linear`: two Gaussian states, whose value is known in closed form (`LinearPlant.value`).
- `refrigerator`, `industrial`, `pipeline`, `dmsd`: the simulated tasks of `envs`, with shorter episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from envs.controllers import Proportional
from envs.neorl.dmsd import holding_command
from envs.neorl.dmsd_controllers import PositionDerivative
from envs.neorl.industrial_controllers import OPERATOR_GAIN, OPERATOR_NOISE, OPERATOR_SETTING, STATIC_OPTIMUM, Steered
from envs.refrigerator import DEFAULT_PARAMS as REFRIGERATOR
from envs.simulation import Floats, VectorSimulator, checked_command
from envs.tasks import get_task

# (B, O) observations, (B, m) standard normal noise -> (B, m) commands, before the plant's limits
Law = Callable[[Floats, Floats], Floats]
POLICIES = 24
# Of the linear plant: the family's direction, of which the operator takes so much, and its hand's unsteadiness.
LINEAR_GAIN, OPERATOR_SHARE, HAND = np.array([[0.3, 0.6]]), 0.6, 0.3


@dataclass(frozen=True)
class TruthPlant:
    """A plant of the benchmark.

    Attributes:
        name: of the plant.
        spec: its description.
        simulator: makes B copies of it.
        steps: length of a logged episode.
        gamma: discount that policies are judged with.
        operator: whose log is collected.
        policies: those that are judged, by name.
        linear: the plant's matrices, where its values are known in closed form.
    """

    name: str
    spec: PlantSpec
    simulator: Callable[[int, np.random.Generator], VectorSimulator]
    steps: int
    gamma: float
    operator: Law
    policies: Mapping[str, Law]
    linear: LinearPlant | None = None


def get_truth_plant(name: str) -> TruthPlant:
    """One of `PLANTS`."""
    return PLANTS[name]()


@dataclass(frozen=True)
class StateFeedback:
    """command = offset - gain x + hand noise, of the first S slots of the observation."""

    gain: Floats  # (m, S)
    offset: Floats  # (m,)
    hand: float = 0.0

    def __call__(self, observation: Floats, noise: Floats) -> Floats:
        """(B, O), (B, m) -> (B, m)."""
        seen = observation[:, : self.gain.shape[1]]
        return np.asarray(self.offset - seen @ self.gain.T + self.hand * noise)


@dataclass(frozen=True)
class LinearPlant:
    """x' = A x + B u + w, w ~ N(0, diag(noise^2)); reward -(weights . x'^2).

    Commands are never so large that a limit matters: see `linear`.
    """

    a: Floats = field(default_factory=lambda: np.array([[0.95, 0.10], [0.0, 0.85]]))
    b: Floats = field(default_factory=lambda: np.array([[0.0], [0.30]]))
    noise: Floats = field(default_factory=lambda: np.array([0.05, 0.10]))
    weights: Floats = field(default_factory=lambda: np.array([1.0, 0.1]))

    def moments(self, law: StateFeedback, mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
        """One step of mean (S,) and covariance (S, S) under a law."""
        closed = self.a - self.b @ law.gain
        spread = self.b @ self.b.T * law.hand**2 + np.diag(self.noise**2)
        return closed @ mean + self.b @ law.offset, closed @ covariance @ closed.T + spread

    def stationary(self, law: StateFeedback) -> tuple[Floats, Floats]:
        """Mean and covariance that a law leads to."""
        mean, covariance = np.zeros(len(self.a)), np.zeros_like(self.a)
        for _ in range(2000):
            mean, covariance = self.moments(law, mean, covariance)
        return mean, covariance

    def value(self, law: StateFeedback, operator: StateFeedback, weights: Floats) -> float:
        """Weighted sum (H,) of the expected rewards of the H steps that follow on the operator's stationary states."""
        mean, covariance = self.stationary(operator)
        total = 0.0
        for weight in weights:
            mean, covariance = self.moments(law, mean, covariance)
            total -= float(weight * (self.weights @ (mean**2 + np.diag(covariance))))
        return total


class VectorLinear:
    """B copies of a `LinearPlant`, which start from the operator's stationary states.

    Args:
        copies: B.
        rng: draws starts and disturbances.
        plant: the matrices.
        operator: whose stationary states an episode begins in.
    """

    frame_tags = ("deviation", "inflow")

    def __init__(self, copies: int, rng: np.random.Generator, plant: LinearPlant, operator: StateFeedback) -> None:
        self.copies, self.plant, self._rng = copies, plant, rng
        self._start = plant.stationary(operator)
        self.reset()

    def reset(self) -> Floats:
        """Starts all copies anew: (B, 2)."""
        self.time = 0
        self._state = self._rng.multivariate_normal(*self._start, size=self.copies)
        return self.true_frame

    def step(self, command: Floats) -> Floats:
        """(B, 1) -> (B, 2)."""
        given = checked_command(command, self.copies, 1, self.time)
        noise = self.plant.noise * self._rng.standard_normal(self._state.shape)
        self._state = self._state @ self.plant.a.T + given @ self.plant.b.T + noise
        self.time += 1
        return self.true_frame

    @property
    def true_frame(self) -> Floats:
        """(B, 2)."""
        return self._state.copy()


@cache
def linear() -> TruthPlant:
    """Gains around the operator's, and biases."""
    plant = LinearPlant()
    operator = StateFeedback(OPERATOR_SHARE * LINEAR_GAIN, np.array([0.15]), hand=HAND)
    policies = {
        f"gain {gain:g}, bias {bias:g}": StateFeedback(gain * LINEAR_GAIN, np.array([bias]))
        for gain in (0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 4.0)
        for bias in (0.0, 0.15, 0.3)
    }
    spec = PlantSpec.from_dict(
        {
            "name": "linear",
            "description": "Two Gaussian states",
            "period_s": 1,
            "tags": {
                "deviation": {"role": "state", "unit": "m", "range": [-20, 20]},
                "inflow": {"role": "state", "unit": "m", "range": [-20, 20]},
                # No policy of the family ever comes near these limits.
                "valve": {"role": "action", "unit": "1", "range": [-20, 20], "safe": 0, "fallback": {"kind": "hold"}},
            },
            "objective": [
                {"kind": "track", "tag": "deviation", "setpoint": 0, "error": "squared", "weight": 1.0},
                {"kind": "track", "tag": "inflow", "setpoint": 0, "error": "squared", "weight": 0.1},
            ],
        }
    )
    return TruthPlant(
        "linear",
        spec,
        lambda copies, rng: VectorLinear(copies, rng, plant, operator),
        150,
        0.95,
        operator,
        policies,
        plant,
    )


@cache
def refrigerator() -> TruthPlant:
    """P controllers of several gains that hold -2 degC with the door shut, and others that hold something else."""
    hold = 0.35  # holds the target with the door shut

    def law(gain: float, target: float, hand: float = 0.0) -> Law:
        controller = Proportional(gain, target - hold / gain)
        return lambda observation, noise: controller.act(observation) + hand * noise

    policies = {
        f"gain {gain:g}, {offset:+g} K": law(gain, REFRIGERATOR.target_c + offset)
        for gain in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.8)
        for offset in (0.0, 0.4, -1.5)
    }
    task = get_task("refrigerator")
    return TruthPlant(
        "refrigerator", task.spec(), task.simulator, 250, 0.97, law(0.2, REFRIGERATOR.target_c, 0.1), policies
    )


@cache
def industrial() -> TruthPlant:
    """Steered towards settings on the line from the operator's to the static optimum, and beyond both."""
    task = get_task("industrial")

    def law(setting: Floats, gain: float, hand: float = 0.0) -> Law:
        controller = Steered((float(setting[0]), float(setting[1]), float(setting[2])), gain)
        return lambda observation, noise: np.clip(controller.act(observation) + hand * noise, -1.0, 1.0)

    start, optimum = np.array(OPERATOR_SETTING), np.array(STATIC_OPTIMUM)
    policies = {
        f"{way:+.0%} of the way, gain {gain:g}": law(start + way * (optimum - start), gain)
        for way in (-2.0, -1.0, -0.5, 0.0, 0.5, 0.75, 1.0, 1.75)
        for gain in (0.03, 0.05, 0.2)
    }
    return TruthPlant(
        "industrial", task.spec(), task.simulator, 300, 0.97, law(start, OPERATOR_GAIN, OPERATOR_NOISE), policies
    )


@cache
def pipeline() -> TruthPlant:
    """Dead-time compensators of several gains and fastest moves; see `envs.neorl.pipeline_controllers.DeadTime`."""
    task = get_task("pipeline")
    spec = task.spec()
    slots = Layout.from_spec(spec).names
    under_way = [slots.index(f"gate@-{lag}") for lag in range(1, 20)]

    def law(gain: float, fastest: float, hand: float = 0.0) -> Law:
        def act(observation: Floats, noise: Floats) -> Floats:
            gap = observation[:, 1] - observation[:, 0] - observation[:, under_way].sum(axis=1)
            return np.asarray(np.clip(gain * gap[:, None] + hand * noise, -fastest, fastest))

        return act

    policies = {
        f"gain {gain:g}, at most {fastest:g}": law(gain, fastest)
        for gain in (-0.004, 0.003, 0.01, 0.03, 0.1, 0.3)
        for fastest in (0.1, 0.3, 0.5, 0.8)
    }
    return TruthPlant("pipeline", spec, task.simulator, 300, 0.97, law(0.01, 0.5, 0.15), policies)


@cache
def dmsd() -> TruthPlant:
    """Position and rate gains around the operator's, slow to fast, loosely to well damped."""
    task = get_task("dmsd")

    def law(gain: float, damping: float, hand: float = 0.0) -> Law:
        controller = PositionDerivative(gain, 2.0 * damping * float(np.sqrt(gain)))
        return lambda observation, noise: np.clip(controller.act(observation) + hand * noise, -1.0, 1.0)

    def still(observation: Floats, noise: Floats) -> Floats:
        return np.clip(holding_command(observation[:, 4:6]), -1.0, 1.0)

    policies: dict[str, Law] = {
        f"gain {gain:g}, damping {damping:g}": law(gain, damping)
        for gain in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
        for damping in (0.2, 0.5, 0.9)
    }
    policies["gain 8, damping 0.9"] = law(8.0, 0.9)
    policies["gain 12, damping 0.5"] = law(12.0, 0.5)
    policies["no gain"] = still
    return TruthPlant("dmsd", task.spec(), task.simulator, task.steps, 0.95, law(1.0, 0.5, 0.2), policies)


PLANTS: Mapping[str, Callable[[], TruthPlant]] = {
    "linear": linear,
    "refrigerator": refrigerator,
    "industrial": industrial,
    "pipeline": pipeline,
    "dmsd": dmsd,
}
