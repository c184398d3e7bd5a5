"""The study *cost* at its smallest, the peer being a stand-in that answers as d3rlpy would."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.benchmarks.neorl2 import EPISODES
from controlkit.benchmarks.policy_jobs import SCORE_SEED
from controlkit.errors import ControlkitError
from controlkit.progress import Silent
from controlkit.studies.cost import Effort, affordable, run_study
from controlkit.studies.cost_runs import PeerController, open_peer, true_score
from controlkit.studies.cost_speed import OurUpdates
from envs.closed_loop import score
from envs.collect import collect
from envs.tasks import get_task

TINY = (
    "dynamics.hidden=[8]",
    "dynamics.max_epochs=1",
    "reward.updates=40",
    "reward.distil=false",
    "reward.hidden=[8]",
    "reward.behaviour_updates=10",
    "reward_model.updates=40",
    "reward_model.hidden=[8]",
    "rollout.starts=20",
    "rollout.length=5",
    "rollout.every=20",
    "policy.hidden=[8]",
    "policy.gamma=0.9",
)
# What the study asks of the library: its data set, two algorithms, a scaler. The policy pushes against the velocity.
STAND_IN = """
import time, types, numpy as np

class MDPDataset:
    def __init__(self, observations, actions, rewards, terminals, timeouts):
        assert observations.shape[1:] == (6,) and actions.shape[1:] == (2,)
        assert rewards.shape == terminals.shape == timeouts.shape == (len(observations),)
        assert timeouts.sum() > 1 and not terminals.any()
        self.episodes, self.transition_picker = list(range(int(timeouts.sum()))), None
    def sample_transition_batch(self, size):
        return size

class StandardObservationScaler:
    fitted = False
    def fit_with_transition_picker(self, episodes, picker):
        self.fitted = len(episodes) > 1

class Config:
    def __init__(self, batch_size, observation_scaler):
        self.batch, self.scaler, self.updates, self.built = batch_size, observation_scaler, 0, False
    def create(self, device):
        assert device == "cpu"
        return self
    def build_with_dataset(self, data):
        self.built = True
    def update(self, batch):
        assert batch == self.batch == 256 and self.scaler.fitted and self.built
        time.sleep(self.pause)
    def predict(self, x):
        return -0.5 * x[:, 2:4]

class TD3PlusBCConfig(Config):
    pause = 1e-3

class CQLConfig(Config):
    pause = 1e-2

def seed(number):
    pass

