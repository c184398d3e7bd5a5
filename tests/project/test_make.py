"""The make targets that set things up: what they say when they cannot, and that a second call installs nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the set-up reads."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def interpreter(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_an_old_python_is_refused_in_one_line(checkout: Path) -> None:
    old = interpreter(checkout, "old-python", "exit 1")
    done = make(checkout, "install", f"PYTHON={old}")
    assert done.returncode != 0
    assert "error: no Python 3.11 or newer" in done.stderr
    assert "make PYTHON=/path/to/python" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_refused_in_one_line(checkout: Path) -> None:
    bare = interpreter(checkout, "bare-python", 'case "$2" in *ensurepip*) exit 1;; esac; exit 0')
    done = make(checkout, "install", f"PYTHON={bare}")
    assert done.returncode != 0
    assert f"error: {bare} cannot create a virtual environment" in done.stderr
    assert "python3-venv" in done.stderr


@pytest.fixture
def recorded(checkout: Path) -> Path:
    """An environment whose interpreter only writes down how it was called."""
    commands = checkout / ".venv" / "bin"
    commands.mkdir(parents=True)
    interpreter(commands, "python", f'echo "$@" >> {checkout}/calls')
    return checkout


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    found = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return found


def test_the_second_call_installs_nothing(recorded: Path) -> None:
    assert make(recorded, "demo", "DEMO_ARGS=--small").returncode == 0
    first = calls(recorded)
    assert ["--requirement requirements.lock" in call for call in first] == [True, False, False]
    assert "--no-deps" in first[1]
    assert "--editable ." in first[1]
    assert first[2] == "-m controlkit.demo --small"
    assert make(recorded, "demo").returncode == 0
    assert calls(recorded) == ["-m controlkit.demo"]


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed(recorded: Path, name: str) -> None:
    assert make(recorded, "install").returncode == 0
    stamp = (recorded / ".venv" / ".installed").stat().st_mtime
    calls(recorded)
    os.utime(recorded / name, (stamp + 10, stamp + 10))
    assert make(recorded, "install").returncode == 0
    assert len(calls(recorded)) == 2


def test_an_interrupted_installation_is_taken_up_again(recorded: Path) -> None:
    interpreter(recorded / ".venv" / "bin", "python", f'echo "$@" >> {recorded}/calls; exit 1')
    assert make(recorded, "test").returncode != 0
    assert len(calls(recorded)) == 1
    assert not (recorded / ".venv" / ".installed").exists()
    assert make(recorded, "test").returncode != 0
    assert "--requirement requirements.lock" in calls(recorded)[0]


def test_help_lists_every_target(checkout: Path) -> None:
    text = (checkout / "Makefile").read_text()
    (names,) = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    shown = re.findall(r"^  make (\w+) ", make(checkout).stdout, flags=re.MULTILINE)
    assert sorted(shown) == sorted(names.split())


def locked() -> dict[str, Version]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines), "a name and a version a line"
    return {name.lower().replace("_", "-"): Version(version) for name, version in (line.split("==") for line in lines)}


def test_the_lock_pins_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(line) for line in (*project["dependencies"], *extras["train"], *extras["sim"], *extras["dev"])]
    versions = locked()
    unmet = [str(r) for r in asked if not r.specifier.contains(versions.get(r.name.lower(), Version("0")))]
    assert unmet == []


def test_the_lock_holds_no_gpu_libraries() -> None:
    assert [name for name in locked() if name.startswith(("nvidia", "cuda", "triton"))] == []
    assert locked()["torch"] == Version("2.13.0")


def test_the_gate_fails_when_either_part_does(checkout: Path) -> None:
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    tools = checkout / "tools"
    tools.mkdir()
    for lint, tests, expected in (("0", "0", 0), ("1", "0", 1), ("0", "1", 1), ("1", "1", 1)):
        interpreter(tools, "make", f'echo "$1" >> {checkout}/calls; [ "$1" = lint ] && exit {lint}; exit {tests}')
        settings = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", checkout / ".ci" / "run"], env=settings, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == expected
        assert calls(checkout) == ["lint", "test"]
