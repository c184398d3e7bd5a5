"""A fleet on a Ray of this machine: one bad plant stops nobody, and the exit code says that there was one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from controlkit.cli import main
from controlkit.cluster import Outcome
from controlkit.fleet.record import FILE, PlantRecord, Record, write_record
from controlkit.fleet.running import record_of
from controlkit.fleet.stages import Stages

FLEET = {
    "defaults": {"run": "run.yaml", "evaluate": {"quick": True, "gamma": 0.5}},
    "plants": [
        {"name": "bad", "plant": "nowhere.yaml", "sources": ["log.csv"]},
        {"name": "tank", "plant": "plant.yaml", "sources": ["log.csv"]},
    ],
}


def test_one_bad_plant_stops_nobody(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(place)
    (place / "fleet.yaml").write_text(yaml.safe_dump(FLEET))
    # The tank was trained and evaluated before; its log is at another place, so that it is read again.
    write_record(Record("fleet.yaml", (PlantRecord("tank"),)), place / "out")
    with pytest.raises(SystemExit) as end:
        main(["fleet", "fleet.yaml", "--out", "out", "--workers", "1"])
    assert end.value.code == 1
    output = capsys.readouterr()
    assert "failed: bad: " in output.err
    assert "nowhere.yaml: no such file" in output.err
    assert "1 failed" in output.out
    bad, tank = json.loads((place / "out" / FILE).read_text())["plants"]
    assert (bad["state"], bad["stage"], bad["report"]) == ("failed", "check", None)
    assert (tank["state"], tank["done"], tank["report"]) == ("done", ["ingest"], "plants/tank/run/report.html")
    page = (place / "out" / "index.html").read_text()
    assert 'href="plants/tank/data/quality.html"' in page


def test_a_lost_plant_says_in_which_stage(tmp_path: Path) -> None:
    folder = tmp_path / "plants" / "kiln"
    folder.mkdir(parents=True)
    Stages(folder).begin("train")
    record = record_of(Outcome("kiln", "lost", message="its machine was lost, at each of 3 tries", tries=3), tmp_path)
    assert (record.state, record.stage, record.message) == ("lost", "train", "its machine was lost, at each of 3 tries")
    assert record.bundle is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml", "--out", "new"], "nowhere.yaml: no such file"),
        (["fleet.yaml", "--out", "."], "exists and holds no fleet"),
        (["fleet.yaml", "--out", "fleet.yaml"], "is no folder"),
        (["fleet.yaml", "--out", "new", "--key", "log.csv"], "no Ed25519 private key"),
        (["fleet.yaml", "--out", "new", "--key", "a.pem", "--new-key", "b.pem"], "either --key or --new-key"),
        (["fleet.yaml", "--out", "new", "--address", "nowhere"], "no address of a Ray head"),
        (["fleet.yaml", "--out", "new", "--address", "auto", "--workers", "2"], "--address names another"),
        (["fleet.yaml", "--out", "new", "--track", "nowhere"], "no address of a store"),
    ],
)
def test_a_wrong_call_gets_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(place)
    (place / "fleet.yaml").write_text(yaml.safe_dump(FLEET))
    with pytest.raises(SystemExit) as end:
        main(["fleet", *arguments])
    assert end.value.code == 1
    assert said in capsys.readouterr().err
