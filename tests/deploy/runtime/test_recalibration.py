"""What an edge learns of its plant: known answers, bounds, and upsets that must not be learned."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.runtime.recalibration import Calibration, Recalibrator

STEPS = 400


def recalibrator(one: float = 8.0, ewma: float = 2.0, cusum: float = 30.0, steps: int = STEPS) -> Recalibrator:
    limits = {
        "score_soft": -1.0, "score_stop": -2.0, "spread_soft": 1.0, "spread_stop": 2.0, "spread_drift": 1.0,
        "shortfall_mean": 0.0, "shortfall_std": 1.0,
    }  # fmt: skip
    thresholds = Thresholds(frozen_repeats={}, shortfall_limit=one, ewma_limit=ewma, cusum_limit=cusum, **limits)
    return Recalibrator(SafetyConfig(), thresholds, steps, 3.0, 2.0)


def feed(learner: Recalibrator, values: np.ndarray, summed: bool = True) -> list[int]:
    """Steps (counted from 1) in which a calibration was found."""
    return [i for i, value in enumerate(values.tolist(), 1) if learner.see(value, summed) is not None]


def healthy(mean: float, spread: float, rows: int = STEPS, seed: int = 0) -> np.ndarray:
    """Normal values whose own mean and spread are exactly those."""
    z = np.random.default_rng(seed).standard_normal(rows)
    return mean + spread * (z - z.mean()) / z.std()


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (1.2, 1.0), (-2.5, 1.6), (2.9, 2.9), (0.3, 0.2)])
def test_mean_and_spread_of_a_healthy_plant_are_found(mean: float, spread: float) -> None:
    learner = recalibrator()
    assert feed(learner, healthy(mean, spread)) == [STEPS]
    found = learner.result
    assert found is not None
    assert found.shift == pytest.approx(mean, abs=1e-9)
    # Never narrower than the log's.
    assert found.stretch == pytest.approx(max(spread - 1.0, 0.0), abs=1e-9)
    assert learner.progress == f"done: shift {mean:+.2f}, stretch {max(spread - 1, 0):.2f}"
    # Once found it stays.
    assert feed(learner, healthy(-1.0, 1.0, 3 * STEPS)) == []
    assert learner.result is found


@pytest.mark.parametrize(("mean", "spread"), [(3.2, 1.0), (-3.2, 1.0), (0.0, 3.2)])
def test_another_plant_than_the_logs_is_refused(mean: float, spread: float) -> None:
    learner = recalibrator()
    assert feed(learner, healthy(mean, spread)) == []
    assert "check nodes, units and sensors" in learner.progress
    assert f"{mean:+.1f} standard deviations" in learner.refusal
    assert learner.progress.startswith(f"{STEPS} of {STEPS} scored steps")


def test_an_upset_in_the_window_delays_until_it_has_moved_out() -> None:
    learner = recalibrator()
    values = healthy(0.5, 1.0, 3 * STEPS)
    values[100:140] += 5.0
    found = feed(learner, values)
    assert len(found) == 1
    # Tries come every quarter of the window; the upset leaves it with step 540.
    assert found[0] in (500, 600)
    assert learner.result is not None
    assert learner.result.shift == pytest.approx(0.5, abs=0.3)
    assert learner.refusal == ""


@pytest.mark.parametrize(
    ("limits", "name"), [({"one": 2.0}, "one step"), ({"ewma": 0.3}, "the average"), ({"cusum": 1.0}, "the sum")]
)
def test_what_would_trip_right_after_is_refused_by_name(limits: dict[str, float], name: str) -> None:
    learner = recalibrator(**limits)
    assert feed(learner, healthy(0.0, 1.0)) == []
    assert learner.refusal.startswith(f"{name} of observed shortfalls still reached")


def test_average_and_sum_are_the_graphs() -> None:
    """EWMA weight 0.05, CUSUM slack 0.5, both capped at 6: the largest they reach is the limit that just passes."""
    values, safety = healthy(0.0, 1.0), SafetyConfig()
    ewma = cusum = high_ewma = high_cusum = 0.0
    for value in np.clip(values, -6.0, 6.0).tolist():
        ewma = (1 - safety.ewma_weight) * ewma + safety.ewma_weight * value
        cusum = max(0.0, cusum + value - safety.cusum_slack)
        high_ewma, high_cusum = max(high_ewma, ewma), max(high_cusum, cusum)
    for share, passes in ((1.001, True), (0.999, False)):
        assert (len(feed(recalibrator(ewma=share * high_ewma), values)) == 1) == passes
        assert (len(feed(recalibrator(cusum=share * high_cusum), values)) == 1) == passes
        assert (len(feed(recalibrator(one=share * values.max()), values)) == 1) == passes
    # Steps on unfamiliar ground enter neither average nor sum.
    assert feed(recalibrator(ewma=1e-9, cusum=1e-9), values, summed=False) == [STEPS]


def test_a_value_that_is_no_number_is_no_step() -> None:
    learner = recalibrator(steps=4)
    for value in (np.nan, np.inf, -np.inf):
        assert learner.see(value, True) is None
    assert learner.progress == "0 of 4 scored steps"
    assert feed(learner, np.array([0.5, -0.5, 0.5, -0.5])) == [4]


def test_steps_that_are_all_alike_are_learned_without_a_division_by_nothing() -> None:
    learner = recalibrator(steps=4)
    assert feed(learner, np.full(4, 1.5)) == [4]
    assert learner.result == Calibration(1.5, 0.0)


def test_forgetting_begins_anew() -> None:
    learner = recalibrator()
    feed(learner, healthy(1.0, 1.0))
    learner.forget()
    assert (learner.result, learner.refusal, learner.progress) == (None, "", f"0 of {STEPS} scored steps")
    assert feed(learner, healthy(-1.0, 1.0, STEPS - 1)) == []
    assert learner.see(-1.0, True) is not None
    assert learner.result is not None
    assert learner.result.shift == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize(
    ("earlier", "taken"),
    [
        (Calibration(3.0, 2.0), True), (Calibration(-3.0, 0.0), True), (Calibration(3.1, 0.0), False),
        (Calibration(0.0, 2.1), False), (Calibration(0.0, -0.1), False), (Calibration(np.nan, 0.0), False),
        (Calibration(0.0, np.nan), False), (Calibration(np.inf, 0.0), False),
    ],
)  # fmt: skip
def test_what_was_learned_earlier_is_taken_over_inside_the_bounds(earlier: Calibration, taken: bool) -> None:
    learner = recalibrator()
    assert learner.accept(earlier) is taken
    assert learner.result == (earlier if taken else None)
    assert feed(learner, healthy(0.0, 1.0)) == ([] if taken else [STEPS])
