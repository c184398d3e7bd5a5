"""What all tests share: one thread a process, property tests without a clock, and the longest tests first."""

from __future__ import annotations

import os
from pathlib import Path

# Before numpy or torch is imported: tests run side by side, and results must not depend on how many cores there are.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Minutes each. Whatever of them came last would keep one worker busy while the others have nothing left to do.
LONGEST = ("project/test_readme.py", "deploy/faults/test_faults.py", "deploy/faults/test_hard_faults.py")

# A busy machine is no reason to fail: no deadline an example. On a build server the examples are the same every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Brings the longest files to the front; all else stays in its order, for the fixtures that neighbours share."""
    folder = Path(__file__).parent
    rank = {folder / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
