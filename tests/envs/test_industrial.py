"""The Industrial Benchmark: the reference's answer key, single copies, slow and obvious versions, its controllers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from controlkit.errors import ControlkitError, DataError
from controlkit.ingest import ingest
from controlkit.layout import Layout
from envs.closed_loop import score
from envs.collect import collect
from envs.neorl import industrial_goldstone as goldstone
from envs.neorl.industrial import DEFAULT_PARAMS, IndustrialParams, VectorIndustrial, effective_shares
from envs.neorl.industrial_controllers import Steered, Swinging, shift_plan
from envs.neorl.industrial_draws import GeneratorDraws, ReferenceDraws
from envs.neorl.industrial_files import convert, main
from envs.tasks import get_task
from envs.window import ObservationWindow
from tests.data_files import data_file

KEY_SEED, KEY_SETPOINTS = 1005, (88.0, 32.0)


def markov_state(plant: VectorIndustrial) -> np.ndarray:
    """(29,) all that the answer key holds of the first copy, in its order."""
    side, response, index = goldstone.described(plant.direction)
    velocity, gain, shift = plant.steering[:, 0]
    shares = effective_shares(plant.steering[0], plant.steering[1], plant.params.setpoint)
    fatigue, consumption = plant.fatigue[0], plant.consumption[0]
    values = [
        *plant.costs[0], plant.costs[0, -1], plant.wear[0, 0], plant.wear[1, 0], plant.effective_shift[0],
        side[0], response[0], index[0], shares[0, 0], shares[1, 0], plant.calibration[0], consumption,
        plant.params.setpoint, velocity, gain, shift, fatigue, plant.basic_fatigue[0], plant.delayed_cost[0],
        -(consumption + 3.0 * fatigue),
    ]  # fmt: skip
    return np.array(values)


def test_the_setpoints_of_the_answer_key_are_the_first_draws_of_its_seed() -> None:
    drawn = np.random.RandomState(501).randint(1, 100, 10)
    assert tuple(drawn[:2]) == KEY_SETPOINTS


@pytest.mark.parametrize("number", [0, 1])
def test_the_answer_key_is_met(number: int) -> None:
    key = np.loadtxt(data_file(f"industrial_benchmark/markovStates{number}.csv"), delimiter=",")
    assert key.shape == (1000, 29)
    draws = ReferenceDraws(KEY_SEED + number)
    params = IndustrialParams(setpoint=KEY_SETPOINTS[number])
    plant = VectorIndustrial(1, np.random.default_rng(0), params=params, draws=draws)
    found = []
    for _ in range(len(key)):
        plant.step(2.0 * draws.stream.random_sample((1, 3)) - 1.0)
        found.append(markov_state(plant))
    assert np.abs(np.array(found) - key).max(axis=0) == pytest.approx(np.zeros(29), abs=1e-6)


def test_a_wrong_order_of_draws_misses_the_answer_key() -> None:
    class Swapped(ReferenceDraws):
        def fatigue(self, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            exponential, uniform, success = super().fatigue(chance)
            return exponential[::-1], uniform, success

    key = np.loadtxt(data_file("industrial_benchmark/markovStates0.csv"), delimiter=",")
    draws = Swapped(KEY_SEED)
    params = IndustrialParams(setpoint=KEY_SETPOINTS[0])
    plant = VectorIndustrial(1, np.random.default_rng(0), params=params, draws=draws)
    plant.step(2.0 * draws.stream.random_sample((1, 3)) - 1.0)
    assert abs(markov_state(plant) - key[0]).max() > 1e-3


class Recorded:
    """Draws that were made before: some copies of a larger set, step by step."""

    def __init__(self, steps: int, copies: int, chosen: slice, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.exponential = rng.exponential(0.1, (steps, 2, copies))[:, :, chosen]
        self.uniform, self.chance = rng.random((2, steps, 2, copies))[:, :, :, chosen]
        self.normal = rng.standard_normal((steps, 2, copies))[:, :, chosen]
        self.step = -1

    def fatigue(self, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.step += 1
        success = (self.chance[self.step] < chance).astype(float)
        return self.exponential[self.step], self.uniform[self.step], success

    def burst(self, needed: bool) -> np.ndarray:
        return np.asarray(2.4 + 0.4 * self.normal[self.step, 0])

    def consumption(self) -> np.ndarray:
        return np.asarray(self.normal[self.step, 1])


def test_many_copies_are_as_many_single_ones_with_the_same_draws() -> None:
    copies, steps = 5, 300
    rng, unused = np.random.default_rng(3), np.random.default_rng(0)
    commands = np.clip(rng.normal(-0.15, 0.7, (steps, copies, 3)), -1, 1)  # low gain and velocity: fatigue breaks in
    commands[:, 0] += 0.4
    together = VectorIndustrial(copies, unused, draws=Recorded(steps + 1, copies, slice(None)))
    frames = np.stack([together.step(command) for command in commands])  # (T, B, 6)
    assert (together.wear == 5.0).any()
    assert not (together.wear.max(axis=0) == 5.0).all()
    for copy in range(copies):
        alone = VectorIndustrial(1, unused, draws=Recorded(steps + 1, copies, slice(copy, copy + 1)))
        own = np.stack([alone.step(command[copy : copy + 1])[0] for command in commands])
        # exp and powers of a vector and of a single number differ in the last digit
        assert own == pytest.approx(frames[:, copy], rel=1e-12)


def test_many_copies_are_distributed_as_the_references_single_ones() -> None:
    copies, steps = 300, 60
    together = VectorIndustrial(copies, np.random.default_rng(1))
    for _ in range(steps):
        many = together.step(np.zeros((copies, 3)))
    single = []
    for seed in range(copies):
        plant = VectorIndustrial(1, np.random.default_rng(0), draws=ReferenceDraws(seed))
        for _ in range(steps):
            frame = plant.step(np.zeros((1, 3)))
        single.append(frame[0])
    for column in (4, 5):
        ours, theirs = many[:, column], np.array(single)[:, column]
        assert ks_distance(ours, theirs) < 1.95 * math.sqrt(2.0 / copies)  # Kolmogorov-Smirnov at the level 0.001


def ks_distance(one: np.ndarray, other: np.ndarray) -> float:
    both = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(values), both, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_the_disturbances_do_not_depend_on_the_commands() -> None:
    used = []
    for command in (np.zeros((3, 3)), -np.ones((3, 3))):
        rng = np.random.default_rng(4)
        plant = VectorIndustrial(3, rng)
        for _ in range(200):
            plant.step(command)
        used.append(rng.random(5))
        assert isinstance(plant._draws, GeneratorDraws)
    assert np.array_equal(used[0], used[1])


def test_equal_seeds_give_equal_numbers() -> None:
    frames = []
    for _ in range(2):
        plant = VectorIndustrial(4, np.random.default_rng(9))
        frames.append(np.stack([plant.step(np.full((4, 3), 0.1)) for _ in range(50)]))
    assert np.array_equal(frames[0], frames[1])


def test_a_cost_shows_five_to_nine_steps_later() -> None:
    """One step with a velocity that is 1 higher: its cost comes in five parts."""
    calm, moved = (VectorIndustrial(1, np.random.default_rng(0), draws=Recorded(40, 1, slice(None))) for _ in range(2))
    difference = []
    for step in range(14):
        up = {0: 1.0, 1: -1.0}.get(step, 0.0)
        calm.step(np.zeros((1, 3)))
        moved.step(np.array([[up, 0.0, 0.0]]))
        difference.append(float(moved.delayed_cost[0] - calm.delayed_cost[0]))
    before = math.exp((2 * 70 + 4 * 50 + 2.5 * 50) / 100)
    gain = before * (math.exp(0.04) - 1.0)
    shares = [0.0] * 5 + [0.11111, 0.22222, 0.33333, 0.22222, 0.11111] + [0.0] * 4
    assert difference == pytest.approx([gain * share for share in shares], abs=1e-9)


def biased(radius: Any, sine: float) -> Any:
    return radius**4 - 2 * radius**2 - 8 * math.sqrt(2 / 27) * sine * radius


def slow_potential(index: int, shifts: np.ndarray) -> list[float]:
    """The deepest points by a fine search, the potential from its formula."""
    sine, radii = math.sin(2 * math.pi * index / 24), np.linspace(-1.6, 1.6, 3_200_001)
    depth = -float(biased(radii, 1.0).min())
    at = float(abs(radii[np.argmin(biased(radii, sine))]))
    best = max(abs(sine), math.sin(math.radians(15)))
    exponent = (2 - best) / (2 - at)
    factor = (2 - at) / (2 - best) ** exponent
    found = []
    for shift in shifts.tolist():
        size = abs(shift)
        stretched = size * at / best if size <= best else at + factor * (size - best) ** exponent
        found.append(biased(math.copysign(stretched, shift), sine) / depth)
    return found


@pytest.mark.parametrize("index", [-6, -3, 0, 1, 5])
def test_the_potential_is_the_biased_goldstone_potential(index: int) -> None:
    states, shifts = goldstone._tables()[0], np.linspace(-1.5, 1.5, 13)
    number = states.index(goldstone.Direction(1, 1, index))
    found = goldstone.potential(np.full(13, number), shifts)
    assert found == pytest.approx(slow_potential(index, shifts), abs=1e-5)


def test_the_potential_is_deepest_at_the_end_of_the_turn() -> None:
    grid = np.linspace(-1.5, 1.5, 3001)
    lowest = [goldstone.potential(np.full(3001, number), grid).min() for number in range(goldstone.STATES)]
    indices = goldstone.described(np.arange(goldstone.STATES))[2]
    assert min(lowest) == pytest.approx(-1.0, abs=1e-6)
    assert {abs(int(i)) for i, value in zip(indices, lowest, strict=True) if value < -0.9999} == {6}


def test_the_direction_turns_as_documented() -> None:
    here, path = goldstone.START, []
    for _ in range(20):  # a shift that stays on the positive side
        here = goldstone.turned(here, 1)
        path.append(here.index)
    assert path == [1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -6, -6]
    assert here == goldstone.Direction(1, -1, -6)
    back = goldstone.turned(here, -1)  # the other side: advantageous again, and beyond -90 degrees comes -75
    assert back == goldstone.Direction(-1, -1, -5)
    for _ in range(5):
        back = goldstone.turned(back, 0)
    assert back == goldstone.START


def test_fatigue_that_broke_in_stays_high_until_its_share_falls() -> None:
    plant = VectorIndustrial(200, np.random.default_rng(5), params=IndustrialParams(start=(40.0, 0.0, 50.0)))
    for _ in range(300):
        frame = plant.step(np.zeros((200, 3)))
    broken = plant.wear.max(axis=0) == 5.0
    assert broken.mean() > 0.9
    basic = plant.basic_fatigue[broken]
    assert (frame[broken, 4] / basic).mean() == pytest.approx((1 + 2 * 0.914) / 3, abs=0.02)  # mean of the logistic
    for _ in range(12):  # full gain: its effective share is 0
        plant.step(np.tile([0.0, 1.0, 0.0], (200, 1)))
    assert plant.wear[0].max() == 0.0


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("still", -210_500, -208_500), ("static", -186_500, -184_500), ("swinging", -171_500, -169_500),
     ("operator", -255_000, -215_000), ("random", -370_000, -280_000)],
)  # fmt: skip
def test_hand_made_controllers_return_as_documented(name: str, least: float, most: float) -> None:
    result = score(name, get_task("industrial"), seed=3, copies=50)
    assert least < -result.mean * result.steps < most
    assert result.limit_violations.sum() == 0


def test_no_constant_setting_nearby_beats_the_static_optimum() -> None:
    task = get_task("industrial")
    centre = np.array(Steered().setting)
    cost = {
        move: score(Steered(tuple(centre + move)), task, seed=4, copies=20, steps=500).mean
        for move in [(0.0, 0.0, 0.0), (8.0, 0.0, 0.0), (-8.0, 0.0, 0.0), (0.0, 15.0, 0.0), (0.0, -15.0, 0.0),
                     (0.0, 0.0, 3.0), (0.0, 0.0, -2.5)]
    }  # fmt: skip
    assert min(cost, key=lambda move: cost[move]) == (0.0, 0.0, 0.0)


def test_the_swinging_controller_knows_the_hidden_direction() -> None:
    plant, controller = VectorIndustrial(3, np.random.default_rng(6)), Swinging()
    controller.reset(3)
    frame, seen = plant.true_frame, set()
    for _ in range(100):
        command = controller.act(frame)
        assert np.array_equal(controller._direction, plant.direction)
        seen.add(int(plant.direction[0]))
        frame = plant.step(command)
    assert len(seen) > 8
    assert np.abs(shift_plan()[1]).max() == 4


def test_the_environment_shows_neorls_observations() -> None:
    task, rng = get_task("industrial"), np.random.default_rng(8)
    check_env(task.make().unwrapped, skip_render_check=True)
    kinds = ("frame", "stacked", "repeated")
    envs = [task.make(observation=kind) for kind in kinds]
    observations = [env.reset(seed=1)[0] for env in envs]
    assert [len(o) for o in observations] == [6, 180, 182]
    frames = [observations[0]]
    assert np.array_equal(observations[1], np.tile(frames[0], 30))  # the first frame stands for what was before it
    for _ in range(40):
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        results = [env.step(action) for env in envs]
        frames.insert(0, results[0][0])
        newest = np.concatenate((frames + [frames[-1]] * 30)[:30])
        assert np.array_equal(results[1][0], newest)
        assert np.array_equal(results[2][0], np.append(newest, frames[0][4:]))
        assert results[0][1] == pytest.approx(-(frames[0][5] + 3.0 * frames[0][4]), rel=1e-6)
    assert Layout.from_spec(task.spec()).names[:7] == (*VectorIndustrial.frame_tags, "setpoint@-1")
    assert gymnasium.make("envs:controlkit/Industrial-v0").observation_space.shape == (6,)


def flat_file(path: Path, kind: str) -> Path:
    """60 steps of two episodes in NeoRL's form: rows, episodes' first rows, no end."""
    env, rng = get_task("industrial").make(observation=kind), np.random.default_rng(2)
    rows: list[tuple[Any, ...]] = []
    for episode in range(2):
        observation, _ = env.reset(seed=episode)
        for _ in range(60):
            action = rng.uniform(-1, 1, 3).astype(np.float32)
            following, reward, *_ = env.step(action)
            rows.append((observation, action, following, reward, 0.0))
            observation = following
    columns = [np.array(column, dtype=np.float32) for column in zip(*rows, strict=True)]
    names = ("obs", "action", "next_obs", "reward", "done")
    np.savez(path, **dict(zip(names, columns, strict=True)), index=np.array([0, 60]))  # type: ignore[arg-type]
    return path


def test_flat_files_of_both_editions_are_read(tmp_path: Path) -> None:
    spec = get_task("industrial").spec()
    second = ingest(spec, [flat_file(tmp_path / "ib-180.npz", "stacked")], None).dataset
    assert len(second.transitions) == 120
    first = flat_file(tmp_path / "ib-182.npz", "repeated")
    with pytest.raises(DataError, match="182 columns"):
        ingest(spec, [first], None)
    convert(first, tmp_path / "converted.npz")
    converted = ingest(spec, [tmp_path / "converted.npz"], None).dataset
    assert np.array_equal(second.observations(second.transitions), converted.observations(converted.transitions))


def test_conversion_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = dict(np.load(flat_file(tmp_path / "good.npz", "repeated")))
    bad, out = tmp_path / "bad.npz", tmp_path / "out.npz"
    changed = good["next_obs"].copy()
    changed[7, 181] += 1.0
    np.savez(bad, **(good | {"next_obs": changed}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"next_obs: column 181 of row 7 .* does not repeat column 5"):
        convert(bad, out)
    with pytest.raises(DataError, match=r"shape \(120, 180\)"):
        convert(flat_file(tmp_path / "narrow.npz", "stacked"), out)
    np.savez(bad, action=good["action"])
    with pytest.raises(DataError, match="'obs' is missing"):
        convert(bad, out)
    bad.write_bytes(b"PK nothing")
    assert main([str(bad), str(out)]) == 1
    assert "no npz file that can be read" in capsys.readouterr().err
    assert main([str(tmp_path / "none.npz"), str(out)]) == 1
    assert main([]) == 2
    assert not out.exists()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ControlkitError, match="0 copies"):
        VectorIndustrial(0, np.random.default_rng(0))
    with pytest.raises(ControlkitError, match=r"120 is outside 0 \.\. 100"):
        VectorIndustrial(1, np.random.default_rng(0), params=IndustrialParams(setpoint=120.0))
    with pytest.raises(ControlkitError, match="step 0, copy 1, action 2"):
        VectorIndustrial(2, np.random.default_rng(0)).step(np.array([[0, 0, 0], [0, 0, np.nan]]))
    with pytest.raises(ControlkitError, match="did you mean 'stacked'"):
        get_task("industrial").make(observation="stackd")
    with pytest.raises(ControlkitError, match="no published scale"):
        get_task("industrial").benchmark_score(-2e5)
    assert DEFAULT_PARAMS.setpoint == 70.0


def test_a_regenerated_log_holds_neorls_windows_from_the_first_step(tmp_path: Path) -> None:
    task = get_task("industrial")
    log = collect(task, tmp_path / "log.npz", episodes=2, seed=3, steps=40, controller="low")
    with np.load(log.path) as arrays:
        assert arrays["obs"].shape == (80, 180)
        first = arrays["obs"][0].reshape(30, 6)
    assert np.array_equal(first, np.repeat(first[:1], 30, axis=0))
    data = ingest(task.spec(), [log.path], None).dataset
    assert len(data.transitions) == 80  # none is lost to a window that is not full
    # What a policy is shown in closed loop is what it learned from.
    window, rows = ObservationWindow(task.spec()), data.transitions
    shown = window.reset(data.observations(rows)[:1, :6])
    for row in range(40):
        assert data.observations(rows)[row] == pytest.approx(shown[0], abs=1e-6)
        shown = window.step(data.actions[rows][row : row + 1], data.next_observations(rows)[row : row + 1, :6])
