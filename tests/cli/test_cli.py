"""The command line as a user meets it: help, one clear line for every mistake, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from controlkit.artifacts import RunFolder
from controlkit.cli import main
from tests import small_plant

Run = Callable[..., tuple[int, str, str]]

VERBS = (
    "collect",
    "ingest",
    "train",
    "evaluate",
    "export",
    "verify",
    "run",
    "serve-sim",
    "operate",
    "audit",
    "shadow",
    "sweep",
    "runs",
    "fleet",
    "benchmark",
    "study",
    "export-minari",
    "doctor",
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command line inside this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else int(code is not None)), output.out, output.err

    return call


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A plant file, a log, a run file, and the data set made of them."""
    (tmp_path / "plant.yaml").write_text(yaml.safe_dump(small_plant.spec().to_dict()))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(small_plant.config().to_dict()))
    data = small_plant.dataset(steps=60)
    rows = ["timestamp,tag,value,quality"]
    for i in range(len(data)):
        cells = zip(("level", "load", "valve"), (*data.frames[i], *data.actions[i]), strict=True)
        rows += [f"{data.time_ns[i] // 10**9},{tag},{value},good" for tag, value in cells if value == value]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    data.save(tmp_path / "data")
    return tmp_path


def one_line(error: str) -> str:
    """The error line, without the progress that comes before it."""
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    return lines[0]


def test_help_names_every_verb_and_every_verb_shows_an_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for verb in VERBS:
        assert f"  {verb} " in out
        code, text, _ = run(verb, "--help")
        assert code == 0
        assert f"Example: controlkit {verb}" in text


def test_no_verb_is_empty_and_no_other_verb_exists(run: Run) -> None:
    _, out, _ = run("--help")
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert [word for word in listed if word in VERBS] == list(VERBS)
    code, _, err = run("flotilla")
    assert code == 2
    assert "No such command" in err


def test_version(run: Run) -> None:
    import controlkit

    assert run("--version")[:2] == (0, f"{controlkit.__version__}\n")


def test_ingest_writes_a_data_set_and_check_writes_nothing(run: Run, plant: Path) -> None:
    code, out, _ = run("ingest", "plant.yaml", "log.csv", "--check")
    assert code == 0
    assert "level" in out
    assert not (plant / "out").exists()
    code, out, _ = run("ingest", "plant.yaml", "log.csv", "--out", "out")
    assert code == 0
    assert {"data.parquet", "quality.html", "quality.json"} <= {path.name for path in (plant / "out").iterdir()}
    assert "usable steps" in out


BAD_LOGS = {
    "empty": (lambda lines: [], "log.csv"),
    "header only": (lambda lines: lines[:1], "log.csv"),
    "text": (lambda lines: _with_value(lines, "level", "high"), "line "),
    "infinite": (lambda lines: _with_value(lines, "level", "inf"), "line "),
    "unknown tag": (lambda lines: [line.replace("load", "laod") for line in lines], "laod"),
    "out of order": (lambda lines: [lines[0], *lines[100:200], *lines[1:100], *lines[200:]], "line 102"),
    "too short": (lambda lines: lines[:7], "log.csv"),
    "outside limits": (lambda lines: _with_value(lines, "valve", "9.5"), "line "),
    "constant": (lambda lines: [_constant(line) for line in lines], "level"),
}


def _with_value(lines: list[str], tag: str, value: str) -> list[str]:
    """Every tenth row of a tag has this value: more than one row in a hundred."""
    mine = [i for i, line in enumerate(lines) if line.split(",")[1] == tag][::10]
    stamped = {i: lines[i].split(",") for i in mine}
    return [",".join((*stamped[i][:2], value, stamped[i][3])) if i in stamped else line for i, line in enumerate(lines)]


def _constant(line: str) -> str:
    stamp, tag, value, quality = line.split(",")
    return ",".join((stamp, tag, "1.0" if tag == "level" else value, quality))


