"""Collected logs: what is in the file, when it happened, that it repeats, and that a failure leaves no trace."""

from __future__ import annotations

import csv
import hashlib
import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from controlkit.align import Samples, align_log
from controlkit.errors import ControlkitError
from controlkit.ingest import ingest
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from envs import log_files
from envs.collect import DECIMALS, EPISODES, GAP_S, collect, simulate_log
from envs.refrigerator import next_temperature
from envs.simulation import Floats
from envs.tasks import REFRIGERATOR, Task


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


def test_the_long_table(tmp_path: Path) -> None:
    written = collect("refrigerator", tmp_path / "log.csv", episodes=3, seed=1, steps=40)
    lines = written.path.read_text(encoding="ascii").splitlines()
    assert lines[0] == "timestamp,tag,value,quality"
    rows = rows_of(written.path)
    assert written.rows == len(rows) == 3 * (41 * 2 + 40)
    assert (written.samples, written.episodes) == (120, 3)
    assert written.sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest()
    assert {row["quality"] for row in rows} == {"good"}
    # in the order of time, then of the plant file; the last sample of an episode stands without a command
    assert [row["tag"] for row in rows[:4]] == ["temperature", "door", "power", "temperature"]
    assert [row["tag"] for row in rows[-3:]] == ["power", "temperature", "door"]
    assert rows[0]["timestamp"] == "2024-01-01T00:00:00Z"
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows]
    assert all(time.tzinfo == UTC for time in times)
    assert times == sorted(times)
    gaps = {(after - before).total_seconds() for before, after in pairwise(times)}
    assert gaps == {0.0, 1.0, GAP_S}


def test_a_command_leads_from_its_sample_to_the_next(tmp_path: Path) -> None:
    """Without noise, the physics must carry each row's temperature, door and power to the next row's temperature."""
    path = collect("refrigerator", tmp_path / "log.csv", episodes=2, seed=3, steps=250, noise="none").path
    wide = pd.read_csv(path).pivot(index="timestamp", columns="tag", values="value")
    for episode in np.array_split(wide[["temperature", "power", "door"]].to_numpy(), 2):
        temperature, power, door = episode.T
        assert np.isnan(power[-1])
        assert np.isfinite(power[:-1]).all()
        expected = next_temperature(temperature[:-1], power[:-1], door[:-1])
        np.testing.assert_allclose(temperature[1:], expected, atol=5e-6)  # stored to 1e-6
    assert wide["door"].max() == 1.0


def test_alignment_gives_back_frames_and_commands(tmp_path: Path) -> None:
    """The plant's causal alignment of the file must return exactly what the simulation did, step by step."""
    path = collect("refrigerator", tmp_path / "log.csv", episodes=2, seed=5, steps=30).path
    episodes = list(simulate_log(REFRIGERATOR, 2, seed=5, steps=30))
    log = pd.read_csv(path, parse_dates=["timestamp"])
    stamps = log["timestamp"].dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    samples = {}
    for tag in ("temperature", "door", "power"):
        chosen = (log["tag"] == tag).to_numpy()
        good = (log["quality"] == "good").to_numpy()[chosen]
        samples[tag] = Samples(stamps[chosen], log["value"].to_numpy()[chosen], good)
    for episode in episodes:
        grid = episode.times[:-1].astype("datetime64[ns]").astype(np.int64)
        aligned = align_log(REFRIGERATOR.spec(), samples, grid)
        assert aligned.mask.all()
        assert aligned.action_mask.all()
        assert not aligned.changed.any()
        np.testing.assert_array_equal(aligned.frames, episode.frames[:-1].astype(np.float32))
        np.testing.assert_array_equal(aligned.actions, episode.commands.astype(np.float32))


def test_equal_arguments_give_equal_bytes_and_other_seeds_other_logs(tmp_path: Path) -> None:
    for suffix in log_files.SUFFIXES:
        first = collect("refrigerator", tmp_path / f"a{suffix}", episodes=2, seed=7, steps=20)
        second = collect("refrigerator", tmp_path / f"b{suffix}", episodes=2, seed=7, steps=20)
        other = collect("refrigerator", tmp_path / f"c{suffix}", episodes=2, seed=8, steps=20)
        assert first.sha256 == second.sha256
        assert first.path.read_bytes() == second.path.read_bytes()
        assert first.sha256 != other.sha256


def test_a_longer_log_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short = collect("refrigerator", tmp_path / "short.csv", episodes=2, seed=7, steps=20).path.read_text()
    long = collect("refrigerator", tmp_path / "long.csv", episodes=3, seed=7, steps=20).path.read_text()
    assert long.startswith(short)
    episodes = list(simulate_log(REFRIGERATOR, 2, seed=7, steps=20))
    assert (episodes[0].frames != episodes[1].frames).any()


