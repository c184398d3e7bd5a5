"""What is run, what became of it, and what is told meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["done", "failed", "lost"]
Happening = Literal["started", "retried", "done", "failed", "lost"]


@dataclass(frozen=True)
class Item:
    """One independent piece of work.

    Attributes:
        name: unique among the items of a run.
        payload: plain values, handed to the work as its only argument.
        cores, gpus: reserved on one machine while it runs; a GPU may be shared (0.25).
    """

    name: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    cores: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    Attributes:
        state: `done`; `failed` where the work raised an error, which it would raise again; `lost` where its worker or
            machine died at every try, or no machine is left that it fits on.
        value: what the work returned, `None` unless done.
        message: one line that says what went wrong, empty where nothing did.
        tries: how often it was begun.
        seconds: of the last try, as its worker measured them; 0 where it was lost.
    """

    name: str
    state: State
    value: Any = None
    message: str = ""
    tries: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Event:
    """What happens to an item: `started` and `retried` come before its outcome, and may come again.

    Attributes:
        machine: that it runs on, with `started`.
        message: why it is begun again, with `retried`.
        outcome: at the end, with `done`, `failed` and `lost`.
    """

    name: str
    kind: Happening
    machine: str = ""
    message: str = ""
    outcome: Outcome | None = None