print("a line that is no answer")
dataset = types.SimpleNamespace(MDPDataset=MDPDataset)
algos = types.SimpleNamespace(TD3PlusBCConfig=TD3PlusBCConfig, CQLConfig=CQLConfig)
preprocessing = types.SimpleNamespace(StandardObservationScaler=StandardObservationScaler)
"""


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A released file of a few episodes, and a Python with the stand-in."""
    (tmp_path / "neorl2").mkdir()
    log = collect("dmsd", tmp_path / "log.npz", episodes=8, seed=0)
    arrays: dict[str, Any] = dict(np.load(log.path))
    named = ("frame_tags", "action_tags", "timestamp", "episode", "terminated")
    content = {name: values for name, values in arrays.items() if name not in named}
    after = arrays["next_obs"]
    content["reward"] = -np.log(np.abs(after[:, :2] - after[:, 4:]) + 0.01).sum(axis=1)
    content["done"] = np.zeros(len(after), dtype=np.float32)
    np.savez(tmp_path / "neorl2" / "DMSD-train.npz", **content)
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "d3rlpy.py").write_text(STAND_IN)
    monkeypatch.setenv("CONTROLKIT_DATA", str(tmp_path))
    monkeypatch.setenv("CONTROLKIT_PEER_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    return tmp_path


class Brake:
    """The stand-in's policy."""

    def reset(self, batch: int) -> None:
        """Nothing is remembered."""

    def act(self, measurement: Any) -> Any:
        """(B, 6) -> (B, 2)."""
        return -0.5 * measurement[:, 2:4]


def test_a_small_study_has_its_rows_and_goes_on_where_it_was(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlkit.studies.cost.commit", lambda: "fixed")
    out, effort = released / "out", Effort(updates=200, longest_s=1.0, rounds=2, settings=TINY)
    methods = ("mean, rewards only", "d3rlpy TD3+BC", "d3rlpy CQL")

    def run() -> str:
        return run_study(out, 1, Silent(), methods=methods, workers=1, effort=effort)

    table = run()
    records = json.loads((out / "results.json").read_text())
    cells = {(r["method"], r["metric"]): r for r in records}
    assert [name for name in methods if f"| {name} |" in table] == [*methods]
    # The stand-in's policy is known, and so is how long it sleeps.
    task = get_task("dmsd")
    loop = score(Brake(), task, SCORE_SEED, EPISODES)
    wanted = task.benchmark_score(-loop.mean * loop.steps)
    assert cells["d3rlpy CQL", "score"]["value"] == pytest.approx(wanted, abs=1e-3)
    assert cells["d3rlpy CQL", "score"]["stderr"] == 0.0
    assert 5 < cells["d3rlpy CQL", "steps_per_s"]["value"] < 100
    assert cells["d3rlpy TD3+BC", "steps_per_s"]["value"] > cells["d3rlpy CQL", "steps_per_s"]["value"]
    assert cells["d3rlpy CQL", "updates"]["value"] == 100  # what a second allows, but a hundred at least
    assert cells["mean, rewards only", "score"]["episodes"] == EPISODES
    assert cells["mean, rewards only", "score"]["data_sha256"]
    for name in methods:
        assert cells[name, "peak_mib"]["value"] > 20
        assert cells[name, "train_seconds"]["value"] > 0
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(methods) * (4 + 2)
    assert (out / "cost.png").read_bytes().startswith(b"\x89PNG")
    parts = sorted((out / "parts").glob("*.json"))
    assert len(parts) == len(methods) + 1
    before = [part.stat().st_mtime_ns for part in parts]
    assert run() == table
    assert [part.stat().st_mtime_ns for part in parts] == before


def test_a_peer_sees_the_columns_of_the_released_data(released: Path) -> None:
    with open_peer("d3rlpy TD3+BC", sys.executable, 0) as peer:
        controller = PeerController(peer)
        controller.reset(3)
        measurement = np.random.default_rng(0).normal(size=(3, 6))
        assert controller.act(measurement) == pytest.approx(-0.5 * measurement[:, 2:4])
        assert true_score(controller) == pytest.approx(true_score(Brake()), abs=1e-3)


def test_memory_is_the_process_s_own() -> None:
    held = np.ones(40_000_000)  # 305 MiB here, which a child does not have
    code = (
        "import numpy as np; from controlkit.studies.memory import peak_mib; a = peak_mib(); "
        "x = np.ones(20_000_000); b = peak_mib(); del x; print(a, b, peak_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, with_it, after = map(float, done.stdout.split())
    assert with_it - before == pytest.approx(20e6 * 8 / 2**20, rel=0.1)
    assert after == pytest.approx(with_it, abs=2.0)  # the kernel counts in batches
    assert held.sum() == 40_000_000


@pytest.mark.parametrize("method", ["morec, formula", "td3_bc", "bc"])
def test_what_is_timed_are_gradient_steps(method: str) -> None:
    ours = OurUpdates(method, TINY)
    learner = ours.blocks.learner
    assert ours.steps_per_s() > 0
    first = learner.updates
    assert first == (20 if method.startswith("morec") else 400)
    assert ours.steps_per_s() > 0
    assert learner.updates == 2 * first
    assert ours.imagines == method.startswith("morec")


def test_as_many_steps_as_the_time_allows() -> None:
    assert affordable(20_000, 100.0, 1200.0) == 20_000
    assert affordable(20_000, 16.7, 1200.0) == 20_000
    assert affordable(20_000, 10.4, 1200.0) == 12_400
    assert affordable(20_000, 0.01, 1200.0) == 100


def test_what_is_missing_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLKIT_DATA", str(tmp_path))
    with pytest.raises(ControlkitError, match="released data file is not there"):
        run_study(tmp_path / "out", 1, Silent())
    with pytest.raises(ControlkitError, match=r"unknown 'd3rlpy CQN'. did you mean 'd3rlpy CQL'\?"):
        run_study(tmp_path / "out", 1, Silent(), methods=("d3rlpy CQN",))
