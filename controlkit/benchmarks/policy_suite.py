"""Tasks x methods x seeds: policies trained on a task's data and scored on the true plant; what NeoRL's suites share.

A method may be run twice: with the reward's formula, which a plant's owner knows, and with the rewards in the data
alone, which is all that the published methods have. One configuration per task, the last weights, every seed counts;
nothing is chosen by looking at the simulator. A run's figures are kept in `parts/`, so that an interrupted benchmark
goes on where it was, with parts that other commits made where configuration and data are the same; the table names
every commit. To measure anew, name another folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from controlkit.artifacts import commit
from controlkit.baselines.settings import as_overrides
from controlkit.benchmarks.policy_jobs import SCORE_SEED, Job, Part, run_jobs, score_of, scored_loop
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.benchmarks.suite_data import Source, recorded_reward, without_structure
from controlkit.dataset import SCHEMA
from controlkit.errors import ControlkitError, nearest
from controlkit.files import sha256_of, write_text
from controlkit.ingest import ingest
from controlkit.progress import Progress
from envs.closed_loop import ClosedLoop
from envs.simulation import spawned_seeds
from envs.tasks import Task, get_task

FLAT = "-flat"  # data sets of plants without their structure
REWARDS = {"formula": "formula", "rewards": "rewards only"}


@dataclass(frozen=True)
class Variant:
    """A row of its own.

    Attributes:
        method: what it is.
        settings: what is set differently for it.
        structure: whether it knows which columns are exogenous and which repeat earlier ones.
    """

    method: str
    settings: tuple[str, ...] = ()
    structure: bool = True


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite.

    Attributes:
        task: its name in `envs.tasks`.
        run: the run configuration, by the name of the shipped file.
        source: where its data comes from.
        published: scores of others, by name; shown below ours.
        note: what a reader must know to compare.
        rewards: `formula`, `rewards` or both.
        variants: further rows by name.
        methods: those that are run on this task where none is named; the suite's where empty.
    """

    task: str
    run: str
    source: Source
    published: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    rewards: tuple[str, ...] = ("formula", "rewards")
    variants: Mapping[str, Variant] = field(default_factory=dict)
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: as the command line has it.
        tasks: by their published names.
        methods: those that are run where none is named.
        episodes: that a policy is scored on.
        note: below the tables.
    """

    name: str
    tasks: Mapping[str, SuiteTask]
    methods: tuple[str, ...]
    episodes: int
    note: str


def run_tasks(
    suite: Suite,
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    workers: int | None = None,
    settings: Sequence[str] = (),
) -> str:
    """Runs a suite.

    Args:
        suite: which.
        out: folder for `results.json`, `table.md` and the single runs' figures.
        seeds: runs per row.
        progress: is told of each run.
        tasks, methods: which; all where none is named. `mean:rewards` is one of a method's two rows; a task's variants
            are named like methods.
        workers: processes; as many as there are processors where not given.
        settings: overrides `section.field=value` of the tasks' run configurations, for every row.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task or method, or data that are not there.
    """
    chosen = [_known(name, suite) for name in tasks or suite.tasks]
    rows = {
        name: [row for method in methods or _default_rows(suite, name) for row in _rows(suite, name, method)]
        for name in chosen
    }
    ingested = {name: _ingested(suite.tasks[name], out / "data") for name in chosen}
    jobs = [
        _job(suite, name, row, seed, ingested[name][0], out, settings)
        for name in chosen
        for row in rows[name]
        for seed in range(seeds)
    ]
    progress.start("runs", len(jobs))
    parts: dict[tuple[str, str, str, int], Part] = {}
    for job, part in run_jobs(jobs, workers):
        parts[job.name, job.row, job.rewards, job.seed] = part
        progress.advance(note=f"{job.name} {job.row} {job.rewards} seed {job.seed}: {part['score']:.1f}")
    records: list[Record] = []
    for name in chosen:
        for method, rewards in rows[name]:
            mine = [parts[name, method, rewards, seed] for seed in range(seeds)]
            records += _records(suite, name, f"{method}, {REWARDS[rewards]}", mine)
        records += _references(suite, name)
    write_results(out, records)
    table = _table(suite, records, {name: ingested[name][1] for name in chosen})
    write_text(out / "table.md", table)
    return table


def _ingested(entry: SuiteTask, made: Path) -> tuple[dict[str, Path], str]:
    """The folders of a task's data sets, one for each kind of knowledge, and what the data is. Logs that are
    regenerated, and what was ingested from a file of the same bytes for the same plant, are kept in `made`."""
    (source, label), spec = entry.source.prepare(entry.task, made), get_task(entry.task).spec()
    plants = {"": spec}
    if not all(variant.structure for variant in entry.variants.values()):
        plants[FLAT] = without_structure(spec)
    folders, digest = {}, sha256_of(source)
    for name, plant in plants.items():
        for rewards in entry.rewards:
            known = plant if rewards == "formula" else recorded_reward(plant)
            folder = made / "ingested" / f"{source.stem}-{digest[:12]}-{known.sha256()[:12]}-{SCHEMA}"
            if not folder.is_dir():
                ingest(known, [source], folder)
            folders[rewards + name] = folder
    return folders, label


def _known(name: str, suite: Suite) -> str:
    found = {entry.lower(): entry for entry in suite.tasks}.get(name.lower())
    if found is None:
        where = f"benchmark {suite.name} --tasks"
        raise ControlkitError(f"unknown '{name}'", where=where, cure=nearest(name, suite.tasks))
    return found


def _default_rows(suite: Suite, task: str) -> list[str]:
    """A task's methods and variants, each once."""
    entry = suite.tasks[task]
    return list(dict.fromkeys((*(entry.methods or suite.methods), *entry.variants)))


