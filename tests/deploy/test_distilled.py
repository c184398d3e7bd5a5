"""The exported graph judges by the distilled dynamics reward where a run has one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

from controlkit.artifacts import Models, RunFolder, build_models, build_reward
from controlkit.config import RunConfig
from controlkit.layout import Layout
from controlkit.models.linear_prediction import LinearPrediction, ObserverPrediction
from controlkit.morec.distil import distil
from controlkit.morec.innovation import fit_prediction
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from deploy.export.judge import Judge
from deploy.export.onnx_export import OPSET
from deploy.export.tape import record
from deploy.export.translate import translate
from tests.deploy.plants import fitted


def distilled_models(observer: bool) -> Models:
    """The tank's networks with a prediction that was fitted, and one network in place of the average."""
    data, config, models = fitted()
    log, generator = LoggedTransitions(data), torch.Generator().manual_seed(0)
    layout = Layout.from_spec(data.spec)
    # The fixture's discriminators were trained on plain changes, which a zero prediction leaves; the student's own
    # prediction is fitted, so that the graph has to compute one.
    teacher = build_reward(config.reward, layout, 2, generator, observer=observer)
    shared = {name: value for name, value in models.reward.state_dict().items() if not name.startswith("prediction.")}
    teacher.load_state_dict(shared, strict=False)
    fit_prediction(teacher, log, Silent())
    student = build_reward(config.reward, layout, 1, generator, observer=observer)
    distil(student, teacher, log, CommandLimits(data.spec), 100, generator, Silent())
    return replace(models, reward=teacher, distilled=student.requires_grad_(False))


class Scores(torch.nn.Module):
    """What the controller graph asks the judge for."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, observation: torch.Tensor, action: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.judge.score_of(observation, action, following), dim=-1)


@pytest.mark.parametrize("observer", [False, True])
def test_the_graph_computes_the_distilled_reward_of_the_run(tmp_path: Path, observer: bool) -> None:
    data, config, _ = fitted()
    if observer:
        dynamics = {"architecture": "observer", "hidden": [], "members": config.dynamics.members}
        config = RunConfig.from_dict(config.to_dict() | {"dynamics": config.dynamics.model_dump() | dynamics})
    models = distilled_models(observer)
    assert models.distilled is not None
    prediction = models.distilled.prediction
    assert isinstance(prediction, ObserverPrediction if observer else LinearPrediction)
    fitted_weight = (
        prediction.observer.bilinear.weight if isinstance(prediction, ObserverPrediction) else prediction.weight
    )
    assert float(fitted_weight.abs().max()) > 0.01
    if observer:  # the run's own world model is of observers then
        models = replace(models, dynamics=build_models(config, data.spec, torch.Generator().manual_seed(0)).dynamics)
    run = RunFolder.create(tmp_path, config, data, {"data_sha256": "0" * 64, "spec_sha256": data.spec.sha256()})
    run.save_models(models)
    run.write_state("trained", seconds=1.0)
    judge = Judge(run.load_models())
    assert judge.reward.members == 1

    rows = data.transitions[:200]
    observation, action = torch.from_numpy(data.observations(rows)), torch.from_numpy(data.actions[rows])
    following = torch.from_numpy(data.frames[rows + 1][:, data.layout.state_columns])
    asked = (observation, action, following)
    reward, evidence = judge.score_of(*asked)
    torch.testing.assert_close(reward[:, 0], models.distilled(*asked), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(evidence[:, 0], models.distilled.log_odds(*asked).clamp(-20, 20), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(reward[:, 0], models.reward(*asked), rtol=1e-3, atol=1e-3)

    names = ["observation", "action", "following"]
    scores = Scores(judge).eval()
    model = translate(record(lambda *inputs: [scores(*inputs)], asked), names, ["scores"], OPSET)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {name: x.numpy() for name, x in zip(names, asked, strict=True)})
    torch.testing.assert_close(torch.from_numpy(found), torch.cat([reward, evidence], dim=-1), rtol=1e-4, atol=1e-4)
