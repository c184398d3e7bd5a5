"""A plant that has been through a fleet's work once, for all tests here."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlkit.fleet.work import Order, run_plant
from tests import small_plant


def write_log(path: Path, *, seed: int = 0) -> None:
    """A log of the small plant as a historian would export it."""
    data = small_plant.dataset(steps=60, seed=seed)
    rows = ["timestamp,tag,value,quality"]
    for i in range(len(data)):
        cells = zip(("level", "load", "valve"), (*data.frames[i], *data.actions[i]), strict=True)
        rows += [f"{data.time_ns[i] // 10**9},{tag},{value},good" for tag, value in cells if value == value]
    path.write_text("\n".join(rows) + "\n")


def order(folder: Path, **changes: Any) -> dict[str, Any]:
    """The payload of the plant whose files lie in a folder."""
    plain = Order(
        name="tank",
        folder=str(folder / "out" / "plants" / "tank"),
        plant=str(folder / "plant.yaml"),
        run=str(folder / "run.yaml"),
        sources=(str(folder / "log.csv"),),
        quick=True,
        gamma=0.5,
    )
    return asdict(plain) | changes


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with plant, log, settings and the plant's finished work, and what the work returned."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "plant.yaml").write_text(yaml.safe_dump(small_plant.spec().to_dict()))
    (folder / "run.yaml").write_text(yaml.safe_dump(small_plant.config().to_dict()))
    write_log(folder / "log.csv")
    return folder, run_plant(order(folder))


@pytest.fixture
def place(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy that a test may spoil; where the first looked at the log's path, so does this one's record."""
    shutil.copytree(finished[0], tmp_path / "fleet")
    return tmp_path / "fleet"
