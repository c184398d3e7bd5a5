"""What world models are judged by, against slow versions and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controlkit.artifacts import build_models
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec import holdout
from controlkit.morec.dynamics import fit_dynamics
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant


@pytest.fixture(scope="module")
def log() -> LoggedTransitions:
    return LoggedTransitions(small_plant.dataset(noise=0.05))


def fitted(log: LoggedTransitions, **dynamics: object) -> GaussianEnsemble:
    config = small_plant.config(dynamics=dynamics)
    generator = torch.Generator().manual_seed(0)
    ensemble = build_models(config, small_plant.spec(), generator).dynamics
    limits = CommandLimits(small_plant.spec())
    fit_dynamics(ensemble, log, config.dynamics, config.scaling, limits, generator, Silent())
    return ensemble


def test_windows_begin_at_every_row_and_end_with_their_run() -> None:
    rows = torch.tensor([3, 4, 5, 6, 10, 20, 21])
    starts, length = holdout.open_loop_windows(rows, 3)
    assert starts.tolist() == rows.tolist()
    assert length.tolist() == [3, 3, 2, 1, 1, 2, 1]


def test_windows_are_thinned_evenly() -> None:
    starts, _ = holdout.open_loop_windows(torch.arange(10_000), 5)
    assert len(starts) == holdout.WINDOWS - 12  # every 20th
    assert set((starts[1:] - starts[:-1]).tolist()) == {20}


def test_open_loop_errors_against_one_rollout_after_the_other(log: LoggedTransitions) -> None:
    ensemble = fitted(log)
    rows = torch.cat([log.rows[10:17], log.rows[40:42]])
    found = holdout.open_loop_errors(ensemble, log, rows, 5)
    spread = float(ensemble.input_scaler.spread[0])
    plant_layout = log.layout
    for member in range(ensemble.members):
        alone = ensemble.subset(torch.tensor([member]))
        squares: dict[int, list[float]] = {}
        for start in rows.tolist():
            observation = log.observe(torch.tensor([start]))
            for step in range(5):
                row = start + step
                if row not in rows.tolist():
                    break
                action = log.actions[row : row + 1]
                level = alone(observation, action)[0][0].clamp(-10, 10)  # (1, 1)
                squares.setdefault(step, []).append(float((level.detach() - log.frames[row + 1, 0]) / spread) ** 2)
                frame = torch.tensor([[float(level), float(log.frames[row + 1, 1])]])
                parts = torch.cat([frame, action, observation], dim=1)
                observation = parts[:, torch.from_numpy(plant_layout.shift_index)]
        expected = [np.mean(squares[step]) for step in sorted(squares)]
        np.testing.assert_allclose(found[:, member].numpy(), expected, rtol=1e-3)


def test_a_member_that_leaves_all_numbers_behind_comes_last(log: LoggedTransitions) -> None:
    ensemble = fitted(log)
    with torch.no_grad():
        assert ensemble.net.skip is not None
        ensemble.net.skip.weight[1] = torch.nan
    errors = holdout.open_loop_errors(ensemble, log, log.rows[:50], 5)
    assert torch.isinf(errors[:, 1]).all()
    assert torch.isfinite(errors[:, [0, 2]]).all()
    assert int(holdout.relative_errors(errors).argmax()) == 1


def test_early_steps_weigh_more_than_late_ones() -> None:
    even = torch.ones(4, 3)
    early, late = even.clone(), even.clone()
    early[0, 0], late[3, 0] = 2.0, 2.0
    assert holdout.relative_errors(even).tolist() == pytest.approx([1.0, 1.0, 1.0])
    whole = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert float(holdout.relative_errors(early)[0]) == pytest.approx(1 + 1 / whole)
    assert float(holdout.relative_errors(late)[0]) == pytest.approx(1 + 0.25 / whole)
    # Whatever the errors' own size after as many steps.
    scaled = early * torch.tensor([1.0, 10.0, 100.0, 1e-6]).unsqueeze(1)
    torch.testing.assert_close(holdout.relative_errors(scaled), holdout.relative_errors(early))


def test_the_cut_takes_the_rows_farthest_from_the_bulk(log: LoggedTransitions) -> None:
    inner, outer = holdout.extrapolation_cut(log, 0.2)
    assert sorted(inner.tolist() + outer.tolist()) == log.rows.tolist()
    assert len(outer) == pytest.approx(0.2 * len(log.rows), abs=1)
    moved = np.stack([log.frames[log.rows, 0].numpy(), log.actions[log.rows, 0].numpy()])
    inverse, mean = np.linalg.inv(np.cov(moved)), moved.mean(axis=1)
    distance = {int(r): float((x - mean) @ inverse @ (x - mean)) for r, x in zip(log.rows, moved.T, strict=True)}
    assert max(distance[r] for r in inner.tolist()) < min(distance[r] for r in outer.tolist()) * (1 + 1e-5)


def test_a_command_that_never_moves_does_not_spoil_the_cut() -> None:
    log = LoggedTransitions(small_plant.dataset())
    log.actions[log.rows] = 0.7
    inner, outer = holdout.extrapolation_cut(log, 0.1)
    level = log.frames[:, 0]
    middle = level[log.rows].mean()
    assert float((level[outer] - middle).abs().min()) >= float((level[inner] - middle).abs().max()) - 1e-6


def test_extrapolation_is_judged_on_rows_that_the_fit_did_not_see() -> None:
    log = LoggedTransitions(small_plant.dataset(noise=0.01))
    seen: list[LoggedTransitions] = []

    def linear(part: LoggedTransitions) -> GaussianEnsemble:
        seen.append(part)
        return fitted(part, linear_members=3)

    def saturating(part: LoggedTransitions) -> GaussianEnsemble:
        """Right within the inner part, and flat beyond it."""
        ensemble = fitted(part, linear_members=3)
        level = part.frames[part.rows, 0]
        low, high = float(level.min()), float(level.max())
        predict = ensemble.forward

        def flat(observation: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            clamped = observation[:, :1].clamp(low, high)
            return predict(torch.cat([clamped, observation[:, 1:]], dim=1), action)

        ensemble.forward = flat  # type: ignore[method-assign]
        return ensemble

    right = holdout.extrapolation_holdout(log, linear)
    inner, outer = holdout.extrapolation_cut(log)
    assert seen[0].rows.tolist() == inner.tolist()
    assert len(log.rows) == len(inner) + len(outer)  # the caller's log is as it was
    flat = holdout.extrapolation_holdout(log, saturating)
    assert flat.inner == pytest.approx(right.inner, rel=1e-5)
    assert right.outer < 1.3 * right.inner
    assert flat.outer > 1.1 * right.outer
