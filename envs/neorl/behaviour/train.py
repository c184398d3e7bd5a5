"""Trains behaviour policies: `python -m envs.neorl.behaviour.train hopper low medium high --out DIR`.

One run of soft actor-critic (stable-baselines3, the extra [collect]) serves all levels of a task. Every few thousand
steps the mean policy is evaluated on 20 episodes. The first one within 5 % of a level's published return (for some
tasks by the protocol, too: `TrainingSettings.protocol_too`) is kept as `TASK-LEVEL.onnx` with its record
`TASK-LEVEL.json`; the run ends with the last level. The same command goes on with an interrupted run from its last
checkpoint, with a fresh episode and fresh draws: it is not bit for bit the run that was never interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.errors import ControlkitError
from controlkit.files import folder_written_aside, read_json, sha256_of, write_bytes, write_json
from controlkit.progress import Progress, Silent, progress_bar
from envs.closed_loop import run_closed_loop
from envs.neorl.behaviour.export import actor_file, actor_layers
from envs.neorl.behaviour.policy import SAMPLED_SHARE, BehaviourPolicy
from envs.neorl.behaviour.settings import TrainingSettings, Wish, training_settings, wishes
from envs.neorl.behaviour.view import TrainingEnv, View
from envs.simulation import Floats
from envs.tasks import Task, get_task

EPISODES = 20
CHECKPOINT, STATE, MODEL, BUFFER = "checkpoint", "state.json", "model.zip", "buffer.pkl"
# Episodes of the evaluation: the same for every checkpoint, and none of the training's.
SCORE_SEED = 700_000


@dataclass
class Run:
    """A training run.

    Attributes:
        task, settings, seed: what is trained.
        out: folder of policies, records and the checkpoint.
        episodes: of an evaluation.
        history: evaluations so far: steps, mean return, its standard error, seconds.
        seconds: spent before this process.
    """

    task: Task
    settings: TrainingSettings
    seed: int
    out: Path
    episodes: int = EPISODES
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Seconds of all processes."""
        return self.seconds + time.monotonic() - self.began

    def missing(self, wanted: Sequence[Wish]) -> list[Wish]:
        """Those of the wishes that are not kept yet."""
        return [wish for wish in wanted if not self.record(wish).is_file()]

    def record(self, wish: Wish) -> Path:
        """Where the record of the policy for a wish lies, once it is kept."""
        return self.out / f"{self.task.name}-{wish.level}.json"


def train(
    task: str,
    levels: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    episodes: int = EPISODES,
    settings: TrainingSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Trains until every level is kept; goes on with the checkpoint in `out` where there is one.

    Args:
        task: its name.
        levels: some of `low`, `medium`, `high`.
        out: folder for policies, records and checkpoint.
        seed: every draw follows from it.
        steps: of the simulator, in all; the settings' where not given.
        episodes: of each evaluation.
        settings: other ones than the task's.
        progress: is told of every evaluation.

    Returns:
        Level -> ONNX file.

    Raises:
        ControlkitError: an unknown task or level, an extra that is not installed, another run's checkpoint or policy; a
            level that was not met within the steps: says which and what was reached.
    """
    run = Run(get_task(task), settings or training_settings(task), seed, out, episodes)
    wanted = wishes(task, tuple(levels), run.settings)
    _require_own(run, wanted)
    limit = run.settings.steps if steps is None else steps
    model = _opened(run)
    bar = progress or Silent()
    bar.start(f"train {task}", limit)
    bar.advance(int(model.num_timesteps))
    while run.missing(wanted) and model.num_timesteps < limit:
        before = int(model.num_timesteps)
        model.learn(min(run.settings.evaluate_every, limit - before), reset_num_timesteps=False)
        if model.num_timesteps <= run.settings.warm_up:
            bar.advance(int(model.num_timesteps) - before)
            continue
        missing = len(run.missing(wanted))
        found = _evaluate(run, model, wanted)
        last = model.num_timesteps >= limit or not len(run.history) % run.settings.checkpoint_every
        if last or len(run.missing(wanted)) < missing:
            _save(run, model)
        bar.advance(int(model.num_timesteps) - before, note=f"return {found:.0f}")
    if unmet := run.missing(wanted):
        seen = [entry["return"] for entry in run.history]
        found_so_far = f"returns went from {min(seen):g} to {max(seen):g}" if seen else "none was evaluated yet"
        raise ControlkitError(
            f"after {model.num_timesteps} steps no policy within {unmet[0].tolerance:.0%} of "
            f"{', '.join(f'{wish.value:g} ({wish.level})' for wish in unmet)} was seen: {found_so_far}",
            where=f"task {task}",
            cure="Give more --steps to go on, or another --seed in another folder.",
        )
    return {wish.level: out / f"{task}-{wish.level}.onnx" for wish in wanted}


def mean_returns(run: Run, content: bytes, sampled_share: float = 0.0) -> Floats:
    """(episodes,) returns of an actor's file on fresh episodes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "actor.onnx"
        path.write_bytes(content)
        policy = BehaviourPolicy(path, run.task.spec(), np.random.default_rng((SCORE_SEED, 1)), sampled_share)
    simulator = run.task.simulator(run.episodes, np.random.default_rng((SCORE_SEED, 0)))
    return run_closed_loop(policy, simulator, run.task.spec(), run.task.steps).returns


def _evaluate(run: Run, model: Any, wanted: Sequence[Wish]) -> float:
    """Mean return of the mean policy; keeps it for the levels that it meets."""
    content = actor_file(View.of(run.task.spec(), run.settings), *actor_layers(model.policy.actor))
    returns = mean_returns(run, content)
    entry = {"steps": int(model.num_timesteps), **_summary(returns), "seconds": round(run.spent, 1)}
    run.history.append(entry)
    for wish in run.missing(wanted):
        if wish.met(entry["return"]):
            sampled = mean_returns(run, content, SAMPLED_SHARE)
            if not run.settings.protocol_too or wish.met(float(sampled.mean())):
                _keep(run, wish, content, returns, sampled)
    return entry["return"]


def _keep(run: Run, wish: Wish, content: bytes, returns: Floats, sampled: Floats) -> None:
    path = run.record(wish).with_suffix(".onnx")
    write_bytes(path, content)
    record = {
        "task": run.task.name,
        "level": wish.level,
        "method": "soft actor-critic, stable-baselines3",
        "wished_return": wish.value,
        "tolerance": wish.tolerance,
        **_summary(returns),
        "returns": [round(float(value), 2) for value in returns],
        "sampled": {"share": SAMPLED_SHARE, **_summary(sampled)},
        "seed": run.seed,
        "settings": asdict(run.settings),
        "history": run.history,
        "versions": _versions(),
        "bytes": len(content),
        "sha256": sha256_of(path),
    }
    # The record last: a policy without one is not kept yet.
    write_json(path.with_suffix(".json"), record)


def _summary(returns: Floats) -> dict[str, float]:
    error = float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else 0.0
    return {"return": round(float(returns.mean()), 2), "stderr": round(error, 2)}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "torch", "stable-baselines3", "gymnasium")}


