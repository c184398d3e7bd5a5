"""The three studies at their smallest, and the pieces whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from controlkit.benchmarks.known_truth import operator_log, plain_spec, rollout_mae
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.errors import ControlkitError
from controlkit.morec.transition_filter import TransitionFilter
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from controlkit.studies import ablation, ood, sensitivity, variants
from controlkit.studies.learned import learn_models, threshold_of, train_policy
from controlkit.studies.variants import NOISE, Variant, model_rollouts, reference_costs, variant_jobs, without_structure

TINY = {
    "dynamics.hidden": [8],
    "dynamics.members": 3,
    "dynamics.elites": 2,
    "dynamics.max_epochs": 2,
    "reward.hidden": [8],
    "reward.networks": 2,
    "reward.snapshots": 2,
    "reward.updates": 60,
    "reward.behaviour_updates": 60,
    "reward.distil_updates": 60,
    "reward.generator_hidden": [8],
    "reward.generator_starts": 32,
    "rollout.length": 5,
    "rollout.starts": 20,
    "rollout.every": 20,
    "policy.updates": 40,
    "policy.hidden": [8],
    "policy.warm_start": 20,
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer copies, steps and questions."""
    for module, name, value in (
        (variants, "STEPS", 40),
        (variants, "ROLLOUT_STEPS", 10),
        (variants, "ROWS", 600),
        (variants, "CALIBRATION", 200),
        (ood, "ROWS", 600),
        (ood, "CALIBRATION", 200),
        (ood, "QUESTIONS", 600),
        (ood, "ROLLOUTS", 80),
        (ood, "STEPS", 4),
    ):
        monkeypatch.setattr(module, name, value)


def test_each_row_of_the_ablation_changes_what_it_says() -> None:
    base = ablation.VARIANTS["base"].config(0, {}).to_dict()
    sections = {name: fields for name, fields in base.items() if isinstance(fields, dict)}
    flat = {f"{section}.{field}": value for section, fields in sections.items() for field, value in fields.items()}
    for variant in ablation.VARIANTS.values():
        content = variant.config(0, {}).to_dict()
        changed = {name for name, value in flat.items() if content[name.split(".")[0]][name.split(".")[1]] != value}
        assert changed <= set(variant.overrides), variant.name
        assert changed or not variant.structure or variant.name == "base", variant.name
    assert base["filter"]["choose"] == "argmax"
    assert base["filter"]["threshold"] == "auto"
    assert base["filter"]["enabled"]


def test_variants_that_learn_the_same_share_a_job() -> None:
    chosen = [
        Variant("a", {}),
        Variant("b", {"filter.threshold": "off"}),
        Variant("c", {"reward.method": "mixed"}),
        Variant("d", {}, structure=False),
        Variant("e", {"rollout.penalty": "none"}),
    ]
    jobs = variant_jobs("s", chosen, {}, 2, 3, chunk=2)
    assert len(jobs) == 4 * 6
    assert len({job.name for job in jobs}) == len(jobs)
    names = [[v["name"] for v in job.settings["variants"]] for job in jobs if (job.log, job.seed) == (1, 2)]
    assert names == [["a", "b"], ["e"], ["c"], ["d"]]


def test_without_structure_the_door_is_predicted_too() -> None:
    spec = without_structure(plain_spec())
    assert spec.state_tags == ("temperature", "door")
    assert spec.frame_tags == plain_spec().frame_tags


def test_a_small_ablation(tmp_path: Path) -> None:
    methods = ("base", "filter off: the ensemble mean", "structure off: the door is a state")

    def run() -> str:
        return ablation.run_study(tmp_path, 2, Silent(), methods=methods, training_seeds=1, workers=1, settings=TINY)

    table = run()
    records = {(r["method"], r["metric"]): r for r in json.loads((tmp_path / "results.json").read_text())}
    assert all(f"| {method} |" in table for method in methods)
    mean = "filter off: the ensemble mean"
    assert records[mean, "argmax_error_in"]["value"] == pytest.approx(1.0)
    assert records[mean, "argmax_error_out"]["value"] == pytest.approx(1.0)
    assert (mean, "rank_in") not in records
    assert records[mean, "ended_training"]["value"] == 0.0
    for method in methods:
        assert records[method, "closed_loop_mae"]["value"] > 0.05
        assert records[method, "closed_loop_mae"]["seeds"] == 2
    base = records["base", "rank_in"]["value"]
    assert -1.0 <= base <= 1.0
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
    before = {part: part.stat().st_mtime_ns for part in (tmp_path / "parts").iterdir()}
    assert len(before) == 4  # models with structure and without, on two logs
    assert run() == table
    assert {part: part.stat().st_mtime_ns for part in (tmp_path / "parts").iterdir()} == before
    with pytest.raises(ControlkitError, match="unknown row 'bas'"):
        ablation.run_study(tmp_path, 1, Silent(), methods=("bas",))


