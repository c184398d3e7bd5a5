"""Minari data sets: both directions number for number, and one clear line for what cannot be used."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from controlkit.cli import main
from controlkit.dataset import TransitionDataset
from controlkit.errors import ControlkitError, DataError
from controlkit.ingest import ingest
from controlkit.ingest.flat import flat_arrays
from controlkit.ingest.minari_data import write_minari
from envs.tasks import get_task
from tests import small_plant
from tests.data_files import data_file

pytest.importorskip("h5py")
pytest.importorskip("PIL")
minari = pytest.importorskip("minari")
spaces = pytest.importorskip("gymnasium").spaces


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of Minari's own; nothing of the user's is touched."""
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def created(name: str, observations: Any, actions: Any, *, space: Any = None, action_space: Any = None) -> None:
    """A data set of one episode as another library writes it."""
    steps = len(actions)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=np.ones(steps, dtype=np.float32),
        terminations=np.zeros(steps, dtype=bool),
        truncations=np.arange(steps) == steps - 1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name,
            [buffer],
            observation_space=space or spaces.Box(-np.inf, np.inf, (2,), np.float32),
            action_space=action_space or spaces.Box(-1, 1, (1,), np.float32),
        )


def walk(steps: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Observations (K + 1, 2) and commands (K, 1) of the small plant's kind."""
    rng = np.random.default_rng(3)
    observations = np.cumsum(rng.uniform(-0.1, 0.1, (steps + 1, 2)), axis=0)
    return observations.astype(np.float32), rng.uniform(-1, 1, (steps, 1)).astype(np.float32)


@pytest.mark.parametrize("history", [0, 2])
def test_a_data_set_makes_the_round_trip(tmp_path: Path, history: int) -> None:
    plant = small_plant.spec(history)
    data = small_plant.dataset(plant, episodes=4, steps=30)
    assert write_minari(data, "small/log-v0") == 4
    again = ingest(plant, [Path("minari:small/log-v0")], tmp_path / "data").dataset
    ours, theirs = flat_arrays(data), flat_arrays(TransitionDataset.load(tmp_path / "data"))
    for name, values in ours.items():
        assert np.abs(theirs[name] - values).max() < 3e-7, name  # a command scaled to 4 units and back
    assert len(np.unique(again.episode)) == 4
    assert list(again.sources) == ["log-v0"]


def test_minari_reads_what_we_write() -> None:
    """Through Minari's own interface, episode by episode, against the data set's rows."""
    data = small_plant.dataset(small_plant.spec(0), episodes=3, steps=20)
    write_minari(data, "small/log-v1")
    loaded = minari.load_dataset("small/log-v1")
    assert loaded.total_episodes == 3
    assert loaded.total_steps == 60
    assert loaded.action_space == spaces.Box(-1, 1, (1,), np.float32)
    for number, episode in enumerate(loaded.iterate_episodes()):
        rows = np.flatnonzero(data.episode == number)
        assert np.array_equal(episode.observations, data.frames[rows])
        assert episode.actions == pytest.approx(data.actions[rows[:-1]] / 2.0)
        assert np.array_equal(episode.rewards, data.rewards[rows[:-1]])
        assert not episode.terminations.any()
        assert np.flatnonzero(episode.truncations).tolist() == [19]


def test_released_transitions_make_an_exact_round_trip(tmp_path: Path) -> None:
    spec = get_task("dmsd").spec()
    data = ingest(spec, [data_file("neorl2/DMSD-val.npz")], None).dataset
    assert write_minari(data, "neorl2/dmsd-v0") == 200
    again = flat_arrays(ingest(spec, [Path("minari:neorl2/dmsd-v0")], None).dataset)
    for name, values in flat_arrays(data).items():
        assert np.array_equal(again[name], values), name


def test_a_hole_in_an_episode_splits_it(tmp_path: Path) -> None:
    data = small_plant.dataset(small_plant.spec(0), episodes=2, steps=30)
    data.mask[12, 0] = False
    assert write_minari(data, "small/hole-v0") == 3
    lengths = [len(episode) for episode in minari.load_dataset("small/hole-v0").iterate_episodes()]
    assert lengths == [11, 17, 30]  # the steps into and out of row 12 are gone


def test_actions_are_scaled_by_their_space() -> None:
    plant = small_plant.spec(0, objective=[{"kind": "recorded"}])
    observations, commands = walk()
    created("other/wide-v0", observations, 2.0 * commands, action_space=spaces.Box(-2, 2, (1,), np.float32))
    created("other/unit-v0", observations, commands)
    wide = ingest(plant, [Path("minari:other/wide-v0")], None).dataset
    unit = ingest(plant, [Path("minari:other/unit-v0")], None).dataset
    assert wide.actions[:-1] == pytest.approx(2.0 * commands, abs=1e-6)  # the plant's limits are -2 and 2, too
    assert unit.actions[:-1] == pytest.approx(2.0 * commands, abs=1e-6)


def refused(name: str) -> str:
    plant = small_plant.spec(0, objective=[{"kind": "recorded"}])
    with pytest.raises(DataError) as caught:
        ingest(plant, [Path(f"minari:{name}")], None)
    assert str(caught.value).startswith(f"minari:{name}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_used_is_one_clear_line(store: Path) -> None:
    observations, commands = walk()
    assert "no local Minari data set of this name" in refused("other/none-v0")
    assert "no local Minari data set of this name" in refused("../../etc")
    observations[7, 1] = np.nan
    created("other/nan-v0", observations, commands)
    assert "obs holds nan in row 7, column 1" in refused("other/nan-v0")
    observations, commands = walk()
    commands[9] = 1.5
    created("other/high-v0", observations, commands)
    assert "action 0 of row 9 is 1.5" in refused("other/high-v0")
    created("other/free-v0", observations, commands, action_space=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    assert "not a vector between finite bounds" in refused("other/free-v0")
    created("other/short-v0", observations[:-1], commands)
    assert "episode 0 has 40 observations and 40 actions for 40 rewards" in refused("other/short-v0")
    parts = spaces.Dict({"level": spaces.Box(-1, 1, (2,), np.float32)})
    created("other/dict-v0", {"level": observations}, commands, space=parts)
    assert "observations or actions that are no vectors" in refused("other/dict-v0")


def test_a_damaged_data_set_is_refused(store: Path) -> None:
    created("other/cut-v0", *walk())
    (path,) = store.rglob("main_data.hdf5")
    path.write_bytes(path.read_bytes()[:1000])
    assert "is damaged" in refused("other/cut-v0")


def test_names_that_are_taken_or_malformed_write_nothing(store: Path) -> None:
    data = small_plant.dataset(small_plant.spec(0), episodes=2, steps=20)
    write_minari(data, "small/log-v0")
    with pytest.raises(ControlkitError, match="is already there"):
        write_minari(data, "small/log-v0")
    for name in ("log", "../log-v0", "small/ log-v0", ""):
        with pytest.raises(ControlkitError, match="is no name of a Minari data set"):
            write_minari(data, name)
    assert minari.list_local_datasets().keys() == {"small/log-v0"}


def test_a_write_that_fails_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        (store / "small" / "log-v0" / "data").mkdir(parents=True)
        raise OSError("No space left on device")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", full)
    with pytest.raises(ControlkitError, match=r"cannot be written \(No space left"):
        write_minari(small_plant.dataset(small_plant.spec(0), episodes=2, steps=20), "small/log-v0")
    assert not (store / "small" / "log-v0").exists()


def test_both_ways_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plant = small_plant.spec()
    (tmp_path / "plant.yaml").write_text(yaml.safe_dump(plant.to_dict()))
    data = small_plant.dataset(plant, episodes=3, steps=30)
    data.save(tmp_path / "data")
    for words in ("export-minari data --name small/log-v0", "ingest plant.yaml minari:small/log-v0 --out again"):
        with pytest.raises(SystemExit) as end:
            main(words.split())
        assert not end.value.code
    assert f"minari:small/log-v0: {len(data.transitions)} steps in 3 episodes" in capsys.readouterr().out
    again = TransitionDataset.load(tmp_path / "again")
    assert np.array_equal(flat_arrays(again)["obs"], flat_arrays(data)["obs"])
