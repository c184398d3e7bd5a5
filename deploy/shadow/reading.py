"""From the audit log to blocks of numbers: every row's types and sizes are checked, what is wrong is counted and told.

Memory is bounded: a block at a time, a bounded number of names, texts cut. Numbers become float32, as the graph had
them; a number beyond its range, and anything that is none, is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from controlkit.errors import ArtifactError
from deploy.bundle.store import Bundle
from deploy.runtime.snapshot import MODES

Float32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BLOCK = 2048
# Shortest unbroken text by which a row names its controller.
SHORT_HASH = 12
MAX_NAMES = 200
MAX_TEXT = 300
# 1990 .. 2200, nanoseconds; and how far a sample time may be from the wall clock of its row.
TIMES_NS = (631_152_000_000_000_000, 7_258_118_400_000_000_000)
CLOCK_SLACK_NS = 86_400_000_000_000
_PLAIN = {float, int, type(None)}
SCALARS = ("trust", "score_observed", "score_predicted", "spread", "shortfall", "ewma", "cusum", "compute_ms")


class Row(Protocol):
    """What is read of a row of the audit log, see `deploy.runtime.audit_reader.AuditRow`."""

    @property
    def seq(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def wall_ns(self) -> int: ...
    @property
    def payload(self) -> Mapping[str, Any]: ...


@dataclass
class CycleBlock:
    """B cycles in the log's order; n tags, m commands, F flags, in the manifest's order; NaN where unknown.

    Attributes:
        carried: 1 if the first row is the last one of the block before, there for the sake of pairs; else 0.
        time_ns: (B,) sample time; mode: (B,) position in `MODES`.
        obs, ok, age_s, predicted: (B, n) value, usable, age, predicted next sample under the policy's command.
        act_prev: (B, m) command in force over the period that ends here.
        action, policy: (B, m) what the controller, and what the policy alone, would command.
        scalars: (B, 8) in the order of `SCALARS`.
        flags: (B, F) raised.
        faults: for each cycle, name -> text, of what the runtime itself found wrong.
    """

    carried: int
    time_ns: Ints
    mode: npt.NDArray[np.int8]
    obs: Float32
    ok: npt.NDArray[np.bool_]
    age_s: Float32
    predicted: Float32
    act_prev: Float32
    action: Float32
    policy: Float32
    scalars: Float32
    flags: npt.NDArray[np.bool_]
    faults: list[dict[str, str]]

    def scalar(self, name: str) -> npt.NDArray[np.float64]:
        """(B,) one of `SCALARS`."""
        return self.scalars[:, SCALARS.index(name)].astype(np.float64)


@dataclass
class Read:
    """What the reader met on its way.

    Attributes:
        cycles: of the controller under evaluation, inside the window.
        malformed, examples: rows that were left out, and why (the first few).
        others: first digits of other controllers -> their cycles inside the window, which were left out.
        newest: the controller of the last cycle (of the log, inside the window); empty before any.
        newest_ns: its sample time; versions: of controlkit that wrote the log; addresses: of the plant.
        damage: where reading had to stop; empty if it did not.
    """

    cycles: int = 0
    malformed: int = 0
    examples: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    newest: str = ""
    newest_ns: int = 0
    versions: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    damage: str = ""


class MalformedError(ValueError):
    """A row that says something impossible."""


class Reader:
    """Reads one controller's cycles.

    Args:
        bundle: the controller; its tables are what the rows have to fit.
        where: the log's folder, for messages.
        window_ns: sample times that count, first and last.
        on_event: called with kind, wall clock and payload of every row that is no cycle, inside the window.
    """

    def __init__(
        self,
        bundle: Bundle,
        where: str,
        window_ns: tuple[int, int],
        on_event: Callable[[str, int, Mapping[str, Any]], None],
    ) -> None:
        manifest = bundle.manifest
        self.found = Read()
        self._where, self._window, self._on_event = where, window_ns, on_event
        self._plant, self._ours = manifest.plant, manifest.model.sha256
        self._names = {
            "tags": bundle.layout.frame_tags,
            "commands": bundle.layout.action_tags,
            "flags": manifest.flags(),
        }
        self._flags = {name: place for place, name in enumerate(manifest.flags())}
        self._sizes = len(bundle.layout.frame_tags), len(bundle.layout.action_tags), len(self._flags)
        self._current = ""

    def blocks(self, rows: Iterable[Row]) -> Iterator[CycleBlock]:
        """The cycles, block by block; a recalibration begins a new one.

        Raises:
            ArtifactError: the log is another plant's.
        """
        block, filled = self._empty(None), 0
        stream = iter(rows)
        while True:
            try:
                row = next(stream, None)
            except ArtifactError as problem:
                # What came before the damage is still worth reading; the verdict forbids what it forbids.
                self.found.damage = str(problem)[:MAX_TEXT]
                row = None
            if row is None:
                break
            if row.kind != "cycle":
                if row.kind == "calibration" and filled > block.carried:
                    # What was measured before is judged before.
                    yield (done := _known(_cut(block, filled)))
                    block, filled = self._empty(done), 1
                self._event(row)
                continue
            try:
                taken = self._take(row, block, filled)
            except (MalformedError, OverflowError) as problem:
                self._wrong(row, str(problem))
                continue
            filled += taken
            if filled == BLOCK:
                yield _known(block)
                block, filled = self._empty(block), 1
        if filled > block.carried:
            yield _known(_cut(block, filled))

    def _take(self, row: Row, block: CycleBlock, place: int) -> int:
        """Puts a row into the block; 1 if it belongs there, 0 if it is another controller's or outside the window."""
        p = row.payload
        controller = _short_text(p.get("controller", self._current), "controller")
        time_ns, mode = p.get("time_ns"), p.get("mode")
        if type(time_ns) is not int or not TIMES_NS[0] <= time_ns <= TIMES_NS[1]:
            raise MalformedError("'time_ns' is no time")
        if abs(time_ns - row.wall_ns) > CLOCK_SLACK_NS:
            raise MalformedError("the sample time is more than a day from the row's own")
        if not self._window[0] <= time_ns <= self._window[1]:
            return 0
        if len(controller) < SHORT_HASH:
            raise MalformedError("no row before it says which controller this is")
        if not self._ours.startswith(controller):
            self.found.newest, self.found.newest_ns = controller, time_ns
            short = controller[:SHORT_HASH]
            if short in self.found.others or len(self.found.others) < MAX_NAMES:
                self.found.others[short] = self.found.others.get(short, 0) + 1
            return 0
        if mode not in MODES:
            raise MalformedError("'mode' is none")
        n, m, _ = self._sizes
        block.time_ns[place], block.mode[place] = time_ns, MODES.index(mode)
        with np.errstate(over="ignore", invalid="ignore"):
            for name, target, size in (
                ("obs", block.obs, n),
                ("age", block.age_s, n),
                ("act_prev", block.act_prev, m),
                ("action", block.action, m),
                ("policy", block.policy, m),
                ("predicted", block.predicted, n),
            ):
                target[place] = _vector(p.get(name), name, size)
            ok = p.get("ok")
            if type(ok) is not list or len(ok) != n or not all(value in (0, 1) for value in ok):
                raise MalformedError(f"'ok' is no list of {n} zeros and ones")
            block.ok[place] = ok
            block.scalars[place] = [_scalar(p.get(name), name) for name in SCALARS]
        block.flags[place] = False
        for flag in _list(p.get("flags"), "flags"):
            if not isinstance(flag, str) or flag not in self._flags:
                raise MalformedError("a flag is none of the controller's")
            block.flags[place, self._flags[flag]] = True
        faults = p.get("faults", {})
        if not isinstance(faults, dict) or len(faults) > MAX_NAMES:
            raise MalformedError("'faults' is no table")
        block.faults[place] = {str(name)[:MAX_TEXT]: str(text)[:MAX_TEXT] for name, text in faults.items()}
        self.found.cycles += 1
        self.found.newest, self.found.newest_ns = self._ours, time_ns
        return 1

    def _event(self, row: Row) -> None:
        p = row.payload
        try:
            if row.kind == "start":
                self._started(p)
            elif row.kind == "bundle" and p.get("event", "charge") == "charge":
                self._current = _short_text(p.get("controller", ""), "controller")
        except MalformedError as problem:
            self._wrong(row, str(problem))
            return
        if self._window[0] <= row.wall_ns <= self._window[1]:
            self._on_event(row.kind, row.wall_ns, p)

    def _started(self, p: Mapping[str, Any]) -> None:
        plant, controller = _short_text(p.get("plant", ""), "plant"), _short_text(p.get("controller", ""), "controller")
        if plant != self._plant:
            raise ArtifactError(
                f"is the audit log of plant '{plant[:60]}', not of '{self._plant}'",
                where=self._where,
                cure="Give the state folder of the runtime that ran this bundle.",
            )
        self._current = controller
        if controller == self._ours and any(p.get(name) != list(names) for name, names in self._names.items()):
            raise ArtifactError(
                "names other tags, commands or flags than the bundle, although the controller is the same",
                where=self._where,
                cure="One of them was changed: run 'controlkit verify' on the bundle and keep the log as evidence.",
            )
        for kept, key in ((self.found.versions, "controlkit"), (self.found.addresses, "address")):
            text = _short_text(p.get(key, ""), key)
            if text and text not in kept and len(kept) < MAX_NAMES:
                kept.append(text)

    def _wrong(self, row: Row, why: str) -> None:
        self.found.malformed += 1
        if len(self.found.examples) < 5:
            self.found.examples.append(f"row {row.seq} ({row.kind}): {why}"[:MAX_TEXT])

    def _empty(self, before: CycleBlock | None) -> CycleBlock:
        n, m, f = self._sizes

        def floats(size: int) -> Float32:
            return np.full((BLOCK, size), np.nan, dtype=np.float32)

        block = CycleBlock(
            carried=0 if before is None else 1,
            time_ns=np.zeros(BLOCK, dtype=np.int64),
            mode=np.zeros(BLOCK, dtype=np.int8),
            obs=floats(n),
            ok=np.zeros((BLOCK, n), dtype=np.bool_),
            age_s=floats(n),
            predicted=floats(n),
            act_prev=floats(m),
            action=floats(m),
            policy=floats(m),
            scalars=floats(len(SCALARS)),
            flags=np.zeros((BLOCK, f), dtype=np.bool_),
            faults=[{} for _ in range(BLOCK)],
        )
        if before is not None:
            for name in _ARRAYS:
                getattr(block, name)[0] = getattr(before, name)[-1]
        return block


