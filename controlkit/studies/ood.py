"""Out of distribution: what a dynamics reward is worth by the distance from the data, on plants whose truth is known.

For every plant of `plants.py` a log of 2000 rows is learned from. Questions are states and commands between the log and
the far ends of `KnownPlant.low` .. `high`; their distance is Mahalanobis' from the log's states, known tags and
commands. By bins of that distance:

- `pick_ratio`: error of the candidate that a method picks, as a ratio to the ensemble mean's (whose own error is
  `error`, in units of the log's typical change).
- `rank`: Spearman's correlation, over the candidates for one question, of the score with minus their error.
- `rollout_error`: mean error over rollouts of 20 steps, in the same units, by their mean distance; the controllers are
  the operator's law made steeper and moved to other operating points.
- `rejected_true`: share of the TRUE transitions (the plant's, its noise included) that the threshold rejects which was
  calibrated on held-out rows, as a run does it; `rejected_picked`: share of the picked candidates that it rejects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from controlkit.artifacts import commit
from controlkit.benchmarks.filter_methods import DYNAMICS, REWARDS
from controlkit.benchmarks.known_truth import candidates
from controlkit.config import RunConfig
from controlkit.errors import ControlkitError, nearest
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.morec.transition_filter import calibrate_threshold, recorded_scores
from controlkit.progress import Progress
from controlkit.ranks import spearman
from controlkit.replay import LoggedTransitions
from controlkit.studies.distance import Distance, Questions, Trajectories
from controlkit.studies.jobs import Found, Job, run_jobs
from controlkit.studies.learned import learn_models
from controlkit.studies.outcome import Column, Outcome, lines, new_plot, task_table
from controlkit.studies.plants import PLANTS, KnownPlant, get_plant
from controlkit.studies.variants import Overrides
from envs.simulation import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

STUDY, TRAINING_SEEDS = "ood", 3
ROWS, CALIBRATION = 2000, 1000
QUESTIONS, ROLLOUTS, STEPS = 6000, 600, 20
EDGES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, float("inf"))
FEWEST = 20  # questions in a bin below which it is left out
# Every reward of the study, by its name in the filter benchmark; and choices that know none.
JUDGES: Mapping[str, str] = {"noise": "noise", "irl": "irl", "gail": "irl, gail"}
METHODS = ("ensemble_mean", *JUDGES, "linear", "best")

# (observation (B, O), command (B, m), candidates (C, B, S), truth (B, S)) -> scores (C, B)
Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def bin_names() -> dict[str, str]:
    """Name of a bin, as tasks have it -> label."""
    found = {}
    for low, high in pairwise(EDGES):
        label = f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g} and more"
        found[f"distance={label.replace(' and more', '-')}"] = label
    return found


def run_study(
    out: Path,
    seeds: int,
    progress: Progress,
    *,
    tasks: Sequence[str] = tuple(PLANTS),
    training_seeds: int = TRAINING_SEEDS,
    workers: int | None = None,
    settings: Overrides | None = None,
) -> str:
    """Runs the study.

    Args:
        out: folder for the results, the plots and the single runs' figures.
        seeds: logs per plant; each is trained on with `training_seeds` seeds.
        progress: is told of each run.
        tasks: plants.
        training_seeds: seeds per log.
        workers: processes; as many as there are cores where none is given.
        settings: overrides (dotted field -> value) of the models' sizes.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown plant.
    """
    for task in tasks:
        if task not in PLANTS:
            raise ControlkitError(f"unknown plant '{task}'", where=f"study {STUDY}", cure=nearest(task, PLANTS))
    jobs = [
        Job(f"{task.replace(' ', '-')}-{log}-{seed}", log, seed, {"plant": task, "settings": dict(settings or {})})
        for task in tasks
        for log in range(seeds)
        for seed in range(training_seeds)
    ]  # fmt: skip
    outcome = Outcome(STUDY, run_jobs(run_one, jobs, out, progress, workers), commit())
    plots = {task.replace(" ", "_"): _plot(outcome, task) for task in tasks}
    return outcome.write(out, "".join(_tables(outcome, task) for task in tasks), plots)


def run_one(job: Job) -> Found:
    """All methods on one log of one plant with one seed."""
    plant = get_plant(job.settings["plant"])
    whole = plant.log(job.log, ROWS + CALIBRATION)
    data, held = whole.slice(0, ROWS + 1), whole.slice(ROWS + 1, len(whole))
    log, held_out = LoggedTransitions(data), LoggedTransitions(held)
    points = np.concatenate([data.frames[:-1], data.actions[:-1]], axis=1).astype(np.float64)
    distance = Distance.fit(points)
    questions = Questions.draw(plant, data, distance, QUESTIONS)
    trajectories = Trajectories.draw(plant, data, distance, ROLLOUTS, STEPS)
    found: Found = []
    ensemble: GaussianEnsemble | None = None
    rewards: dict[str, tuple[DiscriminatorEnsemble, float]] = {}
    for name, reward in JUDGES.items():
        began = time.monotonic()
        models = learn_models(plant.spec, log, _config(job, REWARDS[reward]))
        # Seeds fix the streams of every stage: the ensembles of all judges are the same.
        ensemble = models.dynamics
        scores = recorded_scores(models.reward, held_out, held_out.rows)
        rewards[name] = models.reward, calibrate_threshold(scores, held_out.rows, STEPS, 0.95)
        found.append((plant.name, name, "seconds", time.monotonic() - began))
    assert ensemble is not None
    for method in METHODS:
        score = _score(method, ensemble, rewards, plant)
        figures = _asked(score, ensemble, questions, job.seed)
        if method in rewards:
            figures |= _rejected(*rewards[method], figures["picked"], questions)
        found += _binned(plant.name, method, figures, questions.distance)
        error = _rolled(score, ensemble, trajectories, job.seed)
        found += _binned(plant.name, method, {"rollout_error": torch.from_numpy(error)}, trajectories.distance)
    shares = np.bincount(_bins(questions.distance), minlength=len(EDGES) - 1) / len(questions.distance)
    return found + [
        (f"{plant.name},{name}", "questions", "share", float(s)) for name, s in zip(bin_names(), shares, strict=True)
    ]


def _config(job: Job, reward: Mapping[str, object]) -> RunConfig:
    content: dict[str, dict[str, object]] = {"dynamics": dict(DYNAMICS), "reward": {"distil": False, **reward}}
    for name, value in job.settings["settings"].items():
        section, field = name.split(".")
        content.setdefault(section, {})[field] = value
    return RunConfig.from_dict({**content, "seed": job.seed})


def _score(
    method: str,
    ensemble: GaussianEnsemble,
    rewards: Mapping[str, tuple[DiscriminatorEnsemble, float]],
    plant: KnownPlant,
) -> Score:
    """What a method picks by."""
    if method in rewards:
        judge = rewards[method][0]
        return lambda observation, action, offered, truth: judge.log_odds(observation, action, offered)
    spread = ensemble.change_scaler.spread
    if method == "best":
        return lambda observation, action, offered, truth: -((offered - truth) / spread).norm(dim=-1)
    if method == "ensemble_mean":
        return lambda observation, action, offered, truth: -((offered - offered[-1]) / spread).norm(dim=-1)
    reward = rewards["noise"][0]

    def linear(observation: Tensor, action: Tensor, offered: Tensor, truth: Tensor) -> Tensor:
        change = reward.expected_change(observation, action)
        expected = observation[:, reward.state_slots] + reward.change_scaler.invert(change)
        distance: Tensor = ((offered - expected) / spread).norm(dim=-1)
        return -distance

    return linear


@torch.no_grad()
def _asked(score: Score, ensemble: GaussianEnsemble, questions: Questions, seed: int) -> dict[str, Tensor]:
    """Per question: error of the pick and of the ensemble mean, rank of the candidates, and the pick itself."""
    at, spread = (questions.frame, questions.command), ensemble.change_scaler.spread
    offered = candidates(ensemble, *at, torch.Generator().manual_seed(seed))  # (C, B, S), the mean last
    error = ((offered - questions.truth) / spread).norm(dim=-1)  # (C, B)
    scores = score(*at, offered, questions.truth)
    choice = scores.argmax(dim=0)
    return {
        "pick": error.gather(0, choice.unsqueeze(0)).squeeze(0),
        "error": error[-1],
        "rank": spearman(scores.T, -error.T),
        "picked": offered[choice, torch.arange(len(choice))],
    }


@torch.no_grad()
def _rejected(
    reward: DiscriminatorEnsemble, threshold: float, picked: Tensor, questions: Questions
) -> dict[str, Tensor]:
    at = (questions.frame, questions.command)
    return {
        "rejected_true": (reward(*at, questions.happened) < threshold).float(),
        "rejected_picked": (reward(*at, picked) < threshold).float(),
    }


@torch.no_grad()
def _rolled(score: Score, ensemble: GaussianEnsemble, true: Trajectories, seed: int) -> Floats:
    """(B,) mean error along closed-loop rollouts of the same controllers in the model, in typical changes; predictions
    stay inside the tags' ranges."""
    plant, states, unit = true.plant, true.plant.states, ensemble.change_scaler.spread
    generator = torch.Generator().manual_seed(seed)
    ranges = torch.tensor([plant.spec.tags[tag].range for tag in plant.spec.state_tags])
    frames = torch.tensor(true.frames, dtype=torch.float32)
    frame, total = frames[0], torch.zeros(frames.shape[1])
    for following in frames[1:]:
        seen = frame.double().numpy()
        given = true.act(seen)
        command = torch.tensor(given, dtype=torch.float32)
        offered = candidates(ensemble, frame, command, generator)
        # What "best" may know is the plant's answer to the state that the model is in.
        truth = torch.tensor(plant.step(seen, given), dtype=torch.float32)
        choice = score(frame, command, offered, truth).argmax(dim=0)
        state = offered[choice, torch.arange(len(choice))].clamp(ranges[:, 0], ranges[:, 1])
        total += ((state - following[:, :states]) / unit).norm(dim=-1)
        frame = torch.cat([state, following[:, states:]], dim=1)
    return (total / (len(frames) - 1)).double().numpy()


