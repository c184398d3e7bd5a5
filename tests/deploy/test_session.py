"""The session steps the graph exactly as torch does; the simulation loop counts what happened."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlkit.errors import ControlkitError
from deploy.bundle.store import load_bundle
from deploy.export.graph import ControllerGraph
from deploy.runtime import ControllerSession, plant_address, run_simulation
from deploy.runtime.loop import count_violations
from tests.deploy.conftest import Exported
from tests.deploy.plants import PERIOD_S, TankEnv

FRAME = [4.0, 5.0, 30.0, 1.2, 2.0]
COMMAND = [2.4, 0.5, 1.0]


@pytest.fixture
def session(exported: Exported) -> ControllerSession:
    return ControllerSession(load_bundle(exported.path))


def test_session_equals_the_torch_graph_over_a_closed_loop(exported: Exported, session: ControllerSession) -> None:
    """400 steps, each side on its own plant with its own state: commands stay together to 1e-4 of the span."""
    manifest = exported.result.manifest
    graph = ControllerGraph(exported.run.spec, exported.run.load_models(), manifest.thresholds, manifest.safety)
    envs = TankEnv(), TankEnv()
    ours, theirs = (env.reset(seed=4)[0] for env in envs)
    state = torch.zeros(1, graph.state_layout.size)
    one, command, other = torch.ones(1, 1), np.array(COMMAND, dtype=np.float32), torch.tensor([COMMAND])
    ones = torch.ones(1, 5)
    for index in range(400):
        enable = index % 50 >= 5
        result = session.step(ours, act_prev=command, enable=enable)
        with torch.no_grad():
            enabled = float(enable) * one
            out = graph(torch.from_numpy(theirs)[None], ones, 0 * ones, other, enabled, PERIOD_S * one, state)
        state, other, command = out.state_out, out.action, result.action
        assert np.abs(result.action - out.action[0].numpy()).max() <= 1e-4 * 3
        raised = {name for name, value in zip(graph.flag_names, out.flags[0].tolist(), strict=True) if value}
        assert set(result.raised) == raised
        ours, *_ = envs[0].step(command)
        theirs, *_ = envs[1].step(other[0].numpy())
    assert result.trust > 0


def test_step_names_what_it_gives(session: ControllerSession) -> None:
    result = session.step(FRAME, act_prev=COMMAND)
    assert result.action.shape == result.action_policy.shape == result.action_fallback.shape == (3,)
    assert result.obs_next.shape == (5,)
    assert result.trust == 0.0
    assert set(result.raised) >= {"history_filling", "fallback_active"}
    assert result.flags.sum() == len(result.raised)
    assert session.tags == ("level", "setpoint", "temperature", "inflow", "grade")
    assert session.safe.tolist() == [2.0, 0.0, 1.0]


def test_defaults_are_good_quality_new_samples_and_an_unknown_command(session: ControllerSession) -> None:
    raised = session.step(FRAME).raised
    assert {"reference_invalid", "reference_safe"} <= set(raised)
    assert not [name for name in raised if name.startswith("input_bad")]


def test_reset_and_stored_states(exported: Exported, session: ControllerSession) -> None:
    for _ in range(6):
        session.step(FRAME, act_prev=COMMAND)
    stored = session.state.copy()
    first = session.step(FRAME, act_prev=COMMAND)
    other = ControllerSession(load_bundle(exported.path))
    other.state = stored
    assert np.array_equal(other.step(FRAME, act_prev=COMMAND).action, first.action)
    session.reset()
    assert "history_filling" in session.step(FRAME, act_prev=COMMAND).raised


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs": [1.0]}, r"'obs' has the shape \(1,\), not \(5,\)"),
        ({"obs": [FRAME]}, r"'obs' has the shape \(1, 5\)"),
        ({"obs": ["a"] * 5}, "'obs' holds something that is no number"),
        ({"obs": FRAME, "ok": [True]}, "'ok' has the shape"),
        ({"obs": FRAME, "age": [0.0] * 6}, "'age' has the shape"),
        ({"obs": FRAME, "act_prev": 1.0}, "'act_prev' has the shape"),
        ({"obs": FRAME, "act_prev": [None, "x", 1]}, "'act_prev' holds something"),
    ],
)
def test_wrong_shapes_are_named(session: ControllerSession, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlkitError, match=message):
        session.step(**arguments)


def test_numbers_beyond_float32_are_bad_samples(session: ControllerSession) -> None:
    result = session.step([1e300, *FRAME[1:]], act_prev=[2.4, 1e300, 1.0], dt=1e300)
    assert {"input_bad_range", "reference_invalid", "timing_bad"} <= set(result.raised)
    assert np.isfinite(result.action).all()


def test_simulation_counts_what_happened(session: ControllerSession) -> None:
    seen: list[int] = []
    record = run_simulation(
        session, TankEnv(), seed=5, steps=200, on_step=lambda index, result: seen.append(len(result.raised))
    )
    assert len(seen) == 200
    assert record.observations.shape == (201, 5)
    assert record.actions.shape == record.policy_actions.shape == (200, 3)
    assert record.rewards.shape == record.trust.shape == record.step_ms.shape == (200,)
    assert record.limit_violations == 0
    assert record.fallback_share == pytest.approx((record.trust == 0).mean())
    assert record.flags["history_filling"] == 2
    assert record.flags["reference_invalid"] == 0
    assert set(record.info) == {"true_level"}
    assert record.info["true_level"].shape == (200,)
    assert record.initial_info == {"true_level": 4.0}
    assert not record.terminated
    assert sum(record.flags.values()) == sum(seen)


def test_simulation_repeats_itself_and_ends_with_the_episode(session: ControllerSession) -> None:
    one = run_simulation(session, TankEnv(), seed=6, steps=60)
    two = run_simulation(session, TankEnv(horizon=40), seed=6, steps=60)
    assert len(two.rewards) == 40
    assert np.array_equal(one.actions[:40], two.actions)


class _Tripping(TankEnv):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        frame, reward, _, truncated, info = super().step(action)
        return frame, reward, self._time == 7, truncated, info | {"late": 1.0} if self._time > 3 else info


def test_simulation_ends_where_the_plant_trips(session: ControllerSession) -> None:
    record = run_simulation(session, _Tripping(), seed=0, steps=60)
    assert record.terminated
    assert len(record.rewards) == 7
    assert np.isnan(record.info["late"]).tolist() == [True] * 3 + [False] * 4


def test_simulation_refuses_another_plant(session: ControllerSession) -> None:
    class Other(TankEnv):
        def _measured(self) -> np.ndarray:
            return super()._measured()[:2]

    with pytest.raises(ControlkitError, match="shows 2 tags, the bundle's plant has 5"):
        run_simulation(session, Other(), seed=0, steps=5)
    with pytest.raises(ControlkitError, match="0 steps"):
        run_simulation(session, TankEnv(), seed=0, steps=0)


def test_violations_are_counted_in_double_precision(session: ControllerSession) -> None:
    good = np.array([[2.5, 0.375, 3.0], [3.0, 0.75, 0.0]])
    assert count_violations(session, good) == 0
    for bad in (
        [[2.6 + 1e-9, 0.4, 3.0]],  # beyond the rate from the safe value
        [[2.0, 0.0, 3.0000001]],
        [[2.0, math.nan, 1.0]],
        [[2.0, math.inf, 1.0]],
    ):
        assert count_violations(session, np.array(bad)) == 1
    assert count_violations(session, np.array([[2.5, 0.0, 1.0], [1.8, 0.0, 1.0]])) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("opc.tcp:localhost", "names no server"),
        ("opc.tcp://anna:secret@localhost", "holds a user or a password"),
        ("sym:refrigerator", "did you mean 'sim'"),
        ("refrigerator", "Write sim:TASK"),
        ("sim:", "task's name is missing"),
        ("", "is no plant"),
    ],
)
def test_what_is_no_plant_is_named(text: str, message: str) -> None:
    with pytest.raises(ControlkitError, match=message):
        plant_address(text)


def test_a_simulator_is_a_plant() -> None:
    assert plant_address("sim:refrigerator").target == "refrigerator"


def test_an_address_of_a_server_is_a_plant() -> None:
    address = plant_address("opc.tcp://10.0.0.5:4840/path")
    assert (address.kind, address.target) == ("opc.tcp", "opc.tcp://10.0.0.5:4840/path")


def test_session_refuses_a_graph_that_is_none(exported: Exported, tmp_path: Path) -> None:
    bundle = replace(load_bundle(exported.path), model=b"nonsense", path=tmp_path)
    with pytest.raises(ControlkitError, match="does not load"):
        ControllerSession(bundle)
