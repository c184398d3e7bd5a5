"""The speed suite at sizes that take no time: what it runs, what it keeps, what it says when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from controlkit.benchmarks import run_suite, speed
from controlkit.benchmarks.peer import MARK, VARIABLE, Peer, peer_python
from controlkit.benchmarks.synthetic import synthetic_log, synthetic_spec
from controlkit.benchmarks.time_profile import profile_tables
from controlkit.benchmarks.workload import Sizes, Workload
from controlkit.config import RunConfig
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.progress import Silent

TINY = {
    "dynamics": {"members": 3, "elites": 2, "hidden": [8]},
    "reward": {"hidden": [8]},
    "policy": {"hidden": [8], "batch_size": 16},
    "rollout": {"length": 4, "starts": 10, "keep": 2},
}
# Answers whatever it is asked as d3rlpy's script does, without d3rlpy.
STAND_IN = f"""
import json, sys
print("a library's chatter")
for line in sys.stdin:
    print("{MARK}" + json.dumps({{"seconds": json.loads(line)["updates"] / 50}}), flush=True)
"""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    config = RunConfig.from_dict(TINY)
    monkeypatch.setattr(speed, "sac_config", lambda: config)
    monkeypatch.setattr(speed, "dmsd_config", lambda layers: config)
    monkeypatch.setattr(speed, "UPDATES", 5)
    return config


def test_a_synthetic_log_is_stable_and_has_the_sizes_that_were_asked_for() -> None:
    spec = synthetic_spec(5, 2, 3)
    data = synthetic_log(spec, episodes=4, steps=300)
    assert data.frames.shape == (4 * 301, 7)
    assert data.actions.shape[1] == 3
    assert len(data.require_transitions()) == 4 * 300
    assert float(np.abs(data.frames[:, :5]).max()) < 10
    assert float(data.frames[:, :5].std()) > 0.1


def test_a_workload_rolls_out_to_the_end_and_trains_on_it(tiny: RunConfig) -> None:
    work = Workload(Sizes(3, 1, 2), tiny, 1)
    assert work.roll(work.roller(speed.candidates())) == 40
    assert work.roll(work.roller(speed.UNFILTERED)) == 40
    assert work.ring.size == 80
    before = work.learner.critics.net.body[0].weight.clone()
    work.blocks.run(3)
    assert work.learner.updates == 3
    assert not torch.equal(before, work.learner.critics.net.body[0].weight)


def test_the_suite_keeps_its_figures_and_goes_on_where_it_was(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "peer_sac.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(speed, "__file__", str(tmp_path / "speed.py"))
    monkeypatch.setenv(VARIABLE, sys.executable)
    table = run_suite("speed", tmp_path / "out", 1, Silent(), tasks=["sac", "dmsd"])
    records = {(r["task"], r["method"], r["metric"]): r["value"] for r in read_json(tmp_path / "out" / "results.json")}
    assert records["sac", "d3rlpy", "sac_updates_per_s"] == pytest.approx(50.0)
    ours = records["sac", "controlkit", "sac_updates_per_s"]
    assert records["sac", "controlkit / d3rlpy 2.8.1", "ratio"] > 0
    assert ours > 0
    for layers in speed.LAYERS:
        for name in ("filtered", "unfiltered"):
            assert records[f"dmsd {layers}x200", "controlkit", f"{name}_transitions_per_s"] > 0
    assert "sac_updates_per_s" in table
    monkeypatch.setattr(speed, "UPDATES", 0)  # measured anew it would divide by nothing
    monkeypatch.setattr(speed, "Workload", None)
    assert run_suite("speed", tmp_path / "out", 1, Silent(), tasks=["sac", "dmsd"]) == table


def test_the_profile_names_the_parts_and_their_shares(tiny: RunConfig) -> None:
    text = profile_tables(tiny, tiny, speed.candidates(), speed.UNFILTERED)
    for part in ("forward passes", "backward passes", "Adam", "dynamics ensemble", "dynamics reward"):
        line = next(line for line in text.splitlines() if line.startswith(f"| {part} "))
        assert int(line.split("|")[2]) > 0, part
    assert "unfiltered rollout step" in text


def test_wrong_names_are_told() -> None:
    with pytest.raises(ControlkitError, match="unknown 'sak'"):
        run_suite("speed", Path("nowhere"), 1, Silent(), tasks=["sak"])
    with pytest.raises(ControlkitError, match="unknown suite"):
        run_suite("sped", Path("nowhere"), 1, Silent())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_method_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match="no GPU"):
        run_suite("speed", tmp_path, 1, Silent(), methods=["gpu"])


def test_a_peer_that_ends_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('no such library')")
    with Peer(Path(sys.executable), script, {}) as peer, pytest.raises(ControlkitError, match="no such library"):
        peer.ask({"updates": 1})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(ControlkitError, match="names no file"):
        peer_python(tmp_path / "peer")