def _bins(distance: Floats) -> np.ndarray:
    return np.digitize(distance, EDGES[1:-1])


def _binned(plant: str, method: str, figures: Mapping[str, Tensor], distance: Floats) -> Found:
    """Means of per-question figures by distance."""
    found: Found = []
    bins = _bins(distance)
    for number, name in enumerate(bin_names()):
        chosen = torch.from_numpy(bins == number)
        if int(chosen.sum()) < FEWEST:
            continue
        means = {metric: float(value[chosen].mean()) for metric, value in figures.items() if metric != "picked"}
        if "pick" in means:
            means["pick_ratio"] = means["pick"] / means["error"]
        found += [(f"{plant},{name}", method, metric, value) for metric, value in means.items()]
    return found


_TABLES = (
    ("Error of the pick, as a ratio to the ensemble mean's", Column("pick_ratio", ""), METHODS),
    ("Rank correlation of the score with minus the candidates' error", Column("rank", ""), METHODS),
    ("Mean error of 20-step rollouts, in typical changes", Column("rollout_error", ""), METHODS),
    ("Share of TRUE transitions that the calibrated threshold rejects", Column("rejected_true", ""), tuple(JUDGES)),
    ("Share of picked candidates that it rejects", Column("rejected_picked", ""), tuple(JUDGES)),
)


