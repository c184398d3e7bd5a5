"""Behaviour policies: the exported actor, NeoRL's protocol, training that keeps the first policy at a return."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.cli import main
from controlkit.errors import ArtifactError, ControlkitError
from controlkit.files import sha256_of
from controlkit.layout import Layout
from envs.closed_loop import score
from envs.collect import collect
from envs.neorl.behaviour.policy import (
    POLICIES,
    BehaviourPolicy,
    behaviour_of,
    kept_controllers,
    kept_policies,
    policy_file,
)
from envs.neorl.behaviour.settings import SETTINGS, TrainingSettings, Wish, training_settings, wishes
from envs.neorl.behaviour.view import TrainingEnv, View
from envs.tasks import get_task

SMALL = TrainingSettings(
    {"low": 1e9}, hidden=(8,), scaled=True, evaluate_every=150, checkpoint_every=1, buffer=2000, warm_up=100,
    batch_size=16, steps=450, learning_rate=1e-2, reward_scale=0.1,
)  # fmt: skip


def written(path: Path, task: str, settings: TrainingSettings, log_std: float = -1.0) -> tuple[Path, list[Any]]:
    """A random actor's file and its layers; deviations of exp(log_std)."""
    pytest.importorskip("onnx")
    from envs.neorl.behaviour.export import actor_file

    spec, rng = get_task(task).spec(), np.random.default_rng(0)
    view = View.of(spec, settings)
    sizes = [len(view.scale), *settings.hidden, len(spec.action_tags)]
    layers = [
        (rng.normal(0, 0.5, (out, into)).astype(np.float32), rng.normal(0, 0.1, out).astype(np.float32))
        for into, out in pairwise(sizes)
    ]
    spread = (np.zeros_like(layers[-1][0]), np.full(sizes[-1], log_std, dtype=np.float32))
    path.write_bytes(actor_file(view, layers[:-1], layers[-1], spread))
    return path, layers


def slow_mean(layers: list[Any], seen: np.ndarray) -> np.ndarray:
    """One row, one unit at a time, before the tanh."""
    values = [float(x) for x in seen]
    for number, (weight, bias) in enumerate(layers):
        values = [sum(float(w) * x for w, x in zip(row, values, strict=True)) + float(b)
                  for row, b in zip(weight, bias, strict=True)]  # fmt: skip
        if number < len(layers) - 1:
            values = [max(0.0, x) for x in values]
    return np.array(values)


def test_the_mean_action_is_that_of_the_network(tmp_path: Path) -> None:
    path, layers = written(tmp_path / "a.onnx", "dmsd", SMALL)
    spec, rng = get_task("dmsd").spec(), np.random.default_rng(1)
    policy = BehaviourPolicy(path, spec, rng, sampled_share=0.0)
    policy.reset(4)
    frames = rng.uniform(-2, 2, (4, 6))
    ranges = np.array([spec.tags[tag].range for tag in spec.frame_tags])
    seen = (frames - ranges.mean(axis=1)) / (np.diff(ranges)[:, 0] / 2)
    assert policy.act(frames) == pytest.approx(np.tanh([slow_mean(layers, row) for row in seen]), abs=1e-5)


def test_a_window_holds_what_the_layout_says(tmp_path: Path) -> None:
    settings = replace(SMALL, window=True, scaled=False)
    path, layers = written(tmp_path / "a.onnx", "pipeline", settings)
    task = get_task("pipeline")
    spec, layout = task.spec(), Layout.from_spec(task.spec())
    policy = BehaviourPolicy(path, spec, np.random.default_rng(0), sampled_share=0.0)
    plant = task.simulator(1, np.random.default_rng(0))
    policy.reset(1)
    frames, commands = [plant.true_frame[0]], []
    for _ in range(40):
        commands.append(policy.act(frames[-1][None])[0])
        frames.append(plant.step(commands[-1][None])[0])
    row = np.array([39])
    log = np.array(frames, np.float32), np.array([*commands, commands[0]], np.float32)
    observation = layout.observe(*log, row)[0]
    assert np.tanh(slow_mean(layers, observation)) == pytest.approx(commands[39], abs=1e-3)


