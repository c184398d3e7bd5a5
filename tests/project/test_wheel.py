"""The built wheel works outside the repository: command, presets, environments and edge modules come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def succeed(command: list[str | Path], folder: Path) -> str:
    """Runs a command in a folder, without the settings that would let it see the checkout; returns what it printed."""
    settings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeed([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A fresh environment with the wheel; its dependencies are those of this one. Returns its folder of commands."""
    place = wheel.parent / "environment"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    packages = next((place / "lib").glob("python*/site-packages"))
    # A path file in site-packages is not followed from here: the editable checkout stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    succeed([*pip, "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel], place)
    return place / "bin"


def ask(installed: Path, folder: Path, code: str) -> object:
    """The JSON that a program prints which runs in the fresh environment, in an empty folder."""
    return json.loads(succeed([installed / "python", "-c", f"import json\n{code}"], folder))


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    (metadata,) = tops - {"controlkit", "envs", "deploy"}
    assert metadata.endswith(".dist-info")
    assert tops >= {"controlkit", "envs", "deploy"}
    assert f"{metadata}/licenses/LICENSE" in names
    assert {"controlkit/py.typed", "deploy/py.typed", "envs/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_modules_come_from_the_wheel_and_not_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    files = ask(
        installed,
        tmp_path,
        "import controlkit, deploy, envs\nprint(json.dumps([m.__file__ for m in (controlkit, deploy, envs)]))",
    )
    assert isinstance(files, list)
    assert [Path(file).resolve().is_relative_to(installed.parent.resolve()) for file in files] == [True] * 3


def test_the_presets_are_those_of_the_repository(installed: Path, tmp_path: Path) -> None:
    found = ask(
        installed,
        tmp_path,
        "from controlkit.configs import KINDS, config_path, list_configs\n"
        "print(json.dumps({f'{k}/{n}': config_path(k, n).read_text() for k in KINDS for n in list_configs(k)}))",
    )
    folder = ROOT / "configs"
    shipped = {path.relative_to(folder).with_suffix("").as_posix(): path.read_text() for path in folder.rglob("*.yaml")}
    assert "plants/refrigerator" in shipped
    assert found == shipped


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    text = succeed([installed / "controlkit", "--help"], tmp_path)
    assert "ingest" in text
    assert "export" in text


def test_the_entry_point_registers_the_environments(installed: Path, tmp_path: Path) -> None:
    """The entry point's name is the namespace; gymnasium no longer loads the group itself, so it is loaded here."""
    made = ask(
        installed,
        tmp_path,
        "from importlib.metadata import entry_points\nimport gymnasium\n"
        "(point,) = entry_points(group='gymnasium.envs', name='controlkit')\n"
        "point.load()()\n"
        "print(json.dumps(gymnasium.make('controlkit/Refrigerator-v0').spec.id))",
    )
    assert made == "controlkit/Refrigerator-v0"


def test_the_edge_runtime_imports(installed: Path, tmp_path: Path) -> None:
    file = ask(installed, tmp_path, "import deploy.runtime\nprint(json.dumps(deploy.runtime.__file__))")
    assert Path(str(file)).resolve().is_relative_to(installed.parent.resolve())
