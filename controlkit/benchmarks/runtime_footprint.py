"""What the runtime takes of an edge box: memory, disk, and time until it sees its plant."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import controlkit
from controlkit.benchmarks.runtime_loop import resident_mb
from controlkit.errors import ArtifactError, ControlkitError
from deploy.runtime.audit_reader import AuditRow, read_audit

WHERE = "benchmark runtime footprint"
PATIENCE_S = 30.0
# Of the interpreter's own environment, not of what was installed into it.
TOOLS = ("pip", "setuptools", "wheel", "_distutils_hack", "distutils-precedence.pth", "pkg_resources")


def memory(bundle: Path, address: str, state: Path, seconds: float) -> dict[str, float]:
    """Resident memory of `controlkit run` on a plant, in megabytes: after so many seconds, and the most so far."""
    with _running(bundle, address, state) as process:
        _await_cycle(process, state, plain=True)
        time.sleep(seconds)
        if process.poll() is not None:
            raise ControlkitError("the runtime ended by itself", where=WHERE)
        return {"rss": resident_mb(process.pid), "highest": resident_mb(process.pid, "VmHWM")}


def start_s(bundle: Path, plant: str, state: Path) -> dict[str, float]:
    """Seconds from the start of the process to the first cycle's row in the audit log, and to the first faultless one.

    Args:
        bundle: of the bundle.
        plant: as `--plant` takes it.
        state: folder; empty.
    """
    began_ns = time.time_ns()
    with _running(bundle, plant, state) as process:
        first = _await_cycle(process, state, plain=False)
        plain = _await_cycle(process, state, plain=True)
    return {"first": (first.wall_ns - began_ns) / 1e9, "faultless": (plain.wall_ns - began_ns) / 1e9}


def base_install(folder: Path) -> dict[str, Any]:
    """Installs this checkout's wheel without extras into a new environment.

    Returns:
        `mb`: megabytes in its site-packages, compiled files included, without pip; `torch`: whether that came along;
        `largest`: megabytes of the largest packages.

    Raises:
        ControlkitError: there is no checkout to build from, or pip fails.
    """
    root = Path(controlkit.__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise ControlkitError("needs a checkout of the repository", where=WHERE, cure="Leave this task out: --tasks.")
    shutil.rmtree(folder, ignore_errors=True)
    wheels, environment = folder / "wheels", folder / "environment"
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    _call([sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(root)])
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    (wheel,) = wheels.glob("*.whl")
    constraints = ("--constraint", str(root / "requirements.lock"))
    _call([str(python), *pip, "install", *constraints, str(wheel)])
    (packages,) = environment.glob("lib/python*/site-packages")
    sizes = {path.name: _size(path) / 1e6 for path in packages.iterdir() if path.name.partition("-")[0] not in TOOLS}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    torch = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0
    shutil.rmtree(folder)
    return {"mb": sum(sizes.values()), "torch": torch, "largest": dict(largest)}


@contextmanager
def _running(bundle: Path, plant: str, state: Path) -> Any:
    """`controlkit run` in SHADOW, in a process of its own."""
    command = [
        sys.executable, "-c", "from controlkit.cli import main; main()", "run", str(bundle), "--plant", plant,
        "--mode", "shadow", "--state", str(state), "--port", "0", "--insecure",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_cycle(process: subprocess.Popen[str], state: Path, *, plain: bool) -> AuditRow:
    """The first row of a cycle; of one without a fault, if asked for."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        try:
            for row in read_audit(state / "audit", kinds=("cycle",)):
                if not (plain and row.payload["faults"]):
                    return row
        except ArtifactError:
            pass  # not there yet
        time.sleep(0.05)
    told = "" if process.poll() is None or process.stderr is None else process.stderr.read().strip()[-500:]
    raise ControlkitError(f"no cycle within {PATIENCE_S:g} s {told}".strip(), where=WHERE)


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ControlkitError(f"pip failed ({done.stderr.strip()[-500:]})", where=WHERE, cure="Check the index.")


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(inner) for inner in path.iterdir())
    return path.lstat().st_size
