"""Training on a data set that does not fit into the memory it may use."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from controlkit.dataset import TransitionDataset
from controlkit.replay import LoggedTransitions, stretches, thinned
from tests import small_plant

ROWS, OTHERS = 250_000, 100

TRAIN = """
import resource, sys
from pathlib import Path
import torch
from controlkit import replay
from controlkit.artifacts import RunFolder
from controlkit.config import RunConfig
from controlkit.dataset import RECORD, TransitionDataset
from controlkit.files import read_json
from controlkit.morec import dynamics
from controlkit.morec.train import train
from controlkit.progress import Silent
from controlkit.replay import LoggedTransitions
from tests import small_plant

path, mapped, megabytes = Path(sys.argv[1]), sys.argv[2] == "mapped", int(sys.argv[3])
replay.OVERVIEW = dynamics.OVERVIEW = 1 << 22
small = small_plant.dataset()  # everything that is imported late is there before the limit
small.save(path / "small")
TransitionDataset.load(path / "small")
config = small_plant.config(dynamics={"max_rows": 4000, "max_epochs": 1})
folder = RunFolder.create(path / "first", config, small, read_json(path / "small" / RECORD), replace=True)
train(folder, small, Silent())
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
limit = int(status["VmData"].split()[0]) * 1024 + megabytes * 1_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = TransitionDataset.load(path / "data", mapped=mapped)
folder = RunFolder.create(path / "run", config, data, read_json(path / "data" / RECORD), replace=True)
train(folder, data, Silent())
print("trained on", len(data))
"""


@pytest.fixture(scope="module")
def wide_data(tmp_path_factory):
    """A tank's log with a hundred more exogenous tags: 20 MB of rows that must be held, 230 MB that need not be."""
    path = tmp_path_factory.mktemp("wide")
    tank = small_plant.dataset(small_plant.spec(history=0), episodes=50, steps=ROWS // 50 - 1)
    tags = {**tank.spec.to_dict()["tags"]}
    tags |= {f"other{i}": {"role": "exogenous", "unit": "1", "range": [-5, 5]} for i in range(OTHERS)}
    rng = np.random.default_rng(0)
    others = rng.normal(size=(len(tank), OTHERS)).astype(np.float32)
    plant = small_plant.spec(history=0, tags=tags)
    data = TransitionDataset.from_frames(
        plant,
        frames=np.concatenate([tank.frames, others], axis=1),
        actions=tank.actions,
        episode=tank.episode,
        time_ns=tank.time_ns,
    )
    data.save(path / "data")
    TransitionDataset.load(path / "data", mapped=True)  # unpacks it
    return path


def trained(path, how, megabytes):
    script = textwrap.dedent(TRAIN)
    return subprocess.run(
        [sys.executable, "-c", script, str(path), how, str(megabytes)], capture_output=True, text=True, check=False
    )


def test_training_stays_within_a_memory_that_the_data_set_exceeds(wide_data):
    found = trained(wide_data, "mapped", 170)
    assert found.returncode == 0, found.stderr[-2000:]
    assert f"trained on {ROWS}" in found.stdout


def test_the_same_data_set_in_memory_does_not_fit(wide_data):
    found = trained(wide_data, "whole", 170)
    assert found.returncode != 0


def test_observations_of_a_mapped_log_are_those_of_one_in_memory(tmp_path):
    small_plant.dataset(small_plant.spec(history=4), episodes=3, steps=30).save(tmp_path / "data")
    whole, mapped = (
        LoggedTransitions(TransitionDataset.load(tmp_path / "data", mapped=mapped)) for mapped in (False, True)
    )
    for one, other in zip(whole.batch(whole.rows).tensors, mapped.batch(mapped.rows).tensors, strict=True):
        assert one.dtype == other.dtype
        assert one.equal(other)
    assert whole.remaining.equal(mapped.remaining)


def test_an_overview_is_all_rows_or_evenly_spaced_ones(monkeypatch):
    log = LoggedTransitions(small_plant.dataset(episodes=3, steps=30))
    assert log.overview.equal(log.rows)
    monkeypatch.setattr("controlkit.replay.OVERVIEW", 12 * 10)  # ten rows of two tags and a command
    assert log.overview.tolist() == log.rows[:: -(-len(log.rows) // 10)].tolist()
    assert thinned(log.rows, 1).tolist() == [log.rows[0]]


def test_stretches_keep_neighbours_together():
    log = LoggedTransitions(small_plant.dataset(episodes=1, steps=3000))
    rows = stretches(log.rows, 1000)
    assert len(rows) == 1000
    assert int((rows[1:] == rows[:-1] + 1).sum()) == 800
    assert int(rows[-1]) > 2900
    assert stretches(log.rows, len(log.rows)).equal(log.rows)
