"""D4RL's HDF5 files: episodes, ends and cuts, the plant files, the scale of scores, and one clear line for mistakes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.configs import config_path
from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError, DataError
from controlkit.files import sha256_of
from controlkit.ingest import ingest
from controlkit.ingest.d4rl_file import KEYS, RETURN_BOUNDS, d4rl_score, read_d4rl
from controlkit.ingest.flat import flat_arrays
from controlkit.spec import PlantSpec

h5py = pytest.importorskip("h5py")

SIZES = {"halfcheetah": (17, 6), "hopper": (11, 3), "walker2d": (17, 6)}


def plant(task: str) -> PlantSpec:
    return PlantSpec.load(config_path("plants", f"d4rl-{task}"))


def log(task: str, lengths: tuple[int, ...], ends: tuple[int, ...] = ()) -> dict[str, Any]:
    """Episodes of a slow random walk near the upright pose; those numbered in `ends` fall in their last step."""
    rng, (size, actions) = np.random.default_rng(1), SIZES[task]
    upright = np.zeros(size)
    upright[0] = 1.2
    parts: dict[str, list[Any]] = {name: [] for name in KEYS.values()}
    for number, length in enumerate(lengths):
        states = upright + np.cumsum(rng.uniform(-1e-3, 1e-3, (length + 1, size)), axis=0)  # (K + 1, O)
        if number in ends:
            states[-1, 0] = 0.5
        last = np.arange(length) == length - 1
        parts["observations"].append(states[:-1])
        parts["next_observations"].append(states[1:])
        parts["actions"].append(rng.uniform(-1, 1, (length, actions)))
        parts["rewards"].append(rng.normal(size=length))
        parts["terminals"].append(last & (number in ends))
        parts["timeouts"].append(last & (number not in ends))
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    return {name: values.astype(bool if values.dtype == bool else np.float32) for name, values in whole.items()}


def written(path: Path, arrays: Mapping[str, Any], **changes: Any) -> Path:
    """A file as D4RL writes it, with groups beside the arrays; a change to None leaves an array out."""
    with h5py.File(path, "w") as file:
        for name, values in (dict(arrays) | changes).items():
            if values is not None:
                file.create_dataset(name, data=values, compression="gzip")
        file.create_dataset("infos/qpos", data=np.zeros((len(arrays["rewards"]), 3)))
        file.create_dataset("metadata/algorithm", data=b"SAC")
    return path


@pytest.mark.parametrize("task", SIZES)
def test_a_file_becomes_a_data_set_and_comes_back_number_for_number(tmp_path: Path, task: str) -> None:
    fallen = () if task == "halfcheetah" else (1,)
    arrays = log(task, (40, 25, 40), fallen)
    path = written(tmp_path / "medium.hdf5", arrays)
    result = ingest(plant(task), [path], tmp_path / "data")
    again = flat_arrays(TransitionDataset.load(tmp_path / "data"))
    for name, key in KEYS.items():
        # The reader's names are those of the flat form, where a true end is called done.
        assert np.array_equal(again.get(name, again["done"]), arrays[key]), key
    assert result.quality.episodes == 3
    assert result.dataset.spec.reward_is_recorded
    assert dict(result.dataset.sources) == {"medium.hdf5": sha256_of(path)}
    assert not [one for one in result.quality.advice if "repeat" in one.text or "contradict" in one.text]


def test_the_sizes_of_the_plant_files_are_those_of_the_tasks() -> None:
    """gymnasium's own observations without x have the same widths as D4RL's."""
    for task, (observations, actions) in SIZES.items():
        assert (len(plant(task).frame_tags), len(plant(task).action_tags)) == (observations, actions)


def test_borders_are_those_of_ends_cuts_and_breaks(tmp_path: Path) -> None:
    """A slow version beside it: walk through the rows and end an episode at each mark or jump."""
    arrays = log("hopper", (30, 20, 10, 40), (2,))
    arrays["timeouts"][:] = False  # as in medium-replay, where not every cut is marked
    file = read_d4rl(written(tmp_path / "replay.hdf5", arrays))
    expected = []
    for row in range(100):
        jump = row == 99 or not np.array_equal(arrays["next_observations"][row], arrays["observations"][row + 1])
        if arrays["terminals"][row] or arrays["timeouts"][row] or jump:
            expected.append(row)
    assert np.flatnonzero(file.last).tolist() == expected == [29, 49, 59, 99]
    assert np.flatnonzero(file.terminated).tolist() == [59]


def test_a_terminal_at_the_time_limit_is_a_cut_and_is_reported(tmp_path: Path) -> None:
    """The HalfCheetah files hold one, though the task never ends; elsewhere it stays a contradiction."""
    arrays = log("halfcheetah", (40, 40, 12))
    arrays["terminals"][79], arrays["timeouts"][79] = True, False
    result = ingest(plant("halfcheetah"), [written(tmp_path / "limit.hdf5", arrays)], None)
    assert not result.dataset.terminated.any()
    assert result.dataset.truncated.sum() == 3
    (warning,) = [one.text for one in result.quality.advice if "limit.hdf5" in one.text]
    assert warning.startswith("limit.hdf5: 1 of 1 ends in the file (the first is row 79) do not follow")
    arrays["terminals"][20] = True
    with pytest.raises(DataError, match="row 20 the file says that the episode ends there"):
        ingest(plant("halfcheetah"), [written(tmp_path / "middle.hdf5", arrays)], None)


def test_a_fall_that_the_file_does_not_mark_is_refused(tmp_path: Path) -> None:
    arrays = log("walker2d", (30, 20), (1,))
    arrays["terminals"][:] = False
    with pytest.raises(DataError, match="row 49 the file says that the episode goes on"):
        ingest(plant("walker2d"), [written(tmp_path / "log.hdf5", arrays)], None)


def test_hoppers_ends_are_those_of_the_file(tmp_path: Path) -> None:
    """Its simulator ends an episode at speeds that the clipped observation does not show, too."""
    arrays = log("hopper", (30, 20), ())
    arrays["terminals"][29] = True
    data = ingest(plant("hopper"), [written(tmp_path / "log.hdf5", arrays)], None).dataset
    assert np.flatnonzero(data.terminated).tolist() == [29]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"next_observations": None}, "the array 'next_observations' is missing (there are: actions, observations, re"),
        ({"timeouts": None}, "the array 'timeouts' is missing"),
        ({"rewards": lambda a: a["rewards"][:-1]}, "the array 'rewards' has the shape (49,)"),
        ({"actions": lambda a: a["actions"][:-1]}, "observations has 50 rows, actions has 49"),
        ({"terminals": lambda a: a["terminals"][:-1]}, "the array 'terminals' has the shape (49,)"),
        ({"observations": lambda a: _with(a["observations"], 7, 4, np.nan)}, "observations holds nan in row 7, column"),
        ({"rewards": lambda a: _with(a["rewards"], 3, ..., np.inf)}, "rewards holds inf in row 3"),
        ({"actions": lambda a: _with(a["actions"], 9, 2, -1.2)}, "action 2 of row 9 is -1.2"),
        ({"actions": lambda a: a["actions"][:, :2]}, "action has 2 columns, the plant file describes 3 actions"),
        (
            {"observations": lambda a: a["observations"][:, 0]},
            "'observations' has the shape (50,), not (rows, columns)",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    arrays = log("hopper", (30, 20))
    changed = {name: make(arrays) if callable(make) else make for name, make in change.items()}
    path = written(tmp_path / "log.hdf5", arrays, **changed)
    with pytest.raises(ControlkitError, match=re.escape(message)) as caught:
        ingest(plant("hopper"), [path], tmp_path / "data")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def _with(values: Any, row: int, column: Any, value: float) -> Any:
    changed = np.array(values)
    changed[row, column] = value
    return changed


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_d4rl(tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("no archive")
    with pytest.raises(DataError, match="is no HDF5 file that can be read"):
        read_d4rl(tmp_path / "text.hdf5")
    whole = written(tmp_path / "log.hdf5", log("hopper", (300, 200))).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is no HDF5 file that can be read"):
        read_d4rl(tmp_path / "cut.hdf5")
    # The largest compressed block, changed in its middle, is found by its checksum.
    with h5py.File(tmp_path / "log.hdf5") as file:
        chunk = file["observations"].id.get_chunk_info(0)
    at = chunk.byte_offset + chunk.size // 2
    (tmp_path / "bad.hdf5").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    with pytest.raises(DataError, match=r"is no HDF5 file that can be read .*in the array 'observations'"):
        read_d4rl(tmp_path / "bad.hdf5")


def test_scores_are_on_d4rls_scale() -> None:
    for task, (low, high) in RETURN_BOUNDS.items():
        assert d4rl_score(task, low) == 0.0
        assert d4rl_score(task, high) == pytest.approx(100.0)
    assert d4rl_score("hopper", 1607.0) == pytest.approx(50.0, abs=0.01)
    with pytest.raises(ControlkitError, match=r"no scale for 'ant' here. .*halfcheetah"):
        d4rl_score("ant", 0.0)
