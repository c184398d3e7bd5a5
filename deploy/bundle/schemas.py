"""Schemas of the manifest: how each is read into the newest records, and written again byte for byte.

A schema that bundles in the field have does not change any more. What a later one adds is given, on reading, the value
that says what the earlier one meant, and left out on writing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# What an untrusted file holds: nothing about it is known but that it is a JSON object.
Plain = dict[str, Any]

SCHEMA: Final = 2


@dataclass(frozen=True)
class Schema:
    """One schema.

    Attributes:
        read: from what a manifest of this schema holds to the fields of the newest; leaves it to these to refuse.
        write: back.
    """

    read: Callable[[Plain], Plain]
    write: Callable[[Plain], Plain]


def _read_1(plain: Plain) -> Plain:
    """Schema 1 knows no recalibration: an edge may move the observed checks by nothing."""
    safety = plain.get("safety")
    if isinstance(safety, dict):
        safety = safety | {"recalibration_shift": 0.0, "recalibration_stretch": 0.0, "recalibration_steps": 1}
    return plain | {"safety": safety, "recalibration": None}


def _write_1(plain: Plain) -> Plain:
    safety = {name: value for name, value in plain["safety"].items() if not name.startswith("recalibration_")}
    return {name: value for name, value in plain.items() if name != "recalibration"} | {"safety": safety}


def _same(plain: Plain) -> Plain:
    return plain


SCHEMAS: dict[int, Schema] = {1: Schema(_read_1, _write_1), SCHEMA: Schema(_same, _same)}
