"""The speed suite: policy updates beside d3rlpy's, model rollouts with and without the filter, and what a GPU does.

Contenders of one figure are measured in turn within one run and the median of the rounds is taken, so that whatever
else the machine does falls on both. Each figure is kept in `parts/`, and a run goes on where it was.

Methods: `controlkit` and `d3rlpy` (updates; the second beside the first), `pandas` and `duckdb_asof` (ingest),
`profile` (where the time goes) and `gpu`.
Tasks: `sac` (17 observed numbers, 6 commands, 256 x 256, batch 256), `dmsd` (4 state tags, 2 exogenous ones, 2
commands; 10 candidates, a distilled reward, an ensemble of 7 networks of 2 or 4 layers of 200), those of the ingest
(`controlkit.benchmarks.ingest_speed`; `ingest-quick` and `ingest-200m` only where named) and `online`.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from controlkit.artifacts import commit
from controlkit.benchmarks import ingest_speed
from controlkit.benchmarks.peer import D3RLPY, Peer, peer_python
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.benchmarks.speed_gpu import SNAPSHOTS, candidates, measure_gpu
from controlkit.benchmarks.time_profile import profile_tables
from controlkit.benchmarks.workload import Sizes, Workload
from controlkit.config import FilterConfig, RunConfig
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_json, write_text
from controlkit.progress import Progress

SUITE = "speed"
TASKS = ("sac", "dmsd", "ingest-csv", "ingest-grid", "online")
METHODS = ("controlkit", "d3rlpy", "pandas", "duckdb_asof", "profile", "gpu")
BY_DEFAULT = METHODS[:4]
SAC, DMSD = Sizes(states=17, exogenous=0, actions=6), Sizes(states=4, exogenous=2, actions=2)
UPDATES = 200  # in a round
GPU_SECONDS = 120.0
UNFILTERED = FilterConfig(enabled=False, samples=1, member_means=False, ensemble_mean=False)
LAYERS = (2, 4)
# metric -> decimals in the table
SHOWN = {"ratio": 2, "projected_minutes": 1, "epoch_s": 3, "memory_gib": 2, "online_us_per_sample": 1}


def run_suite(
    out: Path, seeds: int, progress: Progress, *, tasks: Sequence[str] = (), methods: Sequence[str] = ()
) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md`, `profile.md` and the single figures.
        seeds: of the synthetic plant; three rounds of each.
        progress: is told of each round.
        tasks, methods: which; `TASKS` and `BY_DEFAULT` where none is named.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task or method, or the peer cannot be had.
    """
    tasks, methods = tasks or TASKS, methods or BY_DEFAULT
    every_task = (*TASKS, *(task for task in ingest_speed.SIZES if task not in TASKS))
    for names, known, option in ((tasks, every_task, "--tasks"), (methods, METHODS, "--methods")):
        for name in names:
            if name not in known:
                raise ControlkitError(f"unknown '{name}'", where=f"benchmark speed {option}", cure=nearest(name, known))
    threads = min(2, torch.get_num_threads())  # OMP_NUM_THREADS=1 measures on one core
    torch.set_num_threads(threads)
    jobs: dict[str, Callable[[], list[dict[str, Any]]]] = {}
    if "sac" in tasks and set(methods) & {"controlkit", "d3rlpy"}:
        jobs["sac"] = lambda: _updates(out, methods, seeds, threads, progress)
    if "dmsd" in tasks and "controlkit" in methods:
        for layers in LAYERS:
            jobs[f"dmsd-{layers}x200"] = lambda layers=layers: _rollouts(layers, seeds, progress)  # type: ignore[misc]
    for task in (task for task in tasks if task in ingest_speed.SIZES):
        for method in (method for method in methods if method in ingest_speed.METHODS):
            jobs[f"{task}-{method}"] = lambda t=task, m=method: _ingest(out / "logs", t, m, seeds, progress)  # type: ignore[misc]
    if "online" in tasks and "controlkit" in methods:
        jobs["online"] = lambda: _online(seeds, progress)
    if "gpu" in methods:
        for judges in (1, SNAPSHOTS):
            jobs[f"gpu-{judges}"] = lambda judges=judges: _gpu(judges, progress)  # type: ignore[misc]
    for name, job in jobs.items():
        part = out / "parts" / f"{name}.json"
        if not part.is_file():
            began = time.monotonic()
            figures = job()
            stamp = {"seconds": time.monotonic() - began, "commit": commit(), "machine": _machine(name)}
            write_json(part, [figure | stamp for figure in figures])
    if "profile" in methods:
        write_text(out / "profile.md", profile_tables(sac_config(), dmsd_config(LAYERS[0]), candidates(), UNFILTERED))
    shutil.rmtree(out / "logs", ignore_errors=True)
    records = [Record(**figure) for part in sorted((out / "parts").glob("*.json")) for figure in read_json(part)]
    write_results(out, records)
    rows = [
        [
            r.task,
            r.method,
            r.metric,
            f"{r.value:,.{SHOWN.get(r.metric, 0)}f}",
            f"{r.stderr:,.{SHOWN.get(r.metric, 0)}f}",
        ]
        for r in records
    ]
    table = markdown_table(["task", "method", "figure", "value", "standard error"], rows)
    write_text(out / "table.md", table)
    return table


