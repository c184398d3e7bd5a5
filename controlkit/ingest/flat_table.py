"""One flat file as rows of a data set, and the checks of its columns against the plant file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from controlkit.dataset import TransitionDataset
from controlkit.errors import DataError, nearest
from controlkit.ingest.flat_file import FlatFile, Float32, Int64
from controlkit.layout import Layout
from controlkit.spec import PlantSpec

# Where a file has no time stamps, they are counted from here, with a gap between episodes.
START_NS = int(np.datetime64("2000-01-01T00:00:00", "ns").astype(np.int64))
GAP_S = 3600.0
NS = 1_000_000_000
# How far a stored number may lie from what it should be, as a share of its range, or of the rewards' spread.
ROUNDING, REWARD_TOLERANCE = 1e-6, 1e-3


class FlatTable:
    """One file as rows of a data set: every episode with its history before it and its last frame behind it.

    Attributes:
        frames: (R, n); actions: (R, m); rewards: (R,) recorded ones, 0 where there is none.
        rows: (N,) row of each transition of the file. episode: (R,). time_ns: (R,).
    """

    def __init__(self, spec: PlantSpec, layout: Layout, file: FlatFile) -> None:
        self.spec, self.layout, self.file = spec, layout, file
        n, m = len(layout.frame_tags), len(layout.action_tags)
        if file.action.shape[1] != m:
            raise self._columns("action", file.action.shape[1], f"{m} actions")
        stacked = layout.depth > 0 and file.observation.shape[1] == layout.size
        if not stacked and file.observation.shape[1] != n:
            window = f", or {layout.size} with their history" if layout.depth else ""
            raise self._columns("obs", file.observation.shape[1], f"{n} measured tags{window}")
        order = [_order(spec, names, tags, file) for names, tags in self._named(stacked)]
        observation, following = file.observation[:, order[0]], file.next_observation[:, order[0]]
        low, high = action_bounds(spec)
        action = file.action[:, order[1]]
        if not file.action_tags:
            self._require_normalised(action)
            action = _scaled(action, low, high)
            if stacked:
                observation, following = (
                    commands_changed(layout, x, change=_scaled, low=low, high=high) for x in (observation, following)
                )
        depth = layout.depth if stacked else 0
        self._build(observation, action, following, depth)
        if stacked:
            self._require_history(observation)

    def check(self, data: TransitionDataset, rows: Int64) -> Int64:
        """Compares rewards and ends in the file, at `rows` (N,) of the data set, with what the plant file makes of it.

        Returns:
            The file's rows that it calls an end where the plant file's rules see none, and that are cuts in the data
            set: only at the time limit, or in the last row of all, and only where the file does not tell ends from
            cuts.

        Raises:
            DataError: they differ; says by how much and where first.
        """
        where, recorded = str(self.file.path), self.file.reward
        if recorded is not None and not self.spec.reward_is_recorded:
            computed = data.rewards[rows]
            difference = np.abs(recorded.astype(np.float64) - computed)
            tolerance = REWARD_TOLERANCE * max(float(np.std(computed)), 1e-6) + 1e-5 * np.abs(computed)
            wrong = np.flatnonzero(~(difference <= tolerance))
            if wrong.size:
                first = int(wrong[0])
                raise DataError(
                    f"{wrong.size} of {len(rows)} rewards do not follow from the plant file's objective: they differ "
                    f"by {difference.max():.4g} at most and {difference.mean():.4g} on average; the first is row "
                    f"{first}, with {recorded[first]:.6g} in the file and {computed[first]:.6g} by the formula",
                    where=where,
                    cure="Mend the objective, or write 'kind: recorded' to have the file's rewards learned.",
                )
        wrong = np.flatnonzero(data.terminated[rows] != self.file.terminated)
        cuts = np.intersect1d(wrong, self._time_limits())
        wrong = np.setdiff1d(wrong, cuts)
        if wrong.size:
            first = int(wrong[0])
            said = "ends there" if self.file.terminated[first] else "goes on, or is cut, there"
            raise DataError(
                f"in row {first} the file says that the episode {said}, and the plant file's rules for a true end say "
                "otherwise",
                where=where,
                cure="Mend episodes.terminated in the plant file.",
            )
        return cuts

    def _time_limits(self) -> Int64:
        """Rows in which an end may mean the time limit: last steps of the longest episodes, and the file's last row."""
        if self.file.cuts_are_marked:
            return np.zeros(0, dtype=np.int64)
        length = np.bincount(self.file.episode)  # (E,)
        limits: Int64 = np.append(np.flatnonzero(self.file.last)[length == length.max()], len(self.file) - 1)
        return np.asarray(limits[self.file.terminated[limits]], dtype=np.int64)

    def _build(self, observation: Float32, action: Float32, following: Float32, depth: int) -> None:
        file, n = self.file, len(self.layout.frame_tags)
        number = file.episode  # (N,)
        first = np.flatnonzero(np.append(True, file.last[:-1]))  # (E,)
        ends = np.flatnonzero(file.last)  # (E,)
        # Before transition i stand the history rows of its and all earlier episodes, and their last frames.
        self.rows = np.arange(len(file)) + depth * (number + 1) + number  # (N,)
        total = len(file) + (depth + 1) * len(first)
        self.frames = np.zeros((total, n), dtype=np.float32)
        self.actions = np.zeros((total, action.shape[1]), dtype=np.float32)
        self.rewards = np.zeros(total, dtype=np.float32)
        self.frames[self.rows], self.actions[self.rows] = observation[:, :n], action
        self.frames[self.rows[ends] + 1] = following[ends, :n]
        if file.reward is not None:
            self.rewards[self.rows] = file.reward
        at = {(str(slot.source), slot.column, slot.lag): i for i, slot in enumerate(self.layout.slots)}
        for lag in range(1, depth + 1):
            row = self.rows[first] - lag
            for source, table in (("frame", self.frames), ("action", self.actions)):
                for column in range(table.shape[1]):
                    slot = at.get((source, column, lag))
                    # What no observation shows takes the value after it; nothing ever reads it.
                    table[row, column] = table[row + 1, column] if slot is None else observation[first, slot]
        self.episode = np.repeat(np.arange(len(first)), ends - first + 2 + depth)  # (R,)
        self.time_ns = self._times(first, depth)

    def _times(self, first: Int64, depth: int) -> Int64:
        period = round(self.spec.period_s * NS)
        position = np.arange(len(self.frames)) - self.rows[first][self.episode]  # (R,) 0 at the first step
        if self.file.time_ns is not None:
            return np.asarray(self.file.time_ns[first][self.episode] + position * period, dtype=np.int64)
        gap = round(max(GAP_S, 10.0 * self.spec.max_gap_s) * NS)
        return np.asarray(START_NS + np.arange(len(self.frames)) * period + self.episode * gap, dtype=np.int64)

    def _require_history(self, observation: Float32) -> None:
        for start in range(0, len(self.rows), 16384):
            part = slice(start, start + 16384)
            built = self.layout.observe(self.frames, self.actions, self.rows[part])
            tolerance = ROUNDING * (self.layout.high - self.layout.low)
            wrong = np.argwhere(~(np.abs(built - observation[part]) <= tolerance))
            if len(wrong):
                row, column = (int(i) for i in wrong[0])
                slot = self.layout.slots[column]
                raise DataError(
                    f"row {start + row}, column {column} should be {slot.name} by the plant file, which is "
                    f"{built[row, column]:.6g}, and holds {observation[start + row, column]:.6g}",
                    where=str(self.file.path),
                    cure="Bring 'history' and the order of the tags into line with the file's columns.",
                )

    def _require_normalised(self, action: Float32) -> None:
        wrong = np.argwhere(~(np.abs(action) <= 1.0 + ROUNDING))
        if len(wrong):
            row, column = (int(i) for i in wrong[0])
            raise DataError(
                f"action {column} of row {row} is {action[row, column]:.6g}, and commands of a file that does not name "
                "its columns lie in [-1, 1]",
                where=str(self.file.path),
                cure="Scale them, or add the arrays frame_tags and action_tags and give engineering units.",
            )

    def _named(self, stacked: bool) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        frame = self.layout.names if stacked else self.layout.frame_tags
        return (self.file.frame_tags, frame), (self.file.action_tags, self.layout.action_tags)

    def _columns(self, name: str, found: int, wanted: str) -> DataError:
        return DataError(
            f"{name} has {found} columns, the plant file describes {wanted}",
            where=str(self.file.path),
            cure="Describe every column, in the file's order ('controlkit ingest --check' drafts a plant file).",
        )


