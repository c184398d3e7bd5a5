"""`controlkit ingest --check` without a plant file: a log becomes a plant file, and a data set with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlkit.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "collect", "refrigerator", "--out", "log.csv", "--episodes", "2")[0] == 0
    return tmp_path / "log.csv"


def test_from_an_unknown_log_to_a_data_set_in_two_commands(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ingest", "--check", "log.csv", "--out", "plant.yaml")
    assert code == 0
    assert "controlkit ingest plant.yaml log.csv --out data" in out
    code, out, _ = run(capsys, "ingest", "plant.yaml", "log.csv", "--out", "data")
    assert code == 0
    assert "usable steps" in out
    assert Path("data/quality.html").is_file()


def test_a_proposal_without_a_file_is_shown(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ingest", "--check", "log.csv")
    assert code == 0
    assert "\nobjective:" in out
    assert sorted(path.name for path in log.parent.iterdir()) == ["log.csv"]


def test_an_edited_plant_file_is_never_overwritten(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plant.yaml").write_text("name: years of work\n")
    code, _, err = run(capsys, "ingest", "--check", "log.csv", "--out", "plant.yaml")
    assert code == 1
    assert "is there already" in err
    assert Path("plant.yaml").read_text() == "name: years of work\n"


def test_a_folder_for_the_proposal_is_refused(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ingest", "--check", "log.csv", "--out", "data")
    assert code == 1
    assert "End its name in .yaml" in err
