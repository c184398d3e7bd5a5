"""The gates between a trained run and a bundle: parity with torch, a second runtime, and inputs from hell."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from controlkit.errors import GateError
from controlkit.spec import PlantSpec
from deploy.bundle.manifest import INPUTS, OUTPUTS, GoldenVector
from deploy.bundle.verify import ACTION_TOLERANCE, tolerance
from deploy.export.graph import ControllerGraph, GraphInputs
from deploy.export.onnx_export import ReferenceRuntime, feed_of
from deploy.export.samples import plain

# Flags may differ only where something computed lies this close (relatively) to the threshold it is checked by.
FLAG_TOLERANCE = 1e-5
GOLDEN_MARGIN = 1e-4
CHUNK = 2048
MAX_WORKERS = 4
# Flags that only tell of a cut: the command is the same on either side of their thresholds.
TELLING = ("clamped", "rate_limited")
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """Comparison with torch: inputs, largest difference of an action in spans, inputs whose flags differ."""

    inputs: int
    max_diff: float
    flags_differ: int


def run_all(session: Any, inputs: GraphInputs) -> dict[str, Floats]:
    """The outputs of a runtime, row by row: port -> (B, size). onnxruntime's `run` may be called from several
    threads."""
    columns = {name: getattr(inputs, name).numpy() for name in INPUTS}
    workers = 1 if isinstance(session, ReferenceRuntime) else min(os.cpu_count() or 1, MAX_WORKERS)

    def some(rows: npt.NDArray[np.int64]) -> list[Any]:
        return [session.run(None, {name: x[row : row + 1] for name, x in columns.items()}) for row in rows.tolist()]

    # One share of the rows for each worker: handing them over one by one takes longer than the graph itself.
    with ThreadPoolExecutor(workers) as pool:
        shares = pool.map(some, np.array_split(np.arange(len(inputs.obs)), workers))
        rows = [row for share in shares for row in share]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(OUTPUTS)}


def check_parity(graph: ControllerGraph, session: Any, inputs: GraphInputs, runtime: str) -> Parity:
    """Gate: a runtime gives what torch gives.

    Actions are compared by their spans, all else as golden vectors are. An input at which something computed lies
    within `FLAG_TOLERANCE` of a threshold may fall on the other side of it; it is counted, and its numbers are not
    compared unless the flag only tells of a cut.

    Raises:
        GateError: an action differs by more than `ACTION_TOLERANCE` of its span, another output by more than a golden
            vector's may, or a flag away from a threshold.
    """
    ours = run_all(session, inputs)
    worst, differing = 0.0, 0
    others = {
        name: slots for name, slots in graph.output_slots.items() if name != "flags" and not name.startswith("action")
    }
    span = graph.commands.span.numpy()
    for start in range(0, len(inputs.obs), CHUNK):
        part = GraphInputs(*(column[start : start + CHUNK] for column in inputs))
        with torch.no_grad():
            expected, margin = graph.with_margins(part)
        rows = slice(start, start + len(part.obs))
        other = (ours["flags"][rows] != expected.flags.numpy()).any(axis=1)
        unexplained = other & ~(margin.numpy() <= FLAG_TOLERANCE)
        if unexplained.any():
            row = int(np.flatnonzero(unexplained)[0])
            different = np.flatnonzero(ours["flags"][rows][row] != expected.flags[row].numpy())
            names = ", ".join(graph.flag_names[i] for i in different)
            raise GateError(f"{runtime}: the flags {names} differ from torch's at input {start + row}")
        differing += int(other.sum())
        deciding = [i for i, name in enumerate(graph.flag_names) if name not in TELLING]
        elsewhere = (ours["flags"][rows] != expected.flags.numpy())[:, deciding].any(axis=1)
        for name in ("action", "action_policy", "action_fallback"):
            share = np.abs(ours[name][rows] - getattr(expected, name).numpy())[~elsewhere] / span
            worst = max(worst, float(share.max(initial=0.0)))
        if not worst <= ACTION_TOLERANCE:
            raise GateError(f"{runtime}: an action differs from torch's by {worst:.2e} of its span")
        for name, slots in others.items():
            theirs = getattr(expected, name).numpy().astype(np.float64)[~elsewhere]
            allowed = tolerance(theirs, slots, graph.thresholds.shortfall_std)
            far = ~(np.abs(ours[name][rows][~elsewhere] - theirs) <= allowed)
            if far.any():
                slot = slots[int(np.flatnonzero(far.any(axis=0))[0])].name
                raise GateError(f"{runtime}: '{slot}' of the output '{name}' differs from torch's")
    return Parity(len(inputs.obs), worst, differing)


def check_fuzz(graph: ControllerGraph, spec: PlantSpec, session: Any, inputs: GraphInputs) -> int:
    """Gate: whatever comes in, what goes out is safe. Checked in double precision against the plant file itself.

    Returns:
        The number of inputs that were survived.

    Raises:
        GateError: an output that is no number, an action outside its absolute limits or, with a valid reference (the
            echo, else the last command in the state), beyond its rate, a flag that is neither 0 nor 1, or a state that
            the graph itself would refuse.
    """
    out = run_all(session, inputs)
    low, high = np.array([spec.limits(tag) for tag in spec.action_tags], dtype=np.float64).T
    rates = [spec.tags[tag].max_rate_per_s for tag in spec.action_tags]
    # A step that came early allows a part of the period's change; one at no time, or late, no more than all of it.
    dt = inputs.dt.numpy().astype(np.float64)
    seconds = np.where((dt >= 0.0) & (dt <= spec.period_s), dt, spec.period_s)  # (B, 1)
    step = np.where([rate is None for rate in rates], np.inf, seconds * [rate or 0.0 for rate in rates])
    before, valid = _references(graph, inputs, low, high)
    reasons: list[tuple[str, Any]] = [
        (f"'{name}' is no number", ~np.isfinite(values).all(axis=1)) for name, values in out.items()
    ]
    for name in ("action", "action_policy", "action_fallback"):
        action = out[name].astype(np.float64)
        inside = (action >= low) & (action <= high)
        reasons.append((f"'{name}' is outside its limits", ~inside.all(axis=1)))
        near = (np.abs(action - np.where(valid, before, action)) <= step).all(axis=1)
        reasons.append((f"'{name}' is beyond its rate", ~near))
    reasons.append(("a flag is neither 0 nor 1", ~np.isin(out["flags"], (0.0, 1.0)).all(axis=1)))
    state = out["state_out"]
    kept = (state >= graph.state_layout.low) & (state <= graph.state_layout.high)
    reasons.append(("the state handed on would be refused", ~kept.all(axis=1)))
    for what, bad in reasons:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            seen = {name: feed_of(inputs, row)[name][0].tolist() for name in INPUTS if name != "state_in"}
            raise GateError(f"corrupted input {row}: {what}", where=str(seen))
    return len(inputs.obs)


def _references(graph: ControllerGraph, inputs: GraphInputs, low: Any, high: Any) -> tuple[Any, Any]:
    """The command that each step's rate counts from, and whether there is one: (B, m), (B, 1)."""
    echo, state = inputs.act_prev.numpy().astype(np.float64), inputs.state_in.numpy()
    first, last = graph.state_layout.groups["command"]
    issued = state[:, first:last].astype(np.float64)
    ours = ((state >= graph.state_layout.low) & (state <= graph.state_layout.high)).all(axis=1, keepdims=True)
    known = ours & (state[:, graph.state_layout.groups["command_known"][0]] >= 0.5)[:, None]
    echoed, remembered = (
        ((command >= low) & (command <= high)).all(axis=1, keepdims=True) for command in (echo, issued)
    )
    return np.where(echoed, echo, issued), echoed | (known & remembered)


