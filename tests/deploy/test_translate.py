"""Torch modules as ONNX graphs: every rule against onnxruntime, and what no rule covers is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from controlkit.errors import GateError
from controlkit.models.layers import Activation, BatchedMLP
from controlkit.models.observer import ObserverEnsemble
from deploy.export.lean import LeanMLP
from deploy.export.observers import lean_observers
from deploy.export.stages import Conjunctions
from deploy.export.tape import record
from deploy.export.translate import translate

F = torch.nn.functional
X = torch.tensor([[-1.5, 0.0, 0.25, 2.0], [3.0, -0.5, 30.0, -30.0]])
STACK = torch.arange(24.0).reshape(2, 4, 3) / 10
Step = Callable[[torch.Tensor], torch.Tensor]


def nodes(step: Callable[..., Any], *example: torch.Tensor) -> list[str]:
    """Operators of a step's graph, whose numbers are checked against torch's on the way."""
    names = [f"in{i}" for i in range(len(example))]
    outputs = step(*example)
    model = translate(record(step, example), names, [f"out{i}" for i in range(len(outputs))], 18)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {name: x.numpy() for name, x in zip(names, example, strict=True)})
    for given, expected in zip(found, outputs, strict=True):
        assert given.shape == tuple(expected.shape)
        np.testing.assert_allclose(given, expected.numpy(), rtol=1e-5, atol=1e-6)
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda x: 1.0 - x, ["Sub"]),
        (lambda x: x / X[:1], ["Div"]),
        (lambda x: x.square(), ["Mul"]),
        (lambda x: F.silu(x), ["Sigmoid", "Mul"]),
        (lambda x: F.leaky_relu(x, 0.2), ["LeakyRelu"]),
        (lambda x: F.softplus(x), ["Softplus"]),
        (lambda x: torch.reciprocal(x.abs().sqrt() + 1.0), ["Abs", "Sqrt", "Add", "Reciprocal"]),
        (lambda x: torch.where((x >= 0.0) & (x < 9.0) | (x == -0.5), x, -x), None),
        (lambda x: (x > 0.1).to(torch.float32), ["Greater", "Cast"]),
        (lambda x: (x >= 0.0).to(torch.float32).amin(dim=-1, keepdim=True), ["GreaterOrEqual", "Cast", "ReduceMin"]),
        (lambda x: x.mean(dim=(0, 1)), ["ReduceMean"]),
        (lambda x: x.sum(dim=1), ["ReduceSum"]),
        (lambda x: x.mean(), ["ReduceMean"]),
        (lambda x: x.index_select(-1, torch.tensor([3, 0, 3])), ["Gather"]),
        (lambda x: x.index_select(-1, torch.arange(4)) + 1.0, ["Add"]),
        (lambda x: x[1], ["Gather"]),
        (lambda x: x[:, 1:4:2], ["Slice"]),
        (lambda x: x.chunk(2, dim=-1)[1], ["Slice"]),
        (lambda x: torch.minimum(*x.split(2, dim=-1)), ["Split", "Min"]),
        (lambda x: x.split([1, 3], dim=-1)[1], ["Slice"]),
        (lambda x: torch.cat([x.unbind(dim=-1)[2], X[0]]), ["Gather", "Concat"]),
        (lambda x: x.reshape(4, 2).unsqueeze(0), ["Reshape", "Reshape"]),
        (lambda x: torch.cat([x, x[:, :0]], dim=-1) * 2.0, ["Mul"]),
        (lambda x: x.t() @ x, ["Transpose", "MatMul"]),
        (lambda x: torch.addmm(X[0, :3], x, STACK[0]), ["Gemm"]),
        (lambda x: torch.baddbmm(STACK[:, :1], x.expand(2, 2, 4), STACK), ["Expand", "MatMul", "Add"]),
        (lambda x: torch.bmm(x.reshape(2, 1, 4).permute(0, 2, 1), STACK[:, :1]), None),
        (lambda x: x.unsqueeze(0).expand(3, 2, 4) + 1.0, ["Reshape", "Add", "Expand"]),
    ],
)  # fmt: skip
def test_every_rule_gives_what_torch_gives(step: Step, expected: list[str] | None) -> None:
    found = nodes(lambda x: [step(x)], X)
    assert expected is None or found == expected


def test_what_is_written_twice_is_one_node_and_what_nobody_reads_is_none() -> None:
    def step(x: torch.Tensor) -> list[torch.Tensor]:
        torch.exp(x)  # for nobody
        once = (x * 2.0) + (x * 2.0)
        return [once, (torch.ones_like(x) + 1.0) * torch.tanh(x)]

    assert sorted(nodes(step, X)) == ["Add", "Mul", "Mul", "Tanh"]


def test_a_port_that_is_an_input_a_constant_or_another_port_is_copied() -> None:
    def step(x: torch.Tensor) -> list[torch.Tensor]:
        y = x + 1.0
        return [x, torch.zeros(3), y, y]

    assert sorted(nodes(step, X)) == ["Add", "Identity", "Identity", "Identity"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x: x.add_(1.0), "in place"),
        (lambda x: torch.erf(x), "no rule translates"),
        (lambda x: torch.add(x, x, alpha=2), "no rule translates"),
        (lambda x: torch.div(x, 2.0, rounding_mode="floor"), "no rule translates"),
        (lambda x: x.double(), "no rule translates"),
        (lambda x: x.pow(3), "no rule translates"),
        (lambda x: F.softplus(x, beta=2.0), "no rule translates"),
        (lambda x: torch.addmm(X[0, :3], x, STACK[0], alpha=2), "no rule translates"),
    ],
)
def test_what_no_rule_covers_is_refused(step: Step, message: str) -> None:
    with pytest.raises(GateError, match=message):
        nodes(lambda x: [step(x)], X.clone())


@pytest.mark.parametrize("act", ["smooth_leaky", "relu", "silu", "leaky_relu"])
@pytest.mark.parametrize(
    ("members", "hidden", "skip"), [(1, (5,), True), (3, (6, 4), True), (3, (6, 4), False), (2, (), True)]
)
def test_lean_networks_are_the_networks(act: Activation, members: int, hidden: tuple[int, ...], skip: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    net = BatchedMLP(members, 4, hidden, 6, act=act, generator=generator, output_gain=1.0, skip=skip)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        x = 3.0 * torch.randn(7, 4, generator=generator)
        expected = net(x.expand(members, 7, 4))[..., :2]
        small = LeanMLP(net, 2)
        found = small(x).reshape(7, members, 2).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    operators = nodes(lambda x: [small(x)], x)
    assert operators.count("Gemm") == 1 + members * len(hidden) + skip
    assert not {"MatMul", "Softplus"} & set(operators)


def test_conjunctions_are_what_they_say() -> None:
    sets = Conjunctions(
        {"a": 2, "b": 1, "c": 3},
        {"all": ["a", "b", "c"], "a": ["a"], "picked": [("c", [0, 2])], "either": ["c"]},
        unless={"either": "b"},
    )
    for bits in range(64):
        ok = [bool(bits >> k & 1) for k in range(6)]
        expected = {"all": all(ok), "a": ok[0] and ok[1], "picked": ok[3] and ok[5], "either": all(ok[3:]) or ok[2]}
        assert {name: bool(held) for name, held in sets(torch.tensor([ok])).items()} == expected


@pytest.mark.parametrize(("depth", "known"), [(3, 2), (1, 0), (0, 1)])
def test_bilinear_observers_are_the_observers(depth: int, known: int) -> None:
    """However far from zero a plant is operated; two nodes for each step along the window."""
    generator = torch.Generator().manual_seed(1)
    states, commands = 2, 1
    frames = states + known
    # The newest frame first, as an observation has it; then the past commands.
    at = torch.arange((depth + 1) * frames).reshape(depth + 1, frames).flip(0)
    commands_at = torch.arange(depth * commands).reshape(depth, commands).flip(0) + at.numel()
    size = at.numel() + depth * commands
    ensemble = ObserverEnsemble(
        size, (at[:, :states], at[:, states:], commands_at), members=3, hidden=(), act="silu", generator=generator
    )
    with torch.no_grad():
        for name, parameter in ensemble.named_parameters():
            parameter.add_((0.03 if "bilinear" in name else 0.2) * torch.randn(parameter.shape, generator=generator))
        for scaler, centre, spread in ((ensemble.input_scaler, 300.0, 5.0), (ensemble.change_scaler, 0.01, 0.2)):
            scaler.centre.copy_(centre + torch.rand(scaler.centre.shape, generator=generator))
            scaler.spread.copy_(spread + torch.rand(scaler.spread.shape, generator=generator))
        observation = 300.0 + 5.0 * torch.randn(6, size, generator=generator)
        action = 300.0 + 5.0 * torch.randn(6, commands, generator=generator)
        small = lean_observers(ensemble)
        assert small is not None
        found = small(observation, action)
        expected = ensemble.double().scaled_change(observation.double(), action.double())[0].transpose(0, 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    operators = nodes(lambda *inputs: [small(*inputs)], observation, action)
    assert operators.count("MatMul") == depth + 1 + (depth > 0 and known > 0)


def test_observers_whose_matrices_are_too_large_or_not_linear_keep_stepping() -> None:
    at = torch.arange(40).reshape(2, 20)
    window, generator = (at[:, :16], at[:, 16:], torch.tensor([[40]])), torch.Generator().manual_seed(0)

    def fast(members: int, hidden: tuple[int, ...]) -> bool:
        observers = ObserverEnsemble(41, window, members=members, hidden=hidden, act="silu", generator=generator)
        return lean_observers(observers) is not None

    assert [fast(30, ()), fast(80, ()), fast(2, (3,))] == [True, False, False]
