"""What is expensive to make is made once a test run, not once by every process that runs tests."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process to ask fills, while the others wait; no test may change what is in it.

    Args:
        factory: pytest's; the processes of one run have folders of their own in a common one.
        name: of the folder.
        make: fills it. Where it fails, the next process to ask tries anew, in a fresh folder.
    """
    own = factory.getbasetemp()
    # Without side-by-side processes the common folder is that of all test runs, and would bring back an older one's.
    place = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "made-once"
    place.mkdir(exist_ok=True)
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the process, however it ends
        done = place / f"{name}.done"
        if not done.exists():
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
            make(folder)
            done.write_text(folder.name)
        return place / done.read_text()