def golden_vectors(graph: ControllerGraph, session: Any, inputs: GraphInputs, count: int) -> tuple[GoldenVector, ...]:
    """Steps with the outputs of onnxruntime, far enough from every threshold that another processor must give the same.

    Args:
        inputs: to choose from, in order; states that a flag distinguishes are preferred over more of the same.
        count: at most.

    Raises:
        GateError: every input lies near a threshold.
    """
    with torch.no_grad():
        outputs, margin = graph.with_margins(inputs)
    # Where the log has a gap, a command is no number, which a manifest cannot hold.
    whole = torch.cat(list(inputs), dim=1).isfinite().all(dim=1)
    clear = np.flatnonzero(((margin >= GOLDEN_MARGIN) & whole).numpy())
    if not clear.size:
        cure = (
            "As a rule the dynamics reward says nearly the same of every step: train it longer (reward.updates, "
            "reward.distil_updates)."
        )
        raise GateError("no step lies clear of every threshold", where="golden vectors", cure=cure)
    patterns = outputs.flags.numpy()[clear]
    _, first = np.unique(patterns, axis=0, return_index=True)
    rest = np.setdiff1d(np.arange(len(clear)), first)
    rows = clear[np.concatenate([np.sort(first), rest])][:count]
    chosen = GraphInputs(*(column[torch.from_numpy(rows)] for column in inputs))
    out = run_all(session, chosen)
    return tuple(
        GoldenVector(
            inputs=plain(chosen, row),
            outputs={name: tuple(float(value) for value in out[name][row]) for name in OUTPUTS},
        )
        for row in range(len(rows))
    )
