"""Checkpoints of a training run: whole or not at all, and never one with a weight that is no number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from controlkit.artifacts import RunFolder
from controlkit.errors import TrainingError


def save_checkpoint(folder: RunFolder, content: Mapping[str, Any], where: str) -> None:
    """Writes a checkpoint if every weight and every state of an optimiser in it is finite; else the last one stays.

    Args:
        folder: the run.
        content: what is written; `models` and `learner` in it are looked through.
        where: stage and update, for the message.

    Raises:
        TrainingError: names the first tensor that is not finite.
    """
    for name, value in _tensors({key: content[key] for key in ("models", "learner") if key in content}):
        unlimited = name == "models.threshold"  # -inf rejects nothing
        if value.is_floating_point() and not unlimited and not bool(torch.isfinite(value).all()):
            raise TrainingError(
                f"'{name}' holds a number that is not finite",
                where=where,
                cure="The last good checkpoint is kept, --resume goes on from it. Lower the learning rates, or look "
                "for extreme values in the data.",
            )
    folder.save_checkpoint(content)


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested mappings and lists, with their dotted names."""
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _tensors(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{prefix}.{index}")
