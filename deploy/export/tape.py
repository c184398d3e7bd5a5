"""What a torch module computes, as a tape of its elementary operations.

The module runs once on an example, and every operation that torch dispatches is noted with the tensors that went in and
came out. What does not depend on the inputs needs no note: it is one more constant. What no output depends on falls
away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from controlkit.errors import GateError

# They read nothing of a tensor but its shape.
SHAPE_ALONE = ("ones_like", "zeros_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full")


@dataclass(frozen=True)
class Entry:
    """One operation of torch's: its name ("add", "index_select"), what it was called with, and what it gave.

    `arguments` has all of them, in the order of the operation's schema, defaults included.
    """

    operation: str
    arguments: dict[str, Any]
    results: tuple[Tensor, ...]

    @property
    def read(self) -> list[Tensor]:
        """The tensors that went in."""
        return tensors_in(tuple(self.arguments.values()))


@dataclass(frozen=True)
class Tape:
    """Operations in order, and the tensors between which they lead."""

    inputs: tuple[Tensor, ...]
    entries: tuple[Entry, ...]
    outputs: tuple[Tensor, ...]


def record(module: Callable[..., Sequence[Tensor]], example: Sequence[Tensor]) -> Tape:
    """The tape of `module(*example)`, without what its outputs do not depend on.

    Args:
        module: takes and gives tensors; what it does must not depend on their values.
        example: of the shapes that the tape is for.

    Raises:
        GateError: it changes a tensor in place.
    """
    inputs = tuple(tensor.clone() for tensor in example)
    with torch.no_grad(), _Recorder(inputs) as recorder:
        outputs = tuple(module(*inputs))
    needed = {id(tensor) for tensor in outputs}
    kept: list[Entry] = []
    for entry in reversed(recorder.entries):
        if any(id(tensor) in needed for tensor in entry.results):
            kept.append(entry)
            needed |= {id(tensor) for tensor in entry.read}
    return Tape(inputs, tuple(reversed(kept)), outputs)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


class _Recorder(TorchDispatchMode):
    """Keeps the operations that depend on the inputs' values."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: list[Entry] = []
        # The entries keep their tensors alive, so that no other one gets an id that is in here.
        self._moving = {id(tensor) for tensor in inputs}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch need not load its compiler to be told so, which takes seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        entry = Entry(name, _by_name(func._schema, args, kwargs or {}), tuple(tensors_in(given)))
        if name not in SHAPE_ALONE and any(id(tensor) in self._moving for tensor in entry.read):
            if func._schema.is_mutable:
                raise GateError(f"the graph changes a tensor in place ({name})", cure="Report this.")
            # What has no elements is the same whatever comes in.
            if any(tensor.numel() for tensor in entry.results):
                self.entries.append(entry)
                self._moving |= {id(tensor) for tensor in entry.results}
        return given


def _by_name(schema: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments}
