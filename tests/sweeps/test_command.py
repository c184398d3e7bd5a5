"""The command, from run file to winner, with everything real but Ray, which another file tries."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlkit.artifacts import RunFolder
from controlkit.cli import main
from controlkit.cluster import Event, Item, Outcome
from controlkit.cluster.running import _task
from controlkit.evaluation.assessment import Effort
from controlkit.files import read_json
from controlkit.morec import train as training
from tests import small_plant
from tests.sweeps.short import SHORT

TINY = Effort(folds=2, model_updates=20, clone_updates=20, fqe_updates=10, fqe_members=2, starts=16)
Command = Callable[..., tuple[int, str, str]]


class OneAfterAnother:
    """A cluster of this process alone."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(
        self, items: Sequence[Item], work: Callable[..., Any], *, retries: int, on_event: Callable[[Event], None]
    ) -> list[Outcome]:
        del retries
        found = []
        for item in items:
            self.ran.append(item.name)
            _, (kind, content, seconds) = _task(work, dict(item.payload))
            on_event(Event(item.name, "started"))
            if kind == "done":
                found.append(Outcome(item.name, "done", content, seconds=seconds))
            else:
                found.append(Outcome(item.name, "failed", message=content, seconds=seconds))
            on_event(Event(item.name, found[-1].state, outcome=found[-1]))
        return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> OneAfterAnother:
    only = OneAfterAnother()

    @contextmanager
    def connect(address: str | None = None, *, cores: int | None = None) -> Iterator[OneAfterAnother]:
        yield only

    monkeypatch.setattr("controlkit.cluster.connect", connect)
    monkeypatch.setattr("controlkit.evaluation.assessment.QUICK", TINY)
    # Plots cost more than all else here, and have tests of their own.
    monkeypatch.setattr("controlkit.evaluation.pictures.picture", lambda figure: b"")
    monkeypatch.setattr("controlkit.morec.learn_world.plot_health", lambda *arguments: None)
    return only


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls the sweep in a folder with a run file and a data set: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    small_plant.dataset(steps=60).save(tmp_path / "data")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(small_plant.config(**SHORT).to_dict()))

    def call(*more: str, data: str = "data") -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["sweep", "run.yaml", "--data", data, "--out", "sweep", "--quick", *more])
        output = capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else int(code is not None)), output.out, output.err

    return call


def test_a_sweep_from_run_file_to_winner(
    command: Command, cluster: OneAfterAnother, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a disk that is full for one run, mended; then once more, with nothing left to do."""
    options = ("--grid", "policy.behaviour_anchor=0,0.5", "--seeds", "1")
    train = training.train

    def full(folder: RunFolder, *rest: Any) -> Any:
        if folder.path.name == "001-seed0":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.path / "checkpoint.pt"))
        return train(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", full)
        code, out, err = command(*options)
    assert code == 1
    assert "1 of 2 runs did not finish; the first, 001-seed0: " in err
    assert "checkpoint.pt: No space left on device" in err
    assert "001-seed0: failed" in out
    summary = read_json(tmp_path / "sweep" / "sweep.json")
    assert summary["candidates"] == 1
    assert summary["winner"] == {"run": "runs/000-seed0", "verdict": summary["settings"][0]["verdict"]}
    first = (tmp_path / "sweep" / "records" / "000-seed0.json").read_bytes()

    cluster.ran.clear()
    code, out, err = command(*options)
    assert code == 0, err
    assert cluster.ran == ["001-seed0"]
    assert (tmp_path / "sweep" / "records" / "000-seed0.json").read_bytes() == first
    summary, report = (read_json(tmp_path / "sweep" / name) for name in ("sweep.json", "report.json"))
    assert summary["candidates"] == len(report["candidates"]) == 2
    # Allowed for: each interval is that of the best of two.
    assert [found["gain"]["level"] for found in report["candidates"]] == [pytest.approx(0.975)] * 2
    assert {record["state"] for record in summary["runs"]} == {"done"}
    winner = tmp_path / "sweep" / summary["winner"]["run"]
    mine = read_json(winner / "report.json")
    assert mine == report
    assert mine["best"] == winner.name
    assert mine["verdict"] == summary["winner"]["verdict"]
    table = (tmp_path / "sweep" / "sweep.md").read_text()
    assert "policy.behaviour_anchor=0.5" in table
    assert "level 97.50%" in table
    assert summary["rule"] in table
    assert table in out

    monkeypatch.setattr("controlkit.sweeps.summary.evaluate", None)  # the same policies are not judged again
    cluster.ran.clear()
    assert command(*options)[0] == 0
    assert cluster.ran == []
    assert (tmp_path / "sweep" / "sweep.md").read_text() == table

    code, _, err = command("--grid", "policy.behaviour_anchor=0", "--seeds", "1")
    assert code == 1
    assert "was begun with varied.grid.policy.behaviour_anchor=[0, 0.5], not [0]" in err
    small_plant.dataset(steps=60, seed=1).save(tmp_path / "other")
    code, _, err = command(*options, data="other")
    assert code == 1
    assert "was begun with data.data_sha256=" in err


def test_mistakes_are_one_line_and_leave_no_folder(command: Command, cluster: OneAfterAnother, tmp_path: Path) -> None:
    mistakes = {
        ("--grid", "policy.gama=1"): "policy.gama: unknown key. Did you mean 'gamma'?",
        ("--grid", "policy.gamma=2"): "policy.gamma: ",
        ("--grid", "policy.tau=0.1", "--sweep", "sweep.yaml"): "give either --grid or --sweep",
        ("--trials", "3"): "there are none",
        ("--sweep", "sweep.yaml"): "no such file",
        ("--workers", "2", "--address", "auto"): "--workers says how much of this machine is used",
        ("--set", "policy.gama=1"): "policy.gama: unknown key",
    }
    for words, message in mistakes.items():
        code, _, err = command(*words)
        assert code == 1
        assert message in err
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert not (tmp_path / "sweep").exists()
    assert not cluster.ran
