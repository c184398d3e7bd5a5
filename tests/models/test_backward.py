"""The written-out backward pass, and Adam over one vector, against PyTorch's own, in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from controlkit.models.backward import ExplicitMLP
from controlkit.models.flat import Flat, FlatAdam
from controlkit.models.layers import Activation, BatchedMLP

ACTIVATIONS: tuple[Activation, ...] = ("relu", "silu", "leaky_relu", "smooth_leaky")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(act: Activation = "relu", outputs: int = 2, skip: bool = True, norm: bool = False) -> BatchedMLP:
    generator = torch.Generator().manual_seed(1)
    net = BatchedMLP(3, 5, [7, 6], outputs, act=act, generator=generator, skip=skip, norm=norm).double()
    for parameter in net.parameters():
        parameter.data.uniform_(-0.7, 0.7, generator=generator)
    return net


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("outputs", "skip", "shared"), [(2, True, False), (1, True, True), (1, False, False)])
def test_forward_and_backward_are_autograds(
    act: Activation, outputs: int, skip: bool, shared: bool, norm: bool
) -> None:
    net = network(act, outputs, skip, norm)
    reference = copy.deepcopy(net)
    flat, explicit = Flat(net.parameters()), ExplicitMLP(net)
    x = (normal(9, 5) if shared else normal(3, 9, 5)).requires_grad_(True)
    gradient = normal(3, 9, outputs, seed=2)
    expected = reference(x.expand(3, 9, 5))
    expected.backward(gradient)
    torch.testing.assert_close(explicit.forward(x.detach()), expected.detach())
    pulled = explicit.backward(gradient.clone(), inputs=slice(2, 5))
    assert pulled is not None
    assert x.grad is not None
    torch.testing.assert_close(pulled.sum(dim=0) if shared else pulled, x.grad[..., 2:5])
    for mine, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad)
    held = flat.gradient.clone()
    explicit.backward(normal(3, 9, outputs, seed=3), weights=False, inputs=slice(0, 1))
    assert torch.equal(flat.gradient, held)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_rows_behind_the_gradient_do_not_count(act: Activation, norm: bool) -> None:
    net = network(act, norm=norm)
    reference = copy.deepcopy(net)
    Flat(net.parameters())
    explicit = ExplicitMLP(net)
    x, gradient = normal(3, 9, 5), normal(3, 4, 2, seed=2)
    reference(x)[:, :4].backward(gradient)
    explicit.forward(x)
    explicit.backward(gradient)
    for mine, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_flat_parameters_are_views_of_one_vector() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    flat = Flat(net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    flat.weights.mul_(2.0)
    for name, value in net.state_dict().items():
        assert torch.equal(value, 2.0 * before[name])
    net.load_state_dict(before)
    assert torch.equal(flat.weights, torch.cat([value.reshape(-1) for value in before.values()]))


def test_flat_adam_is_adam_and_resumes() -> None:
    weights, reference = normal(11), torch.nn.Parameter(normal(11))
    gradient = torch.zeros_like(weights)
    mine, theirs = FlatAdam(weights, gradient), torch.optim.Adam([reference])
    for step in range(6):
        if step == 3:
            kept = mine.state_dict()
            mine = FlatAdam(weights, gradient)
            mine.load_state_dict(kept)
        gradient.copy_(normal(11, seed=step))
        reference.grad = gradient.clone()
        theirs.param_groups[0]["lr"] = 0.1 / (step + 1)
        mine.step(0.1 / (step + 1))
        theirs.step()
    torch.testing.assert_close(weights, reference.detach())