def test_a_fifth_of_the_commands_is_drawn_and_equal_seeds_draw_the_same(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "a.onnx", "dmsd", SMALL, log_std=-1.0)
    spec, frames = get_task("dmsd").spec(), np.full((5000, 6), 0.3)

    def commands(seed: int, share: float = 0.2) -> np.ndarray:
        policy = BehaviourPolicy(path, spec, np.random.default_rng(seed), share)
        policy.reset(5000)
        return np.stack([policy.act(frames) for _ in range(2)])

    one, mean = commands(1), commands(1, 0.0)
    assert np.array_equal(one, commands(1))
    assert not np.array_equal(one, commands(2))
    drawn = (one != mean).any(axis=2)
    assert drawn.mean() == pytest.approx(0.2, abs=0.02)
    assert (drawn[0] & drawn[1]).mean() == pytest.approx(0.04, abs=0.01)  # every copy and step on its own
    before_tanh = np.arctanh(one[drawn]) - np.arctanh(mean[drawn])
    assert before_tanh.std(axis=0) == pytest.approx([np.exp(-1.0)] * 2, rel=0.06)
    assert np.abs(before_tanh.mean(axis=0)).max() < 0.03


def test_commands_are_in_engineering_units(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "a.onnx", "refrigerator", SMALL, log_std=2.0)
    policy = BehaviourPolicy(path, get_task("refrigerator").spec(), np.random.default_rng(0), 1.0)
    policy.reset(500)
    command = policy.act(np.full((500, 2), 3.0))
    assert 0.0 <= command.min() < 0.5
    assert 9.5 < command.max() <= 10.0


def test_what_is_unseen_changes_nothing(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "a.onnx", "dmsd", replace(SMALL, unseen=("velocity_1",), scaled=False))
    policy = BehaviourPolicy(path, get_task("dmsd").spec(), np.random.default_rng(0), 0.0)
    frames = np.tile(np.linspace(-1, 1, 6), (3, 1))
    frames[1, 2], frames[2, 3] = 50.0, 50.0  # velocity_1, velocity_2
    command = policy.act(frames)
    assert np.array_equal(command[0], command[1])
    assert not np.array_equal(command[0], command[2])


def test_the_training_environment_is_the_task(tmp_path: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    task = get_task("industrial")
    settings = replace(SETTINGS["industrial"], window=False, scaled=False)
    check_env(TrainingEnv(task, settings), skip_render_check=True)
    env = TrainingEnv(task, settings)
    observation, _ = env.reset(seed=3)
    plant = task.simulator(1, np.random.default_rng(3))
    assert observation == pytest.approx(plant.reset()[0], rel=1e-6)
    for step in range(1, 1001):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        frame = plant.step(action[None].astype(np.float64))[0]
        assert observation == pytest.approx(frame, rel=1e-5)
        assert info["true_reward"] == pytest.approx(-(frame[5] + 3 * frame[4]), rel=1e-9)
        assert reward == pytest.approx((info["true_reward"] + 250.0) * 0.02)
        assert (terminated, truncated) == (False, step == 1000)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    spec, rng = get_task("dmsd").spec(), np.random.default_rng(0)
    with pytest.raises(ArtifactError, match="no such file"):
        BehaviourPolicy(tmp_path / "none.onnx", spec, rng)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"bad\.onnx: is damaged"):
        BehaviourPolicy(tmp_path / "bad.onnx", spec, rng)
    path, _ = written(tmp_path / "dmsd-low.onnx", "dmsd", SMALL)
    wrong_plant = r"takes 6 numbers and commands 2; the plant 'pipeline' has 2 .* Take a policy that .* for 'pipeline'"
    with pytest.raises(ArtifactError, match=wrong_plant):
        BehaviourPolicy(path, get_task("pipeline").spec(), rng)
    with pytest.raises(ControlkitError, match=r"share of samples is 1\.5"):
        BehaviourPolicy(path, spec, rng, 1.5)
    assert kept_policies(tmp_path) == ("bad", "dmsd-low")
    assert policy_file("dmsd", "low", tmp_path) == path
    with pytest.raises(ArtifactError, match=r"'dmsd-lo' is kept; did you mean 'dmsd-low'\?.*behaviour\.train dmsd lo "):
        policy_file("dmsd", "lo", tmp_path)
    with pytest.raises(ControlkitError, match="more than 400000"):
        written(tmp_path / "large.onnx", "dmsd", replace(SMALL, hidden=(400, 400)))


def test_kept_levels_are_controllers_of_their_task(tmp_path: Path) -> None:
    path, _ = written(tmp_path / "dmsd-high.onnx", "dmsd", SMALL)
    written(tmp_path / "pipeline-low.onnx", "pipeline", SMALL)
    task = get_task("dmsd")
    levels = kept_controllers("dmsd", "dmsd", tmp_path)
    assert list(levels) == ["high"]
    results = [
        score(controller(np.random.default_rng(4), {}), task, seed=1, copies=3, steps=20).returns
        for controller in (levels["high"], lambda rng, _: BehaviourPolicy(path, task.spec(), rng))
    ]
    assert np.array_equal(*results)


