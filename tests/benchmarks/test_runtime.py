"""The suite `runtime` at sizes that take seconds: what each part counts, and that a run goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("asyncua", reason="OPC UA is the extra [opcua]")

from controlkit.benchmarks import run_suite, runtime
from controlkit.benchmarks.runtime_faults import KINDS, VALUES, Fault, FaultyPlant, Killed, PlantClock
from controlkit.benchmarks.runtime_graph import linear_bundle, linear_log
from controlkit.benchmarks.runtime_loop import Stopwatch
from controlkit.benchmarks.runtime_plant import LinearEnv, linear_spec, linear_task
from controlkit.benchmarks.runtime_soak import judge, run_soak
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.progress import Silent
from deploy.bundle import Bundle
from deploy.runtime.clock import NS, AcceleratedClock
from deploy.runtime.plant import Sample, WriteRequest
from deploy.runtime.simulated import SimulatedPlant

TINY: dict[str, dict[str, Any]] = {
    "dynamics": {"members": 2, "elites": 2, "hidden": [8], "max_epochs": 2},
    "reward": {"updates": 60, "behaviour_updates": 60, "distil_updates": 60, "hidden": [8]},
    "rollout": {"length": 2, "starts": 10, "every": 5},
    "policy": {"hidden": [8], "updates": 5, "warm_start": 100, "batch_size": 32},
}
SIZES = runtime.Sizes(
    steps=200, layers=(1,), footprints=("opcua",), memory_s=0.0, starts=1, loop_period_s=1.0, loop_s=4.0,
    soak_cycles=400, soak_chance=0.2, kpi_settle=5, kpi_periods=10, kpi_speed=5.0, phases=(0.75,), rows=600,
    settings=TINY,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return linear_bundle(tmp_path_factory.mktemp("linear"), 1.0, 1, rows=SIZES.rows, settings=TINY)


def test_the_log_keeps_the_limits_and_rates_of_its_plant() -> None:
    log = linear_log(0.01, 400)
    unsafe, jumps = judge(log.spec, log.actions[:-1].astype(np.float64), np.ones(399, dtype=np.bool_))
    assert (unsafe, len(jumps)) == (0, 0)
    assert float(np.abs(log.frames[:, :15]).max()) < 9
    assert float(log.frames[:, 0].std()) > 0.05
    assert linear_spec(0.01).tags["a0"].max_rate_per_s == pytest.approx(20.0)


def test_every_unsafe_command_of_a_controller_counts_and_no_operators() -> None:
    commands = np.zeros((8, 3))
    commands[1, 0] = 2.0  # outside, and a jump; the way back is a jump, too
    commands[4, 1] = np.nan
    controlled = np.array([False, True, True, True, True, True, True, False])
    unsafe, jumps = judge(linear_spec(1.0), commands, controlled)
    assert unsafe == 4
    assert jumps == pytest.approx([10.0])
    assert judge(linear_spec(1.0), commands, np.zeros(8, dtype=np.bool_))[0] == 0


def test_a_stopwatch_adds_within_a_cycle_and_holds_no_more_than_it_was_made_for() -> None:
    watch = Stopwatch(2)
    call = watch.timed("read", lambda: 7)
    assert call() == 7  # before the first cycle: left out
    for _ in range(3):
        watch.row += 1
        watch.note("audit", 1_000_000)
        watch.note("audit", 2_000_000)
        call()
    assert watch.times.shape[0] == 2
    assert watch.times[:, 5] == pytest.approx(3.0)
    assert np.isnan(watch.times).sum() == 2 * 6


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_fault_acts_until_it_ends(kind: str) -> None:
    clock = AcceleratedClock()
    inner, spec = PlantClock(clock), linear_spec(1.0)
    simulated = SimulatedPlant(spec, LinearEnv(), inner)
    simulated.lease = "us 1"
    plant = FaultyPlant(simulated, inner, np.random.default_rng(0))
    request = WriteRequest(commands={"a0": 0.1, "a1": 0.1}, heartbeat=1)
    healthy = plant.read(1.0)
    plant.begin(Fault(kind, "a0" if kind.startswith(("write", "command")) else "s0", 0, 9))
    clock.advance(1.0)

    def told() -> tuple[Any, ...]:
        try:
            reading, result = plant.read(1.0), plant.write(request, 1.0)
            commands = plant.read_back(1.0)
        except Killed:
            return ("killed",)
        return (
            repr(reading.samples.get("s0")), reading.problem, reading.auto, reading.heartbeat, reading.lease,
            "a0" in reading.commands, dict(result.refused), result.problem, commands.get("a0"),
        )  # fmt: skip

    seen = told()
    elsewhere = ("slow", "disk full", "clock ahead", "clock back")  # acted on by the soak itself
    value = Sample(inner.wall_ns() // NS * NS, float(simulated.frame[0]))
    usual = (repr(value), "", True, simulated.heartbeat, "us 1", True, {}, "", 0.1)
    if kind == "frozen":
        assert repr(value) == seen[0]  # the first that it shows
        clock.advance(1.0)
        assert plant.read(1.0).samples["s0"].value == value.value != float(simulated.frame[0])
    else:
        assert (seen == usual) == (kind in elsewhere)
    plant.end()
    clock.advance(1.0)
    simulated.lease = "us 1"
    healed = plant.read(1.0)
    assert healed.samples["s0"].quality == "good"
    assert healed.samples["s0"].time_ns == inner.wall_ns() // NS * NS
    assert (healed.auto, healed.problem, len(healed.commands)) == (True, "", len(healthy.commands))
    assert plant.write(request, 1.0).refused == {}
    assert plant.read_back(1.0)["a0"] == pytest.approx(0.1)


def test_a_soak_finds_every_fault_and_loses_nothing(bundle: Bundle, tmp_path: Path) -> None:
    found = run_soak(bundle, tmp_path / "state", 3, 1000, Silent(), chance=0.3)
    assert found["cycles"] == 1000
    assert (found["unsafe"], found["lost"], found["chain"], found["false_falls"]) == (0, 0, "", [])
    assert found["told"] >= 12
    for kind, counts in found["kinds"].items():
        assert counts["flagged"] == counts["injected"], kind
    values = sum(found["kinds"][kind]["fell"] for kind in VALUES)
    assert values == sum(found["kinds"][kind]["injected"] for kind in VALUES)
    assert found["takeovers"] >= 5
    assert found["largest_jump"] <= 1.0 + 1e-4


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match="kpi"):
        run_suite("runtime", tmp_path, 1, Silent(), tasks=["kip"])


def test_the_suite_measures_every_part_and_goes_on_where_it_was(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path_factory.mktemp("out")
    monkeypatch.setattr(runtime, "SIZES", SIZES)
    monkeypatch.setattr(runtime, "_kpi_plant", lambda out, progress: (bundle, linear_task(1.0), LinearEnv))
    (out / "data").mkdir()
    (out / "data" / "linear-1-1").symlink_to(bundle.path.parent)
    table = run_suite("runtime", out, 1, Silent())
    records = read_json(out / "results.json")
    figures = {(record["task"].partition(",")[0], record["metric"]): record["value"] for record in records}
    assert {task for task, _ in figures} == {"graph", "footprint", "loop", "soak", "kpi"}
    assert 0 < figures["graph", "step_p50_ms"] <= figures["graph", "step_p99_ms"] <= figures["graph", "step_p999_ms"]
    assert 30 < figures["footprint", "memory_mb"] < 1000
    assert 0 < figures["footprint", "start_s"] <= figures["footprint", "start_faultless_s"]
    assert 0 <= figures["loop", "deadline_met_share"] <= 1
    assert figures["loop", "read_p50_ms"] > 0
    assert (figures["soak", "unsafe_commands"], figures["soak", "lost_rows"]) == (0, 0)
    assert figures["kpi", "kpi_opcua"] == pytest.approx(figures["kpi", "kpi_simulated"], rel=0.5)
    assert "reached" in table.splitlines()[0]
    before = (out / "results.json").read_bytes()
    assert run_suite("runtime", out, 1, Silent(), tasks=["graph", "soak"]) == table
    assert (out / "results.json").read_bytes() == before
