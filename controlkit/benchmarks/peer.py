"""Other libraries to be compared with, each in a Python of its own: d3rlpy pins gymnasium 1.0, which this package does
not share."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from controlkit.errors import ControlkitError

D3RLPY = "2.8.1"
# A Python that has d3rlpy already.
VARIABLE = "CONTROLKIT_PEER_PYTHON"
MARK = "RESULT "


def peer_python(folder: Path) -> Path:
    """The Python with d3rlpy: the one that CONTROLKIT_PEER_PYTHON names, or a virtual environment made in `folder`.

    PyTorch of this process's version is installed first and by itself, so that d3rlpy finds what it asks for and draws
    no second one.

    Raises:
        ControlkitError: the variable names no Python, or the installation failed.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ControlkitError(f"{VARIABLE} names no file", where=named, cure="Name a Python with d3rlpy in it.")
        return Path(named)
    python = folder / "bin" / "python"
    if (folder / "complete").is_file():
        return python
    venv.create(folder, with_pip=True, clear=True)
    for wanted in (f"torch=={torch.__version__.partition('+')[0]}", f"d3rlpy=={D3RLPY}"):
        done = subprocess.run([python, "-m", "pip", "install", "-q", wanted], capture_output=True, text=True)
        if done.returncode:
            raise ControlkitError(
                f"installing {wanted} failed: {done.stderr.strip().splitlines()[-1:]}",
                where=str(folder),
                cure=f"Install d3rlpy {D3RLPY} where you like and name its Python in {VARIABLE}.",
            )
    (folder / "complete").touch()
    return python


class Peer:
    """A script that runs in another Python and answers one line of JSON to each line of JSON it is sent.

    It waits while nothing is asked, so that it can be measured in turn with something here.

    Args:
        python: which Python.
        script: the script; it prints `MARK` before each answer, since libraries print too.
        arguments: its settings, as JSON.
    """

    def __init__(self, python: Path, script: Path, arguments: dict[str, Any]) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [python, "-P", script, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer.

        Raises:
            ControlkitError: it ended instead; with its last words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is told below
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        _, said = self._process.communicate()
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise ControlkitError(f"the peer ended: {last[0]}", where=str(self._script))
