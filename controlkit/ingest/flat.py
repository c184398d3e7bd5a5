"""From flat benchmark files to a data set: the observation's columns are what the plant file's layout says.

An observation of O numbers is either one frame (the measured tags in the order of the plant file) or a whole window
(the slots of the plant's layout). A window's history is stored once: the rows before an episode's first step are taken
from its first observation, and every later window must be what these rows make of it. Commands in [-1, 1] are brought
to the limits of their actions. The way back, `flat_arrays`, gives the same numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from controlkit.dataset import TransitionDataset
from controlkit.errors import DataError
from controlkit.ingest.flat_file import Bool, FlatFile, Float32
from controlkit.ingest.flat_quality import flat_quality
from controlkit.ingest.flat_sources import read_source
from controlkit.ingest.flat_table import GAP_S, NS, ROUNDING, FlatTable, action_bounds, commands_changed, normalised
from controlkit.ingest.pipeline import REPORT_HTML, REPORT_JSON, IngestResult
from controlkit.ingest.released import release_remark
from controlkit.layout import Layout
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec

# So few samples out of range are spikes of a sensor in any log, however short.
FEW = 10


def ingest_flat(
    spec: PlantSpec,
    sources: Sequence[Path],
    out: Path | None,
    *,
    max_bad_share: float = 0.01,
    progress: Progress | None = None,
) -> IngestResult:
    """Makes a data set from flat files; arguments as for `controlkit.ingest.ingest`.

    Raises:
        DataError: a file cannot be used: see `read_source`; columns that do not fit the plant file, a window whose
            history is not that of the rows before it, a command outside [-1, 1], too many measurements out of range,
            a state or action that never changes, rewards that contradict the plant file's formula (by how much), ends
            that contradict its rules.
    """
    bar = progress or Silent()
    bar.start("read", len(sources))
    files: list[FlatFile] = []
    for path in sources:
        files.append(read_source(Path(path)))
        bar.advance()
    same = [digest for digest, count in Counter(file.sha256 for file in files).items() if count > 1]
    if same:
        twice = [str(file.path) for file in files if file.sha256 == same[0]]
        raise DataError("the same log was given twice", where=" and ".join(twice), cure="Name it once.")
    layout = Layout.from_spec(spec)
    tables = [FlatTable(spec, layout, file) for file in files]
    dataset = _dataset(spec, tables, max_bad_share)
    offset, remarks = 0, [remark for file in files if (remark := release_remark(file.path)) is not None]
    for table in tables:
        cuts = table.check(dataset, table.rows + offset)
        if cuts.size:
            remarks.append(
                f"{table.file.path.name}: {cuts.size} of {int(table.file.terminated.sum())} ends in the file (the "
                f"first is row {cuts[0]}) do not follow from the plant file's rules and are cuts by a time limit here"
            )
        offset += len(table.frames)
    dataset.require_transitions(", ".join(str(file.path) for file in files))
    quality = flat_quality(spec, files, dataset, remarks)
    if out is not None:
        bar.start("write", 1)
        content = json.dumps(quality.to_dict(), indent=1, allow_nan=False) + "\n"
        dataset.save(out, extra={REPORT_JSON: content.encode(), REPORT_HTML: quality.to_html().encode()})
        bar.advance()
    return IngestResult(quality, folder=out, loaded=dataset)


def flat_arrays(data: TransitionDataset) -> dict[str, np.ndarray]:
    """The usable transitions of a data set as flat arrays: obs, action in [-1, 1], next_obs, reward, done, truncated.

    Other tools for offline reinforcement learning read these. Each array has one row per usable step; the observations
    are whole windows, past commands in them in [-1, 1] too.
    """
    rows = data.transitions
    low, high = action_bounds(data.spec)
    as_share = partial(commands_changed, data.layout, change=normalised, low=low, high=high)
    return {
        "obs": as_share(data.observations(rows)),
        "action": normalised(data.actions[rows], low, high),
        "next_obs": as_share(data.next_observations(rows)),
        "reward": data.rewards[rows],
        "done": data.terminated[rows].astype(np.float32),
        "truncated": data.truncated[rows].astype(np.float32),
    }


def _dataset(spec: PlantSpec, tables: Sequence[FlatTable], max_bad_share: float) -> TransitionDataset:
    episode, time_ns, numbers, latest = [], [], 0, None
    for table in tables:
        # Files without time stamps follow each other.
        shift = 0
        if latest is not None and table.time_ns[0] <= latest:
            shift = latest + round(max(GAP_S, 10.0 * spec.max_gap_s) * NS) - int(table.time_ns[0])
        episode.append(table.episode + numbers)
        time_ns.append(table.time_ns + shift)
        numbers, latest = numbers + int(table.episode[-1]) + 1, int(time_ns[-1][-1])
    frames = np.concatenate([table.frames for table in tables])
    actions = np.concatenate([table.actions for table in tables])
    mask = _in_range(spec, tables, frames, max_bad_share)
    number = np.concatenate(episode)
    _require_movement(spec, tables, frames, actions)
    return TransitionDataset.from_frames(
        spec,
        frames=frames,
        actions=actions,
        episode=number,
        time_ns=np.concatenate(time_ns),
        mask=mask,
        sources={_name(tables, i): table.file.sha256 for i, table in enumerate(tables)},
        rewards=_rewards(spec, tables),
        recorded_ends=_ends(tables),
    )


def _rewards(spec: PlantSpec, tables: Sequence[FlatTable]) -> Float32 | None:
    if not spec.reward_is_recorded:
        return None
    for table in tables:
        if table.file.reward is None:
            raise DataError(
                "the objective is a recorded reward, and the array 'reward' is missing",
                where=str(table.file.path),
                cure="Export it with rewards, or write the objective as a formula in the plant file.",
            )
    return np.concatenate([table.rewards for table in tables])


def _ends(tables: Sequence[FlatTable]) -> Bool:
    """(R,) the frames in which the files' episodes truly ended."""
    ends = [np.zeros(len(table.frames), dtype=np.bool_) for table in tables]
    for table, rows in zip(tables, ends, strict=True):
        rows[table.rows[table.file.terminated] + 1] = True
    return np.concatenate(ends)


