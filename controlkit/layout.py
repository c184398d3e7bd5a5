"""The observation layout: one named, ordered vector derived from the plant description.

The same layout is used by ingest, training, evaluation, the exported graph and the edge; it is stored with every
artifact and checked at every border. An observation at time t holds, in this order:

1. the frame: the measured tags (state, exogenous, static) at t, in the order of the plant file;
2. past frames: for lag 1, 2, ... every tag whose `history` reaches that far;
3. past commands: for lag 1, 2, ... `action@-k`, the command in force over (t - k periods, t - (k - 1) periods].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from controlkit.errors import ArtifactError
from controlkit.spec import PlantSpec

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor


@dataclass(frozen=True)
class Slot:
    """One number of the observation.

    Attributes:
        name: `tag` for the current value, `tag@-k` for the value k samples ago.
        tag: the tag it shows.
        source: `frame` (measured) or `action` (command).
        column: index of the tag among the frame tags, or among the actions.
        lag: age in samples; 0 is the current value.
        unit: engineering unit.
        low, high: engineering range.
    """

    name: str
    tag: str
    source: Literal["frame", "action"]
    column: int
    lag: int
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class Layout:
    """Names, order and ranges of an observation's slots; n frame tags, m actions, O slots.

    Attributes:
        frame_tags: the n measured tags of a sample.
        state_tags: those of them that the world model predicts.
        action_tags: the m commands.
        slots: the O slots.
        period_s: sample period.
    """

    frame_tags: tuple[str, ...]
    state_tags: tuple[str, ...]
    action_tags: tuple[str, ...]
    slots: tuple[Slot, ...]
    period_s: float

    @classmethod
    def from_spec(cls, spec: PlantSpec) -> Layout:
        """The layout of a plant."""
        frame, actions = spec.frame_tags, spec.action_tags
        slots = [_slot(spec, tag, "frame", column, 0) for column, tag in enumerate(frame)]
        for lag in range(1, max(spec.tags[tag].history for tag in frame) + 1):
            slots += [
                _slot(spec, tag, "frame", column, lag)
                for column, tag in enumerate(frame)
                if spec.tags[tag].history >= lag
            ]
        for lag in range(1, max(spec.past_commands(tag) for tag in actions) + 1):
            slots += [
                _slot(spec, tag, "action", column, lag)
                for column, tag in enumerate(actions)
                if spec.past_commands(tag) >= lag
            ]
        return cls(frame, spec.state_tags, actions, tuple(slots), spec.period_s)

    @property
    def size(self) -> int:
        """O, the number of slots."""
        return len(self.slots)

    @cached_property
    def depth(self) -> int:
        """How many earlier samples an observation needs."""
        return max(slot.lag for slot in self.slots)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The slots' names."""
        return tuple(slot.name for slot in self.slots)

    @cached_property
    def state_columns(self) -> npt.NDArray[np.int64]:
        """(S,) positions of the state tags in a frame; the frame's slots come first, so also in an observation."""
        return np.array([self.frame_tags.index(tag) for tag in self.state_tags], dtype=np.int64)

    @cached_property
    def low(self) -> npt.NDArray[np.float32]:
        """(O,) lower ends of the slots' engineering ranges."""
        return np.array([slot.low for slot in self.slots], dtype=np.float32)

    @cached_property
    def high(self) -> npt.NDArray[np.float32]:
        """(O,) upper ends of the slots' engineering ranges."""
        return np.array([slot.high for slot in self.slots], dtype=np.float32)

    @cached_property
    def current_slots(self) -> npt.NDArray[np.int64]:
        """Positions of what is known without history: the current frame and the last command."""
        return np.array(
            [i for i, s in enumerate(self.slots) if s.lag == (0 if s.source == "frame" else 1)], dtype=np.int64
        )

    def index(self, name: str) -> int:
        """Position of a slot by its name.

        Raises:
            KeyError: there is no such slot.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None

    def previous_command(self) -> list[int | None]:
        """For each action the slot of the command in force until now, `None` where the observation lacks it."""
        known = {slot.name: i for i, slot in enumerate(self.slots)}
        return [known.get(f"{tag}@-1") for tag in self.action_tags]

    @cached_property
    def shift_index(self) -> npt.NDArray[np.int64]:
        """(O,) where each slot of the next observation is found in the vector [next frame, action, observation]."""
        n, m = len(self.frame_tags), len(self.action_tags)
        position = {(s.source, s.column, s.lag): n + m + i for i, s in enumerate(self.slots)}
        position |= {("frame", column, -1): column for column in range(n)}
        position |= {("action", column, 0): n + column for column in range(m)}
        return np.array([position[s.source, s.column, s.lag - 1] for s in self.slots], dtype=np.int64)

    def observer_window(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Slots of the window in order of time, the oldest sample first, for models that step along it.

        The window is D + 1 samples deep, D being the shortest history of any state tag, command, and exogenous tag that
        has one; tags without (static ones) stand in every row with their current value.

        Returns:
            State tags (D + 1, S), the other frame tags (D + 1, n - S), commands between the samples (D, m).
        """
        at = {(slot.tag, slot.lag): i for i, slot in enumerate(self.slots)}
        deepest = {tag: max(lag for name, lag in at if name == tag) for tag in self.frame_tags}
        deepest |= {tag: max((lag for name, lag in at if name == tag), default=0) for tag in self.action_tags}
        others = [tag for tag in self.frame_tags if tag not in self.state_tags]
        counted = (*self.state_tags, *self.action_tags, *(tag for tag in others if deepest[tag]))
        lags = range(min(deepest[tag] for tag in counted), -1, -1)

        def rows(tags: Sequence[str], lags: Iterable[int]) -> npt.NDArray[np.int64]:
            table = [[at.get((tag, lag), at.get((tag, 0), -1)) for tag in tags] for lag in lags]
            return np.array(table, dtype=np.int64).reshape(len(table), len(tags))

        return rows(self.state_tags, lags), rows(others, lags), rows(self.action_tags, [lag for lag in lags if lag])

    def window_index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Lag, column and whether it is a command, for each slot: (O,), (O,), (O,). See `observe`."""
        lags = np.array([slot.lag for slot in self.slots], dtype=np.int64)
        columns = np.array([slot.column for slot in self.slots], dtype=np.int64)
        commands = np.array([slot.source == "action" for slot in self.slots])
        return lags, columns, commands

    def observe(
        self, frames: npt.NDArray[np.float32], actions: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Observations at `rows` of a log, built from its frames (N, n) and actions (N, m).

        The caller sees to it that `depth` earlier rows of the same episode exist.

        Returns:
            (B, O) float32.
        """
        lags, columns, commands = self.window_index()
        observation = np.empty((len(rows), self.size), dtype=np.float32)  # (B, O)
        for source, values in ((False, frames), (True, actions)):
            chosen = np.flatnonzero(commands == source)
            if chosen.size:
                observation[:, chosen] = values[rows[:, None] - lags[chosen], columns[chosen]]
        return observation

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "frame_tags": list(self.frame_tags),
            "state_tags": list(self.state_tags),
            "action_tags": list(self.action_tags),
            "period_s": self.period_s,
            "slots": [asdict(slot) for slot in self.slots],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str = "") -> Layout:
        """Reads what `to_dict` wrote; `where` names the file in an error.

        Raises:
            ArtifactError: a field is missing or unknown.
        """
        try:
            return cls(
                frame_tags=tuple(content["frame_tags"]),
                state_tags=tuple(content["state_tags"]),
                action_tags=tuple(content["action_tags"]),
                slots=tuple(Slot(**slot) for slot in content["slots"]),
                period_s=content["period_s"],
            )
        except (KeyError, TypeError) as problem:
            what = f"the observation layout is damaged ({problem})"
            raise ArtifactError(what, where=where, cure="Make it again.") from None

    def require_same(self, other: Layout, where: str) -> None:
        """Checks a border between two artifacts.

        Raises:
            ArtifactError: the layouts differ; names the first difference.
        """
        if self == other:
            return
        if self.names != other.names:
            pairs = zip((*self.names, "nothing"), (*other.names, "nothing"), strict=False)
            mine, theirs = next(pair for pair in pairs if pair[0] != pair[1])
            detail = f"slot '{theirs}' stands where '{mine}' is expected ({other.size} slots against {self.size})"
        elif self.period_s != other.period_s:
            detail = f"the sample period is {other.period_s} s, not {self.period_s} s"
        else:
            differing = [slot.name for slot, mine in zip(other.slots, self.slots, strict=True) if slot != mine]
            detail = f"slot '{differing[0]}' differs in unit or range" if differing else "the tags' roles differ"
        raise ArtifactError(
            f"the observation layout differs: {detail}",
            where=where,
            cure="Use artifacts made with the same plant file.",
        )


def _slot(spec: PlantSpec, tag: str, source: Literal["frame", "action"], column: int, lag: int) -> Slot:
    described = spec.tags[tag]
    # What a command can be is its limits; what a measurement can be is its range.
    low, high = spec.limits(tag) if source == "action" else described.range
    return Slot(f"{tag}@-{lag}" if lag else tag, tag, source, column, lag, described.unit, low, high)
