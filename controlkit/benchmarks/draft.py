"""The draft suite: how often `controlkit ingest --check` tells roles, period and delays of plants that are known.

Each plant is simulated under its behaviour controller and written as a historian would; the proposal sees the log
alone, once with the tags' names and once with names that say nothing. Right is what the shipped plant file says; of a
tag that is constant in the log, `static` and `ignore` are right too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from controlkit.artifacts import commit
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.errors import ControlkitError, nearest
from controlkit.files import write_text
from controlkit.ingest.draft.proposal import Proposal, propose
from controlkit.ingest.draft.sample import TagSample, sample_of
from controlkit.progress import Progress
from envs.collect import collect
from envs.tasks import get_task

SUITE = "draft"


@dataclass(frozen=True)
class KnownPlant:
    """A task's log and what is to be found in it.

    Attributes:
        task: its name.
        episodes: of the log.
        delays: action, state, sample times from the command to its first effect.
    """

    task: str
    episodes: int
    delays: tuple[tuple[str, str, int], ...]


PLANTS = (
    KnownPlant("refrigerator", 2, (("power", "temperature", 1),)),
    KnownPlant("pipeline", 20, (("gate", "flow", 20),)),
    KnownPlant("dmsd", 100, (("force_1", "velocity_1", 1), ("force_2", "velocity_2", 1))),
    KnownPlant(
        "industrial",
        10,
        (("velocity_move", "velocity", 1), ("gain_move", "gain", 1), ("shift_move", "shift", 1)),
    ),
    KnownPlant("rocket-recovery", 40, (("main_engine", "velocity_y", 1), ("side_engine", "angular_velocity", 1))),
    KnownPlant("halfcheetah", 10, (("back_foot_torque", "back_foot_velocity", 1),)),
    KnownPlant("hopper", 400, (("foot_torque", "foot_velocity", 1),)),
    KnownPlant("walker2d", 400, (("foot_torque", "foot_velocity", 1),)),
)


@dataclass(frozen=True)
class Score:
    """Shares, 0 to 1: tags with the right role; of them actions; the period (0 or 1); delays within one sample."""

    roles: float
    actions: float
    period: float
    delays: float


def run_suite(out: Path, seeds: int, progress: Progress, *, tasks: Sequence[str] = ()) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json` and `table.md`.
        seeds: logs per plant, with seeds from 1 on: the rules were made looking at seed 0.
        progress: is told of each log.
        tasks: plants; all where none is named.

    Raises:
        ControlkitError: there is no such plant.
    """
    known = {plant.task: plant for plant in PLANTS}
    for name in tasks:
        if name not in known:
            raise ControlkitError(f"unknown plant '{name}'", where="benchmark draft", cure=nearest(name, known))
    plants = [known[name] for name in tasks] if tasks else list(PLANTS)
    progress.start("propose plant files", len(plants) * seeds)
    rows, records = [], []
    for plant in plants:
        shown, hidden = [], []
        started = time.monotonic()
        for seed in range(1, seeds + 1):
            one, other, samples = _judge_log(plant, seed)
            shown.append(one)
            hidden.append(other)
            progress.advance()
        seconds = time.monotonic() - started
        for method, scores in (("names", shown), ("hidden names", hidden)):
            records += _records(plant, method, scores, seconds)
        rows.append([plant.task, f"{samples}", *(_cell(scores) for scores in (shown, hidden))])
    header = ("plant", "samples", "with names: roles, actions, period, delays", "hidden names: the same")
    table = markdown_table(header, rows)
    write_results(out, records)
    write_text(out / "table.md", table)
    return table


def judge(plant: KnownPlant, proposal: Proposal, tags: dict[str, TagSample], names: dict[str, str]) -> Score:
    """How much of a proposal is right; `names` has the names in the proposal for those of the plant file."""
    spec = get_task(plant.task).spec()
    right: dict[str, bool] = {}
    for name, tag in spec.tags.items():
        shown = names.get(tag.column or name)
        if shown is None:
            continue  # hidden in the log
        found = proposal.parts[shown].role
        constant = tags[shown].low == tags[shown].high
        right[name] = found == tag.role or (constant and found in ("static", "ignore"))
    # An action's share counts what was called an action wrongly, too.
    truly = {names[spec.tags[name].column or name] for name in spec.action_tags}
    called = {name for name, part in proposal.parts.items() if part.role == "action"}
    met = 0
    for action, state, delay in plant.delays:
        pair = names[action], names[state]
        seen = proposal.relations.delay(*pair) if set(pair) <= set(proposal.relations.names) else None
        met += seen is not None and abs(seen * proposal.period.seconds / spec.period_s - delay) <= 1
    return Score(
        roles=float(np.mean(list(right.values()))),
        actions=len(truly & called) / len(truly | called),
        period=float(proposal.period.seconds == spec.period_s),
        delays=met / len(plant.delays),
    )


def _judge_log(plant: KnownPlant, seed: int) -> tuple[Score, Score, int]:
    with TemporaryDirectory(prefix="controlkit-draft-") as folder:
        path = Path(folder) / "log.parquet"
        collect(plant.task, path, plant.episodes, seed=seed)
        tags = sample_of(path).tags
    # Shuffled, so that neither order nor name tells.
    order = np.random.default_rng(seed).permutation(sorted(tags)).tolist()
    hidden = {name: f"tag {i}" for i, name in enumerate(order)}
    covered = {hidden[name]: tags[name] for name in order}
    shown = judge(plant, propose(tags), tags, {name: name for name in tags})
    return shown, judge(plant, propose(covered), covered, hidden), max(tag.samples for tag in tags.values())


def _cell(scores: Sequence[Score]) -> str:
    means = (np.mean([getattr(score, field) for score in scores]) for field in ("roles", "actions", "period", "delays"))
    return ", ".join(f"{100 * mean:.0f} %" for mean in means)


def _records(plant: KnownPlant, method: str, scores: Sequence[Score], seconds: float) -> list[Record]:
    records = []
    for field in ("roles", "actions", "period", "delays"):
        values = [getattr(score, field) for score in scores]
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        records.append(
            Record(
                suite=SUITE,
                task=plant.task,
                method=method,
                metric=f"{field}_right",
                value=float(np.mean(values)),
                stderr=error,
                seeds=len(scores),
                episodes=plant.episodes * len(scores),
                seconds=seconds,
                commit=commit(),
                data_sha256="",
                machine=machine(),
            )
        )
    return records