def test_a_small_sensitivity(tmp_path: Path) -> None:
    chosen = (sensitivity.point(None, None), sensitivity.point(0.99, None), sensitivity.point(None, 10.0))
    table = sensitivity.run_study(tmp_path, 1, Silent(), training_seeds=1, workers=1, settings=TINY, variants=chosen)
    records = {(r["method"], r["metric"]): r["value"] for r in json.loads((tmp_path / "results.json").read_text())}
    assert "| off, argmax |" in table
    assert records["off, argmax", "ended_training"] == 0.0
    assert records["off, argmax", "ended_pid"] == 0.0
    assert records["quantile 0.99, argmax", "ended_training"] > 0.0
    # The threshold ends rollouts; it changes none of the choices.
    assert records["quantile 0.99, argmax", "rollout_mae_p"] == records["off, argmax", "rollout_mae_p"]
    assert records["off, kappa 10", "argmax_error_in"] != records["off, argmax", "argmax_error_in"]
    for name in ("threshold", "kappa", "grid"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_sweeps_reach_from_off_to_nothing_left() -> None:
    quantiles = [variant.threshold_quantile for variant in sensitivity.BY_THRESHOLD]
    assert quantiles[0] is None
    assert quantiles[-2] == 0.99
    kappas = [variant.overrides.get("filter.kappa") for variant in sensitivity.BY_KAPPA]
    assert (kappas[0], kappas[1], kappas[-1]) == (None, 0.001, 10.0)
    assert len(sensitivity.GRID) == 16
    assert len(sensitivity.VARIANTS) == 29  # points that two sweeps share are run once


@pytest.mark.parametrize("plant", list(ood.PLANTS))
def test_a_small_study_of_distances(tmp_path: Path, plant: str) -> None:
    table = ood.run_study(tmp_path, 1, Silent(), tasks=(plant,), training_seeds=1, workers=1, settings=TINY)
    records = json.loads((tmp_path / "results.json").read_text())
    found = {(r["task"], r["method"], r["metric"]): r["value"] for r in records}
    tasks = [f"{plant},{name}" for name in ood.bin_names()]
    assert sum(found[task, "questions", "share"] for task in tasks) == pytest.approx(1.0)
    seen = [task for task in tasks if (task, "best", "pick_ratio") in found]
    assert len(seen) >= 5
    for task in seen:
        assert found[task, "ensemble_mean", "pick_ratio"] == pytest.approx(1.0)
        assert found[task, "best", "rank"] == pytest.approx(1.0)
        for method in ood.METHODS:
            assert found[task, "best", "pick"] <= found[task, method, "pick"] + 1e-6
            assert found[task, method, "error"] == found[task, "ensemble_mean", "error"]
        for judge in ood.JUDGES:
            assert 0.0 <= found[task, judge, "rejected_true"] <= 1.0
    # Far away the ensemble is worse than near.
    errors = [found[task, "ensemble_mean", "error"] for task in seen]
    assert errors[-1] > 2 * errors[0]
    assert f"## {plant.capitalize()}" in table
    assert (tmp_path / f"{plant.replace(' ', '_')}.png").stat().st_size > 10_000


def test_an_unknown_plant_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match=r"study ood: unknown plant 'tank'\. did you mean 'stirred tank'\?"):
        ood.run_study(tmp_path, 1, Silent(), tasks=("tank",))


def test_rollouts_of_the_mean_are_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`model_rollouts` of the ensemble mean and `known_truth.rollout_mae` of the same are one thing."""
    monkeypatch.setattr(variants, "ROLLOUT_STEPS", 100)
    spec, config = plain_spec(), ablation.VARIANTS["filter off: the ensemble mean"].config(0, TINY)
    log = LoggedTransitions(operator_log(NOISE, 0, 600))
    models = learn_models(spec, log, config)
    chooser = TransitionFilter(models.dynamics, models.judge, config.filter, -np.inf)
    error, alive = model_rollouts(chooser, spec, "pid", 0)
    assert alive.all()

    def predict(observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mean: torch.Tensor = models.dynamics(observation, action)[0].mean(dim=0)
        return mean

    assert error.mean() == pytest.approx(rollout_mae(predict, "pid"), rel=1e-3)


def test_a_policy_of_the_stage_repeats_itself() -> None:
    spec, config = plain_spec(), ablation.VARIANTS["base"].config(0, TINY)
    log = LoggedTransitions(operator_log(NOISE, 0, 600))
    models = learn_models(spec, log, config)
    threshold = threshold_of(models, log, config)
    assert np.isfinite(threshold)
    chooser = TransitionFilter(models.dynamics.lean(), models.judge, config.filter, threshold)
    frames = np.array([[10.0, 0.0], [-2.0, 1.0]])
    commands = []
    for _ in range(2):
        actor, ended = train_policy(models, chooser, spec, log, config)
        assert 0.0 <= ended <= 1.0
        controller = PolicyController(actor, spec)
        controller.reset(2)
        commands.append(controller.act(frames))
    assert np.array_equal(*commands)


def test_reference_costs_are_in_order() -> None:
    costs = reference_costs(("operator", "raw_deadbeat"))
    assert costs["raw_deadbeat"] < costs["operator"]
