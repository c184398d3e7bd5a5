"""One plant of a fleet: every stage once, nothing repeated that is still right, every failure a record."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlkit.artifacts import RunFolder
from controlkit.files import read_json, write_json
from controlkit.fleet.stages import Stages
from controlkit.fleet.work import run_plant
from controlkit.progress import Silent
from deploy.bundle.signing import new_key
from tests import small_plant
from tests.fleet.conftest import order, write_log

Says = Callable[[str], None]
STAGES = ("ingest", "train", "evaluate")


def test_a_plant_goes_through_every_stage(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, record = finished
    plant = folder / "out" / "plants" / "tank"
    assert record["state"] == "done"
    assert record["done"] == STAGES
    assert record["plant"] == "tank"
    assert record["verdict"] != "GO TO SHADOW"  # or the next line tests nothing
    assert record["message"] == f"not exported: {record['verdict']}"
    assert record["gain"].unit == "m"
    assert record["data_sha256"] == read_json(plant / "data" / "dataset.json")["data_sha256"]
    assert (plant / "run" / "report.html").is_file()
    assert (plant / "data" / "quality.html").is_file()
    assert not (plant / "bundle").exists()
    assert Stages(plant).now is None


@pytest.fixture
def verdicts(finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Says:
    """An evaluation that costs nothing: the report that there is, about the run at hand, with a verdict to be said."""
    import controlkit.evaluation

    content = read_json(finished[0] / "out/plants/tank/run/report.json")

    def evaluate(candidates: Any, *_: object, **__: object) -> dict[str, Any]:
        content["provenance"]["policies"][0]["sha256"] = candidates[0].sha256
        return content

    def write(made: dict[str, Any], folder: Path) -> None:
        write_json(folder / "report.json", made)
        (folder / "report.html").write_text("<p>report</p>")

    def says(verdict: str) -> None:
        content["verdict"] = content["candidates"][0]["verdict"] = verdict

    monkeypatch.setattr(controlkit.evaluation, "evaluate", evaluate)
    monkeypatch.setattr(controlkit.evaluation, "write_report", write)
    return says


def test_nothing_is_repeated_but_what_changed(place: Path, verdicts: Says) -> None:
    for changes, done in ((), ("ingest",)), ((), ()), ((("seed", 1),), ("evaluate",)):
        # The first time the log lies at another path than the record says, but the data are the same.
        record = run_plant(order(place, **dict(changes)))
        assert (record["state"], record["done"]) == ("done", done)
    write_log(place / "log.csv", seed=1)
    assert run_plant(order(place, seed=1))["done"] == STAGES


def test_a_file_that_was_changed_is_made_again(place: Path, verdicts: Says) -> None:
    run_plant(order(place))
    report = place / "out/plants/tank/run/report.json"
    write_json(report, read_json(report) | {"verdict": "GO TO SHADOW"})
    assert run_plant(order(place))["done"] == ("evaluate",)
    (place / "out/plants/tank/stages.json").write_text("{")
    assert Stages(place / "out/plants/tank").is_done("evaluate", {}) is False


@pytest.mark.parametrize(
    ("spoil", "stage", "said"),
    [
        (lambda p: (p / "plant.yaml").write_text("name: tank"), "check", "plant.yaml"),
        (lambda p: (p / "plant.yaml").unlink(), "check", "no such file"),
        (lambda p: (p / "run.yaml").write_text("policy: {gama: 0.9}"), "check", "Did you mean 'gamma'?"),
        (lambda p: (p / "log.csv").unlink(), "ingest", "log.csv: no such file"),
        (lambda p: (p / "log.csv").write_text("timestamp,tag,value,quality\n"), "ingest", "log.csv"),
    ],
)
def test_a_failure_is_a_record_with_its_stage(place: Path, spoil: Any, stage: str, said: str) -> None:
    spoil(place)
    record = run_plant(order(place))
    assert (record["state"], record["stage"]) == ("failed", stage)
    assert said in record["message"]
    assert "\n" not in record["message"]


def test_a_full_disk_is_a_record_and_what_was_done_stays_done(
    place: Path, verdicts: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")

    shutil.rmtree(place / "out/plants/tank/run")
    with monkeypatch.context() as patched:
        patched.setattr("controlkit.morec.train.train", full)
        record = run_plant(order(place))
    assert (record["state"], record["stage"], record["done"]) == ("failed", "train", ("ingest",))
    assert record["message"] == "metrics.csv: No space left on device"
    assert run_plant(order(place))["done"] == ("train", "evaluate")


def test_an_interrupted_training_is_gone_on_with(place: Path, verdicts: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    run_plant(order(place))
    run = place / "out/plants/tank/run"
    write_json(run / "run.json", read_json(run / "run.json") | {"state": "training"})

    def anew(*_: object, **__: object) -> None:
        raise AssertionError("begun anew")

    monkeypatch.setattr(RunFolder, "create", anew)
    record = run_plant(order(place))
    assert record["state"] == "done"
    assert record["done"][0] == "train"
    assert RunFolder.open(run).trained


def test_only_a_go_is_exported_and_a_bundle_does_not_outlive_it(
    place: Path, verdicts: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.export import exporter

    asked = []

    def export(run: RunFolder, out: Path, *, key: Path, progress: Silent) -> None:
        # The gates do not let so short a training pass; what they let pass is tested with them.
        asked.append((run.path, key))
        out.mkdir()
        for name in ("controller.onnx", "manifest.json", "manifest.sig"):
            (out / name).write_text(name)

    monkeypatch.setattr(exporter, "export_bundle", export)
    public = new_key(place / "plant.pem")
    verdicts("GO TO SHADOW")
    signed = {"key": str(place / "plant.pem")}
    record = run_plant(order(place, seed=7, **signed))
    assert (record["state"], record["bundle"], record["done"][-1]) == ("done", True, "export")
    bundle = place / "out/plants/tank/bundle"
    assert bundle.is_dir()
    assert asked == [(place / "out/plants/tank/run", place / "plant.pem")]
    assert run_plant(order(place, seed=7, **signed))["done"] == ()
    record = run_plant(order(place, seed=7, key=str(public)))
    assert (record["state"], record["stage"]) == ("failed", "export")
    assert "no Ed25519 private key" in record["message"]
    verdicts("NO-GO")
    record = run_plant(order(place, seed=8, **signed))
    assert (record["message"], "bundle" in record, bundle.exists()) == ("not exported: NO-GO", False, False)


def test_settings_of_the_fleet_file_reach_the_run(place: Path, verdicts: Says) -> None:
    record = run_plant(order(place, overrides=("policy.gamma=0.8", "policy.updates=-1")))
    assert (record["stage"], "policy.updates" in record["message"]) == ("check", True)
    (place / "run.yaml").write_text(yaml.safe_dump(small_plant.config(policy={"gamma": 0.5}).to_dict()))
    run_plant(order(place, overrides=("policy.updates=20", "policy.gamma=0.8")))
    assert RunFolder.open(place / "out/plants/tank/run").config.policy.gamma == 0.8
