"""Delays, needed history and excitation, on plants whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from controlkit.configs import find_config
from controlkit.dataset import TransitionDataset
from controlkit.ingest import analysis, ingest
from controlkit.ingest.analysis import Analysis, analyse
from controlkit.ingest.excitation import MAX_ORDER, persistence
from controlkit.ingest.responses import Response, t_quantile
from controlkit.ingest.stretches import Normal, stretches
from controlkit.spec import PlantSpec
from tests.data_files import data_file

NS = 1_000_000_000
Command = Callable[[int, np.ndarray, np.ndarray, np.random.Generator], float]


def plant(actions: int = 1, states: int = 1, history: int = 0) -> PlantSpec:
    tags = {f"y{i}": {"role": "state", "unit": "degC", "range": [-1000, 1000]} for i in range(states)}
    action = {"role": "action", "unit": "%", "range": [-5, 5], "safe": 0, "fallback": {"kind": "hold"}}
    tags |= {f"u{i}": {**action, "history": history} for i in range(actions)}
    objective = [{"kind": "track", "tag": "y0", "setpoint": 0}]
    return PlantSpec.from_dict({"name": "p", "period_s": 10, "tags": tags, "objective": objective})


def data_of(y: np.ndarray, u: np.ndarray, episode: np.ndarray | None = None) -> TransitionDataset:
    y, u = y.reshape(len(y), -1), u.reshape(len(u), -1)
    episode = np.zeros(len(y), dtype=np.int64) if episode is None else episode
    return TransitionDataset.from_frames(
        plant(u.shape[1], y.shape[1]), frames=y.astype(np.float32), actions=u.astype(np.float32), episode=episode,
        time_ns=np.arange(len(y)) * 10 * NS,
    )  # fmt: skip


def simulated(
    command: Command, dead: int, pole: float, gain: float, noise: float = 0.05, sensor: float = 0.0, rows: int = 12_000
) -> TransitionDataset:
    """y' = pole y + gain u(dead periods ago) + noise, measured with sensor noise; the command sees the measurement."""
    rng = np.random.default_rng(0)
    y, seen, u = (np.zeros(rows) for _ in range(3))
    for t in range(rows):
        seen[t] = y[t] + sensor * rng.normal()
        u[t] = np.clip(command(t, seen, u, rng), -5, 5)
        if t + 1 < rows:
            y[t + 1] = pole * y[t] + (gain * u[t - dead] if t >= dead else 0.0) + noise * rng.normal()
    return data_of(seen, u)


