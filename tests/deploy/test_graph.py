"""The controller graph against its slow version, stage by stage, and what must hold whatever happens."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from controlkit.models.layers import SmoothLeaky
from controlkit.objective import CommandLimits
from deploy.bundle.manifest import SHIFT, SHORTFALL, STRETCH
from deploy.export.graph import ControllerGraph, GraphInputs, GraphOutputs
from deploy.export.lean import LeanSmoothLeaky, lean
from deploy.export.stages import limited
from tests.deploy.conftest import Tank
from tests.deploy.plants import NOISE, PERIOD_S, TankEnv, next_states, operated_plant
from tests.deploy.slow_controller import SlowController

FRAME = [4.0, 5.0, 30.0, 1.2, 2.0]
COMMAND = [2.4, 0.5, 1.0]


class Driver:
    """Steps a graph with plain lists; remembers the state."""

    def __init__(self, graph: ControllerGraph) -> None:
        self.graph = graph
        self.state = torch.zeros(1, graph.state_layout.size)

    def step(
        self,
        obs: list[float] | np.ndarray,
        ok: list[float] | None = None,
        age: list[float] | None = None,
        act_prev: list[float] | np.ndarray | None = None,
        enable: float = 1.0,
        dt: float = PERIOD_S,
    ) -> GraphOutputs:
        n = len(obs)
        inputs = (obs, ok or [1.0] * n, age or [0.0] * n, COMMAND if act_prev is None else act_prev, [enable], [dt])
        rows = [torch.from_numpy(np.array([values], dtype=np.float32)) for values in inputs]
        with torch.no_grad():
            out = self.graph(*rows, self.state)
        self.state = out.state_out
        return out

    def raised(self, out: GraphOutputs) -> set[str]:
        return {name for name, value in zip(self.graph.flag_names, out.flags[0].tolist(), strict=True) if value}

    def slot(self, name: str) -> float:
        start, _ = self.graph.state_layout.groups[name]
        return float(self.state[0, start])

    def set(self, name: str, value: float) -> None:
        start, _ = self.graph.state_layout.groups[name]
        self.state = self.state.clone()
        self.state[0, start] = value


@pytest.fixture(scope="module")
def operated(tank: Tank) -> ControllerGraph:
    """The tank's graph with the cloned operator as the fallback of valve and pump."""
    return ControllerGraph(operated_plant(), tank.models, tank.thresholds, tank.safety)


def warmed(
    tank: Tank, steps: int = 40, seed: int = 1, graph: ControllerGraph | None = None
) -> tuple[Driver, TankEnv, np.ndarray, np.ndarray]:
    """A driver in closed loop with the healthy plant until the policy is trusted: driver, plant, frame, command."""
    driver, env = Driver(graph or tank.graph), TankEnv()
    frame, _ = env.reset(seed=seed)
    command = np.array(COMMAND, dtype=np.float32)
    for _ in range(steps):
        out = driver.step(frame, act_prev=command)
        command = out.action[0].numpy()
        frame, *_ = env.step(command)
    assert driver.slot("trust") == 1.0
    return driver, env, frame, command


def test_graph_equals_its_slow_version_through_health_and_faults(tank: Tank) -> None:
    """300 steps with bad samples, gaps, faults, hand control and late cycles; flags, scores and commands agree."""
    thresholds = tank.thresholds.model_copy(update={"frozen_repeats": {"level": 4, "temperature": None}})
    graph = ControllerGraph(tank.data.spec, tank.models, thresholds, tank.safety)
    seen = compared(graph, SlowController(tank.data.spec, tank.models, thresholds, tank.safety), 300)
    # The sequence is worth its name only if it went through nearly everything.
    never = {
        "state_invalid",
        "model_invalid",
        "reference_safe",
        "spread_high",
        "score_predicted_low",
        "predicted_limit",
    }
    assert {name for name in graph.flag_names if "." not in name} - seen <= never


def test_graph_with_the_cloned_operator_equals_its_slow_version(tank: Tank, operated: ControllerGraph) -> None:
    slow = SlowController(operated_plant(), tank.models, tank.thresholds, tank.safety)
    seen = compared(operated, slow, 120)
    assert {"fallback_blind", "disabled", "blending", "rate_limited", "history_filling"} <= seen


