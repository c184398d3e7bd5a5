"""The benchmark of the evaluation: its truth against closed forms, its scores against counting by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from controlkit.benchmarks.ope import SIZES, judge, known_truth, run_suite
from controlkit.benchmarks.ope_plants import PLANTS, POLICIES, get_truth_plant
from controlkit.benchmarks.ope_scores import clustered_upper, risk_coverage, scores
from controlkit.benchmarks.ope_truth import collect_log, true_value
from controlkit.errors import ControlkitError
from controlkit.evaluation.assessment import FULL, Effort
from controlkit.evaluation.estimand import Estimand
from controlkit.files import write_json
from controlkit.progress import Silent

TINY = Effort(folds=2, model_updates=40, clone_updates=40, fqe_updates=100, fqe_members=2, starts=40)


def row(name: str, verdict: str, gain: float, true: float, support: float = 1.0) -> dict[str, object]:
    return {
        "policy": name, "verdict": verdict, "gain": gain, "true_gain": true, "range": 1.0, "error": abs(gain - true),
        "covered": abs(gain - true) < 0.2, "true_support": support, "trust": support - abs(gain - true),
    }  # fmt: skip


@pytest.mark.parametrize("name", PLANTS)
def test_every_plant_has_its_policies(name: str) -> None:
    plant = get_truth_plant(name)
    assert len(plant.policies) == POLICIES
    observation = collect_log(plant, 2, 0).observations(np.array([plant.steps - 1]))
    for law in (plant.operator, *plant.policies.values()):
        command = law(observation.astype(float), np.zeros((1, len(plant.spec.action_tags))))
        assert command.shape == (1, len(plant.spec.action_tags))


def test_rollouts_find_the_closed_form_value() -> None:
    plant, estimand = get_truth_plant("linear"), Estimand(0.95, 40)
    law = plant.policies["gain 1.5, bias 0.15"]
    exact = true_value(plant, law, estimand, 16).value
    simulated = true_value(plant, lambda observation, noise: law(observation, noise), estimand, 4096)
    assert abs(simulated.value - exact) < 4 * simulated.stderr
    assert simulated.stderr < 0.05 * abs(exact)


def test_scores_are_what_counting_gives() -> None:
    one = [
        row("a", "GO TO SHADOW", 0.5, 0.4),
        row("b", "NO-GO", -0.3, -0.3),
        row("c", "NO VERDICT", 2.0, -0.6, support=0.1),
        row("d", "INCONCLUSIVE", 0.1, 0.3),
    ]
    other = [row("a", "GO TO SHADOW", 0.1, -0.1), row("b", "NO-GO", -0.2, -0.2)]
    found = scores([one, other])
    assert found["abs_error_median"] == pytest.approx(0.05)
    assert found["abs_error_median_refused"] == pytest.approx(2.6)
    assert found["false_go"] == pytest.approx(1 / 4)  # of b, c, a, b that are not better
    assert found["power"] == pytest.approx(1 / 2)
    assert found["verdict_share"] == pytest.approx(4 / 5)
    assert found["regret_at_1"] == pytest.approx((1.0 + 0.0) / 2)
    share, risk = risk_coverage(one)
    assert share[-1] == 1.0
    assert risk[0] <= risk[-1]


def test_an_upper_bound_is_clustered_by_data_set() -> None:
    assert clustered_upper([0.0] * 8) == pytest.approx(1 - 0.05 ** (1 / 8))
    assert clustered_upper([0.0, 0.5, 0.0, 0.5]) > 0.25
    assert clustered_upper([0.3]) == 1.0


def test_a_reduced_run_judges_every_policy(tmp_path: Path) -> None:
    data = collect_log(get_truth_plant("linear"), 24, 1)
    rows = judge("linear", data, tmp_path, effort=TINY, rollouts=128)
    assert len(rows) == POLICIES
    assert scores([rows])["spearman"] > 0.8
    assert np.median([r["error"] for r in rows]) < 0.05
    assert list(tmp_path.iterdir())  # the truth is kept


def test_true_values_are_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimand = Estimand(0.95, 20)
    first = known_truth("linear", estimand, tmp_path, 16)
    monkeypatch.setattr("controlkit.benchmarks.ope.true_value", lambda *_: pytest.fail("computed again"))
    again = known_truth("linear", estimand, tmp_path, 16)
    assert {name: truth.value for name, truth in again.items()} == {name: truth.value for name, truth in first.items()}
    assert all(again[name].steps == pytest.approx(truth.steps, rel=1e-6) for name, truth in first.items())


def kept(out: Path, plant: str, size: int, effort: Effort) -> None:
    part = {"plant": plant, "size": size, "seed": 0, "commit": "0" * 12, "effort": asdict(effort), "seconds": 1.0}
    policies = [row("a", "GO TO SHADOW", 0.5, 0.4), row("b", "NO-GO", -0.3, -0.3)]
    write_json(out / "parts" / f"{plant}-{size}-0.json", part | {"policies": policies})


def test_a_table_and_a_plot_of_what_is_kept(tmp_path: Path) -> None:
    for size in SIZES:
        kept(tmp_path, "linear", size, FULL)
    table = run_suite(tmp_path, 1, Silent(), tasks=["linear"])
    assert [f"linear, {size} episodes" in table for size in SIZES] == [True] * 3
    assert (tmp_path / "risk-coverage.png").stat().st_size > 1000
    assert (tmp_path / "table.md").read_text() == table
    assert "100 episodes" not in run_suite(tmp_path, 1, Silent(), tasks=["linear-30"])


def test_what_was_evaluated_with_other_settings_is_evaluated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "linear", 100, TINY)

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("evaluated again")

    monkeypatch.setattr("controlkit.benchmarks.ope.ProcessPoolExecutor", refused)
    with pytest.raises(RuntimeError, match="evaluated again"):
        run_suite(tmp_path, 1, Silent(), tasks=["linear-100"])


def test_an_unknown_plant_is_named(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match="linear-1000"):
        run_suite(tmp_path, 1, Silent(), tasks=["linear-1000"])