def sac_config() -> RunConfig:
    """Of the comparison with d3rlpy: its own sizes."""
    return RunConfig.from_dict({"policy": {"hidden": [256, 256], "batch_size": 256, "updates": 1_000_000}})


def dmsd_config(layers: int) -> RunConfig:
    """Rollouts as DMSD's run makes them, a policy of 256 x 256."""
    return RunConfig.from_dict(
        {
            "dynamics": {"members": 7, "elites": 5, "hidden": [200] * layers},
            "reward": {"hidden": [64, 64]},
            "rollout": {"length": 100, "starts": 1000, "keep": 2},
        }
    )


def _updates(out: Path, methods: Sequence[str], seeds: int, threads: int, progress: Progress) -> list[dict[str, Any]]:
    config = sac_config()
    rates: dict[str, list[float]] = {name: [] for name in ("controlkit", "d3rlpy") if name in methods}
    settings = {
        "observations": SAC.states,
        "actions": SAC.actions,
        "batch": config.policy.batch_size,
        "hidden": list(config.policy.hidden),
        "threads": threads,
    }
    work = Workload(SAC, config, 1)
    work.fill(100_000)

    def ours() -> float:
        return work.timed(lambda: work.blocks.run(UPDATES))

    rounds = 3 * seeds
    progress.start("policy updates", rounds + 1)
    if "d3rlpy" not in methods:
        _alternate({"controlkit": ours}, rates, rounds, progress)
    else:
        script = Path(__file__).with_name("peer_sac.py")
        with Peer(peer_python(out / "peer"), script, settings) as peer:

            def theirs() -> float:
                return float(peer.ask({"updates": UPDATES})["seconds"])

            contenders = {"controlkit": ours, "d3rlpy": theirs}
            _alternate({name: contenders[name] for name in rates}, rates, rounds, progress)
    found = [_figure("sac", name, "sac_updates_per_s", values, seeds) for name, values in rates.items()]
    if len(rates) == 2:
        ratios = [mine / peer for mine, peer in zip(rates["controlkit"], rates["d3rlpy"], strict=True)]
        found.append(_figure("sac", f"controlkit / d3rlpy {D3RLPY}", "ratio", ratios, seeds))
    return found


def _alternate(
    contenders: dict[str, Callable[[], float]], rates: dict[str, list[float]], rounds: int, progress: Progress
) -> None:
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            rate = UPDATES / contender()
            if number:  # the first round only warms up
                rates[name].append(rate)
        progress.advance()


def _rollouts(layers: int, seeds: int, progress: Progress) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {"filtered": [], "unfiltered": []}
    progress.start(f"rollouts, {layers} x 200", seeds)
    for seed in range(seeds):
        work = Workload(DMSD, dmsd_config(layers), 1, seed)
        rollers = {"filtered": work.roller(candidates()), "unfiltered": work.roller(UNFILTERED)}
        for number in range(4):
            for name, roller in rollers.items():
                rate = work.transitions_per_s(roller)
                if number:  # the first round only warms up
                    rates[name].append(rate)
        progress.advance()
    task = f"dmsd {layers}x200"
    return [_figure(task, "controlkit", f"{name}_transitions_per_s", values, seeds) for name, values in rates.items()]


def _ingest(folder: Path, task: str, method: str, seeds: int, progress: Progress) -> list[dict[str, Any]]:
    found = ingest_speed.measure_ingest(folder, task, method, seeds, progress)
    return [_figure(task, method, metric, values, seeds) for metric, values in found.items()]


def _online(seeds: int, progress: Progress) -> list[dict[str, Any]]:
    progress.start("online alignment", 1)
    found = ingest_speed.measure_online(rounds=3 * seeds)
    progress.advance()
    return [_figure("online", "controlkit", "online_us_per_sample", found, seeds)]


def _gpu(judges: int, progress: Progress) -> list[dict[str, Any]]:
    found = measure_gpu(judges, GPU_SECONDS, progress)
    task = f"halfcheetah, {judges} judge{'s' if judges > 1 else ''}"
    figures = {
        "sac_updates_per_s": found.updates_per_s,
        "filtered_transitions_per_s": found.transitions_per_s,
        "epoch_s": found.epoch_s,
        "projected_minutes": found.projected_minutes,
        "memory_gib": found.memory_gib,
    }
    return [_figure(task, "gpu", name, [value], 1) for name, value in figures.items()]


def _figure(task: str, method: str, metric: str, values: Sequence[float], seeds: int) -> dict[str, Any]:
    spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {
        "suite": SUITE,
        "task": task,
        "method": method,
        "metric": metric,
        "value": statistics.median(values),
        "stderr": spread,
        "seeds": seeds,
        "episodes": len(values),
        "data_sha256": "",
    }


def _machine(part: str) -> str:
    return f"{machine()}, {torch.cuda.get_device_name()}" if part.startswith("gpu") else machine()
