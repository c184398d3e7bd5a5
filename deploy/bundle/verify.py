"""`verify`: everything that can be checked about a bundle without its plant, one line a check."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ArtifactError, ControlkitError
from deploy.bundle.manifest import INPUTS, OUTPUTS, SHORTFALL, Manifest, SlotRecord
from deploy.bundle.store import Bundle, load_bundle

# Share of an action's span by which another processor's arithmetic may differ; see the export gate on parity.
ACTION_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-3
EVIDENCE_SLOTS = (SHORTFALL, "ewma", "cusum")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, whether it holds, what was seen."""

    name: str
    ok: bool
    detail: str


def verify_bundle(path: str | Path, public_key: Path | None = None) -> list[Check]:
    """Checks signature, hashes, tables, graph and golden vectors; stops at the first that fails.

    Args:
        path: the bundle.
        public_key: PEM file of the key that must have signed it.

    Returns:
        The checks in order; the bundle is good if all are ok.
    """
    return examine_bundle(path, public_key)[0]


def examine_bundle(path: str | Path, public_key: Path | None = None) -> tuple[list[Check], Bundle | None]:
    """As `verify_bundle`, with the bundle that was checked; `None` where it cannot be read."""
    try:
        bundle = load_bundle(path, public_key)
    except ControlkitError as problem:
        return [Check("files, hashes, signature", False, str(problem))], None
    manifest = bundle.manifest
    if bundle.trusted:
        signature = f"signed by the given key {manifest.signer}"
    elif manifest.signer:
        signature = f"signed by {manifest.signer}; give --public-key to check whose that is"
    else:
        signature = "not signed"
    checks = [
        Check("files and hashes", True, f"{len(bundle.model)} bytes, SHA-256 {manifest.model.sha256}"),
        Check("signature", True, signature),
        Check("manifest", True, f"schema {manifest.schema_version}, plant '{manifest.plant}', {manifest.period_s:g} s"),
        Check("verdict", True, _verdict(manifest)),
    ]
    try:
        session = open_session(bundle)
    except ArtifactError as problem:
        return [*checks, Check("graph", False, str(problem))], bundle
    checks.append(Check("graph", True, f"{len(INPUTS)} inputs, {len(OUTPUTS)} outputs as described"))
    worst, failures = _golden(session, manifest)
    detail = f"{len(manifest.golden)} steps, largest difference {worst:.1e} of the span"
    checks.append(Check("golden vectors", not failures, failures[0] if failures else detail))
    return checks, bundle


def open_session(bundle: Bundle) -> Any:
    """The graph in onnxruntime: one thread, no spinning, ports as the manifest describes them.

    Raises:
        ArtifactError: onnxruntime refuses the graph, or its ports are others.
    """
    return open_graph(
        bundle.model,
        {port: len(slots) for port, slots in bundle.manifest.inputs.items()},
        {port: len(slots) for port, slots in bundle.manifest.outputs.items()},
        str(bundle.path),
    )


def open_graph(model: bytes, inputs: dict[str, int], outputs: dict[str, int], where: str) -> Any:
    """See `open_session`; from bytes, and nothing else: weights in another file are not looked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False  # which pays where sizes change from run to run, and costs where they do not
    for pool in ("intra", "inter"):
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    # A graph from bytes may name files in the working directory; nothing lies under the null device.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # noqa: BLE001 (onnxruntime raises a dozen kinds, none of them documented)
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ArtifactError(f"the graph does not load ({first[:120]})", where=where, cure="Export it again.") from None
    for ports, found in ((inputs, session.get_inputs()), (outputs, session.get_outputs())):
        seen = {port.name: (port.type, list(port.shape)) for port in found}
        if seen != {name: ("tensor(float)", [1, size]) for name, size in ports.items()}:
            raise ArtifactError("the graph's ports are not the manifest's", where=where, cure="Export it again.")
    return session


def tolerance(expected: Floats, slots: Sequence[SlotRecord], shortfall_std: float) -> Floats:
    """What numbers that are neither actions nor flags may differ by on another processor.

    Shortfalls and their sums are evidence over its standard deviation, and so is their rounding.

    Args:
        expected: (..., size) of a port.
        slots: its `size` slots.
        shortfall_std: of the thresholds.
    """
    scale = np.maximum(np.abs(expected), 1.0)
    evidence = np.array([slot.name in EVIDENCE_SLOTS for slot in slots])
    allowed: Floats = RELATIVE_TOLERANCE * np.where(evidence, np.maximum(scale, 1.0 / shortfall_std), scale)
    return allowed


def _golden(session: Any, manifest: Manifest) -> tuple[float, list[str]]:
    """Largest difference of an action as a share of its span, and what failed."""
    span = np.array([command.high - command.low for command in manifest.commands])
    worst, failures = 0.0, []
    for number, vector in enumerate(manifest.golden):
        feed = {name: np.array([vector.inputs[name]], dtype=np.float32) for name in INPUTS}
        found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), feed), strict=True))
        for name in OUTPUTS:
            expected, got = np.array(vector.outputs[name]), np.asarray(found[name][0], dtype=np.float64)
            if name.startswith("action"):
                share = float(np.max(np.abs(got - expected) / span))
                worst, wrong = max(worst, share), not share <= ACTION_TOLERANCE
            elif name == "flags":
                wrong = not np.array_equal(got, expected)
            else:
                allowed = tolerance(expected, manifest.outputs[name], manifest.thresholds.shortfall_std)
                wrong = not bool((np.abs(got - expected) <= allowed).all())
            if wrong:
                failures.append(f"step {number}: output '{name}' differs from what was recorded")
    return worst, failures


def _verdict(manifest: Manifest) -> str:
    evaluation = manifest.evaluation
    return (
        evaluation.verdict if evaluation.override is None else f"{evaluation.verdict}; override: {evaluation.override}"
    )