_ARRAYS = (
    "time_ns", "mode", "obs", "ok", "age_s", "predicted", "act_prev", "action", "policy", "scalars", "flags", "faults",
)  # fmt: skip


def _cut(block: CycleBlock, rows: int) -> CycleBlock:
    return CycleBlock(block.carried, *(getattr(block, name)[:rows] for name in _ARRAYS))


def _known(block: CycleBlock) -> CycleBlock:
    for values in (block.obs, block.age_s, block.predicted, block.act_prev, block.action, block.policy, block.scalars):
        values[~np.isfinite(values)] = np.nan
    return block


def _vector(value: Any, name: str, size: int) -> list[Any]:
    if value is None:
        return [np.nan] * size
    if type(value) is not list or len(value) != size:
        raise MalformedError(f"'{name}' is no list of {size} numbers")
    if not set(map(type, value)) <= _PLAIN:
        raise MalformedError(f"'{name}' holds something that is no number")
    return value


def _scalar(value: Any, name: str) -> float:
    if value is None:
        return np.nan
    if type(value) not in _PLAIN:
        raise MalformedError(f"'{name}' is no number")
    return float(value)


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if type(value) is not list or len(value) > 10_000:
        raise MalformedError(f"'{name}' is no list")
    return value


def _short_text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise MalformedError(f"'{name}' is no short text")
    return value
