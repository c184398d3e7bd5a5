"""Real data that is not part of the repository: where to find it, or why a test is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "CONTROLKIT_DATA"


def data_file(name: str) -> Path:
    """A file of the data folder; skips the test where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get(VARIABLE, beside)) / name
    if not path.is_file():
        pytest.skip(f"{name} is not at {path.parent}; {VARIABLE} may name the folder")
    return path
