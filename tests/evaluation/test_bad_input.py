"""What cannot be evaluated is refused in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from controlkit.artifacts import RunFolder
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError, ControlkitError, DataError
from controlkit.evaluation import evaluate
from controlkit.evaluation.candidates import of_run
from controlkit.evaluation.policies import EvaluatedPolicy
from controlkit.progress import Silent
from tests.evaluation.conftest import TINY, LinearPlant

RunMaker = Callable[..., RunFolder]


def refused(runs: list[RunFolder], data: TransitionDataset) -> str:
    with pytest.raises(ControlkitError) as caught:
        evaluate([of_run(run) for run in runs], data, quick=True, progress=Silent())
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.cure
    return message


def test_a_run_of_another_layout(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", plant.log(rows=600, spec=plant.spec(tags={"x": {"history": 2}})))
    message = refused([run], plant.log(rows=600))
    assert "x@-1" in message
    assert "run" in message


def test_a_run_of_another_objective(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    spec = plant.spec(objective=[{"kind": "track", "tag": "x", "setpoint": 1}])
    run = make_run(tmp_path / "run", plant.log(rows=600, spec=spec))
    assert "another plant file" in refused([run], plant.log(rows=600))


def test_a_run_of_other_data(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    data = plant.log(rows=600)
    run = make_run(tmp_path / "run", data)
    moved = replace(data, time_ns=data.time_ns + 10**12)
    assert "another data set" in refused([run], moved)
    assert "600" in refused([run], plant.log(rows=500))


def test_runs_of_different_splits(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    data = plant.log(rows=600)
    split = {"training": 0.5, "calibration": 0.2, "evaluation": 0.3}
    runs = [make_run(tmp_path / "a", data), make_run(tmp_path / "b", data, split=split)]
    assert "another split" in refused(runs, data)


def test_a_run_that_is_not_trained(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    data = plant.log(rows=600)
    run = make_run(tmp_path / "run", data)
    run.write_state("training")
    with pytest.raises(ArtifactError, match="not trained"):
        evaluate([of_run(run)], data, progress=Silent())


def test_no_policy_at_all(linear_log: TransitionDataset) -> None:
    assert "no policy" in refused([], linear_log)


def test_rewards_that_contradict_the_formula(plant: LinearPlant) -> None:
    data = plant.log(rows=600)
    rewards = data.rewards.copy()
    rewards[350] += 0.5
    with pytest.raises(DataError, match=r"1 of \d+ recorded rewards contradict") as caught:
        plant.assess(replace(data, rewards=rewards), plant.policy(1.0), effort=TINY)
    assert "1970-01-01T00:05:50" in str(caught.value)


def test_a_log_shorter_than_the_horizon(plant: LinearPlant) -> None:
    pieces = plant.log(rows=600)
    # Episodes of ten rows are shorter than the discount's time of 20 steps.
    data = TransitionDataset.from_frames(
        pieces.spec,
        frames=pieces.frames,
        actions=np.nan_to_num(pieces.actions),
        episode=np.arange(600) // 10,
        time_ns=pieces.time_ns,
    )
    with pytest.raises(DataError, match="shorter than the horizon") as caught:
        plant.assess(data, plant.policy(1.0), gamma=0.95, effort=TINY)
    assert "0.95" in str(caught.value)


def test_too_few_rows(plant: LinearPlant) -> None:
    with pytest.raises(DataError, match="usable steps"):
        plant.assess(plant.log(rows=80), plant.policy(1.0), effort=TINY)


def test_one_short_episode_gets_no_verdict(plant: LinearPlant) -> None:
    found = plant.assess(plant.log(rows=260), plant.policy(1.0), effort=TINY)
    decision = found.candidates[0].decision
    assert decision.verdict == "NO VERDICT"
    assert any("independent stretches" in reason for reason in decision.reasons)
    assert any("longer log" in missing for missing in decision.missing)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_policy_that_gives_no_number(plant: LinearPlant, value: float) -> None:
    policy = EvaluatedPolicy("broken", lambda o, noise: torch.where(o[:, :1] > 0.5, torch.tensor(value), 0.0))
    with pytest.raises(ControlkitError, match="broken") as caught:
        plant.assess(plant.log(rows=600), policy, effort=TINY)
    assert "not a number" in str(caught.value)


def test_a_policy_of_another_width(plant: LinearPlant) -> None:
    with pytest.raises(ControlkitError, match="shape"):
        plant.assess(plant.log(rows=600), EvaluatedPolicy("wide", lambda o, noise: torch.zeros(len(o), 2)), effort=TINY)


def test_constant_rewards_get_no_verdict(plant: LinearPlant) -> None:
    spec = plant.spec(objective=[{"kind": "range", "tag": "x", "high": 15}])
    decision = plant.assess(plant.log(rows=600, spec=spec), plant.policy(1.0), effort=TINY).candidates[0].decision
    assert decision.verdict == "NO VERDICT"
    assert any("never vary" in reason for reason in decision.reasons)
