"""Flat files: exact round trips, with and without history, and one clear line for every mistake in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError, DataError
from controlkit.files import sha256_of
from controlkit.ingest import ingest
from controlkit.ingest.flat import flat_arrays
from controlkit.ingest.flat_file import read_flat
from controlkit.spec import PlantSpec
from envs.collect import collect
from envs.tasks import get_task
from tests import small_plant
from tests.data_files import data_file


def written(path: Path, arrays: Mapping[str, Any], **changes: Any) -> Path:
    """A flat file; a change to None leaves an array out."""
    kept = {name: values for name, values in (dict(arrays) | changes).items() if values is not None}
    np.savez(path, **kept)
    return path


def flat_log(history: int = 2, **changes: Any) -> tuple[PlantSpec, dict[str, Any]]:
    """The small plant's log as flat arrays; its valve goes from -2 to 2."""
    plant = small_plant.spec(history, **changes)
    arrays = flat_arrays(small_plant.dataset(small_plant.spec(history), episodes=4, steps=30))
    return plant, arrays


@pytest.mark.parametrize("history", [0, 2])
def test_what_is_read_is_written_again_number_for_number(tmp_path: Path, history: int) -> None:
    plant, arrays = flat_log(history)
    path = written(tmp_path / "log.npz", arrays)
    data = ingest(plant, [path], tmp_path / "data").dataset
    again = flat_arrays(TransitionDataset.load(tmp_path / "data"))
    assert arrays["obs"].shape[1] == (2 if history == 0 else 8)
    for name, values in arrays.items():
        assert np.abs(again[name] - values).max() < 3e-7, name  # a command scaled to 4 units and back
    assert np.array_equal(again["obs"][:, :2], arrays["obs"][:, :2])
    assert np.array_equal(again["next_obs"][:, :2], arrays["next_obs"][:, :2])
    assert data.actions[data.transitions] == pytest.approx(2.0 * arrays["action"], abs=1e-6)
    assert len(np.unique(data.episode)) == 4
    assert dict(data.sources) == {"log.npz": sha256_of(path)}


def test_released_transitions_make_an_exact_round_trip(tmp_path: Path) -> None:
    path = data_file("neorl2/DMSD-val.npz")
    result = ingest(get_task("dmsd").spec(), [path], tmp_path / "data")
    again, released = flat_arrays(TransitionDataset.load(tmp_path / "data")), np.load(path)
    for name in ("obs", "action", "next_obs", "done", "truncated"):
        assert np.array_equal(again[name], released[name]), name
    assert np.abs(again["reward"] - released["reward"]).max() < 2e-6
    assert result.quality.episodes == 200
    assert result.quality.sources[0].sha256 == sha256_of(path)
    (repeated,) = [one.text for one in result.quality.advice if "repeat" in one.text]
    assert "3 of 20000 rows repeat" in repeated


def test_what_collect_writes_is_read_back(tmp_path: Path) -> None:
    collect("dmsd", tmp_path / "log.npz", episodes=3, seed=1)
    data = ingest(get_task("dmsd").spec(), [tmp_path / "log.npz"], None).dataset
    assert len(data.transitions) == 300
    assert str(np.datetime64(int(data.time_ns[0]), "ns"))[:10] == "2024-01-01"
    collect("refrigerator", tmp_path / "cold.npz", episodes=2, seed=1, steps=60)
    cold = ingest(get_task("refrigerator").spec(), [tmp_path / "cold.npz"], None).dataset
    assert cold.actions[cold.transitions].min() >= 0.0  # engineering units, since the columns are named
    assert len(cold.transitions) == 2 * 40


