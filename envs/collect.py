"""Logs of a task's behaviour controller, in the form in which a plant's historian exports them.

An episode ends early where the plant file's rules, or the simulator where it knows by itself, say that the plant
tripped.

Time: an episode of K steps has K + 1 samples of every measured tag and K commands. A command stamped t is in force from
t until the next one: it leads from the sample at t to the sample one period later. So the last sample of an episode
stands without a command. Between episodes there is an hour without any sample, at which ingest cuts the log.

Each episode has its own seeds: the first episodes of a longer log are those of a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from controlkit.files import sha256_of, written_aside
from controlkit.objective import Objective
from controlkit.progress import Progress, Silent
from controlkit.spec import PlantSpec
from envs.log_files import SUFFIXES, open_log
from envs.simulation import EndingSimulator, Floats, spawned_seeds
from envs.tasks import Task, get_task

START = np.datetime64("2024-01-01T00:00:00", "us")
GAP_S = 3600.0
EPISODES = 10
# What the historian stores of a value: 1e-6 of a unit, finer than float32 near 10.
DECIMALS = 6
# Steps of an episode whose ends are looked for at a time.
JUDGED_AT_ONCE = 16


@dataclass(frozen=True)
class LoggedEpisode:
    """One episode of K steps, in engineering units.

    Attributes:
        times: (K + 1,) datetime64[us], UTC.
        frames: (K + 1, n) measured values.
        commands: (K, m) command k leads from frame k to frame k + 1.
        true_frames: (K + 1, N) the noise-free values of all frame tags; not written to a log.
        frame_tags, action_tags: what the n measured tags and the m commands are called in the log.
        terminated: whether the plant file's rules, or the simulator where it knows by itself, ended the episode; it was
            cut where they did not.
    """

    times: npt.NDArray[np.datetime64]
    frames: Floats
    commands: Floats
    true_frames: Floats
    frame_tags: tuple[str, ...]
    action_tags: tuple[str, ...]
    terminated: bool = False


@dataclass(frozen=True)
class CollectedLog:
    """What was written.

    Attributes:
        path: the file.
        rows: its rows; one per value in a long table, one per step in an npz.
        samples: steps in all, the number of commands of each action.
        episodes: how many.
        sha256: of the file.
    """

    path: Path
    rows: int
    samples: int
    episodes: int
    sha256: str


def collect(
    task: Task | str,
    out: Path | str,
    episodes: int = EPISODES,
    seed: int = 0,
    steps: int | None = None,
    controller: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> CollectedLog:
    """Simulates a task under its behaviour controller and writes the log; equal arguments give equal bytes.

    Args:
        task: a task or its name.
        out: `.csv` or `.parquet` (a long table of timestamp, tag, value, quality) or `.npz`; see `envs.log_files`.
            Written aside and renamed, so that an interrupted call leaves an earlier file as it was.
        episodes: how many.
        seed: 0 or more.
        steps: per episode; the task's length where not given.
        controller: another of the task's controllers.
        progress: is told of every episode.
        options: of the task's simulator, such as `noise="process"` or `door="hidden"`.

    Raises:
        ControlkitError: an unknown task, controller or suffix; no episode or step; a file that cannot be written.
    """
    task = get_task(task) if isinstance(task, str) else task
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise ControlkitError(
            f"a log cannot be written as '{out.suffix or out.name}'",
            where=str(out),
            cure=f"End the name in one of: {', '.join(SUFFIXES)}.",
        )
    progress = progress or Silent()
    # Checks its arguments here, before any file is touched.
    logged = simulate_log(task, episodes, seed, steps, controller, **options)
    progress.start(f"collect {task.name}", episodes)
    with written_aside(out) as aside:
        with open_log(aside, out.suffix, task.spec() if task.published_windows else None) as log:
            for episode in logged:
                log.write(episode)
                progress.advance()
        digest = sha256_of(aside)
    return CollectedLog(out, log.rows, log.samples, episodes, digest)


def simulate_log(
    task: Task,
    episodes: int,
    seed: int = 0,
    steps: int | None = None,
    controller: str | None = None,
    **options: Any,
) -> Iterator[LoggedEpisode]:
    """The episodes of a log, one after the other; arguments as for `collect`, and checked at once.

    Raises:
        ControlkitError: no episode or step, a negative seed, an unknown controller, an option that cannot be right.
    """
    steps = task.steps if steps is None else steps
    name = task.behaviour if controller is None else controller
    for what, value in (("episodes", episodes), ("steps", steps)):
        if value < 1:
            raise ControlkitError(f"{what} is {value}", where=f"task {task.name}", cure="Give 1 or more.")
    spec = task.spec()
    probe = np.random.default_rng(0)
    task.simulator(1, probe, **options)
    task.controller(name, probe, **options)
    seeds = spawned_seeds(seed, episodes)
    stride_s = steps * spec.period_s + max(GAP_S, 10.0 * spec.max_gap_s)
    return (
        _episode(task, spec, name, seeds[index], steps, START + _microseconds(index * stride_s), options)
        for index in range(episodes)
    )


def _episode(
    task: Task,
    spec: PlantSpec,
    controller_name: str,
    seed: np.random.SeedSequence,
    steps: int,
    start: np.datetime64,
    options: dict[str, Any],
) -> LoggedEpisode:
    plant_seed, controller_seed = seed.spawn(2)
    simulator = task.simulator(1, np.random.default_rng(plant_seed), **options)
    controller = task.controller(controller_name, np.random.default_rng(controller_seed), **options)
    controller.reset(1)
    frames, true_frames = [simulator.reset()[0]], [simulator.true_frame[0]]
    commands: list[Floats] = []
    objective = Objective(spec) if spec.episodes.terminated else None
    judged = frames if simulator.frame_tags == spec.frame_tags else true_frames
    ending = simulator if isinstance(simulator, EndingSimulator) else None
    terminated, judged_to = False, 0
    while len(commands) < steps and not terminated:
        command = controller.act(frames[-1][None])  # (1, m)
        failed: ControlkitError | None = None
        try:
            frame = simulator.step(command)[0]
        except ControlkitError as problem:
            failed = problem  # what comes after a trip is none of the log's
        else:
            commands.append(command[0])
            frames.append(frame)
            true_frames.append(simulator.true_frame[0])
        if ending is not None:
            terminated = bool(ending.ended[0])
        elif objective is not None and (
            failed is not None or len(commands) == steps or len(commands) - judged_to == JUDGED_AT_ONCE
        ):
            # Some steps beyond a trip are simulated in vain: that is cheaper than to judge every step by itself.
            end = _first_trip(objective, judged[judged_to:], commands[judged_to:])
            if end is not None:
                terminated = True
                del commands[judged_to + end :], frames[judged_to + end + 1 :], true_frames[judged_to + end + 1 :]
            judged_to = len(commands)
        if failed is not None and not terminated:
            raise failed
    offsets = np.array([_microseconds(k * spec.period_s) for k in range(len(frames))])
    return LoggedEpisode(
        times=start + offsets,
        frames=np.round(frames, DECIMALS),
        commands=np.round(commands, DECIMALS),
        true_frames=np.array(true_frames),
        frame_tags=tuple(spec.tags[tag].column or tag for tag in simulator.frame_tags),
        action_tags=tuple(spec.tags[tag].column or tag for tag in spec.action_tags),
        terminated=terminated,
    )


def _first_trip(objective: Objective, frames: list[Floats], commands: list[Floats]) -> int | None:
    """How many of the steps (K,) between frames (K + 1,) are taken when the plant trips: by the numbers that are
    stored, in float32, as ingest judges them."""
    if not commands:
        return None
    stored = np.round(frames, DECIMALS).astype(np.float32)
    tripped = objective.terminated(stored[:-1], np.round(commands, DECIMALS).astype(np.float32), stored[1:])
    return int(np.argmax(tripped)) + 1 if np.any(tripped) else None


def _microseconds(seconds: float) -> np.timedelta64:
    return np.timedelta64(round(seconds * 1e6), "us")
