"""Faults of stated class and size, put between a simulated plant and a controller: B copies, each from its own start.

Sizes of bias, drift, spike and noise are multiples of the tag's noise. Faults of a sensor change what is read from the
start on; those of the plant change what a command does from the start on, which shows one period later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from envs.simulation import Floats

Ints = npt.NDArray[np.int64]
DRIFT_PERIODS = 100
DITHER = 0.1

# kind -> what it does, as the table has it
SENSOR_FAULTS = {
    "bias": "bias, {:g} sigma at once",
    "drift": f"drift, {{:g}} sigma in {DRIFT_PERIODS} periods",
    "spike": "spike of one sample, {:g} sigma",
    "noise": "noise x {:g}",
    "frozen": "frozen sensor, any time",
    "frozen moving": "frozen sensor, while the plant moves",
    "dithering": f"frozen, with {DITHER:g} sigma of dither",
    "dithering moving": f"frozen, with {DITHER:g} sigma of dither, while the plant moves",
    "zero": "dead sensor, shows 0",
    "end": "dead sensor, shows the upper end of its range",
    "swapped": "two sensors swapped",
    "quality": "bad quality",
    "stale": "stale: value and time stamp stand still",
}
PLANT_FAULTS = {
    "stuck": "stuck valve, the echo claims the new command",
    "stuck honest": "stuck valve, the echo shows it",
    "gain": "effect of the command x {:g}",
    "dynamics": "{} x {:g}",
}
SIZED: Mapping[str, tuple[float, ...]] = {
    "bias": (1, 2, 4, 8),
    "drift": (1, 4, 8),
    "spike": (2, 4, 8),
    "noise": (2, 4),
    "gain": (0.5, 1.5, 2),
    "dynamics": (0.5, 2),
}


@dataclass(frozen=True)
class Fault:
    """A fault: its kind, and its size where it has one (0 where not)."""

    kind: str
    size: float = 0.0

    @property
    def name(self) -> str:
        """For files and records."""
        return self.kind if self.kind not in SIZED else f"{self.kind} {self.size:g}"

    @property
    def is_spike(self) -> bool:
        """Whether it is over after one sample."""
        return self.kind == "spike"

    @property
    def needs_movement(self) -> bool:
        """Whether it begins where the plant is about to move."""
        return self.kind.endswith("moving")

    def label(self, constant: str = "") -> str:
        """In words; `constant` is what the changed dynamics concern."""
        words = (SENSOR_FAULTS | PLANT_FAULTS)[self.kind]
        return words.format(constant, self.size) if self.kind == "dynamics" else words.format(self.size)


def all_faults(*, plant: bool, dynamics: bool, swappable: bool) -> list[Fault]:
    """Every fault that can be put on a plant.

    Args:
        plant: whether the plant's own faults can be simulated (not in a recorded log).
        dynamics: whether it has a constant that can be changed.
        swappable: whether two of its state tags have overlapping ranges.
    """
    left_out = {kind for kind, there in (("dynamics", dynamics), ("swapped", swappable)) if not there}
    kinds = [*SENSOR_FAULTS, *(PLANT_FAULTS if plant else ())]
    return [Fault(kind, size) for kind in kinds if kind not in left_out for size in SIZED.get(kind, (0.0,))]


@dataclass(frozen=True)
class Signals:
    """What a fault must know of the n frame tags.

    Attributes:
        sigma: (n,) noise; low, high: (n,) engineering ranges.
        partner: (n,) the tag to swap with, -1 where there is none.
        columns: the state tags, which sensor faults fall on.
        period_s: of a sample.
    """

    sigma: Floats
    low: Floats
    high: Floats
    partner: Ints
    columns: Ints
    period_s: float

    @classmethod
    def of(cls, spec: PlantSpec, sigma: Floats) -> Signals:
        """Of a plant; a tag's partner is the next state tag whose range overlaps by half of the smaller one at least,
        and whose unit is the same."""
        layout = Layout.from_spec(spec)
        low, high = np.array([spec.tags[tag].range for tag in layout.frame_tags], dtype=np.float64).T
        partner = np.full(len(low), -1)
        columns = [int(column) for column in layout.state_columns]
        for one in columns:
            for step in range(1, len(columns)):
                other = columns[(columns.index(one) + step) % len(columns)]
                common = min(high[one], high[other]) - max(low[one], low[other])
                same_unit = spec.tags[layout.frame_tags[one]].unit == spec.tags[layout.frame_tags[other]].unit
                if same_unit and common >= 0.5 * min(high[one] - low[one], high[other] - low[other]):
                    partner[one] = other
                    break
        return cls(sigma, low, high, partner, np.array(columns), spec.period_s)


@dataclass(frozen=True)
class Readings:
    """What the controller gets: (B, n) values, quality (1 good) and ages in seconds."""

    frame: Floats
    ok: Floats
    age_s: Floats


class Injector:
    """One fault on B copies; to be asked once a period, in order: `sense`, then `actuate`.

    Args:
        fault: which; `None` leaves everything as it is.
        start: (B,) first period.
        column: (B,) the tag that a sensor fault falls on.
        signals: of the plant.
        rng: draws noise, for the faults that have some.
    """

    def __init__(
        self, fault: Fault | None, start: Ints, column: Ints, signals: Signals, rng: np.random.Generator
    ) -> None:
        self.fault, self.start, self.column, self.signals = fault, start, column, signals
        self._rng = rng
        self._kept = np.full(len(start), np.nan)  # (B,) what the sensor showed when it froze
        self._command: Floats | None = None  # (B, m) what the plant carried out last
        self._kind = "" if fault is None else fault.kind.removesuffix(" moving")

    def active(self, time: int) -> npt.NDArray[np.bool_]:
        """(B,) copies whose fault has begun."""
        return np.zeros(len(self.start), dtype=np.bool_) if self.fault is None else time >= self.start

    def sense(self, time: int, frame: Floats) -> Readings:
        """What is read of the frame (B, n) of this period."""
        seen, ok, age = frame.astype(np.float64), np.ones(frame.shape), np.zeros(frame.shape)
        rows = np.flatnonzero(self.active(time))
        if self.fault is None or not len(rows) or self.fault.kind not in SENSOR_FAULTS:
            return Readings(seen, ok, age)
        at = (rows, self.column[rows])
        now, since = frame[at], time - self.start[rows]
        self._kept[rows] = np.where(np.isnan(self._kept[rows]), now, self._kept[rows])
        if self._kind == "quality":
            ok[at] = 0.0
        elif self._kind == "stale":
            seen[at], age[at] = self._kept[rows], since * self.signals.period_s
        else:
            noise = self._rng.standard_normal(len(self.start))[rows] if self._kind in _NOISY else np.zeros(len(rows))
            seen[at] = _SENSE[self._kind](
                _Sensed(now, self._kept[rows], since, frame, rows, at[1], noise, self.fault.size, self.signals)
            )
        return Readings(seen, ok, age)

    def actuate(self, time: int, command: Floats) -> tuple[Floats, Floats]:
        """What the plant carries out of a command (B, m), and what it echoes: (B, m) each."""
        active = self.active(time)[:, None]
        before = command if self._command is None else self._command
        carried_out = command
        if self._kind in ("stuck", "stuck honest"):
            carried_out = np.where(active, before, command)
        elif self._kind == "gain" and self.fault is not None:
            carried_out = np.where(active, self.fault.size * command, command)
        self._command = carried_out
        return carried_out, carried_out if self._kind == "stuck honest" else command


@dataclass(frozen=True)
class _Sensed:
    """Of the R copies with the fault: value now, when it began, periods since, whole frame (B, n), copies and tags,
    standard normal numbers."""

    now: Floats
    kept: Floats
    since: Ints
    frame: Floats
    rows: Ints
    column: Ints
    noise: Floats
    size: float
    signals: Signals

    @property
    def sigma(self) -> Floats:
        """(R,) noise of the tags."""
        return self.signals.sigma[self.column]


_NOISY = ("noise", "dithering")
_SENSE: Mapping[str, Callable[[_Sensed], Floats]] = {
    "bias": lambda x: x.now + x.size * x.sigma,
    "drift": lambda x: x.now + x.size * x.sigma * x.since / DRIFT_PERIODS,
    "spike": lambda x: x.now + np.where(x.since == 0, x.size * x.sigma, 0.0),
    # Independent noise adds in squares: together it is `size` times what was there.
    "noise": lambda x: x.now + np.sqrt(x.size**2 - 1.0) * x.sigma * x.noise,
    "frozen": lambda x: x.kept,
    "dithering": lambda x: x.kept + DITHER * x.sigma * x.noise,
    "zero": lambda x: np.zeros_like(x.now),
    "end": lambda x: x.signals.high[x.column],
    "swapped": lambda x: np.where(
        x.signals.partner[x.column] >= 0, x.frame[x.rows, x.signals.partner[x.column]], x.now
    ),
}


def starts_of(
    fault: Fault, draws: Ints, frames: Floats, column: Ints, ahead: int, window: tuple[int, int]
) -> tuple[Ints, Floats]:
    """When a fault begins in each copy, and how far its tag moves after that.

    Args:
        fault: one that needs movement begins where the tag moves farthest in the healthy run; others as drawn.
        draws: (B,) random starts.
        frames: (T, B, n) of the healthy run.
        column: (B,) the tag.
        ahead: periods over which the movement counts.
        window: first start and one after the last.

    Returns:
        (B,) starts, (B,) largest movements within `ahead` periods, engineering units.
    """
    copies = np.arange(len(draws))
    values = frames[:, copies, column]  # (T, B)
    moves = np.stack(
        [np.abs(values[t + 1 : t + 1 + ahead] - values[t]).max(axis=0) for t in range(window[0], window[1])]
    )
    start = window[0] + moves.argmax(axis=0) if fault.needs_movement else draws
    return start, moves[start - window[0], copies]


def compressed(values: Floats, deadband: Floats) -> Floats:
    """An exception-deviation historian: a value is kept until the signal has moved by more than the deadband from it.

    Args:
        values: (T, ..., n).
        deadband: (n,).
    """
    kept, held = np.empty_like(values), None
    for row, value in enumerate(values):
        held = value if held is None else np.where(np.abs(value - held) > deadband, value, held)
        kept[row] = held
    return kept


def columns_of(signals: Signals, fault: Fault | None, copies: int) -> Ints:
    """(B,) the state tags in turn; those that have a partner, for a swap."""
    among: Sequence[int] = [int(c) for c in signals.columns]
    if fault is not None and fault.kind == "swapped":
        among = [c for c in among if signals.partner[c] >= 0]
    return np.array([among[copy % len(among)] for copy in range(copies)])
