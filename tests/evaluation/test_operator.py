"""The cloned operator: commands that the plant's limits have cut are no wishes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from controlkit.config import ScalingConfig
from controlkit.dataset import TransitionDataset
from controlkit.evaluation.policies import fit_operator, unexplained
from controlkit.models.actor import BehaviourClone, hazard
from controlkit.objective import CommandLimits
from controlkit.replay import LoggedTransitions
from tests.evaluation.conftest import SIGMA, A, B, LinearPlant

GAIN, HAND = 2.0, 0.4


@pytest.fixture(scope="module")
def cut_log(plant: LinearPlant) -> TransitionDataset:
    """An operator u = -2 x + N(0, 0.4) whose valve ends at +-0.5, where more than a third of the commands are."""
    rng, rows = np.random.default_rng(4), 6000
    x, frames, actions = 0.0, np.zeros((rows, 1), np.float32), np.zeros((rows, 1), np.float32)
    for row in range(rows):
        u = float(np.clip(-GAIN * x + HAND * rng.standard_normal(), -0.5, 0.5))
        frames[row], actions[row] = x, u
        x = A * x + B * u + SIGMA * rng.standard_normal()
    spec = plant.spec(tags={"u": {"range": [-0.5, 0.5]}})
    return TransitionDataset.from_frames(
        spec, frames=frames, actions=actions, episode=np.zeros(rows, np.int64),
        time_ns=np.arange(rows, dtype=np.int64) * 10**9, sources={"cut": "0" * 64},
    )  # fmt: skip


@pytest.fixture(scope="module")
def log(cut_log: TransitionDataset) -> LoggedTransitions:
    return LoggedTransitions(cut_log)


@pytest.fixture(scope="module")
def clone(log: LoggedTransitions, cut_log: TransitionDataset) -> BehaviourClone:
    return _fitted(log, cut_log)


def _fitted(log: LoggedTransitions, data: TransitionDataset, updates: int = 300) -> BehaviourClone:
    return fit_operator(log, CommandLimits(data.spec), ScalingConfig(), updates, torch.Generator().manual_seed(0))


def test_the_law_behind_cut_commands_is_found(
    log: LoggedTransitions, cut_log: TransitionDataset, clone: BehaviourClone
) -> None:
    at_limit = float((log.actions[log.rows].abs() >= 0.5).float().mean())
    assert at_limit > 0.35
    x = torch.linspace(-0.6, 0.6, 25).unsqueeze(1)
    for fitted, within in ((clone, 0.1), (_fitted(log, cut_log, 0), 0.05)):
        mean, log_std = fitted.distribution(x)
        assert float((fitted.action_scaler.invert(mean) + GAIN * x).abs().max()) < within
        spread = log_std.exp() * fitted.action_scaler.spread
        assert float(spread.mean()) == pytest.approx(HAND, rel=0.06)
    # What least squares make of the same commands: another operator.
    seen, given = log.observe(log.rows)[:, 0], log.actions[log.rows, 0]
    slope = float((seen * given).sum() / seen.square().sum())
    assert slope > -0.75 * GAIN


def test_commands_of_the_clone_are_cut_alike(log: LoggedTransitions, clone: BehaviourClone) -> None:
    drawn = clone.sample(log.observe(log.rows), torch.Generator().manual_seed(1))
    recorded = log.actions[log.rows]
    for level in (-0.5, -0.25, 0.0, 0.25, 0.49):
        shares = [float((each <= level).float().mean()) for each in (drawn, recorded)]
        assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_an_operator_at_the_limits_hides_nothing(log: LoggedTransitions, clone: BehaviourClone) -> None:
    """Its cut commands stay behind its mean for as long as it saturates; that is no disturbance that only it sees."""
    assert abs(float(unexplained(clone, log, log.rows))) < 0.05
    rest = clone.residual(log.observe(log.rows), log.actions[log.rows])
    assert abs(float(rest.mean())) < 0.05


def test_likelihoods_are_those_of_a_clipped_normal_command(log: LoggedTransitions, clone: BehaviourClone) -> None:
    """Against density and tails written out in engineering units, in double precision."""
    rows = log.rows[:200]
    observation, action = log.observe(rows), log.actions[rows]
    mean, log_std = (each.double() for each in clone.distribution(observation))
    scale = clone.action_scaler.spread.double()
    normal = torch.distributions.Normal(clone.action_scaler.invert(mean), log_std.exp() * scale)
    expected = normal.log_prob(action.double()) + 0.5 * math.log(2 * math.pi) + scale.log()
    low, high = action <= -0.5, action >= 0.5
    assert low.any()
    assert high.any()
    expected[low] = normal.cdf(torch.tensor(-0.5, dtype=torch.float64)).log()[low]
    expected[high] = (1.0 - normal.cdf(torch.tensor(0.5, dtype=torch.float64))).log()[high]
    found = clone.log_likelihood(observation, action).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("under", [-40.0, -12.0, -9.9, -3.0, 0.0, 2.0, 9.0])
def test_the_tail_of_a_normal_number(under: float) -> None:
    """Against a sum over a fine grid below `under`, weighted with the density less its largest exponent."""
    grid = under - torch.linspace(0.0, 40.0, 400_001, dtype=torch.float64)
    exponent = -0.5 * grid.square()
    weight = (exponent - exponent.max()).exp()
    expected = -float((grid * weight).sum() / weight.sum())
    found = hazard(torch.tensor([under], dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=3e-4, abs=1e-6)
    assert float(hazard(torch.tensor([under], dtype=torch.float32))) == pytest.approx(float(found), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("command", ["always at the limit", "on and off"])
def test_an_operator_that_only_switches_is_cloned(plant: LinearPlant, command: str) -> None:
    """No likelihood has its maximum there, for the wishes may be anything beyond; the clone must switch alike."""
    rng, rows = np.random.default_rng(0), 800
    x = rng.standard_normal((rows, 1)).astype(np.float32)
    u = np.where((x < 0.2) | (command == "always at the limit"), 0.5, -0.5).astype(np.float32)
    data = TransitionDataset.from_frames(
        plant.spec(tags={"u": {"range": [-0.5, 0.5]}}), frames=x, actions=u, episode=np.zeros(rows, np.int64),
        time_ns=np.arange(rows, dtype=np.int64) * 10**9, sources={"switch": "0" * 64},
    )  # fmt: skip
    log = LoggedTransitions(data)
    clone = _fitted(log, data)
    assert bool(torch.isfinite(torch.cat(clone.distribution(log.observe(log.rows)))).all())
    assert bool(torch.isfinite(unexplained(clone, log, log.rows)).all())
    drawn = clone.sample(log.observe(log.rows), torch.Generator().manual_seed(1))
    assert float(((drawn - log.actions[log.rows]).abs() < 0.05).float().mean()) > 0.93
