"""docs/methods.md names every method, and its example runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from controlkit.artifacts import RunFolder
from controlkit.baselines.settings import METHODS
from controlkit.dataset import RECORD
from controlkit.files import read_json
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from tests import small_plant

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_method_has_a_row_in_the_table() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == sorted(METHODS)


def test_the_example_tunes_a_pid_on_a_trained_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small_plant.spec().to_dict()
    pi = {"kind": "pi", "measured": "level", "setpoint": 1.0, "gain": -0.2, "reset_time_s": 9.0}
    content["tags"]["valve"]["fallback"] = pi
    data = small_plant.dataset(PlantSpec.from_dict(content), noise=0.02)
    data.save(tmp_path / "data")
    config = small_plant.config(dynamics={"hidden": []}, policy={"updates": 0})
    train(RunFolder.create(tmp_path / "run", config, data, read_json(tmp_path / "data" / RECORD)), data, Silent())
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    names = runpy.run_path("example.py")
    assert names["tuned"].reward > names["tuned"].reward_before
    assert names["policy"].name == "pid"
