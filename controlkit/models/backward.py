"""Perceptrons with a backward pass written out: no autograd graph, no allocation, fixed buffers.

The networks of a policy update are so small that, on a processor as on an accelerator, building and walking autograd's
graph costs as much as the arithmetic. Here a forward pass keeps what its backward pass needs in buffers that stay where
they are (so that a CUDA graph can be captured over them), and the backward pass writes gradients into `parameter.grad`.
Tested against autograd in double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controlkit.models.layers import BatchedLinear, BatchedMLP, LayerNorm, SmoothLeaky


class ExplicitMLP:
    """Forward and backward of a `BatchedMLP` of E members.

    Results are buffers of this object: the next call with as many rows overwrites them. Weights are read, and gradients
    written, where the network's parameters and their `grad` (`flat.py`) lie when this object is made.

    Args:
        net: the network.
        buffers: of another perceptron whose last pass may be overwritten, which keeps more of an update in the
            processor's cache.
    """

    def __init__(self, net: BatchedMLP, buffers: ExplicitMLP | None = None) -> None:
        layers = [layer for layer in net.body if isinstance(layer, BatchedLinear)]
        self.layers = [_Layer(layer) for layer in layers]
        self.acts = [layer for layer in net.body if not isinstance(layer, BatchedLinear | LayerNorm)]
        self.normed = any(isinstance(layer, LayerNorm) for layer in net.body)
        self.skip = None if net.skip is None else _Layer(net.skip)
        self.members = len(layers[0].weight)
        self._buffers: dict[tuple[object, ...], Tensor] = {} if buffers is None else buffers._buffers
        self._inputs: list[Tensor] = []
        self._before: list[Tensor] = []
        self._moments: list[tuple[Tensor, Tensor, Tensor]] = []  # before normalisation, its means, 1 / its spreads

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(E, B, in), or (B, in) that all members share -> (E, B, out). `x` must stay as it is until the backward."""
        x = x.expand(self.members, *x.shape) if x.dim() == 2 else x
        self._inputs, self._before, self._moments = [x], [], []
        value = x
        for number, (layer, act) in enumerate(zip(self.layers, [*self.acts, None], strict=True)):
            before = self._buffer("before", number, value, layer.outputs)
            # A product and a sum in place: baddbmm would first copy the bias to every row.
            torch.bmm(value, layer.weight, out=before).add_(layer.bias)
            if act is None:
                value = before
                break
            if self.normed:
                before = self._normalise(number, before)
            # A ReLU's slope can be read off its result.
            value = before.relu_() if isinstance(act, nn.ReLU) else act(before)
            self._before.append(before)
            self._inputs.append(value)
        if self.skip is not None:
            value.baddbmm_(x, self.skip.weight).add_(self.skip.bias)
        return value

    @torch.no_grad()
    def backward(self, gradient: Tensor, *, weights: bool = True, inputs: slice | None = None) -> Tensor | None:
        """Of the last forward pass: (E, B, out) -> (E, B, chosen inputs), or `None` where no inputs are asked for.

        Args:
            gradient: of the loss in the result; may end before the forward pass's rows do, where the loss does not
                depend on the rest.
            weights: write (not add) the loss's gradient into the parameters' `grad`.
            inputs: of which inputs the gradient is wanted.
        """
        following, rows = gradient, gradient.shape[1]
        whole = rows == self._inputs[0].shape[1]
        for number in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[number]
            if weights:
                layer.write(self._inputs[number] if whole else self._inputs[number][:, :rows], following)
            if number == 0:
                break
            passed = self._buffer("passed", number, following, layer.inputs)
            if layer.outputs == 1:
                torch.mul(following, layer.turned, out=passed)
            else:
                torch.bmm(following, layer.turned, out=passed)
            before = self._before[number - 1]
            following = _through(self.acts[number - 1], passed, before if whole else before[:, :rows])
            if self.normed:
                following = _through_norm(
                    following, *(each[:, :rows].contiguous() for each in self._moments[number - 1])
                )
        if weights and self.skip is not None:
            self.skip.write(self._inputs[0] if whole else self._inputs[0][:, :rows], gradient)
        if inputs is None:
            return None
        result = torch.bmm(following, self.layers[0].turned[:, :, inputs])
        if self.skip is not None:
            result.baddbmm_(gradient, self.skip.turned[:, :, inputs])
        return result

    def _normalise(self, number: int, raw: Tensor) -> Tensor:
        """Of a layer's result, which is kept as it is."""
        value = self._buffer("normed", number, raw, raw.shape[2])
        mean, inverse = (self._buffer(kind, number, raw, 1) for kind in ("mean", "inverse"))
        torch.ops.aten.native_layer_norm.out(
            raw, raw.shape[2:], None, None, LayerNorm.EPSILON, out0=value, out1=mean, out2=inverse
        )
        self._moments.append((raw, mean, inverse))
        return value

    def _buffer(self, kind: str, number: int, like: Tensor, width: int) -> Tensor:
        key = (kind, number, like.shape[1], width)
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = like.new_empty(self.members, like.shape[1], width)
        return found


class _Layer:
    """A layer's tensors as they are used, so that no update makes the same views again."""

    def __init__(self, layer: BatchedLinear) -> None:
        assert layer.weight.grad is not None, "lay the parameters out flat first"
        assert layer.bias.grad is not None
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()  # (E, in, out), (E, 1, out)
        self.turned = self.weight.transpose(1, 2)
        self.weight_gradient, self.bias_gradient = layer.weight.grad, layer.bias.grad
        self.turned_gradient = self.weight_gradient.transpose(1, 2)
        _, self.inputs, self.outputs = self.weight.shape

    def write(self, x: Tensor, gradient: Tensor) -> None:
        """The parameters' gradients: (E, B, in), (E, B, out)."""
        if self.outputs == 1:  # a row times a matrix is several times faster than a matrix times a column
            torch.bmm(gradient.transpose(1, 2), x, out=self.turned_gradient)
        else:
            torch.bmm(x.transpose(1, 2), gradient, out=self.weight_gradient)
        torch.sum(gradient, dim=1, keepdim=True, out=self.bias_gradient)


def _through_norm(gradient: Tensor, raw: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """The gradient before a normalisation from the one behind it."""
    passed: Tensor = torch.ops.aten.native_layer_norm_backward(
        gradient, raw, raw.shape[2:], mean, inverse, None, None, [True, False, False]
    )[0]
    return passed


def _through(act: nn.Module, gradient: Tensor, before: Tensor) -> Tensor:
    """The gradient before an activation from the one behind it, in place; `before` is the ReLU's result, which has the
    sign of its input, and any other activation's input."""
    if isinstance(act, nn.ReLU):
        torch.ops.aten.threshold_backward.grad_input(gradient, before, 0, grad_input=gradient)
        return gradient
    if isinstance(act, nn.LeakyReLU):
        return gradient.mul_(torch.where(before > 0, 1.0, act.negative_slope))
    if isinstance(act, SmoothLeaky):
        return gradient.mul_(torch.sigmoid(4.0 * before).mul_(0.9).add_(0.1))
    if isinstance(act, nn.SiLU):
        gate = torch.sigmoid(before)
        return gradient.mul_(gate * (1.0 + before * (1.0 - gate)))
    raise TypeError(f"no slope is known of {type(act).__name__}")
