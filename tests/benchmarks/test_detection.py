"""The benchmark of the checks: injectors change exactly what they say, figures against counting, a reduced run."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from controlkit.benchmarks import detection_plants
from controlkit.benchmarks.detection import run_suite
from controlkit.benchmarks.detection_faults import (
    PLANT_FAULTS,
    SENSOR_FAULTS,
    SIZED,
    Fault,
    Injector,
    Signals,
    all_faults,
    columns_of,
    compressed,
    starts_of,
)
from controlkit.benchmarks.detection_loop import Lane, Trace, watch
from controlkit.benchmarks.detection_plants import DetectionPlant, get_plant, open_prepared
from controlkit.benchmarks.detection_scores import (
    FalseTrips,
    clopper_pearson_lower,
    clopper_pearson_upper,
    false_trips,
    find,
    recalibrated,
    running_sums,
    tail_beyond,
)
from controlkit.benchmarks.detection_sources import CHANGES, RecordedOperator, RecordedPlant, source
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.progress import Silent
from deploy.bundle.safety import SafetyConfig
from deploy.export.graph import GraphInputs, GraphOutputs
from deploy.runtime.session import ControllerSession
from envs.refrigerator import VectorRefrigerator
from envs.tasks import get_task

SIGNALS = Signals(
    sigma=np.array([0.5, np.nan, 2.0]),
    low=np.array([-10.0, 0.0, -20.0]),
    high=np.array([10.0, 1.0, 20.0]),
    partner=np.array([2, -1, 0]),
    columns=np.array([0, 2]),
    period_s=2.0,
)
COPIES, STEPS = 4, 12
SETTINGS = (
    "dynamics.architecture=window", "dynamics.hidden=[8]", "dynamics.members=2", "dynamics.elites=2",
    "dynamics.max_epochs=3", "reward.networks=1", "reward.snapshots=1", "reward.hidden=[16]", "reward.updates=80",
    "reward.behaviour_updates=20", "reward.distil_updates=20", "rollout.every=20", "rollout.starts=20",
    "rollout.length=5", "policy.inputs=current", "policy.hidden=[8]",
    "policy.warm_start=10", "policy.updates=40",
)  # fmt: skip
TINY = DetectionPlant(
    task="refrigerator", run="refrigerator", warm_up=30, starts=20, horizon=30, healthy_steps=220, healthy=3, faulty=2,
    streams=2, episodes=1, recalibration=60, changed="leak", settings=SETTINGS,
)  # fmt: skip


def faults(kinds: Any) -> st.SearchStrategy[Fault]:
    return st.sampled_from([Fault(kind, size) for kind in kinds for size in SIZED.get(kind, (0.0,))])


def injector(fault: Fault, start: np.ndarray, column: np.ndarray, seed: int = 0) -> Injector:
    return Injector(fault, start, column, SIGNALS, np.random.default_rng(seed))


@given(fault=faults(SENSOR_FAULTS), seed=st.integers(0, 2**32 - 1))
def test_a_sensor_fault_changes_its_tag_from_its_start_on_and_nothing_else(fault: Fault, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.uniform(-5.0, 5.0, (STEPS, COPIES, 3))
    start, column = rng.integers(0, STEPS + 3, COPIES), rng.choice([0, 2], COPIES)
    mine, again = injector(fault, start, column, seed), injector(fault, start, column, seed)
    copies = np.arange(COPIES)
    for time, frame in enumerate(frames):
        given_frame = frame.copy()
        read, repeated = mine.sense(time, frame), again.sense(time, frame)
        np.testing.assert_array_equal(frame, given_frame)
        np.testing.assert_array_equal(read.frame, repeated.frame)
        command = rng.uniform(-1.0, 1.0, (COPIES, 2))
        for carried_out in mine.actuate(time, command):
            np.testing.assert_array_equal(carried_out, command)
        untouched = np.ones(frame.shape, dtype=np.bool_)
        active = time >= start
        untouched[copies[active], column[active]] = False
        np.testing.assert_array_equal(read.frame[untouched], frame[untouched])
        assert (read.ok[untouched] == 1.0).all()
        assert (read.age_s[untouched] == 0.0).all()
        for copy in copies[active]:
            at, since = (copy, column[copy]), time - start[copy]
            value, kept, unit = frame[at], frames[start[copy]][at], SIGNALS.sigma[column[copy]]
            exact = {
                "bias": value + fault.size * unit,
                "drift": value + fault.size * unit * since / 100,
                "spike": value + (fault.size * unit if since == 0 else 0.0),
                "frozen": kept,
                "zero": 0.0,
                "end": SIGNALS.high[column[copy]],
                "swapped": frame[copy, SIGNALS.partner[column[copy]]],
                "quality": value,
                "stale": kept,
            }.get(fault.kind.removesuffix(" moving"))
            if exact is not None:
                assert read.frame[at] == pytest.approx(exact)
            assert read.ok[at] == (0.0 if fault.kind == "quality" else 1.0)
            assert read.age_s[at] == (since * SIGNALS.period_s if fault.kind == "stale" else 0.0)


@pytest.mark.parametrize(
    ("kind", "size", "expected"), [("noise", 2.0, 2.0), ("noise", 4.0, 4.0), ("dithering", 0, 0.1)]
)
def test_added_noise_has_the_stated_size(kind: str, size: float, expected: float) -> None:
    copies = 20_000
    healthy = SIGNALS.sigma[2] * np.random.default_rng(1).standard_normal((2, copies, 3))
    mine = injector(Fault(kind, size), np.zeros(copies, dtype=int), np.full(copies, 2))
    read = [mine.sense(time, frame).frame[:, 2] for time, frame in enumerate(healthy)]
    shown = read[1] - healthy[0, :, 2] if kind == "dithering" else read[1]
    assert shown.std() == pytest.approx(expected * SIGNALS.sigma[2], rel=0.03)


@given(fault=faults(PLANT_FAULTS), seed=st.integers(0, 2**32 - 1))
def test_a_fault_of_the_plant_changes_the_command_alone(fault: Fault, seed: int) -> None:
    rng = np.random.default_rng(seed)
    commands = rng.uniform(-1.0, 1.0, (STEPS, COPIES, 2))
    start = rng.integers(1, STEPS + 3, COPIES)
    mine = injector(fault, start, np.zeros(COPIES, dtype=int))
    for time, command in enumerate(commands):
        frame = rng.uniform(-5.0, 5.0, (COPIES, 3))
        np.testing.assert_array_equal(mine.sense(time, frame).frame, frame)
        carried_out, echo = mine.actuate(time, command)
        for copy in range(COPIES):
            expected = command[copy]
            if time >= start[copy] and fault.kind.startswith("stuck"):
                expected = commands[start[copy] - 1, copy]
            elif time >= start[copy] and fault.kind == "gain":
                expected = fault.size * command[copy]
            np.testing.assert_allclose(carried_out[copy], expected)
            np.testing.assert_allclose(echo[copy], expected if fault.kind == "stuck honest" else command[copy])


def test_every_kind_of_fault_is_in_the_list_where_it_can_be() -> None:
    everything = {fault.kind for fault in all_faults(plant=True, dynamics=True, swappable=True)}
    assert everything == {*SENSOR_FAULTS, *PLANT_FAULTS}
    recorded = {fault.kind for fault in all_faults(plant=False, dynamics=True, swappable=False)}
    assert recorded == set(SENSOR_FAULTS) - {"swapped"}
    names = [fault.name for fault in all_faults(plant=True, dynamics=True, swappable=True)]
    assert len(set(names)) == len(names)
    assert Fault("dynamics", 2).label("leak") == "leak x 2"


def test_swaps_are_between_tags_of_one_unit_and_range() -> None:
    spec = get_task("dmsd").spec()
    signals = Signals.of(spec, np.ones(6))
    assert signals.partner.tolist() == [1, 0, 3, 2, -1, -1]
    assert (Signals.of(get_task("refrigerator").spec(), np.ones(2)).partner == -1).all()
    assert set(columns_of(SIGNALS, Fault("swapped"), 6).tolist()) == {0, 2}
    assert columns_of(signals, None, 5).tolist() == [0, 1, 2, 3, 0]


def test_a_fault_that_needs_movement_begins_before_it() -> None:
    frames = np.zeros((40, 2, 3))
    frames[25:, 0, 0] = 7.0  # moves between 24 and 25
    start, moved = starts_of(Fault("frozen moving"), np.array([12, 13]), frames, np.array([0, 2]), 5, (10, 30))
    assert 20 <= start[0] <= 24
    assert moved.tolist() == [7.0, 0.0]
    start, _ = starts_of(Fault("frozen"), np.array([12, 13]), frames, np.array([0, 2]), 5, (10, 30))
    assert start.tolist() == [12, 13]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.floats(0.0, 3.0))
def test_a_historian_never_strays_by_more_than_its_deadband(values: list[float], deadband: float) -> None:
    signal = np.array(values)[:, None]
    kept = compressed(signal, np.array([deadband]))
    assert kept[0] == signal[0]
    assert (np.abs(kept - signal) <= deadband).all()
    moved = kept[1:] != kept[:-1]
    np.testing.assert_array_equal(kept[1:][moved], signal[1:][moved])


@pytest.mark.parametrize("changed", [np.array([True, False]), np.array([False, False])])
def test_changed_dynamics_follow_the_changed_constant(changed: np.ndarray) -> None:
    power = np.array([[0.4], [0.4]])
    plain, mine = (VectorRefrigerator(2, np.random.default_rng(3)) for _ in range(2))
    plain.step(power)
    frame = CHANGES["leak"](mine, power, 2.0, changed)
    # T' = cooled - (cooled - 15) k with k = 0.02, or 0.04 where it is changed; the same noise on top.
    cooled = 10.0 - 0.4
    wanted = np.where(changed, cooled - (cooled - 15.0) * 0.04, cooled - (cooled - 15.0) * 0.02)
    np.testing.assert_allclose(mine.true_temperature, wanted)
    np.testing.assert_allclose(frame[:, 0] - wanted, plain.measured_temperature - plain.true_temperature)
    springs, task = get_task("dmsd"), np.random.default_rng
    one, other = springs.simulator(2, task(0)), springs.simulator(2, task(0))
    force = np.full((2, 2), 0.3)
    before = one.true_frame
    after = CHANGES["damping"](one, force, 1.5, changed)
    still = other.step(force)
    np.testing.assert_array_equal(after[~changed], still[~changed])
    velocity = before[:, 2:4]
    extra = 0.2 / 20.0 * 0.5 * 4.0 * (velocity[:, ::-1] - 2.0 * velocity)
    np.testing.assert_allclose((after - still)[changed][:, 2:4], extra[changed])


# Figures ----------------------------------------------------------------------------------------------------------


def test_bounds_of_clopper_and_pearson() -> None:
    assert clopper_pearson_upper(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert clopper_pearson_upper(1, 10) == pytest.approx(0.3942, abs=1e-4)  # from tables
    assert clopper_pearson_lower(10, 10) == pytest.approx(0.05 ** (1 / 10))
    assert clopper_pearson_lower(9, 10) == pytest.approx(1 - 0.3942, abs=1e-4)
    assert clopper_pearson_upper(7, 7) == clopper_pearson_upper(0, 0) == 1.0
    assert clopper_pearson_lower(0, 7) == 0.0


def test_trips_are_counted_by_their_onsets_and_bounded_by_trajectories() -> None:
    up, full = np.zeros((10, 4), dtype=np.bool_), np.ones((10, 4), dtype=np.bool_)
    up[3:6, 1] = up[8, 1] = up[0, 2] = True
    full[:2] = False  # the trip of the third is before its history was full
    found = false_trips(up, full)
    assert (found.trips, found.steps, found.hit, found.trajectories) == (2, 32, 1, 4)
    assert found.rate == pytest.approx(2 / 32 * 10_000)
    chance = clopper_pearson_upper(1, 4)
    assert found.upper == pytest.approx(2 * chance / 8 * 10_000)  # two trips where there is one
    assert FalseTrips.of(0, 32, 0, 4).upper == pytest.approx(-math.log1p(-clopper_pearson_upper(0, 4)) / 8 * 10_000)
    assert FalseTrips.of(5, 100, 3, 3).upper is None  # every trajectory: nothing bounds the rate


def test_an_exponential_tail_is_found() -> None:
    """Maxima of 100 exponential numbers pass x with the probability 1 - (1 - exp(-x))^100."""
    rng = np.random.default_rng(0)
    values = rng.exponential(1.0, (2000, 60))
    limit = 14.0
    true = (1.0 - (1.0 - math.exp(-limit)) ** 100) * 100
    found = tail_beyond(values, limit, rng)
    assert 0.2 * true < found.rate < 5.0 * true
    assert found.rate <= found.upper
    assert found.highest == pytest.approx(values.max() / limit)
    assert found.excesses == 120
    seen = tail_beyond(values, 3.0, rng)  # a limit inside what was seen is counted
    blocks = values.reshape(20, 100, 60).max(axis=1)
    assert seen.rate == pytest.approx((blocks > 3.0).mean() * 100)


def test_a_heavy_tail_is_not_taken_for_an_exponential_one() -> None:
    rng = np.random.default_rng(1)
    heavy = rng.pareto(4.0, (1000, 100))
    assert tail_beyond(heavy, 60.0, rng).shape > 0.1
    assert tail_beyond(rng.uniform(size=(1000, 100)), 2.0, rng).shape == 0.0


NAMES = ("history_filling", "observed_unfamiliar", "observed_unscored", *(
    "input_bad_quality", "input_bad_range", "input_bad_age", "input_frozen", "input_unusable", "reference_invalid",
    "model_invalid", "score_observed_low", "ewma_high", "cusum_high", "predicted_limit", "spread_high",
    "score_predicted_low",
))  # fmt: skip


def trace(raised: dict[tuple[int, int], str], steps: int = 30, copies: int = 3, **columns: Any) -> Trace:
    flags = np.zeros((steps, copies, len(NAMES)), dtype=np.bool_)
    for (time, copy), name in raised.items():
        flags[time, copy, NAMES.index(name)] = True
    nothing = np.zeros((steps, copies), dtype=np.float32)
    plain = dict.fromkeys(("trust", "ewma", "cusum", "shortfall"), nothing) | columns
    return Trace(NAMES, flags, frames=nothing[..., None], commands=nothing[..., None], **plain)


def test_a_delay_runs_to_the_first_flag_that_the_healthy_run_does_not_raise() -> None:
    healthy = trace({(12, 0): "ewma_high", (12, 1): "ewma_high"})
    faulty = trace(
        {
            (8, 0): "cusum_high",  # before the fault
            (12, 0): "ewma_high",  # raised without it, too
            (15, 0): "cusum_high",
            (13, 1): "input_frozen",
            (18, 1): "score_observed_low",
            (21, 2): "cusum_high",  # after the horizon
            (12, 2): "spread_high",  # scales trust, and cuts nothing
        }
    )
    found = find(faulty, healthy, np.array([10, 10, 10]), 10)
    assert found.delay.tolist() == [5, 3, -1]
    assert found.rule == ("cusum_high", "input_frozen", "")
    assert found.scored.tolist() == [True, True, False]
    assert found.share(4) == pytest.approx(1 / 3)


def test_a_recalibrated_stream_forgets_its_offset_but_not_its_faults() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(1.5, 1.0, (400, 3)).astype(np.float32)
    z[300:, 1] += 3.0
    z[:, 2] += 10.0  # so far off that the bundle's bounds forbid it
    thresholds = SimpleNamespace(shortfall_limit=12.0, ewma_limit=1.0, cusum_limit=15.0)
    watched = trace({}, 400, shortfall=z)
    ewma, cusum = running_sums(z.astype(float), np.ones(z.shape, dtype=np.bool_), SafetyConfig(), 15.0)
    assert (ewma[:, 0] > 1.0).any()
    assert cusum.max() == 30.0
    found = recalibrated(watched, 200, thresholds, SafetyConfig())  # type: ignore[arg-type]
    assert found.accepted.tolist() == [True, True, False]
    assert not found.up[:, 0].any()
    assert found.up[300:, 1].any()
    assert not found.up[:300, 1].any()
    assert found.counted[:, 0].tolist() == [False] * 200 + [True] * 200
    assert not found.counted[:, 2].any()


class FakeGraph(nn.Module):
    """Raises `score_observed_low` where the first tag is above 3, and commands twice the first tag."""

    flag_names, period = NAMES, 1.0

    def __init__(self) -> None:
        super().__init__()
        groups = {name: (i, i + 1) for i, name in enumerate(("trust", "ewma", "cusum"))}
        self.state_layout = SimpleNamespace(size=3, groups=groups)
        self.fallback = SimpleNamespace(safe=torch.tensor([0.25]))

    def forward(self, *ports: torch.Tensor) -> GraphOutputs:
        x = GraphInputs(*ports)
        flags = torch.zeros(len(x.obs), len(NAMES))
        flags[:, NAMES.index("score_observed_low")] = (x.obs[:, 0] > 3.0).float()
        one = x.obs[:, :1]
        state = torch.cat([one, x.act_prev, x.state_in[:, 2:] + 1.0], dim=-1)
        return GraphOutputs(2.0 * one, one, one, one, one, one, x.obs, flags, state)


class Counter:
    """A plant whose only tag counts the periods; it remembers its commands."""

    frame_tags = ("count",)
    copies = 2

    def reset(self) -> np.ndarray:
        self.time, self.commands = 0, list[np.ndarray]()
        return self.true_frame

    def step(self, command: np.ndarray) -> np.ndarray:
        self.time += 1
        self.commands.append(command.copy())
        return self.true_frame

    @property
    def true_frame(self) -> np.ndarray:
        return np.full((2, 1), self.time / 10.0)


@pytest.mark.parametrize("steps", [12, 250])  # plain and traced
def test_the_loop_hands_on_what_it_should(steps: int) -> None:
    signals = Signals(np.ones(1), np.array([-99.0]), np.array([99.0]), np.array([-1]), np.array([0]), 1.0)
    start = np.array([4, 7])
    columns = np.zeros(2, dtype=int)
    lanes = [
        Lane(Counter(), None, Injector(fault, start, columns, signals, np.random.default_rng(0)))
        for fault in (None, Fault("bias", 8.0), Fault("gain", 0.5))
    ]
    healthy, biased, weak = watch(FakeGraph(), lanes, steps)  # type: ignore[arg-type]
    assert find(biased, healthy, start, 4).delay.tolist() == [0, 0]
    assert find(weak, healthy, start, 4).delay.tolist() == [-1, -1]
    assert healthy.frames[:3, 0, 0].tolist() == [0.0, 0.1, 0.2]
    # The command of a period is the echo of the next; the first is the safe value.
    np.testing.assert_allclose(healthy.commands[:3, 0, 0], [0.25, 0.0, 0.2], atol=1e-6)
    np.testing.assert_allclose(healthy.ewma[:3, 0], [0.25, 0.0, 0.2], atol=1e-6)
    assert healthy.cusum[:3, 1].tolist() == [1.0, 2.0, 3.0]
    plant = lanes[2].simulator
    assert isinstance(plant, Counter)
    np.testing.assert_allclose([c[0, 0] for c in plant.commands[3:5]], [0.6, 0.4], atol=1e-6)  # halved from 4 on
    np.testing.assert_allclose(weak.commands[5, 0], 0.8, atol=1e-6)  # and the echo claims the whole


def test_a_recorded_log_is_replayed_whatever_the_controller_does() -> None:
    frames, commands = np.random.default_rng(0).normal(size=(2, 2, 9, 1))
    signals = Signals(np.ones(1), np.array([-99.0]), np.array([99.0]), np.array([-1]), np.array([0]), 1.0)
    nothing = np.zeros(2, dtype=int)
    lane = Lane(
        RecordedPlant(frames, ("count",)),
        RecordedOperator(commands),
        Injector(None, nothing, nothing, signals, np.random.default_rng(0)),
    )
    (found,) = watch(FakeGraph(), [lane], 9)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.frames.transpose(1, 0, 2), frames)
    assert np.isnan(found.commands[0]).all()
    np.testing.assert_array_equal(found.commands[1:].transpose(1, 0, 2), commands[:, :8])


# A reduced run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detection")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection_plants, "PLANTS", {"tiny": TINY})
        patch.setattr(detection_plants, "GATE_INPUTS", 100)
        run_suite(out, 1, Silent(), tasks=["tiny"])
    return out


def test_a_reduced_run_from_training_to_the_table(reduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [read_json(path) for path in sorted((reduced / "parts").iterdir())]
    assert [part["mode"] for part in parts] == ["closed loop", "shadow"]
    for part in parts:
        rows = {row["fault"]: row for row in part["faults"]}
        assert rows["quality"]["delays"] == {"0": 2}
        assert rows["quality"]["rules"] == {"input_bad_quality": 2}
        assert rows["stale"]["found"] == rows["frozen"]["found"] == 2
        assert rows["bias 8"]["by_tag"]["temperature"][1] == 2
        assert part["healthy"]["trips"]["trajectories"] == 3
    assert [stream["deadband"] for stream in parts[1]["streams"]] == [0.0, 1.0, 2.0, 4.0]
    table = (reduced / "table.md").read_text()
    assert "| bias, 4 sigma at once | 2 |" in table
    metrics = {(record["task"], record["metric"]) for record in read_json(reduced / "results.json")}
    assert ("tiny, healthy", "false_trips_per_10000") in metrics
    assert ("tiny, bad quality", "delay_median") in metrics
    # What is kept is not measured again, and gives the same table.
    monkeypatch.setattr(detection_plants, "PLANTS", {"tiny": TINY})
    monkeypatch.setattr("controlkit.benchmarks.detection.measure", lambda *_: pytest.fail("measured again"))
    assert run_suite(reduced, 1, Silent(), tasks=["tiny"]) == table


def test_batches_give_what_the_session_of_an_edge_gives(reduced: Path) -> None:
    """The ONNX graph, a trajectory at a time, against torch in batches; the shortfall's sums against the graph's."""
    prepared = open_prepared(reduced / "data" / "tiny-0")
    signals = Signals.of(prepared.bundle.spec, prepared.sigma)
    nothing = np.zeros(2, dtype=int)
    for operated in (True, False):
        injector = Injector(None, nothing, nothing, signals, np.random.default_rng(0))
        (found,) = watch(prepared.graph, [Lane(*source(TINY, operated, 5, 2), injector)], 220, judged=True)
        session = ControllerSession(prepared.bundle)
        steps = [session.step(found.frames[t, 1], act_prev=found.commands[t, 1]) for t in range(220)]
        np.testing.assert_array_equal(np.stack([step.flags for step in steps]) > 0.5, found.flags[:, 1])
        np.testing.assert_allclose([step.trust for step in steps], found.trust[:, 1], atol=1e-4)
        if not operated:
            issued = np.stack([step.action for step in steps[:-1]])
            np.testing.assert_allclose(issued, found.commands[1:, 1], atol=1e-3)
        thresholds, safety = prepared.graph.thresholds, prepared.graph.safety
        z = found.shortfall.astype(np.float64)
        summed = ~np.isnan(z) & ~found.up("observed_unfamiliar")
        assert summed.mean() > (0.5 if operated else 0.0)  # a policy this poor goes where the elites disagree
        ewma, cusum = running_sums(z, summed, safety, thresholds.cusum_limit)
        np.testing.assert_allclose(ewma, found.ewma, atol=1e-3)
        np.testing.assert_allclose(cusum, found.cusum, atol=1e-2)
        np.testing.assert_array_equal(found.up("score_observed_low"), z > thresholds.shortfall_limit)


def test_an_unknown_plant_is_named_and_missing_data_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlkitError, match="refrigerator"):
        get_plant("refrigerater")
    monkeypatch.setenv("CONTROLKIT_DATA", str(tmp_path))
    with pytest.raises(ControlkitError, match="released data file is not there"):
        run_suite(tmp_path / "out", 1, Silent(), tasks=["dmsd"])
