"""Three traps that an offline evaluation must refuse or flag, each with a harmless twin that it must answer.

All are variants of the linear plant, with one policy each that is truly better than the operator in the twin:

- `confounder`: a disturbance moves the state, the operator sees it and answers it, and it is not logged. Its signature
  is that commands and residuals go on from step to step. In the twin it is a logged tag.
- `no excitation`: the operator's command is a function of the state, without the unsteadiness of a hand, so that the
  log cannot tell what the command does from what the state does. In the twin the hand is unsteady.
- `outside`: the valve stalls beyond the openings that the log holds, and the policy uses them: a model that was learned
  from the log promises much, and the plant is worse off. In the twin the policy stays within.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlkit.benchmarks.ope_plants import (
    HAND,
    LINEAR_GAIN,
    OPERATOR_SHARE,
    Law,
    LinearPlant,
    StateFeedback,
    TruthPlant,
    linear,
)
from controlkit.benchmarks.ope_truth import collect_log, evaluate_laws, true_value
from controlkit.evaluation.assessment import FULL, Effort
from controlkit.spec import PlantSpec
from envs.simulation import Floats, checked_command

EPISODES = 100
# Of the hidden disturbance: how much of it stays from step to step, and its standard deviation.
STAYS, FEED = 0.95, 0.3
# The opening beyond which the valve stalls. The log's commands lie within it.
STALLS_AT = 1.5


class VectorDisturbed:
    """The linear plant with a feed that comes and goes (B,), and a valve that may stall.

    Args:
        copies: B.
        rng: draws everything.
        logged: whether the feed is among the measured tags.
        feed: standard deviation of the feed.
        stalls: whether the valve passes nothing beyond `STALLS_AT`.
    """

    def __init__(self, copies: int, rng: np.random.Generator, logged: bool, feed: float, stalls: bool) -> None:
        self.copies, self._rng, self._logged, self._feed, self._stalls = copies, rng, logged, feed, stalls
        self.plant = LinearPlant()
        self.reset()

    @property
    def frame_tags(self) -> tuple[str, ...]:
        """Measured tags."""
        return ("deviation", "inflow", "feed") if self._logged else ("deviation", "inflow")

    def reset(self) -> Floats:
        """Starts all copies anew."""
        self.time = 0
        self._state = 0.3 * self._rng.standard_normal((self.copies, 2))
        self.feed = self._feed * self._rng.standard_normal(self.copies)
        return self.true_frame

    def step(self, command: Floats) -> Floats:
        """(B, 1) -> (B, n)."""
        given = checked_command(command, self.copies, 1, self.time)
        if self._stalls:
            given = np.where(np.abs(given) > STALLS_AT, 0.0, given)
        noise = self.plant.noise * self._rng.standard_normal(self._state.shape)
        self._state = self._state @ self.plant.a.T + given @ self.plant.b.T + noise
        self._state[:, 1] += 0.3 * self.feed
        fresh = self._feed * np.sqrt(1.0 - STAYS**2) * self._rng.standard_normal(self.copies)
        self.feed = STAYS * self.feed + fresh
        self.time += 1
        return self.true_frame

    @property
    def true_frame(self) -> Floats:
        """(B, n)."""
        return np.column_stack([self._state, self.feed]) if self._logged else self._state.copy()


@dataclass(frozen=True)
class Case:
    """A plant with an operator and the one policy that is judged."""

    plant: TruthPlant
    policy: Law


class _Seeing:
    """An operator that sees the simulator's feed, logged or not.

    Attributes:
        simulator: the latest one that was made.
    """

    def __init__(self, law: StateFeedback, share: float) -> None:
        self.law, self.share = law, share
        self.simulator: VectorDisturbed | None = None

    def __call__(self, observation: Floats, noise: Floats) -> Floats:
        assert self.simulator is not None
        return np.asarray(self.law(observation[:, :2], noise) - self.share * self.simulator.feed[:, None])


def _case(
    policy_gain: float, *, feed: float = 0.0, logged: bool = False, hand: float = HAND, stalls: bool = False
) -> Case:
    base = linear()
    spec = base.spec.to_dict()
    if logged:
        action = spec["tags"].pop("valve")
        spec["tags"] |= {"feed": {"role": "exogenous", "unit": "m", "range": [-20, 20]}, "valve": action}
    gain = LINEAR_GAIN
    law = StateFeedback(OPERATOR_SHARE * gain, np.zeros(1), hand)
    operator: Law = law
    if feed:
        operator = _Seeing(law, 1.0)

    def make(copies: int, rng: np.random.Generator) -> VectorDisturbed:
        simulator = VectorDisturbed(copies, rng, logged, feed, stalls)
        if isinstance(operator, _Seeing):
            operator.simulator = simulator
        return simulator

    plant = replace(base, spec=PlantSpec.from_dict(spec), simulator=make, operator=operator, linear=None)
    if feed:
        # Answers what the operator answers, and the state more firmly: better than it, if it is told of the feed.
        return Case(plant, _fed(gain, policy_gain) if logged else StateFeedback(policy_gain * gain, np.zeros(1)))
    return Case(plant, StateFeedback(policy_gain * gain, np.zeros(1)))


def _fed(gain: Floats, times: float) -> Law:
    return lambda observation, noise: -times * (observation[:, :2] @ gain.T) - observation[:, 2:3]


# name -> (trap, twin)
TRAPS: Mapping[str, tuple[Callable[[], Case], Callable[[], Case]]] = {
    "confounder": (lambda: _case(0.9, feed=FEED), lambda: _case(0.9, feed=FEED, logged=True)),
    "no excitation": (lambda: _case(1.2, hand=0.0), lambda: _case(1.2)),
    "outside": (lambda: _case(12.0, stalls=True), lambda: _case(1.2, stalls=True)),
}


def run_trap(name: str, seed: int, effort: Effort = FULL, episodes: int = EPISODES) -> dict[str, Any]:
    """Evaluates a trap and its twin.

    Returns:
        `caught`: whether the trap was refused (NO VERDICT) or warned of; `twin_accepted`: whether the twin got GO or
        NO-GO, and rightly; and what was found of each.
    """
    trap, twin = (_evaluated(make(), seed, effort, episodes) for make in TRAPS[name])
    return {
        "trap": trap,
        "twin": twin,
        "caught": trap["verdict"] == "NO VERDICT" or bool(trap["warnings"]),
        "twin_accepted": (twin["verdict"] == "GO TO SHADOW" and twin["true_gain"] > 0.0)
        or (twin["verdict"] == "NO-GO" and twin["true_gain"] < 0.0),
    }


def _evaluated(case: Case, seed: int, effort: Effort, episodes: int) -> dict[str, Any]:
    data = collect_log(case.plant, episodes, seed)
    found = evaluate_laws(case.plant, {"policy": case.policy}, data, effort, seed)
    (candidate,) = found.candidates
    policy, operator = (
        true_value(case.plant, law, found.estimand, 2048).value for law in (case.policy, case.plant.operator)
    )
    return {
        "verdict": candidate.decision.verdict,
        "failed": [check.name for check in candidate.decision.checks if not check.passed],
        "warnings": list(candidate.decision.warnings),
        "gain": candidate.gain.value,
        "low": candidate.gain.low,
        "high": candidate.gain.high,
        "true_gain": policy - operator,
        "support": candidate.evidence.support,
        "unexplained": candidate.evidence.unexplained,
        "autocorrelation": found.model.autocorrelation.tolist(),
    }
