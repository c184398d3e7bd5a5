"""B copies of a plant under the exported controller's eyes, step by step: in SHADOW or with its own action.

SHADOW: the operator acts (or the log is replayed) and the echo is the operator's command. Closed loop: the controller's
action goes on the plant. The graph is stepped in torch, for all copies at once: the export gates hold it equal to the
ONNX file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from controlkit.benchmarks.detection_faults import Injector, Readings
from controlkit.benchmarks.detection_sources import ChangedStep
from deploy.export.graph import ControllerGraph, GraphInputs, GraphOutputs
from envs.simulation import Controller, Floats, VectorSimulator

# Steps from which a run is worth the seconds that tracing takes.
WORTH_TRACING = 200


@dataclass(frozen=True)
class Trace:
    """T periods of B copies.

    Attributes:
        flags: (T, B, F) of the graph; names: of the F flags.
        trust: (T, B) share of the policy.
        ewma, cusum: (T, B) the running sums in the graph's state.
        shortfall: (T, B) of the observed transition, standardised; NaN where it could not be scored.
        frames: (T, B, n) what the plant's sensors showed before any fault of theirs.
        commands: (T, B, m) the commands in force when a period began, as echoed; NaN where not known.
    """

    names: tuple[str, ...]
    flags: npt.NDArray[np.bool_]
    trust: npt.NDArray[np.float32]
    ewma: npt.NDArray[np.float32]
    cusum: npt.NDArray[np.float32]
    shortfall: npt.NDArray[np.float32]
    frames: Floats
    commands: Floats

    def up(self, *names: str) -> npt.NDArray[np.bool_]:
        """(T, B) where any of these flags is raised."""
        found: npt.NDArray[np.bool_] = np.any(self.flags[..., [self.names.index(name) for name in names]], axis=-1)
        return found

    @property
    def full(self) -> npt.NDArray[np.bool_]:
        """(T, B) periods from the first one on in which history was full."""
        return np.logical_or.accumulate(~self.up("history_filling"), axis=0)


@dataclass(frozen=True)
class Lane:
    """Copies of a plant that share a fault.

    Attributes:
        simulator: the plant, B copies.
        operator: acts, in SHADOW; the controller itself does where there is none.
        injector: puts the fault between plant and controller.
        changed: the plant's step with changed dynamics, for a fault of that kind.
        noise: (n,) standard deviation that the sensors add to what the simulator shows.
        seed: of that noise.
    """

    simulator: VectorSimulator
    operator: Controller | None
    injector: Injector
    changed: ChangedStep | None = None
    noise: Floats | None = None
    seed: int = 0


class _Running:
    """A lane on its way: what its sensors show, what its plant echoes."""

    def __init__(self, lane: Lane, safe: Floats) -> None:
        self.lane, self._rng = lane, np.random.default_rng(lane.seed)
        self.frame = self._measured(lane.simulator.reset())
        # The safe values are in force before a closed loop begins; what an operator did before is not known.
        before = safe if lane.operator is None else np.full_like(safe, np.nan)
        self.echo = np.tile(before, (len(self.frame), 1))
        if lane.operator is not None:
            lane.operator.reset(len(self.frame))

    def sense(self, time: int) -> Readings:
        """What is read in this period."""
        self.read = self.lane.injector.sense(time, self.frame)
        return self.read

    def move(self, time: int, action: Floats) -> None:
        """One period on, by the operator's command where there is an operator; it reads the same sensors."""
        lane, fault = self.lane, self.lane.injector.fault
        wanted = action if lane.operator is None else lane.operator.act(self.read.frame)
        carried_out, self.echo = lane.injector.actuate(time, wanted)
        if fault is not None and fault.kind == "dynamics" and lane.changed is not None:
            shown = lane.changed(lane.simulator, carried_out, fault.size, lane.injector.active(time))
        else:
            shown = lane.simulator.step(carried_out)
        self.frame = self._measured(shown)

    def _measured(self, frame: Floats) -> Floats:
        if self.lane.noise is None:
            return frame
        measured: Floats = frame + self.lane.noise * self._rng.standard_normal(frame.shape)
        return measured