def _order(spec: PlantSpec, names: tuple[str, ...], wanted: tuple[str, ...], file: FlatFile) -> list[int]:
    """For each wanted column its place in the file."""
    if not names:
        return list(range(len(wanted)))
    known = {tag.column or name: name for name, tag in spec.tags.items()}
    found = [known.get(name, name) for name in names]
    for tag in wanted:
        if tag not in found:
            raise DataError(f"no column is named '{tag}'", where=str(file.path), cure=nearest(tag, names))
    return [found.index(tag) for tag in wanted]


def action_bounds(spec: PlantSpec) -> tuple[Float32, Float32]:
    """(m,), (m,) limits of the commands."""
    limits = np.array([spec.limits(tag) for tag in spec.action_tags], dtype=np.float32)
    return limits[:, 0], limits[:, 1]


def _scaled(action: Float32, low: Float32, high: Float32) -> Float32:
    """[-1, 1] to [low, high]; the same numbers where these are the limits."""
    unit = np.clip(action, -1.0, 1.0).astype(np.float64)
    same = (low == -1.0) & (high == 1.0)
    return np.where(same, unit, low + (unit + 1.0) / 2.0 * (high.astype(np.float64) - low)).astype(np.float32)


def normalised(action: Float32, low: Float32, high: Float32) -> Float32:
    """[low, high] to [-1, 1]."""
    same = (low == -1.0) & (high == 1.0)
    unit = (action.astype(np.float64) - low) / (high.astype(np.float64) - low) * 2.0 - 1.0
    return np.where(same, action, unit).astype(np.float32)


def commands_changed(
    layout: Layout,
    observation: Float32,
    *,
    change: Callable[[Float32, Float32, Float32], Float32],
    low: Float32,
    high: Float32,
) -> Float32:
    """Observations (B, O) whose past commands are brought to another scale by `change`, all other slots unchanged."""
    changed = observation.copy()
    for i, slot in enumerate(layout.slots):
        if slot.source == "action":
            at = slice(slot.column, slot.column + 1)
            changed[:, i] = change(observation[:, i : i + 1], low[at], high[at])[:, 0]
    return changed
