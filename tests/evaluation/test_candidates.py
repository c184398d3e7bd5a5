"""Policies by the word that a user gives: the same commands as the policy itself, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from controlkit.artifacts import RunFolder
from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError
from controlkit.evaluation import evaluate
from controlkit.evaluation.candidates import find_candidates, of_run
from controlkit.progress import Silent
from tests.evaluation.conftest import LinearPlant

RunMaker = Callable[..., RunFolder]

PID = """
loops:
  - {actuator: u, measured: x, setpoint: 0.5, gain: -0.8, reset_time_s: 4, derivative_time_s: 0.5}
"""


def history_spec(plant: LinearPlant) -> Any:
    return plant.spec(tags={"x": {"history": 2}, "u": {"history": 1}})


def onnx_policy(path: Path, gain: float = -1.0, width: int = 1, **changes: Any) -> Path:
    """action = gain x, as another project might have exported it."""
    names = {"input": "observation", "output": "action", "batch": "batch"} | changes
    tensors = [
        helper.make_tensor_value_info(names[port], TensorProto.FLOAT, [names["batch"], size])
        for port, size in (("input", width), ("output", 1))
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [width, 1], [gain] * width)
    node = helper.make_node("MatMul", [names["input"], "weight"], [names["output"]])
    graph = helper.make_graph([node], "policy", tensors[:1], tensors[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def act(word: str | Path, plant: LinearPlant, observation: torch.Tensor, **spec: Any) -> torch.Tensor:
    (candidate,) = find_candidates([word], spec.get("spec") or plant.spec())
    return candidate.policy.act(observation, torch.zeros(len(observation), 1))


def test_an_onnx_file_commands_what_its_graph_says(plant: LinearPlant, tmp_path: Path) -> None:
    observation = torch.randn(5, 1)
    torch.testing.assert_close(act(onnx_policy(tmp_path / "p.onnx", -0.7), plant, observation), -0.7 * observation)


def test_a_pid_in_yaml_is_the_textbook_law(plant: LinearPlant, tmp_path: Path) -> None:
    path = tmp_path / "today.yaml"
    path.write_text(PID)
    # x, x@-1, x@-2, u@-1
    observation = torch.tensor([[1.0, 0.8, 0.5, 0.3], [0.2, 0.9, 0.4, -1.0]])
    e, e1, e2 = (observation[:, i] - 0.5 for i in range(3))
    wanted = observation[:, 3] - 0.8 * ((e - e1) + e / 4 + 0.5 * (e - 2 * e1 + e2))
    torch.testing.assert_close(act(path, plant, observation, spec=history_spec(plant))[:, 0], wanted)


def test_a_python_function_sees_tags_by_name(plant: LinearPlant, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "laws.py"
    path.write_text("def law(tags):\n    return {'u': -0.5 * tags['x'] + 0.25 * tags['x@-1']}\n")
    observation = torch.randn(4, 4)
    wanted = (-0.5 * observation[:, 0] + 0.25 * observation[:, 1]).unsqueeze(1)
    spec = history_spec(plant)
    torch.testing.assert_close(act(f"{path}:law", plant, observation, spec=spec), wanted)
    monkeypatch.syspath_prepend(tmp_path)
    torch.testing.assert_close(act("laws:law", plant, observation, spec=spec), wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: onnx_policy(path / "p.onnx", width=3), r"shape \['batch', 3\], not .*\[batch, 1\]"),
        (lambda path: onnx_policy(path / "p.onnx", input="obs"), r"inputs \['obs'\], not 'observation' alone"),
        (lambda path: onnx_policy(path / "p.onnx", output="u"), r"outputs \['u'\], not 'action' alone"),
        (lambda path: onnx_policy(path / "p.onnx", batch=1), r"free batch dimension"),
        (lambda path: onnx_policy(path / "p.onnx", input="state_in"), "controller bundle.*Evaluate the run"),
        (lambda path: path / "none.onnx", "no such file"),
        (lambda path: written(path / "p.onnx", "not a model"), "no ONNX model"),
        (lambda path: written(path / "p.yaml", "loops: []"), "loops"),
        (lambda path: written(path / "p.yaml", PID.replace("u,", "v,")), "unknown actuator 'v'. valid names: u"),
        (lambda path: written(path / "p.yaml", PID.replace("x,", "y,")), "unknown tag 'y'"),
        (lambda path: written(path / "p.yaml", PID.replace("gain", "gian")), "gian"),
        (lambda path: written(path / "p.yaml", PID), r"needs 'x@-1'"),
        (lambda path: "no_such_module:law", "cannot be imported"),
        (lambda path: f"{written(path / 'm.py', 'law = 3')}:law", "'law' is not a function"),
        (lambda path: f"{written(path / 'm.py', 'def f(')}:f", "cannot be imported.*SyntaxError"),
        (lambda path: path, "no run folder"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    plant: LinearPlant, tmp_path: Path, make: Callable[[Path], Path | str], message: str
) -> None:
    with pytest.raises(ControlkitError, match=message) as caught:
        find_candidates([make(tmp_path)], plant.spec())
    assert "\n" not in str(caught.value)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("body", "message"),
    [("return {}", "KeyError"), ("return {'u': [1, 2, 3, 4, 5]}", "ValueError"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_function_that_fails_is_named(plant: LinearPlant, tmp_path: Path, body: str, message: str) -> None:
    path = written(tmp_path / "m.py", f"def law(tags):\n    {body}\n")
    with pytest.raises(ControlkitError, match=f"law: failed with {message}.*must return"):
        act(f"{path}:law", plant, torch.zeros(3, 1))


def test_one_table_holds_a_run_a_pid_a_graph_and_a_function(
    plant: LinearPlant, make_run: RunMaker, tmp_path: Path
) -> None:
    data = plant.log(rows=1200, spec=history_spec(plant))
    run = make_run(tmp_path / "run", data)
    words = [
        run.path,
        written(tmp_path / "pid.yaml", PID),
        onnx_policy(tmp_path / "net.onnx", -0.1, width=4),
        f"{written(tmp_path / 'laws.py', 'def law(tags):' + chr(10) + '    return {chr(117): -tags[chr(120)]}')}:law",
    ]
    candidates = find_candidates(words, data.spec)
    report = evaluate(candidates, data, quick=True, progress=Silent())
    found = {each["name"]: each for each in report.content["candidates"]}
    assert list(found) == ["run", "pid", "net", "law"]
    kinds = [each["kind"] for each in report.content["provenance"]["policies"]]
    assert kinds == ["run", "pid", "onnx", "function"]
    assert all(len(each["sha256"]) == 64 for each in report.content["provenance"]["policies"])
    assert found["pid"]["support"]["by_dynamics_reward"] is not None  # the run's reward judges the others, too


def test_without_a_run_the_data_is_split_as_a_run_would(plant: LinearPlant, tmp_path: Path) -> None:
    data = plant.log(rows=1200, spec=history_spec(plant))
    candidates = find_candidates([written(tmp_path / "pid.yaml", PID)], data.spec)
    report = evaluate(candidates, data, quick=True, progress=Silent(), gamma=0.9)
    assert report.content["estimand"]["gamma"] == 0.9
    assert report.content["provenance"]["split"]["evaluation"]["rows"][1] == len(data)
    assert report.content["candidates"][0]["support"]["by_dynamics_reward"] is None


def test_names_differ(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    data = plant.log(rows=600)
    runs = [make_run(tmp_path / folder / "run", data) for folder in ("a", "b")]
    names = [each.policy.name for each in find_candidates([run.path for run in runs], data.spec)]
    assert names == [str(run.path) for run in runs]
    with pytest.raises(ControlkitError, match="named twice"):
        find_candidates([runs[0].path, runs[0].path], data.spec)


def test_a_run_is_its_deterministic_policy(plant: LinearPlant, make_run: RunMaker, tmp_path: Path) -> None:
    data: TransitionDataset = plant.log(rows=600)
    run = make_run(tmp_path / "run", data)
    candidate = of_run(run)
    observation = torch.from_numpy(np.linspace(-1, 1, 7, dtype=np.float32)[:, None])
    wanted = run.load_models().actor(observation)
    torch.testing.assert_close(candidate.policy.act(observation, torch.zeros(7, 1)), wanted)
    assert candidate.run is run
