"""Where the time of policy updates and rollouts goes, by the functions that spend it."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable

from controlkit.benchmarks.results import markdown_table
from controlkit.benchmarks.workload import Sizes, Workload
from controlkit.config import FilterConfig, RunConfig

# Part of an update -> function (its file's name and its own); what is called within another is counted there.
UPDATE_PARTS = {
    "forward passes": ("backward.py", "forward"),
    "backward passes": ("backward.py", "backward"),
    "Adam": ("flat.py", "step"),
    "minibatches": ("update_blocks.py", "_minibatches"),
    "clamp and rate limit": ("objective.py", "apply"),
}
ROLLOUT_PARTS = {
    "policy": ("actor.py", "sample"),
    "dynamics ensemble": ("ensemble.py", "forward"),
    "candidates": ("transition_filter.py", "candidates"),
    "dynamics reward": ("discriminator.py", "log_odds"),
    "penalties' figures": ("ensemble.py", "spread"),
    "reward and trips": ("objective.py", "reward"),
    "observations": ("dynamics.py", "next_observation"),
}


def profile_tables(updates: RunConfig, rollouts: RunConfig, filtered: FilterConfig, unfiltered: FilterConfig) -> str:
    """Three Markdown tables: an update, a filtered and an unfiltered rollout step."""
    work = Workload(Sizes(17, 0, 6), updates, 1)
    work.fill(100_000)
    found = ["### A policy update\n", _table(lambda: work.blocks.run(500), UPDATE_PARTS, 500, "update")]
    rolling = Workload(Sizes(4, 2, 2), rollouts, 1)
    for name, filtering in (("filtered", filtered), ("unfiltered", unfiltered)):
        roller = rolling.roller(filtering)
        steps = 3 * rollouts.rollout.length

        def several(roller: object = roller) -> None:
            for _ in range(3):
                rolling.roll(roller)  # type: ignore[arg-type]

        title = f"### A {name} rollout step of {rollouts.rollout.starts} rollouts\n"
        found += [title, _table(several, ROLLOUT_PARTS, steps, "step")]
    return "\n".join(found)


def _table(work: Callable[[], object], parts: dict[str, tuple[str, str]], units: int, unit: str) -> str:
    work()  # warm
    profiler = cProfile.Profile()
    profiler.runcall(work)
    statistics = pstats.Stats(profiler)
    whole: float = statistics.total_tt  # type: ignore[attr-defined]
    spent = dict.fromkeys(parts, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in statistics.stats.items():  # type: ignore[attr-defined]
        for name, (its_file, its_function) in parts.items():
            if file.endswith("/" + its_file) and function == its_function:
                spent[name] += cumulative
    spent["everything else"] = whole - sum(spent.values())
    rows = [[name, f"{1e6 * value / units:.0f}", f"{100 * value / whole:.0f} %"] for name, value in spent.items()]
    return markdown_table(["part", f"µs per {unit}", "share"], [*rows, ["all", f"{1e6 * whole / units:.0f}", "100 %"]])
