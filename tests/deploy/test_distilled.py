"""The exported graph judges by the distilled dynamics reward where a run has one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from controlkit.artifacts import Models, RunFolder, build_reward
from controlkit.files import read_json, write_json
from controlkit.layout import Layout
from controlkit.morec.distil import distil
from controlkit.morec.innovation import fit_linear_prediction
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from deploy.export.exporter import export_bundle
from deploy.export.judge import Judge
from tests.deploy.plants import fitted


def distilled_models() -> Models:
    """The tank's networks with a linear prediction that was fitted, and one network in place of the average."""
    data, config, models = fitted()
    log, generator = LoggedTransitions(data), torch.Generator().manual_seed(0)
    layout = Layout.from_spec(data.spec)
    # The fixture's discriminators were trained on plain changes, which a zero prediction leaves; the student's own
    # prediction is fitted, so that the graph has to compute one.
    teacher = build_reward(config.reward, layout, 2, generator)
    teacher.load_state_dict(models.reward.state_dict())
    fit_linear_prediction(teacher, log)
    student = build_reward(config.reward, layout, 1, generator)
    distil(student, teacher, log, CommandLimits(data.spec), 100, generator, Silent())
    return replace(models, reward=teacher, distilled=student.requires_grad_(False))


def test_the_graph_computes_the_distilled_reward_of_the_run(tmp_path: Path) -> None:
    data, config, _ = fitted()
    models = distilled_models()
    assert models.distilled is not None
    assert models.distilled.prediction is not None
    assert float(models.distilled.prediction.weight.abs().max()) > 0.01
    data.save(tmp_path / "data")
    run = RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / "dataset.json"))
    run.split.part(data, "calibration").save(run.path / "calibration")
    run.save_models(models)
    run.write_state("trained", seconds=1.0)
    write_json(run.path / "report.json", {"schema": 1, "verdict": "GO TO SHADOW"})
    read = run.load_models()
    judge = Judge(read)
    assert judge.reward.members == 1

    rows = data.transitions[:200]
    observation, action = torch.from_numpy(data.observations(rows)), torch.from_numpy(data.actions[rows])
    following = torch.from_numpy(data.frames[rows + 1][:, data.layout.state_columns])
    found, evidence = judge.score(observation, action, following)
    torch.testing.assert_close(found[:, 0], models.distilled(observation, action, following), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found[:, 0], models.reward(observation, action, following), rtol=1e-3, atol=1e-3)
    assert bool(torch.isfinite(evidence).all())
    # The gates compare steps of the graph in onnxruntime with those in torch.
    result = export_bundle(run, tmp_path / "bundle", parity_inputs=300, fuzz_inputs=100)
    assert result.parity_inputs >= 300
    assert result.parity_max_diff < 1e-4
