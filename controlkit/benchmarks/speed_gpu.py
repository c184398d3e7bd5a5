"""The paper's full setting on a GPU: epochs of 1000 updates and 2000 rollouts of 100 steps, measured for some minutes
and projected to its 3 million updates."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from controlkit.benchmarks.workload import Sizes, Workload
from controlkit.config import FilterConfig, RunConfig
from controlkit.errors import ControlkitError
from controlkit.progress import Progress

# HalfCheetah of NeoRL: 18 observed numbers, 6 commands.
HALF_CHEETAH = Sizes(states=18, exogenous=0, actions=6)
SNAPSHOTS = 40
WARM_EPOCHS = 2


@dataclass(frozen=True)
class GpuSpeed:
    """Of a device: updates and transitions per second, each alone; seconds of a whole epoch; and the minutes that all
    epochs would take."""

    updates_per_s: float
    transitions_per_s: float
    epoch_s: float
    projected_minutes: float
    seconds: float
    epochs: int
    memory_gib: float


def paper_config(*, tf32: bool = False, graphs: bool = True, device: str = "cuda") -> RunConfig:
    """The sizes of the published experiments (arXiv 2310.05422); the discriminators are about as wide as its encoder
    and head together."""
    return RunConfig.from_dict(
        {
            "device": device,
            "tf32": tf32,
            "cuda_graphs": graphs,
            "dynamics": {"members": 7, "elites": 5, "hidden": [200, 200, 200, 200], "activation": "silu"},
            "reward": {"hidden": [128, 256, 256], "activation": "silu"},
            "policy": {"hidden": [256, 256], "batch_size": 256, "updates": 3_000_000, "real_ratio": 0.05},
            "rollout": {"length": 100, "starts": 2000, "every": 1000, "keep": 5},
        }
    )


def candidates() -> FilterConfig:
    """Two samples of each of five elites, as published."""
    return FilterConfig(samples=2, member_means=False, ensemble_mean=False)


def measure_gpu(judges: int, seconds: float, progress: Progress, *, tf32: bool = False) -> GpuSpeed:
    """Runs whole epochs for `seconds` at least.

    Args:
        judges: discriminators that judge each candidate: 40 snapshots, or 1 where they are distilled.
        seconds: how long.
        progress: epochs.
        tf32: TensorFloat-32 in matrix products.

    Raises:
        ControlkitError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ControlkitError("there is no GPU here", where="benchmark speed", cure="Leave gpu out of --methods.")
    config = paper_config(tf32=tf32)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    work = Workload(HALF_CHEETAH, config, judges)
    roller = work.roller(candidates())
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_EPOCHS):  # libraries set up, graphs recorded
        work.roll(roller)
        work.blocks.run(config.rollout.every)
    rolling: list[float] = []
    updating: list[float] = []
    progress.start(f"gpu, {judges} judges", 1 + round(seconds))
    work.timed(lambda: None)
    began = time.perf_counter()
    while not updating or time.perf_counter() - began < seconds:
        rolling.append(work.transitions_per_s(roller))
        updating.append(config.rollout.every / work.timed(lambda: work.blocks.run(config.rollout.every)))
        progress.advance(note=f"{updating[-1]:.0f} updates/s, {rolling[-1]:.0f} transitions/s")
    elapsed = time.perf_counter() - began
    epochs = len(updating)
    return GpuSpeed(
        updates_per_s=statistics.median(updating),
        transitions_per_s=statistics.median(rolling),
        epoch_s=elapsed / epochs,
        projected_minutes=elapsed / epochs * config.policy.updates / config.rollout.every / 60.0,
        seconds=elapsed,
        epochs=epochs,
        memory_gib=torch.cuda.max_memory_allocated() / 2**30,
    )
