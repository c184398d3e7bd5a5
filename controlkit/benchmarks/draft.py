"""The draft suite: how often `controlkit ingest --check` tells roles, period and delays of plants that are known.

Each plant is simulated under its behaviour controller and written as a historian would; the proposal sees the log
alone, once with the tags' names and once with names that say nothing. Right is what the shipped plant file says; of a
tag that is constant in the log, `static` and `ignore` are right too.

The rules were made looking at these plants with seeds below 100, so that the figures flatter them. `random-loop` is the
harder test: another plant for each seed, a lag and dead time under a PI controller, with a measured disturbance.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from controlkit.align import NS
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


RANDOM_LOOP, LOOP_PERIOD_S = "random-loop", 10.0
FIRST_SEED = 101


@dataclass(frozen=True)
class Truth:
    """What is to be found in a log: role by name in the log, period in seconds, delays as in `KnownPlant`."""

    roles: Mapping[str, str]
    period_s: float
    delays: tuple[tuple[str, str, int], ...]


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
        seeds: logs per plant.
        progress: is told of each log.
        tasks: plants; all where none is named.

    Raises:
        ControlkitError: there is no such plant.
    """
    known = [*(plant.task for plant in PLANTS), RANDOM_LOOP]
    for name in tasks:
        if name not in known:
            raise ControlkitError(f"unknown plant '{name}'", where="benchmark draft", cure=nearest(name, known))
    plants = list(tasks) or known
    progress.start("propose plant files", len(plants) * seeds)
    rows, records = [], []
    for plant in plants:
        shown, hidden = [], []
        started = time.monotonic()
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            one, other, samples = _judge_log(plant, seed)
            shown.append(one)
            hidden.append(other)
            progress.advance()
        seconds = time.monotonic() - started
        for method, scores in (("names", shown), ("hidden names", hidden)):
            records += _records(plant, method, scores, seconds)
        rows.append([plant, f"{samples}", *(_cell(scores) for scores in (shown, hidden))])
    header = ("plant", "samples", "with names: roles, actions, period, delays", "hidden names: the same")
    table = markdown_table(header, rows)
    write_results(out, records)
    write_text(out / "table.md", table)
    return table


def judge(truth: Truth, proposal: Proposal, tags: dict[str, TagSample], names: dict[str, str]) -> Score:
    """How much of a proposal is right; `names` has the names that it was shown for those of the truth."""
    right = []
    for name, role in truth.roles.items():
        found, tag = proposal.parts[names[name]].role, tags[name]
        right.append(found == role or (tag.low == tag.high and found in ("static", "ignore")))
    # An action's share counts what was called an action wrongly, too.
    truly = {names[name] for name, role in truth.roles.items() if role == "action"}
    called = {name for name, part in proposal.parts.items() if part.role == "action"}
    met = 0
    for action, state, delay in truth.delays:
        pair = names[action], names[state]
        seen = proposal.relations.delay(*pair) if set(pair) <= set(proposal.relations.names) else None
        met += seen is not None and abs(seen * proposal.period.seconds / truth.period_s - delay) <= 1
    return Score(
        roles=float(np.mean(right)),
        actions=len(truly & called) / len(truly | called),
        period=float(proposal.period.seconds == truth.period_s),
        delays=met / len(truth.delays),
    )


def _judge_log(plant: str, seed: int) -> tuple[Score, Score, int]:
    tags, truth = random_loop(seed) if plant == RANDOM_LOOP else _collected(plant, seed)
    # Shuffled, so that neither order nor name tells.
    order = np.random.default_rng(seed).permutation(sorted(tags)).tolist()
    hidden = {name: f"tag {i}" for i, name in enumerate(order)}
    covered = {hidden[name]: tags[name] for name in order}
    shown = judge(truth, propose(tags), tags, {name: name for name in tags})
    return shown, judge(truth, propose(covered), tags, hidden), max(tag.samples for tag in tags.values())


def _collected(task: str, seed: int) -> tuple[dict[str, TagSample], Truth]:
    plant = next(plant for plant in PLANTS if plant.task == task)
    spec = get_task(task).spec()
    with TemporaryDirectory(prefix="controlkit-draft-") as folder:
        path = Path(folder) / "log.parquet"
        collect(task, path, plant.episodes, seed=seed)
        tags = sample_of(path).tags
    roles = {tag.column or name: tag.role for name, tag in spec.tags.items() if (tag.column or name) in tags}
    return tags, Truth(roles, spec.period_s, plant.delays)


def random_loop(seed: int, samples: int = 10_000) -> tuple[dict[str, TagSample], Truth]:
    """A loop drawn at random: gain, lag and dead time, PI tuning, noise of the command; names by ISA-5.1."""
    rng = np.random.default_rng(seed)
    lag, dead, gain = rng.uniform(8, 80), int(rng.integers(0, 25)), rng.choice([-1, 1]) * rng.uniform(0.3, 2)
    tuning = np.sign(gain) * 0.3 * rng.uniform(0.2, 0.8) * lag / (abs(gain) * (dead + 0.3 * lag))
    wander = rng.uniform(0.2, 2)  # of the command, by its controller's or operator's hand
    setpoint = np.repeat(rng.choice([50.0, 55.0, 60.0], size=samples // 300 + 1), 300)[:samples]
    measured, command, disturbance = np.full(samples, 50.0), np.full(samples, 50.0), np.zeros(samples)
    value, integral = 50.0, 50.0
    for t in range(samples):
        measured[t] = value + rng.normal(0, 0.02)
        error = setpoint[t] - measured[t]
        integral = np.clip(integral + tuning / lag * error, 0, 100)
        command[t] = np.clip(integral + tuning * error + rng.normal(0, wander), 0, 100)
        disturbance[t] = 0.98 * disturbance[max(0, t - 1)] + rng.normal(0, 1)
        pull = 50 + gain * (command[max(0, t - dead)] - 50) + 2 * disturbance[t]
        value += (pull - value) / lag + rng.normal(0, 0.02)
    series = {"TIC-7.PV": measured, "TIC-7.SP": setpoint, "TIC-7.OP": command, "FI-8": disturbance}
    stamps = np.arange(samples, dtype=np.int64) * round(LOOP_PERIOD_S * NS)
    tags = {
        name: TagSample(stamps, values.round(4), samples, samples, float(values.min()), float(values.max()))
        for name, values in series.items()
    }
    roles = {"TIC-7.PV": "state", "TIC-7.SP": "exogenous", "TIC-7.OP": "action", "FI-8": "exogenous"}
    return tags, Truth(roles, LOOP_PERIOD_S, (("TIC-7.OP", "TIC-7.PV", dead + 1),))


def _cell(scores: Sequence[Score]) -> str:
    means = (np.mean([getattr(score, field) for score in scores]) for field in ("roles", "actions", "period", "delays"))
    return ", ".join(f"{100 * mean:.0f} %" for mean in means)


def _records(plant: str, method: str, scores: Sequence[Score], seconds: float) -> list[Record]:
    records = []
    for field in ("roles", "actions", "period", "delays"):
        values = [getattr(score, field) for score in scores]
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        records.append(
            Record(
                suite=SUITE,
                task=plant,
                method=method,
                metric=f"{field}_right",
                value=float(np.mean(values)),
                stderr=error,
                seeds=len(scores),
                episodes=len(scores) * next((known.episodes for known in PLANTS if known.task == plant), 1),
                seconds=seconds,
                commit=commit(),
                data_sha256="",
                machine=machine(),
            )
        )
    return records
