"""The linear prediction against least squares, on plants whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from controlkit.dataset import TransitionDataset
from controlkit.errors import TrainingError
from controlkit.models.linear_prediction import MAX_PRODUCTS, LinearPrediction
from controlkit.morec import innovation
from controlkit.morec.innovation import LEAST_SPREAD, fit_linear_prediction
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec
from tests import noisy_plant
from tests.noisy_plant import NOISE, config, untrained


def tensors(log: LoggedTransitions, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return log.observe(rows), log.actions[rows], log.next_state(rows)


def varying_gain(rows: int = 400) -> LoggedTransitions:
    """Without noise: level' = level + (0.2 + 0.5 load) valve - 0.1 load level."""
    plant, rng = noisy_plant.spec(), np.random.default_rng(0)
    frames, actions = np.zeros((rows, 2)), rng.uniform(-1, 1, size=(rows, 1))
    frames[:, 1] = rng.uniform(0, 1, size=rows)
    for t in range(rows - 1):
        level, load = frames[t]
        frames[t + 1, 0] = level + (0.2 + 0.5 * load) * actions[t, 0] - 0.1 * load * level
    data = TransitionDataset.from_frames(
        plant,
        frames=frames.astype(np.float32),
        actions=actions.astype(np.float32),
        episode=np.zeros(rows, dtype=np.int64),
        time_ns=np.arange(rows) * noisy_plant.NS,
        sources={"synthetic": "0" * 64},
    )
    return LoggedTransitions(data)


def test_a_plant_whose_gains_vary_with_the_load_is_predicted_exactly() -> None:
    log, plant = varying_gain(), noisy_plant.spec()
    reward = untrained(log, plant, config())
    fit_linear_prediction(reward, log)
    assert isinstance(reward.prediction, LinearPrediction)
    observation, action, following = tensors(log, log.rows)
    found = observation[:, :1] + reward.change_scaler.invert(reward.expected_change(observation, action))
    torch.testing.assert_close(found, following, atol=2e-4, rtol=0)
    # No deviation is left to measure by.
    torch.testing.assert_close(reward.prediction.spread, torch.tensor([LEAST_SPREAD]))
    # And it goes on beyond the log.
    change = reward.change_scaler.invert(reward.expected_change(torch.tensor([[5.0, 2.0]]), torch.tensor([[1.5]])))
    assert float(change) == pytest.approx((0.2 + 1.0) * 1.5 - 0.1 * 2 * 5, abs=0.01)


@pytest.mark.parametrize(("states", "load", "history"), [(1, True, 0), (2, True, 2), (2, False, 1)])
def test_it_is_ridge_regression(states: int, load: bool, history: int) -> None:
    plant = noisy_plant.spec(history, states=states, load=load)
    log = noisy_plant.log(plant)
    reward = untrained(log, plant, config())
    fit_linear_prediction(reward, log)
    assert isinstance(reward.prediction, LinearPrediction)
    observation, action, following = tensors(log, log.rows)
    x = reward.prediction.features(reward.input_scaler(torch.cat([observation, action], dim=1))).double().numpy()
    y = reward.change_scaler(following - observation[:, :states]).double().numpy()
    assert x.shape[1] == (observation.shape[1] + 1) + (observation.shape[1] if load else 0)
    x, shrunk = np.column_stack([x, np.ones(len(x))]), np.append(np.ones(x.shape[1]), 0)
    found = torch.cat([reward.prediction.weight, reward.prediction.bias[None]]).double().numpy()
    fits = [
        np.linalg.lstsq(
            np.concatenate([x, np.diag(np.sqrt(strength * len(x) * shrunk))]),
            np.concatenate([y, np.zeros((x.shape[1], states))]),
            rcond=None,
        )[0]
        for strength in innovation.STRENGTHS
    ]
    off = [float(np.abs(found - fit).max()) for fit in fits]
    assert min(off) < 1e-5
    residual = y - x @ fits[int(np.argmin(off))]
    np.testing.assert_allclose(reward.prediction.spread, np.sqrt((residual**2).mean(axis=0)), rtol=1e-3)
    # In engineering units that is the noise of the plant.
    spread = reward.prediction.spread * reward.change_scaler.spread
    np.testing.assert_allclose(spread, NOISE * np.array([1.0, 2.0])[:states], rtol=0.1)


def ridge_chosen(log: LoggedTransitions, plant: PlantSpec, monkeypatch: pytest.MonkeyPatch) -> float:
    """Which strength gives the weights that are found."""
    reward = untrained(log, plant, config())
    fit_linear_prediction(reward, log)
    assert isinstance(reward.prediction, LinearPrediction)
    found, apart = reward.prediction.weight.clone(), {}
    for strength in innovation.STRENGTHS:
        with monkeypatch.context() as patch:
            patch.setattr(innovation, "STRENGTHS", (strength,))
            fit_linear_prediction(reward, log)
        apart[strength] = float((reward.prediction.weight - found).abs().max())
    assert min(apart.values()) == 0.0
    return min(apart, key=apart.__getitem__)