@pytest.mark.parametrize("name", kept_policies())
def test_kept_policies_are_what_their_records_say(name: str) -> None:
    path = POLICIES / f"{name}.onnx"
    record = json.loads(path.with_suffix(".json").read_text())
    assert f"{record['task']}-{record['level']}" == name
    assert sha256_of(path) == record["sha256"]
    assert path.stat().st_size == record["bytes"] <= 400_000
    assert record["wished_return"] == SETTINGS[record["task"]].returns[record["level"]]
    assert Wish(record["level"], record["wished_return"]).met(record["return"])


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_the_industrial_levels_return_what_neorls_did_on_fresh_episodes(level: str) -> None:
    task, copies = get_task("industrial"), 50
    wish = Wish(level, SETTINGS["industrial"].returns[level])
    mean = BehaviourPolicy(policy_file("industrial", level), task.spec(), np.random.default_rng(0), 0.0)
    assert wish.met(float(score(mean, task, seed=21, copies=copies).returns.mean()))
    protocol = score(level, task, seed=22, copies=copies).returns
    assert wish.met(float(protocol.mean())) or abs(protocol.mean() - wish.value) < 3 * protocol.std() / copies**0.5


def test_settings_name_what_is_unknown() -> None:
    with pytest.raises(ControlkitError, match=r"no behaviour policy is defined for 'hoper'. did you mean 'hopper'"):
        training_settings("hoper")
    with pytest.raises(ControlkitError, match="unknown level 'hihg'"):
        wishes("hopper", ("hihg",), SETTINGS["hopper"])
    with pytest.raises(ControlkitError, match="unknown tag 'x'"):
        View.of(get_task("dmsd").spec(), replace(SMALL, unseen=("x",)))
    assert [Wish("low", -100.0).met(value) for value in (-106.0, -104.9, -95.1, -94.0)] == [False, True, True, False]


@pytest.fixture
def trained() -> Callable[..., Any]:
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("onnx")
    from envs.neorl.behaviour.train import train

    return train


def history(out: Path) -> list[dict[str, float]]:
    content: list[dict[str, float]] = json.loads((out / "checkpoint" / "state.json").read_text())["history"]
    return content


def test_the_first_policy_at_the_return_is_kept_with_its_record(trained: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ControlkitError, match=r"after 450 steps no policy within 5% of 1e\+09 \(low\)"):
        trained("dmsd", ["low"], tmp_path / "a", settings=SMALL, episodes=5)
    returns = [entry["return"] for entry in history(tmp_path / "a")]
    assert [entry["steps"] for entry in history(tmp_path / "a")] == [150, 300, 450]
    wish = Wish("medium", returns[1])
    first = next(i for i, value in enumerate(returns) if wish.met(value))
    kept = trained(
        "dmsd", ["medium"], tmp_path / "b", settings=replace(SMALL, returns={"medium": wish.value}), episodes=5
    )
    record = json.loads((tmp_path / "b" / "dmsd-medium.json").read_text())
    # The same seed trains the same policies.
    assert [entry["return"] for entry in record["history"]] == returns[: first + 1]
    assert record["return"] == returns[first] == pytest.approx(np.mean(record["returns"]), abs=0.01)
    assert kept == {"medium": tmp_path / "b" / "dmsd-medium.onnx"}
    assert record["bytes"] == kept["medium"].stat().st_size


def test_the_protocols_return_may_have_to_be_met_too(trained: Callable[..., Any], tmp_path: Path) -> None:
    """Wide deviations and a wish for what the mean returns: what is drawn returns something else."""
    short = replace(SMALL, steps=300, learning_rate=1e-6)
    with pytest.raises(ControlkitError):
        trained("dmsd", ["low"], tmp_path / "a", settings=short, episodes=5)
    wish = {"low": history(tmp_path / "a")[0]["return"]}
    assert trained("dmsd", ["low"], tmp_path / "b", settings=replace(short, returns=wish), episodes=5)
    record = json.loads((tmp_path / "b" / "dmsd-low.json").read_text())
    assert not Wish("low", wish["low"]).met(record["sampled"]["return"])
    strict = replace(short, returns=wish, protocol_too=True)
    with pytest.raises(ControlkitError, match="no policy within"):
        trained("dmsd", ["low"], tmp_path / "c", settings=strict, episodes=5)


