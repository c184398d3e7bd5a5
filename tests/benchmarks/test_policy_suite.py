"""What NeoRL's suites share: where data comes from, what a table says of it, and the suites' own lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controlkit.benchmarks import SUITES, get_suite, industrial, neorl, neorl2, policy_suite
from controlkit.benchmarks.policy_jobs import Job, ended_share, run_job, run_jobs, score_of, waves
from controlkit.benchmarks.policy_suite import Suite, SuiteTask, Variant, run_tasks
from controlkit.benchmarks.suite_data import Source, without_structure
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.files import read_json, write_json
from controlkit.ingest import ingest
from controlkit.layout import Layout
from controlkit.progress import Silent
from envs.collect import collect
from envs.tasks import TASKS, get_task
from tests.benchmarks.test_neorl2 import TINY

ALL = (neorl.SUITE, neorl2.SUITE, industrial.SUITE)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("CONTROLKIT_DATA", str(folder))
    return folder


def test_a_released_file_is_taken_where_it_is(data_folder: Path, tmp_path: Path) -> None:
    source = Source("some.npz", behaviour="operator", episodes=2)
    (data_folder / "some.npz").write_bytes(b"here")
    assert source.prepare("dmsd", tmp_path) == (data_folder / "some.npz", "the released file")


def test_data_is_regenerated_by_the_behaviour_controller_and_called_so(tmp_path: Path) -> None:
    path, label = Source("some.npz", behaviour="operator", episodes=2).prepare("dmsd", tmp_path)
    assert label == "regenerated data, NeoRL protocol, 2 episodes"
    wanted = collect("dmsd", tmp_path / "wanted.npz", episodes=2, seed=0, controller="operator")
    with np.load(path) as mine, np.load(wanted.path) as theirs:
        np.testing.assert_array_equal(mine["action"], theirs["action"])


def test_a_missing_behaviour_policy_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match=r"no behaviour policy 'dmsd-low' is kept.*behaviour.train dmsd low"):
        Source("some.npz", behaviour="low", episodes=2).prepare("dmsd", tmp_path)


def test_regenerated_data_is_kept_and_taken_again(tmp_path: Path) -> None:
    source = Source("some.npz", behaviour="operator", episodes=2)
    path, _ = source.prepare("dmsd", tmp_path / "made")
    before = path.stat().st_mtime_ns
    assert source.prepare("dmsd", tmp_path / "made")[0] == path
    assert path.stat().st_mtime_ns == before
    more, _ = Source("some.npz", behaviour="operator", episodes=3).prepare("dmsd", tmp_path / "made")
    assert more != path


def test_a_row_that_a_task_does_not_have_is_refused_before_any_work(tmp_path: Path) -> None:
    message = "benchmark neorl --methods.*Hopper-low has no row 'mopo:rewards'.*formula"
    with pytest.raises(ControlkitError, match=message):
        run_tasks(neorl.SUITE, tmp_path, 1, Silent(), tasks=("hopper-low",), methods=("mopo:rewards",))
    assert not list(tmp_path.rglob("*.npz"))


def test_a_missing_file_that_nothing_stands_in_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match="the released data file is not there"):
        Source("some.npz").prepare("dmsd", tmp_path)


def test_a_table_says_what_data_it_rests_on_and_what_to_mind(tmp_path: Path) -> None:
    entry = SuiteTask(
        "dmsd", "dmsd", Source("none.npz", behaviour="operator", episodes=6), {"other": 12.3}, "Mind.", ("formula",)
    )
    suite = Suite("small", {"Two masses": entry}, ("mean",), episodes=4, note="All of it.")
    table = run_tasks(suite, tmp_path / "out", 2, Silent(), workers=1, settings=TINY)
    assert "Data: regenerated data, NeoRL protocol, 6 episodes. Mind." in table
    assert "| published: other | 12.3 |" in table
    assert "All of it." in table
    row = next(line for line in table.splitlines() if line.startswith("| mean, formula"))
    assert [cell.strip() for cell in row.split("|")][4:6] == ["2", "8"]  # seeds, episodes


def test_a_table_counts_ends_that_the_published_evaluation_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SuiteTask("dmsd", "dmsd", Source("none.npz", behaviour="operator", episodes=2), rewards=("formula",))
    suite = Suite("small", {"Two masses": entry}, ("mean",), episodes=4, note="")
    part = {"score": 1.0, "return": 1.0, "episode_stderr": 0.0, "episode_steps": 9.0, "train_seconds": 1.0}
    part |= {"commit": "some", "data_sha256": "some"}

    def table(*shares: dict[str, float]) -> str:
        parts = [part | share for share in shares]
        monkeypatch.setattr(policy_suite, "run_jobs", lambda jobs, workers: zip(jobs, parts, strict=True))
        return run_tasks(suite, tmp_path, 2, Silent())

    counted = table({"ended_share": 0.25}, {"ended_share": 0.75})
    assert "own rules would have ended, and the published evaluation did not: mean, formula 50 %." in counted
    assert "own rules" not in table({"ended_share": 0.25}, {})  # kept from before it was counted


def test_every_suite_names_tasks_runs_and_levels_that_exist() -> None:
    for suite in ALL:
        assert suite.name in SUITES
        assert callable(get_suite(suite.name))
        for name, entry in suite.tasks.items():
            task = TASKS[entry.task]
            RunConfig.load(config_path("runs", entry.run))
            assert entry.published, name
            assert task.spec().reward_is_recorded is False


def test_the_published_table_is_read_row_by_row() -> None:
    assert neorl.PUBLISHED["HalfCheetah-low"]["BC"] == 29.1
    assert neorl.PUBLISHED["Hopper-high"]["MOBILE"] == 87.8
    assert neorl.PUBLISHED["Walker2d-medium"]["ADMPO-OFF"] == 70.1
    # The table's last column: the mean of the nine.
    for method, mean in (("BC", 45.4), ("CQL", 56.1), ("MOPO", 28.5), ("MOBILE", 60.7)):
        assert np.mean([scores[method] for scores in neorl.PUBLISHED.values()]) == pytest.approx(mean, abs=0.06)


def test_a_score_without_a_published_scale_is_the_return() -> None:
    assert score_of("industrial", -123.0) == -123.0
    assert score_of("halfcheetah", 12284.0) == pytest.approx(100.0)


def test_episodes_that_only_the_tasks_own_rules_end_are_counted() -> None:
    runner = get_task("halfcheetah").controller("high", np.random.default_rng(0))  # three times as fast as is allowed
    still = get_task("safety-halfcheetah").controller("still", np.random.default_rng(0))
    assert ended_share("safety-halfcheetah", runner, 2) == 1.0
    assert ended_share("safety-halfcheetah", still, 2) == 0.0
    assert ended_share("halfcheetah", runner, 2) is None  # its length tells


def job(tmp_path: Path, method: str, seed: int = 0, settings: tuple[str, ...] = ()) -> Job:
    part = tmp_path / f"{method}-{seed}.json"
    worlds, data = tmp_path / "worlds", tmp_path / "ingested"
    return Job("Two masses", "dmsd", "dmsd", method, method, "formula", seed, data, part, worlds, 4, (*TINY, *settings))


@pytest.fixture
def ingested(tmp_path: Path) -> Path:
    log = collect("dmsd", tmp_path / "log.npz", episodes=6, seed=0)
    ingest(get_task("dmsd").spec(), [log.path], tmp_path / "ingested")
    return tmp_path


def test_methods_that_differ_in_the_policy_share_a_world_and_lose_nothing(ingested: Path) -> None:
    jobs = [job(ingested, "bc"), job(ingested, "mobile"), job(ingested, "bc", seed=1), job(ingested, "irl")]
    first, others = waves(jobs)
    assert [(j.method, j.seed) for j in first] == [("bc", 0), ("bc", 1), ("irl", 0)]
    assert [(j.method, j.seed) for j in others] == [("mobile", 0)]
    found = {j.method: part for j, part in run_jobs(jobs[:2], workers=1)}
    assert len(list((ingested / "worlds").iterdir())) == 1
    alone = job(ingested / "alone", "mobile")
    alone = replace(alone, data=jobs[1].data)
    (ingested / "alone").mkdir()
    assert run_job(alone)["return"] == found["mobile"]["return"]
    assert found["mobile"]["train_seconds"] > found["mobile"]["policy_seconds"] > 0
    assert waves(jobs[1:2]) == ([], jobs[1:2])  # the world is kept for later runs


def test_a_kept_part_counts_if_settings_and_data_are_the_same_whatever_the_commit(ingested: Path) -> None:
    mine = job(ingested, "bc")
    assert mine.kept_part() is None
    part = run_job(mine)
    write_json(mine.part, part | {"commit": "another"})
    kept = mine.kept_part()
    assert kept is not None
    assert kept["commit"] == "another"
    del part["config"]["filter"]["survival"]  # a field that an older version did not have
    write_json(mine.part, part)
    assert mine.kept_part() is not None
    assert replace(mine, episodes=5).kept_part() is None
    assert replace(mine, settings=(*TINY, "policy.gamma=0.5")).kept_part() is None
    write_json(mine.part, part | {"data_sha256": "other"})
    assert mine.kept_part() is None


def test_a_plant_without_structure_shows_the_same_columns(tmp_path: Path) -> None:
    spec = get_task("pipeline").spec()
    flat = without_structure(spec)
    assert len(flat.state_tags) == 52
    assert Layout.from_spec(flat).size == Layout.from_spec(spec).size
    log = collect("pipeline", tmp_path / "log.npz", episodes=2, seed=0, steps=40)
    known, unknown = (ingest(plant, [log.path], None).dataset for plant in (spec, flat))
    assert np.array_equal(known.observations(known.transitions), unknown.observations(unknown.transitions))
    assert np.array_equal(known.rewards[known.transitions], unknown.rewards[unknown.transitions])


def test_a_variant_is_a_row_of_its_own(tmp_path: Path) -> None:
    entry = SuiteTask(
        "pipeline",
        "dmsd",
        Source("none.npz", behaviour="operator", episodes=6),
        variants={"blind": Variant("mean", structure=False), "near": Variant("mean", ("policy.commands=logged",))},
        rewards=("formula",),
        methods=("bc",),
    )
    suite = Suite("small", {"Pipe": entry}, ("mean",), episodes=2, note="")
    table = run_tasks(suite, tmp_path / "out", 1, Silent(), workers=1, settings=(*TINY, "rollout.length=2"))
    rows = [line.split("|")[1].strip() for line in table.splitlines() if ", formula" in line]
    assert rows == ["bc, formula", "blind, formula", "near, formula"]
    parts = {path.stem: read_json(path) for path in (tmp_path / "out" / "parts").iterdir()}
    assert parts["Pipe-near-formula-0"]["config"]["policy"]["commands"] == "logged"
    assert len({part["data_sha256"] for part in parts.values()}) == 2