def test_a_ridge_is_strong_where_features_are_junk_and_weak_where_the_plant_is_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = noisy_plant.spec(30)
    noisy = noisy_plant.log(deep, episodes=1, steps=130, noise=3.0)
    assert ridge_chosen(noisy, deep, monkeypatch) == max(innovation.STRENGTHS)
    assert ridge_chosen(varying_gain(), noisy_plant.spec(), monkeypatch) == min(innovation.STRENGTHS)


def test_a_log_too_short_to_cut_is_fitted_all_the_same() -> None:
    log, plant = varying_gain(4), noisy_plant.spec()
    reward = untrained(log, plant, config())
    fit_linear_prediction(reward, log)
    assert isinstance(reward.prediction, LinearPrediction)
    assert bool(torch.isfinite(reward.prediction.weight).all())
    assert float(reward.prediction.weight.abs().max()) < 10


def test_more_rows_than_are_needed_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    log, plant, asked = noisy_plant.log(), noisy_plant.spec(), []
    whole = LoggedTransitions.observe
    monkeypatch.setattr(LoggedTransitions, "observe", lambda self, rows: asked.append(len(rows)) or whole(self, rows))
    monkeypatch.setattr(innovation, "MAX_ROWS", 100)
    reward = untrained(log, plant, config())
    asked.clear()
    fit_linear_prediction(reward, log)
    assert sum(asked) == -(-len(log.rows) // -(-len(log.rows) // 100)) <= 100
    assert isinstance(reward.prediction, LinearPrediction)
    spread = float(reward.prediction.spread * reward.change_scaler.spread)
    assert spread == pytest.approx(NOISE, rel=0.3)


def test_many_rows_of_many_columns_are_summed_up_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """10^5 rows of 60 slots: no more than a part of them, with all features, is ever held."""
    states, known = [f"s{i}" for i in range(20)], [f"k{i}" for i in range(9)]
    tags = {name: {"role": "state", "unit": "1", "range": [-9, 9], "history": 1} for name in states}
    tags |= {name: {"role": "exogenous", "unit": "1", "range": [-9, 9], "history": 1} for name in known}
    tags["u"] = {"role": "action", "unit": "1", "range": [-9, 9], "history": 2, "safe": 0, "fallback": {"kind": "hold"}}
    objective = [{"kind": "track", "tag": "s0", "setpoint": 0}]
    plant = PlantSpec.from_dict({"name": "wide", "period_s": 1, "tags": tags, "objective": objective})
    rng, rows = np.random.default_rng(0), 100_000
    log = LoggedTransitions(
        TransitionDataset.from_frames(
            plant,
            frames=rng.normal(size=(rows, 29)).astype(np.float32),
            actions=rng.normal(size=(rows, 1)).astype(np.float32),
            episode=np.zeros(rows, dtype=np.int64),
            time_ns=np.arange(rows) * noisy_plant.NS,
            sources={"synthetic": "0" * 64},
        )
    )
    assert log.layout.size == 60
    held, whole = [], LinearPrediction.features

    def features(self: LinearPrediction, scaled: torch.Tensor) -> torch.Tensor:
        found = whole(self, scaled)
        held.append(found.numel())
        return found

    monkeypatch.setattr(LinearPrediction, "features", features)
    reward = untrained(log, plant, config())
    fit_linear_prediction(reward, log)
    assert isinstance(reward.prediction, LinearPrediction)
    assert reward.prediction.weight.shape == (61 + 9 * 52, 20)
    assert max(held) <= 8192 * 529
    assert len(log.rows) / 2 <= sum(held) / 529 <= innovation.MAX_ROWS
    # White noise is predicted by nothing: the change of a tag is minus the tag, and one new number.
    spread = reward.prediction.spread * reward.change_scaler.spread
    np.testing.assert_allclose(spread, 1.0, rtol=0.05)


def test_products_are_bounded_on_wide_plants() -> None:
    wide = LinearPrediction(500, range(20), [*range(20, 45), 499], 25)
    assert (wide.products, wide.weight.shape[0]) == (20 * 26, 500 + 20 * 26)
    wider = LinearPrediction(900, range(50), [*range(50, 100), 899], 50)
    assert MAX_PRODUCTS < 50 * 51
    assert (wider.products, wider.weight.shape[0]) == (0, 900)
    assert wider.features(torch.zeros(3, 900)).shape == (3, 900)


def test_a_number_that_is_none_stops_with_the_stage() -> None:
    log, plant = noisy_plant.log(), noisy_plant.spec()
    reward = untrained(log, plant, config())
    log.frames[50, 0] = torch.nan
    with pytest.raises(TrainingError, match="linear prediction of the dynamics reward"):
        fit_linear_prediction(reward, log)


def test_nothing_is_fitted_where_changes_are_judged_by_themselves() -> None:
    log, plant = noisy_plant.log(), noisy_plant.spec()
    reward = untrained(log, plant, config(coordinates="change"))
    before = {name: value.clone() for name, value in reward.state_dict().items()}
    fit_linear_prediction(reward, log)
    assert reward.prediction is None
    assert reward.unit.tolist() == [1.0]
    for name, value in reward.state_dict().items():
        assert torch.equal(value, before[name])