def test_parquet_and_npz_hold_the_same_values(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        collect("refrigerator", tmp_path / f"log{suffix}", episodes=2, seed=2, steps=25)
    text = pd.read_csv(tmp_path / "log.csv", parse_dates=["timestamp"])
    binary = pd.read_parquet(tmp_path / "log.parquet")
    assert list(binary.columns) == list(text.columns)
    assert str(binary["timestamp"].dt.tz) == "UTC"
    assert (text["timestamp"] == binary["timestamp"]).all()
    np.testing.assert_array_equal(text["value"], binary["value"])
    assert text["tag"].tolist() == binary["tag"].tolist()

    written = collect("refrigerator", tmp_path / "log.npz", episodes=2, seed=2, steps=25)
    flat = np.load(written.path)
    assert written.rows == written.samples == 50
    assert flat["frame_tags"].tolist() == ["temperature", "door"]
    assert flat["action_tags"].tolist() == ["power"]
    assert flat["episode"].tolist() == [0] * 25 + [1] * 25
    assert np.flatnonzero(flat["truncated"]).tolist() == [24, 49]
    assert not flat["terminated"].any()
    np.testing.assert_array_equal(flat["obs"][1:25], flat["next_obs"][:24])
    temperature = text[text["tag"] == "temperature"]["value"].to_numpy()
    np.testing.assert_array_equal(flat["obs"][:, 0], np.delete(temperature, [25, 51]))
    np.testing.assert_array_equal(flat["action"][:, 0], text[text["tag"] == "power"]["value"].to_numpy())
    assert flat["timestamp"][0] == "2024-01-01T00:00:00Z"


def test_the_default_is_twenty_thousand_samples_of_the_operator() -> None:
    assert EPISODES * REFRIGERATOR.steps == 20_000
    (episode,) = simulate_log(REFRIGERATOR, 1, seed=0)
    assert episode.frames.shape == (2001, 2)
    assert episode.commands.shape == (2000, 1)
    assert episode.true_frames.shape == (2001, 2)
    law = 0.2 * (episode.frames[:-1, 0] + 3.75)
    inside = episode.commands[:, 0] > 0.05
    assert (episode.commands[inside, 0] - law[inside]).std() == pytest.approx(0.1, rel=0.1)
    assert (episode.frames[:, 0] - episode.true_frames[:, 0]).std() == pytest.approx(0.1, rel=0.1)
    np.testing.assert_array_equal(episode.frames, np.round(episode.frames, DECIMALS))


def test_options_reach_the_plant_and_the_controller(tmp_path: Path) -> None:
    path = collect("refrigerator", tmp_path / "log.csv", episodes=1, steps=30, door="hidden", controller="pid").path
    assert {row["tag"] for row in rows_of(path)} == {"temperature", "power"}
    first = next(row for row in rows_of(path) if row["tag"] == "power")
    temperature = next(row for row in rows_of(path) if row["tag"] == "temperature")
    error = float(temperature["value"]) + 3.75
    assert float(first["value"]) == pytest.approx(0.105 * error, abs=2e-6)


def test_progress_is_told_of_every_episode(tmp_path: Path) -> None:
    class Counting(Silent):
        done, total = 0, 0

        def start(self, stage: str, total: int) -> None:
            self.total = total

        def advance(self, units: int = 1, note: str = "") -> None:
            self.done += units

    counting = Counting()
    collect("refrigerator", tmp_path / "log.csv", episodes=3, steps=5, progress=counting)
    assert (counting.done, counting.total) == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "fridge"}, "unknown task 'fridge'. did you mean 'refrigerator'?"),
        ({"episodes": 0}, "task refrigerator: episodes is 0. Give 1 or more."),
        ({"steps": 0}, "task refrigerator: steps is 0. Give 1 or more."),
        ({"seed": -3}, "the seed -3 is negative. Give 0 or more."),
        ({"controller": "operater"}, "task refrigerator: unknown controller 'operater'. did you mean 'operator'?"),
        ({"noise": "sensor"}, "refrigerator: unknown noise 'sensor'. Mend it: valid names: measurement, none, process"),
    ],
)
def test_wrong_arguments_say_so_and_leave_no_file(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlkitError) as raised:
        collect(**({"task": "refrigerator", "out": tmp_path / "log.csv", "episodes": 1, "steps": 3} | arguments))
    assert str(raised.value) == message
    assert not os.listdir(tmp_path)


def test_an_unknown_suffix_and_a_folder_in_the_way_say_so(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match=r"log\.txt: a log cannot be written as '\.txt'.*\.csv, \.parquet, \.npz"):
        collect("refrigerator", tmp_path / "log.txt", episodes=1, steps=3)
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(ControlkitError, match=r"log\.csv: cannot be written \(Is a directory\)"):
        collect("refrigerator", tmp_path / "log.csv", episodes=1, steps=3)
    assert os.listdir(tmp_path) == ["log.csv"]


