"""One run folder and one exported bundle of the tank for all tests of this room."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from controlkit.artifacts import Models, RunFolder
from controlkit.dataset import TransitionDataset
from deploy.bundle import new_key
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.calibration import calibrate
from deploy.export.exporter import ExportResult, export_bundle
from deploy.export.graph import ControllerGraph
from tests.deploy.plants import fitted, write_run
from tests.sharing import made_once


@dataclass(frozen=True)
class Tank:
    """The tank's networks, thresholds and graph."""

    data: TransitionDataset
    models: Models
    thresholds: Thresholds
    safety: SafetyConfig
    graph: ControllerGraph


@dataclass(frozen=True)
class Exported:
    """The tank's run folder, bundle and keys."""

    run: RunFolder
    result: ExportResult
    path: Path
    private_key: Path
    public_key: Path


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tank() -> Tank:
    data, _, models = fitted()
    safety = SafetyConfig()
    thresholds, _ = calibrate(models, data, safety, torch.Generator().manual_seed(0))
    return Tank(data, models, thresholds, safety, ControllerGraph(data.spec, models, thresholds, safety))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    def export(folder: Path) -> None:
        run, private = write_run(folder), folder / "keys" / "plant.pem"
        new_key(private)
        result = export_bundle(run, folder / "bundle", key=private, parity_inputs=2000, fuzz_inputs=2000)
        (folder / "result.pickle").write_bytes(pickle.dumps(result))

    folder = made_once(tmp_path_factory, "tank", export)
    result: ExportResult = pickle.loads((folder / "result.pickle").read_bytes())
    private = folder / "keys" / "plant.pem"
    return Exported(RunFolder.open(folder / "run"), result, folder / "bundle", private, private.with_suffix(".pem.pub"))
