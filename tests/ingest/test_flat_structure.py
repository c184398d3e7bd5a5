"""What is found in flat columns: known answers of made-up plants, released data, drafts that ingest what they saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.cli import main
from controlkit.errors import SpecError
from controlkit.ingest import ingest
from controlkit.ingest.flat import flat_arrays
from controlkit.ingest.flat_draft import draft_plant
from controlkit.ingest.flat_file import FlatFile, read_flat
from controlkit.ingest.flat_structure import find_structure
from controlkit.spec import PlantSpec
from tests import small_plant
from tests.data_files import data_file

Arrays = dict[str, Any]


def made(path: Path, episodes: int = 40, steps: int = 60, seed: int = 0) -> Path:
    """A plant whose columns are known: 0 level (state), 1 season (exogenous, moves every step), 2 grade (exogenous,
    jumps rarely), 3 size (static), 4 constant, 5 alarm (jumps when the level is high: a state), 6-7 level 1-2 steps
    before, 8-9 action 1-2 steps before."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"obs": [], "action": [], "next_obs": [], "truncated": []}
    for _ in range(episodes):
        level, season, grade, size = rng.normal(), rng.normal(), float(rng.integers(4)), rng.normal()
        past, commands, alarm = [level] * 3, [0.0] * 3, 0.0
        observation = [level, season, grade, size, 7.0, alarm, past[1], past[2], commands[0], commands[1]]
        for step in range(steps):
            action = float(np.clip(-0.3 * level + 0.2 * season + rng.normal() * 0.4, -1, 1))
            alarm = float(rng.normal()) if level > 1.0 else alarm
            level = 0.8 * level + 0.5 * action + 0.3 * season + 0.1 * size + 0.05 * rng.normal()
            season = 0.9 * season + 0.3 * rng.normal()
            grade = float(rng.integers(4)) if rng.random() < 0.15 else grade
            past, commands = [level, *past[:-1]], [action, *commands[:-1]]
            following = [level, season, grade, size, 7.0, alarm, past[1], past[2], commands[0], commands[1]]
            for name, values in (("obs", observation), ("action", [action]), ("next_obs", following)):
                rows[name].append(values)
            rows["truncated"].append(step == steps - 1)
            observation = following
    np.savez(path, **{name: np.array(values, dtype=np.float32) for name, values in rows.items()})
    return path


def kinds(file: FlatFile) -> list[str]:
    return [finding.kind for finding in find_structure(file).columns]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_made_up_plant_is_read_as_it_was_made(tmp_path: Path, seed: int) -> None:
    structure = find_structure(read_flat(made(tmp_path / "log.npz", seed=seed)))
    found = [(f.kind, f.of, f.lag) for f in structure.columns]
    assert found == [
        ("state", None, 0),
        ("exogenous", None, 0),
        ("exogenous", None, 0),
        ("static", None, 0),
        ("constant", None, 0),
        ("state", None, 0),
        ("history", 0, 1),
        ("history", 0, 2),
        ("past action", 0, 1),
        ("past action", 0, 2),
    ]
    assert structure.history(0) == 2
    assert structure.past_commands(0) == 2
    text = structure.to_text()
    assert "columns 6-7: column 0, 1-2 steps before (equal in all 2400 rows" in text
    assert "columns 8-9: action 0, 1-2 steps before" in text
    assert "column 4: constant (7 in every row)" in text
    assert "40 values" in structure.columns[3].evidence


def test_independent_columns_are_rarely_called_states() -> None:
    """The test's own error: at the 1 % level hardly any of 60 independent columns is called dependent."""
    rng = np.random.default_rng(5)
    drift = rng.normal(size=(20, 101, 60)).cumsum(axis=1)
    action = rng.normal(size=(20, 100, 1)).cumsum(axis=1)  # as slow as they are, so that chance correlations abound
    now, after = drift[:, :-1].reshape(2000, 60), drift[:, 1:].reshape(2000, 60)
    called = []
    for column in range(60):
        file = plain(now[:, [column]], after[:, [column]], action.reshape(2000, 1), 100)
        called.append(find_structure(file).columns[0].kind == "state")
    assert sum(called) <= 4


def plain(now: Any, after: Any, action: Any, steps: int) -> FlatFile:
    last = np.arange(len(now)) % steps == steps - 1
    now, after, action = (np.asarray(values, dtype=np.float32) for values in (now, after, action))
    return FlatFile(Path("made.npz"), "", now, action, after, None, np.zeros(len(now), np.bool_), last, None, (), ())


def test_a_weak_effect_is_found_and_too_little_data_claims_nothing() -> None:
    rng = np.random.default_rng(6)
    action, start = rng.normal(size=(40, 50)), np.zeros(40)
    values = [start]
    for step in range(50):
        values.append(0.9 * values[-1] + 0.2 * action[:, step] + rng.normal(size=40))  # 4 % of the variance
    table = np.stack(values, axis=1)
    pieces = (table[:, :-1].reshape(-1, 1), table[:, 1:].reshape(-1, 1), action.reshape(-1, 1))
    assert kinds(plain(*pieces, 50)) == ["state"]
    few = plain(*(piece[:20] for piece in pieces), 50)
    finding = find_structure(few).columns[0]
    assert finding.kind == "state"
    assert "undecided" in finding.evidence or "depends on" in finding.evidence
    still = np.zeros((2000, 1))
    still[1500:] = 1.0  # one single jump
    after = np.append(still[1:], 1.0)[:, None]
    once = find_structure(plain(still, after, action.reshape(-1, 1), 2000)).columns[0]
    assert (once.kind, "undecided" in once.evidence) == ("state", True)


