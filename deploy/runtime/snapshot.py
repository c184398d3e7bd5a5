"""What the runtime shows of itself: one immutable record per cycle, for the status page and the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["OFF", "SHADOW", "ADVISORY", "ARMED"]
MODES: tuple[Mode, ...] = ("OFF", "SHADOW", "ADVISORY", "ARMED")
Severity = Literal["info", "warning", "alarm"]


@dataclass(frozen=True)
class TagView:
    """A measured tag now: value (`None` where unknown), whether it may be used, age in seconds (`None`: never seen)."""

    name: str
    unit: str
    value: float | None
    usable: bool
    age_s: float | None
    low: float
    high: float
    description: str = ""


@dataclass(frozen=True)
class CommandView:
    """A command: in force on the plant, what the controller issues, what policy and fallback wish, absolute limits."""

    name: str
    unit: str
    in_force: float | None
    action: float | None
    policy: float | None
    fallback: float | None
    low: float
    high: float
    description: str = ""


@dataclass(frozen=True)
class Notice:
    """An alarm, a warning or an event.

    Attributes:
        time_ns: when it began, wall clock, nanoseconds since 1970-01-01 UTC.
        severity: `alarm` needs a person.
        name: short and fixed, such as `plant_silent`.
        text: what is wrong, and what to do.
        active: whether it holds now.
    """

    time_ns: int
    severity: Severity
    name: str
    text: str
    active: bool


@dataclass(frozen=True)
class Snapshot:
    """The runtime after one cycle.

    Attributes:
        plant, controller: name of the plant; first 12 digits of the graph's SHA-256.
        mode, wanted: the mode in force, and the one that was asked for and is waited for.
        why: why `wanted` is not in force yet; empty if it is.
        mode_since_ns: wall clock of the last change of mode.
        time_ns: wall clock of the cycle; cycle: its number; period_s: the controller's.
        tags, commands: see there.
        trust: share of the policy in the action, 0 .. 1.
        score_observed, score_predicted, spread: as the graph gave them; `None` where they could not be computed.
        shortfall, ewma, cusum: the observed transition's standardised shortfall and its running sums.
        limits: name of a score or sum -> the threshold it is checked by.
        flags: name -> meaning, of the graph's flags that are raised.
        faults: name -> what the runtime itself found wrong in this cycle.
        notices: alarms and events, newest first.
        counters: name -> total since the start (cycles, late, faulty, writes, refused, reconnects, ...).
        compute_ms, cycle_ms: time of the controller, and of the whole cycle.
        calibration: progress of the recalibration, such as `120 of 300 steps`.
        lease: who holds the lease; slots: name of a bundle slot -> what is in it.
        change_record, operator: under which the controller was armed; empty if it is not.
    """

    plant: str
    controller: str
    mode: Mode
    wanted: Mode
    why: str
    mode_since_ns: int
    time_ns: int
    cycle: int
    period_s: float
    tags: tuple[TagView, ...] = ()
    commands: tuple[CommandView, ...] = ()
    trust: float = 0.0
    score_observed: float | None = None
    score_predicted: float | None = None
    spread: float | None = None
    shortfall: float | None = None
    ewma: float | None = None
    cusum: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    compute_ms: float = 0.0
    cycle_ms: float = 0.0
    calibration: str = ""
    lease: str = ""
    slots: Mapping[str, str] = field(default_factory=dict)
    change_record: str = ""
    operator: str = ""
