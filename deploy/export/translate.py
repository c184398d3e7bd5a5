"""From a tape of torch's operations to an ONNX graph: one node for one operation, wherever ONNX has it.

A small node costs a runtime more than the arithmetic inside it, so that none is written that says nothing: equal nodes
are written once, what broadcasts by itself is not expanded, and what nobody reads is not split off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from controlkit.errors import GateError
from deploy.export.tape import Entry, Tape

IR_VERSION = 10
# Operations that ONNX has, too, with the same operands; all of them broadcast as torch's do.
BY_ELEMENT = {
    "abs": "Abs", "bitwise_and": "And", "bitwise_or": "Or", "div": "Div", "eq": "Equal", "exp": "Exp",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log", "lt": "Less", "minimum": "Min",
    "mul": "Mul", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu", "sigmoid": "Sigmoid", "sqrt": "Sqrt",
    "tanh": "Tanh", "where": "Where",
}  # fmt: skip
REDUCTIONS = {"amin": "ReduceMin", "mean": "ReduceMean", "sum": "ReduceSum"}
FACTORS = {
    "mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"),
}  # fmt: skip
RESHAPES = ("view", "_unsafe_view", "unsqueeze", "squeeze")
ALIASES = ("alias", "detach", "clone", "expand")
KINDS = {torch.float32: onnx.TensorProto.FLOAT, torch.bool: onnx.TensorProto.BOOL}


def translate(tape: Tape, inputs: Sequence[str], outputs: Sequence[str], opset: int) -> onnx.ModelProto:
    """The graph of a tape.

    Args:
        tape: of float32 tensors, and of what compares them.
        inputs, outputs: names of the ports, in the tape's order.
        opset: of the standard operators; 18 or later.

    Raises:
        GateError: an operation, or a way to call it, that no rule here translates.
    """
    writer = _Writer(tape, inputs)
    for entry in tape.entries:
        writer.write(entry)
    writer.name_outputs(tape.outputs, outputs)
    enter, leave = _ports(inputs, tape.inputs), _ports(outputs, tape.outputs)
    graph = helper.make_graph(writer.nodes, "controller", enter, leave, list(writer.constants.values()))
    return helper.make_model(
        graph, producer_name="controlkit", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", opset)]
    )


class _Writer:
    """Nodes and constants of a graph, and the name of each tensor of the tape in it.

    A name may hold a tensor that is smaller than torch's, as long as what reads it broadcasts; `_whole` expands it
    where it does not.
    """

    def __init__(self, tape: Tape, inputs: Sequence[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[Any, onnx.TensorProto] = {}
        self._names = {id(tensor): name for tensor, name in zip(tape.inputs, inputs, strict=True)}
        self._shapes = {name: tuple(x.shape) for name, x in zip(inputs, tape.inputs, strict=True)}
        self._written: dict[Any, list[str]] = {}
        self._read = {id(x) for x in (*tape.outputs, *(x for entry in tape.entries for x in entry.read))}
        self._rules: dict[str, Callable[[Entry], None]] = {
            "add": self._sum, "sub": self._sum, "rsub": self._sum, "_to_copy": self._cast, "silu": self._silu,
            "softplus": self._softplus, "leaky_relu": self._leaky_relu, "pow": self._power, "cat": self._concat,
            "index_select": self._gather, "select": self._gather, "slice": self._slice, "split": self._split,
            "split_with_sizes": self._split, "unbind": self._unbind, "transpose": self._transpose,
            "permute": self._transpose, "t": self._transpose,
        }  # fmt: skip
        self._rules |= dict.fromkeys(ALIASES, self._alias) | dict.fromkeys(RESHAPES, self._reshape)
        self._rules |= dict.fromkeys(FACTORS, self._product)
        self._rules |= dict.fromkeys(BY_ELEMENT, self._same) | dict.fromkeys(REDUCTIONS, self._reduce)

    def write(self, entry: Entry) -> None:
        """Writes what one operation needs."""
        rule = self._rules.get(entry.operation)
        if rule is None or any(x.dtype not in KINDS for x in entry.results):
            raise _unknown(entry)
        rule(entry)

    def name_outputs(self, tensors: Sequence[Tensor], ports: Sequence[str]) -> None:
        """Gives the ports of the graph their names."""
        held = [self._whole(tensor) for tensor in tensors]
        made = {name for node in self.nodes for name in node.output}
        renamed: dict[str, str] = {}
        for name, port in zip(held, ports, strict=True):
            if name in made and name not in renamed:
                renamed[name] = port
            else:
                self.nodes.append(helper.make_node("Identity", [name], [port], name=port))
        for node in self.nodes:
            for side in (node.input, node.output):
                side[:] = [renamed.get(name, name) for name in side]

    # Each rule writes one kind of operation.

    def _same(self, entry: Entry) -> None:
        given = [x for x in entry.arguments.values() if isinstance(x, Tensor | float | int | bool)]
        if entry.arguments.get("rounding_mode") is not None:
            raise _unknown(entry)
        if entry.operation in ("bitwise_and", "bitwise_or") and self._operand(given[0]) == self._operand(given[1]):
            self._hold(entry, self._operand(given[0]))
        else:
            self._elementwise(BY_ELEMENT[entry.operation], entry, *given)

    def _sum(self, entry: Entry) -> None:
        if entry.arguments["alpha"] != 1:
            raise _unknown(entry)
        pair = [entry.arguments["self"], entry.arguments["other"]]
        reverse = entry.operation == "rsub"
        self._elementwise("Add" if entry.operation == "add" else "Sub", entry, *(pair[::-1] if reverse else pair))

    def _silu(self, entry: Entry) -> None:
        x = self._operand(entry.arguments["self"])
        self._hold(entry, self._node("Mul", [x, self._node("Sigmoid", [x], self._shapes[x])], self._shapes[x]))

    def _softplus(self, entry: Entry) -> None:
        if entry.arguments["beta"] != 1:
            raise _unknown(entry)
        self._elementwise("Softplus", entry, entry.arguments["self"])

    def _leaky_relu(self, entry: Entry) -> None:
        slope = float(entry.arguments["negative_slope"])
        self._elementwise("LeakyRelu", entry, entry.arguments["self"], alpha=slope)

    def _power(self, entry: Entry) -> None:
        if entry.arguments["exponent"] != 2:
            raise _unknown(entry)
        self._elementwise("Mul", entry, entry.arguments["self"], entry.arguments["self"])

    def _cast(self, entry: Entry) -> None:
        x = self._operand(entry.arguments["self"])
        if entry.results[0].dtype == entry.arguments["self"].dtype:
            self._hold(entry, x)
        else:
            self._hold(entry, self._node("Cast", [x], self._shapes[x], to=KINDS[entry.results[0].dtype]))

    def _alias(self, entry: Entry) -> None:
        self._hold(entry, self._operand(entry.arguments["self"]))

    def _reshape(self, entry: Entry) -> None:
        source, shape = entry.arguments["self"], tuple(entry.results[0].shape)
        if tuple(source.shape) == shape:
            self._alias(entry)
        else:
            self._simple("Reshape", entry, [self._whole(source), self._constant(np.array(shape, dtype=np.int64))])

    def _reduce(self, entry: Entry) -> None:
        x, axes = entry.arguments["self"], entry.arguments.get("dim")
        axes = [axis % x.dim() for axis in (axes or range(x.dim()))]
        names = [self._whole(x), self._constant(np.array(axes, dtype=np.int64))]
        self._simple(REDUCTIONS[entry.operation], entry, names, keepdims=int(entry.arguments.get("keepdim", False)))

    def _concat(self, entry: Entry) -> None:
        parts = [self._whole(x) for x in entry.arguments["tensors"] if x.numel()]
        axis = entry.arguments["dim"] % entry.results[0].dim()
        if len(parts) == 1:
            self._hold(entry, parts[0])
        else:
            self._simple("Concat", entry, parts, axis=axis)

    def _gather(self, entry: Entry) -> None:
        x, index = entry.arguments["self"], entry.arguments["index"]
        at = index.numpy() if isinstance(index, Tensor) else np.array(index, dtype=np.int64)
        axis = entry.arguments["dim"] % x.dim()
        if np.array_equal(at, np.arange(x.shape[axis])):
            self._alias(entry)
        else:
            self._simple("Gather", entry, [self._whole(x), self._constant(at)], axis=axis)

    def _slice(self, entry: Entry) -> None:
        x, given = entry.arguments["self"], entry.arguments
        axis = given["dim"] % x.dim()
        start, stop, step = slice(given["start"], given["end"], given["step"]).indices(x.shape[axis])
        self._cut(x, axis, start, stop, step, entry.results[0])

    def _split(self, entry: Entry) -> None:
        x, axis = entry.arguments["self"], entry.arguments["dim"] % entry.arguments["self"].dim()
        sizes = [part.shape[axis] for part in entry.results]
        wanted = [i for i, part in enumerate(entry.results) if id(part) in self._read]
        if len(wanted) == 1:
            start = sum(sizes[: wanted[0]])
            self._cut(x, axis, start, start + sizes[wanted[0]], 1, entry.results[wanted[0]])
            return
        names = [self._whole(x), self._constant(np.array(sizes, dtype=np.int64))]
        shapes = [tuple(part.shape) for part in entry.results]
        for part, name in zip(entry.results, self._nodes("Split", names, shapes, axis=axis), strict=True):
            self._names[id(part)] = name

    def _unbind(self, entry: Entry) -> None:
        x, axis = entry.arguments["self"], entry.arguments["dim"] % entry.arguments["self"].dim()
        for i, part in enumerate(entry.results):
            if id(part) in self._read:
                names = [self._whole(x), self._constant(np.array(i, dtype=np.int64))]
                self._names[id(part)] = self._node("Gather", names, tuple(part.shape), axis=axis)

    def _transpose(self, entry: Entry) -> None:
        x = entry.arguments["self"]
        order = list(range(x.dim()))
        if entry.operation == "permute":
            order = [axis % x.dim() for axis in entry.arguments["dims"]]
        else:
            a, b = (entry.arguments.get(name, default) for name, default in (("dim0", 0), ("dim1", 1)))
            order[a], order[b] = order[b], order[a]
        self._simple("Transpose", entry, [self._whole(x)], perm=order)

    def _product(self, entry: Entry) -> None:
        given, result = entry.arguments, entry.results[0]
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
            raise _unknown(entry)
        pair = [self._whole(given[name]) for name in FACTORS[entry.operation]]
        if entry.operation == "addmm":
            self._simple("Gemm", entry, [*pair, self._operand(given["self"])])
        elif entry.operation == "baddbmm":
            product = self._node("MatMul", pair, tuple(result.shape))
            self._hold(entry, self._node("Add", [product, self._operand(given["self"])], tuple(result.shape)))
        else:
            self._simple("MatMul", entry, pair)

    # What the rules share.

    def _elementwise(self, op: str, entry: Entry, *operands: Any, **attributes: Any) -> None:
        names = [self._operand(x) for x in operands]
        self._hold(entry, self._node(op, names, np.broadcast_shapes(*(self._shapes[n] for n in names)), **attributes))

    def _simple(self, op: str, entry: Entry, names: list[str], **attributes: Any) -> None:
        self._hold(entry, self._node(op, names, tuple(entry.results[0].shape), **attributes))

    def _cut(self, x: Tensor, axis: int, start: int, stop: int, step: int, result: Tensor) -> None:
        """One part of x; all of it is x itself."""
        if (start, step) == (0, 1) and stop == x.shape[axis]:
            self._names[id(result)] = self._operand(x)
            return
        ends = [self._constant(np.array([value], dtype=np.int64)) for value in (start, stop, axis, step)]
        self._names[id(result)] = self._node("Slice", [self._whole(x), *ends], tuple(result.shape))

    def _hold(self, entry: Entry, name: str) -> None:
        self._names[id(entry.results[0])] = name

    def _operand(self, x: Tensor | float) -> str:
        """The name of what x is made of, which may have to broadcast to x."""
        if not isinstance(x, Tensor):
            return self._constant(np.array(x, dtype=np.float32))
        if id(x) in self._names:
            return self._names[id(x)]
        return self._constant(x.detach().to(torch.float32 if x.dtype.is_floating_point else x.dtype).numpy())

    def _whole(self, x: Tensor) -> str:
        """The name of x in all its size."""
        name, shape = self._operand(x), tuple(x.shape)
        if self._shapes[name] == shape:
            return name
        return self._node("Expand", [name, self._constant(np.array(shape, dtype=np.int64))], shape)

    def _constant(self, value: npt.NDArray[Any]) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            name = f"c{len(self.constants)}"
            self.constants[key] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            self._shapes[name] = value.shape
        return self.constants[key].name

    def _node(self, op: str, names: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        return self._nodes(op, names, [shape], **attributes)[0]

    def _nodes(self, op: str, names: list[str], shapes: list[tuple[int, ...]], **attributes: Any) -> list[str]:
        """The names of a node's outputs; a node that is there already is not written again."""
        key = (op, tuple(names), repr(sorted(attributes.items())))
        if key not in self._written:
            number = len(self.nodes)
            made = [f"v{number}" if len(shapes) == 1 else f"v{number}_{i}" for i in range(len(shapes))]
            self.nodes.append(helper.make_node(op, names, made, name=f"n{number}", **attributes))
            self._written[key] = made
            self._shapes |= dict(zip(made, shapes, strict=True))
        return self._written[key]


def _ports(names: Sequence[str], tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
    pairs = zip(names, tensors, strict=True)
    return [helper.make_tensor_value_info(name, KINDS[x.dtype], list(x.shape)) for name, x in pairs]


def _unknown(entry: Entry) -> GateError:
    given = {name: x for name, x in entry.arguments.items() if not isinstance(x, Tensor)}
    return GateError(f"the graph has an operation that no rule translates ({entry.operation} {given})"[:200])
