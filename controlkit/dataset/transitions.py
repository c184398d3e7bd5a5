"""TransitionDataset: the one form, on disk and in memory, that everything downstream reads.

Rows are sample times. Row i holds the frame (measured tags) at t_i and the command in force over (t_i, t_i + period];
the reward of row i belongs to the step from row i to row i + 1. The last row of an episode holds only the frame that
its last step led to: its action and reward are NaN. An episode of K steps therefore has K + 1 rows. History is not
stored: windows are built per batch, so that a year of data is stored once. Everything is in engineering units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError
from controlkit.layout import Layout
from controlkit.objective import Objective
from controlkit.spec import PlantSpec

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SCHEMA = 1
_STEPS = 1 << 14  # whose observations are built at a time for their rewards
_ROWS = 1 << 16  # looked at at a time where all rows of a data set are
TABLE, SPEC, LAYOUT, RECORD = "data.parquet", "spec.yaml", "layout.json", "dataset.json"


@dataclass(frozen=True)
class TransitionDataset:
    """N rows of a plant's log, n frame tags, m actions.

    Attributes:
        spec: the plant.
        frames: (N, n) measured tags; NaN where nothing was known.
        mask: (N, n) whether a cell is usable.
        age_s: (N, n) age of each value in seconds.
        actions: (N, m) commands; NaN in an episode's last row.
        changed: (N, m) whether the command changed inside its period.
        rewards: (N,); NaN in an episode's last row.
        terminated, truncated: (N,) set on the last step of an episode, never both.
        episode: (N,) number of the episode, rising.
        time_ns: (N,) time stamps.
        sources: where the rows came from: file name -> SHA-256.
    """

    spec: PlantSpec
    frames: Float32
    mask: Bool
    age_s: Float32
    actions: Float32
    changed: Bool
    rewards: Float32
    terminated: Bool
    truncated: Bool
    episode: Int64
    time_ns: Int64
    sources: Mapping[str, str]

    @classmethod
    def from_frames(
        cls,
        spec: PlantSpec,
        *,
        frames: Float32,
        actions: Float32,
        episode: Int64,
        time_ns: Int64,
        mask: Bool | None = None,
        age_s: Float32 | None = None,
        changed: Bool | None = None,
        sources: Mapping[str, str] | None = None,
        rewards: Float32 | None = None,
        recorded_ends: Bool | None = None,
    ) -> TransitionDataset:
        """Builds a data set from aligned rows; rewards and ends of episodes follow from the plant's description.

        Args:
            spec: the plant.
            frames: (N, n); episodes of at least two rows each, one after the other.
            actions: (N, m); what the last row of an episode holds is ignored.
            episode: (N,) rising.
            time_ns: (N,).
            mask, age_s, changed: as in the data set; all usable, new and unchanged where not given.
            sources: file name -> SHA-256.
            rewards: (N,) what was recorded, where the plant's objective is a recorded reward; ignored in the last row
                of an episode, and elsewhere.
            recorded_ends: (N,) rows that show a tripped plant, where the plant's ends are recorded; ignored elsewhere.

        Raises:
            DataError: no step in the data, a command that is not finite, an episode that goes on after a trip, or a
                recorded reward that is missing.
        """
        if not (episode[1:] == episode[:-1]).any():
            raise DataError("the log holds no step", cure="At least two consecutive samples are needed.")
        return cls.from_stretch(
            spec, frames=frames, actions=actions, episode=episode, time_ns=time_ns, mask=mask, age_s=age_s,
            changed=changed, sources=sources, rewards=rewards, recorded_ends=recorded_ends,
        )  # fmt: skip

    @classmethod
    def from_stretch(
        cls,
        spec: PlantSpec,
        *,
        frames: Float32,
        actions: Float32,
        episode: Int64,
        time_ns: Int64,
        mask: Bool | None = None,
        age_s: Float32 | None = None,
        changed: Bool | None = None,
        sources: Mapping[str, str] | None = None,
        rewards: Float32 | None = None,
        recorded_ends: Bool | None = None,
    ) -> TransitionDataset:
        """As `from_frames`, of rows that may be any stretch of a longer log: there need be no step in it."""
        layout, objective = Layout.from_spec(spec), Objective(spec)
        rows = len(frames)
        last = np.append(episode[1:] != episode[:-1], True)  # (N,)
        actions = np.where(last[:, None], np.float32(np.nan), actions).astype(np.float32)
        if not np.isfinite(actions[~last]).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(axis=1) & ~last)[0])
            raise DataError("a command is not a number", where=f"row {row}", cure="Cut the log there.")
        steps = np.flatnonzero(~last)
        if spec.episodes.recorded_ends and recorded_ends is not None:
            tripped = recorded_ends
        else:
            tripped = np.asarray(objective.tripped_rows(frames, actions, ~last[:-1]))
        if (tripped & ~last).any():
            row = int(np.flatnonzero(tripped & ~last)[0])
            raise DataError("an episode goes on after the plant tripped", where=f"row {row}", cure="Cut it there.")
        recorded, rewards = rewards, np.full(rows, np.nan, dtype=np.float32)
        # The reward may need the last command; in an episode's first rows that window is not there yet, so the command
        # in force stands in for it (no change is charged where none is known).
        first = np.append(True, episode[1:] != episode[:-1])
        start_of = np.maximum.accumulate(np.where(first, np.arange(rows), 0))
        if spec.reward_is_recorded:
            rewards[steps] = _recorded_rewards(recorded, steps)
        else:
            for at in np.split(steps, np.arange(_STEPS, len(steps), _STEPS)):
                observation = _padded_observations(layout, frames, actions, at, start_of)
                rewards[at] = objective.reward(observation, actions[at], frames[at + 1])
        terminated, truncated = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
        ends = np.flatnonzero(last)
        ends = ends[(ends > 0) & ~first[ends]]  # a row on its own ends nothing
        terminated[ends - 1] = tripped[ends]
        truncated[ends - 1] = ~terminated[ends - 1]
        return cls(
            spec=spec,
            frames=np.ascontiguousarray(frames, dtype=np.float32),
            mask=np.isfinite(frames) if mask is None else mask,
            age_s=np.zeros_like(frames, dtype=np.float32) if age_s is None else age_s.astype(np.float32),
            actions=actions,
            changed=np.zeros(actions.shape, dtype=np.bool_) if changed is None else changed,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            episode=episode.astype(np.int64),
            time_ns=time_ns.astype(np.int64),
            sources=dict(sources or {}),
        )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def is_mapped(self) -> bool:
        """Whether frames, masks, ages and actions lie on disk; they can be read only."""
        return not self.frames.flags.writeable

    @cached_property
    def usable(self) -> Bool:
        """(N,) whether all cells of a row are usable."""
        parts = [self.mask[start : start + _ROWS].all(axis=1) for start in range(0, len(self), _ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)

    @cached_property
    def layout(self) -> Layout:
        """The observation layout of the plant."""
        return Layout.from_spec(self.spec)

    @cached_property
    def position(self) -> Int64:
        """(N,) how many rows of the same episode lie before each row."""
        first = np.append(True, self.episode[1:] != self.episode[:-1])
        return np.arange(len(self)) - np.maximum.accumulate(np.where(first, np.arange(len(self)), 0))

    @cached_property
    def transitions(self) -> Int64:
        """(T,) rows from which a step can be used: a full window before them, all cells known, a known row after."""
        usable = self.usable
        # Rows in a row: the run of usable rows that ends here must be as long as the window (the row itself included).
        index = np.arange(len(self))
        broken = np.maximum.accumulate(np.where(usable, -1, index))
        run = np.minimum(index - broken, self.position + 1)
        has_next = np.append(self.episode[1:] == self.episode[:-1], False)
        next_usable = np.append(usable[1:], False)
        return np.flatnonzero((run > self.layout.depth) & has_next & next_usable)

    def observations(self, rows: Int64) -> Float32:
        """(B, O) observations at `rows`, which have a full window before them."""
        return self.layout.observe(self.frames, self.actions, rows)

    def next_observations(self, rows: Int64) -> Float32:
        """(B, O) observations one step after `rows`."""
        return self.layout.observe(self.frames, self.actions, rows + 1)

    def require_transitions(self, where: str = "data set", at_least: int = 1) -> Int64:
        """The usable transitions.

        Raises:
            DataError: there are fewer than `at_least`; says how long the longest episode is and what is needed.
        """
        rows = self.transitions
        if len(rows) < at_least:
            longest = int(self.position.max()) + 1 if len(self) else 0
            raise DataError(
                f"only {len(rows)} usable steps: an observation needs {self.layout.depth} earlier samples and the "
                f"longest episode has {longest}",
                where=where,
                cure="Bring a longer log, or ask for less history in the plant file.",
            )
        return rows

    def slice(self, start: int, stop: int) -> TransitionDataset:
        """Rows [start, stop) as a data set of their own; an episode that is cut ends truncated, no window crosses."""
        kept = _ON_DISK if self.is_mapped else ()
        parts = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name not in _WHOLE}
        piece = replace(self, **{name: part if name in kept else part.copy() for name, part in parts.items()})
        if start < stop < len(self) and self.episode[stop] == self.episode[stop - 1]:
            if not self.is_mapped:  # on disk the command stays; nothing reads the last one of an episode
                piece.actions[-1], piece.changed[-1] = np.nan, False
            piece.rewards[-1] = np.nan
            piece.terminated[-1], piece.truncated[-1] = False, False
            if stop - start > 1 and piece.episode[-2] == piece.episode[-1]:
                piece.truncated[-2] = True
        return piece

    # On disk ---------------------------------------------------------------------------------------------------------

    def save(self, path: Path, extra: Mapping[str, bytes] | None = None) -> None:
        """Writes the data set as a folder: Parquet, plant, layout, hashes; whole or not at all.

        Args:
            path: the folder; an earlier data set there is replaced once the new one is complete.
            extra: further files to put beside it (a data-quality report), name -> content.
        """
        from controlkit.dataset.store import write

        write(self, path, extra or {})

    @classmethod
    def load(cls, path: str | Path, mapped: bool | None = None) -> TransitionDataset:
        """Reads a data set that `save` or a `DatasetWriter` wrote.

        Args:
            path: the folder.
            mapped: whether frames and actions stay on disk and come in as they are read; where not given, when they
                would take more than a quarter of the memory (`controlkit.dataset.mapped.memory_bytes`).

        Raises:
            ArtifactError: the folder is missing, of another version, or its content does not match its hashes.
        """
        from controlkit.dataset.store import read

        return read(Path(path), mapped)


_WHOLE = ("spec", "sources")
_ON_DISK = ("frames", "mask", "age_s", "actions", "changed")


def _padded_observations(layout: Layout, frames: Float32, actions: Float32, steps: Int64, start_of: Int64) -> Float32:
    """(T, O) observations at `steps` where a window that reaches before its episode repeats the episode's first row."""
    observation = np.empty((len(steps), layout.size), dtype=np.float32)
    for i, slot in enumerate(layout.slots):
        rows = np.maximum(steps - slot.lag, start_of[steps])
        observation[:, i] = (frames if slot.source == "frame" else actions)[rows, slot.column]
    return observation


def _recorded_rewards(rewards: Float32 | None, steps: Int64) -> Float32:
    """(T,) the recorded rewards of `steps`, which must be there."""
    cure = "Give data with rewards (.npz), or write the objective as a formula in the plant file."
    if rewards is None:
        raise DataError("the objective is a recorded reward, and the log has none", cure=cure)
    finite = np.isfinite(rewards[steps])
    if not finite.all():
        raise DataError("a recorded reward is not a number", where=f"row {steps[np.argmin(finite)]}", cure=cure)
    return rewards[steps]