def _rows(suite: Suite, task: str, method: str) -> list[tuple[str, str]]:
    """`mean` is all rows of a method, `mean:rewards` one of them."""
    name, _, rewards = method.partition(":")
    where = f"benchmark {suite.name} --methods"
    as_overrides(suite.tasks[task].variants.get(name, Variant(name)).method)  # raises where there is no such method
    if rewards and rewards not in REWARDS:
        raise ControlkitError(f"unknown '{method}'", where=where, cure=nearest(rewards, REWARDS))
    known = suite.tasks[task].rewards
    if rewards and rewards not in known:
        kinds = ", ".join(known)
        raise ControlkitError(f"{task} has no row '{method}'", where=where, cure=f"Its rows have: {kinds}.")
    return [(name, kind) for kind in known if kind == (rewards or kind)]


def _job(
    suite: Suite,
    name: str,
    row: tuple[str, str],
    seed: int,
    data: Mapping[str, Path],
    out: Path,
    settings: Sequence[str],
) -> Job:
    (method, rewards), entry = row, suite.tasks[name]
    variant = entry.variants.get(method, Variant(method))
    part = out / "parts" / f"{name}-{method.replace(' ', '-')}-{rewards}-{seed}.json"
    return Job(
        name=name,
        task=entry.task,
        run=entry.run,
        row=method,
        method=variant.method,
        rewards=rewards,
        seed=seed,
        data=data[rewards if variant.structure else rewards + FLAT],
        part=part,
        worlds=out / "data" / "worlds",
        episodes=suite.episodes,
        settings=(*variant.settings, *settings),
    )


def _records(suite: Suite, task: str, method: str, parts: Sequence[Part]) -> list[Record]:
    commits = _once(part["commit"] for part in parts)
    seconds = sum(part["train_seconds"] for part in parts)
    name = suite.tasks[task].task
    per_return = {"return": 1.0, "score": score_of(name, 1.0) - score_of(name, 0.0)}

    def one(metric: str) -> Record:
        values = [part[metric] for part in parts]
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        if len(values) == 1 and metric in per_return:  # one seed has episodes to tell its error by
            error = per_return[metric] * parts[0]["episode_stderr"]
        episodes = 0 if metric.endswith("seconds") else suite.episodes * len(parts)
        return Record(
            suite.name, task, method, metric, float(np.mean(values)), error, len(values), episodes, round(seconds, 1),
            commits, parts[0]["data_sha256"], machine(),
        )  # fmt: skip

    metrics = ["score", "return", "episode_steps", "train_seconds"]
    if all("ended_share" in part for part in parts):
        metrics.append("ended_share")
    return [one(metric) for metric in metrics]


def _reference_loop(task: Task, controller: str, episodes: int) -> ClosedLoop:
    """On the episodes that policies are scored on, and by the same rules."""
    _, controller_seed = spawned_seeds(SCORE_SEED, 2)
    named = task.controller(controller, np.random.default_rng(controller_seed))
    return scored_loop(task.name, named, episodes, task.published_spec())


def _references(suite: Suite, name: str) -> list[Record]:
    """The hand-made controllers, which know the plant's constants."""
    records = []
    task = get_task(suite.tasks[name].task)
    for controller in task.references:
        loop = _reference_loop(task, controller, suite.episodes)
        scores = [score_of(task.name, float(found)) for found in loop.returns]
        error = float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
        records.append(
            Record(
                suite.name, name, f"hand-made, {controller}", "score", float(np.mean(scores)), error, 1, suite.episodes,
                0.0, commit(), "", machine(),
            )
        )  # fmt: skip
    return records


def _table(suite: Suite, records: Sequence[Record], data: Mapping[str, str]) -> str:
    lines = []
    for task, label in data.items():
        entry = suite.tasks[task]
        mine = [r for r in records if r.task == task and r.metric == "score"]
        seconds = {r.method: f"{r.value:.0f}" for r in records if r.task == task and r.metric == "train_seconds"}
        rows = [
            (r.method, f"{r.value:.1f}", f"{r.stderr:.1f}", str(r.seeds), str(r.episodes), seconds.get(r.method, ""))
            for r in mine
        ]
        rows += [(f"published: {name}", f"{value:.1f}", "", "", "", "") for name, value in entry.published.items()]
        scale = "return of an episode" if get_task(entry.task).return_bounds is None else _SCALE
        lines.append(
            f"{task}: {scale}. Data: {label}.{' ' + entry.note if entry.note else ''}\n\n"
            + markdown_table(("method", "score", "std. error", "seeds", "episodes", "training, s"), rows)
            + _ended([r for r in records if r.task == task and r.metric == "ended_share"])
        )
    commits = _once(name for r in records if r.data_sha256 for name in r.commit.split(", "))
    errors = "Standard errors are over seeds, and over episodes where there is one seed."
    return "\n".join(lines) + f"\n{suite.note}\n{errors}\n{machine()}; commit {commits}.\n"


def _ended(records: Sequence[Record]) -> str:
    """What the score does not tell where the published evaluation goes on after an end."""
    if not records:
        return ""
    shares = ", ".join(f"{r.method} {100.0 * r.value:.0f} %" for r in records)
    return f"\nEpisodes that the task's own rules would have ended, and the published evaluation did not: {shares}.\n"


def _once(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


_SCALE = "100 (R - low) / (high - low), as published"