def _opened(run: Run) -> Any:
    """The learner: a new one, or that of the checkpoint."""
    try:
        import onnx  # noqa: F401 (needed at the first evaluation: better said at once)
        import torch
        from stable_baselines3 import SAC
    except ImportError as problem:
        raise ControlkitError(
            f"{problem.name} is not installed",
            where="training of behaviour policies",
            cure="Install controlkit[train,collect].",
        ) from None
    torch.set_num_threads(1)  # networks this small lose time on more
    settings, folder = run.settings, run.out / CHECKPOINT
    if (folder / STATE).is_file():
        state = read_json(folder / STATE)
        if state["identity"] != _identity(run):
            raise ControlkitError(
                "holds the checkpoint of another run (task, seed or settings differ)",
                where=str(run.out),
                cure="Choose another --out.",
            )
        run.history, run.seconds = state["history"], state["seconds"]
        model = SAC.load(folder / MODEL, env=TrainingEnv(run.task, settings), device="cpu")
        model.load_replay_buffer(folder / BUFFER)
        model.set_random_seed(run.seed + int(state["steps"]))
        return model
    return SAC(
        "MlpPolicy",
        TrainingEnv(run.task, settings),
        learning_rate=settings.learning_rate,
        buffer_size=settings.buffer,
        learning_starts=settings.warm_up,
        train_freq=settings.steps_per_update,
        batch_size=settings.batch_size,
        gamma=settings.gamma,
        policy_kwargs={"net_arch": list(settings.hidden)},
        seed=run.seed,
        device="cpu",
    )


def _save(run: Run, model: Any) -> None:
    """Learner, buffer and history, whole or not at all."""
    run.out.mkdir(parents=True, exist_ok=True)
    with folder_written_aside(run.out / CHECKPOINT, STATE) as aside:
        model.save(aside / MODEL)
        model.save_replay_buffer(aside / BUFFER)
        state = {
            "identity": _identity(run),
            "steps": int(model.num_timesteps),
            "history": run.history,
            "seconds": run.spent,
        }
        write_json(aside / STATE, state)


def _require_own(run: Run, wanted: Sequence[Wish]) -> None:
    """Sees to it that what is kept for the wishes was made with this seed and these settings."""
    own = _identity(run)
    for path in (run.record(wish) for wish in wanted):
        if not path.is_file():
            continue
        record = read_json(path)
        pairs = {"seed": (record.get("seed"), own["seed"])}
        kept = record.get("settings") or {}
        pairs |= {name: (kept.get(name), value) for name, value in own["settings"].items() if name != "steps"}
        differing = [f"{name} {found}, not {asked}" for name, (found, asked) in pairs.items() if found != asked]
        if differing:
            raise ControlkitError(
                f"is the record of another run ({'; '.join(differing)})",
                where=str(path),
                cure="Choose another --out, or give its seed and settings.",
            )


def _identity(run: Run) -> dict[str, Any]:
    content = {"task": run.task.name, "seed": run.seed, "settings": asdict(run.settings) | {"steps": None}}
    identity: dict[str, Any] = json.loads(json.dumps(content))  # as it is read back: lists, not tuples
    return identity


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m envs.neorl.behaviour.train", description=(__doc__ or "")[:80])
    parser.add_argument("task")
    parser.add_argument("levels", nargs="+", metavar="level", help="low, medium, high")
    parser.add_argument("--out", type=Path, required=True, help="folder for policies, records and the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the simulator, in all")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="of each evaluation")
    given = parser.parse_args(arguments)
    try:
        with progress_bar() as progress:
            kept = train(
                given.task, given.levels, given.out,
                seed=given.seed, steps=given.steps, episodes=given.episodes, progress=progress,
            )  # fmt: skip
    except ControlkitError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {given.out / CHECKPOINT}", file=sys.stderr)
        return 130
    for level, path in kept.items():
        print(f"{level}: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
