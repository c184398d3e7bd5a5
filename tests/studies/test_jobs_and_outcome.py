"""What all studies share: runs that are kept, means over logs, files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from controlkit.errors import ControlkitError
from controlkit.progress import Silent
from controlkit.studies import STUDIES, get_study, run_study
from controlkit.studies.jobs import Figure, Found, Job, run_jobs
from controlkit.studies.outcome import Column, Outcome, dots, lines, method_table, new_plot, task_table


def counted(job: Job) -> Found:
    """Leaves a mark of each call, and one figure that is none."""
    calls = Path(job.settings["calls"])
    calls.write_text(calls.read_text() + job.name)
    return [("t", "m", "x", 10.0 * job.log + job.seed), ("t", "m", "none", float("nan")), ("t", "m", "inf", -np.inf)]


def squared(job: Job) -> Found:
    """For other processes."""
    return [("t", "m", "square", float(job.log**2))]


def fails(job: Job) -> Found:
    """A job that a user can mend."""
    raise ControlkitError(f"job {job.name} cannot be done", cure="Mend it.")


def test_runs_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.write_text("")
    jobs = [Job(name, log, 1, {"calls": str(calls)}) for log, name in enumerate("ab")]
    found = run_jobs(counted, jobs, tmp_path, Silent(), workers=1)
    assert found == [Figure("t", "m", "x", 0, 1, 1.0), Figure("t", "m", "x", 1, 1, 11.0)]
    (tmp_path / "parts" / "a.json").unlink()
    assert run_jobs(counted, jobs, tmp_path, Silent(), workers=1) == found
    assert calls.read_text() == "aba"
    other = [Job("b", 1, 2, jobs[1].settings)]
    assert run_jobs(counted, other, tmp_path, Silent(), workers=1) == [Figure("t", "m", "x", 1, 2, 12.0)]
    assert calls.read_text() == "abab"


def test_processes_give_the_same_in_the_jobs_order(tmp_path: Path) -> None:
    jobs = [Job(str(i), i, 0) for i in range(3)]
    found = run_jobs(squared, jobs, tmp_path, Silent(), workers=2)
    assert [figure.value for figure in found] == [0.0, 1.0, 4.0]


def test_a_failure_reaches_the_user_and_keeps_what_was_done(tmp_path: Path) -> None:
    run_jobs(squared, [Job("0", 3, 0)], tmp_path, Silent(), workers=1)
    with pytest.raises(ControlkitError, match="job 1 cannot be done"):
        run_jobs(fails, [Job("1", 1, 0), Job("2", 2, 0)], tmp_path, Silent(), workers=1)
    assert [part.name for part in (tmp_path / "parts").iterdir()] == ["0.json"]


@pytest.fixture
def outcome() -> Outcome:
    """Three logs with two seeds each; another method with one log."""
    values = [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 4.0), (1, 1, 6.0), (2, 0, 8.0), (2, 1, 8.0)]
    figures = [Figure("t", "a", "x", log, seed, value) for log, seed, value in values]
    return Outcome("test", [*figures, Figure("t", "b", "x", 0, 0, 2.5), Figure("t", "a", "seconds", 0, 0, 9.0)], "c0")


def test_means_are_over_logs(outcome: Outcome) -> None:
    mean = outcome.mean("t", "a", "x")
    assert mean is not None
    by_log = [2.0, 5.0, 8.0]
    assert (mean.value, mean.logs, mean.seeds, mean.worst) == (5.0, 3, 2, 8.0)
    assert mean.stderr == pytest.approx(np.std(by_log, ddof=1) / np.sqrt(3))
    single = outcome.mean("t", "b", "x")
    assert single is not None
    assert (single.value, single.stderr) == (2.5, 0.0)
    assert outcome.mean("t", "b", "y") is None


def test_tables_and_files(outcome: Outcome, tmp_path: Path) -> None:
    column = Column("x", "X", 1, worst=True)
    assert method_table(outcome, "t", ["a", "b"], [column]).splitlines()[2:] == [
        "| a | 5.0 ± 1.7, worst 8.0 |",
        "| b | 2.5 |",
    ]
    assert task_table(outcome, {"t": "T"}, ["a", "c"], Column("x", ""), "where").splitlines() == [
        "| where | a | c |",
        "|---|---:|---:|",
        "| T | 5.00 ± 1.73 |  |",
    ]
    plot, axes = new_plot(2)
    dots(axes[0], outcome, "t", ["a", "b", "c"], "x", "title", reference=1.0, log=True)
    lines(axes[1], outcome, ["t"], ["T"], ["a", "b", "c"], "x")
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert len(axes[1].containers) == 2
    text = outcome.write(tmp_path, "the table", {"plot": plot})
    assert text.startswith("the table\n")
    assert (tmp_path / "table.md").read_text() == text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "results.csv").open() as stream:
        assert [row["value"] for row in csv.DictReader(stream)] == [str(f.value) for f in outcome.figures]
    records = json.loads((tmp_path / "results.json").read_text())
    assert [(r["method"], r["metric"], r["value"], r["seeds"]) for r in records] == [
        ("a", "x", 5.0, 3),
        ("b", "x", 2.5, 1),
        ("a", "seconds", 9.0, 1),
    ]
    assert (records[0]["suite"], records[0]["seconds"], records[0]["commit"]) == ("test", 9.0, "c0")


def test_every_study_is_there_and_others_are_one_line() -> None:
    for name in ("ablation", "ood", "sensitivity"):
        assert callable(get_study(name))
    assert set(STUDIES) >= {"ablation", "ood", "sensitivity"}
    with pytest.raises(ControlkitError, match=r"study: unknown study 'odd'. did you mean 'ood'\?"):
        run_study("odd", Path("nowhere"), 1, Silent())
