"""A trained actor as an ONNX file that `policy` reads: view, layers with ReLU, mean and log_std."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from envs.neorl.behaviour.policy import INPUT, OUTPUTS
from envs.neorl.behaviour.view import View

OPSET, IR_VERSION = 18, 10
LARGEST_FILE = 400_000
# Bounds of log_std in soft actor-critic (arXiv 1801.01290), as in stable-baselines3.
LOG_STD_BOUNDS = (-20.0, 2.0)

Layer = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # weights (out, in), bias (out,)


def actor_layers(actor: Any) -> tuple[list[Layer], Layer, Layer]:
    """Hidden layers, mean, log_std of an actor of stable-baselines3's soft actor-critic.

    Raises:
        ControlkitError: the actor is not made of linear layers with ReLU alone.
    """
    import torch

    hidden, activations = list(actor.latent_pi)[::2], list(actor.latent_pi)[1::2]
    linear = all(isinstance(layer, torch.nn.Linear) for layer in (*hidden, actor.mu, actor.log_std))
    if not linear or not all(isinstance(layer, torch.nn.ReLU) for layer in activations):
        raise ControlkitError("the actor has layers that are not exported", cure="Train one with ReLU, without gSDE.")
    found = [
        (layer.weight.detach().cpu().numpy().copy(), layer.bias.detach().cpu().numpy().copy())
        for layer in (*hidden, actor.mu, actor.log_std)
    ]
    return found[:-2], found[-2], found[-1]


def actor_file(view: View, hidden: Sequence[Layer], mean: Layer, log_std: Layer) -> bytes:
    """The ONNX file; equal weights give equal bytes.

    Raises:
        ControlkitError: it would be larger than 400 kB, or the ONNX checker refuses it.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {"offset": view.offset, "scale": view.scale}
    nodes = [helper.make_node("Sub", [INPUT, "offset"], ["centred"]),
             helper.make_node("Mul", ["centred", "scale"], ["seen"])]  # fmt: skip
    last = "seen"

    def linear(layer: Layer, name: str, source: str) -> str:
        constants[f"{name}_weight"], constants[f"{name}_bias"] = layer
        nodes.append(helper.make_node("Gemm", [source, f"{name}_weight", f"{name}_bias"], [name], transB=1))
        return name

    for number, layer in enumerate(hidden):
        out = linear(layer, f"layer_{number}", last)
        last = f"active_{number}"
        nodes.append(helper.make_node("Relu", [out], [last]))
    linear(mean, OUTPUTS[0], last)
    constants["lowest"], constants["highest"] = (np.array(bound, dtype=np.float32) for bound in LOG_STD_BOUNDS)
    nodes.append(helper.make_node("Clip", [linear(log_std, "raw_log_std", last), "lowest", "highest"], [OUTPUTS[1]]))
    ports = [(INPUT, len(view.scale)), *((name, len(mean[1])) for name in OUTPUTS)]
    described = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in ports]
    weights = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "behaviour_policy", described[:1], described[1:], weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="controlkit"
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as problem:
        raise ControlkitError(f"the ONNX checker refuses the actor ({str(problem).splitlines()[0]})") from None
    content: bytes = model.SerializeToString(deterministic=True)
    if len(content) > LARGEST_FILE:
        raise ControlkitError(
            f"the actor's file has {len(content)} bytes, more than {LARGEST_FILE}",
            cure="Train one with smaller hidden layers.",
        )
    return content