def _in_range(spec: PlantSpec, tables: Sequence[FlatTable], frames: Float32, max_bad_share: float) -> Bool:
    """(R, n) which measurements lie inside their range; many outside mean that file and plant file do not belong."""
    where = ", ".join(str(table.file.path) for table in tables)
    mask = np.empty(frames.shape, dtype=np.bool_)
    for i, tag in enumerate(spec.frame_tags):
        low, high = spec.tags[tag].range
        slack = ROUNDING * (high - low)
        mask[:, i] = (frames[:, i] >= low - slack) & (frames[:, i] <= high + slack)
        bad = int((~mask[:, i]).sum())
        if bad > max(FEW, max_bad_share * len(frames)):
            raise DataError(
                f"{bad} of {len(frames)} values of '{tag}' lie outside its range [{low:g}, {high:g}]: they go from "
                f"{frames[:, i].min():.4g} to {frames[:, i].max():.4g}",
                where=where,
                cure="Widen the range in the plant file, or bring the columns into its order.",
            )
    return mask


def _require_movement(spec: PlantSpec, tables: Sequence[FlatTable], frames: Float32, actions: Float32) -> None:
    where = ", ".join(str(table.file.path) for table in tables)
    for names, values in ((spec.frame_tags, frames), (spec.action_tags, actions)):
        for i, tag in enumerate(names):
            if spec.tags[tag].role in ("state", "action") and np.ptp(values[:, i]) == 0:
                raise DataError(
                    f"'{tag}' never changes (it is {values[0, i]:g} throughout), so that nothing can be learned of it",
                    where=where,
                    cure="Give it the role 'static' or 'ignore', or bring data in which it moves.",
                )


def _name(tables: Sequence[FlatTable], i: int) -> str:
    """A file's name, with a number behind it where two folders hold the same name."""
    names = [table.file.path.name for table in tables]
    return f"{names[i]} ({names[:i].count(names[i]) + 1})" if names[i] in names[:i] else names[i]
