"""What a controller can be connected to: the protocol of a live plant, the part of a simulator, and their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from controlkit.errors import ControlkitError, nearest

Quality = Literal["good", "uncertain", "substituted", "bad"]


@dataclass(frozen=True)
class Sample:
    """The newest value that a plant shows of one tag.

    Attributes:
        time_ns: source time, nanoseconds since 1970-01-01 UTC; `None` where the plant gave none.
        value: engineering units; NaN where there is none.
        quality: as the plant gave it; what an uncertain or substituted value is worth the plant file says.
    """

    time_ns: int | None
    value: float
    quality: Quality = "good"


@dataclass(frozen=True)
class PlantReading:
    """What a plant answered in one cycle. A tag that it did not answer for is missing.

    Attributes:
        samples: measured tags by name.
        commands: commands in force by the name of their action, as the plant echoes them.
        modes: mode tags by name.
        auto: the operator's switch: whether a controller may act; `None` where the plant has none, or did not say.
        heartbeat: the plant's counter; `None` where it has none, or did not say.
        lease: what the lease tag holds; `None` where there is none, or it was not read.
        problem: why the plant did not answer, or not for everything; empty if it did.
    """

    samples: Mapping[str, Sample] = field(default_factory=dict)
    commands: Mapping[str, Sample] = field(default_factory=dict)
    modes: Mapping[str, Sample] = field(default_factory=dict)
    auto: bool | None = None
    heartbeat: int | None = None
    lease: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class WriteRequest:
    """What one cycle hands to the plant, all in one request. `None`, or no entry: not written.

    Attributes:
        commands: command by the name of its action.
        advice: what the controller would command, for an operator to read.
        heartbeat: the controller's counter.
        lease: who may command, see `deploy.runtime.lease`.
    """

    commands: Mapping[str, float] = field(default_factory=dict)
    advice: Mapping[str, float] = field(default_factory=dict)
    heartbeat: int | None = None
    lease: str | None = None


@dataclass(frozen=True)
class WriteResult:
    """What came of a request.

    Attributes:
        refused: what the plant refused, or did not confirm in time: name of an action, `heartbeat`, `lease` or
            `advice` -> reason.
        problem: why the plant did not answer at all; empty if it did.
    """

    refused: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


class Plant(Protocol):
    """A live plant. Nothing that the plant or the network does raises: it is told in the answer."""

    handshake: frozenset[str]
    """Which of `auto`, `heartbeat_plant`, `heartbeat_controller`, `lease` and `advice` the plant has."""

    def read(self, timeout_s: float) -> PlantReading:
        """The newest sample of everything, within `timeout_s` by the caller's patience."""

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        """Hands over one request, within `timeout_s`."""

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        """The commands in force by the name of their action, read after a write; what was not answered is missing."""

    def close(self) -> None:
        """Leaves the plant as it is and lets go of it."""


class Environment(Protocol):
    """The part of a gymnasium environment that a simulation needs."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode: the first frame (n,) and further facts."""

    def step(self, action: Any, /) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Applies a command (m,) for one period: next frame, reward, terminated, truncated, further facts."""


@dataclass(frozen=True)
class PlantAddress:
    """Where a plant is: `sim` and the name of a task, or `opc.tcp` and the address of its server."""

    kind: Literal["sim", "opc.tcp"]
    target: str


def plant_address(text: str) -> PlantAddress:
    """Reads what `--plant` was given, such as `sim:refrigerator` or `opc.tcp://10.0.0.5:4840/server`.

    Raises:
        ControlkitError: another kind of plant, no name, or a password in the address.
    """
    kind, colon, target = text.partition(":")
    where = "--plant"
    if kind == "opc.tcp":
        host = target.removeprefix("//").split("/")[0]
        if not target.startswith("//") or not host:
            raise ControlkitError(f"'{text}' names no server", where=where, cure="Write opc.tcp://HOST:PORT/PATH.")
        if "@" in host:
            # Not repeated in the message: it may hold a password.
            raise ControlkitError(
                "the address holds a user or a password",
                where=where,
                cure="Name the user and the password's file in the site file.",
            )
        return PlantAddress("opc.tcp", text)
    if kind != "sim":
        cure = f"Write sim:TASK or opc.tcp://HOST:PORT/PATH; {nearest(kind, ['sim', 'opc.tcp'])}"
        raise ControlkitError(
            "is no plant", where=f"{where} {text}", cure=cure if colon else cure.partition(";")[0] + "."
        )
    if not target:
        raise ControlkitError(
            "the task's name is missing", where=f"{where} {text}", cure="Write sim:TASK, for example sim:refrigerator."
        )
    return PlantAddress("sim", target)
