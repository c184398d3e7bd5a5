"""From the torch graph to ONNX bytes, and the checks of the file itself: operators, opset, ports, two runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from controlkit.errors import ControlkitError, GateError
from deploy.bundle.manifest import INPUTS, OUTPUTS
from deploy.bundle.verify import open_graph
from deploy.export.graph import ControllerGraph
from deploy.export.tape import record
from deploy.export.translate import translate

OPSET = 18
# Widely supported since opset 13 or earlier. Not is left out on purpose: a negated comparison lets NaN pass.
OPERATORS = frozenset(
    """Abs Add And Cast Clip Concat Constant Div Equal Exp Expand Gather GatherND Gemm GreaterOrEqual Greater Identity
    LeakyRelu LessOrEqual Less Log MatMul Max Min Mul Neg Or Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum
    Relu Reshape Sigmoid Slice Softplus Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where""".split()
)


def to_onnx(graph: ControllerGraph, sizes: dict[str, int]) -> bytes:
    """The graph as one ONNX file with static shapes (1, size).

    torch's own exporter spends its time on decompositions and passes that this graph does not need, and writes a
    quarter more nodes than the graph has operations.

    Raises:
        GateError: it has an operation that no rule of `translate` knows.
    """
    tape = record(graph, [torch.zeros(1, sizes[name]) for name in INPUTS])
    model: bytes = translate(tape, INPUTS, OUTPUTS, OPSET).SerializeToString(deterministic=True)
    return model


def check_file(model: bytes, inputs: dict[str, int], outputs: dict[str, int]) -> tuple[str, ...]:
    """Gate: what the file must be, whatever made it.

    Returns:
        The operators in it.

    Raises:
        GateError: an invalid graph, another opset, data outside the file, an operator beyond `OPERATORS`, a name that
            is not ASCII, other ports, or a runtime that does not load it.
    """
    import onnx

    try:
        proto = onnx.load_model_from_string(model)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as problem:  # noqa: BLE001 (protobuf and the checker raise their own kinds)
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise GateError(f"the ONNX checker refuses the graph ({first[:200]})") from None
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    if opsets != {"ai.onnx": OPSET}:
        raise GateError(f"the graph has opsets {opsets}, not {OPSET} alone")
    used = sorted({node.op_type for node in proto.graph.node})
    foreign = [op for op in used if op not in OPERATORS]
    if foreign or proto.functions or any(node.domain not in ("", "ai.onnx") for node in proto.graph.node):
        raise GateError(
            f"the graph uses operators that not every runtime has: {', '.join(foreign) or 'local functions'}"
        )
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise GateError("the graph keeps weights outside its file")
    if not _ascii(proto):
        raise GateError("the graph has a name that is not ASCII")
    try:
        open_graph(model, inputs, outputs, "controller.onnx")
    except ControlkitError as problem:
        raise GateError(f"onnxruntime: {problem.what}") from None
    return tuple(used)


class ReferenceRuntime:
    """A second runtime, ONNX's own reference evaluator, with onnxruntime's way of being called.

    Raises:
        GateError: it does not load the graph.
    """

    def __init__(self, model: bytes) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            self._evaluator = ReferenceEvaluator(onnx.load_model_from_string(model))
        except Exception as problem:  # noqa: BLE001 (whatever an operator's implementation raises)
            raise GateError(f"ONNX's reference evaluator does not load the graph ({problem})") from None

    def run(self, names: list[str] | None, feed: dict[str, Any]) -> list[Any]:
        """The outputs in order."""
        # Its sigmoid computes both branches of a case and keeps one: the other may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            outputs: list[Any] = list(self._evaluator.run(names, feed))
        return outputs


def feed_of(inputs: Any, row: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """One row of a batch of `GraphInputs` as what a runtime takes."""
    return {name: getattr(inputs, name)[row : row + 1].numpy() for name in INPUTS}


def _ascii(proto: Any) -> bool:
    graph = proto.graph
    names = [item.name for item in (*graph.node, *graph.input, *graph.output, *graph.initializer)]
    names += [name for node in graph.node for name in (*node.input, *node.output)]
    return all(name.isascii() for name in names)
