"""Plans, their folders, the search and the choice of the winner: all that needs no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlkit.cluster import Event, Outcome
from controlkit.errors import ArtifactError, ConfigError
from controlkit.sweeps.ledger import Ledger, RunRecord
from controlkit.sweeps.plan import Plan, Run, make_plan
from controlkit.sweeps.search import search
from controlkit.sweeps.settings import SweepFile, parse_grid, read_sweep
from controlkit.sweeps.table import RunTable
from controlkit.sweeps.winner import rank, winner_of
from tests import small_plant

DATA = {"data_sha256": "a" * 64, "spec_sha256": "b" * 64}


def plan_of(varied: SweepFile, **options: Any) -> Plan:
    return make_plan(small_plant.config(), varied, DATA, **{"seeds": 2, **options})


def file_of(path: Path, text: str) -> SweepFile:
    path.write_text(text)
    return read_sweep(path)


def outcome_of(run: Run, low: float) -> Outcome:
    gain = {"value": low + 1.0, "low": low, "high": low + 2.0}
    return Outcome(run.name, "done", {"verdict": "INCONCLUSIVE", "gain": gain, "policy_sha256": run.name}, seconds=2.0)


def record_of(run: Run, low: float) -> RunRecord:
    result = outcome_of(run, low).value
    return RunRecord(run.name, run.setting, run.values, run.config.seed, "done", "", 1, 2.0, result)


def test_a_grid_is_every_combination_with_every_seed() -> None:
    plan = plan_of(parse_grid(["policy.hidden=[8],[16, 16]", "policy.gamma=0.8,0.95"]), seeds=3, threads=2)
    runs = plan.grid_runs()
    assert len(runs) == plan.total == 12
    assert len({run.name for run in runs}) == 12
    assert [run.config.seed for run in runs[:4]] == [0, 1, 2, 0]
    assert {(run.config.policy.hidden, run.config.policy.gamma) for run in runs} == {
        ((8,), 0.8), ((8,), 0.95), ((16, 16), 0.8), ((16, 16), 0.95)
    }  # fmt: skip
    assert {run.config.threads for run in runs} == {2}
    assert runs[0].config.dynamics == small_plant.config().dynamics
    assert runs[-1].label == "policy.hidden=[16, 16], policy.gamma=0.95"
    assert plan.gamma == 0.95


def test_no_grid_is_one_setting() -> None:
    assert [run.name for run in plan_of(parse_grid([])).grid_runs()] == ["000-seed0", "000-seed1"]


BAD_GRIDS = {
    "policy.gama=0.9": r"policy\.gama: unknown key\. Did you mean 'gamma'\?",
    "polcy.gamma=0.9": r"polcy: unknown key\. Did you mean 'policy'\?",
    "policy.gamma=0.9,1.5": r"setting policy\.gamma=1\.5: .*less than 1",
    "policy.gamma.deep=1": "'policy.gamma' has no fields",
    "seed=1,2": "seed: cannot be swept over. Instead, say how many with --seeds",
    "split.training=0.5": "split.training: cannot be swept over. Runs of different splits cannot be compared",
    "policy.gamma": "is no part of a grid",
    "policy.gamma=": "is no part of a grid",
    "policy.gamma=[": "is no part of a grid",
}


@pytest.mark.parametrize("word", BAD_GRIDS)
def test_a_bad_grid_is_refused_before_anything_starts(word: str) -> None:
    with pytest.raises(ConfigError, match=BAD_GRIDS[word]):
        plan_of(parse_grid([word]))


BAD_FILES = {
    "grdi: {policy.gamma: [0.9]}": "grdi: unknown key. Did you mean 'grid'",
    "grid: {policy.gamma: []}": "grid.policy.gamma: ",
    "grid: {policy.gamma: [0.9]}\nranges: {policy.tau: {low: 0.1, high: 0.2}}": "not both",
    "ranges: {policy.tau: {low: 0.2, high: 0.1}}": "line 1: .*low 0.2 is not below high 0.1",
    "ranges: {policy.tau: {low: 0.1}}": "needs low and high, or choices",
    "ranges: {policy.tau: {low: 0, high: 1, log: true}}": "log needs a low end above 0",
    "ranges: {policy.tau: {low: 0.1, high: 0.2, choices: [1]}}": "choices go with nothing else",
    "ranges: {rollout.length: {low: 1, high: 9, step: 0.5}}": "a whole step",
    "ranges: {policy.tau: {low: 0.1, high: 1.5}}": r"policy\.tau=1\.5",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_bad_sweep_file_is_refused_before_anything_starts(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=BAD_FILES[text]):
        plan_of(file_of(tmp_path / "sweep.yaml", text), trials=2)


def test_trials_and_ranges_go_together() -> None:
    ranges = SweepFile.model_validate({"ranges": {"policy.tau": {"low": 0.1, "high": 0.2}}})
    with pytest.raises(ConfigError, match="ranges need a number of trials"):
        plan_of(ranges)
    with pytest.raises(ConfigError, match="there are none"):
        plan_of(parse_grid([]), trials=3)


def test_a_folder_of_another_sweep_is_refused_with_the_difference(tmp_path: Path) -> None:
    plan = plan_of(parse_grid(["policy.tau=0.1,0.2"]))
    ledger = Ledger(tmp_path / "sweep", plan)
    Ledger(tmp_path / "sweep", plan)
    others = {
        "varied.grid.policy.tau=[0.1, 0.2], not [0.1]": plan_of(parse_grid(["policy.tau=0.1"])),
        "seeds=2, not 3": plan_of(parse_grid(["policy.tau=0.1,0.2"]), seeds=3),
        "config.threads=1, not 2": plan_of(parse_grid(["policy.tau=0.1,0.2"]), threads=2),
        f"data.data_sha256={'a' * 64}, not c": Plan(plan.config, plan.varied, 2, {**DATA, "data_sha256": "c"}),
    }
    for difference, other in others.items():
        with pytest.raises(ArtifactError) as refused:
            Ledger(ledger.folder, other)
        assert difference in str(refused.value)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").touch()
    with pytest.raises(ArtifactError, match="exists and holds no sweep"):
        Ledger(tmp_path / "else", plan)


def test_only_what_is_done_and_there_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep", plan_of(parse_grid([])))
    done, failed = ledger.plan.grid_runs()
    record = ledger.keep(done, outcome_of(done, 0.5))
    assert ledger.kept(done) is None  # its policy is gone
    policy = ledger.path(done) / "policy" / "models.pt"
    policy.parent.mkdir(parents=True)
    policy.touch()
    assert ledger.kept(done) == record
    assert ledger.keep(failed, Outcome(failed.name, "failed", message="the disk is full")).message == "the disk is full"
    assert ledger.kept(failed) is None
    (ledger.folder / "records" / f"{done.name}.json").write_text('{"name": 1}')
    with pytest.raises(ArtifactError, match="is damaged"):
        ledger.kept(done)


RANGES = SweepFile.model_validate(
    {
        "ranges": {
            "policy.tau": {"low": 0.01, "high": 1.0, "log": True},
            "rollout.length": {"low": 2, "high": 10, "step": 4},
            "policy.hidden": {"choices": [[8], [16, 16]]},
        },
        "at_once": 5,
    }
)


def searched(plan: Plan, order: int = 1) -> list[RunRecord]:
    """The best tau is 0.1; the runs of a round end in one order or the other."""

    def run_all(runs: Any) -> list[RunRecord]:
        ended = {run.name: record_of(run, -abs(run.config.policy.tau - 0.1)) for run in runs[::order]}
        return [ended[run.name] for run in runs]

    return search(plan, run_all, pytest.fail)


def test_a_search_stays_in_its_ranges_repeats_itself_and_learns() -> None:
    pytest.importorskip("optuna")
    plan = plan_of(RANGES, trials=40, sampler="tpe", seeds=1)
    found = searched(plan)
    assert len(found) == plan.total == 40
    assert all(0.01 <= record.values["policy.tau"] <= 1.0 for record in found)
    assert {record.values["rollout.length"] for record in found} == {2, 6, 10}
    assert {str(record.values["policy.hidden"]) for record in found} == {"[8]", "[16, 16]"}
    assert [record.values for record in found] == [record.values for record in searched(plan, order=-1)]
    drawn = searched(plan_of(RANGES, trials=40, sampler="random", seeds=1))
    assert found[0].values != drawn[-1].values

    def late(records: list[RunRecord]) -> float:
        return sum(abs(record.values["policy.tau"] - 0.1) for record in records[20:]) / 20

    assert late(found) < late(drawn)


def test_a_trial_that_the_configuration_refuses_counts_as_failed() -> None:
    pytest.importorskip("optuna")
    wrong = {"ranges": {"dynamics.members": {"choices": [2, 3]}, "dynamics.elites": {"choices": [2, 3]}}}
    told: list[str] = []
    plan = plan_of(SweepFile.model_validate(wrong | {"at_once": 1}), trials=12, sampler="random")
    found = search(plan, lambda runs: [record_of(run, 0.0) for run in runs], told.append)
    refused = [record for record in found if record.state == "failed"]
    assert len(found) == 24
    assert {(r.values["dynamics.members"], r.values["dynamics.elites"]) for r in refused} == {(2, 3)}
    assert len(told) == len(refused) / 2
    assert "3 elites of 2 members" in told[0]


def candidate(name: str, verdict: str, value: float, low: float | None) -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "gain": {"value": value, "low": low, "high": value + 1.0}}


def test_the_winner_is_the_setting_whose_worst_seed_is_best_then_the_highest_mean_low_end() -> None:
    plan = plan_of(parse_grid(["policy.tau=0.1,0.2,0.3,0.4"]))
    records = [record_of(run, 0.0) for run in plan.grid_runs()]
    records[7] = RunRecord("003-seed1", 3, records[7].values, 1, "lost", "its machine was lost", 3, 0.0, {})
    found = [
        candidate("000-seed0", "GO TO SHADOW", 9.0, 5.0),
        candidate("000-seed1", "NO VERDICT", 9.0, 8.0),
        candidate("001-seed0", "INCONCLUSIVE", 1.0, -0.5),
        candidate("001-seed1", "INCONCLUSIVE", 3.0, -0.1),
        candidate("002-seed0", "INCONCLUSIVE", 9.0, -0.3),
        candidate("002-seed1", "INCONCLUSIVE", 9.0, -0.4),
        candidate("003-seed0", "GO TO SHADOW", 9.0, 8.0),
    ]
    standings = rank(records, found)
    assert [standing.setting for standing in standings] == [1, 2, 0, 3]
    best = winner_of(standings)
    assert best is not None
    assert best.runs == ("001-seed1", "001-seed0")
    assert (best.gain, best.stderr, best.low) == (2.0, 1.0, pytest.approx(-0.3))
    assert standings[-1].missing == ("003-seed1",)
    assert winner_of(rank(records[6:], found[6:])) is None


def test_an_end_that_is_no_number_loses() -> None:
    records = [record_of(run, 0.0) for run in plan_of(parse_grid(["policy.tau=0.1,0.2"]), seeds=1).grid_runs()]
    found = [candidate("000-seed0", "NO VERDICT", 1.0, None), candidate("001-seed0", "NO VERDICT", -1.0, -9.0)]
    assert [standing.setting for standing in rank(records, found)] == [1, 0]


def test_the_table_says_how_far_it_is_and_how_long_it_takes() -> None:
    now = [0.0]
    plan = plan_of(parse_grid(["policy.tau=0.1,0.2"]))
    runs = plan.grid_runs()
    table = RunTable(plan.total, clock=lambda: now[0])
    table.add(runs)
    table.was_done(record_of(runs[0], 0.0))
    table.tell(Event(runs[1].name, "started", machine="left"))
    table.tell(Event(runs[2].name, "started", machine="right"))
    assert table.eta_s() is None
    now[0] = 10.0
    done = Outcome(runs[1].name, "done", seconds=10.0)
    line = table.tell(Event(runs[1].name, "done", outcome=done), record_of(runs[1], 0.25))
    assert "gain 1.25 (0.25 to 2.25)" in line
    assert line.endswith("2 of 4 runs, about 10 s left")  # one is due now, one takes 10 s more
    assert "died; begun" in table.tell(Event(runs[2].name, "retried", message="it died; begun again"))
    failed = Outcome(runs[2].name, "failed", message="no [/space] left")
    assert "failed, no [/space] left; 3 of 4 runs" in table.tell(Event(runs[2].name, "failed", outcome=failed))
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    shown = console.export_text()
    assert "3 of 4 runs" in shown
    assert "no [/space] left" in shown
    assert "waiting" in shown
