"""The filter suite at its smallest: what is measured, that runs go on where they were, and anchors that must hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.benchmarks import filter as suite
from controlkit.benchmarks import filter_methods
from controlkit.benchmarks.filter import noise_floor, run_suite
from controlkit.benchmarks.known_truth import Points, judge_picks, operator_log, plain_spec, rollout_mae
from controlkit.config import RunConfig
from controlkit.errors import ControlkitError
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from envs.refrigerator import next_temperature

TINY = {"networks": 1, "snapshots": 1, "hidden": [8], "updates": 40, "behaviour_updates": 20, "distil_updates": 20}
TINY |= {"generator_hidden": [8], "generator_starts": 16, "generator_steps": 2}
METHODS = ("ensemble_mean", "medoid", "regressor", "linear", "least_squares", "best", "noise", "irl", "distilled")


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_methods, "DYNAMICS", {"hidden": [8], "activation": "silu", "max_epochs": 2})
        patch.setattr(
            filter_methods, "REWARDS", {name: TINY | dict(found) for name, found in filter_methods.REWARDS.items()}
        )
        patch.setattr(suite, "TRAINING_SEEDS", 2)
        patch.setattr(suite, "commit", lambda: "here")
        yield


@pytest.fixture(scope="module")
def ran(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("filter")
    return out, run_suite(out, 1, Silent(), tasks=("process",), methods=METHODS, workers=1, first_log=100)


def parts(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "parts").glob("*.json"))]


def test_a_run_writes_parts_records_and_a_table(ran: tuple[Path, str]) -> None:
    out, table = ran
    assert [path.name for path in sorted((out / "parts").iterdir())] == ["process-100-0.json", "process-100-1.json"]
    assert (out / "table.md").read_text() == table
    records = json.loads((out / "results.json").read_text())
    found = {(r["task"], r["method"], r["metric"]): r["value"] for r in records}
    for method in METHODS:
        assert f"| {method} |" in table
        for controller in ("p", "pid"):
            assert found[f"noise=process,controller={controller}", method, "rollout_mae"] > 0
        per_seed = [part["figures"][method]["argmax_error_out"] for part in parts(out)]
        assert found["noise=process", method, "argmax_error_out"] == pytest.approx(np.mean(per_seed))
    assert found["noise=process", "ensemble", "holdout_rmse_ratio"] > 0.9
    # Least squares picks nothing, so that it ranks nothing.
    assert ("noise=process", "least_squares", "rank_out") not in found
    assert all(r["seeds"] == 1 and r["suite"] == "refrigerator" for r in records)


def test_the_ensemble_mean_is_the_measure_and_the_best_candidate_is_the_best(ran: tuple[Path, str]) -> None:
    for part in parts(ran[0]):
        figures = part["figures"]
        for where in ("in", "out"):
            assert figures["ensemble_mean"][f"argmax_error_{where}"] == pytest.approx(1.0, abs=1e-6)
            errors = {name: figures[name][f"error_{where}"] for name in METHODS if name != "least_squares"}
            assert min(errors.values()) == errors["best"]
            assert figures["best"][f"rank_{where}"] == pytest.approx(1.0, abs=1e-4)  # but for ties
            assert figures["best"][f"rank_displaced_{where}"] == pytest.approx(1.0, abs=1e-4)
            ratio = errors["noise"] / errors["ensemble_mean"]
            assert figures["noise"][f"argmax_error_{where}"] == pytest.approx(ratio, rel=1e-5)


def test_a_run_goes_on_where_it_was(ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    out, table = ran
    kept, gone = sorted((out / "parts").iterdir())
    content, lost = kept.read_text(), json.loads(gone.read_text())
    gone.unlink()
    fitted = []
    whole = suite.fit_ensemble
    monkeypatch.setattr(suite, "fit_ensemble", lambda log, seed: fitted.append(seed) or whole(log, seed))
    again = run_suite(out, 1, Silent(), tasks=("process",), methods=METHODS, workers=1, first_log=100)
    assert fitted == [1]  # the second seed alone
    assert kept.read_text() == content
    # The same seed gives the same figures; only the clock differs.
    for name, figures in json.loads(gone.read_text())["figures"].items():
        for metric, value in figures.items():
            if metric != "seconds":
                assert value == lost["figures"][name][metric], (name, metric)
    assert again.splitlines()[0] == table.splitlines()[0]


def test_parts_of_other_methods_or_another_commit_are_not_taken(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "TRAINING_SEEDS", 1)
    call: dict[str, Any] = {"tasks": ("process",), "workers": 1}
    run_suite(tmp_path, 1, Silent(), methods=("ensemble_mean",), **call)
    (first,) = parts(tmp_path)
    run_suite(tmp_path, 1, Silent(), methods=("medoid",), **call)
    (second,) = parts(tmp_path)
    assert (set(first["figures"]), set(second["figures"])) == ({"ensemble", "ensemble_mean"}, {"ensemble", "medoid"})
    monkeypatch.setattr(suite, "commit", lambda: "another")
    run_suite(tmp_path, 1, Silent(), methods=("medoid",), **call)
    assert parts(tmp_path)[0]["commit"] == "another"


@pytest.mark.parametrize("call", [{"tasks": ["proces"]}, {"methods": ["nois"]}])
def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path, call: dict[str, list[str]]) -> None:
    with pytest.raises(ControlkitError, match=r"unknown task or method.*(process|noise)"):
        run_suite(tmp_path, 1, Silent(), **call)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_every_reward_of_the_suite_is_a_configuration() -> None:
    for settings in filter_methods.REWARDS.values():
        content = RunConfig.from_dict({"reward": dict(settings)}).to_dict()["reward"]
        assert {name: content[name] for name in settings} == dict(settings)


def test_points_know_what_the_plant_makes_of_them() -> None:
    for points, wide in ((Points.inside("process"), False), (Points.outside(), True)):
        temperature, door = points.observation.double().numpy().T
        power = points.action[:, 0].double().numpy()
        expected = next_temperature(temperature, power, door)
        np.testing.assert_allclose(points.truth[:, 0], expected, atol=1e-5)
        assert (temperature.min() < -10 and temperature.max() > 15 and power.max() > 9) == wide
        assert set(door) == {0.0, 1.0}


def test_the_noise_floor_is_the_error_of_the_plant_itself() -> None:
    for noise in ("process", "measurement"):
        log = LoggedTransitions(operator_log(noise, 7, 4000))
        observation = log.observe(log.rows).double().numpy()
        power = log.actions[log.rows, 0].double().numpy()
        predicted = next_temperature(observation[:, 0], power, observation[:, 1])
        rmse = float(np.sqrt(np.mean((log.next_state(log.rows)[:, 0].numpy() - predicted) ** 2)))
        assert rmse == pytest.approx(noise_floor(noise), rel=0.05)


def test_the_true_plant_has_no_rollout_error_and_a_wrong_one_has() -> None:
    def true(observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        columns = (
            observation[:, 0].double().numpy(),
            action[:, 0].double().numpy(),
            observation[:, 1].double().numpy(),
        )
        return torch.tensor(next_temperature(*columns), dtype=torch.float32)[:, None]

    assert rollout_mae(true, "pid", copies=4, steps=60) < 1e-4
    wrong = rollout_mae(lambda observation, action: true(observation, action) + 0.1, "pid", copies=4, steps=60)
    assert wrong > 0.05


def test_picks_are_judged_by_the_candidate_that_was_picked() -> None:
    generator = torch.Generator().manual_seed(0)
    layout = LoggedTransitions(operator_log("process", 0, 50)).layout
    assert layout.size == len(plain_spec().frame_tags)  # no history
    ensemble = GaussianEnsemble(2, 1, [0], members=3, hidden=[8], act="silu", generator=generator)
    points = Points.outside()
    first = judge_picks(
        lambda o, a, c: -torch.arange(len(c)).float()[:, None].expand(len(c), len(o)), ensemble, points, 3
    )
    with torch.no_grad():
        means, stds = ensemble(points.observation, points.action)
        draw = means + stds * torch.empty_like(means).normal_(generator=torch.Generator().manual_seed(3))
    error = float((draw[0] - points.truth).norm(dim=-1).mean())
    assert first.error == pytest.approx(error, rel=1e-5)
    mean = float((means.mean(0) - points.truth).norm(dim=-1).mean())
    assert first.ratio == pytest.approx(error / mean, rel=1e-5)