def _tasks(outcome: Outcome, plant: str) -> dict[str, str]:
    """The bins that hold enough questions in some run: task -> label."""
    named = {f"{plant},{name}": label for name, label in bin_names().items()}
    return {task: label for task, label in named.items() if outcome.mean(task, "ensemble_mean", "error") is not None}


def _tables(outcome: Outcome, plant: str) -> str:
    tasks = _tasks(outcome, plant)
    text = f"## {plant.capitalize()}\n\n"
    for title, column, methods in _TABLES:
        text += f"{title}:\n\n{task_table(outcome, tasks, methods, column, 'distance')}\n"
    return text


def _plot(outcome: Outcome, plant: str) -> Plot:
    tasks = _tasks(outcome, plant)
    plot, axes = new_plot(4)
    wanted = (
        ("pick_ratio", ("ensemble_mean", *JUDGES, "linear"), "error of the pick (1: ensemble mean)"),
        ("rank", tuple(JUDGES), "rank correlation with minus the error"),
        ("rollout_error", ("ensemble_mean", *JUDGES, "linear"), "rollout error, typical changes"),
        ("rejected_true", tuple(JUDGES), "rejected by the threshold: true transitions\n(picked candidates: dashed)"),
    )
    for one, (metric, methods, title) in zip(axes, wanted, strict=True):
        lines(one, outcome, list(tasks), list(tasks.values()), methods, metric, METHODS)
        one.set(title=title, xlabel="distance from the data (Mahalanobis)")
        one.title.set_fontsize(10)
    lines(axes[3], outcome, list(tasks), list(tasks.values()), tuple(JUDGES), "rejected_picked", METHODS, dashed=True)
    for one in (axes[0], axes[2]):
        one.set_yscale("log")
    axes[2].legend(frameon=False, fontsize=8)
    plot.suptitle(plant.capitalize())
    return plot
