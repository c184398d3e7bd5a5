"""Runs in an MLflow store of SQLite: one for each folder, nothing twice, and no store ever costs a training."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlkit.artifacts import RunFolder
from controlkit.cli import main
from controlkit.errors import ControlkitError
from controlkit.files import read_json, sha256_of, write_json
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.tracking import VARIABLE, Tracker, open_tracker, record_runs, tracked
from controlkit.tracking.store import without_secrets
from deploy.bundle import load_bundle
from tests import small_plant

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("alembic")

BUNDLE = Path(__file__).parents[1] / "deploy" / "schema1" / "bundle"
ESTIMATE = {"value": 0.25, "low": 0.125, "high": 0.5}


def report_of(run: Path) -> dict[str, Any]:
    candidate: dict[str, Any] = dict.fromkeys(("gain", "model", "fqe", "doubly_robust"), ESTIMATE)
    candidate |= {"name": "run", "verdict": "GO TO SHADOW", "support": {"share": 0.9}}
    policies = [{"name": "run", "sha256": sha256_of(run / "policy/models.pt")}]
    content = {"schema": 1, "verdict": "GO TO SHADOW", "plant": {"reward_unit": "m"}, "candidates": [candidate]}
    return content | {"provenance": {"policies": policies}}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store, whose tables take seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    open_tracker("local", folder / "run")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a run of it, with a report that says GO TO SHADOW."""
    folder = tmp_path_factory.mktemp("tracked")
    data = small_plant.dataset()
    data.save(folder / "data")
    run = RunFolder.create(folder / "run", small_plant.config(), data, read_json(folder / "data" / "dataset.json"))
    train(run, data, Silent())
    write_json(folder / "run" / "report.json", report_of(folder / "run"))
    (folder / "run" / "report.html").write_text("<p>report</p>")
    return folder


@pytest.fixture
def place(store: Path, trained: Path, tmp_path: Path) -> Path:
    """A copy of both in one folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    shutil.copy(store / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def tracker(place: Path) -> Tracker:
    return open_tracker("local", place / "run", clock=lambda: 1_700_000_000.0)


def client(place: Path) -> Any:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")


def test_a_folder_becomes_one_run_with_all_that_it_holds(tracker: Tracker, place: Path) -> None:
    run_id = tracker.record(place / "run")
    found = client(place).get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["policy.gamma"] == "0.9"
    assert found.data.tags["controlkit.verdict"] == "GO TO SHADOW"
    assert found.data.tags["controlkit.data_sha256"] == read_json(place / "data" / "dataset.json")["data_sha256"]
    assert found.data.metrics["evaluation.gain_low"] == 0.125
    assert "seconds" in found.data.metrics
    losses = client(place).get_metric_history(run_id, "actor_loss")
    assert [metric.step for metric in losses] == [20, 40, 60, 80]
    assert {metric.timestamp for metric in losses} == {1_700_000_000_000}
    artifacts = {artifact.path for artifact in client(place).list_artifacts(run_id)}
    assert {"config.yaml", "spec.yaml", "report.html", "report.json", "metrics.csv"} <= artifacts
    assert (place / "mlartifacts" / "tank" / run_id / "artifacts" / "report.html").is_file()


def test_nothing_is_sent_twice_and_what_was_missing_follows(tracker: Tracker, place: Path) -> None:
    report = (place / "run" / "report.json").read_bytes()
    rows = (place / "run" / "metrics.csv").read_text().splitlines()
    (place / "run" / "report.json").unlink()
    (place / "run" / "metrics.csv").write_text("\n".join(rows[:-1]) + "\n")
    first = tracker.record(place / "run", "KILLED")
    assert client(place).get_run(first).info.status == "KILLED"
    assert "controlkit.verdict" not in client(place).get_run(first).data.tags
    (place / "run" / "metrics.csv").write_text("\n".join(rows) + "\n")
    (place / "run" / "report.json").write_bytes(report)
    for _ in range(2):
        assert tracker.record(place / "run") == first
    history = client(place).get_metric_history(first, "actor_loss")
    assert [metric.step for metric in history] == [20, 40, 60, 80]
    assert len(client(place).get_metric_history(first, "evaluation.gain")) == 1
    assert client(place).get_run(first).data.tags["controlkit.verdict"] == "GO TO SHADOW"


def test_a_run_begun_anew_or_with_other_settings_is_another(tracker: Tracker, place: Path) -> None:
    first = tracker.begin(place / "run")
    assert client(place).get_run(first).info.status == "RUNNING"
    assert tracker.begin(place / "run") == first
    assert tracker.begin(place / "run", fresh=True) != first
    second = tracker.begin(place / "run")
    with (place / "run" / "config.yaml").open("a") as stream:
        stream.write("# another\n")
    assert tracker.begin(place / "run") != second


@pytest.mark.parametrize("content", ["{", '{"schema": 1, "store": "x", "run_id": "../../x"}', "[]", '{"schema": 2}'])
def test_a_damaged_ledger_is_a_folder_that_was_never_tracked(tracker: Tracker, place: Path, content: str) -> None:
    (place / "run" / "tracking.json").write_text(content)
    run_id = tracker.record(place / "run")
    assert read_json(place / "run" / "tracking.json")["run_id"] == run_id


def test_the_run_of_a_ledger_that_this_store_does_not_have_is_made(tracker: Tracker, place: Path) -> None:
    tracker.begin(place / "run")
    ledger = read_json(place / "run" / "tracking.json")
    write_json(place / "run" / "tracking.json", ledger | {"run_id": "f" * 32})
    assert tracker.record(place / "run") != "f" * 32
    assert client(place).get_metric_history(read_json(place / "run" / "tracking.json")["run_id"], "actor_loss")


def test_a_bundle_becomes_a_version_of_the_plants_model(tracker: Tracker, place: Path) -> None:
    shutil.copytree(BUNDLE, place / "bundle")
    manifest, progress = load_bundle(place / "bundle").manifest, Silent()
    for _ in range(2):
        record_runs(tracker, [place / "run"], progress, bundle=place / "bundle")
    assert progress.messages == []
    (version,) = client(place).search_model_versions("name = 'tank'")
    assert version.tags["verdict"] == manifest.evaluation.verdict
    assert version.tags["data_sha256"] == manifest.training.data_sha256
    assert version.tags["signer"] == manifest.signer
    assert version.tags["manifest_sha256"] == sha256_of(place / "bundle" / "manifest.json")
    stored = Path(version.source.removeprefix("file://"))
    assert (stored / "controller.onnx").read_bytes() == (place / "bundle" / "controller.onnx").read_bytes()
    assert (stored / "manifest.sig").is_file()
    (place / "bundle" / "controller.onnx").write_bytes(b"changed")
    record_runs(tracker, [place / "run"], progress, bundle=place / "bundle")
    assert "does not match its hash" in progress.messages[0]


class Failing:
    """A client whose every call fails, as one of a server that has gone."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> None:
            raise mlflow.exceptions.MlflowException("the server has gone\nwith details")

        return call