@pytest.mark.parametrize("suffix", log_files.SUFFIXES)
def test_a_failure_in_the_middle_leaves_the_earlier_log(tmp_path: Path, suffix: str) -> None:
    class Full(Silent):
        def advance(self, units: int = 1, note: str = "") -> None:
            raise OSError(28, "No space left on device")

    class Interrupted(Silent):
        def advance(self, units: int = 1, note: str = "") -> None:
            raise KeyboardInterrupt

    path = tmp_path / f"log{suffix}"
    before = collect("refrigerator", path, episodes=1, steps=3).sha256
    with pytest.raises(ControlkitError, match=r"cannot be written.*No space left on device"):
        collect("refrigerator", path, episodes=3, steps=3, progress=Full())
    with pytest.raises(KeyboardInterrupt):
        collect("refrigerator", path, episodes=3, steps=3, progress=Interrupted())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert os.listdir(tmp_path) == [path.name]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ControlkitError, match=r"needs pyarrow, which is not installed\. Install controlkit\[train\]"):
        collect("refrigerator", tmp_path / "log.parquet", episodes=1, steps=3)
    assert not os.listdir(tmp_path)


class TankTask(Task):
    """A tank that trips above 100 m."""

    def spec(self) -> PlantSpec:
        return PlantSpec.from_dict(
            {
                "name": "tank",
                "period_s": 1,
                "tags": {
                    "level": {"role": "state", "unit": "m", "range": [0, 200]},
                    "valve": {"role": "action", "unit": "1", "range": [0, 1], "safe": 0, "fallback": {"kind": "hold"}},
                },
                "objective": [{"kind": "track", "tag": "level", "setpoint": 50}],
                "episodes": {"terminated": [{"tag": "level", "above": 100}]},
            }
        )


class Tank:
    """Levels that were written down before, and a sensor that is off by a constant."""

    frame_tags = ("level",)

    def __init__(self, levels: list[float], offset: float) -> None:
        self.copies, self.levels, self.offset = 1, levels, offset
        self.reset()

    @property
    def true_frame(self) -> Floats:
        return np.array([[self.levels[self.time]]])

    def reset(self) -> Floats:
        self.time = 0
        return self.true_frame + self.offset

    def step(self, command: Floats) -> Floats:
        self.time += 1
        return self.true_frame + self.offset


class Swaying:
    """Valve 0, 1, 0, 1, ..."""

    def reset(self, batch: int) -> None:
        self.command = np.ones((batch, 1))

    def act(self, measurement: Floats) -> Floats:
        self.command = 1.0 - self.command
        return self.command


@pytest.mark.parametrize(
    ("levels", "offset", "length"),
    [
        # 100.000001 is 100 in float32, which has steps of 8e-6 m there.
        ([90.0, 95.0, 100.000001, 99.0, 98.0, 97.0], 0.0, 5),
        ([90.0, 95.0, 100.00001, 99.0, 98.0, 97.0], 0.0, 2),
        # The log shows what was measured, and a trip only where that has tripped.
        ([90.0, 95.0, 100.5, 99.0, 98.0, 97.0], -1.0, 5),
        ([90.0, 95.0, 99.5, 98.0, 97.0, 96.0], 1.0, 2),
    ],
)
def test_ends_are_what_ingest_reads_from_the_log(
    levels: list[float], offset: float, length: int, tmp_path: Path
) -> None:
    task = TankTask(
        name="tank",
        plant="tank",
        environment="",
        steps=5,
        simulator=lambda copies, rng: Tank(levels, offset),
        controllers={"swaying": lambda rng, options: Swaying()},
        behaviour="swaying",
        test_controllers=(),
        references=(),
    )
    log = collect(task, tmp_path / "log.npz", episodes=2)
    assert log.samples == 2 * length
    with np.load(log.path) as flat:
        data = ingest(task.spec(), [log.path], None).dataset
        assert data.terminated[data.transitions].tolist() == flat["terminated"].tolist()
        assert flat["terminated"].sum() == (2 if length < 5 else 0)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_where_an_episode_ends_does_not_depend_on_when_it_is_judged(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco")
    arguments = {"episodes": 4, "seed": 2, "steps": 200, "controller": "random"}
    expected = collect("hopper", tmp_path / "one.npz", **arguments)
    assert expected.samples < 4 * 200  # it falls
    monkeypatch.setattr("envs.collect.JUDGED_AT_ONCE", at_once)
    assert collect("hopper", tmp_path / "other.npz", **arguments).sha256 == expected.sha256