def test_exogenous_columns_that_drive_each_other_are_found() -> None:
    rng = np.random.default_rng(7)
    steps, episodes = 60, 40
    sun, warmth, room, action = (np.zeros((episodes, steps + 1)) for _ in range(4))
    for t in range(steps):
        action[:, t] = rng.normal(size=episodes)
        sun[:, t + 1] = 0.8 * sun[:, t] + rng.normal(size=episodes)
        warmth[:, t + 1] = 0.9 * warmth[:, t] + 0.5 * sun[:, t] + 0.2 * rng.normal(size=episodes)
        room[:, t + 1] = 0.7 * room[:, t] + 0.4 * warmth[:, t] + action[:, t]
    table = np.stack([room, warmth, sun], axis=2)
    file = plain(table[:, :-1].reshape(-1, 3), table[:, 1:].reshape(-1, 3), action[:, :-1].reshape(-1, 1), steps)
    assert kinds(file) == ["state", "exogenous", "exogenous"]


def test_duplicates_and_a_single_episode_are_told(tmp_path: Path) -> None:
    now = np.random.default_rng(8).normal(size=(50, 1)).cumsum(axis=0)
    file = plain(np.hstack([now, now])[:-1], np.hstack([now, now])[1:], np.zeros((49, 1)), 49)
    messages = find_structure(file).messages
    assert [m for m in messages if m.startswith("column 1 repeats column 0 in every row")]
    assert [m for m in messages if m.startswith("there is one episode")]
    arrays = dict(np.load(made(tmp_path / "log.npz")))
    again = read_flat(_saved(tmp_path / "twice.npz", {k: np.concatenate([v, v[:60]]) for k, v in arrays.items()}))
    assert [m for m in find_structure(again).messages if m.startswith("60 rows repeat an earlier one")]


def _saved(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_draft_ingests_the_file_that_it_was_drafted_from(tmp_path: Path) -> None:
    arrays = flat_arrays(small_plant.dataset(small_plant.spec(0), episodes=30, steps=60))
    windows = flat_arrays(small_plant.dataset(small_plant.spec(3), episodes=30, steps=60))
    for name, content, history in (("plain", arrays, 0), ("windows", windows, 3)):
        path = _saved(tmp_path / f"{name}.npz", content)
        file = read_flat(path)
        structure = find_structure(file)
        draft = tmp_path / f"{name}.yaml"
        draft.write_text(draft_plant(file, structure, name))
        spec = PlantSpec.load(draft)
        assert spec.reward_is_recorded
        assert spec.tags["column_0"].role == "state"
        assert spec.tags["column_0"].history == spec.tags["action_0"].history == history
        again = flat_arrays(ingest(spec, [path], None).dataset)
        for array in ("obs", "action", "next_obs", "reward", "done", "truncated"):
            assert np.array_equal(again[array], content[array]), (name, array)


def test_the_command_line_says_what_it_found_and_drafts_a_plant_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, draft = made(tmp_path / "2nd run.npz"), tmp_path / "plant.yaml"
    with pytest.raises(SystemExit) as ended:
        main(["ingest", "--check", str(path), "--out", str(draft)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "column 1: exogenous (its next value: no dependence" in said
    assert f"{draft}: look through it" in said
    text = draft.read_text()
    assert "name: plant_2nd_run" in text
    assert "objective: []  # <- the file has no rewards" in text
    with pytest.raises(SpecError, match="objective"):
        PlantSpec.load(draft)
    with pytest.raises(SystemExit):
        main(["ingest", "--check", str(path), "log.csv"])
    assert "one flat file is looked at at a time" in capsys.readouterr().err


def test_released_targets_are_exogenous() -> None:
    structure = find_structure(read_flat(data_file("neorl2/DMSD-train.npz")))
    assert [f.kind for f in structure.columns] == ["state"] * 4 + ["exogenous"] * 2


def test_the_released_pipeline_is_a_flow_a_target_and_their_history(tmp_path: Path) -> None:
    path = data_file("neorl2/Pipeline-val.npz")
    file = read_flat(path)
    structure = find_structure(file)
    found = [(f.kind, f.of, f.lag) for f in structure.columns]
    assert found[0] == ("state", None, 0)
    assert found[2:27] == [("history", 0, lag) for lag in range(1, 26)]
    assert found[27:] == [("past action", 0, lag) for lag in range(1, 26)]
    draft = tmp_path / "pipeline.yaml"
    draft.write_text(draft_plant(file, structure, "pipeline"))
    data = ingest(PlantSpec.load(draft), [path], None).dataset
    again, released = flat_arrays(data), np.load(path)
    for name in ("obs", "action", "next_obs", "reward"):
        assert np.array_equal(again[name], released[name].reshape(again[name].shape)), name