def gone() -> Tracker:
    return Tracker(Failing(), "http://store:5000", None, (mlflow.exceptions.MlflowException,), lambda: 0.0)


def test_a_store_that_fails_before_the_work_stops_it(place: Path) -> None:
    began = False
    with (
        pytest.raises(ControlkitError, match="failed before the work began"),
        tracked(gone(), place / "run", Silent(), fresh=True),
    ):
        began = True
    assert not began


def test_a_store_that_fails_after_the_work_costs_one_line(tracker: Tracker, place: Path) -> None:
    progress = Silent()
    record_runs(gone(), [place / "run"], progress)
    assert len(progress.messages) == 1
    assert "http://store:5000 did not take all of" in progress.messages[0]
    with tracked(tracker, place / "run", progress, fresh=True):
        tracker._client = Failing()
    assert len(progress.messages) == 2


@pytest.mark.parametrize(("problem", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_work_that_ends_early_says_so(tracker: Tracker, place: Path, problem: type[BaseException], status: str) -> None:
    with pytest.raises(problem), tracked(tracker, place / "run", Silent(), fresh=True):
        raise problem
    run_id = read_json(place / "run" / "tracking.json")["run_id"]
    assert client(place).get_run(run_id).info.status == status


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a port that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://anna:secret@127.0.0.1:{taken.getsockname()[1]}"


def test_an_address_that_does_not_answer_is_told_without_its_password(deaf: str, tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match=r"http://127.0.0.1:\d+: the store does not answer") as told:
        open_tracker(deaf, tmp_path / "run")
    assert "secret" not in str(told.value)
    assert without_secrets("postgresql://anna:se@cret@host:5/db?password=x") == "postgresql://host:5/db"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("mlruns", "'mlruns' is no address of a store"),
        ("http://host:port", "is no address of a store"),
        ("sqlite:///{place}/run/config.yaml", "cannot be written .file is not a database"),
        ("sqlite:////dev/null/x/mlflow.db", "cannot be written"),
    ],
)
def test_an_address_that_is_none(where: str, said: str, place: Path) -> None:
    with pytest.raises(ControlkitError, match=said):
        open_tracker(where.replace("{place}", str(place)), place / "run")
    assert sqlite3.connect(place / "mlflow.db").execute("SELECT 1").fetchone() == (1,)


def test_without_mlflow_it_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(ControlkitError, match=r"pip install 'controlkit\[mlflow\]'"):
        open_tracker("local", place / "run")


def test_the_verbs_track_and_the_variable_asks_for_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import controlkit.evaluation

    monkeypatch.chdir(place)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{place / 'mlflow.db'}")
    (place / "run.yaml").write_text((place / "run" / "config.yaml").read_text())
    with pytest.raises(SystemExit, match="0"):
        main(["train", "run.yaml", "--data", "data", "--out", "mine/run"])
    run_id = read_json(place / "mine" / "run" / "tracking.json")["run_id"]
    assert client(place).get_run(run_id).info.status == "FINISHED"
    assert "controlkit.verdict" not in client(place).get_run(run_id).data.tags

    def quick(candidates: Any, *_: object, **__: object) -> Any:
        return controlkit.evaluation.Report("GO TO SHADOW", (), report_of(candidates[0].run.path))

    monkeypatch.setattr(controlkit.evaluation, "evaluate", quick)
    monkeypatch.setattr(
        controlkit.evaluation, "write_report", lambda report, to: write_json(to / "report.json", report.content)
    )
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "mine/run", "--data", "data"])
    assert client(place).get_run(run_id).data.tags["controlkit.verdict"] == "GO TO SHADOW"
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(SystemExit, match="1"):
        main(["train", "run.yaml", "--data", "data", "--out", "other"])
    assert f"--track or {VARIABLE}: 'nowhere' is no address" in capsys.readouterr().err
    assert not (place / "other").exists()
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ
