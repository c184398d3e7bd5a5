"""The base install is the edge: nothing that training or plotting needs may be imported there."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

# Names of the modules that the extras bring, as they are imported.
HEAVY = (
    "torch pandas gymnasium duckdb pyarrow plotly onnx onnxscript scipy matplotlib sklearn asyncua mlflow ray "
    "mujoco optuna sqlalchemy h5py minari PIL stable_baselines3 pint charset_normalizer adbc_driver_manager "
    "adbc_driver_sqlite adbc_driver_postgresql arrow_odbc pytest hypothesis"
).split()

BLOCKED = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"{{name}} is not part of the base install", name=name)
        return None

sys.meta_path.insert(0, Blocked())
{code}
"""


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    program = BLOCKED.format(heavy=HEAVY, code=code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_the_blocker_blocks() -> None:
    done = run_without_extras("import pandas")
    assert done.returncode != 0
    assert "pandas is not part of the base install" in done.stderr


@pytest.mark.parametrize(
    "module", ["deploy", "deploy.bundle", "deploy.runtime", "controlkit.spec", "controlkit.align", "controlkit.online"]
)
def test_edge_modules_import_without_the_extras(module: str) -> None:
    done = run_without_extras(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_help_works_without_the_extras() -> None:
    done = run_without_extras(
        "import sys; sys.argv = ['controlkit', '--help']; from controlkit.cli import main; main()"
    )
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    """Where the extras are installed they must not slow the help down either."""
    code = """
import json, sys
sys.argv = ["controlkit", "--help"]
from controlkit.cli import main
try:
    main()
finally:
    print("\\nMODULES", json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.rsplit("MODULES", 1)[1]))
    assert not loaded & {*HEAVY, "onnxruntime", "cryptography"}


def test_the_runtime_loads_no_package_of_an_extra() -> None:
    """Also where the extras are installed: nothing optional is taken along just because it is there."""
    code = "import json, sys, deploy.runtime; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    owners = packages_distributions()
    loaded = {owner.lower() for name in json.loads(done.stdout) for owner in owners.get(name, [])}
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = {line.split(">")[0].lower() for group in project["optional-dependencies"].values() for line in group}
    assert not loaded & extras