@torch.no_grad()
def watch(graph: ControllerGraph, lanes: Sequence[Lane], steps: int, *, judged: bool = False) -> list[Trace]:
    """Runs plants under the controller's eyes from a cold start, all lanes in one batch.

    Args:
        graph: the controller.
        lanes: as they are; each gives a trace.
        steps: T.
        judged: whether to work out the shortfalls; NaN where not.
    """
    running = [_Running(lane, graph.fallback.safe.numpy().astype(np.float64)) for lane in lanes]
    edges = np.cumsum([0, *(len(each.frame) for each in running)]).tolist()
    state = torch.zeros(edges[-1], graph.state_layout.size)
    one, period = torch.ones(len(state), 1), torch.full((len(state), 1), graph.period)
    at = {name: graph.state_layout.groups[name][0] for name in ("trust", "ewma", "cusum")}
    rows: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("flags", *at, "shortfall", "frames", "commands")}
    step: Callable[..., tuple[torch.Tensor, ...]] = _JudgedStep(graph, judged)
    for time in range(steps):
        reads = [each.sense(time) for each in running]
        echo = np.concatenate([each.echo for each in running])
        inputs = GraphInputs(
            obs=_tensor(np.concatenate([read.frame for read in reads])),
            obs_ok=_tensor(np.concatenate([read.ok for read in reads])),
            obs_age=_tensor(np.concatenate([read.age_s for read in reads])),
            act_prev=_tensor(echo),
            enable=one,
            dt=period,
            state_in=state,
        )
        if time == 0 and steps >= WORTH_TRACING:
            step = _traced(_JudgedStep(graph, judged), inputs)
        *ports, shortfall = step(*inputs)
        out = GraphOutputs(*ports)
        rows["flags"].append(out.flags.numpy() > 0.5)
        rows["frames"].append(np.concatenate([each.frame for each in running]))
        rows["commands"].append(echo)
        rows["shortfall"].append(shortfall.numpy())
        state = out.state_out
        for name, column in at.items():
            rows[name].append(state[:, column].numpy())
        if time < steps - 1:
            action = out.action.numpy().astype(np.float64)
            for each, (a, b) in zip(running, pairwise(edges), strict=True):
                each.move(time, action[a:b])
    columns = {name: np.stack(values) for name, values in rows.items()}
    return [
        Trace(graph.flag_names, **{name: values[:, a:b] for name, values in columns.items()})
        for a, b in pairwise(edges)
    ]


class _JudgedStep(nn.Module):
    """The graph's step and, where it is asked for, the shortfall (B,) that it judged: NaN where there was none.

    The graph shows the observed reward but not the evidence, which it is judged by; it is worked out again here from
    the same networks.
    """

    def __init__(self, graph: ControllerGraph, judged: bool) -> None:
        super().__init__()
        self.graph, self.judged = graph, judged

    def forward(self, *ports: torch.Tensor) -> tuple[torch.Tensor, ...]:
        graph, inputs = self.graph, GraphInputs(*ports)
        out = graph(*inputs)
        if not self.judged:
            return *out, torch.full_like(out.flags[:, 0], torch.nan)
        a, b = graph.state_layout.groups["observation"]
        last, now = inputs.state_in[:, a:b], out.state_out[:, a:b]
        seen = now.index_select(-1, graph.sensing.state_columns)
        scored = out.flags[:, [graph.flag_names.index("observed_unscored")]] < 0.5
        # Where nothing was scored the echo may be no number; its result is thrown away below.
        command = torch.where(torch.isfinite(inputs.act_prev), inputs.act_prev, torch.zeros_like(inputs.act_prev))
        _, hoped = graph.judge.score(last, command, graph.judge.expect(last, command).deviation)
        _, found = graph.judge.score_of(last, command, seen)
        shortfall = (hoped - found - graph.thresholds.shortfall_mean) / graph.thresholds.shortfall_std
        return *out, torch.where(scored, shortfall, torch.nan).squeeze(-1)


def _traced(step: _JudgedStep, ports: GraphInputs) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The same step without Python between its operators, for batches of this size: less than half of the time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is fixed by tracing are sizes, and these do not change
        traced: Callable[..., tuple[torch.Tensor, ...]] = torch.jit.freeze(
            torch.jit.trace(step.eval(), tuple(ports), check_trace=False)
        )
    return traced


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
