"""The Industrial Benchmark suite (arXiv 1709.09480, as in NeoRL): policies against those whose logs they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from controlkit.benchmarks.policy_suite import Source, Suite, SuiteTask, run_tasks
from controlkit.progress import Progress
from envs.neorl.data_files import get_released

EPISODES = 10
TRAJECTORIES = 100
METHODS = ("bc", "mean", "morec")
# Returns of NeoRL's behaviour policies.
BEHAVIOUR = {"low": -344311.0, "medium": -283121.0, "high": -220156.0}


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
        for level, value in BEHAVIOUR.items()
    },
    methods=METHODS,
    episodes=EPISODES,
    note="Setpoint 70, 1000 steps. NeoRL publishes no scale of scores for this task.",
)


def run_suite(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    workers: int | None = None,
    settings: Sequence[str] = (),
) -> str:
    """Runs the suite; see `run_tasks`."""
    return run_tasks(SUITE, out, seeds, progress, tasks=tasks, methods=methods, workers=workers, settings=settings)
