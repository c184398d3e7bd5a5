"""One MLflow run for each run folder, brought up to date with whatever the folder holds by now.

Nothing is sent twice: `tracking.json` in the folder says what is there already. So a store that was away for a while
catches up at the next verb.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from controlkit.errors import ArtifactError
from controlkit.files import sha256_of
from controlkit.runs.reading import read_metrics
from controlkit.runs.reported import PAGE, REPORT, Reported, read_reported
from controlkit.runs.summary import METRICS, RunSummary, summarise
from controlkit.tracking.ledger import Ledger, read_ledger
from deploy.bundle.manifest import MANIFEST, MODEL, SIGNATURE
from deploy.bundle.store import load_bundle

Status = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]

FILES = ("config.yaml", "spec.yaml", "split.json", "dataset.json", METRICS)
# Limits of MLflow's interface: of one batch, and of a parameter's and a tag's text.
BATCH, MAX_PARAM, MAX_TAG = 100, 6000, 5000


class Tracker:
    """A store that answered, see `open_tracker`.

    Args:
        client: MLflow's.
        shown: the address without secrets.
        artifacts: the folder for artifacts; `None` where the server decides.
        problems: what the client may raise.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        client: Any,
        shown: str,
        artifacts: Path | None,
        problems: tuple[type[Exception], ...],
        clock: Callable[[], float],
    ) -> None:
        self.shown, self.problems = shown, problems
        self._client, self._artifacts, self._clock = client, artifacts, clock

    def begin(self, run: Path, *, fresh: bool = False) -> str:
        """The id of the folder's MLflow run, which is made where there is none yet, with all parameters.

        Args:
            run: the run folder.
            fresh: makes a new one in any case: the folder was begun anew.

        Raises:
            one of `problems`: the store fails.
            ArtifactError: the folder is damaged.
        """
        summary = _usable(run)
        ledger = None if fresh else self._known(run)
        if ledger is None:
            ledger = self._make(run, summary)
            ledger.write(run)
        self._client.update_run(ledger.run_id, status="RUNNING")
        return ledger.run_id

    def record(
        self, run: Path, status: Status = "FINISHED", *, report: Path | None = None, bundle: Path | None = None
    ) -> str:
        """Sends what the store does not have yet, and says how the run stands; returns the id of its MLflow run.

        Args:
            run: the run folder.
            status: of the work on it.
            report: the folder with the evaluation report; the run folder where not given.
            bundle: an exported bundle, which becomes a version of the model that is named after the plant.

        Raises:
            one of `problems`: the store fails.
            ArtifactError: the folder, its report or the bundle is damaged, or the report is not about this run.
        """
        summary = _usable(run)
        ledger = self._known(run) or self._make(run, summary)
        try:
            self._send_rows(run, ledger)
            reported = read_reported(run, report)
            self._send_figures(summary, reported, ledger)
            self._send_files(run, report or run, ledger)
            for name, value in _tags(summary, reported).items():
                self._client.set_tag(ledger.run_id, name, value)
            if bundle is not None:
                self._register(bundle, summary, ledger)
            self._client.set_terminated(ledger.run_id, status)
        finally:
            ledger.write(run)  # what was sent stays sent
        return ledger.run_id

    def _known(self, run: Path) -> Ledger | None:
        """The folder's ledger, if its run is in this store and was made with these settings and data."""
        ledger = read_ledger(run)
        if ledger is None or ledger.store != self.shown:
            return None
        try:
            found = self._client.get_run(ledger.run_id)
        except self.problems as problem:
            # Any other failure must not end in a second run beside the first.
            if getattr(problem, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        mine = found.data.tags.get("controlkit.config_sha256") == sha256_of(run / "config.yaml")
        return ledger if mine and found.info.lifecycle_stage == "active" else None

    def _make(self, run: Path, summary: RunSummary) -> Ledger:
        name, found = summary.plant, self._client.get_experiment_by_name(summary.plant)
        if found is not None:
            experiment = found.experiment_id
        else:
            place = None if self._artifacts is None else (self._artifacts / name).as_uri()
            experiment = self._client.create_experiment(name, artifact_location=place)
        tags = {**_tags(summary, None), "controlkit.config_sha256": sha256_of(run / "config.yaml")}
        made = self._client.create_run(experiment, run_name=summary.name, tags=tags, start_time=self._now())
        params = [(name, str(value)[:MAX_PARAM]) for name, value in summary.settings.items()]
        for at in range(0, len(params), BATCH):
            self._client.log_batch(made.info.run_id, params=[_entity("Param", *p) for p in params[at : at + BATCH]])
        return Ledger(schema=1, store=self.shown, run_id=made.info.run_id)

    def _send_rows(self, run: Path, ledger: Ledger) -> None:
        rows = read_metrics(run / METRICS) if (run / METRICS).is_file() else []
        now = self._now()
        for number in range(ledger.rows, len(rows)):
            row = rows[number]
            # Updates of the policy, else of the dynamics reward; the dynamics have one row.
            step = int(row.get("updates", row.get("update", 0)))
            metrics = [_entity("Metric", name, value, now, step) for name, value in row.items()]
            self._client.log_batch(ledger.run_id, metrics=metrics)
            ledger.rows = number + 1

    def _send_figures(self, summary: RunSummary, reported: Reported | None, ledger: Ledger) -> None:
        figures = {name: summary.figures[name] for name in _SECONDS if name in summary.figures}
        if reported is not None:
            figures |= {f"evaluation.{name}": value for name, value in reported.figures.items()}
        new = {name: float(value) for name, value in figures.items() if ledger.figures.get(name) != value}
        now, step = self._now(), summary.updates
        self._client.log_batch(ledger.run_id, metrics=[_entity("Metric", name, new[name], now, step) for name in new])
        ledger.figures |= new

    def _send_files(self, run: Path, report: Path, ledger: Ledger) -> None:
        for path in (*(run / name for name in FILES), report / PAGE, report / REPORT):
            if path.is_file():
                self._send_file(path, None, ledger)

    def _send_file(self, path: Path, folder: str | None, ledger: Ledger) -> None:
        name, sha256 = f"{folder}/{path.name}" if folder else path.name, sha256_of(path)
        if ledger.artifacts.get(name) != sha256:
            self._client.log_artifact(ledger.run_id, str(path), folder)
            ledger.artifacts[name] = sha256

    def _register(self, bundle: Path, summary: RunSummary, ledger: Ledger) -> None:
        manifest = load_bundle(bundle).manifest
        sha256 = sha256_of(bundle / MANIFEST)
        if sha256 in ledger.bundles:
            return
        folder = f"bundle-{sha256[:12]}"  # of each version its own, so that no later one changes it
        for name in (MODEL, MANIFEST, SIGNATURE):
            if (bundle / name).is_file():
                self._send_file(bundle / name, folder, ledger)
        tags = {
            "verdict": manifest.evaluation.verdict,
            "override": manifest.evaluation.override or "",
            "data_sha256": manifest.training.data_sha256,
            "commit": manifest.training.commit,
            "manifest_sha256": sha256,
            "signer": manifest.signer or "",
        }
        name = summary.plant
        if not self._client.search_registered_models(filter_string=f"name = '{name}'", max_results=1):
            self._client.create_registered_model(name)
        artifacts = self._client.get_run(ledger.run_id).info.artifact_uri
        version = self._client.create_model_version(
            name,
            f"{artifacts}/{folder}",
            ledger.run_id,
            tags={key: str(value)[:MAX_TAG] for key, value in tags.items()},
        )
        ledger.bundles[sha256] = str(version.version)

    def _now(self) -> int:
        return int(self._clock() * 1000)


_SECONDS = ("seconds", "world_seconds", "policy_seconds")


def _tags(summary: RunSummary, reported: Reported | None) -> Mapping[str, str]:
    tags = {
        "controlkit.plant": summary.plant,
        "controlkit.method": summary.method,
        "controlkit.state": summary.state,
        "controlkit.data_sha256": summary.data_sha256,
        "controlkit.commit": summary.commit,
    }
    return tags if reported is None else tags | {"controlkit.verdict": reported.verdict}


def _usable(run: Path) -> RunSummary:
    summary = summarise(run)
    if summary.state == "damaged":
        raise ArtifactError(f"is damaged ({summary.problem})", where=str(run), cure="Train again.")
    return summary


def _entity(kind: str, *values: Any) -> Any:
    from mlflow import entities

    return getattr(entities, kind)(*values)
