"""Thresholds: known answers for each rule, and that they cover what they were fitted to."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from controlkit.artifacts import Models
from controlkit.dataset import TransitionDataset
from controlkit.errors import GateError
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.calibration import LEAST_DOUBT, Judged, _extremes, _frozen, calibrate
from deploy.export.gates import GOLDEN_MARGIN
from deploy.export.graph import ControllerGraph
from deploy.export.samples import recorded_inputs
from tests.deploy.conftest import Tank


def frozen_limits(level: list[float], tank: Tank, safety: SafetyConfig, episode: list[int] | None = None) -> int | None:
    rows = len(level)
    frames = np.tile(np.array([0.0, 5.0, 30.0, 1.2, 2.0], dtype=np.float32), (rows, 1))
    frames[:, 0] = level
    frames[:, 2] += np.arange(rows) % 7
    data = TransitionDataset.from_frames(
        tank.data.spec,
        frames=frames,
        actions=np.ones((rows, 3), dtype=np.float32),
        episode=np.array(episode or [0] * rows, dtype=np.int64),
        time_ns=np.arange(rows, dtype=np.int64),
    )
    return _frozen(data, safety)["level"]


def test_frozen_limit_is_a_multiple_of_the_longest_run(tank: Tank) -> None:
    moving = [1.0 + 0.01 * k for k in range(400)]
    safety = SafetyConfig()
    assert frozen_limits(moving, tank, safety) == 10  # no repeats: the least that is allowed
    five = moving.copy()
    five[100:106] = [five[100]] * 6  # six equal values are five repeats
    assert frozen_limits(five, tank, safety) == 15
    # A run that crosses from one episode into the next is two runs.
    assert frozen_limits(five, tank, safety, [0] * 103 + [1] * 297) == 10
    coarse = [float(round(value)) for value in moving]
    assert frozen_limits(coarse, tank, safety) is None  # repeats all the time: the rule says nothing


def test_extremes_are_those_of_the_obvious_sums(tank: Tank) -> None:
    rng = np.random.default_rng(0)
    path = np.repeat([0, 1, 2], [40, 1, 59])
    shortfall = rng.normal(0.3, 1.0, 100)
    shortfall[70] = 50.0
    safety = SafetyConfig()
    spread = rng.uniform(0.0, 1.0, 100)
    familiar = spread <= 0.7
    part = Judged(shortfall, spread, shortfall, path)
    found = _extremes(part, 0.1, 0.8, 0.7, safety)
    z = (shortfall - 0.1) / 0.8
    highest_ewma = highest_cusum = 0.0
    for number in range(3):
        mine = np.clip(z[(path == number) & familiar], -safety.shortfall_cap, safety.shortfall_cap)
        for last in range(len(mine)):
            weights = safety.ewma_weight * (1 - safety.ewma_weight) ** np.arange(last, -1, -1)
            highest_ewma = max(highest_ewma, float(weights @ mine[: last + 1]))
            tails = [float((mine[first : last + 1] - safety.cusum_slack).sum()) for first in range(last + 1)]
            highest_cusum = max(highest_cusum, *tails)
    assert found["shortfall"] == pytest.approx(z.max())
    assert found["ewma"] == pytest.approx(highest_ewma)
    assert found["cusum"] == pytest.approx(highest_cusum)


def test_thresholds_lie_beyond_what_was_healthy(tank: Tank) -> None:
    thresholds, record = calibrate(tank.models, tank.data, tank.safety, torch.Generator().manual_seed(1))
    for name, limit in (
        ("shortfall", thresholds.shortfall_limit),
        ("ewma", thresholds.ewma_limit),
        ("cusum", thresholds.cusum_limit),
    ):
        assert limit >= 1.5 * record.logged[name] * 0.999
    assert thresholds.spread_soft >= 2.0 * record.logged["spread"] * 0.999
    assert thresholds.spread_stop == pytest.approx(2.0 * thresholds.spread_soft)
    assert thresholds.score_soft <= record.logged["score"] / 2.0 * 1.001
    assert thresholds.score_stop == pytest.approx(thresholds.score_soft / 2.0)
    assert record.rows == len(tank.data.transitions)
    assert record.closed_loop_steps > 1000
    assert set(thresholds.frozen_repeats) == {"level", "temperature"}


def test_elites_that_agree_to_the_last_digit_leave_room_for_rounding(tank: Tank) -> None:
    """As on a plant without noise: a threshold at their rounding would fall either way on another processor."""
    models = copy.deepcopy(tank.models)
    with torch.no_grad():
        for values in models.dynamics.net.parameters():
            values.copy_(values[:1].expand_as(values) * (1.0 + 1e-7 * torch.arange(len(values)).view(-1, 1, 1)))
    generator = torch.Generator().manual_seed(0)
    thresholds, _ = calibrate(models, tank.data, tank.safety, generator)
    assert thresholds.spread_drift == LEAST_DOUBT
    assert thresholds.spread_soft == LEAST_DOUBT < thresholds.spread_stop
    graph = ControllerGraph(tank.data.spec, models, thresholds, tank.safety)
    inputs = recorded_inputs(graph, tank.data, 400, generator)
    with torch.no_grad():
        _, margin = graph.with_margins(inputs)
    assert float((margin >= GOLDEN_MARGIN).float().mean()) > 0.5


def test_same_generator_same_thresholds(tank: Tank) -> None:
    one, two = (calibrate(tank.models, tank.data, tank.safety, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert one == two


def test_closed_loop_may_raise_a_threshold_only_so_far(tank: Tank) -> None:
    """A policy that stands where the elites disagree widely cannot talk the check out of acting."""
    generous = tank.safety.model_copy(update={"closed_loop_allowance": 1e6})
    strict = tank.safety.model_copy(update={"closed_loop_allowance": 1.0})
    wild = replace(tank.models, residuals=tank.models.residuals * 30.0)
    limits = [calibrate(wild, tank.data, safety, torch.Generator().manual_seed(4))[0] for safety in (strict, generous)]
    assert limits[0].shortfall_limit < limits[1].shortfall_limit
    quiet = calibrate(tank.models, tank.data, strict, torch.Generator().manual_seed(4))[0]
    assert limits[0].shortfall_limit == pytest.approx(quiet.shortfall_limit)


def test_too_short_a_calibration_part_is_refused(tank: Tank) -> None:
    with pytest.raises(GateError, match=r"only \d+ usable steps, 50 are needed"):
        calibrate(tank.models, tank.data.slice(0, 30), tank.safety, torch.Generator())


def test_networks_that_give_nan_are_refused(tank: Tank) -> None:
    wrong = tank.models.residuals * float("nan")
    models: Models = replace(tank.models, residuals=wrong)
    with pytest.raises(GateError, match="no number"):
        calibrate(models, tank.data, tank.safety, torch.Generator().manual_seed(0))


def test_a_stop_end_lies_beyond_its_soft_end(tank: Tank) -> None:
    for change in ({"spread_stop": 0.0}, {"score_stop": 99.0}):
        with pytest.raises(ValueError, match="stop"):
            Thresholds(**(tank.thresholds.model_dump() | change))
