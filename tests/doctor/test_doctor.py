"""The doctor: what is there, what is missing and for what, and packages whose name means another project."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from controlkit import doctor
from controlkit.cli import main
from controlkit.errors import ControlkitError
from envs.neorl import original

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def installed(folder: Path, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a package of these files on the path, before all others."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise RuntimeError('the doctor imports nothing of this')\n")
    monkeypatch.syspath_prepend(str(folder))


def run_doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    return int(end.value.code or 0), capsys.readouterr().out


def test_every_extra_has_a_purpose() -> None:
    assert set(doctor.PURPOSES) == set(PROJECT["optional-dependencies"])


def test_versions_are_those_of_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run_doctor(capsys)
    lines = {line.split()[1]: line for line in out.splitlines()}
    assert platform.python_version() in lines["python"]
    assert np.__version__ in lines["numpy"]
    assert importlib.metadata.version("onnxruntime") in lines["onnxruntime"]
    assert "GPU" in lines
    assert {f"[{extra}]" for extra in doctor.PURPOSES} <= set(lines)
    clashes = [line for line in out.splitlines() if line.startswith("clash")]
    assert code == int(bool(clashes))


def test_missing_and_old_packages_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.5.1+cpu", "pandas": "2.10.0", "controlkit": "1.0"}
    needed = ["torch>=2.6; extra == 'train'", "pandas>=2.2; extra == 'train'", 'ray>=2.40; extra == "ray"']
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    states = {finding.name.strip(): finding for finding in doctor.examine()}
    assert states["torch"].state == "old"
    assert "2.6 or newer is needed" in states["torch"].text
    assert states["pandas"].state == "ok"  # 2.10 is newer than 2.2
    assert states["ray"].state == states["[ray]"].state == "missing"
    assert "pip install 'controlkit[ray]'" in states["[ray]"].text
    assert states["[opcua]"].state == "old"  # the installed metadata does not know this extra


@pytest.mark.parametrize(
    ("package", "wrong", "right", "says"),
    [
        (
            original.NEORL,
            ("neorl/__init__.py", "neorl/evolu/de.py"),
            ("neorl/__init__.py", "neorl/data_map.json"),
            "an unrelated project of that name",
        ),
        (
            original.NEORL2,
            ("neorl2/__init__.py", "neorl2/envs/dmsd.py"),
            ("neorl2/__init__.py", "neorl2/envs/reward/dmsd_reward.py"),
            "lacks its reward modules",
        ),
    ],
)
def test_a_clash_is_named_and_ends_with_an_error(
    package: original.OriginalPackage,
    wrong: tuple[str, ...],
    right: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed(tmp_path / "wrong", wrong, monkeypatch)
    assert says in str(original.clash(package))
    assert says in original.clash_note()
    assert not original.is_there(package)
    with pytest.raises(ControlkitError, match=rf"{says}.*Clone {re.escape(package.source)}"):
        original.require_original(package, "task fusion")
    code, out = run_doctor(capsys)
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("clash") and says in line]
    assert f"pip uninstall {package.module}" in line
    # The real one, in front of it, is no clash.
    installed(tmp_path / "right", right, monkeypatch)
    assert original.clash(package) is None
    assert original.is_there(package)
    original.require_original(package, "task fusion")


def test_a_package_that_is_not_there_is_no_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neorl9").mkdir()  # a folder of data is no package
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("neorl9", "neorl_of_nobody"):
        package = original.OriginalPackage(module, "data_map.json", "another", "https://example.org")
        assert original.clash(package) is None
        with pytest.raises(ControlkitError, match=f"the package '{module}' is not installed"):
            original.require_original(package, "task fusion")


def test_another_package_called_envs_is_a_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    elsewhere = importlib.util.spec_from_file_location("envs", tmp_path / "envs" / "__init__.py")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: elsewhere if name == "envs" else find(name))
    assert [f for f in doctor.clashes() if f.name == "envs" and str(tmp_path) in f.text]


def test_the_doctor_reports_where_another_envs_comes_first(tmp_path: Path) -> None:
    """In a process of its own, whose `envs` is the other package from the start."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    program = f"import sys; sys.path[:0] = {[str(tmp_path), str(ROOT)]}; from controlkit.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("clash")]
    assert re.search(rf"envs +is imported from {re.escape(str(tmp_path))}, not from {re.escape(str(ROOT))}", line)


def test_an_unreachable_server_is_told_with_the_clash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from envs.neorl import data_files

    installed(tmp_path / "wrong", ("neorl/__init__.py",), monkeypatch)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = data_files.ReleasedFile("DMSD-val.npz", "http://127.0.0.1:9/DMSD-val.npz", "0" * 32)  # the discard port
    monkeypatch.setattr(data_files, "RELEASED", {"neorl2/dmsd-val": gone})
    with pytest.raises(SystemExit) as end:
        main(["collect", "neorl2/dmsd-val", "--download", "--out", str(tmp_path / "x.npz")])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "cannot be reached from here" in error
    assert "an unrelated project of that name" in error
