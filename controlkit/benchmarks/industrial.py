"""The Industrial Benchmark suite (arXiv 1709.09480, as in NeoRL): policies against those whose logs they learn from."""

from __future__ import annotations

from functools import partial

from controlkit.benchmarks.policy_suite import Suite, SuiteTask, run_tasks
from controlkit.benchmarks.suite_data import Source
from envs.neorl.behaviour.settings import training_settings
from envs.neorl.data_files import get_released

EPISODES = 10
TRAJECTORIES = 100
METHODS = ("bc", "morec")


def _file(level: str) -> str:
    return get_released(f"neorl/industrial-{level}-{TRAJECTORIES}").name


SUITE = Suite(
    name="industrial",
    tasks={
        f"Industrial-{level}": SuiteTask(
            "industrial",
            "industrial",
            Source(f"neorl/{_file(level)}", behaviour=level, episodes=TRAJECTORIES),
            {"behaviour policy of NeoRL": value},
            rewards=("formula",),
        )
        for level, value in training_settings("industrial").returns.items()
    },
    methods=METHODS,
    episodes=EPISODES,
    note="Setpoint 70, 1000 steps. NeoRL publishes no scale of scores for this task. The configuration was chosen on "
    "the level low, whose rows are therefore no test; medium and high were not looked at before.",
)


run_suite = partial(run_tasks, SUITE)
