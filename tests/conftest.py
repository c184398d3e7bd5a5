"""What all tests share: one thread a process, and property tests without a clock."""

from __future__ import annotations

import os

# Before numpy or torch is imported: tests run side by side, and results must not depend on how many cores there are.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from hypothesis import settings  # noqa: E402

# A busy machine is no reason to fail: no deadline an example. On a build server the examples are the same every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