def compared(graph: ControllerGraph, slow: SlowController, steps: int) -> set[str]:
    """Both through the same steps, the edge learning something of its own on the way; the flags that were raised."""
    driver, env, rng = Driver(graph), TankEnv(), np.random.default_rng(3)
    frame, _ = env.reset(seed=3)
    frame = frame.copy()
    command = np.array(COMMAND, dtype=np.float32)
    seen: set[str] = set()
    for index in range(steps):
        ok, age, enable, dt, echo, obs = [1.0] * 5, [0.0] * 5, 1.0, PERIOD_S, command.copy(), frame.copy()
        kind = rng.integers(14) if index % 12 > 8 else 99
        tag = int(rng.integers(5))
        if kind == 0:
            ok[tag] = 0.0
        elif kind == 1:
            obs[tag] = [np.nan, np.inf, 1e30][index % 3]
        elif kind == 2:
            age[tag] = 60.0
        elif kind == 3:
            echo[0] = np.nan
        elif kind == 4:
            dt = [0.4 * PERIOD_S, 1.3 * PERIOD_S, 5 * PERIOD_S, math.nan, -1.0][index % 5]
        elif kind == 5:
            enable = 0.0
        elif kind == 6:
            obs[0] = np.float32(np.clip(obs[0] + 1.0, 0, 10))  # a spike
        elif kind == 7:
            echo = np.clip(echo + np.float32(0.3), [0.1, -1, 0], [7.7, 5, 3]).astype(np.float32)  # by hand
        if 150 <= index < 158 or 220 <= index < 224:
            obs[0] = np.float32(4.25)  # frozen
        if 180 <= index < 190:
            ok[0] = 0.0  # gone for longer than its age allows
        if 240 <= index < 260:
            obs[0] = np.float32(np.clip(obs[0] + 0.02 * (index - 240) ** 2, 0, 10))  # drift
        if index % 50 == 20:
            slow.shift, slow.stretch = [(0.75, 0.5), (-1.5, 2.0), (0.0, 0.0), (3.0, 0.25)][index // 50 % 4]
            driver.set(SHIFT, slow.shift)
            driver.set(STRETCH, slow.stretch)
        arguments = [np.asarray(x, dtype=np.float64).tolist() for x in (obs, ok, age, echo)]
        expected = slow.step(*arguments, enable, float(np.float32(dt)))
        inputs = [torch.from_numpy(np.array([x], dtype=np.float32)) for x in (*arguments, [enable], [dt])]
        with torch.no_grad():
            out, margin = graph.with_margins(GraphInputs(*inputs, driver.state))
        driver.state = out.state_out
        if not float(margin) < 1e-4:
            assert driver.raised(out) == expected.raised, index
            assert out.action[0].tolist() == pytest.approx(expected.action, abs=2e-4), index
            assert driver.slot("trust") == pytest.approx(expected.trust, abs=1e-3)
        assert out.action_policy[0].tolist() == pytest.approx(expected.policy, abs=2e-4)
        assert out.action_fallback[0].tolist() == pytest.approx(expected.fallback, abs=2e-4)
        assert driver.slot("ewma") == pytest.approx(expected.ewma, abs=2e-3)
        assert driver.slot("cusum") == pytest.approx(expected.cusum, abs=2e-2)
        assert driver.slot(SHORTFALL) == pytest.approx(expected.shortfall, rel=1e-3, abs=2e-3)
        assert (driver.slot(SHIFT), driver.slot(STRETCH)) == (slow.shift, slow.stretch)
        for name in ("score_observed", "score_predicted", "spread"):
            assert float(getattr(out, name)) == pytest.approx(getattr(expected, name), rel=1e-3, abs=1e-3)
        seen |= expected.raised
        command = out.action[0].numpy()
        slow.issued = command.astype(np.float64).tolist()
        frame, *_ = env.step(command)
        frame = frame.copy()
    return seen


def test_all_zero_state_leaves_the_plant_to_the_fallback_without_a_bump(tank: Tank) -> None:
    driver = Driver(tank.graph)
    out = driver.step(FRAME)
    error = FRAME[0] - FRAME[1]
    assert out.action[0, 0] == pytest.approx(COMMAND[0] + 0.8 * error * PERIOD_S / 20.0, abs=1e-5)
    assert out.action[0, 1] == pytest.approx(COMMAND[1] - 0.05 * PERIOD_S, abs=1e-5)
    assert out.action[0, 2] == COMMAND[2]
    assert {"history_filling", "fallback_active"} <= driver.raised(out)
    assert torch.equal(out.action, out.action_fallback)


def test_velocity_pi_adds_the_change_of_the_error_from_the_second_step_on(tank: Tank) -> None:
    driver = Driver(tank.graph)
    driver.step(FRAME)
    moved = [FRAME[0] + 0.2, *FRAME[1:]]
    out = driver.step(moved, act_prev=COMMAND)
    error = moved[0] - FRAME[1]
    assert out.action[0, 0] == pytest.approx(COMMAND[0] + 0.8 * (0.2 + error * PERIOD_S / 20.0), abs=1e-5)


def test_policy_passes_unchanged_when_all_is_well(tank: Tank) -> None:
    """At full trust the command is the torch policy's, with the limits of training: closed-loop quality is equal."""
    driver, env, frame, command = warmed(tank)
    limits, layout = CommandLimits(tank.data.spec), tank.data.layout
    trusted = 0
    for _ in range(200):
        out = driver.step(frame, act_prev=command)
        observation = driver.state[:, : layout.size]
        wanted = limits.apply(tank.models.actor(observation), observation)
        # CommandLimits takes the rate of a whole period; the graph stays two units in the last place inside it.
        if driver.slot("trust") == 1.0:
            trusted += 1
            assert torch.allclose(out.action, wanted, atol=5e-6)
        command = out.action[0].numpy()
        frame, *_ = env.step(command)
    assert trusted == 200


def test_history_is_the_observation_that_training_saw(tank: Tank) -> None:
    """Fed with a log's rows, the state holds exactly the log's observations."""
    data, driver = tank.data, Driver(tank.graph)
    for row in range(1, 40):
        driver.step(data.frames[row], act_prev=data.actions[row - 1])
        if row > data.layout.depth:
            expected = data.observations(np.array([row]))
            assert np.array_equal(driver.state[0, : data.layout.size].numpy(), expected[0])


def test_warm_up_takes_as_long_as_the_history_is(tank: Tank) -> None:
    """Three past commands and two past frames: the fourth step is the first with both known, trust starts there."""
    data, driver = tank.data, Driver(tank.graph)
    trust = []
    for row in range(1, 20):
        driver.step(data.frames[row], act_prev=data.actions[row - 1])
        trust.append(driver.slot("trust"))
    assert trust[:2] == [0.0, 0.0]
    assert trust[2:12] == pytest.approx([0.1 * k for k in range(1, 11)], abs=1e-5)


def test_an_exogenous_step_does_not_trip(tank: Tank) -> None:
    driver, env, frame, command = warmed(tank)
    env._true[1] += 0.7
    env._true[3] += 0.4
    frame = env._measured()
    for _ in range(30):
        out = driver.step(frame, act_prev=command)
        assert not driver.raised(out) & {"score_observed_low", "ewma_high", "cusum_high", "fallback_active"}
        command = out.action[0].numpy()
        frame, *_ = env.step(command)


def test_healthy_closed_loop_hardly_ever_trips(tank: Tank) -> None:
    """32 plants, 400 steps each: no observed check acts in 12 800 healthy steps."""
    graph, envs = tank.graph, [TankEnv() for _ in range(32)]
    frames = np.stack([env.reset(seed=100 + i)[0] for i, env in enumerate(envs)])
    command = torch.tensor([COMMAND] * 32)
    state = torch.zeros(32, graph.state_layout.size)
    ones = torch.ones(32, 5)
    cut = [graph.flag_names.index(name) for name in ("score_observed_low", "ewma_high", "cusum_high")]
    trips = 0.0
    with torch.no_grad():
        for _ in range(400):
            out = graph(torch.from_numpy(frames), ones, 0 * ones, command, ones[:, :1], PERIOD_S * ones[:, :1], state)
            state, command = out.state_out, out.action
            trips += float(out.flags[:, cut].sum())
            frames = np.stack([env.step(a)[0] for env, a in zip(envs, command.numpy(), strict=True)])
    assert trips == 0.0


@pytest.mark.parametrize("fault", ["bias", "drift", "swapped", "gain"])
def test_faults_are_detected(tank: Tank, fault: str) -> None:
    """A sensor or a plant that is not what it was trips an observed check within 60 steps."""
    driver, env, frame, command = warmed(tank)
    detected = None
    for index in range(60):
        obs = frame.copy()
        if fault == "bias":
            obs[0] += 0.5
        elif fault == "drift":
            obs[0] += 0.05 * index
        elif fault == "swapped":
            obs[[0, 2]] = obs[[2, 0]] / 5.0
        out = driver.step(np.clip(obs, [0, 0, -20, 0, 0], [10, 10, 120, 4, 5]), act_prev=command)
        if driver.raised(out) & {"score_observed_low", "ewma_high", "cusum_high"}:
            detected = index
            assert torch.equal(out.action, out.action_fallback)
            break
        command = out.action[0].numpy()
        frame, *_ = env.step(command)
        if fault == "gain":
            env._true[0] += 0.25  # an inflow that nobody measures
            frame = env._measured()
    assert detected is not None


def test_frozen_sensor_is_caught_and_forgotten(tank: Tank) -> None:
    driver, env, frame, command = warmed(tank)
    limit = tank.thresholds.frozen_repeats["level"]
    assert limit is not None
    for index in range(limit + 2):
        stuck = np.array([4.25, *frame[1:]], dtype=np.float32)
        out = driver.step(stuck, act_prev=command)
        assert ("input_frozen" in driver.raised(out)) == (index >= limit)
        command = out.action[0].numpy()
        frame, *_ = env.step(command)
    assert {"input_unusable", "fallback_active", "fallback_blind"} <= driver.raised(out)
    out = driver.step(frame, act_prev=command)
    assert "input_frozen" not in driver.raised(out)


def test_missing_sample_is_held_as_long_as_its_age_allows(tank: Tank) -> None:
    """Three periods by default, as in the logs that training reads; then trust is gone and history starts anew."""
    driver, _, frame, command = warmed(tank)
    for missing in range(1, 6):
        out = driver.step([np.nan, *frame[1:]], act_prev=command)
        raised = driver.raised(out)
        assert {"input_bad_range", "input_bad.level", "observed_unscored"} <= raised
        assert ("input_unusable" in raised) == (missing > 3)
        assert (driver.slot("trust") == 0.0) == (missing > 3)
    out = driver.step(frame, act_prev=command)
    assert {"history_filling", "fallback_active"} <= driver.raised(out)
    assert "input_unusable" not in driver.raised(out)


def test_blind_fallback_walks_to_the_safe_value(tank: Tank) -> None:
    driver = Driver(tank.graph)
    command = np.array([6.0, 0.5, 1.0], dtype=np.float32)
    span, safe = 7.6, 2.0
    for _ in range(70):
        out = driver.step([np.nan, *FRAME[1:]], act_prev=command)
        assert abs(float(out.action[0, 0]) - command[0]) <= span / 60 + 1e-5
        command = out.action[0].numpy()
    assert command[0] == pytest.approx(safe)
    assert "fallback_blind" in driver.raised(out)


def test_a_broken_rhythm_starts_history_anew(tank: Tank) -> None:
    driver, _, frame, command = warmed(tank)
    for dt in (0.3 * PERIOD_S, 2.0 * PERIOD_S, math.nan, math.inf, -PERIOD_S):
        driver, _, frame, command = warmed(tank, 20)
        out = driver.step(frame, act_prev=command, dt=dt)
        assert {"timing_bad", "history_filling", "fallback_active"} <= driver.raised(out)
        out = driver.step(frame, act_prev=command)
        assert "timing_bad" not in driver.raised(out)
    out = driver.step(frame, act_prev=command, dt=1.2 * PERIOD_S)
    assert "timing_bad" not in driver.raised(out)


def test_a_short_step_allows_only_a_short_move(tank: Tank) -> None:
    driver = Driver(tank.graph)
    out = driver.step([9.0, 1.0, *FRAME[2:]], act_prev=COMMAND, dt=0.1 * PERIOD_S)
    assert float(out.action[0, 0]) <= COMMAND[0] + 0.3 * 0.1 * PERIOD_S


@pytest.mark.parametrize(
    ("echo", "issued", "flags"),
    [
        ([2.4, 0.5, 1.0], True, set()),
        ([math.nan, 0.5, 1.0], True, {"reference_invalid"}),
        ([2.4, 5.01, 1.0], True, {"reference_invalid"}),
        ([2.4, 0.5, math.inf], False, {"reference_invalid", "reference_safe"}),
    ],
)
def test_reference_is_the_echo_else_the_last_command_else_the_safe_value(
    tank: Tank, echo: list[float], issued: bool, flags: set[str]
) -> None:
    driver = Driver(tank.graph)
    before = [2.0, 0.0, 1.0]
    if issued:
        before = driver.step(FRAME, act_prev=[3.0, 0.4, 0.9]).action[0].tolist()
    expected = before if flags else echo
    out = driver.step(FRAME, act_prev=echo)
    assert driver.raised(out) & {"reference_invalid", "reference_safe"} == flags
    assert float(out.action[0, 2]) == pytest.approx(expected[2])  # the pump's fallback holds the reference


def test_switching_is_never_a_jump(tank: Tank) -> None:
    """Through enable, faults and recovery, every command is within its rate of the one before."""
    driver, env, frame, command = warmed(tank)
    rng = np.random.default_rng(0)
    enable, trusts = 1.0, set()
    for index in range(300):
        if index % 17 == 0:
            enable = 1.0 - enable
        obs = frame.copy()
        if index % 23 == 0:
            obs[rng.integers(5)] = np.nan
        ok = [0.0 if 100 <= index < 110 and tag == 0 else 1.0 for tag in range(5)]
        out = driver.step(obs, ok=ok, act_prev=command, enable=enable)
        after = out.action[0].numpy().astype(np.float64)
        assert (np.abs(after - command.astype(np.float64))[:2] <= np.array([0.6, 0.4])).all()
        trusts.add(round(driver.slot("trust"), 1))
        command = out.action[0].numpy()
        frame, *_ = env.step(command)
    assert {0.0, 0.5, 1.0} <= trusts


def test_handing_over_from_a_hand_set_command_starts_there(tank: Tank) -> None:
    """The fallback tracks what is really in force while it is disabled: taking over moves from there."""
    driver, _, frame, _ = warmed(tank)
    for _ in range(5):
        hand = np.array([5.0, 1.5, 2.0], dtype=np.float32)
        out = driver.step(frame, act_prev=hand, enable=0.0)
        assert "disabled" in driver.raised(out)
        assert abs(float(out.action[0, 0]) - 5.0) <= 0.6
        assert float(out.action[0, 2]) == 2.0


def test_predicted_violation_of_a_limit_cuts_trust(tank: Tank) -> None:
    driver, _, frame, command = warmed(tank)
    for _ in range(6):  # at the upper limit with a strong inflow, the next level is beyond it
        obs = np.array([9.49, 5.0, frame[2], 4.0, 2.0], dtype=np.float32)
        obs[0] += np.float32(1e-3) * (_ % 2)
        out = driver.step(obs, act_prev=command)
    assert "predicted_limit" in driver.raised(out)
    assert torch.equal(out.action, out.action_fallback)


def test_unfamiliar_ground_scales_trust(tank: Tank) -> None:
    """With the soft ends moved to where the loop is, trust settles between 0 and 1 and the command is the blend."""
    driver, _, frame, command = warmed(tank)
    out = driver.step(frame, act_prev=command)
    spread = float(out.spread)
    thresholds = tank.thresholds.model_copy(update={"spread_soft": 0.5 * spread, "spread_stop": 2.5 * spread})
    graph = ControllerGraph(tank.data.spec, tank.models, thresholds, tank.safety)
    state = driver.state
    driver = Driver(graph)
    driver.state = state
    out = driver.step(frame, act_prev=command)
    trust = driver.slot("trust")
    expected = (2.5 * spread - float(out.spread)) / (2.0 * spread)
    assert 0.1 < trust < 0.95
    assert trust == pytest.approx(expected, abs=1e-4)
    blend = out.action_fallback + trust * (out.action_policy - out.action_fallback)
    assert torch.allclose(out.action, blend, atol=1e-5)
    assert {"spread_high", "blending"} <= driver.raised(out)


@pytest.mark.parametrize("part", ["actor", "dynamics", "reward"])
def test_a_network_that_gives_nan_leaves_the_plant_to_the_fallback(tank: Tank, part: str) -> None:
    models = copy.deepcopy(tank.models)
    with torch.no_grad():
        next(iter(getattr(models, part).net.parameters())).fill_(math.nan)
    graph = ControllerGraph(tank.data.spec, models, tank.thresholds, tank.safety)
    driver, env = Driver(graph), TankEnv()
    frame, _ = env.reset(seed=1)
    command = np.array(COMMAND, dtype=np.float32)
    for _ in range(15):
        out = driver.step(frame, act_prev=command)
        assert {"model_invalid", "fallback_active"} <= driver.raised(out)
        assert all(torch.isfinite(port).all() for port in out)
        command = out.action[0].numpy()
        frame, *_ = env.step(command)


@pytest.mark.parametrize("port", ["obs", "obs_ok", "obs_age", "act_prev", "enable", "dt", "state_in"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3.4e38])
def test_a_weird_number_anywhere_cuts_trust_and_harms_nobody(tank: Tank, port: str, bad: float) -> None:
    driver, _, frame, command = warmed(tank, 20)
    state = driver.state
    base = GraphInputs(
        torch.from_numpy(frame)[None],
        torch.ones(1, 5),
        torch.zeros(1, 5),
        torch.from_numpy(command)[None],
        torch.ones(1, 1),
        torch.full((1, 1), PERIOD_S),
        state,
    )
    size = getattr(base, port).shape[1]
    for position in range(size):
        broken = getattr(base, port).clone()
        broken[0, position] = bad
        with torch.no_grad():
            out = tank.graph(*base._replace(**{port: broken}))
        assert all(torch.isfinite(values).all() for values in out)
        flags = {n for n, value in zip(tank.graph.flag_names, out.flags[0].tolist(), strict=True) if value}
        # A sample that is missing once is held; everything else leaves the plant to the fallback at once.
        expected = "input_bad" if port in ("obs", "obs_ok", "obs_age") else "fallback_active"
        assert any(flag.startswith(expected) for flag in flags), (position, flags)
        limits = CommandLimits(tank.data.spec)
        action = out.action[0].numpy()
        assert ((action >= limits.low) & (action <= limits.high)).all()
        if port != "act_prev":
            assert (np.abs(action - command)[:2] <= [0.6, 0.4]).all()


def test_predicted_next_sample_is_near_what_the_plant_does(tank: Tank) -> None:
    driver, _, frame, command = warmed(tank)
    out = driver.step(frame, act_prev=command)
    expected = next_states(frame.astype(np.float64), out.action_policy[0].numpy().astype(np.float64))
    assert float(out.obs_next[0, 0]) == pytest.approx(expected[0], abs=0.1)
    assert float(out.obs_next[0, 2]) == pytest.approx(expected[1], abs=1.0)
    assert out.obs_next[0, [1, 3, 4]].tolist() == pytest.approx(frame[[1, 3, 4]].tolist())


def test_only_the_elites_are_taken_along(tank: Tank) -> None:
    elites = tank.models.dynamics.elites
    observation = torch.from_numpy(tank.data.observations(tank.data.transitions[:20]))
    action = torch.from_numpy(tank.data.actions[tank.data.transitions[:20]])
    means, _ = tank.models.dynamics(observation, action)
    hope = tank.graph.judge.expect(observation, action)
    mean = tank.graph.judge.after(observation, hope.change)
    spread = hope.spread
    assert tank.graph.judge.dynamics.members == len(elites) < tank.models.dynamics.members
    assert torch.allclose(mean, means.mean(dim=0), atol=1e-5)
    assert torch.allclose(spread[:, 0], tank.models.dynamics.spread(means), atol=1e-5)


def test_score_is_the_networks_own_where_that_is_exact(tank: Tank) -> None:
    rows = tank.data.transitions[:100]
    observation = torch.from_numpy(tank.data.observations(rows))
    action = torch.from_numpy(tank.data.actions[rows])
    following = torch.from_numpy(tank.data.frames[rows + 1][:, tank.data.layout.state_columns])
    own = tank.models.reward(observation, action, following)
    assert torch.allclose(tank.graph.judge.score_of(observation, action, following)[0][:, 0], own, rtol=1e-3, atol=1e-3)


def test_recovery_takes_the_chosen_number_of_periods(tank: Tank) -> None:
    graph = ControllerGraph(
        tank.data.spec, tank.models, tank.thresholds, tank.safety.model_copy(update={"recovery_periods": 4})
    )
    driver, env, frame, command = warmed(replace(tank, graph=graph), 20)
    driver.step(frame, act_prev=command, enable=0.0)
    trusts = []
    for _ in range(5):
        out = driver.step(frame, act_prev=command)
        command = out.action[0].numpy()
        frame, *_ = env.step(command)
        trusts.append(driver.slot("trust"))
    assert trusts == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_shift_and_stretch_move_the_observed_checks_and_nothing_else(tank: Tank) -> None:
    """z = (shortfall - shift) / (1 + stretch) enters the sums; the reported shortfall stays the log's."""
    weight, cap = tank.safety.ewma_weight, tank.safety.shortfall_cap
    driver, _, frame, command = warmed(tank)
    before, results = driver.state, {}
    for moved in ((0.0, 0.0), (0.75, 0.0), (-3.0, 0.5), (0.0, 2.0)):
        driver.state = before
        for name, value in zip((SHIFT, STRETCH), moved, strict=True):
            driver.set(name, value)
        old = driver.slot("ewma")
        out = driver.step(frame, act_prev=command)
        assert "observed_unscored" not in driver.raised(out)
        shortfall = driver.slot(SHORTFALL)
        expected = np.clip((shortfall - moved[0]) / (1.0 + moved[1]), -cap, cap)
        assert driver.slot("ewma") == pytest.approx((1 - weight) * old + weight * expected, abs=1e-5)
        assert (driver.slot(SHIFT), driver.slot(STRETCH)) == moved
        results[moved] = (shortfall, out.action.tolist(), float(out.score_observed))
    assert len({str(result) for result in results.values()}) == 1
    assert shortfall != 0.0


def test_a_shortfall_that_was_not_scored_is_zero(tank: Tank) -> None:
    """However far the checks were moved, a step without a score adds nothing and trips nothing."""
    driver, _, frame, command = warmed(tank)
    driver.set(SHIFT, -3.0)
    ewma, cusum = driver.slot("ewma"), driver.slot("cusum")
    out = driver.step([np.nan, *frame[1:]], act_prev=command)
    assert "observed_unscored" in driver.raised(out)
    assert not driver.raised(out) & {"score_observed_low", "ewma_high", "cusum_high"}
    assert (driver.slot(SHORTFALL), driver.slot("ewma"), driver.slot("cusum")) == (0.0, ewma, cusum)


@pytest.mark.parametrize(("name", "good", "bad"), [(SHIFT, 3.0, 3.01), (SHIFT, -3.0, -3.01), (STRETCH, 2.0, 2.01)])
def test_an_edge_moves_the_checks_no_further_than_it_may(tank: Tank, name: str, good: float, bad: float) -> None:
    driver, _, frame, command = warmed(tank, 20)
    before = driver.state
    driver.set(name, good)
    out = driver.step(frame, act_prev=command)
    assert "state_invalid" not in driver.raised(out)
    assert driver.slot(name) == good
    for value in (bad, math.nan):
        driver.state = before
        driver.set(name, value)
        out = driver.step(frame, act_prev=command)
        assert {"state_invalid", "fallback_active"} <= driver.raised(out)
        assert driver.slot(name) == 0.0  # a cold start: as calibrated on the log


def test_a_shift_of_all_that_is_allowed_still_leaves_a_gross_fault_to_the_one_step_rule(tank: Tank) -> None:
    safety = tank.safety
    limit = safety.recalibration_shift + (1 + safety.recalibration_stretch) * tank.thresholds.shortfall_limit
    driver, _, frame, command = warmed(tank)
    driver.set(SHIFT, safety.recalibration_shift)
    driver.set(STRETCH, safety.recalibration_stretch)
    out = driver.step([*(frame[:1] + 3.0), *frame[1:]], act_prev=command)
    assert driver.slot(SHORTFALL) > limit
    assert {"score_observed_low", "fallback_active"} <= driver.raised(out)


class _Noisier(TankEnv):
    """The plant with twice the noise of its log, as if a historian had smoothed that."""

    def _measured(self) -> np.ndarray:
        noise = np.array([2 * NOISE, 0.0, 20 * NOISE, 0.0, 0.0]) * self._rng.standard_normal(5)
        return (self._true + noise).astype(np.float32)


def fleet(
    graph: ControllerGraph, steps: int, shift: float, stretch: float, bias: float = 0.0
) -> tuple[np.ndarray, int]:
    """16 noisier plants under trust, a bias on the level from step 60 on: scored shortfalls, plants that tripped."""
    envs = [_Noisier() for _ in range(16)]
    frames = np.stack([env.reset(seed=50 + i)[0] for i, env in enumerate(envs)])
    state, command, ones = torch.zeros(16, graph.state_layout.size), torch.tensor([COMMAND] * 16), torch.ones(16, 5)
    at = {name: graph.state_layout.groups[name][0] for name in (SHIFT, STRETCH, SHORTFALL)}
    state[:, at[SHIFT]], state[:, at[STRETCH]] = shift, stretch
    cut = [graph.flag_names.index(name) for name in ("score_observed_low", "ewma_high", "cusum_high")]
    unscored = graph.flag_names.index("observed_unscored")
    found, tripped = [], torch.zeros(16, dtype=torch.bool)
    with torch.no_grad():
        for index in range(steps):
            obs = torch.from_numpy(frames).clone()
            obs[:, 0] += bias * (index >= 60)
            out = graph(obs, ones, 0 * ones, command, ones[:, :1], PERIOD_S * ones[:, :1], state)
            state, command = out.state_out, out.action
            found.append(state[out.flags[:, unscored] == 0, at[SHORTFALL]].numpy())
            tripped |= (out.flags[:, cut] > 0).any(dim=1)
            frames = np.stack([env.step(a)[0] for env, a in zip(envs, command.numpy(), strict=True)])
    return np.concatenate(found), int(tripped.sum())


def test_what_an_edge_learns_makes_its_plant_healthy_and_its_faults_visible(tank: Tank) -> None:
    """The log had half of the plant's noise: as calibrated every plant trips, as learned none does, but for a fault."""
    found, tripped = fleet(tank.graph, 60, 0.0, 0.0)
    assert tripped == 16
    assert len(found) >= tank.safety.recalibration_steps
    shift, stretch = float(found.mean()), float(found.std()) - 1.0
    assert 1.0 < shift < tank.safety.recalibration_shift
    assert 0.5 < stretch < tank.safety.recalibration_stretch
    assert fleet(tank.graph, 150, shift, stretch)[1] == 0
    assert fleet(tank.graph, 120, shift, stretch, bias=0.5)[1] == 16


def test_the_cloned_operator_commands_within_rate_and_limits(tank: Tank, operated: ControllerGraph) -> None:
    """Valve (rate-limited) and pump (not) move to what the clone says; the heater keeps its own ramp."""
    driver, env, frame, command = warmed(tank, graph=operated)
    size = tank.data.layout.size
    for index in range(12):
        out = driver.step(frame, act_prev=command, enable=0.0)
        cloned = tank.models.behaviour(driver.state[:, :size])[0].numpy()
        assert "fallback_blind" not in driver.raised(out)
        reach = [0.6, math.inf]
        expected = [np.clip(cloned[i], command[i] - r, command[i] + r) for i, r in zip((0, 2), reach, strict=True)]
        assert out.action[0, [0, 2]].tolist() == pytest.approx(expected, abs=1e-5)
        assert float(out.action[0, 1]) == pytest.approx(max(command[1] - 0.1, 0.0), abs=1e-5)
        command = out.action[0].numpy() if index else np.array([7.0, 0.5, 1.0], dtype=np.float32)  # once by hand
        frame, *_ = env.step(command)
    data = tank.data
    rows = data.transitions[:400]
    logged = tank.models.behaviour(torch.from_numpy(data.observations(rows))).numpy() - data.actions[rows]
    assert np.abs(logged[:, 0]).mean() < 0.5  # it is the operator, whose own restlessness is 0.4


def test_the_cloned_operator_holds_while_its_observation_is_not_whole(tank: Tank, operated: ControllerGraph) -> None:
    driver = Driver(operated)
    for step in range(3):  # cold: no bump, until the history is full
        out = driver.step(FRAME, enable=0.0)
        assert ("fallback_blind" in driver.raised(out)) == ("history_filling" in driver.raised(out)) == (step < 2)
        assert (out.action[0, [0, 2]].tolist() == pytest.approx([COMMAND[0], COMMAND[2]])) == (step < 2)
    driver, _, frame, command = warmed(tank, graph=operated)
    for missing in range(1, 6):  # a tag of no PI: held for three periods, then unknown
        out = driver.step([*frame[:3], np.nan, frame[4]], act_prev=command)
        assert ("fallback_blind" in driver.raised(out)) == (missing > 3)
        if missing > 3:
            assert out.action[0, [0, 2]].tolist() == pytest.approx(command[[0, 2]].tolist())
        command = out.action[0].numpy()


def test_a_cloned_operator_that_gives_nan_holds(tank: Tank) -> None:
    models = copy.deepcopy(tank.models)
    with torch.no_grad():
        next(iter(models.behaviour.net.parameters())).fill_(math.nan)
    driver = Driver(ControllerGraph(operated_plant(), models, tank.thresholds, tank.safety))
    for _ in range(6):
        out = driver.step(FRAME)
        assert {"model_invalid", "fallback_blind", "fallback_active"} <= driver.raised(out)
        assert all(torch.isfinite(port).all() for port in out)
        assert out.action[0, [0, 2]].tolist() == pytest.approx([COMMAND[0], COMMAND[2]])
    # Where nobody falls back on it, it is not even there.
    graph = ControllerGraph(tank.data.spec, models, tank.thresholds, tank.safety)
    assert graph.fallback.clone is None
    assert "model_invalid" not in Driver(graph).raised(Driver(graph).step(FRAME))


def test_clamping_moves_into_the_bounds_and_takes_nan_for_the_lower_one() -> None:
    x = torch.tensor([-math.inf, -2.0, -1.0, 0.5, 3.0, 7.0, math.inf, math.nan])
    expected = [-1.0, -1.0, -1.0, 0.5, 3.0, 3.0, 3.0, -1.0]
    assert limited(x, -1.0, 3.0).tolist() == expected
    assert limited(x, torch.full((8,), -1.0), torch.full((8,), 3.0)).tolist() == expected


def test_the_lean_activation_is_the_activation() -> None:
    """To float32's rounding over the whole range, without an overflow; NaN stays NaN; the original is left alone."""
    x = torch.cat([torch.linspace(-60.0, 60.0, 4001), torch.tensor([-1e30, 1e30, 0.0, 1e-40])])
    assert torch.allclose(LeanSmoothLeaky()(x), SmoothLeaky()(x), rtol=2e-6, atol=1e-7)
    assert torch.isnan(LeanSmoothLeaky()(torch.tensor([math.nan]))).all()
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(SmoothLeaky()))
    kinds = [type(module) for module in lean(copy.deepcopy(network)).modules()]
    assert LeanSmoothLeaky in kinds
    assert SmoothLeaky not in kinds
    assert SmoothLeaky in [type(module) for module in network.modules()]


def test_the_run_s_own_networks_are_not_changed_by_the_graph(tank: Tank) -> None:
    for network in tank.models.networks.values():
        assert LeanSmoothLeaky not in [type(module) for module in network.modules()]
    assert LeanSmoothLeaky in [type(module) for module in tank.graph.modules()]
