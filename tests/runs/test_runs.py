"""Run folders listed and compared: every state, damaged ones, hostile ones, and only what differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlkit.artifacts import SCHEMA, RunFolder
from controlkit.cli import main
from controlkit.files import read_json, sha256_of, write_json
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.runs import differences, find_runs, summarise
from controlkit.runs.summary import SCHEMA as RUN_SCHEMA
from controlkit.runs.summary import flat, method_of
from controlkit.runs.table import age_of
from tests import small_plant

RECORD = {"data_sha256": "d" * 64, "spec_sha256": "e" * 64, "sources": {}}
ESTIMATE = {"value": 0.25, "low": 0.125, "high": 0.5, "stderr": 0.1, "level": 0.9}
ESCAPES = "[red]\x1b[2J\x07[bold]"


def report_of(run: Path, **changes: Any) -> dict[str, Any]:
    """What is read of a report: two candidates, of which the second is the run."""
    candidate = {"gain": ESTIMATE, "model": ESTIMATE, "fqe": ESTIMATE, "doubly_robust": ESTIMATE}
    candidate |= {"support": {"share": 0.9}}
    other = candidate | {"name": "pid", "verdict": "GO TO SHADOW"}
    mine = candidate | {"name": "mine", "verdict": "NO-GO"}
    policies = [{"name": "pid", "sha256": "0" * 64}, {"name": "mine", "sha256": sha256_of(run / "policy/models.pt")}]
    content = {"schema": 1, "plant": {"reward_unit": "m"}, "candidates": [other, mine]}
    return content | {"provenance": {"policies": policies}} | changes


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run = RunFolder.create(folder, small_plant.config(), small_plant.dataset(), RECORD)
    train(run, small_plant.dataset(), Silent())
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A trained and evaluated run that a test may spoil."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    write_json(folder / "report.json", report_of(folder))
    return folder


def test_the_schema_is_the_one_of_run_folders() -> None:
    assert RUN_SCHEMA == SCHEMA


def test_a_finished_run_with_its_own_row_of_the_report(run: Path) -> None:
    found = summarise(run)
    assert (found.state, found.problem, found.name, found.plant) == ("finished", "", "run", "tank")
    assert (found.updates, found.of_updates, found.seed, found.method) == (80, 80, 0, "morec")
    assert found.verdict == "NO-GO"
    assert str(found.gain) == "+0.25 (+0.125 .. +0.5) m"
    assert found.data_sha256 == "d" * 64
    assert found.settings["policy.gamma"] == 0.9
    assert found.figures["support"] == 0.9
    assert {"seconds", "actor_loss", "fqe_high"} <= set(found.figures)


def test_an_interrupted_run_says_at_which_update(run: Path) -> None:
    write_json(run / "run.json", read_json(run / "run.json") | {"state": "training"})
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join(rows[:-2]) + "\n")
    found = summarise(run)
    assert (found.state, found.updates, found.of_updates, found.verdict) == ("unfinished", 40, 80, None)
    (run / "metrics.csv").unlink()
    assert (summarise(run).state, summarise(run).updates) == ("unfinished", 0)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "state cut off": (lambda run: (run / "run.json").write_text('{"schema"'), "run.json: is damaged"),
    "state no record": (lambda run: (run / "run.json").write_text("[]"), "holds no record"),
    "state nested": (lambda run: (run / "run.json").write_text("[" * 200_000), "is damaged"),
    "state too large": (lambda run: (run / "run.json").write_text(" " * (1 << 20) + "{}"), "larger than 1 MiB"),
    "other version": (lambda run: write_json(run / "run.json", {"schema": 99, "state": "trained"}), "schema 99"),
    "config": (lambda run: (run / "config.yaml").write_text("policy: {gama: 1}"), "unknown key"),
    "config missing": (lambda run: (run / "config.yaml").unlink(), "config.yaml: no such file"),
    "plant": (lambda run: (run / "spec.yaml").write_text("\0"), "spec.yaml"),
    "metrics cut off": (lambda run: (run / "metrics.csv").write_text("a,b\n1,2\n3"), "line 3: is cut off"),
    "metrics text": (lambda run: (run / "metrics.csv").write_text("a\nhigh\n"), "no table of numbers"),
    "metrics a folder": (lambda run: ((run / "metrics.csv").unlink(), (run / "metrics.csv").mkdir()), "no such file"),
    "weights missing": (lambda run: (run / "policy/models.pt").unlink(), "models.pt: no such file"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_damaged_run_is_a_row_that_says_why(run: Path, case: str) -> None:
    spoil, said = SPOILED[case]
    spoil(run)
    found = summarise(run)
    assert found.state == "damaged"
    assert said in found.problem
    assert "\n" not in found.problem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 99}, "schema: input should be less"),
        ({"candidates": [{"name": "mine", "verdict": "PERFECT"}]}, "candidates.0.verdict"),
        ({"provenance": {"policies": [{"name": "mine", "sha256": "f" * 64}]}}, "is not about these weights"),
    ],
)
def test_a_report_that_cannot_be_used_leaves_the_run_finished(run: Path, changes: dict[str, Any], said: str) -> None:
    write_json(run / "report.json", report_of(run, **changes))
    found = summarise(run)
    assert (found.state, found.verdict, found.gain) == ("finished", None, None)
    assert said in found.problem


def test_runs_are_found_below_folders_once_and_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    for name in ("a/deep/one", "b", ".hidden", "b/inside"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = find_runs([tmp_path, tmp_path / "b"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/deep/one", "b", "run"]


def test_the_method_is_told_by_its_settings() -> None:
    def named(**changes: Any) -> str:
        return method_of(flat(small_plant.config(**changes).to_dict()))

    assert named() == "morec"
    assert named(rollout={"penalty": "mobile"}) == "morec-mobile"
    assert named(policy={"algorithm": "bc", "real_ratio": 1.0}) == "bc"
    assert named(reward={"method": "irl", "form": "gail"}) == "irl-gail"


def test_only_what_differs_is_compared(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["policy"]["gamma"] = 0.5
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert differences([summarise(run), summarise(other)]) == {"policy.gamma": [0.9, 0.5]}
    (other / "run.json").unlink()
    found = differences([summarise(run), summarise(other)])
    assert found["state"] == ["finished", "damaged"]
    assert found["policy.gamma"] == [0.9, None]


def test_ages() -> None:
    from dataclasses import replace

    at = replace(summarise(Path("nowhere")), changed=1000.0)
    assert [age_of(at, 1000.0 + s) for s in (5, 600, 7200, 864_000)] == ["5 s", "10 min", "2 h", "10 d"]
    assert age_of(at, 0.0) == "0 s"
    assert age_of(replace(at, changed=0.0), 1000.0) == ""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["runs", *(str(argument) for argument in arguments)])
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


def test_the_table_shows_every_run_and_obeys_no_name(command: Any, run: Path, tmp_path: Path) -> None:
    hostile = tmp_path / ESCAPES
    hostile.mkdir()
    (hostile / "run.json").write_text('{"schema": "' + ESCAPES.replace("\x1b", "\\u001b").replace("\x07", "") + '"}')
    code, out, _ = command(tmp_path)
    assert code == 0
    assert "NO-GO" in out
    assert "+0.25 (+0.125 .. +0.5) m" in out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[red]" in out
    assert "damaged: " in out


def test_json_has_every_run_and_every_difference(command: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{}")
    code, out, _ = command("--json", tmp_path)
    rows = json.loads(out)
    assert code == 0
    assert [row["state"] for row in rows] == ["damaged", "finished"]
    assert rows[1]["gain"] == {"value": 0.25, "low": 0.125, "high": 0.5, "unit": "m"}
    code, out, _ = command("--json", "--compare", run, tmp_path / "other")
    assert json.loads(out)["differences"]["verdict"] == [None, "NO-GO"]


def test_nothing_found_and_wrong_calls(command: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert command(tmp_path / "empty")[:2] == (0, f"no run folder below {tmp_path / 'empty'}\n")
    code, _, err = command(tmp_path / "nowhere")
    assert (code, "no such folder" in err) == (1, True)
    code, _, err = command("--compare", run)
    assert (code, "takes two to compare" in err) == (1, True)