@pytest.mark.parametrize("flags", [{"truncated": None}, {"truncated": None, "done": None}, {"done": None}])
def test_borders_are_found_without_flags(tmp_path: Path, flags: Mapping[str, Any]) -> None:
    plant, arrays = flat_log(0)
    file = read_flat(written(tmp_path / "log.npz", arrays, **flags))
    assert np.flatnonzero(file.last).tolist() == [29, 59, 89, 119]
    whole = written(
        tmp_path / "whole.npz",
        {"obs": np.arange(12.0)[:, None], "next_obs": np.arange(1.0, 13.0)[:, None], "action": np.zeros((12, 1))},
        index=np.array([0, 5]),
    )
    assert np.flatnonzero(read_flat(whole).last).tolist() == [4, 11]
    assert len(ingest(plant, [written(tmp_path / "b.npz", arrays, **flags)], None).dataset.transitions) == 120


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    plant, arrays = flat_log()
    half = {name: values[: len(values) // 2] for name, values in arrays.items()}
    other = {name: values[len(values) // 2 :] for name, values in arrays.items()}
    paths = [written(tmp_path / "a.npz", half), written(tmp_path / "b.npz", other)]
    data = ingest(plant, paths, None).dataset
    assert (np.diff(data.time_ns) > 0).all()
    assert np.array_equal(np.unique(data.episode), np.arange(4))
    assert np.array_equal(flat_arrays(data)["obs"][:, :2], arrays["obs"][:, :2])
    with pytest.raises(DataError, match="given twice"):
        ingest(plant, [paths[0], paths[0]], None)


def test_true_ends_are_kept_and_must_follow_from_the_rules(tmp_path: Path) -> None:
    plant, arrays = flat_log(0)
    done = np.zeros(120)
    done[59] = 1
    path = written(tmp_path / "log.npz", arrays, done=done)
    with pytest.raises(DataError, match="row 59 the file says that the episode ends there"):
        ingest(plant, [path], None)
    # The log's highest level is the only one that trips, and its episode ends there.
    level = arrays["next_obs"][:, 0]
    top, (second, highest) = int(level.argmax()), np.sort(level)[-2:]
    end = 30 * (top // 30 + 1)
    kept = np.r_[0 : top + 1, end:120]
    done = np.zeros(120)
    done[top] = 1
    trips = written(tmp_path / "trips.npz", {name: values[kept] for name, values in arrays.items()}, done=done[kept])
    rule = {"tag": "level", "above": float(second + highest) / 2}
    data = ingest(small_plant.spec(0, episodes={"terminated": [rule]}), [trips], None).dataset
    again = flat_arrays(data)
    assert np.flatnonzero(again["done"]).tolist() == [top]
    assert len(again["done"]) == len(kept)
    assert again["truncated"][top] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"next_obs": None}, "the array 'next_obs' is missing (there are: action, done, obs, reward, truncated)"),
        ({"reward": lambda a: a["reward"][:-1]}, "'reward' has the shape (119,)"),
        ({"action": lambda a: a["action"][:-1]}, "obs has 120 rows, action has 119"),
        ({"obs": lambda a: a["obs"][:, 0]}, "'obs' has the shape (120,), not (rows, columns)"),
        ({"obs": lambda a: a["obs"][:, :1]}, "obs has the shape (120, 1), next_obs (120, 2)"),
        ({"obs": lambda a: _with(a["obs"], 7, 1, np.nan)}, "obs holds nan in row 7, column 1"),
        ({"reward": lambda a: _with(a["reward"][:, None], 3, 0, np.inf)}, "reward holds inf in row 3"),
        ({"action": lambda a: _with(a["action"], 4, 0, 1.5)}, "action 0 of row 4 is 1.5"),
        (
            {"action": lambda a: np.hstack([a["action"]] * 2)},
            "action has 2 columns, the plant file describes 1 actions",
        ),
        ({"index": lambda a: np.array([0, 400])}, "'index' must hold row numbers of 0 .. 120"),
        ({"index": lambda a: np.array([0, 60, 60])}, "'index' must rise, and its entry 2 is 60 after 60"),
        ({"index": lambda a: np.array([60, 30, 120])}, "'index' must rise, and its entry 1 is 30 after 60"),
        ({"index": lambda a: np.array([0.5, 60.0])}, "'index' must hold row numbers of 0 .. 120"),
        ({"index": lambda a: np.array(["0"])}, "'index' must hold row numbers of 0 .. 120"),
        ({"done": lambda a: _with(a["done"][:, None], 5, 0, np.nan)}, "done holds nan in row 5"),
        (
            {"obs": lambda a: a["obs"] + 100, "next_obs": lambda a: a["next_obs"] + 100},
            "lie outside its range [-10, 10]",
        ),
        ({"action": lambda a: 0 * a["action"]}, "'valve' never changes (it is 0 throughout)"),
        ({"obs": lambda a: a["obs"][::-1], "truncated": None}, "no next_obs is the obs of the next row"),
        ({"reward": lambda a: np.array(["much"] * 120)}, "'reward' has the shape (120,) of <U4"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    plant, arrays = flat_log(0)
    changed = {name: make(arrays) if callable(make) else make for name, make in change.items()}
    path = written(tmp_path / "log.npz", arrays, **changed)
    with pytest.raises(ControlkitError, match=re.escape(message)) as caught:
        ingest(plant, [path], tmp_path / "data")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def _with(values: Any, row: int, column: int, value: float) -> Any:
    changed = np.array(values)
    changed[row, column] = value
    return changed


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_flat(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="is no npz file that can be read"):
        read_flat(tmp_path / "text.npz")
    _, arrays = flat_log(0)
    whole = written(tmp_path / "log.npz", arrays).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is no npz file that can be read"):
        read_flat(tmp_path / "cut.npz")
    np.savez(tmp_path / "objects.npz", obs=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="is no npz file that can be read"):
        read_flat(tmp_path / "objects.npz")


def test_rewards_that_contradict_the_formula_say_by_how_much(tmp_path: Path) -> None:
    plant, arrays = flat_log()
    wrong = arrays["reward"].copy()
    wrong[5], wrong[9] = wrong[5] + 0.5, wrong[9] - 2.0
    path = written(tmp_path / "log.npz", arrays, reward=wrong)
    with pytest.raises(DataError) as caught:
        ingest(plant, [path], None)
    mean = 2.5 / len(wrong)
    assert "2 of 112 rewards do not follow from the plant file's objective" in str(caught.value)
    assert f"by 2 at most and {mean:.4g} on average; the first is row 5" in str(caught.value)


def test_recorded_rewards_are_kept_as_they_are(tmp_path: Path) -> None:
    plant, arrays = flat_log(objective=[{"kind": "recorded"}])
    rewards = np.random.default_rng(0).normal(size=len(arrays["reward"])).astype(np.float32)
    path = written(tmp_path / "log.npz", arrays, reward=rewards)
    data = ingest(plant, [path], tmp_path / "data").dataset
    assert np.array_equal(TransitionDataset.load(tmp_path / "data").rewards[data.transitions], rewards)
    with pytest.raises(DataError, match="the array 'reward' is missing"):
        ingest(plant, [written(tmp_path / "none.npz", arrays, reward=None)], None)
    with pytest.raises(DataError, match="the objective is a recorded reward, and the log has none"):
        small_plant.dataset(plant)


def test_a_history_that_does_not_shift_is_named(tmp_path: Path) -> None:
    plant, arrays = flat_log()
    changed = {"obs": _with(arrays["obs"], 11, 4, 9.0), "next_obs": _with(arrays["next_obs"], 10, 4, 9.0)}
    path = written(tmp_path / "log.npz", arrays, **changed)
    with pytest.raises(DataError, match=r"row 11, column 4 should be level@-2 by the plant file, .*holds 9"):
        ingest(plant, [path], None)


def test_duplicates_constants_and_a_single_episode_are_warned_of(tmp_path: Path) -> None:
    plant, arrays = flat_log(0)
    twice = {name: np.concatenate([values, values[:30]]) for name, values in arrays.items()}
    warnings = [one.text for one in ingest(plant, [written(tmp_path / "twice.npz", twice)], None).quality.advice]
    assert [w for w in warnings if "30 of 150 rows repeat an earlier one (the first is row 120)" in w]
    still = {name: arrays[name] * [[1.0, 0.0]] for name in ("obs", "next_obs")}
    one = {name: values[:30] for name, values in (arrays | still).items()}
    warnings = [one.text for one in ingest(plant, [written(tmp_path / "one.npz", one)], None).quality.advice]
    assert [w for w in warnings if w.startswith("load: never changes (0)")]
    assert [w for w in warnings if w.startswith("there is one episode")]
