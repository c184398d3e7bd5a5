"""Inputs for the gates: steps of a recorded closed loop, random steps, and corrupted ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from controlkit.dataset import TransitionDataset
from deploy.bundle.manifest import INPUTS, SHIFT, STRETCH
from deploy.export.graph import ControllerGraph, GraphInputs

STREAMS = 64
# Share of a span by which random values may lie outside it.
BEYOND = 0.02
# What a broken sensor, driver or memory may hold.
WEIRD = np.array(
    [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, -1e30, 1e9, 1e-45, -1e-45, 1e-38, -0.0, 0.0, 1.0, -1.0, 0.5],
    dtype=np.float32,
)


def recorded_inputs(
    graph: ControllerGraph, data: TransitionDataset, count: int, generator: torch.Generator
) -> GraphInputs:
    """`count` steps of the graph along the log, from cold starts: recorded samples and commands, carried state.

    A twentieth of the samples lack quality or are too old, a tenth of the steps are disabled; the rest is healthy. In
    every second stream the edge has moved the observed checks.
    """
    spec, n = data.spec, len(data.layout.frame_tags)
    steps = -(-count // STREAMS)
    last = max(len(data) - steps - 1, 1)
    starts = torch.randint(last, (STREAMS,), generator=generator).numpy()
    state = torch.zeros(STREAMS, graph.state_layout.size)
    for name in (SHIFT, STRETCH):
        slot, _ = graph.state_layout.groups[name]
        low, high = float(graph.state_layout.low[slot]), float(graph.state_layout.high[slot])
        state[::2, slot] = low + (high - low) * torch.rand(STREAMS // 2, generator=generator)
    collected: list[GraphInputs] = []
    with torch.no_grad():
        for index in range(steps):
            rows = np.minimum(starts + index, len(data) - 1)
            draw = torch.rand(STREAMS, 2 * n + 1, generator=generator)
            stale = torch.where(draw[:, n : 2 * n] < 0.025, 100.0 * spec.period_s, torch.from_numpy(data.age_s[rows]))
            inputs = GraphInputs(
                obs=torch.from_numpy(data.frames[rows]),
                obs_ok=torch.where(draw[:, :n] < 0.025, 0.0, torch.from_numpy(data.mask[rows].astype(np.float32))),
                obs_age=stale,
                act_prev=torch.from_numpy(data.actions[np.maximum(rows - 1, 0)]),
                enable=torch.where(draw[:, 2 * n :] < 0.1, 0.0, 1.0),
                dt=torch.full((STREAMS, 1), spec.period_s),
                state_in=state,
            )
            collected.append(inputs)
            state = graph(*inputs).state_out
    return _first([torch.cat(column) for column in zip(*collected, strict=True)], count)


def random_inputs(
    graph: ControllerGraph, data: TransitionDataset, count: int, generator: torch.Generator
) -> GraphInputs:
    """`count` steps from anywhere in the tags' ranges and a little beyond, with states full of whatever fits."""
    spec, layout, size = data.spec, data.layout, graph.state_layout
    low, high = torch.from_numpy(size.low), torch.from_numpy(size.high)

    def uniform(low: torch.Tensor, high: torch.Tensor, beyond: float = 0.0) -> torch.Tensor:
        share = torch.rand(count, len(low), generator=generator) * (1.0 + 2.0 * beyond) - beyond
        return low + (high - low) * share

    n = len(layout.frame_tags)
    state = uniform(low, high)
    part = {name: state[:, a:b] for name, (a, b) in size.groups.items()}
    # Mostly states in which the policy may act; counts and bits are whole numbers.
    part["observation"][:] = uniform(torch.from_numpy(layout.low), torch.from_numpy(layout.high))
    part["command"][:] = uniform(graph.commands.low, graph.commands.high)
    for name, limit in (("samples", graph.needed_samples), ("commands", graph.needed_commands)):
        part[name][:] = torch.where(torch.rand(count, 1, generator=generator) < 0.8, float(limit), part[name].floor())
    for name in ("full", "known", "command_known", "error_known"):
        part[name][:] = (torch.rand(part[name].shape, generator=generator) < 0.9).float()
    part["age"][:] = spec.period_s * 5.0 * torch.rand(part["age"].shape, generator=generator).square()
    part["repeats"][:] = torch.floor(30.0 * torch.rand(part["repeats"].shape, generator=generator).square())
    part["trust"][:] = torch.rand(count, 1, generator=generator) * 1.5
    part["trust"].clamp_(max=1.0)
    limits = graph.thresholds
    part["ewma"][:] = 1.3 * limits.ewma_limit * torch.rand(count, 1, generator=generator)
    part["cusum"][:] = 1.3 * limits.cusum_limit * torch.rand(count, 1, generator=generator)
    # Every second edge has learned nothing of its own.
    learned = torch.rand(count, 1, generator=generator) < 0.5
    for name in (SHIFT, STRETCH):
        part[name][:] = torch.where(learned, part[name], 0.0)
    return GraphInputs(
        obs=uniform(torch.from_numpy(layout.low[:n]), torch.from_numpy(layout.high[:n]), BEYOND),
        obs_ok=(torch.rand(count, n, generator=generator) < 0.97).float(),
        obs_age=spec.period_s * 2.0 * torch.rand(count, n, generator=generator),
        act_prev=uniform(graph.commands.low, graph.commands.high, BEYOND),
        enable=(torch.rand(count, 1, generator=generator) < 0.95).float(),
        dt=spec.period_s * (0.45 + 1.1 * torch.rand(count, 1, generator=generator)),
        state_in=state,
    )


def corrupted_inputs(inputs: GraphInputs, generator: torch.Generator) -> GraphInputs:
    """The same steps with weird numbers in a few places of any port, or (one row in ten) nearly everywhere."""
    sizes = [getattr(inputs, name).shape[1] for name in INPUTS]
    table = torch.cat(list(inputs), dim=-1).clone()  # (B, all ports)
    rows, width = table.shape
    share = torch.where(torch.rand(rows, 1, generator=generator) < 0.1, 0.9, 2.0 / width)
    # Ports are of very different widths: half of the rows get one hit in a port drawn evenly.
    hit = torch.rand(rows, width, generator=generator) < share
    edges = np.concatenate([[0], np.cumsum(sizes)])
    port = torch.randint(len(sizes), (rows,), generator=generator).numpy()
    chosen = edges[port] + (torch.rand(rows, generator=generator).numpy() * (edges[port + 1] - edges[port])).astype(int)
    single = torch.rand(rows, generator=generator) < 0.5
    hit[torch.arange(rows)[single], torch.from_numpy(chosen)[single]] = True
    weird = torch.from_numpy(WEIRD)[torch.randint(len(WEIRD), (rows, width), generator=generator)]
    table = torch.where(hit, weird, table)
    return GraphInputs(*(table[:, a:b].contiguous() for a, b in pairwise(edges.tolist())))


def joined(parts: list[GraphInputs]) -> GraphInputs:
    """Several batches as one."""
    return GraphInputs(*(torch.cat(column).contiguous() for column in zip(*parts, strict=True)))


def _first(columns: list[torch.Tensor], count: int) -> GraphInputs:
    return GraphInputs(*(column[:count].contiguous() for column in columns))


def plain(inputs: GraphInputs, row: int) -> dict[str, tuple[float, ...]]:
    """One row as plain numbers, for a golden vector."""
    return {name: tuple(_numbers(getattr(inputs, name)[row])) for name in INPUTS}


def _numbers(values: torch.Tensor | npt.NDArray[Any]) -> list[float]:
    return [float(value) for value in values]
