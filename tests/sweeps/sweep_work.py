"""What the runs of the tests' sweeps do, in processes of a cluster: real training, a made-up judgement."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from controlkit.files import sha256_of
from controlkit.progress import Silent
from controlkit.sweeps.work import train_run

DOOMED = "doomed"  # a file in the sweep's folder that names the run whose first process is killed


class _KilledInPolicy(Silent):
    """Ends the process, as a lack of memory would, once the policy's first checkpoint is written."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self._marker, self._stage = marker, ""

    def start(self, stage: str, total: int) -> None:
        self._stage = stage

    def advance(self, units: int = 1, note: str = "") -> None:
        # The first call only says how much was done before; a checkpoint follows every epoch's call.
        if self._stage == "policy" and (self._marker.parent / "policy-began").exists() and note:
            self._marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._stage == "policy":
            (self._marker.parent / "policy-began").touch()


def _meet_the_other(sweep: Path, name: str) -> None:
    """Waits until two runs have begun: one may be through before the other's process is there."""
    (sweep / f"began-{name}").touch()
    until = time.monotonic() + 60.0
    while len(list(sweep.glob("began-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)


def train_only(asked: dict[str, Any]) -> dict[str, Any]:
    """Trains; the gain follows from the policy's hash."""
    sweep, name = Path(asked["sweep"]), asked["name"]
    marker = sweep / DOOMED
    doomed = marker.is_file() and marker.read_text() == name
    if marker.is_file():
        _meet_the_other(sweep, name)
    resumed = (sweep / "runs" / name / "checkpoint.pt").is_file()
    with patch("controlkit.morec.learn_world.plot_health"):  # plots cost more than this training
        folder, _ = train_run(asked, _KilledInPolicy(marker) if doomed else Silent())
    sha256 = sha256_of(folder.path / "policy" / "models.pt")
    gain = int(sha256[:8], 16) / 2**32
    return {
        "verdict": "INCONCLUSIVE",
        "gain": {"value": gain, "low": gain - 1.0, "high": gain + 1.0},
        "policy_sha256": sha256,
        "resumed": resumed,
    }


def misbehave(asked: dict[str, Any]) -> dict[str, Any]:
    """Ends as it is asked to."""
    how = asked["how"]
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "die once":
        marker = Path(asked["marker"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if how == "full disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/runs/checkpoint.pt")
    if how == "bug":
        raise KeyError("level")
    return {"how": how}
