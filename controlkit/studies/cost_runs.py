"""The runs of the study *cost*: every contender trained whole, in a process of its own, scored on the true plant."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import RunFolder
from controlkit.baselines.settings import as_overrides
from controlkit.benchmarks.neorl2 import EPISODES
from controlkit.benchmarks.peer import Peer
from controlkit.benchmarks.policy_controller import PolicyController
from controlkit.benchmarks.policy_jobs import SCORE_SEED
from controlkit.benchmarks.suite_data import data_file
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.files import read_json, write_json
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.studies.memory import peak_mib
from envs.closed_loop import score
from envs.simulation import Controller, Floats
from envs.tasks import get_task

TASK, FILE = "dmsd", "neorl2/DMSD-train.npz"
# Name of a contender -> method of this package and which reward it learns from.
OURS = {
    "morec, formula": ("morec", "formula"),
    "morec, rewards only": ("morec", "rewards"),
    "mean, formula": ("mean", "formula"),
    "mean, rewards only": ("mean", "rewards"),
    "td3_bc": ("td3_bc", "formula"),
    "bc": ("bc", "formula"),
}
PEERS = {"d3rlpy TD3+BC": "td3_bc", "d3rlpy CQL": "cql"}
PEER_BATCH, CHUNK = 256, 500


@dataclass(frozen=True)
class CostJob:
    """One training.

    Attributes:
        method: a contender. seed: of everything.
        updates: gradient steps.
        data: folder with the two ingested data sets.
        python: a Python with the peer in it.
        part: file for the figures.
        commit: of the code.
        settings: overrides of the run configuration, `section.field=value`.
    """

    method: str
    seed: int
    updates: int
    data: str
    python: str
    part: str
    commit: str
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """What the figures depend on."""
        key: dict[str, Any] = {"method": self.method, "seed": self.seed, "updates": self.updates}
        return key | {"settings": list(self.settings), "commit": self.commit}


def kept_figures(job: CostJob) -> dict[str, Any] | None:
    """The figures of an earlier run, where they are there and of the same settings and code."""
    part = Path(job.part)
    if not part.is_file():
        return None
    kept: dict[str, Any] = read_json(part)
    return kept if all(kept.get(name) == value for name, value in job.key.items()) else None


def run_cost_job(job: CostJob) -> dict[str, Any]:
    """Trains and scores, and keeps the figures; to be called in a fresh process, whose memory is measured."""
    load = os.getloadavg()[0]
    found = _peer(job) if job.method in PEERS else _ours(job)
    found = job.key | found | {"load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2)}
    write_json(Path(job.part), found)
    return found


def _ours(job: CostJob) -> dict[str, Any]:
    method, rewards = OURS[job.method]
    overrides = [*as_overrides(method), *job.settings, f"policy.updates={job.updates}", f"seed={job.seed}", "threads=1"]
    config = RunConfig.load(config_path("runs", TASK), overrides)
    folder = Path(job.data) / rewards
    record = read_json(folder / RECORD)
    began = time.monotonic()
    data = TransitionDataset.load(folder)
    with tempfile.TemporaryDirectory() as aside:
        run = RunFolder.create(Path(aside) / "run", config, data, record)
        actor = train(run, data, Silent()).actor
    seconds = time.monotonic() - began
    figures = {"train_seconds": seconds, "peak_mib": peak_mib(), "data_sha256": record["data_sha256"]}
    return figures | true_score(PolicyController(actor, data.spec))


def _peer(job: CostJob) -> dict[str, Any]:
    began, left = time.monotonic(), job.updates
    with open_peer(job.method, job.python, job.seed) as peer:
        while left > 0:
            peer.ask({"updates": min(CHUNK, left)})
            left -= CHUNK
        seconds = time.monotonic() - began
        memory = float(peer.ask({"memory": True})["peak_mib"])
        return {"train_seconds": seconds, "peak_mib": memory, "data_sha256": ""} | true_score(PeerController(peer))


def open_peer(method: str, python: str | Path, seed: int) -> Peer:
    """A peer that has read the data; one thread.

    Raises:
        ControlkitError: the data is not there.
    """
    settings = {
        "algorithm": PEERS[method],
        "data": str(data_file(FILE).resolve()),
        "seed": seed,
        "batch": PEER_BATCH,
        "threads": 1,
    }
    return Peer(Path(python), Path(__file__).with_name("peer_offline.py"), settings)


class PeerController:
    """A peer's policy; it sees the same columns as the released data has."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        return np.array(self._peer.ask({"observations": measurement.tolist()})["actions"], dtype=np.float64)


def true_score(controller: Controller) -> dict[str, float]:
    """Score on the benchmark's scale over fresh episodes of the true plant, the same for all."""
    task = get_task(TASK)
    loop = score(controller, task, SCORE_SEED, EPISODES)
    return {"score": task.benchmark_score(float(loop.returns.mean()))}


def contenders(methods: Sequence[str]) -> list[str]:
    """Those that are named, or all; in the order of the table."""
    return [name for name in (*OURS, *PEERS) if not methods or name in methods]
