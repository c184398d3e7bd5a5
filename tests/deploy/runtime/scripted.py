"""A plant that does exactly what a test says, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlkit.spec import PlantSpec
from deploy.runtime.plant import PlantReading, WriteRequest, WriteResult

ALL = frozenset({"auto", "heartbeat_plant", "heartbeat_controller", "lease", "advice"})


def two_valves(*, mode: bool = False) -> PlantSpec:
    """A plant with two commands of span 10, 1 s period, and perhaps a mode."""
    action = {"role": "action", "unit": "%", "range": [0, 10], "safe": 0, "fallback": {"kind": "hold"}}
    running = {"running": {"role": "mode", "unit": "1", "range": [0, 1], "accept": [1]}} if mode else {}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {"level": {"role": "state", "unit": "m", "range": [0, 10]}, **running, "a": action, "b": action},
            "objective": [{"kind": "cost", "tag": "level"}],
        }
    )


@dataclass
class ScriptedPlant:
    """See the module.

    Attributes:
        handshake: what it has.
        result: what it says to every write.
        echo: what it shows after a write; `None`: what was written.
        written: every request, with the time that it was given.
    """

    handshake: frozenset[str] = ALL
    result: WriteResult = field(default_factory=WriteResult)
    echo: Mapping[str, float] | None = None
    written: list[tuple[WriteRequest, float]] = field(default_factory=list)

    def read(self, timeout_s: float) -> PlantReading:
        return PlantReading()

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        self.written.append((request, timeout_s))
        return self.result

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        return self.written[-1][0].commands if self.echo is None else self.echo

    def close(self) -> None:
        pass