@pytest.mark.parametrize("case", BAD_LOGS)
def test_a_bad_log_gets_one_line_and_leaves_earlier_data_alone(run: Run, plant: Path, case: str) -> None:
    spoil, place = BAD_LOGS[case]
    before = (plant / "data" / "dataset.json").read_bytes()
    lines = (plant / "log.csv").read_text().splitlines()
    spoiled = spoil(lines)
    assert spoiled != lines
    (plant / "log.csv").write_text("\n".join(spoiled) + ("\n" if spoiled else ""))
    code, _, err = run("ingest", "plant.yaml", "log.csv", "--out", "data")
    line = one_line(err)
    assert code == 1
    assert place in line
    assert line.count(". ") >= 1, "what to do is missing"
    assert (plant / "data" / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("unit: m", "unit: metre", "'metre' is not a known unit"),
        ("role: state", "role: stat", "Did you mean 'state'?"),
        ("period_s", "periods", "unknown key"),
        ("tag: level", "tag: levle", "did you mean 'level'?"),
    ],
)
def test_a_mistake_in_the_plant_file_is_named_with_its_line(
    run: Run, plant: Path, old: str, new: str, said: str
) -> None:
    text = (plant / "plant.yaml").read_text()
    assert old in text
    (plant / "plant.yaml").write_text(text.replace(old, new, 1))
    code, _, err = run("ingest", "plant.yaml", "log.csv", "--check")
    assert code == 1
    assert said in one_line(err)
    assert "plant.yaml, line " in err or "plant.yaml: " in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ingest", "plant.yaml", "nowhere.csv", "--check"], "nowhere.csv"),
        (["ingest", "nowhere.yaml", "log.csv", "--check"], "nowhere.yaml"),
        (["ingest", "plant.yaml", "log.csv"], "--out FOLDER or --check"),
        (["train", "run.yaml", "--data", "nowhere", "--out", "x"], "nowhere: is no data set"),
        (["train", "nowhere.yaml", "--data", "data", "--out", "x"], "nowhere.yaml"),
        (["train", "run.yaml", "--data", "data", "--out", "data"], "is no run folder"),
        (["train", "run.yaml", "--data", "data", "--out", "x", "--resume"], "x: is no run folder"),
        (["train", "run.yaml", "--data", "data", "--out", "x", "--set", "policy.gama=1"], "Did you mean 'gamma'?"),
        (["train", "run.yaml", "--data", "data", "--out", "x", "--method", "mobo"], "Did you mean 'mopo'?"),
        (["evaluate", "nowhere", "--data", "data"], "nowhere: is no run folder"),
        (["export", "nowhere", "--out", "bundle"], "nowhere: is no run folder"),
        (["run", "nowhere", "--plant", "sim:refrigerator"], "nowhere"),
        (["run", "nowhere", "--plant", "sim:fridge"], "did you mean 'refrigerator'?"),
        (["run", "nowhere", "--plant", "opc.tcp://plant:4840"], "nowhere: is no bundle"),
        (["run", "nowhere", "--plant", "opc.tcp://anna:secret@plant:4840"], "holds a user or a password"),
        (["run", "nowhere", "--plant", "opc.tcp:plant"], "names no server"),
        (["run", "nowhere", "--plant", "modbus://plant"], "is no plant"),
        (["serve-sim", "fridge", "--insecure"], "did you mean 'refrigerator'?"),
        (["serve-sim", "refrigerator"], "either --folder (secure) or --insecure"),
        (["operate", "state"], "give one of --mode"),
        (["operate", "state", "--mode", "shadow"], "no runtime answers"),
        (["operate", "state", "--mode", "armed", "--token-file", "nowhere"], "nowhere: cannot be read"),
        (["audit", "nowhere"], "nowhere"),
        (["shadow", "nowhere", "--bundle", "bundle", "--out", "x"], "bundle: is no bundle"),
        (["collect", "fridge", "--out", "x.csv"], "did you mean 'refrigerator'?"),
        (["collect", "refrigerator", "--out", "x.xlsx"], ".xlsx"),
        (
            ["collect", "neorl/halfcheetah-medium", "--download", "--out", "x.npz", "--episodes", "10"],
            "--episodes does not go with --download",
        ),
        (
            ["collect", "neorl/halfcheetah-medium", "--download", "--out", "x.npz", "--seed", "0"],
            "such as neorl/halfcheetah-medium-100",
        ),
        (["benchmark", "fridge", "--out", "x"], "unknown suite 'fridge'"),
        (["study", "oot", "--out", "x"], "unknown study 'oot'. did you mean 'ood'?"),
    ],
)
def test_a_wrong_call_gets_one_line(run: Run, plant: Path, arguments: list[str], said: str) -> None:
    code, _, err = run(*arguments)
    assert code != 0
    assert said in one_line(err)


def test_debug_shows_the_traceback(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from controlkit.errors import ConfigError

    monkeypatch.chdir(plant)
    with pytest.raises(ConfigError):
        main(["ingest", "nowhere.yaml", "log.csv", "--check", "--debug"])


def test_a_problem_of_ours_is_one_line_too(run: Run, plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import controlkit.ingest

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(controlkit.ingest, "ingest", broken)
    code, _, err = run("ingest", "plant.yaml", "log.csv", "--check")
    assert code == 1
    assert "ZeroDivisionError: division by zero" in one_line(err)


def test_a_run_is_trained_once_and_belongs_to_its_data(run: Run, plant: Path) -> None:
    assert run("train", "run.yaml", "--data", "data", "--out", "x")[0] == 0
    code, _, err = run("train", "run.yaml", "--data", "data", "--out", "x")
    assert (code, "holds a run already" in one_line(err)) == (1, True)
    code, _, err = run("train", "run.yaml", "--data", "data", "--out", "x", "--resume")
    assert (code, "trained to its end" in one_line(err)) == (1, True)
    small_plant.dataset(seed=5).save(plant / "other")
    code, _, err = run("evaluate", "x", "--data", "other")
    assert (code, "is not the data set" in one_line(err)) == (1, True)
    code, _, err = run("export", "x", "--out", "bundle")
    assert (code, "evaluate" in one_line(err)) == (1, True)
    assert not (plant / "bundle").exists()


def test_a_killed_training_goes_on_where_it_was(run: Run, plant: Path) -> None:
    arguments = ["train", "run.yaml", "--data", "data", "--set", "checkpoint_every=1", "--set", "policy.updates=1500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "controlkit.cli", *arguments, "--out", "killed"],
        cwd=plant,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    # Killed once the policy stage has left a checkpoint with some updates behind it.
    deadline = time.monotonic() + 120
    while not _updates(plant / "killed") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    done = _updates(plant / "killed")
    assert 0 < done < 1500
    assert not RunFolder.open(plant / "killed").trained
    # That a resumed run ends with the same numbers is tested in tests/morec.
    assert run(*arguments, "--out", "killed", "--resume")[0] == 0
    rows = (plant / "killed" / "metrics.csv").read_text().splitlines()
    assert rows[-1].split(",")[rows[0].split(",").index("updates")] == "1500.0"


def _updates(folder: Path) -> int:
    if not (folder / "checkpoint.pt").is_file():
        return 0
    checkpoint = RunFolder.open(folder).load_checkpoint() or {}
    return int(checkpoint.get("learner", {}).get("updates", 0))
