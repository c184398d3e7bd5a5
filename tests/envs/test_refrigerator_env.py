"""The gymnasium form: the checker, the registration, and the same numbers as the vector form."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from controlkit.configs import config_path
from controlkit.errors import ControlkitError
from controlkit.objective import Objective
from controlkit.spec import PlantSpec
from envs.refrigerator import VectorRefrigerator
from envs.refrigerator_env import RefrigeratorEnv
from envs.tasks import get_task

OPTIONS = [
    {},
    {"noise": "process", "noise_scale": 0.5},
    {"noise": "none", "door": "hidden"},
    {"door": "hidden", "start_c": -5.0, "horizon": 300},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_gymnasium_checker_is_content(options: dict[str, Any]) -> None:
    envs.register()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The one thing the checker recommends and a plant cannot have: an action space of [-1, 1].
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(gymnasium.make("controlkit/Refrigerator-v0", **options).unwrapped)


@pytest.mark.parametrize("options", OPTIONS)
def test_same_numbers_as_the_vector_form(options: dict[str, Any]) -> None:
    """Gymnasium seeds its generator as numpy does, so that equal seeds give equal draws."""
    env = RefrigeratorEnv(**options)
    arguments = {key: value for key, value in options.items() if key != "horizon"}
    plant = VectorRefrigerator(1, np.random.default_rng(42), **arguments)
    observation, info = env.reset(seed=42)
    np.testing.assert_array_equal(observation, plant.measured_frame[0, : len(observation)].astype(np.float32))
    powers = np.random.default_rng(1).uniform(0, 1, 260).astype(np.float32)
    for power in powers:
        observation, reward, terminated, truncated, info = env.step(np.array([power]))
        frame = plant.step(np.array([[power]], dtype=np.float64))
        np.testing.assert_array_equal(observation, frame[0].astype(np.float32))
        assert info["true_temperature"] == plant.true_temperature[0]
        assert info["door"] == plant.door[0]
        assert reward == pytest.approx(-abs(plant.measured_temperature[0] + 2.0), abs=1e-12)
        assert info["true_reward"] == pytest.approx(-abs(plant.true_temperature[0] + 2.0), abs=1e-12)
        assert (terminated, truncated) == (False, False)


def test_the_reward_is_the_plant_files_formula() -> None:
    objective = Objective(PlantSpec.load(config_path("plants", "refrigerator")))
    env = RefrigeratorEnv()
    before, _ = env.reset(seed=3)
    for _ in range(50):
        action = env.action_space.sample()
        after, reward, *_ = env.step(action)
        assert reward == pytest.approx(float(objective.reward(before, action, after)), abs=1e-5)
        before = after


def test_truncated_at_the_horizon_and_never_terminated() -> None:
    env = RefrigeratorEnv(horizon=5)
    env.reset(seed=0)
    ends = [env.step(np.array([10.0], dtype=np.float32))[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


def test_observations_stay_in_their_space_at_full_power_and_at_none() -> None:
    for power in (0.0, 10.0):
        env = RefrigeratorEnv(noise="process", noise_scale=1.0)
        observation, _ = env.reset(seed=1)
        for _ in range(600):
            observation, *_ = env.step(np.array([power], dtype=np.float32))
            assert observation in env.observation_space


def test_an_episode_goes_on_with_the_generator() -> None:
    env = RefrigeratorEnv()
    first, _ = env.reset(seed=9)
    second, _ = env.reset()
    again, _ = env.reset(seed=9)
    assert first[0] != second[0]
    assert first[0] == again[0]


def test_wrong_arguments_say_so() -> None:
    with pytest.raises(ControlkitError, match=r"^refrigerator: horizon 0 is no episode\. Give 1 or more\.$"):
        RefrigeratorEnv(horizon=0)
    with pytest.raises(ControlkitError, match="did you mean 'process'"):
        RefrigeratorEnv(noise="proces")  # type: ignore[arg-type]
    env = RefrigeratorEnv()
    with pytest.raises(ControlkitError, match="the option 'start' is unknown"):
        env.reset(seed=0, options={"start": 5.0})
    env.reset(seed=0)
    with pytest.raises(ControlkitError, match="commanded nan"):
        env.step(np.array([np.nan], dtype=np.float32))


def test_a_task_makes_its_environment_with_options() -> None:
    env = get_task("refrigerator").make(door="hidden", horizon=7)
    assert env.observation_space.shape == (1,)
    assert isinstance(env.unwrapped, RefrigeratorEnv)
    assert env.unwrapped.horizon == 7


@pytest.mark.parametrize(
    "program",
    [
        # gymnasium 1 imports the module before the colon
        "import gymnasium; gymnasium.make('envs:controlkit/Refrigerator-v0')",
        "import envs, gymnasium; envs.register(); envs.register(); gymnasium.make('controlkit/Refrigerator-v0')",
        # a tool that reads the group calls the function inside the entry point's namespace
        "import gymnasium.envs.registration as r\n"
        "with r.namespace('controlkit'):\n import envs; envs.register()\n"
        "r.make('controlkit/Refrigerator-v0')",
        # and importing the package, its simulators and its tasks loads no gymnasium
        "import sys, envs, envs.tasks, envs.collect\n"
        "assert not {'gymnasium', 'torch', 'pandas', 'pyarrow'} & set(sys.modules)",
    ],
)
def test_registration_in_a_fresh_interpreter(program: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
