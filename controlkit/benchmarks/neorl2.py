"""The NeoRL-2 suite (arXiv 2503.19267): policies trained on the released data, scored on the true plant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from controlkit.benchmarks.policy_suite import Suite, SuiteTask, released, run_tasks
from controlkit.progress import Progress

EPISODES = 100
# Every one a row with the formula and a row without.
METHODS = ("mopo", "mean", "medoid", "irl", "irl-gail", "noise", "mixed")
# Scores in table 4 of the paper.
PUBLISHED = {
    "DMSD": {
        "data": 56.6, "BC": 65.1, "CQL": 70.2, "EDAC": 78.7, "MCQ": 77.8, "TD3+BC": 60.0, "MOPO": 68.2, "COMBO": 68.3,
        "RAMBO": 76.2, "MOBILE": 64.4,
    }
}  # fmt: skip

SUITE = Suite(
    name="neorl2",
    tasks={
        "DMSD": SuiteTask("dmsd", "dmsd", released("neorl2/DMSD-train.npz"), "the released file", PUBLISHED["DMSD"])
    },
    methods=METHODS,
    episodes=EPISODES,
    note="The published methods (arXiv 2503.19267) know neither the reward's formula nor which columns are exogenous; "
    "the hand-made controllers know the plant's constants.",
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