def steps(t: int, _: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> float:
    return float(rng.normal()) if t % 50 == 0 else float(u[t - 1])


def walk(_: int, __: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> float:
    return float(u[-1] if not u.any() else u[np.flatnonzero(u)[-1]]) + 0.05 * float(rng.normal())


def white(_: int, __: np.ndarray, ___: np.ndarray, rng: np.random.Generator) -> float:
    return float(rng.normal())


def feedback(dither: float) -> Command:
    return lambda t, y, _, rng: float(-y[t] + dither * rng.normal())


def only(found: Analysis) -> Response:
    (response,) = found.responses
    return response


@pytest.mark.parametrize("dead", [0, 1, 7, 40])
@pytest.mark.parametrize("command", [steps, white])
def test_a_pure_dead_time_is_found_exactly(dead, command):
    found = analyse(simulated(command, dead, pole=0.0, gain=1.0))
    answer = only(found)
    assert (answer.dead_periods, answer.last_periods, answer.raises) == (dead, dead, True)
    assert answer.share > 0.9
    assert found.history[0].needed == dead


@pytest.mark.parametrize("gain", [0.1, -0.1])
def test_first_order_with_dead_time_is_told_from_a_long_dead_time(gain):
    found = analyse(simulated(steps, 5, pole=0.95, gain=gain))
    answer = only(found)
    assert (answer.dead_periods, answer.last_periods, answer.raises) == (5, 5, gain > 0)
    assert [item.needed for item in found.history] == [5, 0]


def test_an_integrating_plant_is_no_different():
    answer = only(analyse(simulated(white, 12, pole=1.0, gain=0.01, noise=0.01)))
    assert (answer.dead_periods, answer.last_periods) == (12, 12)


def test_sensor_noise_asks_for_more_history_but_not_for_another_delay():
    found = analyse(simulated(steps, 5, pole=0.95, gain=0.1, sensor=0.1))
    assert only(found).dead_periods == 5
    needed = {item.tag: item.needed for item in found.history}
    assert needed["u0"] >= 5
    assert needed["y0"] > 0


@pytest.mark.parametrize("command", [steps, walk, feedback(0.1)])
@pytest.mark.parametrize("pole", [0.9, 0.999])
def test_no_effect_is_seen_where_there_is_none(command, pole):
    found = analyse(simulated(command, 3, pole, gain=0.0, rows=6000))
    assert not only(found).seen
    assert only(found).dead_periods is None
    assert found.history[0].needed is None


@pytest.mark.parametrize("sensor", [0.0, 0.1])
def test_in_a_closed_loop_the_delay_is_the_plants(sensor):
    answer = only(analyse(simulated(feedback(0.3), 3, pole=0.9, gain=0.1, sensor=sensor)))
    assert (answer.seen, answer.dead_periods, answer.raises) == (True, 3, True)


def test_a_controller_that_is_never_disturbed_hides_the_effect_and_that_shows():
    found = analyse(simulated(feedback(0.0), 0, pole=0.9, gain=0.1))
    assert not only(found).seen
    assert found.excitation[0].feedback_share > 0.999


@pytest.mark.parametrize("pole", [0.0, 0.9])
def test_feedback_is_the_share_of_the_moves_that_it_makes(pole):
    # u = -y + dither: what y brings that past commands do not tell is the variance of a Kalman filter's prediction.
    found = analyse(simulated(feedback(0.1), 3, pole=pole, gain=0.0, noise=0.1)).excitation[0]
    news, dither = 0.01, 0.01
    for _ in range(100):
        news = pole**2 * news * dither / (news + dither) + 0.1**2
    assert found.feedback_share == pytest.approx(news / (news + dither), abs=0.02)


def test_an_open_loop_has_no_feedback():
    open_loop = analyse(simulated(walk, 3, pole=0.9, gain=0.1, rows=6000)).excitation[0]
    assert open_loop.feedback_share < 0.01


def test_each_action_is_told_from_the_others():
    rng = np.random.default_rng(1)
    u = np.repeat(rng.normal(size=(700, 3)), 20, axis=0)
    y = np.zeros((len(u), 2))
    for t in range(9, len(u) - 1):
        y[t + 1, 0] = 0.9 * y[t, 0] + 0.1 * u[t - 2, 0] - 0.1 * u[t - 9, 1] + 0.05 * rng.normal()
        y[t + 1, 1] = 0.8 * y[t, 1] + 0.2 * y[t, 0] + 0.05 * rng.normal()
    found = {(r.action, r.state): r for r in analyse(data_of(y, u)).responses}
    assert {pair for pair, r in found.items() if r.seen} == {("u0", "y0"), ("u1", "y0")}
    assert (found["u0", "y0"].dead_periods, found["u0", "y0"].raises) == (2, True)
    assert (found["u1", "y0"].dead_periods, found["u1", "y0"].raises) == (9, False)


def test_no_window_crosses_the_start_of_an_episode():
    # Four hundred short episodes with jumps between them: an effect across them would be found at once.
    rng = np.random.default_rng(2)
    length, count = 40, 400
    u = rng.normal(size=(count, length))
    y = np.zeros((count, length))
    y[:, 0] = rng.normal(scale=20, size=count)
    for t in range(length - 1):
        y[:, t + 1] = 0.9 * y[:, t] + (u[:, t - 3] if t >= 3 else 0) + 0.1 * rng.normal(size=count)
    found = analyse(data_of(y.ravel(), u.ravel(), np.repeat(np.arange(count), length)))
    assert 3 < found.searched < length / 2
    assert only(found).dead_periods == 3
    assert only(found).share > 0.9


def test_a_sine_shows_an_effect_but_no_delay():
    found = analyse(simulated(lambda t, *_: 2 * np.sin(t / 7), 3, pole=0.9, gain=0.1))
    assert (only(found).seen, only(found).dead_periods) == (True, None)
    assert found.excitation[0].order == 2


def test_episodes_too_short_to_tell_say_so_and_a_still_command_has_no_order():
    y, u = np.random.default_rng(0).normal(size=200), np.full(200, 2.0)
    found = analyse(data_of(y, u, np.arange(200) // 4))
    assert (found.searched, found.responses) == (0, ())
    still = found.excitation[0]
    assert (still.order, still.levels, still.moves_per_day, still.range_share) == (0, 1, 0.0, 0.0)


def test_excitation_counts_what_was_done():
    u = np.tile([-5.0] * 10 + [0.0] * 10 + [5.0] * 20, 100)
    moved = analyse(data_of(np.random.default_rng(0).normal(size=len(u)), u)).excitation[0]
    assert (moved.levels, moved.range_share, moved.limits) == (3, 1.0, (-5.0, 5.0))
    assert moved.limit_share == pytest.approx(0.75, abs=0.001)
    # Three moves in forty samples of ten seconds.
    assert moved.moves_per_day == pytest.approx(3 * 8640 / 40, rel=0.01)


@pytest.mark.parametrize(("frequencies", "order"), [([0.3], 2), ([0.3, 0.9], 4), ([0.3, 0.9, 1.7], 6)])
def test_each_sine_excites_two_coefficients(frequencies, order):
    t = np.arange(5000)
    assert persistence([sum(np.sin(f * t) for f in frequencies)]) == order


def test_noise_excites_all_and_nothing_none():
    assert persistence([np.random.default_rng(0).normal(size=5000)]) == MAX_ORDER
    assert persistence([np.zeros(5000)]) == 0
    assert persistence([np.ones(10)]) == 0


def test_stretches_of_a_long_log_are_spread_over_it_and_the_same_every_time():
    y = np.arange(100_000, dtype=np.float64) % 1000
    data = data_of(y, y / 1000)
    found = stretches(data, 10_000)
    assert 9_000 <= sum(len(stretch) for stretch in found) <= 11_000
    again = stretches(data, 10_000)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(found, again, strict=True))
    assert all((np.diff(stretch.frames[:, 0]) % 1000 == 1).all() for stretch in found)
    assert [len(stretch) for stretch in stretches(data, 200_000)] == [100_000]


def test_cells_that_are_not_known_cut_a_stretch():
    data = data_of(np.arange(100.0), np.arange(100.0) / 100)
    data.mask[40, 0] = False
    assert [len(stretch) for stretch in stretches(data, 1000)] == [40, 59]


def test_a_part_of_a_long_log_tells_the_same(monkeypatch):
    data = simulated(steps, 5, pole=0.95, gain=0.1, rows=30_000)
    monkeypatch.setattr(analysis, "MOST_ROWS", 10_000)
    found = analyse(data)
    assert found.rows < 12_000
    assert only(found).dead_periods == 5
    assert analyse(data) == found


def test_least_squares_from_sums_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 7)) * np.logspace(-3, 3, 7), rng.normal(size=(500, 2))
    normal = Normal(x.T @ x, x.T @ y, (y**2).sum(axis=0), len(x))
    weights, left, inverse = normal.fit(ridge=0.0)
    expected, residuals, *_ = np.linalg.lstsq(x, y, rcond=None)
    np.testing.assert_allclose(weights, expected, rtol=1e-9)
    np.testing.assert_allclose(left, residuals, rtol=1e-9)
    np.testing.assert_allclose(inverse, np.linalg.inv(x.T @ x), rtol=1e-9)


@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [(0.975, 10, 2.228), (0.995, 20, 2.845), (0.9995, 30, 3.646), (0.975, 8, 2.306)],
)
def test_quantiles_of_students_t_are_those_of_the_tables(probability, degrees, value):
    assert t_quantile(probability, degrees) == pytest.approx(value, rel=2e-3)


def test_the_pipelines_dead_time_is_nineteen_periods():
    path = data_file("neorl2/Pipeline-train.npz")
    found = analyse(ingest(PlantSpec.load(find_config("plants", "pipeline")), [path], None).dataset)
    answer = only(found)
    assert (answer.dead_periods, answer.last_periods, answer.raises) == (19, 19, True)
    assert {item.tag: item.needed for item in found.history} == {"gate": 19, "flow": 0, "target": 0}


def test_each_force_of_dmsd_moves_its_own_mass_at_once():
    path = data_file("neorl2/DMSD-train.npz")
    found = analyse(ingest(PlantSpec.load(find_config("plants", "dmsd")), [path], None).dataset)
    seen = {(r.action, r.state): (r.dead_periods, r.last_periods, r.raises) for r in found.responses if r.seen}
    assert seen == {("force_1", "velocity_1"): (0, 0, True), ("force_2", "velocity_2"): (0, 0, True)}
    assert {item.needed for item in found.history} == {0}