def test_the_kept_file_is_the_trained_actor(trained: Callable[..., Any], tmp_path: Path) -> None:
    import torch
    from stable_baselines3 import SAC

    wide = replace(SMALL, returns={"low": 1.0}, steps=150)
    with pytest.raises(ControlkitError):
        trained("dmsd", ["low"], tmp_path, settings=wide, episodes=3)
    from envs.neorl.behaviour.export import actor_file, actor_layers

    model = SAC.load(tmp_path / "checkpoint" / "model.zip", device="cpu")
    spec = get_task("dmsd").spec()
    path = tmp_path / "actor.onnx"
    path.write_bytes(actor_file(View.of(spec, wide), *actor_layers(model.policy.actor)))
    policy = BehaviourPolicy(path, spec, np.random.default_rng(0), 0.0)
    frames = np.random.default_rng(1).uniform(-2, 2, (6, 6))
    mean, log_std = policy.distribution(frames)
    seen = torch.from_numpy(View.of(spec, wide)(frames))
    with torch.no_grad():
        wanted_mean, wanted_log_std, _ = model.policy.actor.get_action_dist_params(seen)
    assert mean == pytest.approx(wanted_mean.numpy(), abs=1e-5)
    assert log_std == pytest.approx(wanted_log_std.numpy(), abs=1e-5)
    assert policy.act(frames) == pytest.approx(model.predict(seen.numpy(), deterministic=True)[0], abs=1e-5)


def test_training_goes_on_from_its_checkpoint(trained: Callable[..., Any], tmp_path: Path) -> None:
    for steps in (150, 300):
        with pytest.raises(ControlkitError, match=f"after {steps} steps"):
            trained("dmsd", ["low"], tmp_path, settings=SMALL, steps=steps, episodes=3)
    assert [entry["steps"] for entry in history(tmp_path)] == [150, 300]
    with pytest.raises(ControlkitError, match="checkpoint of another run"):
        trained("dmsd", ["low"], tmp_path, settings=SMALL, seed=1, episodes=3)
    assert not list(tmp_path.glob("*.onnx"))


def test_the_policy_of_another_run_is_not_taken_for_a_wish(trained: Callable[..., Any], tmp_path: Path) -> None:
    loose = replace(SMALL, returns={"low": 1.0, "high": 1e9}, steps=150)
    record = {"seed": 3, "settings": asdict(loose)}
    path = tmp_path / "dmsd-low.json"
    path.write_text(json.dumps(record))
    assert list(trained("dmsd", ["low"], tmp_path, settings=loose, seed=3, steps=150)) == ["low"]
    with pytest.raises(
        ControlkitError, match=r"dmsd-low\.json: is the record of another run \(seed 3, not 0\)\. Choose"
    ):
        trained("dmsd", ["low"], tmp_path, settings=loose)
    other = replace(loose, gamma=0.5, steps=300)  # more steps are the same run, gone on
    with pytest.raises(ControlkitError, match=r"another run \(gamma 0\.99, not 0\.5\)"):
        trained("dmsd", ["low"], tmp_path, settings=other, seed=3)


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from envs.neorl.behaviour.train import main

    assert main(["dmsd", "low", "--out", str(tmp_path)]) == 1
    assert "no behaviour policy is defined for 'dmsd'" in capsys.readouterr().err
    assert main(["industrial", "lowest", "--out", str(tmp_path)]) == 1
    assert "did you mean 'low'" in capsys.readouterr().err


def test_a_published_set_is_collected_by_the_policy_that_stands_for_it() -> None:
    assert behaviour_of("neorl/industrial-high") == ("industrial", "high")
    for name, message in (
        ("neorl/industrial-hihg", "did you mean 'neorl/industrial-high'"),
        ("neorl/industrial-high-val", "not made by a behaviour policy of ours.*--download"),
        ("neorl2/pipeline", "not made by a behaviour policy of ours.*--download"),
    ):
        with pytest.raises(ControlkitError, match=message):
            behaviour_of(name)


def test_the_command_line_collects_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.npz"
    with pytest.raises(SystemExit) as end:
        main(["collect", "neorl/industrial-low", "--out", str(out), "--episodes", "1", "--seed", "3"])
    assert not end.value.code
    assert "1000 samples in 1 episodes" in capsys.readouterr().out
    task = get_task("industrial")
    collect(task, tmp_path / "b.npz", episodes=1, seed=3, controller="low")
    with np.load(out) as mine, np.load(tmp_path / "b.npz") as theirs:
        np.testing.assert_array_equal(mine["obs"], theirs["obs"])
        np.testing.assert_array_equal(mine["action"], theirs["action"])
